//! `px resend` and `px post --from-db`: which products are chosen, and what becomes of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::{Site, wait_until};

const CLIENT: &str = "type = \"amqp\"\nbroker = \"own\"\nkey = \"k\"\nmasks = [{ reject = \"secret\" }]\n";

/// A site with a client and three hours of products.
fn site() -> Site {
    let site = Site::new();
    site.write("tx/dd.toml", CLIENT);
    for (name, stamp) in [
        ("a", "20261121015959"),
        ("b", "20261121020000"),
        ("secret", "20261121023000"),
        ("c", "20261121031000"),
        ("d", "20261121031001"),
    ] {
        put(&site, &format!("{name}:URP:XSS:RADAR:GIF::{stamp}"), "bytes");
    }
    put(&site, "e:NWS:XSS:RADAR:GIF::20261121023001", "more bytes");
    site
}

fn put(site: &Site, name: &str, bytes: &str) {
    let fields: Vec<&str> = name.split(':').collect();
    let below = format!(
        "db/{}/{}/{}/{}/{name}",
        &fields[6][..8],
        fields[3],
        fields[1],
        fields[2]
    );
    let path = site.root().join(below);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

const SPAN: [&str; 4] = ["--since", "2026-11-21 02:00", "--until", "2026-11-21 03:10"];

fn resend<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["resend", "tx/dd"][..], &SPAN, more].concat()
}

/// The names in the client's queue, with their priority, sorted.
fn queued(site: &Site, client: &str) -> Vec<String> {
    let mut names = Vec::new();
    for priority in 0..=5 {
        let hours = fs::read_dir(site.root().join(format!("txq/{client}/{priority}")));
        for hour in hours.into_iter().flatten() {
            let hour = hour.unwrap();
            assert_eq!(hour.file_name().len(), 10, "{hour:?}");
            for file in fs::read_dir(hour.path()).unwrap() {
                let file = file.unwrap();
                assert_eq!(file.metadata().unwrap().nlink(), 2, "{file:?}");
                names.push(format!("{priority}/{}", file.file_name().to_string_lossy()));
            }
        }
    }
    names.sort();
    names
}

#[test]
fn products_of_a_span_that_the_client_wants_are_linked_once() {
    let site = site();
    let told = site.run_ok(&resend(&["--dry-run"]));
    let expected = "3 products, 20 bytes, received from 2026-11-21T02:00:00Z to 2026-11-21T03:10:00Z, would be resent \
                    to tx/dd with priority 0\n";
    assert_eq!(told, expected);
    let told = site.run_ok(&resend(&["--dry-run", "--verbose"]));
    assert_eq!(
        told.lines().nth(2),
        Some("(10 Bytes) e:NWS:XSS:RADAR:GIF::20261121023001")
    );
    assert!(!site.root().join("txq").exists(), "a dry run makes nothing");

    let told = site.run_ok(&resend(&[]));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert!(lines[0].ends_with("to be resent to tx/dd with priority 0"), "{told}");
    assert!(
        lines[1].starts_with("(5 Bytes) Resent b:URP:XSS:RADAR:GIF::20261121020000 to ")
            && lines[1].contains("/txq/dd/0/"),
        "{told}"
    );
    assert_eq!(lines[4], "3 products resent to tx/dd, 0 in its queue already, 0 failed");
    let names = [
        "0/b:URP:XSS:RADAR:GIF::20261121020000",
        "0/c:URP:XSS:RADAR:GIF::20261121031000",
        "0/e:NWS:XSS:RADAR:GIF::20261121023001",
    ];
    assert_eq!(queued(&site, "dd"), names);
    let log = fs::read_to_string(site.root().join("log/pxResend.log")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
    assert!(log.contains("[INFO] (5 Bytes) Resent b:URP"), "{log}");

    let told = site.run_ok(&resend(&["--rate", "0"]));
    assert!(
        told.ends_with("0 products resent to tx/dd, 3 in its queue already, 0 failed\n"),
        "{told}"
    );
    assert_eq!(queued(&site, "dd"), names);
}

#[test]
fn what_is_chosen_can_be_narrowed_and_told_as_json() {
    let site = site();
    let run = |more: &[&str]| -> Value {
        let more = [more, &["--json"][..]].concat();
        serde_json::from_str(&site.run_ok(&resend(&more))).unwrap()
    };
    let document = run(&["--match", "(?!c)", "--from", "URP", "--dry-run"]);
    assert_eq!(
        (&document["count"], &document["bytes"]),
        (&1.into(), &5.into()),
        "{document}"
    );
    assert_eq!(document["products"][0]["name"], "b:URP:XSS:RADAR:GIF::20261121020000");
    assert_eq!(document["products"][0]["result"], "would be resent");
    assert_eq!(run(&["--match", "nothing"])["count"], 0);
    assert!(!site.root().join("log/pxResend.log").exists(), "nothing was done");

    let document = run(&["--priority", "3", "--from", "NWS"]);
    assert_eq!(
        (&document["resent"], &document["there"]),
        (&1.into(), &0.into()),
        "{document}"
    );
    assert_eq!(document["products"][0]["result"], "resent");
    assert_eq!(queued(&site, "dd"), ["3/e:NWS:XSS:RADAR:GIF::20261121023001"]);
}

#[test]
fn a_client_that_sundew_runs_is_resent_what_its_conf_accepts() {
    let site = site();
    site.write("tx/wmo.conf", "type wmo\naccept .*:NWS:.*\n");
    let mut words = resend(&[]);
    words[1] = "wmo";
    assert!(site.run_ok(&words).contains("1 products resent to tx/wmo"));
    assert_eq!(queued(&site, "wmo"), ["0/e:NWS:XSS:RADAR:GIF::20261121023001"]);
}

#[test]
fn what_is_no_client_is_refused_and_bad_words_are_two() {
    let site = site();
    site.write("tx/expose.toml", "type = \"announce\"\nbroker = \"own\"\n");
    site.write("rx/in.toml", "type = \"single-file\"\n");
    for (unit, told) in [
        ("rx/in", "rx/in is no client"),
        ("tx/expose", "tx/expose is no client"),
        ("tx/none", "no unit"),
        ("none", "no unit none"),
    ] {
        let mut words = resend(&[]);
        words[1] = unit;
        let said = site.run(&words);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains(told), "{said:?}");
    }
    for (words, told) in [
        (vec!["resend", "dd"], "--since"),
        (vec!["resend", "dd", "--since", "2 o'clock"], "HH:MM"),
        (
            vec!["resend", "dd", "--since", "2h", "--until", "3h"],
            "is before --since",
        ),
        (vec!["resend", "dd", "--since", "2h", "--match", "("], "unclosed group"),
        (vec!["resend", "dd", "--since", "2h", "--priority", "6"], "priority"),
        (vec!["resend", "dd", "--since", "2h", "--verbose"], "--dry-run"),
        (
            vec!["post", "own", "--url", "http://h/", "--until", "2h", "file"],
            "--from-db",
        ),
        (vec!["post", "own", "--url", "http://h/", "--from-db"], "--since"),
        (vec!["post", "own", "--url", "http://h/"], "<FILES>"),
    ] {
        let said = site.run(&words);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{words:?}: {said:?}");
        assert!(said.err.contains(told), "{words:?}: {said:?}");
    }
}

#[test]
fn what_cannot_be_linked_is_told_and_keeps_back_no_other() {
    let site = site();
    site.run_ok(&resend(&["--from", "NWS"]));
    let link: PathBuf = fs::read_dir(site.root().join("txq/dd/0"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    // Another file has the name of b in this hour and in the next, should that begin now.
    let b = "b:URP:XSS:RADAR:GIF::20261121020000";
    let hours = [0, 3600].map(|later| {
        let at = jiff::Timestamp::now() + Duration::from_secs(later);
        at.strftime("%Y%m%d%H").to_string()
    });
    for hour in hours {
        let directory = link.parent().unwrap().join(hour);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(b), "other").unwrap();
    }
    let said = site.run(&resend(&[]));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("another file has that name there"), "{said:?}");
    assert!(
        said.out
            .ends_with("1 products resent to tx/dd, 1 in its queue already, 1 failed\n"),
        "{said:?}"
    );
}

/// A kill in the middle, and the same command again: everything is there once.
#[test]
fn a_resend_that_was_killed_is_repeated() {
    let site = Site::new();
    site.write("tx/dd.toml", CLIENT);
    for number in 0..200 {
        put(&site, &format!("p{number:03}:URP:XSS:RADAR:GIF::20261121020000"), "x");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_px"))
        .args(resend(&["--rate", "20"]))
        .env("PX_ROOT", site.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("some are linked", || queued(&site, "dd").len() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = queued(&site, "dd").len();
    assert!(before < 200, "it was too late");
    let told = site.run_ok(&resend(&["--rate", "0"]));
    let summary = format!(
        "{} products resent to tx/dd, {before} in its queue already, 0 failed\n",
        200 - before
    );
    assert!(told.ends_with(&summary), "{told}");
    assert_eq!(queued(&site, "dd").len(), 200);
}

#[test]
fn products_of_the_database_are_announced_by_hand() {
    let site = site();
    let post = [
        &["post", "own", "--from-db", "--url", "http://h/db/", "--from", "URP"][..],
        &["--match", "b|c"],
        &SPAN,
    ]
    .concat();
    let none = [&post[..5], &["--match", "zzz"], &SPAN].concat();
    assert_eq!(site.run_ok(&none), "0 products\n");
    let listener = Command::new(env!("CARGO_BIN_EXE_px"))
        .args(["listen", "own", "--bind", "v02.post.#", "--count", "3"])
        .env("PX_ROOT", site.root())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (root, first) = (site.root().display().to_string(), site.root().join("first"));
    fs::write(&first, "").unwrap();
    let first = [
        "post",
        "own",
        "--root",
        &root,
        "--url",
        "http://h/",
        first.to_str().unwrap(),
    ];
    wait_until("the listener is bound", || site.run(&first).code == 0);
    let told = site.run_ok(&post);
    assert_eq!(told.lines().count(), 2, "{told}");
    let output = listener.wait_with_output().unwrap();
    let heard = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = heard.lines().collect();
    assert_eq!(lines.len(), 3, "{heard}");
    assert!(
        lines[1].ends_with(" 5 http://h/db/20261121/RADAR/URP/XSS/b:URP:XSS:RADAR:GIF::20261121020000"),
        "{heard}"
    );
    assert!(lines[2].contains("/c:URP:XSS:RADAR:GIF::"), "{heard}");
}
