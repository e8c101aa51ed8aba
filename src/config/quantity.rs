//! Durations and sizes as people write them.

use std::time::Duration;

/// What [`duration`] takes, for messages.
pub const DURATION: &str = r#"a duration such as "250ms", "30s", "10m", "24h" or "7d""#;
/// What [`size`] takes, for messages.
pub const SIZE: &str = r#"a size such as "512B", "50MB" (decimal) or "50MiB" (binary)"#;

/// `"10m"`, `"0s"`, `"250ms"`. Not `"10"`, `"-1s"` or `"1 hour"`.
pub fn duration(text: &str) -> Option<Duration> {
    let (count, unit) = split(text)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.checked_mul(ms).map(Duration::from_millis)
}

/// Bytes: `"50MB"` is 50 000 000, `"50MiB"` is 52 428 800. Not `"50"` or `"50 megs"`.
pub fn size(text: &str) -> Option<u64> {
    let (count, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    count.checked_mul(bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(end);
    Some((count.parse().ok()?, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("250ms", 250),
            ("0s", 0),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1 hour",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615d",
            "1S",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0B", 0),
            ("50MB", 50_000_000),
            ("50MiB", 52_428_800),
            ("1 GB", 1_000_000_000),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "50", "MB", "-1B", "50mb", "1.5GB", "99999999999TiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
