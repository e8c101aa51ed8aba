//! The old program names: the texts, streams and exit codes that the scripts of a Sundew site know.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Said, Site, wait_until};

const USAGE: &str = "Usage: pxReceiver NAME (start|stop|status|restart|reload)\n\npxReceiver: error: ";

/// A site with the receiver `p`, and px under its old names.
struct Old(Site);

impl Old {
    fn new() -> Old {
        let old = Old(Site::new());
        std::fs::create_dir(old.0.root().join("bin")).unwrap();
        for name in ["pxSender", "pxReceiver", "pxChecker"] {
            symlink(env!("CARGO_BIN_EXE_px"), old.0.root().join("bin").join(name)).unwrap();
        }
        let directory = old.0.root().join("data");
        let text = format!(
            "type = \"pull\"\nbroker = \"own\"\nqueue = \"q\"\nbind = [\"v02.#\"]\ndirectory = {directory:?}\n"
        );
        old.0.write("rx/p.toml", &text);
        old
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Said {
        let output = Command::new(self.0.root().join("bin").join(program))
            .args(arguments)
            .env("PXROOT", self.0.root())
            .env_remove("PX_ROOT")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// `pxReceiver p VERB` says exactly this on standard output, and nothing else.
    #[track_caller]
    fn says(&self, verb: &str, out: &str, code: i32) {
        let said = self.run("pxReceiver", &["p", verb]);
        assert_eq!(
            (said.out.as_str(), said.err.as_str(), said.code),
            (out, "", code),
            "{verb}"
        );
    }

    fn lock(&self) -> PathBuf {
        self.0.root().join("rxq/p/.lock")
    }

    /// The pid in `.lock`.
    #[track_caller]
    fn pid(&self) -> i32 {
        std::fs::read_to_string(self.lock()).unwrap().parse().unwrap()
    }

    fn kill(&self) -> i32 {
        let pid = self.pid();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        wait_until("the unit is gone", || self.0.run(&["status", "p"]).code == 3);
        pid
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.root().join("log").join(name)).unwrap_or_default()
    }
}

#[test]
fn wrong_arguments_are_told_as_optparse_tells_them() {
    let old = Old::new();
    for (arguments, error) in [
        (&[][..], "Source and command missing"),
        (&["p"], "Source or command missing"),
        (&["p", "start", "now"], "Too many arguments"),
        (&["p", "begin"], "Wrong command name"),
        (&["none", "begin"], "Wrong command name"),
        (&["none", "start"], "Wrong source name: none"),
        (&["p", "graceful"], "Wrong command name"),
        (&["p", "start", "--loud"], "no such option: --loud"),
        (&["p", "start", "-l"], "-l option requires an argument"),
    ] {
        let said = old.run("pxReceiver", arguments);
        assert_eq!(said.err, format!("{USAGE}{error}\n"), "{arguments:?}");
        assert_eq!((said.out.as_str(), said.code), ("", 2), "{arguments:?}");
    }
    // A receiver is no client.
    for (arguments, error) in [
        (&["p", "start"][..], "Wrong client name"),
        (&["p"], "Client or command missing"),
    ] {
        let said = old.run("pxSender", arguments);
        assert!(said.err.ends_with(&format!("\npxSender: error: {error}\n")), "{said:?}");
        assert_eq!((said.out.as_str(), said.code), ("", 2), "{said:?}");
    }
    assert_eq!(old.run("pxChecker", &["p"]).code, 2);
    let help = old.run("pxSender", &["--help"]);
    assert!(help.code == 0 && help.out.contains("--logLevel"), "{help:?}");
}

#[test]
fn a_receiver_lives_as_sundews_scripts_expect() {
    let old = Old::new();
    old.says("status", "* receiver p is not running\n", 0);
    old.says("start", "", 0);
    let pid = old.pid();
    assert_eq!(pid, old.0.pid("rx_p"));
    old.says("status", &format!("Receiver p is running with PID {pid}\n"), 0);
    let warning = format!("WARNING: The receiver p is already started with PID {pid}, use stop or restart!\n");
    old.says("start", &warning, 2);
    old.says("reload", "", 2);
    wait_until("it is reloaded", || {
        old.log("rx_p.log").contains("[INFO] Receiver has been reloaded\n")
    });
    old.says("restart", "", 0);
    assert_ne!(old.pid(), pid);
    old.says("stop", "", 0);
    assert!(!old.lock().exists());
    old.says("status", "* receiver p is not running\n", 0);
    let none = "No lock on the receiver p. Are you sure it was started?\n";
    old.says("stop", none, 0);
    // It was not started, so it is not.
    old.says("restart", none, 0);
    old.says("status", "* receiver p is not running\n", 0);
    old.says("reload", "No process to reload for p (receiver None)!\n", 2);
    let log = old.log("rx_p.log");
    for line in [
        "Receiver p has been started",
        "Receiver p (type: pull) has been stopped",
    ] {
        assert_eq!(log.matches(&format!(" [INFO] {line}\n")).count(), 2, "{log}");
    }
}

#[test]
fn a_unit_that_was_converted_while_it_ran_is_reloaded_from_its_new_file() {
    let old = Old::new();
    old.0.write("rx/d.conf", "type single-file\nroutemask False\n");
    assert_eq!(old.run("pxReceiver", &["d", "start"]).code, 0);
    old.0.run_ok(&["convert", "--write", "rx/d"]);
    assert_eq!(old.run("pxReceiver", &["d", "reload"]).err, "");
    wait_until("it is reloaded", || {
        let log = old.log("rx_d.log");
        assert!(!log.contains("not reloaded"), "{log}");
        log.contains("Receiver has been reloaded")
    });
    assert_eq!(old.run("pxReceiver", &["d", "stop"]).code, 0);
}

#[test]
fn a_receiver_that_has_died_is_locked_until_it_is_started_or_stopped() {
    let old = Old::new();
    let unlinked = "INFO: The receiver p was locked, but not running! The lock has been unlinked!\n";
    old.says("start", "", 0);
    let pid = old.kill();
    old.says(
        "status",
        &format!("** receiver p is locked (PID {pid}) but not running\n"),
        0,
    );
    old.says("reload", "No process to reload for p (receiver None)!\n", 2);
    old.says("start", unlinked, 0);
    old.kill();
    // As a watchdog restarts it.
    old.says("restart", unlinked, 0);
    old.says("status", &format!("Receiver p is running with PID {}\n", old.pid()), 0);
    old.kill();
    old.says("stop", unlinked, 0);
    assert!(!old.lock().exists());
    assert_eq!(old.0.run_ok(&["revive"]), "");
    // px stops what has died too, and leaves nothing that a watchdog would start again.
    old.says("start", "", 0);
    old.kill();
    assert_eq!(old.0.run(&["stop", "p"]).out, "rx/p is not running\n");
    assert!(!old.lock().exists());
    std::fs::write(old.lock(), "no pid").unwrap();
    old.says("status", "* receiver p is not running\n", 0);
    old.says("start", "", 0);
}

#[test]
fn pxchecker_starts_what_has_died_and_tells_it_in_its_log() {
    let old = Old::new();
    old.says("start", "", 0);
    let said = old.run("pxChecker", &[]);
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code), ("", "", 0));
    assert!(!old.0.root().join("log/pxChecker.log").exists());
    let pid = old.kill();
    let said = old.run("pxChecker", &[]);
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code), ("", "", 0));
    assert_ne!(old.pid(), pid);
    let log = old.log("pxChecker.log");
    assert!(
        log.ends_with(" [INFO] Receiver p has been restarted by pxChecker\n"),
        "{log}"
    );
}

/// A process of Sundew's; ended when dropped.
struct Foreign(Child);

impl Foreign {
    fn of(unit: &str) -> Foreign {
        let mut command = Command::new("sh");
        command.args(["-c", "read line", "pxReceiver", unit, "start"]);
        Foreign(command.stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_foreign_process_keeps_its_queue() {
    let old = Old::new();
    let foreign = Foreign::of("p");
    let pid = foreign.0.id();
    std::fs::create_dir_all(old.lock().parent().unwrap()).unwrap();
    std::fs::write(old.lock(), pid.to_string()).unwrap();
    let running = format!("Receiver p is running with PID {pid}\n");
    wait_until("it has arguments", || {
        old.run("pxReceiver", &["p", "status"]).out == running
    });
    let warning = format!("WARNING: The receiver p is already started with PID {pid}, use stop or restart!\n");
    old.says("start", &warning, 2);
    for verb in ["stop", "restart"] {
        let said = old.run("pxReceiver", &["p", verb]);
        assert_eq!((said.out.as_str(), said.code), ("", 1), "{said:?}");
        assert!(
            said.err.contains(&format!("process {pid}")) && said.err.lines().count() == 1,
            "{said:?}"
        );
    }
    let said = old.0.run(&["start", "p"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(&format!("rx/p is run by process {pid}")), "{said:?}");
    let said = old.0.run(&["status", "p"]);
    let line = format!("rx/p  stopped; process {pid} works on its queue (.lock)\n");
    assert_eq!((said.out, said.code), (line, 3));
    let said = old.0.run(&["status", "p", "--json"]).out;
    assert!(said.contains(&format!("\"foreign_pid\": {pid}")), "{said}");
    assert_eq!(old.0.run_ok(&["revive"]), "");
    assert_eq!(old.pid(), pid as i32);
    drop(foreign);
    old.says(
        "start",
        "INFO: The receiver p was locked, but not running! The lock has been unlinked!\n",
        0,
    );
}

#[test]
fn what_cannot_start_is_told() {
    let old = Old::new();
    old.0.write("rx/p.toml", "type = \"pull\"\nbroker = \"own\"\n");
    let said = old.run("pxReceiver", &["p", "start"]);
    assert_eq!((said.out.as_str(), said.code), ("", 1), "{said:?}");
    assert!(said.err.contains("queue: missing"), "{said:?}");
    old.says("status", "* receiver p is not running\n", 0);
    assert!(!old.lock().exists());
}

/// A broker that takes connections and says nothing.
#[test]
fn what_is_not_ready_in_time_is_told() {
    let old = Old::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://u:p@{}/", silent.local_addr().unwrap());
    old.0.write(
        "px.toml",
        &format!("[brokers.own]\nurls = [{url:?}]\nexchange = \"x\"\n"),
    );
    let said = old.run("pxReceiver", &["p", "start"]);
    assert_eq!((said.out.as_str(), said.code), ("", 0), "{said:?}");
    let line = format!("rx/p has been started (pid {}) and is not ready yet: ", old.pid());
    assert!(said.err.starts_with(&line) && said.err.lines().count() == 1, "{said:?}");
}

#[test]
fn what_could_not_start_again_is_not_ended_by_a_restart() {
    let old = Old::new();
    old.says("start", "", 0);
    let pid = old.pid();
    old.0.write("rx/p.toml", "type = \"pull\"\nbroker = \"own\"\n");
    let said = old.run("pxReceiver", &["p", "restart"]);
    assert_eq!((said.out.as_str(), said.code), ("", 1), "{said:?}");
    assert!(said.err.contains("queue: missing"), "{said:?}");
    assert!(said.err.contains("px: rx/p is not restarted: it goes on"), "{said:?}");
    old.says("status", &format!("Receiver p is running with PID {pid}\n"), 0);
}

#[test]
fn what_is_left_to_sundew_is_left() {
    let old = Old::new();
    old.0.write("rx/bulletins.conf", "type collector\n");
    for verb in ["start", "stop", "restart", "reload"] {
        let said = old.run("pxReceiver", &["bulletins", verb]);
        assert_eq!((said.out.as_str(), said.code), ("", 1), "{verb}: {said:?}");
        assert!(
            said.err.contains("left to Sundew") && said.err.lines().count() == 1,
            "{said:?}"
        );
    }
    let status = || old.run("pxReceiver", &["bulletins", "status"]);
    let said = status();
    assert_eq!(
        (said.out.as_str(), said.err.as_str(), said.code),
        ("* receiver bulletins is not running\n", "", 0)
    );
    let foreign = Foreign::of("bulletins");
    let pid = foreign.0.id();
    std::fs::create_dir_all(old.0.root().join("rxq/bulletins")).unwrap();
    std::fs::write(old.0.root().join("rxq/bulletins/.lock"), pid.to_string()).unwrap();
    let running = format!("Receiver bulletins is running with PID {pid}\n");
    wait_until("it has arguments", || status().out == running);
    drop(foreign);
    let died = format!("** receiver bulletins is locked (PID {pid}) but not running\n");
    assert_eq!((status().out, status().code), (died, 0));
}

#[test]
fn the_level_of_the_log_is_the_units() {
    let old = Old::new();
    let said = old.run("pxReceiver", &["-l", "DEBUG", "p", "start"]);
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code), ("", "", 0));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", old.pid())).unwrap();
    let arguments = String::from_utf8(arguments).unwrap();
    assert_eq!(arguments, "px\0run\0--detached\0rx/p\0--level\0debug\0");
}

#[test]
fn graceful_restarts_what_runs_and_nothing_else() {
    let old = Old::new();
    let text = std::fs::read_to_string(old.0.root().join("etc/rx/p.toml")).unwrap();
    old.0.write("rx/q.toml", &text);
    old.0.run_ok(&["start", "p"]);
    let pid = old.pid();
    let said = old.0.run_ok(&["graceful"]);
    assert!(
        said.starts_with("rx/p has been started (pid ") && said.lines().count() == 1,
        "{said}"
    );
    assert_ne!(old.pid(), pid);
    let said = old.0.run(&["graceful", "q"]);
    assert_eq!((said.out.as_str(), said.code), ("rx/q is not running\n", 3));
}
