//! Every keyword of Sundew's senders and receivers, what it becomes here, or why it does nothing.

use super::lines::SITE_KEYS;
use Meaning::{Becomes, Foreign, Hook, Nothing};
use Shape::{Boolean, Number, Switch, Word, Words};

/// The flows that px serves from a `.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    /// `tx/`, `type amqp`
    Sender,
    /// `rx/`, `type amqp`
    Receiver,
    /// `rx/`, `type single-file`
    Dropped,
}

impl Kind {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Sender => "an amqp sender",
            Kind::Receiver => "an amqp receiver",
            Kind::Dropped => "a single-file receiver",
        }
    }
}

/// How a keyword's value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Word,
    /// At most so many words count, the keyword not included.
    Words(usize),
    Number,
    Boolean,
    /// Can be turned on and not off again.
    Switch,
}

/// What a keyword is to one kind of flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It goes into this option.
    Becomes(&'static str),
    /// Sundew knows it, and it changes nothing for this kind of flow; why.
    Nothing(&'static str),
    /// A keyword of the other side: Sundew passes over it.
    Foreign,
    /// A script that Sundew would run here, and px does not.
    Hook,
}

/// A keyword.
#[derive(Debug)]
pub(super) struct Keyword {
    pub name: &'static str,
    pub shape: Shape,
    /// For a sender, a receiver, a single-file receiver.
    pub meanings: [Meaning; 3],
}

impl Keyword {
    pub(super) fn meaning(&self, kind: Kind) -> Meaning {
        self.meanings[kind as usize]
    }
}

/// A keyword by name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// The right word for one that the documentation has wrong.
pub(super) fn corrected(name: &str) -> Option<&'static str> {
    match name {
        "passwd" => Some("password"),
        "key_file" => Some("ssh_keyfile"),
        _ => None,
    }
}

/// The keyword that was probably meant.
pub(super) fn nearest(name: &str, kind: Kind) -> Option<&'static str> {
    let own = KEYWORDS.iter().filter(|keyword| keyword.meaning(kind) != Foreign);
    nearest_of(name, own.map(|keyword| keyword.name))
}

/// Whether it is a keyword of any flow or of `px.conf`, or is probably meant to be one.
pub(super) fn is_near(name: &str) -> bool {
    nearest_of(name, KEYWORDS.iter().map(|keyword| keyword.name).chain(SITE_KEYS)).is_some()
}

fn nearest_of(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let limit = (name.chars().count() / 3).max(1);
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
    let near = known.map(|known| (distance(known), known)).min()?;
    (near.0 <= limit).then_some(near.1)
}

const fn row(name: &'static str, shape: Shape, meanings: [Meaning; 3]) -> Keyword {
    Keyword { name, shape, meanings }
}

const fn sender(name: &'static str, shape: Shape, meaning: Meaning) -> Keyword {
    row(name, shape, [meaning, Foreign, Foreign])
}

const fn receivers(name: &'static str, shape: Shape, meaning: Meaning) -> Keyword {
    row(name, shape, [Foreign, meaning, meaning])
}

/// Of both sides, and the same in each.
const fn all(name: &'static str, shape: Shape, meaning: Meaning) -> Keyword {
    row(name, shape, [meaning, meaning, meaning])
}

/// Of both sides, for those that have a broker.
const fn amqp(name: &'static str, shape: Shape, option: &'static str) -> Keyword {
    row(name, shape, [Becomes(option), Becomes(option), LOCAL])
}

const LOCAL: Meaning = Nothing("its files come from rxq");
const FILES: Meaning = Nothing("of file transfers");
const BULLETINS: Meaning = Nothing("of bulletins and collections");
const PULLS: Meaning = Nothing("of pull receivers");
const DIRECT: Meaning = Nothing("its messages do not wait in rxq");
const RENAMING: Meaning = Nothing("the name under which a file is delivered; none is transmitted by AMQP");

const KEYWORDS: &[Keyword] = &[
    // Both sides.
    all("type", Word, Becomes("type")),
    all("accept", Words(2), Becomes("masks")),
    all("reject", Word, Becomes("masks")),
    all("imask", Word, Becomes("masks")),
    all("emask", Word, Becomes("masks")),
    all("logrotate", Word, Becomes("log.keep")),
    all("debug", Switch, Nothing("more text in Sundew's own log")),
    all("publog", Boolean, Nothing("of the log publishing tools")),
    all("keepAlive", Boolean, Nothing("connections are kept alive always")),
    all("protocol", Word, Nothing("the type says it")),
    all("exchange_realm", Word, Nothing("AMQP 0-9-1 has no realms")),
    all("ssh_keyfile", Word, FILES),
    all("ftp_mode", Word, FILES),
    row(
        "patternMatching",
        Boolean,
        [Nothing("masks are looked at in any case"), DIRECT, Becomes("masks")],
    ),
    amqp("host", Word, "broker"),
    amqp("port", Number, "broker"),
    amqp("user", Word, "broker"),
    amqp("password", Word, "broker"),
    amqp("destination", Words(2), "broker"),
    amqp("exchange_name", Word, "exchange"),
    amqp("exchange_type", Word, "exchange"),
    row("exchange_key", Word, [Becomes("key"), Becomes("bind"), LOCAL]),
    row("batch", Number, [Becomes("batch"), DIRECT, Becomes("batch")]),
    row(
        "noduplicates",
        Boolean,
        [Becomes("duplicates"), Becomes("duplicates"), Becomes("duplicates")],
    ),
    row(
        "cache_size",
        Number,
        [Becomes("duplicates"), DIRECT, Becomes("duplicates")],
    ),
    row("mtime", Number, [Becomes("min_age"), DIRECT, Becomes("min_age")]),
    row("sorter", Word, [Becomes("order"), DIRECT, Becomes("order")]),
    row(
        "validation",
        Boolean,
        [Becomes("validation"), DIRECT, Becomes("validation")],
    ),
    row(
        "fx_script",
        Word,
        [Nothing("Sundew runs it for files, not here"), Hook, Hook],
    ),
    row("directory", Word, [RENAMING, PULLS, PULLS]),
    // Senders alone.
    sender("include", Word, Nothing("its lines stand in its place")),
    sender("filename", Word, RENAMING),
    sender("exchange_content", Word, Becomes("content_type")),
    sender("purge", Word, Becomes("purge")),
    sender("purgeAlias", Words(2), Becomes("purge")),
    sender("maxLength", Number, BULLETINS),
    sender("am_dest_thread", Words(2), BULLETINS),
    sender("timeout", Number, FILES),
    sender("timeout_send", Number, FILES),
    sender("kbytes_ps", Number, FILES),
    sender("chmod", Number, FILES),
    sender("lock", Word, FILES),
    sender("binary", Boolean, FILES),
    sender("dir_mkdir", Boolean, FILES),
    sender("dir_pattern", Boolean, FILES),
    sender("destfn_script", Word, RENAMING),
    sender("dx_script", Word, BULLETINS),
    sender("send_script", Word, Nothing("of senders of type script")),
    // Receivers alone.
    receivers("extension", Word, Becomes("extension")),
    receivers("routemask", Boolean, Becomes("route")),
    receivers("routingTable", Word, Becomes("routing_table")),
    receivers("routing_version", Number, Nothing("there is one version")),
    receivers(
        "clientsPatternMatching",
        Boolean,
        Nothing("clients' masks are looked at in any case"),
    ),
    receivers("feed", Word, Becomes("feeds")),
    row("lx_script", Word, [Foreign, DIRECT, Hook]),
    row("pull_script", Word, [Foreign, Nothing("of file receivers"), Hook]),
    receivers("vip", Word, PULLS),
    receivers("get", Word, PULLS),
    receivers("pull_sleep", Number, PULLS),
    receivers("pull_wait", Number, PULLS),
    receivers("timeout_get", Number, PULLS),
    receivers("delete", Boolean, PULLS),
    receivers("pull_prefix", Word, PULLS),
    receivers("timask", Word, Nothing("Sundew has no transformations any more")),
    receivers("temask", Word, Nothing("Sundew has no transformations any more")),
    receivers(
        "transformation",
        Word,
        Nothing("Sundew has no transformations any more"),
    ),
    receivers("arrival_extension", Word, BULLETINS),
    receivers("arrival", Words(3), BULLETINS),
    receivers("AddSMHeader", Switch, BULLETINS),
    receivers("addStationInFilename", Boolean, BULLETINS),
    receivers("bulletin_type", Word, BULLETINS),
    receivers("header", Word, BULLETINS),
    receivers("issue", Words(3), BULLETINS),
    receivers("history", Number, BULLETINS),
    receivers("future", Number, BULLETINS),
    receivers("hours", Word, BULLETINS),
    receivers("primary", Word, BULLETINS),
    receivers("cycle", Word, BULLETINS),
    receivers("aaxx", Word, BULLETINS),
    receivers("metar", Word, BULLETINS),
    receivers("taf", Word, BULLETINS),
];

/// The words that Sundew takes for true; whatever else is false.
const TRUE: [&str; 10] = ["True", "true", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "1"];
/// Those that are surely meant to be false.
const FALSE: [&str; 10] = ["False", "false", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "0"];

/// The truth of a word, and whether it is one that people mean so.
pub(super) fn truth(word: &str) -> (bool, bool) {
    let is_true = TRUE.contains(&word);
    (is_true, is_true || FALSE.contains(&word))
}

/// A number as Sundew reads it: an optional sign, digits.
pub(super) fn number(word: &str) -> Option<i64> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_stands_once() {
        for (index, keyword) in KEYWORDS.iter().enumerate() {
            assert!(
                KEYWORDS[..index].iter().all(|other| other.name != keyword.name),
                "{}",
                keyword.name
            );
        }
    }

    #[test]
    fn what_was_meant_is_found() {
        for (word, kind, meant) in [
            ("exchange_nam", Kind::Sender, Some("exchange_name")),
            ("routmask", Kind::Receiver, Some("routemask")),
            ("Validation", Kind::Sender, Some("validation")),
            ("noduplicate", Kind::Sender, Some("noduplicates")),
            ("routmask", Kind::Sender, None),
            ("whatever", Kind::Sender, None),
        ] {
            assert_eq!(nearest(word, kind), meant, "{word}");
        }
    }

    #[test]
    fn words_are_true_as_sundew_has_it() {
        for (word, expected) in [
            ("True", (true, true)),
            ("1", (true, true)),
            ("oN", (false, false)),
            ("2", (false, false)),
            ("False", (false, true)),
            ("Oui", (false, false)),
        ] {
            assert_eq!(truth(word), expected, "{word}");
        }
    }

    #[test]
    fn numbers_are_read_as_sundew_does() {
        for (word, expected) in [
            ("100", Some(100)),
            ("+5", Some(5)),
            ("-1", Some(-1)),
            ("007", Some(7)),
            ("1e3", None),
            ("10,", None),
            ("", None),
            ("+", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(word), expected, "{word}");
        }
    }
}
