//! The delivering sender as a process, with directories of this host as its destination: what arrives and under which
//! name, what is left in the queue; killed, held up, told to stop.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{TestSite, files_below};

mod announced;
mod changed;
mod scripted;
mod servers;
mod trouble;

const UNIT: &str = "tx/dd";
const LONG: Duration = Duration::from_secs(120);
const RADAR: &str = "2013_XSS.gif:URP:XSS:RADAR:GIF::20130606144709";

struct World {
    site: TestSite,
}

/// A unit that delivers into `data/` of the root; `more` are further options.
fn world(more: &str) -> World {
    let site = TestSite::with_site_file("");
    site.unit(UNIT, &format!("type = \"deliver\"\ndestination = \"file:\"\n{more}"));
    World { site }
}

const PLAIN: &str = "directory = \"{root}/data\"\n";

impl World {
    fn queued(&self, below: &str) -> PathBuf {
        self.site.path("txq/dd").join(below)
    }

    /// Puts a file into the queue as Sundew does: whole, by a rename.
    fn drop(&self, below: &str, bytes: impl AsRef<[u8]>) {
        let path = self.queued(below);
        self.site.write("txq/dd/new.tmp", bytes);
        std::fs::create_dir_all(path.parent().expect("an hour")).expect("hour");
        std::fs::rename(self.queued("new.tmp"), path).expect("rename");
    }

    /// Everything in the queue of files, by path.
    fn left(&self) -> Vec<String> {
        let root = self.queued("");
        let mut left: Vec<String> = files_below(&root)
            .iter()
            .map(|path| path.strip_prefix(&root).expect("below").to_string_lossy().into_owned())
            .filter(|path| path != ".lock")
            .collect();
        left.sort();
        left
    }

    #[track_caller]
    fn wait_left(&self, left: &[&str]) {
        self.site
            .wait_that_for(LONG, &format!("{left:?} is left"), || self.left() == left);
    }

    /// What lies in `data/`.
    fn arrived(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.site.names().into_iter();
        names
            .map(|name| {
                let bytes = self.site.arrived(&name).unwrap_or_default();
                (name, bytes)
            })
            .collect()
    }

    /// The names in the queue of what was delivered, in order.
    fn told(&self) -> Vec<String> {
        let said = self.site.said(UNIT);
        let lines = said.lines().filter(|line| line.contains(" delivered to "));
        lines
            .map(|line| {
                let path = line.split(' ').nth(6).expect("seventh column");
                path.rsplit('/').next().unwrap_or_default().to_owned()
            })
            .collect()
    }

    fn says(&self, end: &str) -> bool {
        self.site.said(UNIT).lines().any(|line| line.ends_with(end))
    }
}

fn bulletin(name: &str, priority: u8, second: usize) -> String {
    format!("{name}:ncp1:CWAO:SA:{priority}:Direct:2026112112{second:04}")
}

#[test]
fn masks_say_where_a_product_goes_and_under_which_name() {
    let world = world(
        r#"
directory = "{root}/data/${RYYYY}"
chmod = "640"
masks = [
    { reject = '.*part' },
    { accept = '.*:URP:(...):(RADAR)', directory = "{root}/data/radar/${0}", filename = "NONE" },
    { accept = '.*:ncp1:', filename = "DESTFN=latest" },
    { accept = 'wants', filename = "NONE" },
]
"#,
    );
    let unit = world.site.run_ready(UNIT);
    let lock = std::fs::read_to_string(world.queued(".lock")).expect(".lock");
    assert_eq!(lock, unit.pid().to_string());
    let latest = bulletin("SACN31_CWAO_300651", 3, 0);
    for (name, body) in [
        (RADAR, "radar"),
        (latest.as_str(), "first"),
        ("a.part", "no"),
        ("wants:more", "x"),
    ] {
        world.drop(&format!("3/2026112112/{name}"), body);
    }
    world.wait_left(&["PROBLEM/wants:more"]);
    let arrived = world.arrived();
    let names: Vec<&str> = arrived.keys().map(String::as_str).collect();
    assert_eq!(names, ["2026/latest", "radar/XSS/2013_XSS.gif:URP:XSS:RADAR:GIF"]);
    assert_eq!(arrived["2026/latest"], b"first");
    let mode = std::fs::metadata(world.site.path("data/2026/latest"))
        .expect("there")
        .permissions();
    assert_eq!(mode.mode() & 0o7777, 0o640);
    // What is there is replaced.
    world.drop(&format!("3/2026112112/{latest}"), "second");
    world.wait_left(&["PROBLEM/wants:more"]);
    assert_eq!(world.arrived()["2026/latest"], b"second");
    world.site.wait_count(UNIT, "delivered", 3);
    world.site.wait_count(UNIT, "failed", 1);
    world.site.wait_count(UNIT, "rejected", 1);
    assert_eq!(world.site.count(UNIT, "delivered_bytes"), 16);
    let root = world.site.root().display();
    let said = world.site.said(UNIT);
    for line in [
        "[INFO] Initialisation of client dd".to_string(),
        format!("[INFO] No destination name: {root}/txq/dd/3/2026112112/a.part has been erased"),
    ] {
        assert!(said.lines().any(|said| said.ends_with(&line)), "{line}\n{said}");
    }
    assert!(said.contains(" files will be sent\n"), "{said}");
    let line = format!(
        "[INFO] (5 Bytes) File {root}/txq/dd/3/2026112112/{RADAR} delivered to file://{root}/data/radar/XSS/\
         2013_XSS.gif:URP:XSS:RADAR:GIF (lat="
    );
    assert!(said.contains(&line), "{line}\n{said}");
}

#[test]
fn products_leave_in_the_order_of_their_names_over_one_connection() {
    let world = world(&format!("{PLAIN}batch = 3\n"));
    // The first batch: all of 0, of 1 and of the first hour of 3; the rest has to wait, whatever its names say.
    let first = [
        format!("3/2026112110/{}", bulletin("a", 1, 9)),
        "3/2026112110/pds:URP:XSS:RADAR:GIF::20130606144709".to_owned(),
        format!("0/2026112111/{}", bulletin("b", 3, 1)),
        format!("1/2026112111/{}", bulletin("c", 3, 1)),
        format!("3/2026112110/{}", bulletin("d", 3, 2)),
        format!("3/2026112110/{}", bulletin("e", 5, 0)),
    ];
    let later = [
        format!("3/2026112111/{}", bulletin("f", 0, 0)),
        format!("3/2026112111/{}", bulletin("g", 1, 0)),
        format!("5/2026112101/{}", bulletin("h", 2, 0)),
    ];
    for path in later.iter().chain(&first).rev() {
        world.drop(path, path);
    }
    let never = ["3/2026112110/.dot", "3/2026112110/half.tmp", "3/a", "GIF/2026112110/a"];
    for path in never {
        world.drop(path, "never");
    }
    let _unit = world.site.run_ready(UNIT);
    world.wait_left(&never);
    world
        .site
        .wait_that("all are told of", || world.told().len() == first.len() + later.len());
    let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted: Vec<String> = first.iter().chain(&later).map(name).collect();
    assert_eq!(world.told(), wanted);
}

/// Some thousand products are on their way when one is put into 0: it does not wait for them.
#[test]
fn a_retransmission_overtakes_a_long_queue() {
    const COUNT: usize = 4000;
    let world = world(&format!("{PLAIN}sync = \"crash\"\nbatch = 20\n"));
    for n in 0..COUNT {
        world.drop(&format!("3/2026112112/{}", bulletin(&format!("f{n}"), 3, n)), "x");
    }
    let _unit = world.site.run_ready(UNIT);
    world.site.wait_that("some are delivered", || !world.told().is_empty());
    // By its name it comes last.
    let urgent = bulletin("urgent", 5, 9999);
    world.drop(&format!("0/2026112112/{urgent}"), "urgent");
    world.wait_left(&[]);
    world
        .site
        .wait_that("all are told of", || world.told().len() == COUNT + 1);
    let place = world.told().iter().position(|name| *name == urgent).expect("delivered");
    assert!(place < COUNT - COUNT / 4, "{place} of {COUNT}");
}

#[test]
fn the_same_content_is_delivered_once_but_retransmissions_always() {
    let world = world(&format!("{PLAIN}duplicates = {{}}\nconnections = 4\n"));
    // While the first is in flight, the second waits for its verdict.
    for name in ["a", "b"] {
        world.drop(&format!("3/2026112112/{name}"), "same");
    }
    let mut unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    for path in ["0/2026112112/c", "4/2026112112/d", "0/2026112112/e"] {
        world.drop(path, "same");
        world.wait_left(&[]);
    }
    world.drop("3/2026112112/f", "other");
    world.wait_left(&[]);
    let names: Vec<String> = world.arrived().into_keys().collect();
    assert_eq!(names, ["a", "c", "e", "f"]);
    world.site.wait_count(UNIT, "suppressed", 2);
    for name in ["b", "d"] {
        let line = format!("[INFO] suppressed duplicate send {name}");
        assert!(world.says(&line), "{}", world.site.logs());
    }
    // Nothing is known after a restart.
    assert!(unit.terminate().success());
    let _unit = world.site.run_ready(UNIT);
    world.drop("3/2026112112/g", "same");
    world.wait_left(&[]);
    assert!(world.arrived().contains_key("g"));
}

/// Killed at any moment, each product arrives, whole and under its own name.
#[test]
fn nothing_is_lost_when_it_is_killed_again_and_again() {
    const COUNT: usize = 2000;
    let world = world(&format!("{PLAIN}connections = 4\n"));
    let body = |n: usize| format!("{n};").repeat(1 + n * 7 % 900);
    for n in 0..COUNT {
        world.drop(&format!("{}/2026112112/p{n}:a:b:c:3::20261121120000", n % 6), body(n));
    }
    for kill in 1..=6 {
        let mut unit = world.site.run_ready(UNIT);
        let wanted = COUNT * kill / 8;
        world
            .site
            .wait_that_for(LONG, "more is delivered", || COUNT - world.left().len() >= wanted);
        unit.kill();
    }
    let mut unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    assert!(unit.terminate().success());
    let mut arrived = world.arrived();
    // What a killed process had in the making is a name that nobody looks at.
    arrived.retain(|name, _| !name.ends_with(".tmp"));
    assert_eq!(arrived.len(), COUNT);
    for n in 0..COUNT {
        assert!(arrived[&format!("p{n}")] == body(n).as_bytes(), "p{n}");
    }
    // Without a kill none is delivered twice; with six, no more than what was in hand.
    assert!(world.told().len() <= COUNT + 6 * 256, "{}", world.told().len());
    assert!(world.site.status(UNIT).expect("status")["counts"]["failed"] == 0);
}

/// A whole file is what is seen, at any moment and under any lock.
#[test]
fn told_to_stop_it_finishes_what_is_in_hand_and_no_more() {
    let world = world(&format!(
        "{PLAIN}lock = \"umask\"\nchmod = \"644\"\nbandwidth = \"400kB\"\n"
    ));
    for n in 0..40 {
        world.drop(&format!("3/2026112112/p{n:02}"), vec![b'x'; 50_000]);
    }
    let mut unit = world.site.run_ready(UNIT);
    world.site.wait_count(UNIT, "delivered", 2);
    assert!(unit.terminate().success());
    let (left, arrived) = (world.left().len(), world.arrived());
    assert!((20..40).contains(&left), "{left} are left");
    assert_eq!(arrived.len() + left, 40);
    assert!(arrived.values().all(|bytes| bytes.len() == 50_000));
    assert!(world.says("Sender dd (type: single-file) has been stopped"));
    world
        .site
        .unit(UNIT, &format!("type = \"deliver\"\ndestination = \"file:\"\n{PLAIN}"));
    let unit = world.site.run_ready(UNIT);
    world.wait_left(&[]);
    unit.signal(Signal::HUP);
    world
        .site
        .wait_that("it is reloaded", || world.says("Sender FTP has been reloaded"));
    assert_eq!(world.arrived().len(), 40);
}
