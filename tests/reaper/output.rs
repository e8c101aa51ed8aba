//! What operators and the scripts of a site read.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::world::{World, of};

const LIMITS: &str = "max_messages = 3\nmax_bytes = \"1GB\"\nrules = [{ queue = \"it's\", max_messages = 2 }]";

/// The time is digits; everything else is as it was for years.
#[track_caller]
fn assert_old_lines(lines: &[&str], wanted: [&str; 2]) {
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, wanted) in lines.iter().zip(wanted) {
        let (time, rest) = line.split_at(24);
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!((shape.as_str(), rest), ("0000-00-00 00:00:00,000 ", wanted));
        assert_eq!(&time[19..], ",000 ");
    }
}

fn world(name: &str) -> World {
    let world = World::new(name, LIMITS);
    for (queue, count) in [("it's", 3), ("é", 4), ("small", 1)] {
        world.make(queue, json!({}));
        world.fill(queue, std::iter::repeat_n(10, count));
    }
    world.make("stream", json!({"x-queue-type": "stream"}));
    world.wait_figures([("it's", 3, 0), ("é", 4, 0), ("small", 1, 0)]);
    world
}

#[test]
fn a_run_says_what_it_deleted_and_why_then_the_two_lines_of_old() {
    let world = world("reaper-output");
    let vhost = &world.broker.vhost;
    let deleted = |verb: &str| {
        [
            format!("{verb} \"it's\" in {vhost:?}: 3 messages, more than 2 (rule \"it's\")"),
            format!("kept \"stream\" in {vhost:?}: a stream: what is read stays in it, so nothing is too much"),
            format!("{verb} \"é\" in {vhost:?}: 4 messages, more than 3"),
        ]
    };
    let said = world.site.px_ends(0, &["reap", "--dry-run"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[..3], deleted("would delete"), "{said:?}");
    let queues = r#"queues  : ["it's", 'small', 'stream', '\xc3\xa9'] "#;
    assert_old_lines(&lines[3..], [queues, "deleted : [] "]);
    let report = world.reap(0, &["--dry-run"]);
    assert_eq!(of(&report, "small")["reason"], "within its limits");
    assert_eq!((&report["broker"], &report["dry_run"]), (&json!("main"), &json!(true)));

    let said = world.site.px_ends(0, &["reap"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[..3], deleted("deleted"), "{said:?}");
    assert_old_lines(&lines[3..], [queues, r#"deleted : ["it's", '\xc3\xa9'] "#]);
    assert_eq!(said.err, "");
    for quiet in [&["reap", "--quiet"][..], &["reap", "--quiet", "--json"]] {
        let said = world.site.px_ends(0, quiet);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    }
}

#[test]
fn what_was_spilled_is_deleted_in_the_line_of_old() {
    let world = world("reaper-spilled");
    let directory = world.site.root().to_str().expect("UTF-8");
    let said = world.site.px_ends(0, &["reap", "--spill", directory]);
    assert!(said.out.ends_with("deleted : [\"it's\", '\\xc3\\xa9'] \n"), "{said:?}");
}

#[test]
fn a_quiet_run_tells_what_it_did() {
    let world = world("reaper-quiet");
    let said = world.site.px_ends(0, &["reap", "--quiet"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert!(lines.iter().all(|line| line.starts_with("deleted \"")), "{said:?}");
}

#[test]
fn the_old_name_says_what_it_always_said() {
    let world = world("queue-manager");
    let program = world.site.path("queue_manager.py");
    symlink(env!("CARGO_BIN_EXE_px"), &program).expect("symlink");
    let run = || {
        let mut command = Command::new(&program);
        command.env("PX_ROOT", world.site.root()).env_remove("PXROOT");
        let output = command.output().expect("queue_manager.py");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let said = run();
    let lines: Vec<&str> = said.split('\n').collect();
    assert_eq!(lines[..2], ["it's", "é"], "{said}");
    let queues = r#"queues  : ["it's", 'small', 'stream', '\xc3\xa9'] "#;
    assert_old_lines(&lines[2..4], [queues, r#"deleted : ["it's", '\xc3\xa9'] "#]);
    assert_eq!(lines[4..], ["", ""]);
    let said = run();
    let lines: Vec<&str> = said.split('\n').collect();
    assert_old_lines(&lines[..2], ["queues  : ['small', 'stream'] ", "deleted : [] "]);
}
