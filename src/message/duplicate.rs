//! When two announcements are of one product: the key they are remembered by, and what a repeat is.

use sha2::{Digest, Sha512};

use super::{Announcement, DigestOf, Identity, Method, product_name};

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
}
