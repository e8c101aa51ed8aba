//! What a sender's queue may have that it cannot handle: it is shown, and the rest goes on.

use super::*;

/// `PROBLEM` is no directory: one error each time it is tried, a number in the status, and the others go on.
#[test]
fn what_cannot_be_set_aside_is_told_of_and_holds_up_nobody() {
    let world = world("stuck", "key = \"x.${CCCC}\"\n");
    world.site.write("txq/s/PROBLEM", "not a directory");
    world.drop("3/2026112112/nokey", "no key");
    let unit = world.site.run_as(UNIT, &[], &["--level", "debug"]);
    world.site.wait_ready(UNIT, unit.pid());
    world.drop("3/2026112112/SA_CWAO_1", "one");
    world.wait_left(&["3/2026112112/nokey", "PROBLEM"]);
    world
        .site
        .wait(UNIT, "shows it", |status| status["gauges"]["not_set_aside"] == 1);
    // More looks at the queue: each finds what is new, and says no more of the old.
    for n in 2..6 {
        world.drop(&format!("3/2026112112/SA_CWAO_{n}"), "more");
        world.wait_left(&["3/2026112112/nokey", "PROBLEM"]);
    }
    let said = world.site.said(UNIT);
    let errors = said.lines().filter(|line| line.contains("can never be sent"));
    let errors: Vec<&str> = errors.collect();
    assert!(errors.len() == 1 && errors[0].contains("[ERROR]"), "{said}");
    assert!(errors[0].contains("Not a directory"), "{said}");
    for line in ["[DEBUG] exchange key = x.CWAO", "[DEBUG] SA_CWAO_1 has been erased"] {
        assert!(said.lines().any(|said| said.ends_with(line)), "{line}\n{said}");
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_shown_and_the_others_go_on() {
    let world = world("unlisted", PLAIN);
    let open = std::fs::Permissions::from_mode(0o777);
    for path in ["", "run", "log", "txq", "txq/s", "txq/s/3/closed", "txq/s/4/free"] {
        let path = world.site.path(path);
        std::fs::create_dir_all(&path).expect("directory");
        std::fs::set_permissions(path, open.clone()).expect("chmod");
    }
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(world.queued("3/closed"), closed).expect("chmod");
    for path in ["3/closed/a", "4/free/b"] {
        world.drop(path, path);
    }
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let unit = world.site.run_as(UNIT, &nobody, &[]);
    world.site.wait_ready(UNIT, unit.pid());
    world.wait_left(&["3/closed/a"]);
    world
        .site
        .wait_state(UNIT, "paused: cannot read 3/closed in the queue: Permission denied");
    for n in 0..4 {
        world.drop(&format!("4/free/c{n}"), "more");
        world.wait_left(&["3/closed/a"]);
    }
    let said = world.site.said(UNIT);
    assert_eq!(said.matches("cannot read").count(), 1, "{said}");
    std::fs::set_permissions(world.queued("3/closed"), open).expect("chmod");
    world.wait_left(&[]);
    world.site.wait_state(UNIT, "running");
}
