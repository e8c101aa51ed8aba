//! Naming units, and what is said of those that do not run.

use std::process::Command;

use serde_json::Value;

use crate::{DISPATCH, Site, data, px};

#[test]
fn a_site_without_units_has_nothing_to_say() {
    let site = Site::new();
    for command in ["status", "start", "stop", "restart", "reload", "revive"] {
        assert_eq!(site.run_ok(&[command]), "", "{command}");
    }
    assert_eq!(site.run_ok(&["status", "--json"]), "[]\n");
    assert_eq!(site.run_ok(&["failed", "list"]), "");
}

#[test]
fn a_unit_that_does_not_run_is_three() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    let said = site.run(&["status"]);
    assert_eq!((said.code, said.out.as_str()), (3, "dispatch/d  stopped\n"), "{said:?}");
    let said = site.run(&["status", "d", "--json"]);
    let rows: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &rows[0]["running"]), (3, &Value::Bool(false)), "{said:?}");
    for command in ["stop", "reload"] {
        let said = site.run(&[command, "dispatch-d"]);
        assert_eq!(
            (said.code, said.out.as_str()),
            (3, "dispatch/d is not running\n"),
            "{command}"
        );
        // All units: those that do not run are no news.
        assert_eq!(site.run_ok(&[command]), "");
    }
}

#[test]
fn a_unit_that_is_not_there_or_not_clear_is_one() {
    let site = Site::new();
    site.write("dispatch/a.toml", DISPATCH);
    site.write("rx/a.toml", "");
    for command in [&["run"][..], &["start"], &["stop"], &["status"], &["failed", "list"]] {
        for (name, told) in [
            ("b", "there are: rx/a, dispatch/a"),
            ("a", "rx/a or dispatch/a: say which"),
            ("../a", "the directory is one of"),
        ] {
            let said = site.run(&[command, &[name]].concat());
            assert_eq!((said.code, said.out.as_str()), (1, ""), "{command:?} {name}: {said:?}");
            assert!(said.err.starts_with("px: ") && said.err.contains(told), "{said:?}");
        }
    }
}

#[test]
fn a_bad_unit_is_refused_with_all_its_errors() {
    let site = Site::new();
    site.write(
        "rx/bad.toml",
        "type = \"pull\"\nbroker = \"own\"\nworkers = 0\nmirror = 1\n",
    );
    for command in [&["run", "bad"][..], &["start", "bad"]] {
        let said = site.run(command);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
        for key in ["workers = 0", "mirror = 1", "queue: missing", "bind: missing"] {
            assert!(said.err.contains(key), "{key}: {}", said.err);
        }
    }
    let said = site.run(&["reload", "bad"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("the configuration in force stays"), "{said:?}");
}

#[test]
fn a_unit_that_this_version_does_not_serve_is_refused() {
    let said = px(&data("unserved"), &["run", "process/filter"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("not served by this version"), "{said:?}");
}

#[test]
fn nothing_has_failed_yet() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    assert_eq!(site.run_ok(&["failed", "list", "d"]), "");
    assert_eq!(site.run_ok(&["failed", "list", "--json"]), "[]\n");
    assert_eq!(
        site.run_ok(&["failed", "drop", "d", "--all"]),
        "dispatch/d: 0 dropped\n"
    );
    for command in ["show", "replay", "drop"] {
        let said = site.run(&["failed", command, "d", "7"]);
        assert_eq!(
            (said.code, said.err.as_str()),
            (1, "px: dispatch/d has no failed message 7\n"),
            "{command}"
        );
    }
}

/// As behind `head -1` or `grep -q`.
#[test]
fn a_reader_that_has_gone_changes_nothing() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    for (command, code) in [(&["status"][..], 3), (&["check", "--json"], 0), (&["stop", "d"], 3)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_px"))
            .args(command)
            .env("PX_ROOT", site.root())
            .stdout(writer)
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*err), (Some(code), ""), "{command:?}");
    }
}
