//! The tour of README.md, typed as it stands there.

use std::process::Command;

use crate::Site;

/// Everything a reader types, but the build; in a root of our own; told to wait where it says to wait a second.
fn script(root: &str) -> String {
    let readme = include_str!("../../README.md");
    let typed = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let typed: String = typed.collect();
    assert_eq!(typed.matches("sleep 1\n").count(), 2, "the tour has changed");
    let typed = typed
        .replace("cargo build --release\n", "")
        .replace("alias px=\"$PWD/target/release/px\"\n", "")
        .replace("/tmp/px-tour", root)
        .replacen("sleep 1\n", "wait_for 'fetched=1 ' px status\n", 1)
        .replacen("sleep 1\n", "wait_for ^rx/out px failed list\n", 1);
    format!(
        "set -eu
        px() {{ {:?} \"$@\"; }}
        wait_for() {{
            text=$1; shift
            for n in $(seq 300); do if \"$@\" | grep -q \"$text\"; then return; fi; sleep 0.1; done
            px status >&2; cat $PX_ROOT/log/* >&2; exit 1
        }}
        {typed}",
        env!("CARGO_BIN_EXE_px")
    )
}

#[test]
fn the_tour_goes_as_it_is_told() {
    let site = Site::new();
    let output = Command::new("bash")
        .args(["-c", &script(site.root().to_str().unwrap())])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success() && err.is_empty(), "{out}\n{err}");
    let lines: Vec<&str> = out.lines().collect();
    let at = |what: &str| {
        let found = lines.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what:?} in\n{out}"))
    };
    let told = [
        "watch/in has been started (pid ",
        "dispatch/first  running (pid ",
        "/hello.txt",
        "Fetched hello.txt",
        "/etc/hostname announced as v02.post.etc.hostname",
        "rx/out 1 ",
        "queue: out",
        "rx/out: 1 dropped",
        "dispatch/first has been stopped",
    ];
    let order: Vec<usize> = told.into_iter().map(at).collect();
    assert!(order.is_sorted(), "{order:?}\n{out}");
}
