//! `px check`: every error of every file at once; 1 when anything is refused, warnings are not.

use serde_json::Value;

use crate::{DISPATCH, Site, data, px};

#[test]
fn each_bad_directory_is_refused_with_all_its_findings() {
    let mut count = 0;
    for entry in std::fs::read_dir(data("bad")).unwrap() {
        let root = entry.unwrap().path();
        let said = px(&root, &["check"]);
        assert_eq!(said.code, 1, "{}: {said:?}", root.display());
        let etc = format!("{}/", root.join("etc").display());
        let (warnings, errors) = (said.out.replace(&etc, ""), said.err.replace(&etc, ""));
        for line in std::fs::read_to_string(root.join("findings")).unwrap().lines() {
            let stream = if line.contains(": warning: ") {
                &warnings
            } else {
                &errors
            };
            assert!(stream.lines().any(|said| said == line), "{line}\n{stream}");
        }
        count += 1;
    }
    assert!(count >= 8);
}

#[test]
fn what_later_versions_serve_is_a_warning_and_not_an_error() {
    let said = px(&data("unserved"), &["check"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert_eq!(
        said.out.matches("warning: not served by this version\n").count(),
        3,
        "{said:?}"
    );
}

#[test]
fn a_good_site_is_silent() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    assert_eq!(site.run_ok(&["check"]), "");
    assert_eq!(site.run_ok(&["check", "--json"]), "[]\n");
}

#[test]
fn errors_of_components_are_told_with_their_places() {
    let site = Site::new();
    site.write("dispatch/d.toml", &DISPATCH.replace("queue", "quue"));
    site.write(
        "rx/p.toml",
        "type = \"pull\"\nbroker = \"none\"\n\nbind = 7\nprefetch = 0\n",
    );
    let said = site.run(&["check"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    let etc = site.root().join("etc").display().to_string();
    for part in [
        "dispatch/d.toml:2: quue = \"q\": unknown key, did you mean \"queue\"?; accepted: ",
        "rx/p.toml:2: broker = \"none\": px.toml has no such broker; accepted: own\n",
        "rx/p.toml:4: bind = 7: accepted: ",
        "rx/p.toml:5: prefetch = 0: accepted: a whole number from 1 to 10000\n",
        "rx/p.toml:1: queue: missing; accepted: ",
    ] {
        assert!(said.err.contains(&format!("{etc}/{part}")), "{part}\n{}", said.err);
    }
    let findings: Value = serde_json::from_str(&site.run(&["check", "--json"]).out).unwrap();
    let first = &findings[0];
    assert!(
        first["file"].as_str().unwrap().ends_with("dispatch/d.toml"),
        "{findings:#}"
    );
    assert!(first["line"].is_u64() && first["warning"] == false, "{findings:#}");
}
