//! Three hosts on one switch, as network namespaces: two brokers and a client. The addresses are the seed's, for nothing
//! leaves the namespaces; what shows in them is real: interfaces, carriers, ARP, resets.

use std::fs::File;
use std::process::Command;

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The two that run brokers.
pub const BUNNIES: [&str; 2] = ["bunny1", "bunny2"];
/// The third host.
pub const CLIENT: &str = "client";
/// The one that moves.
pub const VIP: &str = "142.135.12.59";
const HOSTS: [(&str, &str); 3] = [
    ("bunny1", "142.135.12.57"),
    ("bunny2", "142.135.12.58"),
    (CLIENT, "142.135.12.60"),
];
const SWITCH: &str = "sw";

/// The host's own address.
pub fn address_of(host: &str) -> &'static str {
    let found = HOSTS.iter().find(|(name, _)| *name == host);
    found.expect("one of the hosts").1
}

/// Builds the network, with files of its own below `/run`; from then on this thread, and what it starts, is on the
/// client host. Only for a process with namespaces of its own: it mounts over `/run` and `/etc/hosts`.
pub fn hosts_up() {
    run("mount --make-rprivate /");
    run("mount -t tmpfs -o mode=755 tmpfs /run");
    let mut names = format!("127.0.0.1 localhost\n{VIP} bunny-op\n");
    for (host, address) in HOSTS {
        names += &format!("{address} {host}\n");
    }
    std::fs::write("/run/hosts", names).expect("/run/hosts");
    run("mount --bind /run/hosts /etc/hosts");
    run("ip link set lo up");
    run(&format!("ip netns add {SWITCH}"));
    run(&format!("ip -n {SWITCH} link add br0 type bridge"));
    run(&format!("ip -n {SWITCH} link set br0 up"));
    for (host, address) in HOSTS {
        run(&format!("ip netns add {host}"));
        run(&format!(
            "ip -n {host} link add eth0 type veth peer name to-{host} netns {SWITCH}"
        ));
        run(&format!("ip -n {SWITCH} link set to-{host} master br0 up"));
        run(&format!("ip -n {host} address add {address}/24 dev eth0"));
        run(&format!("ip -n {host} link set lo up"));
        run(&format!("ip -n {host} link set eth0 up"));
    }
    let client = File::open("/run/netns/client").expect("the client host");
    move_into_link_name_space(client.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
}

/// Puts a command onto a host: these words, then the command's. They are exec'ed: the process stays the same.
pub fn on(host: &str) -> [&str; 4] {
    ["ip", "netns", "exec", host]
}

/// Nothing passes the host's cable any more, and nobody is told: its interface stays up.
pub fn cut(host: &str) {
    set_port(host, 0);
}

/// The cable works again.
pub fn heal(host: &str) {
    set_port(host, 3);
}

fn set_port(host: &str, state: u8) {
    run(&format!(
        "ip netns exec {SWITCH} bridge link set dev to-{host} state {state}"
    ));
}

/// Whether the address that moves is there now.
pub fn has_vip(host: &str) -> bool {
    run(&format!("ip -n {host} -o address show dev eth0")).contains(&format!(" {VIP}/"))
}

/// Runs a command of plain words; its output.
#[track_caller]
fn run(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
