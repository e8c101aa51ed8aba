//! `px post` and `px listen`, and what a unit makes of them.

use std::process::{Command, Stdio};

use crate::{DISPATCH, Site, wait_until};

#[test]
fn what_is_posted_is_heard() {
    let site = Site::new();
    let file = site.root().join("tree/a b.txt");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "six by").unwrap();
    let (tree, file) = (site.root().join("tree"), file.to_str().unwrap().to_string());
    let url = ["--root", tree.to_str().unwrap(), "--url", "http://h/data/"];
    let post = [&["post", "own"][..], &url, &[&file]].concat();
    let said = site.run(&post);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("no queue is bound for it"), "{said:?}");
    let listener = Command::new(env!("CARGO_BIN_EXE_px"))
        .args(["listen", "own", "--bind", "v02.post.#", "--count", "1"])
        .env("PX_ROOT", site.root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the listener is bound", || site.run(&post).code == 0);
    let output = listener.wait_with_output().unwrap();
    let heard = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && heard.lines().count() == 1, "{heard}");
    assert!(heard.starts_with("v02.post.data.a b.txt "), "{heard}");
    assert!(heard.ends_with(" 6 http://h/data/a%20b.txt\n"), "{heard}");
}

#[test]
fn a_message_that_cannot_be_read_is_kept_shown_and_dropped() {
    let site = Site::new();
    site.write(
        "dispatch/d.toml",
        &DISPATCH.replace("{ key = \"first\" }", "{ from = \"v03\", to = \"v04\" }"),
    );
    site.run_ok(&["start"]);
    let file = site.root().join("a");
    std::fs::write(&file, "").unwrap();
    let (root, file) = (site.root().to_str().unwrap(), file.to_str().unwrap());
    site.run_ok(&["post", "own", "--root", root, "--url", "http://h/", file]);
    wait_until("it has failed", || !site.run_ok(&["failed", "list"]).is_empty());
    let list = site.run_ok(&["failed", "list"]);
    assert!(
        list.contains("attempts=1 v02.post") && list.contains("does not begin with \"v03\""),
        "{list}"
    );
    let id = list.split(' ').nth(1).unwrap();
    let shown = site.run_ok(&["failed", "show", "d", id]);
    assert!(shown.contains("\nqueue: q\n") && shown.contains("\nbody: "), "{shown}");
    assert_eq!(site.run_ok(&["failed", "drop", "d", id]), "dispatch/d: 1 dropped\n");
    assert_eq!(site.run_ok(&["failed", "list"]), "");
}

#[test]
fn a_broker_that_is_not_known_or_a_password_in_the_open_is_one() {
    let site = Site::new();
    for (broker, told) in [
        ("other", "has no broker \"other\""),
        ("amqp://joe:canary@h/", "a password on a command line is everybody's"),
        ("http://h/", "accepted: "),
    ] {
        let said = site.run(&["listen", broker, "--exchange", "x"]);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains(told) && !said.err.contains("canary"), "{said:?}");
    }
}
