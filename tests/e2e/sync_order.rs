//! The order of the system calls by which one product becomes safe and its delivery is settled.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::{Feed, ProductServer, SOON, TestBroker, TestSite, spawn_kept, v02, wait_until};

const UNIT: &str = "rx/pull";
const CALLS: &str = "trace=fsync,fdatasync,sync_file_range,syncfs,sync,rename,renameat,renameat2,link,linkat,\
                     write,writev,sendto,sendmsg";
/// Class 60 (basic), method 80 (ack).
const ACK: &str = r"\x00\x3c\x00\x50";

/// One system call: where in the trace it began and where it returned.
#[derive(Debug, Clone)]
struct Call {
    text: String,
    began: usize,
    ended: usize,
}

/// The calls of a trace; those interrupted by other threads put together again.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: Vec<(String, Call)> = Vec::new();
    let mut all = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((pid, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            let call = Call {
                text: begin.to_owned(),
                began: at,
                ended: usize::MAX,
            };
            open.push((pid.to_owned(), call));
        } else if rest.starts_with("<... ") {
            if let Some(found) = open.iter().position(|(other, _)| other == pid) {
                let (_, mut call) = open.remove(found);
                call.text += rest;
                call.ended = at;
                all.push(call);
            }
        } else {
            all.push(Call {
                text: rest.to_owned(),
                began: at,
                ended: at,
            });
        }
    }
    all
}

/// Runs one product through a pull worker under strace, and answers with the calls.
fn trace_of_one_product(name: &str, options: &str) -> (TestSite, Vec<Call>) {
    let broker = TestBroker::new(name);
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let site = TestSite::new(&broker);
    site.puller(UNIT, &format!("mirror = true\n{options}"));
    let server = ProductServer::start();
    server.serve("a/b/product", b"bytes");
    let mut unit = site.run_ready(UNIT);
    let output = site.path("trace");
    let mut strace = Command::new("setpriv");
    strace.args([
        "--pdeathsig",
        "KILL",
        "strace",
        "-f",
        "-yy",
        "-x",
        "-s",
        "64",
        "-e",
        CALLS,
        "-o",
    ]);
    strace.arg(&output).args(["-p", &unit.pid().to_string()]);
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut strace = spawn_kept(strace).expect("strace");
    let said = Arc::new(Mutex::new(String::new()));
    let (listen, stderr) = (Arc::clone(&said), strace.stderr.take().expect("stderr"));
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            listen.lock().expect("whole").push_str(&line);
        }
    });
    wait_until(SOON, "strace is attached", || {
        said.lock().expect("whole").contains("attached")
    });
    feed.announce(v02(&server.url(), "a/b/product", b"bytes"));
    site.wait_that("it has arrived", || site.arrived("a/b/product").is_some());
    site.wait_that("it is acked", || {
        std::fs::read_to_string(&output).unwrap_or_default().contains(ACK)
    });
    assert!(unit.terminate().success()); // strace ends with it
    strace.wait().expect("strace");
    let trace = std::fs::read_to_string(&output).expect("trace");
    let calls = calls(&trace);
    (site, calls)
}

fn is_sync(call: &Call) -> bool {
    ["fsync(", "fdatasync(", "sync_file_range(", "syncfs(", "sync("]
        .iter()
        .any(|name| call.text.starts_with(name))
}

fn is_rename_to(call: &Call, name: &str) -> bool {
    let is_move = call.text.starts_with("rename") || call.text.starts_with("link");
    is_move && call.text.contains(&format!("\"{name}\""))
}

fn is_below(call: &Call, directory: &Path) -> bool {
    call.text.contains(&directory.display().to_string())
}

#[track_caller]
fn only<'a>(calls: &'a [Call], what: &str, is_it: impl Fn(&Call) -> bool) -> &'a Call {
    let found: Vec<&Call> = calls.iter().filter(|call| is_it(call)).collect();
    assert_eq!(found.len(), 1, "{what}: {found:#?} of {calls:#?}");
    found[0]
}

#[test]
fn power_syncs_the_file_renames_it_syncs_its_directory_and_then_acks() {
    let (site, calls) = trace_of_one_product("power", "sync = \"power\"\n");
    let data = site.path("data");
    let rename = only(&calls, "rename", |call| is_rename_to(call, "product"));
    let ack = only(&calls, "ack", |call| call.text.contains(ACK));
    let file_sync = calls
        .iter()
        .find(|call| call.text.starts_with("fdatasync(") && is_below(call, &data))
        .unwrap_or_else(|| panic!("no fdatasync: {calls:#?}"));
    assert!(file_sync.ended < rename.began, "{file_sync:?} {rename:?}");
    let directory = format!("{}>", data.join("a/b").display());
    let directory_sync = calls
        .iter()
        .filter(|call| call.text.starts_with("fsync(") && call.text.contains(&directory))
        .find(|call| call.began > rename.ended)
        .unwrap_or_else(|| panic!("no fsync of the directory after the rename: {calls:#?}"));
    assert!(directory_sync.ended < ack.began, "{directory_sync:?} {ack:?}");
    // New directories are names in their parents: those are synced before the ack too.
    for parent in [data.clone(), data.join("a")] {
        let parent = format!("{}>", parent.display());
        let synced = calls
            .iter()
            .any(|call| call.text.starts_with("fsync(") && call.text.contains(&parent) && call.ended < ack.began);
        assert!(synced, "{parent} is not synced: {calls:#?}");
    }
}

#[test]
fn crash_renames_and_acks_without_a_sync() {
    let (site, calls) = trace_of_one_product("crash", "sync = \"crash\"\n");
    let data = site.path("data");
    let rename = only(&calls, "rename", |call| is_rename_to(call, "product"));
    let ack = only(&calls, "ack", |call| call.text.contains(ACK));
    assert!(rename.ended < ack.began, "{rename:?} {ack:?}");
    let syncs: Vec<&Call> = calls
        .iter()
        .filter(|call| is_sync(call) && is_below(call, &data))
        .collect();
    assert!(syncs.is_empty(), "{syncs:#?}");
}
