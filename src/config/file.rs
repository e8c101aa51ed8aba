//! Reading a configuration file, with one clear error for what is none.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{ConfigError, Errors, Table};

/// Far above any real site, far below what hurts.
const LARGEST: u64 = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The file as a table; where it cannot be read, `None` and one error.
pub(super) fn load(path: &Path, errors: &Errors) -> Option<Table> {
    let text = open(path).and_then(|file| read(file, LARGEST));
    table(path, text, errors)
}

/// Like [`load`], but a file that does not exist is not an error.
pub(super) fn load_if_there(path: &Path, errors: &Errors) -> Option<Table> {
    match open(path) {
        Err(fault) if fault.is_missing() => None,
        opened => table(path, opened.and_then(|file| read(file, LARGEST)), errors),
    }
}

/// Like [`load`], for a file of secrets: refused when anyone but its owner can read it, and it never shows a value.
/// A file that does not exist is not an error.
pub(super) fn load_secrets(path: &Path, errors: &Errors) -> Option<Table> {
    let text = match open(path) {
        Err(fault) if fault.is_missing() => return None,
        Err(why) => Err(why),
        Ok(file) => private(&file).and_then(|()| read(file, LARGEST)),
    };
    table(path, text, errors).map(Table::keep_secret)
}

/// The text of one credential, without its final line end. `None` where there is no such file.
pub(super) fn credential(path: &Path) -> Result<Option<String>, String> {
    let told = |fault: Fault| format!("{}: {fault}", path.display());
    let text = match open(path) {
        Err(fault) if fault.is_missing() => return Ok(None),
        Err(fault) => return Err(told(fault)),
        Ok(file) => read(file, 4096).map_err(told)?,
    };
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_string()))
}

/// A file's bytes, within the same bounds, for what need not be UTF-8.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    bytes_up_to(path, LARGEST)
}

/// Like [`bytes`], within a bound of its own.
pub(super) fn bytes_up_to(path: &Path, largest: u64) -> Result<Vec<u8>, Fault> {
    open(path).and_then(|file| read_bytes(file, largest))
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) struct Fault {
    /// 0 for the whole file.
    line: usize,
    why: String,
}

impl Fault {
    /// Whether there is no such file.
    pub(super) fn is_missing(&self) -> bool {
        self.why == MISSING
    }

    /// Whether another day, or another user, may be able to read it.
    pub(super) fn may_pass(&self) -> bool {
        self.is_missing() || self.why.starts_with(UNREADABLE)
    }

    /// The finding about the file.
    pub(super) fn of(self, path: &Path) -> ConfigError {
        ConfigError {
            file: path.to_path_buf(),
            line: self.line,
            key: String::new(),
            value: String::new(),
            accepted: self.why,
            warning: false,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// About the whole file.
fn fault(why: impl Into<String>) -> Fault {
    Fault {
        line: 0,
        why: why.into(),
    }
}

fn unreadable(error: std::io::Error) -> Fault {
    fault(format!("{UNREADABLE}: {error}"))
}

const UNREADABLE: &str = "cannot read";
const MISSING: &str = "no such file";

fn table(path: &Path, text: Result<String, Fault>, errors: &Errors) -> Option<Table> {
    match text {
        Ok(text) => Some(Table::parse(path, &text, errors)),
        Err(fault) => {
            errors.push(fault.of(path));
            None
        }
    }
}

fn open(path: &Path) -> Result<File, Fault> {
    // NONBLOCK: opening a fifo must not wait for its writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path);
    file.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fault(MISSING),
        _ => unreadable(error),
    })
}

/// Whether everybody on the host can read it; what cannot be looked at is for who opens it to tell.
pub(super) fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
}

fn private(file: &File) -> Result<(), Fault> {
    let mode = file.metadata().map_err(unreadable)?.mode();
    if mode & 0o077 != 0 {
        return Err(fault(format!(
            "others can get at these passwords (mode {:04o}); run chmod 0600 on it",
            mode & 0o7777
        )));
    }
    Ok(())
}

fn read(file: File, largest: u64) -> Result<String, Fault> {
    String::from_utf8(read_bytes(file, largest)?).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Fault {
            line: 1 + good.iter().filter(|b| **b == b'\n').count(),
            why: "not UTF-8".to_string(),
        }
    })
}

fn read_bytes(file: File, largest: u64) -> Result<Vec<u8>, Fault> {
    let kind = file.metadata().map_err(unreadable)?.file_type();
    if kind.is_dir() {
        return Err(fault("a directory, not a file"));
    }
    if !kind.is_file() {
        return Err(fault("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(largest + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > largest {
        return Err(fault(format!("larger than {largest} bytes")));
    }
    // What some editors put first is no part of the first word.
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn refusal(path: &Path) -> String {
        let errors = Errors::default();
        assert!(load(path, &errors).is_none());
        errors
            .take()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn what_is_no_configuration_file_is_one_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let name = path.display();
        assert_eq!(refusal(&path), format!("{name}: no such file"));
        std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
        assert_eq!(refusal(&path), format!("{name}:2: not UTF-8"));
        std::fs::write(&path, "#".repeat(10 << 20)).unwrap();
        assert_eq!(refusal(&path), format!("{name}: larger than 1048576 bytes"));
        assert_eq!(
            refusal(dir.path()),
            format!("{}: a directory, not a file", dir.path().display())
        );
        assert_eq!(refusal(Path::new("/dev/null")), "/dev/null: not a regular file");
        let fifo = dir.path().join("fifo.toml");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(refusal(&fifo), format!("{}: not a regular file", fifo.display()));
    }

    #[test]
    fn secrets_that_others_can_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.toml");
        let errors = Errors::default();
        assert!(load_secrets(&path, &errors).is_none() && !errors.refused());
        std::fs::write(&path, "[b]\nu = \"p\"\n").unwrap();
        for (mode, accepted) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(
                load_secrets(&path, &errors).map(Table::finish).is_some(),
                accepted,
                "{mode:o}"
            );
            let refused = errors
                .take()
                .iter()
                .filter(|error| error.accepted.contains("chmod 0600"))
                .count();
            assert_eq!(refused, usize::from(!accepted), "{mode:o}");
        }
    }
}
