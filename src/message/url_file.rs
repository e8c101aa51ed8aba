//! Names of files that hold the URL of a product, for a sender to announce: Sundew's `++` names.
//!
//! `radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS.gif:URP:XSS:RADAR:GIF::20130606144709`: the directory of the URL with
//! dots for slashes, the product's name there, then fields 1 to 4 of the name under which it was ingested, an empty
//! field and the stamp. Masks like `^(.*)\+\+.*` take the directory from it, up to the last `++`; so there must be none
//! after that one, and a `+` that would make one is written `%2B`.

use super::{Extension, ProductPath, product_name::fields};

/// The longest file name on Linux.
const NAME_MAX: usize = 255;
/// A colon and 14 digits.
const STAMP_BYTES: usize = 15;

/// The name without its stamp, with the colon of the empty field at its end: what the `filename` header has.
/// `path` is that of the URL.
pub fn stem(path: &ProductPath, ingest_name: &[u8]) -> Vec<u8> {
    let filled = Extension::default().stem(ingest_name).name;
    let mut tail = path.file_name().to_vec();
    for field in fields(&filled).skip(1).take(4) {
        tail.push(b':');
        tail.extend_from_slice(field);
    }
    tail.push(b':');
    let mut stem: Vec<u8> = path.directory().to_vec();
    for byte in &mut stem {
        if *byte == b'/' {
            *byte = b'.';
        }
    }
    stem.extend_from_slice(b"++");
    let mut before = b'+';
    for byte in tail {
        match (before, byte) {
            (b'+', b'+') => stem.extend_from_slice(b"%2B"),
            _ => stem.push(byte),
        }
        before = byte;
    }
    stem
}

/// Why no sender would see a file of this name; `stem` is without the stamp.
pub fn problem(stem: &[u8]) -> Option<&'static str> {
    if stem.starts_with(b".") {
        Some("would begin with a dot, and senders pass over such names")
    } else if stem.len() + STAMP_BYTES > NAME_MAX {
        Some("would be longer than 255 bytes")
    } else if stem.iter().any(u8::is_ascii_control) {
        Some("would hold control characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ingest_name;

    fn made(path: &[u8], ingested: &[u8]) -> String {
        let stem = stem(&ProductPath(path.to_vec()), ingested);
        let name = ingest_name::stamped(&stem, "2013-06-06T14:47:09Z".parse().unwrap());
        assert_eq!(ingest_name::filename_header(&name), stem);
        String::from_utf8(name).unwrap()
    }

    #[test]
    fn it_is_directory_name_fields_and_stamp() {
        let table: &[(&[u8], &[u8], &str)] = &[
            (
                b"radar/24_HR_ACCUM/GIF/XSS/201306061440_XSS_24_HR_ACCUM_MM.gif",
                b"201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709",
                "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709",
            ),
            (
                b"a/b",
                b"SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct:20061008042436",
                "a++b:file:CWAO:SA:3::20130606144709",
            ),
            (b"b", b"plain", "++b:MISSING:MISSING:MISSING:MISSING::20130606144709"),
            // Three of them have no second separator in them.
            (
                b"x++y/c++d",
                b"c++d:A::+B:C::",
                "x++y++c+%2Bd:A:MISSING:+B:C::20130606144709",
            ),
            (b"a+/+b", b"b:A:B:C:D", "a+++%2Bb:A:B:C:D::20130606144709"),
            (b"a/+++b", b"b:A:B:C:D", "a++%2B%2B%2Bb:A:B:C:D::20130606144709"),
        ];
        for (path, ingested, wanted) in table {
            assert_eq!(made(path, ingested), *wanted);
            let directory = wanted.rsplit_once("++").unwrap().0;
            let dotted = String::from_utf8_lossy(ProductPath(path.to_vec()).directory()).replace('/', ".");
            assert_eq!(directory, dotted);
        }
    }

    #[test]
    fn names_that_no_sender_sees_are_known() {
        let of = |path: &[u8]| problem(&stem(&ProductPath(path.to_vec()), b"x:A:B:C:D"));
        assert_eq!(of(b"a/b.tmp"), None);
        assert_eq!(of(b"a/.b"), None);
        assert!(of(b".a/b").unwrap().contains("dot"));
        assert!(of(b"a/b\nc").unwrap().contains("control"));
        // a++…:A:B:C:D::stamp
        let bytes = NAME_MAX - 3 - ":A:B:C:D:".len() - STAMP_BYTES;
        assert_eq!(of(&[b"a/", &vec![b'x'; bytes][..]].concat()), None);
        assert!(
            of(&[b"a/", &vec![b'x'; bytes + 1][..]].concat())
                .unwrap()
                .contains("255")
        );
    }
}
