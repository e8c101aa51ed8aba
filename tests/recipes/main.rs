//! docs/broker.md, done as it is written: its files configure real servers, its commands are typed.

use std::path::Path;
use std::process::Command;

mod join;
mod keepalived;
mod ldap;
mod node;
mod permissions;
mod sites;
mod slapd;
#[path = "../support/mod.rs"]
mod support;
mod titles;

/// Runs commands of the document in a directory, until one fails.
#[track_caller]
fn type_in(directory: &Path, commands: &str) -> String {
    let output = Command::new("bash")
        .args(["-euc", commands])
        .current_dir(directory)
        .output()
        .expect("bash");
    assert!(output.status.success(), "{output:?}\n{commands}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
