//! `px check`: every error of every file at once; 1 when anything is refused, warnings are not.

use std::path::Path;

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
        1,
        "{said:?}"
    );
}

/// What else shows only at night, when the reaper runs, or when somebody has read the file.
#[test]
fn passwords_that_are_missing_or_open_are_warnings() {
    let site = Site::new();
    let check = |brokers: &str| {
        site.write("px.toml", brokers);
        let said = site.run(&["check"]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        assert!(!said.out.contains("canary"), "{said:?}");
        said.out
    };
    let brokers =
        "[brokers.b]\nurls = [\"amqp://u:${PATH}@h\"]\nmanagement = { url = \"http://h:1\", user = \"root\" }\n";
    let said = check(brokers);
    assert!(
        said.contains("warning: no password for root: secrets.toml (0600) has no [b] root"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let open = "[brokers.b]\nurls = [\"amqp://h\", \"amqp://u:canary@h\"]\n\
                management = { url = \"http://root:canary@h:1\" }\n";
    let said = check(open);
    assert_eq!(
        said.matches("warning: everybody can read the password of ").count(),
        2,
        "{said}"
    );
    assert!(
        said.contains("password of u here: put it into secrets.toml (0600) as [b] u = "),
        "{said}"
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(site.root().join("etc/px.toml"), mode).unwrap();
    assert_eq!(check(open), "");
}

#[test]
fn a_good_site_is_silent() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    assert_eq!(site.run_ok(&["check"]), "");
    assert_eq!(site.run_ok(&["check", "--json"]), "[]\n");
}

#[test]
fn a_dispatcher_works_with_the_broker_of_its_own_host_or_is_chosen_by_one_that_can() {
    let site = Site::new();
    let urls = [
        ("near", "amqp://localhost"),
        ("vip", "amqp://10.0.0.9"),
        ("far", "amqp://bunny1-op"),
    ];
    let brokers = urls.map(|(name, url)| format!("[brokers.{name}]\nurls = [\"{url}\"]\nexchange = \"x\"\n"));
    let own = "[brokers.own]\nurls = [\"embedded:own.db\"]\nexchange = \"x\"\n";
    site.write("px.toml", &format!("{own}{}", brokers.concat()));
    let said = |broker: &str, more: &str| {
        let unit = DISPATCH.replace("\"own\"", &format!("{broker:?}"));
        site.write("dispatch/d.toml", &format!("{unit}{more}"));
        let said = site.run(&["check"]);
        assert_eq!(said.code, i32::from(!said.err.is_empty()), "{said:?}");
        said.out + &said.err
    };
    let vip = "vip = \"10.0.0.9\"\n";
    for broker in ["near", "vip", "own"] {
        assert_eq!(said(broker, vip), "");
    }
    assert!(said("far", vip).contains("warning: no URL of its broker is localhost"));
    for more in [
        "election = \"broker\"\n",
        "election = \"none\"\n",
        "election = \"broker\"\nauto_delete = true\n",
    ] {
        assert_eq!(said("far", more), "");
    }
    let elected = "election = \"broker\"\n";
    assert!(said("own", elected).contains("an embedded broker chooses nobody"));
    assert!(said("far", &format!("{elected}{vip}")).contains("the unit has a vip too; accepted: one of them"));
    assert!(said("far", "election = \"lot\"\n").contains("accepted: \"none\", \"broker\""));
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

/// A root with `px.conf` and units that are all left to Sundew, and no `px.toml`.
fn sundew_site() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew/site/etc");
    for file in [
        "px.conf",
        "tx/bulletins.conf",
        "rx/nws.conf",
        "fx/to-nc.conf",
        "trx/aftn.conf",
    ] {
        let to = root.path().join("etc").join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from.join(file), to).unwrap();
    }
    root
}

#[test]
fn what_is_left_to_sundew_is_noted_and_nothing_is_refused_for_it() {
    let root = sundew_site();
    let etc = root.path().join("etc").display().to_string();
    let said = px(root.path(), &["check"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let notes: Vec<String> = said
        .out
        .lines()
        .rev()
        .take(4)
        .map(|line| line.replace(&etc, "@"))
        .collect();
    let expected = [
        "@/tx/bulletins.conf: left to Sundew (type am)",
        "@/trx/aftn.conf: left to Sundew (type aftn)",
        "@/rx/nws.conf: left to Sundew (type bulletin-file)",
        "@/fx/to-nc.conf: left to Sundew (type filter)",
    ];
    assert_eq!(notes, expected);
    assert!(
        said.out.contains("/rx/nws.conf:4: accept = \"[\": warning: "),
        "{said:?}"
    );
    let findings: Value = serde_json::from_str(&px(root.path(), &["check", "--json"]).out).unwrap();
    let findings = findings.as_array().unwrap();
    let count = |note: bool| findings.iter().filter(|finding| finding["note"] == note).count();
    assert_eq!(
        (count(true), count(false)),
        (4, said.out.lines().count() - 4),
        "{findings:#?}"
    );
    assert!(
        findings.iter().all(|finding| finding["warning"] == true),
        "{findings:#?}"
    );
}

#[test]
fn what_is_left_to_sundew_is_neither_started_nor_stopped() {
    let root = sundew_site();
    for command in ["start", "stop", "restart", "reload", "revive"] {
        let said = px(root.path(), &[command]);
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (0, "", ""),
            "{command}"
        );
        let said = px(root.path(), &[command, "tx/bulletins"]);
        let refused = "px: tx/bulletins is left to Sundew (type am): px neither starts nor stops it\n";
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (1, "", refused),
            "{command}"
        );
    }
    let said = px(root.path(), &["run", "tx/bulletins"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(
        said.err
            .ends_with("/tx/bulletins.conf: left to Sundew (type am): px does not run it\n"),
        "{said:?}"
    );
    let said = px(root.path(), &["status", "tx/bulletins", "nws"]);
    let expected = "tx/bulletins  left to Sundew (type am)\nrx/nws        left to Sundew (type bulletin-file)\n";
    assert_eq!((said.code, said.out.as_str()), (3, expected), "{said:?}");
    assert!(!root.path().join("run").exists() && !root.path().join("txq").exists());
}

/// What a site names stays with Sundew, also where px could run it.
#[test]
fn what_is_kept_for_sundew_is_neither_started_nor_stopped() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    std::fs::create_dir_all(etc.join("tx")).unwrap();
    std::fs::write(etc.join("px.toml"), "[sundew]\nkeep = [\"tx/a\"]\n").unwrap();
    std::fs::write(etc.join("tx/a.conf"), "protocol file\ndirectory /a\naccept .*\n").unwrap();
    let said = px(root.path(), &["check"]);
    let note = format!(
        "{}/tx/a.conf: left to Sundew (type single-file in keep of px.toml)\n",
        etc.display()
    );
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (0, note.as_str(), "")
    );
    for command in ["start", "stop"] {
        let said = px(root.path(), &[command, "a"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("px neither starts nor stops it"), "{said:?}");
        assert_eq!(px(root.path(), &[command]).code, 0);
    }
    let hour = root.path().join("txq/a/1/2020010100");
    std::fs::create_dir_all(&hour).unwrap();
    assert_eq!(px(root.path(), &["clean"]).out, "");
    assert!(hour.exists());
}

#[test]
fn px_conf_moves_the_places() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path().display();
    std::fs::create_dir_all(root.path().join("etc")).unwrap();
    std::fs::create_dir_all(root.path().join("new/tx")).unwrap();
    std::fs::write(
        root.path().join("etc/px.conf"),
        format!("etcdir {at}/new\nlogdir log\n"),
    )
    .unwrap();
    std::fs::write(root.path().join("new/tx/a.conf"), "type am\n").unwrap();
    let said = px(root.path(), &["check"]);
    assert_eq!(said.out, format!("{at}/new/tx/a.conf: left to Sundew (type am)\n"));
    let refused = format!("{at}/etc/px.conf:2: logdir = \"log\": accepted: an absolute path\n");
    assert_eq!((said.code, said.err), (1, refused));
}

#[test]
fn a_whole_sundew_site_is_accepted_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew/site");
    let said = px(&root, &["check"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert_eq!(said.out.matches(": left to Sundew (type ").count(), 7, "{said:?}");
    let said = px(&root, &["status"]);
    let expected = "tx/dd-notify-wxo-b1  stopped\ntx/files             stopped\nrx/dropped           stopped\nrx/radar             \
                    stopped\n";
    assert_eq!((said.code, said.out.as_str()), (3, expected), "{said:?}");
}

/// What may come later is a warning; a file that is something else, and what no product can ever meet, is an error.
#[test]
fn mistakes_that_would_show_with_the_first_product_are_told_before() {
    let site = Site::new();
    site.write("public", "ssh-ed25519 AAAA px@here\n");
    site.write("scripts/plain.py", "#!/usr/bin/python3\n");
    site.write("password", "pw\n");
    let etc = site.root().join("etc").display().to_string();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(site.root().join("etc/password"), open).unwrap();
    let sftp = "destination = \"sftp://u@h\"\n";
    let announced = "[announcements]\nbroker = \"own\"\nannounce = [\"exp\"]\nurl = \"http://dd/\"\n";
    let table = [
        (
            format!("{sftp}key_file = \"/no/such\""),
            0,
            "key_file = \"/no/such\": warning: no such file",
        ),
        (
            format!("{sftp}key_file = \"{etc}/public\""),
            1,
            ": a public key; accepted: ",
        ),
        (
            format!("{sftp}agent = true\nknown_hosts = \"{etc}\""),
            1,
            ": a directory, not a file",
        ),
        (
            format!("{sftp}password_file = \"{etc}/password\""),
            0,
            "warning: others can get at it (mode 0644)",
        ),
        (
            format!("{sftp}agent = true\nfx_script = \"/no/such\""),
            0,
            "warning: there is no \"/no/such\"",
        ),
        (
            format!("{sftp}agent = true\nfx_script = \"{etc}/scripts/plain.py\""),
            0,
            "is not executable",
        ),
        (
            format!("{sftp}agent = true\nfilename = \"DESTFNSCRIPT=x.py\""),
            0,
            "/scripts/x.py\"",
        ),
        (
            format!("{sftp}agent = true\nscript_timeout = \"5s\""),
            1,
            "the unit has no fx_script",
        ),
        (
            format!("{sftp}agent = true\ndirectory = \"${{2}}\"\nmasks = [{{ accept = \"a(b)\" }}]"),
            1,
            "wants ${2}",
        ),
        (
            format!("{sftp}agent = true\n{announced}root = \"/elsewhere\""),
            1,
            "announcements.root = \"/elsewhere\": no product",
        ),
        ("destination = \"ftps://u@h\"".to_string(), 1, "tls = true"),
    ];
    for (text, code, part) in table {
        site.write("tx/u.toml", &format!("type = \"deliver\"\n{text}\n"));
        let said = site.run(&["check"]);
        assert_eq!(said.code, code, "{text}\n{said:?}");
        let (here, there) = if code == 0 {
            (&said.out, &said.err)
        } else {
            (&said.err, &said.out)
        };
        assert!(here.contains(part) && there.is_empty(), "{text}\n{said:?}");
        assert_eq!(here.lines().count(), 1, "{text}\n{said:?}");
    }
}

#[test]
fn a_mistyped_type_is_one_error() {
    let site = Site::new();
    site.write(
        "tx/u.toml",
        "type = \"delivr\"\ndestination = \"file:\"\ndirectory = \"/a\"\n",
    );
    let said = site.run(&["check"]);
    assert_eq!((said.code, said.err.lines().count()), (1, 1), "{said:?}");
    assert!(
        said.err
            .contains("type = \"delivr\": did you mean \"deliver\"?; accepted: "),
        "{said:?}"
    );
}
