//! Digests: of names and of content, in hex and in base64, and the question what a v00 digest is of.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use sha2::Sha512;

use super::{DigestOf, Identity, Method, ProductPath, product_name, topic};

/// md5, as it is.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// md5 as lower-case hex.
pub fn md5_hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Md5::digest(bytes))
}

/// sha512 as lower-case hex.
pub fn sha512_hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha512::digest(bytes))
}

/// Hex of either case to padded base64; `None` when it is not hex.
pub fn hex_to_base64(hex: &str) -> Option<String> {
    base16ct::mixed::decode_vec(hex).ok().map(|raw| STANDARD.encode(raw))
}

/// Padded base64 to lower-case hex; `None` when it is not base64.
pub fn base64_to_hex(base64: &str) -> Option<String> {
    STANDARD
        .decode(base64)
        .ok()
        .map(|raw| base16ct::lower::encode_string(&raw))
}

/// The digest of a product's name: md5 of the first five colon fields of the file name, of all of a shorter one.
pub fn name_digest(file_name: &[u8]) -> String {
    md5_hex(product_name::first_five(file_name))
}

/// What a v00 digest under this key or key prefix is of, where nothing else tells.
pub fn usual_digest_of(key: &str) -> DigestOf {
    if topic::begins_with(key, "v00.urp") {
        DigestOf::Name
    } else if topic::begins_with(key, "v00.dd") {
        DigestOf::Content
    } else {
        DigestOf::Unknown
    }
}

/// What this v00 digest is of: the name if it is the digest of one, else what the unit says, else what is usual.
pub fn digest_of(hex: &str, path: &ProductPath, key: &str, option: Option<DigestOf>) -> DigestOf {
    if hex == name_digest(path.file_name()) || hex == md5_hex(&path.0) {
        return DigestOf::Name;
    }
    option.unwrap_or_else(|| usual_digest_of(key))
}

/// How many hex digits a digest of this method has; `None` for what is no digest.
pub fn hex_digits(method: &Method) -> Option<usize> {
    match method {
        Method::Md5 => Some(32),
        Method::Sha512 => Some(128),
        _ => None,
    }
}

/// The value in lower case, if it is a digest of this method in hex.
pub(super) fn valid_hex(method: &Method, value: &str) -> Option<String> {
    let is_hex = hex_digits(method) == Some(value.len()) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| value.to_ascii_lowercase())
}

impl Identity {
    /// The identity of these very bytes.
    pub fn of_content(method: Method, hex: String) -> Self {
        Identity {
            method,
            value: hex,
            of: DigestOf::Content,
        }
    }

    /// The hasher whose result must equal `value`, where the announcement promises the content.
    pub fn checker(&self) -> Option<ContentHasher> {
        match self.of {
            DigestOf::Content => ContentHasher::new(&self.method),
            DigestOf::Name | DigestOf::Unknown => None,
        }
    }
}

/// Computes the digest of content that passes by.
#[derive(Debug, Clone)]
pub struct ContentHasher(State);

#[derive(Debug, Clone)]
enum State {
    Md5(Box<Md5>),
    Sha512(Box<Sha512>),
}

impl ContentHasher {
    /// A hasher for md5 or sha512; `None` for methods that are no digest of bytes.
    pub fn new(method: &Method) -> Option<Self> {
        match method {
            Method::Md5 => Some(ContentHasher(State::Md5(Box::default()))),
            Method::Sha512 => Some(ContentHasher(State::Sha512(Box::default()))),
            _ => None,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest as lower-case hex.
    pub fn finish(self) -> String {
        match self.0 {
            State::Md5(state) => base16ct::lower::encode_string(&state.finalize()),
            State::Sha512(state) => base16ct::lower::encode_string(&state.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URP: &str = "201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META::20150120180902";

    #[test]
    fn the_name_digest_is_of_the_first_five_fields() {
        assert_eq!(name_digest(URP.as_bytes()), "a985c32cbdee8af2ab5d7b8f6022e781");
        assert_eq!(name_digest(b"s0000430_e.xml"), md5_hex(b"s0000430_e.xml"));
    }

    #[test]
    fn digests_are_the_published_ones() {
        assert_eq!(md5_hex(b"ceci est un test"), "11b35a0201513381dcdd130831f702d0");
        assert!(sha512_hex(b"abc").starts_with("ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn hex_and_base64_convert_both_ways() {
        let hex = "a985c32cbdee8af2ab5d7b8f6022e781";
        assert_eq!(hex_to_base64(hex).as_deref(), Some("qYXDLL3uivKrXXuPYCLngQ=="));
        assert_eq!(base64_to_hex("qYXDLL3uivKrXXuPYCLngQ==").as_deref(), Some(hex));
        assert_eq!((hex_to_base64("xyz"), base64_to_hex("***")), (None, None));
    }

    #[test]
    fn a_v00_digest_is_of_the_name_when_it_equals_one() {
        let path = ProductPath(format!("db/20150120/RADAR/URP/IWA/{URP}").into_bytes());
        let content = "7fb793e9387277ad5009b3aa787723e1";
        let by_path = md5_hex(&path.0);
        let table = [
            (
                "a985c32cbdee8af2ab5d7b8f6022e781",
                "v00.dd.notify.x",
                Some(DigestOf::Content),
                DigestOf::Name,
            ),
            (by_path.as_str(), "v00.dd.notify.x", None, DigestOf::Name),
            (content, "v00.urp.input.x", None, DigestOf::Name),
            (content, "v00.urp.input.x", Some(DigestOf::Content), DigestOf::Content),
            (content, "v00.dd.notify.x", None, DigestOf::Content),
            (content, "v00.dd.notify.x", Some(DigestOf::Name), DigestOf::Name),
            (content, "v00.urpx.y", None, DigestOf::Unknown),
            (content, "anything", None, DigestOf::Unknown),
        ];
        for (hex, key, option, wanted) in table {
            assert_eq!(digest_of(hex, &path, key, option), wanted, "{hex} {key} {option:?}");
        }
    }

    #[test]
    fn content_is_hashed_piece_by_piece() {
        for (method, whole) in [
            (Method::Md5, md5_hex(b"one two")),
            (Method::Sha512, sha512_hex(b"one two")),
        ] {
            let mut hasher = ContentHasher::new(&method).unwrap();
            hasher.update(b"one ");
            hasher.update(b"two");
            assert_eq!(hasher.finish(), whole);
        }
        assert!(ContentHasher::new(&Method::Random).is_none());
    }
}
