//! Products go to real servers, which die and return.

use std::collections::BTreeMap;
use std::path::Path;

use super::{LONG, UNIT, World};
use crate::support::{FtpServer, FtpTls, Ftpd, SshServer, TestSite, WebServer, files_below};

const COUNT: usize = 120;

/// A server that dies and returns.
trait Mortal {
    fn kill(&mut self);
    fn start_again(&mut self);
}

impl Mortal for FtpServer {
    fn kill(&mut self) {
        FtpServer::kill(self);
    }

    fn start_again(&mut self) {
        FtpServer::start_again(self);
    }
}

impl Mortal for SshServer {
    fn kill(&mut self) {
        SshServer::kill(self);
    }

    fn start_again(&mut self) {
        SshServer::start_again(self);
    }
}

impl Mortal for WebServer {
    fn kill(&mut self) {
        WebServer::kill(self);
    }

    fn start_again(&mut self) {
        WebServer::start_again(self);
    }
}

fn to(text: &str) -> World {
    let site = TestSite::with_site_file("");
    let rest = "connections = 3\nbandwidth = \"300kB\"\ndirectory = \"in/${RYYYY}\"\nread_timeout = \"5s\"\n";
    site.unit(UNIT, &format!("type = \"deliver\"\n{text}{rest}"));
    World { site }
}

fn body(n: usize) -> Vec<u8> {
    format!("{n};").into_bytes().repeat(5000)
}

/// Dies when some are delivered, and returns when that has been noticed: all of them arrive whole, and none is at
/// fault.
fn survives(world: &World, named: &str, below: &Path, server: &mut dyn Mortal) {
    for n in 0..COUNT {
        let name = format!("p{n}:a:b:c:3::20261121120000");
        world.drop(&format!("3/2026112112/{name}"), body(n));
    }
    let mut unit = world.site.run_ready(UNIT);
    world.site.wait_count(UNIT, "delivered", 10);
    server.kill();
    let paused = format!("paused: cannot deliver to {named}: ");
    world.site.wait_state(UNIT, &paused);
    assert!(!world.left().is_empty());
    unit.assert_runs();
    server.start_again();
    world.wait_left(&[]);
    world.site.wait_state(UNIT, "running");
    let arrived: BTreeMap<String, Vec<u8>> = files_below(below)
        .iter()
        .map(|path| {
            let name = path.strip_prefix(below).expect("below").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("product"))
        })
        .filter(|(name, _)| !name.ends_with(".tmp"))
        .collect();
    assert_eq!(arrived.len(), COUNT, "{:?}", arrived.keys());
    for n in 0..COUNT {
        assert!(arrived[&format!("in/2026/p{n}")] == body(n), "p{n}");
    }
    assert_eq!(world.site.count(UNIT, "failed"), 0);
    assert!(unit.terminate().success());
    let said = world.site.said(UNIT);
    assert!(
        !said.contains("pw") && said.contains(&format!(" delivered to {named}")),
        "{said}"
    );
}

#[test]
fn an_ftp_server_that_dies_is_waited_for() {
    let mut server = FtpServer::start(Ftpd::Proftpd, FtpTls::None);
    let home = server.home().to_owned();
    let named = format!("ftp://u@127.0.0.1:{}", server.port);
    let world = to(&format!("destination = \"{named}\"\npassword = \"pw\"\n"));
    survives(&world, &named, &home, &mut server);
}

#[test]
fn an_sftp_server_that_dies_is_waited_for() {
    let mut server = SshServer::start();
    let home = server.home().to_owned();
    let named = format!("sftp://u@127.0.0.1:{}", server.port);
    let peer = server.peer_by_key();
    let (key, hosts) = (
        peer.login.key_file.expect("key"),
        peer.trust.known_hosts.expect("hosts"),
    );
    let world = to(&format!(
        "destination = \"{named}\"\nkey_file = {key:?}\nknown_hosts = {hosts:?}\n"
    ));
    survives(&world, &named, &home, &mut server);
}

#[test]
fn a_webdav_server_that_dies_is_waited_for() {
    let mut server = WebServer::start();
    let below = server.files().join("dav");
    let url = server.url("/dav/");
    let destination = url.replace("http://", "http://u@");
    let world = to(&format!(
        "destination = \"{destination}\"\npassword = \"pw\"\nwebdav = true\n"
    ));
    survives(&world, &url, &below, &mut server);
}

#[test]
fn a_server_that_lets_nobody_in_holds_everything_and_is_told_of() {
    let server = FtpServer::start(Ftpd::Python, FtpTls::None);
    let world = to(&format!(
        "destination = \"ftp://u@127.0.0.1:{}\"\npassword = \"canary\"\n",
        server.port
    ));
    for n in 0..5 {
        world.drop(&format!("3/2026112112/p{n}:a:b:c:3::20261121120000"), "x");
    }
    let mut unit = world.site.run_ready(UNIT);
    world.site.wait_state(
        UNIT,
        &format!("paused: cannot deliver to ftp://u@127.0.0.1:{}: ", server.port),
    );
    assert_eq!(world.left().len(), 5);
    unit.assert_runs();
    let said = world.site.said(UNIT);
    assert!(!said.contains("canary"), "{said}");
    world.site.wait_that_for(LONG, "px status shows it", || {
        let said = world.site.px(&["status", UNIT]);
        said.out.contains("paused: cannot deliver") && !said.out.contains("canary")
    });
}
