//! Starting, looking at, reloading, reviving and stopping a unit.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{DISPATCH, SOON, Site, wait_until};

fn status(site: &Site) -> Value {
    serde_json::from_str(&site.run(&["status", "--json"]).out).unwrap()
}

#[test]
fn a_unit_is_started_once_and_stopped_once() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    assert!(site.run_ok(&["start"]).starts_with("dispatch/d has been started (pid "));
    assert!(
        site.run_ok(&["start", "d"])
            .starts_with("dispatch/d is already running (pid ")
    );
    assert!(site.run_ok(&["status"]).starts_with("dispatch/d  running (pid "));
    let rows = status(&site);
    assert_eq!(rows[0]["status"]["links"]["consume"]["connected"], true, "{rows:#}");
    let said = site.run(&["run", "d"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("dispatch/d is already running (pid "), "{said:?}");
    assert_eq!(site.run_ok(&["stop", "d"]), "dispatch/d has been stopped\n");
    assert_eq!(site.run(&["stop", "d"]).code, 3);
    let log = std::fs::read_to_string(site.root().join("log/dispatch_d.log")).unwrap();
    assert!(
        log.contains("has been started") && log.contains("has been stopped"),
        "{log}"
    );
}

#[test]
fn what_has_died_is_revived_and_what_was_stopped_is_not() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    site.run_ok(&["start"]);
    assert_eq!(site.run_ok(&["revive"]), "");
    let pid = Pid::from_raw(site.pid("dispatch_d")).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    wait_until("the unit is gone", || site.run(&["status"]).code == 3);
    assert_eq!(site.run(&["status"]).out, "dispatch/d  died\n");
    let said = site.run_ok(&["revive"]);
    assert!(said.starts_with("dispatch/d has died and is started again\n"), "{said}");
    assert_eq!(site.run(&["status"]).code, 0);
    site.run_ok(&["stop"]);
    assert_eq!(site.run_ok(&["revive"]), "");
    assert_eq!(site.run(&["status"]).code, 3);
}

/// What kept it from starting may pass, and nobody is there at night to start it.
#[test]
fn what_cannot_be_revived_now_is_revived_later() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    site.run_ok(&["start"]);
    kill_process(Pid::from_raw(site.pid("dispatch_d")).unwrap(), Signal::KILL).unwrap();
    wait_until("the unit is gone", || site.run(&["status"]).code == 3);
    let state = site.root().join("state/dispatch_d");
    std::fs::rename(&state, site.root().join("aside")).unwrap();
    std::fs::write(&state, "in the way").unwrap();
    let said = site.run(&["revive"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(site.run(&["status"]).out, "dispatch/d  died\n");
    std::fs::remove_file(&state).unwrap();
    let said = site.run_ok(&["revive"]);
    assert!(said.contains("dispatch/d has been started"), "{said}");
}

/// It was stopped only to be started: it is to run, and `px revive` tries again.
#[test]
fn what_a_restart_could_not_start_has_died() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    site.run_ok(&["start"]);
    let state = site.root().join("state/dispatch_d");
    std::fs::rename(&state, site.root().join("aside")).unwrap();
    std::fs::write(&state, "in the way").unwrap();
    assert_eq!(site.run(&["restart"]).code, 1);
    assert_eq!(site.run(&["status"]).out, "dispatch/d  died\n");
    assert!(site.run(&["revive"]).out.starts_with("dispatch/d has died"));
    // Who stops it has seen to it.
    assert_eq!(site.run(&["stop", "d"]).code, 3);
    assert_eq!(site.run(&["status"]).out, "dispatch/d  stopped\n");
    assert_eq!(site.run_ok(&["revive"]), "");
}

/// A broker that takes connections and says nothing: an attempt lasts as long as its time-out.
#[test]
fn a_reload_leaves_nothing_behind_that_looks_for_the_old_broker() {
    let site = Site::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://u:p@{}/", silent.local_addr().unwrap());
    let good = std::fs::read_to_string(site.root().join("etc/px.toml")).unwrap();
    let bad = good.replace("embedded:own.db", &url);
    site.write("px.toml", &format!("{bad}connect_timeout = \"1h\"\n"));
    site.write("dispatch/d.toml", DISPATCH);
    let said = site.run_ok(&["start"]);
    assert!(said.contains("is not ready yet"), "{said}");
    let attempts: Vec<TcpStream> = (0..2).map(|_| silent.accept().unwrap().0).collect(); // to publish, to consume
    site.write("px.toml", &good);
    site.run_ok(&["reload"]);
    for mut attempt in attempts {
        attempt.set_read_timeout(Some(SOON)).unwrap();
        attempt.read_to_end(&mut Vec::new()).expect("the unit hangs up");
    }
    wait_until("it works on the new broker", || {
        site.run(&["status"]).out.contains("running")
    });
}

#[test]
fn a_bad_configuration_is_not_reloaded() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    site.run_ok(&["start"]);
    let log = || std::fs::read_to_string(site.root().join("log/dispatch_d.log")).unwrap();
    site.write("dispatch/d.toml", "broken");
    let said = site.run(&["reload"]);
    assert_eq!(said.code, 1, "{said:?}");
    kill_process(Pid::from_raw(site.pid("dispatch_d")).unwrap(), Signal::HUP).unwrap();
    wait_until("the unit refuses it too", || log().contains("not reloaded"));
    site.write("dispatch/d.toml", &DISPATCH.replace("first", "second"));
    assert_eq!(site.run_ok(&["reload"]), "dispatch/d reads its configuration anew\n");
    wait_until("the unit has read it", || log().contains("has been reloaded"));
    assert_eq!(site.run(&["status"]).code, 0);
}

/// Whoever restarts to bring a change into force, and made a mistake in it, keeps what ran.
#[test]
fn a_unit_with_a_bad_configuration_is_not_ended_by_a_restart() {
    let site = Site::new();
    let second = DISPATCH.replace("\"q\"", "\"q2\"");
    site.write("dispatch/d.toml", DISPATCH);
    site.write("dispatch/e.toml", &second);
    site.run_ok(&["start"]);
    let (bad, good) = (site.pid("dispatch_d"), site.pid("dispatch_e"));
    site.write("dispatch/d.toml", &format!("{DISPATCH}unknown = 1\n"));
    let mut before = good;
    for command in ["restart", "graceful"] {
        let said = site.run(&[command]);
        assert_eq!(said.code, 1, "{command}: {said:?}");
        let refused = "px: dispatch/d is not restarted: it goes on with the configuration in force\n";
        assert!(
            said.err.contains("unknown") && said.err.ends_with(refused),
            "{command}: {said:?}"
        );
        assert!(
            said.out.starts_with("dispatch/e has been started (pid "),
            "{command}: {said:?}"
        );
        assert_eq!(site.pid("dispatch_d"), bad, "{command}");
        assert_ne!(site.pid("dispatch_e"), before, "{command}");
        before = site.pid("dispatch_e");
    }
    assert!(site.run_ok(&["status", "d"]).contains(&format!("running (pid {bad})")));
    // The site's file counts for all.
    let text = std::fs::read_to_string(site.root().join("etc/px.toml")).unwrap();
    site.write("px.toml", &format!("{text}[spool]\nunknown = 1\n"));
    let said = site.run(&["restart"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert_eq!((site.pid("dispatch_d"), site.pid("dispatch_e")), (bad, before));
}

/// What root's unit writes there, the account's own programs could not remove.
#[test]
fn root_is_told_whose_the_spool_is() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give a directory away
    }
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    site.write("dispatch/e.toml", &DISPATCH.replace("\"q\"", "\"q2\""));
    std::os::unix::fs::chown(site.root(), Some(1), None).unwrap();
    let said = site.run(&["start"]);
    let root = site.root().display();
    let warning = format!("px: runs as root, and the spool {root} belongs to daemon: start it as daemon\n");
    assert_eq!((said.code, said.err), (0, warning));
}

/// As a unit is put out of service: its file gets another name, and then it is stopped.
#[test]
fn a_unit_whose_file_has_gone_is_shown_and_ended() {
    let site = Site::new();
    let aside = || {
        std::fs::rename(
            site.root().join("etc/dispatch/d_1.toml"),
            site.root().join("etc/dispatch/off"),
        )
    };
    for stop in [&["stop"][..], &["stop", "dispatch/d_1"], &["stop", "d_1"]] {
        site.write("dispatch/d_1.toml", DISPATCH);
        site.run_ok(&["start"]);
        let pid = site.pid("dispatch_d_1");
        aside().unwrap();
        let line = format!("dispatch/d_1  running (pid {pid}), its configuration file is gone\n");
        assert_eq!(site.run_ok(&["status"]), line);
        assert_eq!(status(&site)[0]["file_gone"], true);
        assert_eq!(site.run_ok(&["restart"]), "");
        assert_eq!(site.run_ok(stop), "dispatch/d_1 has been stopped\n");
        assert_eq!(site.run_ok(&["status"]), "");
    }
    assert_eq!(site.run(&["stop", "d_1"]).code, 1);
}

/// As `etc/systemd/px@.service` runs it.
#[test]
fn under_systemd_a_unit_tells_that_it_is_ready_and_lives() {
    let site = Site::new();
    site.write("dispatch/d.toml", DISPATCH);
    let path = site.root().join("notify");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(SOON)).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_px"))
        .args(["run", "--log-file", "dispatch-d"])
        .env("PX_ROOT", site.root())
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for word in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        let mut buffer = [0; 256];
        let length = notified.recv(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..length]).trim(), word);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    let log = std::fs::read_to_string(site.root().join("log/dispatch_d.log")).unwrap();
    assert!(log.contains("has been stopped"), "{log}");
}
