//! When two announcements are of one product: the key they are remembered by, and what a repeat is.

use sha2::{Digest, Sha512};

use super::{Announcement, DigestOf, Identity, Method, identity, product_name};

/// By what announcements count as the same product: `seen.by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// A digest of the name alone; another identity with the path; without one, the path.
    #[default]
    Auto,
    /// The identity alone.
    Identity,
    /// The first five colon fields of the file name.
    Name,
    /// The path below the base.
    Path,
}

impl By {
    /// The name in TOML.
    pub fn name(self) -> &'static str {
        match self {
            By::Auto => "auto",
            By::Identity => "identity",
            By::Name => "name",
            By::Path => "path",
        }
    }

    /// By its name in TOML.
    pub fn from_name(name: &str) -> Option<Self> {
        [By::Auto, By::Identity, By::Name, By::Path]
            .into_iter()
            .find(|by| by.name() == name)
    }
}

/// What a product is remembered by: sixteen bytes, whatever the path or the identity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeenKey(pub [u8; 16]);

/// The key of this announcement; `None` when it has none, and then it is no duplicate of anything.
pub fn seen_key(announcement: &Announcement, by: By) -> Option<SeenKey> {
    let identity = announcement.identity.as_ref().and_then(countable);
    let path = announcement.path.0.as_slice();
    let name = product_name::first_five(announcement.path.file_name());
    Some(match (by, identity) {
        (By::Auto, Some((method, value, DigestOf::Name))) => made_of(&[b"identity", method, value]),
        (By::Auto, Some((method, value, _))) => made_of(&[b"identity+path", method, value, path]),
        (By::Auto | By::Path, _) => made_of(&[b"path", path]),
        (By::Identity, Some((method, value, _))) => made_of(&[b"identity", method, value]),
        (By::Identity, None) => return None,
        (By::Name, _) => made_of(&[b"name", name]),
    })
}

/// What an announcement says of the content, short enough to be remembered of a million products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// How the digest was made and whether it is surely of the content, as a number that stays. Never 0. Only where
    /// these are equal are values comparable.
    pub method: u16,
    /// The first sixteen hex digits; of a value that is not hex, those of its md5.
    pub value: u64,
}

/// What it is of is not known.
const OF_UNKNOWN: u16 = 0x8000;
/// Methods whose names px does not know are numbered from here, by a digest of the name.
const OTHERS: u16 = 16;

impl Fingerprint {
    /// Of a digest of the content, or of one of which nobody says what it is of. A digest of the name says nothing of
    /// the content, and free text is no digest.
    pub fn of(identity: &Identity) -> Option<Fingerprint> {
        let of = match identity.of {
            DigestOf::Content => 0,
            DigestOf::Unknown => OF_UNKNOWN,
            DigestOf::Name => return None,
        };
        let method = match &identity.method {
            Method::Md5 => 1,
            Method::Sha512 => 2,
            Method::Other(name) => OTHERS + (first_digits(name) % u64::from(OF_UNKNOWN - OTHERS)) as u16,
            Method::Random | Method::Arbitrary | Method::ComputeOnDownload => return None,
        };
        let hex = identity.value.get(..16).filter(|_| method < OTHERS);
        let value = hex.and_then(|hex| u64::from_str_radix(hex, 16).ok());
        (!identity.value.is_empty()).then(|| Fingerprint {
            method: method | of,
            value: value.unwrap_or_else(|| first_digits(&identity.value)),
        })
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.value)
    }
}

fn first_digits(text: &str) -> u64 {
    let [digits @ .., _, _, _, _, _, _, _, _] = identity::md5(text.as_bytes());
    u64::from_be_bytes(digits)
}

/// An identity that two announcements of one product share. Random digits and digests yet to be made are none.
fn countable(identity: &Identity) -> Option<(&[u8], &[u8], DigestOf)> {
    let method: &[u8] = match &identity.method {
        Method::Md5 => b"md5",
        Method::Sha512 => b"sha512",
        Method::Arbitrary => b"arbitrary",
        Method::Other(name) => name.as_bytes(),
        Method::Random | Method::ComputeOnDownload => return None,
    };
    (!identity.value.is_empty()).then_some((method, identity.value.as_bytes(), identity.of))
}

/// A digest over parts with their lengths, so that no two lists of parts look alike.
fn made_of(parts: &[&[u8]]) -> SeenKey {
    let mut state = Sha512::new();
    for part in parts {
        state.update((part.len() as u64).to_be_bytes());
        state.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&state.finalize()[..16]);
    SeenKey(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ProductPath;

    const URP: &str = "201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META::";

    fn urp(host: &str, stamp: &str) -> Announcement {
        let path = format!("db/20150120/RADAR/URP/IWA/{URP}{stamp}");
        Announcement::new(&format!("http://{host}/"), ProductPath::from(path.as_str())).unwrap()
    }

    fn with(mut announcement: Announcement, method: Method, value: &str, of: DigestOf) -> Announcement {
        announcement.identity = Some(Identity {
            method,
            value: value.into(),
            of,
        });
        announcement
    }

    #[test]
    fn a_digest_of_the_name_counts_alone_and_others_with_the_path() {
        let pair = |method: Method, of| {
            let one = with(urp("urp-1", "20150120180902"), method.clone(), "aa", of);
            let two = with(urp("urp-2", "20150120180903"), method, "aa", of);
            seen_key(&one, By::Auto) == seen_key(&two, By::Auto)
        };
        assert!(pair(Method::Md5, DigestOf::Name));
        for of in [DigestOf::Content, DigestOf::Unknown] {
            assert!(!pair(Method::Md5, of));
        }
        assert!(!pair(Method::Arbitrary, DigestOf::Unknown));
    }

    #[test]
    fn two_bulletins_with_equal_bytes_are_two_products() {
        let bulletin = |path: &str, digest: &str| {
            let place = Announcement::new("http://h/", ProductPath::from(path)).unwrap();
            seen_key(&with(place, Method::Md5, digest, DigestOf::Content), By::Auto)
        };
        assert_ne!(bulletin("a/x", "aa"), bulletin("b/x", "aa"));
        assert_ne!(bulletin("a/x", "aa"), bulletin("a/x", "bb"));
        assert_eq!(bulletin("a/x", "aa"), bulletin("a/x", "aa"));
    }

    #[test]
    fn without_an_identity_the_path_counts() {
        let one = urp("urp-1", "20150120180902");
        let two = urp("urp-2", "20150120180902");
        assert_eq!(seen_key(&one, By::Auto), seen_key(&two, By::Auto));
        assert_eq!(seen_key(&one, By::Auto), seen_key(&one, By::Path));
        let random = with(one.clone(), Method::Random, "1234", DigestOf::Unknown);
        assert_eq!(seen_key(&random, By::Auto), seen_key(&one, By::Auto));
        assert_eq!(
            (seen_key(&random, By::Identity), seen_key(&one, By::Identity)),
            (None, None)
        );
        assert_eq!(
            seen_key(&with(one, Method::Md5, "", DigestOf::Content), By::Identity),
            None
        );
    }

    #[test]
    fn by_option_name_path_or_identity_alone() {
        let one = with(urp("urp-1", "20150120180902"), Method::Md5, "aa", DigestOf::Content);
        let two = with(urp("urp-2", "20150120180903"), Method::Md5, "aa", DigestOf::Content);
        for (by, same) in [
            (By::Auto, false),
            (By::Identity, true),
            (By::Name, true),
            (By::Path, false),
        ] {
            assert_eq!(seen_key(&one, by) == seen_key(&two, by), same, "{by:?}");
            assert_eq!(By::from_name(by.name()), Some(by));
        }
        assert_eq!(By::from_name("digest"), None);
        let short = |path: &str| seen_key(&Announcement::new("http://h/", path.into()).unwrap(), By::Name);
        assert_eq!(short("x/a:b"), short("y/a:b"));
        assert_ne!(short("a:b"), short("a:c"));
    }

    #[test]
    fn only_digests_of_one_method_that_are_not_of_the_name_can_be_compared() {
        let hex = "7fb793e9387277ad5009b3aa787723e1";
        let print = |method: Method, value: &str, of| {
            let value = value.into();
            Fingerprint::of(&Identity { method, value, of })
        };
        let md5 = print(Method::Md5, hex, DigestOf::Content).unwrap();
        assert_eq!(md5.to_string(), hex[..16]);
        let others = [
            print(Method::Md5, hex, DigestOf::Unknown),
            print(Method::Sha512, &hex.repeat(4), DigestOf::Content),
            print(Method::Other("sha1".into()), hex, DigestOf::Unknown),
            print(Method::Other("blake3".into()), hex, DigestOf::Unknown),
        ];
        let mut methods = vec![md5.method];
        methods.extend(others.into_iter().map(|other| other.unwrap().method));
        methods.sort_unstable();
        methods.dedup();
        assert_eq!((methods.len(), methods[0] > 0), (5, true));
        for none in [
            print(Method::Md5, hex, DigestOf::Name),
            print(Method::Md5, "", DigestOf::Content),
            print(Method::Arbitrary, "monday", DigestOf::Unknown),
            print(Method::Random, "4711", DigestOf::Unknown),
            print(Method::ComputeOnDownload, "md5", DigestOf::Unknown),
        ] {
            assert_eq!(none, None);
        }
        // What is no hex, or too short, is told apart all the same.
        let odd = |value: &str| {
            print(Method::Other("x".into()), value, DigestOf::Unknown)
                .unwrap()
                .value
        };
        assert_ne!(odd("é"), odd("ü"));
        assert_ne!(odd("0000000000000000a"), odd("0000000000000000b"));
    }
}
