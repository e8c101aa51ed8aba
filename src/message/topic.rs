//! Routing keys: made from paths, matched against binding patterns, moved to another prefix.
//!
//! A key is words joined by dots, at most 255 bytes. Valid: `v02.post.alerts.CWUL.a.cap`; too long is cut, never sent.

use super::ProductPath;

/// What AMQP allows a routing key to have.
pub const KEY_BYTES_MAX: usize = 255;

/// A routing key that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key, at most [`KEY_BYTES_MAX`] bytes.
    pub text: String,
    /// Words at the end were dropped to make it fit.
    pub is_cut: bool,
}

/// The key of a product: the prefix, then the path, each slash a dot. Without a path it is the prefix alone.
///
/// `#` becomes `%23` and `*` becomes `%22`, as every peer writes them; bytes that are not UTF-8 become `%XX`.
pub fn key(prefix: &str, path: &ProductPath) -> Key {
    let mut text = String::with_capacity(prefix.len() + 1 + path.0.len());
    text.push_str(prefix);
    if !prefix.is_empty() && !path.0.is_empty() {
        text.push('.');
    }
    for chunk in path.0.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '/' => text.push('.'),
                '#' => text.push_str("%23"),
                '*' => text.push_str("%22"),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(percent_encoding::percent_encode_byte(*byte));
        }
    }
    fit(text)
}

/// The key with its first words `from` replaced by `to`; `None` when it does not begin with exactly these words.
pub fn rekey(key: &str, from: &str, to: &str) -> Option<Key> {
    let rest = if from.is_empty() {
        key
    } else {
        match key.strip_prefix(from)? {
            "" => "",
            rest => rest.strip_prefix('.')?,
        }
    };
    let dot = if to.is_empty() || rest.is_empty() { "" } else { "." };
    Some(fit(format!("{to}{dot}{rest}")))
}

/// True when the first words of the key are exactly those of the prefix.
pub fn begins_with(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('.'))
}

/// Does this binding pattern match that key? `*` is one word, `#` any number of words, none included.
pub fn matches(pattern: &str, key: &str) -> bool {
    let pattern = words(pattern);
    walk(&pattern, &words(key)).last().copied().unwrap_or(false)
}

/// Could this binding pattern match some key that begins with these words?
pub fn matches_below(pattern: &str, prefix: &str) -> bool {
    let pattern = words(pattern);
    walk(&pattern, &words(prefix)).contains(&true)
}

/// RabbitMQ's rule: the empty key has no words, any other has one more than it has dots.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('.').collect()
    }
}

/// Entry `i` says whether the first `i` words of the pattern can stand for all of `words`.
fn walk(pattern: &[&str], words: &[&str]) -> Vec<bool> {
    let mut live = vec![false; pattern.len() + 1];
    live[0] = true;
    skip_hashes(pattern, &mut live);
    for word in words {
        let mut next = vec![false; live.len()];
        for (i, part) in pattern.iter().enumerate().filter(|(i, _)| live[*i]) {
            match *part {
                "#" => next[i] = true,
                "*" => next[i + 1] = true,
                part => next[i + 1] |= part == *word,
            }
        }
        skip_hashes(pattern, &mut next);
        live = next;
    }
    live
}

fn skip_hashes(pattern: &[&str], live: &mut [bool]) {
    for (i, part) in pattern.iter().enumerate() {
        if live[i] && *part == "#" {
            live[i + 1] = true;
        }
    }
}

/// Cuts at the last dot that fits; a first word that alone is too long is cut between characters.
fn fit(mut text: String) -> Key {
    let is_cut = text.len() > KEY_BYTES_MAX;
    if is_cut {
        let dot = text.as_bytes()[..=KEY_BYTES_MAX].iter().rposition(|byte| *byte == b'.');
        text.truncate(match dot {
            Some(dot) if dot > 0 => dot,
            _ => text.floor_char_boundary(KEY_BYTES_MAX),
        });
    }
    Key { text, is_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_prefix_and_dotted_path_with_the_file_name() {
        let table: &[(&str, &[u8], &str)] = &[
            (
                "v02.post",
                b"citypage_weather/xml/ON/s1_e.xml",
                "v02.post.citypage_weather.xml.ON.s1_e.xml",
            ),
            ("v03", b"a#b/c*d/e", "v03.a%23b.c%22d.e"),
            ("v03", b"a//b", "v03.a..b"),
            ("v03", b"caf\xc3\xa9/\xe9", "v03.caf\u{e9}.%E9"),
            ("", b"a/b", "a.b"),
            ("exp.dd.notify", b"", "exp.dd.notify"),
        ];
        for (prefix, path, wanted) in table {
            let made = key(prefix, &ProductPath(path.to_vec()));
            assert_eq!((made.text.as_str(), made.is_cut), (*wanted, false));
        }
    }

    #[test]
    fn a_long_key_is_cut_at_the_last_dot_that_fits() {
        let made = key(
            "v03",
            &ProductPath(format!("{}/{}", "a".repeat(100), "b".repeat(200)).into_bytes()),
        );
        assert_eq!(
            made,
            Key {
                text: format!("v03.{}", "a".repeat(100)),
                is_cut: true
            }
        );
        // 251 bytes of name: 4 + 251 = 255 fits exactly; one more does not.
        assert!(!key("v03", &ProductPath(vec![b'x'; 251])).is_cut);
        assert_eq!(key("v03", &ProductPath(vec![b'x'; 252])).text, "v03");
        // The dot after 255 bytes is a place to cut as well.
        let made = key("v03", &ProductPath(format!("{}/y", "x".repeat(251)).into_bytes()));
        assert_eq!(made.text.len(), 255);
        // No dot at all: between characters.
        assert_eq!(rekey(&"\u{e9}".repeat(200), "", "").unwrap().text, "\u{e9}".repeat(127));
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_words() {
        let table = [
            ("v00.urp.input.a.b", Some("v00.urp.notify.a.b")),
            ("v00.urp.input", Some("v00.urp.notify")),
            ("v00.urp.input2.a", None),
            ("v00.urp", None),
            ("x.v00.urp.input.a", None),
        ];
        for (key, wanted) in table {
            let got = rekey(key, "v00.urp.input", "v00.urp.notify").map(|key| key.text);
            assert_eq!(got.as_deref(), wanted, "{key}");
        }
        assert_eq!(rekey("a.b", "", "x").unwrap().text, "x.a.b");
        assert_eq!(rekey("a.b", "a", "").unwrap().text, "b");
        assert!(
            rekey(&format!("a.b.{}", "c".repeat(251)), "a", "a.longer")
                .unwrap()
                .is_cut
        );
        assert!(begins_with("v00.urp.x", "v00.urp") && begins_with("v00.urp", "v00.urp") && begins_with("x", ""));
        assert!(!begins_with("v00.urpx", "v00.urp"));
    }

    #[test]
    fn patterns_match_as_on_rabbitmq() {
        let yes = [
            ("#", ""),
            ("#", "a.b"),
            ("", ""),
            ("*", "a"),
            ("a.*", "a."),
            ("a.#", "a"),
            ("a.#", "a.b.c"),
            ("#.c", "c"),
            ("#.c", "a.b.c"),
            ("a.#.c", "a.c"),
            ("a.#.c", "a.b.c.c"),
            ("#.#", ""),
            ("*.#.*", "a.b"),
            ("a..b", "a..b"),
            ("a.*.b", "a..b"),
            ("v00.urp.input.#", "v00.urp.input.RADAR.URP"),
            ("*.#.*.x", "a.b.c.x"),
        ];
        for (pattern, key) in yes {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        let no = [
            ("", "a"),
            ("*", ""),
            ("*", "a.b"),
            ("a", "A"),
            ("a.*", "a"),
            ("a.#", "ab"),
            ("a*", "ab"),
            ("#.c", "c.d"),
            ("*.#.*", "a"),
            ("a.b", "a.b."),
            ("v00.urp.input.#", "v00.urp.notify.x"),
            ("a#", "abc"),
        ];
        for (pattern, key) in no {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
    }

    #[test]
    fn a_pattern_that_may_match_below_a_prefix_is_known() {
        for pattern in [
            "#",
            "v00.#",
            "v00.urp.notify.#",
            "v00.*.notify.x.y",
            "v00.urp.notify",
            "#.x",
        ] {
            assert!(matches_below(pattern, "v00.urp.notify"), "{pattern}");
        }
        for pattern in ["v00.urp.input.#", "v00.urp", "v02.#", ""] {
            assert!(!matches_below(pattern, "v00.urp.notify"), "{pattern}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let pattern = vec!["#"; 127].join(".");
        let key = vec!["a"; 127].join(".");
        assert!(matches(&pattern, &key));
        assert!(!matches(&format!("{pattern}.b"), &key));
    }
}
