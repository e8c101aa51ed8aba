//! Wrong arguments are exit code 2, and help is none.

use crate::Site;

#[test]
fn wrong_arguments_are_two() {
    let site = Site::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["run"],
        &["run", "rx/a", "rx/b"],
        &["status", "--jason"],
        &["failed"],
        &["failed", "show", "rx/a", "seven"],
        &["failed", "drop", "rx/a"],
        &["failed", "drop", "rx/a", "7", "--all"],
        &["post", "own", "file"],
        &["post", "own", "--url", "http://h/", "--format", "v04", "file"],
    ] {
        let said = site.run(arguments);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}");
        assert!(
            said.err.contains("Usage: px") || said.err.contains("--help"),
            "{said:?}"
        );
    }
}

#[test]
fn help_and_version_are_answers() {
    let site = Site::new();
    let help = site.run_ok(&["--help"]);
    for command in [
        "run", "start", "stop", "reload", "status", "graceful", "revive", "check", "clean", "failed", "post", "listen",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    assert!(!help.contains("\n  man "), "{help}");
    assert!(site.run_ok(&["failed", "replay", "--help"]).contains("--all"));
    assert_eq!(
        site.run_ok(&["--version"]),
        format!("px {}\n", env!("CARGO_PKG_VERSION"))
    );
}
