//! Small disks that fill up, for one process alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Process, TestSite};

/// Runs the unit with a file system of 2 MiB of its own on a directory of the root.
pub fn run_with_small_disk(site: &TestSite, unit: &str, directory: &str) -> Process {
    let directory = site.path(directory);
    std::fs::create_dir_all(&directory).expect("directory");
    let script = r#"mount -t tmpfs -o size=2m px-test "$0" && exec "$@""#;
    let directory = directory.to_str().expect("text");
    let process = site.run_as(unit, &["unshare", "-m", "sh", "-c", script, directory], &[]);
    site.wait_ready(unit, process.pid());
    process
}

/// Fills the file system that the process sees there.
pub fn fill_disk(process: &Process, directory: &Path) -> PathBuf {
    let ballast = process.sees(directory).join("ballast");
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&ballast)
        .expect("ballast");
    let mut block = vec![0; 64 << 10];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    ballast
}

/// Makes the file system that the process sees there read-only (`ro`), or writable again (`rw`).
pub fn remount(process: &Process, directory: &Path, how: &str) {
    let pid = process.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid, "-m", "mount", "-o", &format!("remount,{how}")]);
    assert!(command.arg(directory).status().expect("nsenter").success());
}
