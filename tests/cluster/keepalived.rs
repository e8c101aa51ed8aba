//! keepalived on a host, with the configuration that the document recommends.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::hosts::on;
use crate::support::{PX, recipe, recipe_with, spawn_kept};

/// One host's.
pub struct Keepalived {
    host: &'static str,
    process: Option<Child>,
    /// The one that does the work, when its parent was killed.
    orphan: Option<Pid>,
}

impl Keepalived {
    /// Writes the configuration; `root` is the px of the host, whose broker its check asks.
    pub fn new(host: &'static str, root: &std::path::Path) -> Keepalived {
        // keepalived runs no script below a directory in which others may write, as that of this program may be.
        let check = format!("/run/px-of-{host}");
        let script = format!("#!/bin/sh\nPX_ROOT='{}' exec '{PX}' \"$@\"\n", root.display());
        std::fs::write(&check, script).expect("check");
        let mut chmod = Command::new("chmod");
        assert!(chmod.args(["755", &check]).status().expect("chmod").success());
        // The interface and the addresses are those of the document: what differs is where px is, and the user px.
        let text = recipe_with(
            "/etc/keepalived/keepalived.conf",
            &[
                ("/usr/bin/px ", &format!("{check} ")),
                ("script_user px", "script_user root"),
            ],
        );
        let keepalived = Keepalived {
            host,
            process: None,
            orphan: None,
        };
        std::fs::write(keepalived.file("conf"), text).expect("keepalived.conf");
        keepalived
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs");
        if let Some(orphan) = self.orphan.take() {
            // Else keepalived says that it runs already. systemd waits for all processes of a unit, too.
            waitpid(Some(orphan), WaitOptions::empty()).expect("the orphan is this process's");
        }
        let words = on(self.host);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        command.arg("--use-file").arg(self.file("conf"));
        command
            .arg("--pid")
            .arg(self.file("pid"))
            .arg("--vrrp_pid")
            .arg(self.file("vrrp.pid"));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .expect("log");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        self.process = Some(spawn_kept(command).expect("ip netns exec"));
    }

    /// SIGTERM: it says goodbye.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// SIGKILL of its parent process; the one that does the work sees that.
    pub fn kill(&mut self) {
        self.orphan = Some(self.child());
        self.end(Signal::KILL);
    }

    /// SIGKILL of all its processes: nobody takes the address away. It is started again, as the document has systemd
    /// do it.
    pub fn kill_all_and_start(&mut self) {
        let restart = recipe("/etc/systemd/system/keepalived.service.d/restart.conf");
        assert!(restart.contains("Restart=always"), "{restart}");
        let child = self.child();
        // Stopped first, it cannot see its parent go.
        kill_process(child, Signal::STOP).expect("signal");
        self.kill();
        kill_process(child, Signal::KILL).expect("signal");
        self.start();
    }

    fn child(&self) -> Pid {
        let text = std::fs::read_to_string(self.file("vrrp.pid")).expect("vrrp.pid");
        text.trim().parse().ok().and_then(Pid::from_raw).expect("a process")
    }

    /// Whether it waits for the other one's end: its check is well, and the address would be taken at once.
    pub fn is_ready(&self) -> bool {
        let said = self.said();
        let state = said.lines().rfind(|line| line.contains(") Entering "));
        state.is_some_and(|line| line.contains("BACKUP"))
    }

    fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("it runs");
        kill_process(Pid::from_child(&process), signal).expect("signal");
        process.wait().expect("wait");
    }

    /// What it has said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/run/keepalived-{}.{name}", self.host))
    }
}
