//! Files that a unit names, looked at before they are used: `px check` is where a wrong one should be told of.
//!
//! What somebody can put right without touching the configuration is a warning: a file that is not there, that px
//! cannot read, that is empty, that is not executable. It may come later, or this may be another host. A file that is
//! something else than what is wanted is an error: the unit names the wrong one.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::{Table, file};

const ABSOLUTE: &str = "an absolute path";
/// Of all host keys or CAs of a site.
const LARGEST: u64 = 16 << 20;
/// How the body of an OpenSSH key begins that has no cipher: a magic word, and the length and name of `none`.
const OPENSSH_PLAIN: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";

/// What a file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A private key of SSH, and whether there is a password that may open it.
    PrivateKey {
        /// `password` or `password_file`.
        has_password: bool,
    },
    /// `known_hosts` of OpenSSH.
    HostKeys,
    /// PEM certificates of CAs.
    Certificates,
    /// PEM: px's own certificate and its key.
    CertificateAndKey,
}

impl Wanted {
    /// What is wrong with such a text.
    fn fault(self, text: &str) -> Option<&'static str> {
        let has = |what: &str| text.contains(what);
        match self {
            Wanted::PrivateKey { .. } if is_private(text) && !has("-----BEGIN ") => None,
            Wanted::PrivateKey { .. } if !is_private(text) => Some(match is_public(text) {
                true => "a public key; accepted: the private one, whose name has no .pub",
                false => "no private key is in it; accepted: one of SSH, in OpenSSH's or PEM form",
            }),
            Wanted::PrivateKey { has_password: false } if is_encrypted(text) => {
                Some("the key is encrypted; accepted: with the password or password_file that opens it")
            }
            Wanted::PrivateKey { .. } => None,
            Wanted::HostKeys => {
                let has_key = text
                    .lines()
                    .any(|line| line.split_whitespace().skip(1).any(is_algorithm));
                (!has_key).then_some("no host key is in it; accepted: lines as ssh-keyscan writes them")
            }
            Wanted::Certificates => {
                (!has("-----BEGIN CERTIFICATE-----")).then_some("no certificate is in it; accepted: PEM")
            }
            Wanted::CertificateAndKey if has("BEGIN ENCRYPTED PRIVATE KEY") => Some("px cannot open its encrypted key"),
            Wanted::CertificateAndKey => {
                let is_whole = has("-----BEGIN CERTIFICATE-----") && has("PRIVATE KEY-----");
                (!is_whole).then_some("accepted: PEM with px's certificate and the private key of it")
            }
        }
    }

    /// Whether nobody else may read it.
    fn is_secret(self) -> bool {
        matches!(self, Wanted::PrivateKey { .. } | Wanted::CertificateAndKey)
    }
}

fn is_private(text: &str) -> bool {
    text.contains("PRIVATE KEY-----") || text.starts_with("PuTTY-User-Key-File-")
}

fn is_public(text: &str) -> bool {
    text.contains("PUBLIC KEY-----") || text.split_whitespace().next().is_some_and(is_algorithm)
}

fn is_algorithm(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start))
}

fn is_encrypted(text: &str) -> bool {
    let openssh = text.split_once("BEGIN OPENSSH PRIVATE KEY-----").map(|(_, body)| body);
    let is_plain = |body: &str| {
        let letters: String = body.split_whitespace().collect();
        letters.starts_with(OPENSSH_PLAIN)
    };
    match openssh {
        Some(body) => !is_plain(body),
        None => text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED"),
    }
}

/// `key`, the absolute path of a file. What is wrong with the file is noted, and the path is there all the same unless
/// it is none.
pub fn named_file(table: &mut Table, key: &str, wanted: Wanted) -> Option<PathBuf> {
    let absolute = |text: &str| match text.starts_with('/') && !text.contains('\0') {
        true => Ok(PathBuf::from(text)),
        false => Err(String::new()),
    };
    let path = table.parsed(key, absolute, ABSOLUTE)?;
    match file::bytes_up_to(&path, LARGEST) {
        Err(fault) if fault.may_pass() => table.warn(key, &fault.to_string()),
        Err(fault) => table.refuse(key, &fault.to_string()),
        Ok(bytes) if bytes.is_empty() => table.warn(key, "the file is empty"),
        Ok(bytes) => match wanted.fault(&String::from_utf8_lossy(&bytes)) {
            Some(why) => table.refuse(key, why),
            None if wanted.is_secret() => warn_of_readers(table, key, &path),
            None => {}
        },
    }
    Some(path)
}

/// A warning where others can read what should be secret.
pub(super) fn warn_of_readers(table: &mut Table, key: &str, path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |about| about.permissions().mode());
    if mode & 0o077 != 0 {
        let text = format!(
            "others can get at it (mode {:04o}); run chmod 0600 on it",
            mode & 0o7777
        );
        table.warn(key, &text);
    }
}

/// Notes what keeps a program from being started as things are.
pub fn check_program(table: &mut Table, key: &str, path: &Path) {
    let shown = format!("{:?}", path.to_string_lossy());
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => table.warn(key, &format!("there is no {shown}")),
        Err(error) => table.warn(key, &format!("cannot look at {shown}: {error}")),
        Ok(about) if !about.is_file() => table.refuse(key, &format!("{shown} is no program")),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => {
            table.warn(key, &format!("{shown} is not executable; run chmod +x on it"));
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Errors;

    const PLAIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAA\n";
    const LOCKED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAG\n";
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMII\n";

    #[test]
    fn what_is_something_else_is_an_error() {
        let key = |has_password| Wanted::PrivateKey { has_password };
        let with_key = format!("{CERTIFICATE}-----BEGIN PRIVATE KEY-----\n");
        let table = [
            (key(false), PLAIN, ""),
            (key(false), "-----BEGIN RSA PRIVATE KEY-----\nMII\n", ""),
            (key(false), "PuTTY-User-Key-File-3: ssh-ed25519\n", ""),
            (key(true), LOCKED, ""),
            (key(false), LOCKED, "the key is encrypted"),
            (
                key(false),
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
                "the key is encrypted",
            ),
            (
                key(false),
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
                "the key is encrypted",
            ),
            (key(true), "ssh-ed25519 AAAA me@here\n", "a public key"),
            (key(true), "-----BEGIN PUBLIC KEY-----\n", "a public key"),
            (key(true), CERTIFICATE, "no private key"),
            (Wanted::HostKeys, "h ssh-rsa AAAA\n", ""),
            (
                Wanted::HostKeys,
                "# c\n@cert-authority * ecdsa-sha2-nistp256 AAAA\n",
                "",
            ),
            (Wanted::HostKeys, PLAIN, "no host key"),
            (Wanted::Certificates, CERTIFICATE, ""),
            (Wanted::Certificates, PLAIN, "no certificate"),
            (Wanted::CertificateAndKey, with_key.as_str(), ""),
            (
                Wanted::CertificateAndKey,
                CERTIFICATE,
                "accepted: PEM with px's certificate",
            ),
        ];
        for (wanted, text, start) in table {
            let fault = wanted.fault(text).unwrap_or_default();
            assert!(
                fault.starts_with(start) && fault.is_empty() == start.is_empty(),
                "{wanted:?} {text}: {fault}"
            );
        }
    }

    #[test]
    fn what_may_come_later_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("empty"), "").unwrap();
        std::fs::write(at("key"), PLAIN).unwrap();
        std::fs::set_permissions(at("key"), PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::write(at("program"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(at("program"), PermissionsExt::from_mode(0o644)).unwrap();
        let said = |name: &str, read: &dyn Fn(&mut Table)| {
            let text = format!("k = {:?}\n", at(name));
            let table = Table::parse(Path::new("t.toml"), &text, &Errors::default());
            let (_, found) = table.read_whole(|table| {
                read(table);
                Some(())
            });
            found.first().map(|one| (one.warning, one.accepted.clone()))
        };
        let wanted = Wanted::PrivateKey { has_password: false };
        let file = |table: &mut Table| assert!(named_file(table, "k", wanted).is_some());
        let program = |name: &'static str| {
            let path = at(name);
            move |table: &mut Table| {
                table.know("k");
                check_program(table, "k", &path);
            }
        };
        let table = [
            (said("missing", &file), true, "no such file"),
            (said("empty", &file), true, "the file is empty"),
            (said("key", &file), true, "others can get at it (mode 0644)"),
            (said("", &file), false, "a directory"),
            (said("missing", &program("missing")), true, "there is no"),
            (said("program", &program("program")), true, ""),
            (said("", &program("")), false, ""),
        ];
        for (found, warning, part) in table {
            let (is_warning, text) = found.unwrap();
            assert!(is_warning == warning && text.contains(part), "{part}: {text}");
        }
    }
}
