//! A network of the test's own: what a configuration names stands there, whatever stands elsewhere.

use std::path::Path;
use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Puts this test's thread, and what it starts from now on, into a network with a loopback of its own, where these
/// names mean 127.0.0.1. Call it before anything else; it needs root. `hosts` is a file that outlives the test's work.
pub fn enter_own_network(hosts: &Path, names: &[&str]) {
    std::fs::write(hosts, format!("127.0.0.1 localhost {}\n", names.join(" "))).expect("hosts");
    // SAFETY: namespaces of this thread and of its later children change; no descriptor or memory does.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::FS) }
        .expect("a network of its own: this test needs root");
    for command in [
        "mount --make-rprivate /".to_owned(),
        format!("mount --bind {} /etc/hosts", hosts.display()),
        "ip link set lo up".to_owned(),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let ended = Command::new(words[0]).args(&words[1..]).status().expect(words[0]);
        assert!(ended.success(), "{command}");
    }
}
