//! Product names: colon fields, and the reception stamp that ends them.
//!
//! `what:system:site:type:format:flags:YYYYMMDDhhmmss`, for example
//! `MAPS_12Z:OCXCARTE:CMC:CHART:IMV6::20120611192817`; `s0000430_e.xml` is a name without fields.

use jiff::Timestamp;

use super::stamp;

/// The colon fields of a file name, the first being what the product is.
pub fn fields(file_name: &[u8]) -> impl Iterator<Item = &[u8]> {
    file_name.split(|byte| *byte == b':')
}

/// The name up to its fifth colon: what redundant producers agree on. A name with fewer fields counts whole.
pub fn first_five(file_name: &[u8]) -> &[u8] {
    let fifth_colon = file_name.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(4);
    match fifth_colon {
        Some((end, _)) => &file_name[..end],
        None => file_name,
    }
}

/// The 14-digit stamp that ends the name, if it is a time. A longer run of digits is no stamp.
pub fn reception_time(file_name: &[u8]) -> Option<Timestamp> {
    let (front, digits) = file_name.split_at_checked(file_name.len().checked_sub(14)?)?;
    if front.last().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    stamp::fourteen_digits(digits, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_what_colons_divide() {
        let name = b"MAPS_12Z:OCXCARTE:CMC:CHART:IMV6::20120611192817";
        assert_eq!(fields(name).count(), 7);
        assert_eq!(fields(name).nth(2), Some(&b"CMC"[..]));
        assert_eq!(first_five(name), b"MAPS_12Z:OCXCARTE:CMC:CHART:IMV6");
        assert_eq!(first_five(b"a:b:c:d:e"), b"a:b:c:d:e");
        assert_eq!(first_five(b"a:b"), b"a:b");
        assert_eq!(first_five(b""), b"");
    }

    #[test]
    fn the_stamp_ends_the_name() {
        let wanted: Timestamp = "2012-06-11T19:28:17Z".parse().unwrap();
        assert_eq!(
            reception_time(b"MAPS_12Z:OCXCARTE:CMC:CHART:IMV6::20120611192817"),
            Some(wanted)
        );
        assert_eq!(reception_time(b"20120611192817"), Some(wanted));
        let none: [&[u8]; 6] = [
            b"MAPS_12Z:OCXCARTE:CMC:CHART:IMV6:",
            b"x:120120611192817",
            b"x:20121311192817",
            b"x:20120611192817.gif",
            b"x:2012061119281\xff",
            b"",
        ];
        for name in none {
            assert_eq!(reception_time(name), None, "{name:?}");
        }
    }
}
