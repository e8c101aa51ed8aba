//! Which host keys are trusted: a file in OpenSSH's form, made by the operator. There is no trust on first use.
//!
//! `HOSTS TYPE KEY`, where HOSTS is a list of names with commas, `*`, `?` and `!`, or one hashed name (`|1|…`). A port
//! other than 22 is written `[host]:port`. `@revoked` and `@cert-authority` may stand before it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::known_hosts::HostPatterns;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, PublicKeyOrCertificate, parse_public_key_base64};
use sha1::Sha1;

use crate::message::Fault;
use crate::transfer::peer::Trust;
use crate::transfer::{Kind, TransferError};

/// The system's file, asked after the user's own.
const SYSTEM_FILE: &str = "/etc/ssh/ssh_known_hosts";
const DEFAULT_PORT: u16 = 22;

/// What the files say of one host.
#[derive(Debug)]
pub(super) struct KnownHosts {
    /// The host as the files name it: `host`, or `[host]:port`.
    subject: String,
    /// Without the port, as certificates name it.
    host: String,
    files: Vec<PathBuf>,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    place: String,
    says: Says,
    key: PublicKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    ThisKey,
    Authority,
    Revoked,
}

impl KnownHosts {
    /// Reads what is said of this host. Blocks. A file that the operator names must be there.
    pub(super) fn read(trust: &Trust, host: &str, port: u16) -> Result<KnownHosts, TransferError> {
        let host = host.to_ascii_lowercase();
        let mut known = KnownHosts {
            subject: match port {
                DEFAULT_PORT => host.clone(),
                _ => format!("[{host}]:{port}"),
            },
            host,
            files: Vec::new(),
            lines: Vec::new(),
        };
        match &trust.known_hosts {
            Some(file) => known.read_file(file, true)?,
            None => {
                if let Some(home) = std::env::home_dir() {
                    known.read_file(&home.join(".ssh/known_hosts"), false)?;
                }
                known.read_file(Path::new(SYSTEM_FILE), false)?;
            }
        }
        Ok(known)
    }

    fn read_file(&mut self, file: &Path, must_be: bool) -> Result<(), TransferError> {
        self.files.push(file.to_owned());
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound && !must_be => return Ok(()),
            Err(err) => {
                let what = format!("cannot read the host keys in {}", file.display());
                return Err(TransferError::new(Fault::Own, Kind::Credentials, what).caused_by(err));
            }
        };
        for (number, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            self.read_line(&String::from_utf8_lossy(text), place)?;
        }
        Ok(())
    }

    /// A line that cannot be read trusts nobody, so it does no harm, unless it means to revoke.
    fn read_line(&mut self, text: &str, place: String) -> Result<(), TransferError> {
        let mut words = text.split_ascii_whitespace().peekable();
        let says = match words.peek() {
            None => return Ok(()),
            Some(word) if word.starts_with('#') => return Ok(()),
            Some(&"@revoked") => Says::Revoked,
            Some(&"@cert-authority") => Says::Authority,
            Some(word) if word.starts_with('@') => return Err(bad(&place, "a marker that px does not know")),
            Some(_) => Says::ThisKey,
        };
        if says != Says::ThisKey {
            words.next();
        }
        let hosts = words.next().unwrap_or_default();
        if !matches(hosts, &self.subject) {
            return Ok(());
        }
        let key = words.nth(1).and_then(|text| parse_public_key_base64(text).ok());
        match key {
            Some(key) => self.lines.push(Line { place, says, key }),
            None if says == Says::Revoked => return Err(bad(&place, "a revoked key that px cannot read")),
            None => {}
        }
        Ok(())
    }

    /// The types of keys to ask the server for, those that are known first; and those of certificates, where an
    /// authority is known.
    pub(super) fn order(&self, all: &[Algorithm]) -> (Vec<Algorithm>, Vec<Algorithm>) {
        let is_known = |algorithm: &Algorithm| {
            self.lines
                .iter()
                .any(|line| line.says == Says::ThisKey && is_same_type(&line.key.algorithm(), algorithm))
        };
        let (mut order, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_known);
        order.extend(others);
        let has_authority = self.lines.iter().any(|line| line.says == Says::Authority);
        (order, if has_authority { all.to_vec() } else { Vec::new() })
    }

    /// Whether the server is who it should be; if not, why.
    pub(super) fn check(&self, shown: &PublicKeyOrCertificate, now_s: u64) -> Result<(), String> {
        let key = shown.public_key();
        self.check_revoked(&key)?;
        match shown.certificate() {
            None => self.check_key(&key),
            Some(certificate) => {
                self.check_revoked(&PublicKey::new(certificate.signature_key().clone(), ""))?;
                self.check_certificate(certificate, now_s)
            }
        }
    }

    fn check_revoked(&self, key: &PublicKey) -> Result<(), String> {
        match self.that(Says::Revoked).find(|line| line.is(key)) {
            Some(line) => Err(format!("{} revokes the key that it shows, {}", line.place, Shown(key))),
            None => Ok(()),
        }
    }

    fn check_key(&self, key: &PublicKey) -> Result<(), String> {
        if self.that(Says::ThisKey).any(|line| line.is(key)) {
            return Ok(());
        }
        let of_same_type = self
            .that(Says::ThisKey)
            .find(|line| is_same_type(&line.key.algorithm(), &key.algorithm()));
        match of_same_type.or_else(|| self.that(Says::ThisKey).next()) {
            Some(line) => Err(format!(
                "its host key has changed: {} says {}, it shows {}; this may be an attack, and nothing is sent; if the \
                 new key is right, put it into that line",
                line.place,
                Shown(&line.key),
                Shown(key)
            )),
            None => {
                let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
                Err(format!(
                    "its host key is not known: no line for {} in {}; it shows {}; if that is right, add it",
                    self.subject,
                    files.join(" or "),
                    Shown(key)
                ))
            }
        }
    }

    fn check_certificate(&self, certificate: &Certificate, now_s: u64) -> Result<(), String> {
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        let shown = format!(
            "its host certificate {:?}, signed by {}",
            certificate.key_id(),
            Shown(&authority)
        );
        let Some(line) = self.that(Says::Authority).find(|line| line.is(&authority)) else {
            return Err(format!("{shown}: no line trusts this authority for {}", self.subject));
        };
        if certificate.cert_type() != CertType::Host {
            return Err(format!("{shown}: it is not for hosts"));
        }
        if !certificate
            .valid_principals()
            .iter()
            .any(|pattern| is_like(pattern, &self.host))
        {
            return Err(format!("{shown}: it is not for {}", self.host));
        }
        if !certificate.critical_options().is_empty() {
            return Err(format!("{shown}: it has options that px does not know"));
        }
        certificate
            .validate_at(now_s, [&line.key.fingerprint(HashAlg::Sha256)])
            .map_err(|_| format!("{shown}: it is not valid now, or not signed rightly"))
    }

    fn that(&self, says: Says) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.says == says)
    }
}

impl Line {
    fn is(&self, key: &PublicKey) -> bool {
        self.key.key_data() == key.key_data()
    }
}

/// As `ssh-keygen -l` shows a key.
struct Shown<'a>(&'a PublicKey);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.algorithm(), self.0.fingerprint(HashAlg::Sha256))
    }
}

fn bad(place: &str, what: &str) -> TransferError {
    let what = format!("{place}: {what}; accepted: @revoked and @cert-authority with a key, or none");
    TransferError::new(Fault::Own, Kind::Credentials, what)
}

/// The hash of an RSA signature does not belong to the key.
fn is_same_type(one: &Algorithm, other: &Algorithm) -> bool {
    one == other || matches!((one, other), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

/// Whether a line's list of hosts means this one. A `!` that means it excludes the whole line.
fn matches(hosts: &str, subject: &str) -> bool {
    if hosts.starts_with("|1|") {
        return is_hash_of(hosts, subject);
    }
    let mut is_meant = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if is_like(pattern, subject) => return false,
            Some(_) => {}
            None => is_meant |= is_like(pattern, subject),
        }
    }
    is_meant
}

fn is_hash_of(hashed: &str, subject: &str) -> bool {
    let Ok(HostPatterns::HashedName { salt, hash }) = HostPatterns::from_str(hashed) else {
        return false;
    };
    match Hmac::<Sha1>::new_from_slice(&salt) {
        Ok(mac) => mac.chain_update(subject).verify_slice(&hash).is_ok(),
        Err(_) => false,
    }
}

/// `*` is any run of bytes, `?` is one; case does not count.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // After the last star, and how far the text was when it was met.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[t]) => {
                (p, t) = (p + 1, t + 1);
            }
            _ => match star {
                Some((after, met)) => {
                    star = Some((after, met + 1));
                    (p, t) = (after, met + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests;
