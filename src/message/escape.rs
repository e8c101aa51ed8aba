//! Percent escapes: a path's bytes as URL text, and back.

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode, percent_encode, utf8_percent_encode};

/// Every byte that is not legal in an RFC 3986 path, and `%`.
const NOT_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/');

/// What no URL may hold as it is. A `%` there is already an escape.
const NOT_IN_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// `a b%` becomes `a%20b%25`.
pub(super) fn path(bytes: &[u8]) -> String {
    percent_encode(bytes, NOT_IN_PATH).to_string()
}

/// Undoes [`path`]. A `%` that begins no escape stands for itself, as peers that escape less write it.
pub(super) fn undo(bytes: &[u8]) -> Vec<u8> {
    percent_decode(bytes).collect()
}

/// Text that is a URL path and query already, made safe to send.
pub(super) fn url_text(text: &str) -> String {
    utf8_percent_encode(text, NOT_IN_URL).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_what_a_path_cannot_hold_is_escaped() {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
        for byte in 0..=255u8 {
            let escaped = path(&[byte]);
            if legal(byte) {
                assert_eq!(escaped.as_bytes(), [byte]);
            } else {
                assert_eq!(escaped, format!("%{byte:02X}"));
            }
            assert_eq!(undo(escaped.as_bytes()), [byte]);
        }
    }

    #[test]
    fn escapes_of_others_are_undone_too() {
        let table: &[(&[u8], &[u8])] = &[
            (b"60%20km%23.gif", b"60 km#.gif"),
            (b"%c3%A9", "é".as_bytes()),
            (b"100%.gif", b"100%.gif"),
            (b"%zz%4", b"%zz%4"),
            (b"caf\xe9", b"caf\xe9"),
            (b"%2541", b"%41"),
        ];
        for (text, wanted) in table {
            assert_eq!(undo(text), *wanted);
        }
    }
}
