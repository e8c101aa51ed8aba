//! Whether a password is the one that a broker keeps: base64 of four bytes of salt and the hash of salt and password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use sha2::{Sha256, Sha512};

const SALT: usize = 4;

const SHA256: &str = "rabbit_password_hashing_sha256";
const SHA512: &str = "rabbit_password_hashing_sha512";
/// Brokers that name none are of the time before they had a choice.
const MD5: [&str; 2] = ["rabbit_password_hashing_md5", ""];

/// Whether [`is_hash_of`] can tell.
pub(super) fn is_known(algorithm: &str) -> bool {
    [SHA256, SHA512].contains(&algorithm) || MD5.contains(&algorithm)
}

/// False also where the hash is none, or by an algorithm that is unknown here.
pub(super) fn is_hash_of(hash: &str, algorithm: &str, password: &str) -> bool {
    let Ok(kept) = STANDARD.decode(hash) else { return false };
    let Some((salt, kept)) = kept.split_at_checked(SALT) else {
        return false;
    };
    let salted = [salt, password.as_bytes()].concat();
    match algorithm {
        algorithm if MD5.contains(&algorithm) => Md5::digest(&salted)[..] == *kept,
        SHA256 => Sha256::digest(&salted)[..] == *kept,
        SHA512 => Sha512::digest(&salted)[..] == *kept,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_keeps_is_told_from_another_password() {
        // As RabbitMQ 3.10.8 answers for its own guest.
        let guest = "iFHLaF7029PWOs+VK7lbOKdnAh6k/Wa99X65SlJG56GukuMP";
        let by = "rabbit_password_hashing_sha256";
        assert!(is_hash_of(guest, by, "guest"));
        assert!(!is_hash_of(guest, by, "Guest") && !is_hash_of(guest, by, ""));
        for other in [
            "rabbit_password_hashing_sha512",
            "rabbit_password_hashing_md5",
            "",
            "new",
        ] {
            assert!(!is_hash_of(guest, other, "guest"), "{other}");
        }
        let salted = |hash: &[u8]| STANDARD.encode([b"salt", hash].concat());
        let long = salted(&Sha512::digest(b"saltpw"));
        assert!(is_hash_of(&long, "rabbit_password_hashing_sha512", "pw"));
        let old = salted(&Md5::digest(b"saltpw"));
        assert!(is_hash_of(&old, "rabbit_password_hashing_md5", "pw") && is_hash_of(&old, "", "pw"));
    }

    #[test]
    fn no_hash_is_no_password() {
        for none in ["", "AAAA", "AAAAAA==", "not base64"] {
            assert!(!is_hash_of(none, "rabbit_password_hashing_sha256", ""), "{none}");
        }
    }
}
