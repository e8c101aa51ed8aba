//! Every keyword of Sundew's senders and receivers, what it becomes here, or why it does nothing.

use Meaning::{Becomes, Foreign, Hook, Nothing};
use Shape::{Boolean, Number, Switch, Word, Words};

/// Keywords of `px.conf` that are no flow's: of the whole site, or of Sundew's tools. `user` is a flow's as well.
pub(in crate::config) const SITE_KEYS: [&str; 20] = [
    "backEndPrivKey",
    "backEndUser",
    "backend",
    "clusters",
    "daysToKeepInDB",
    "etcdir",
    "frontEndEnvVar",
    "frontEndPrivKey",
    "frontEndTempDir",
    "frontEndUser",
    "lang",
    "logdir",
    "masterConfPath",
    "numberDBDays",
    "resendLimit",
    "root",
    "similiFrontEndEnvVar",
    "spooldir",
    "user",
    "waitTimeForLogEntry",
];

/// The flows that px serves from a `.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    /// `tx/`, `type amqp`
    Sender,
    /// `rx/`, `type amqp`
    Receiver,
    /// `rx/`, `type single-file`
    Dropped,
    /// `tx/`, `type single-file` and `type script`
    Deliverer,
}

impl Kind {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Sender => "an amqp sender",
            Kind::Receiver => "an amqp receiver",
            Kind::Dropped => "a single-file receiver",
            Kind::Deliverer => "a delivering sender",
        }
    }

    /// Whether px runs scripts in it. The products of an amqp receiver come one by one, each with a message to be
    /// acked.
    pub(super) fn has_hooks(self) -> bool {
        matches!(self, Kind::Dropped | Kind::Deliverer)
    }

    /// Whether it is in `tx/`.
    pub(super) fn is_sender(self) -> bool {
        matches!(self, Kind::Sender | Kind::Deliverer)
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
    /// A script that Sundew would run here. px does where the site names a program for that.
    Hook,
}

/// A keyword.
#[derive(Debug)]
pub(super) struct Keyword {
    pub name: &'static str,
    pub shape: Shape,
    /// For an amqp sender, an amqp receiver, a single-file receiver, a delivering sender.
    pub meanings: [Meaning; 4],
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

/// Every keyword of one kind of flow.
#[cfg(test)]
pub(super) fn all_of(kind: Kind) -> impl Iterator<Item = &'static Keyword> {
    KEYWORDS.iter().filter(move |keyword| keyword.meaning(kind) != Foreign)
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

const fn row(name: &'static str, shape: Shape, meanings: [Meaning; 4]) -> Keyword {
    Keyword { name, shape, meanings }
}

/// Of senders: by AMQP, and by delivering.
const fn senders(name: &'static str, shape: Shape, amqp: Meaning, delivers: Meaning) -> Keyword {
    row(name, shape, [amqp, Foreign, Foreign, delivers])
}

const fn receivers(name: &'static str, shape: Shape, meaning: Meaning) -> Keyword {
    row(name, shape, [Foreign, meaning, meaning, Foreign])
}

/// Of both sides, and the same in each.
const fn all(name: &'static str, shape: Shape, meaning: Meaning) -> Keyword {
    row(name, shape, [meaning, meaning, meaning, meaning])
}

/// Of both sides, where files wait in a queue.
const fn queued(name: &'static str, shape: Shape, option: &'static str) -> Keyword {
    row(name, shape, [Becomes(option), DIRECT, Becomes(option), Becomes(option)])
}

/// Of both sides, for those that have a broker.
const fn amqp(name: &'static str, shape: Shape, option: &'static str) -> Keyword {
    row(name, shape, [Becomes(option), Becomes(option), LOCAL, NO_BROKER])
}

/// Where the broker is, or the server that files go to.
const fn place(name: &'static str, shape: Shape) -> Keyword {
    let (broker, server) = (Becomes("broker"), Becomes("destination"));
    row(name, shape, [broker, broker, LOCAL, server])
}

/// Of file transfers on both sides.
const fn transfers(name: &'static str, shape: Shape, option: &'static str) -> Keyword {
    row(name, shape, [FILES, FILES, FILES, Becomes(option)])
}

/// Of delivering alone.
const fn delivers(name: &'static str, shape: Shape, option: &'static str) -> Keyword {
    senders(name, shape, FILES, Becomes(option))
}

const LOCAL: Meaning = Nothing("its files come from rxq");
const NO_BROKER: Meaning = Nothing("of amqp senders");
const FILES: Meaning = Nothing("of file transfers");
const BULLETINS: Meaning = Nothing("of bulletins and collections");
const PULLS: Meaning = Nothing("of pull receivers");
const DIRECT: Meaning = Nothing("its messages do not wait in rxq");
const RENAMING: Meaning = Nothing("the name under which a file is delivered; none is transmitted by AMQP");
const BY_TYPE: Meaning = Nothing("the type says it");
const MASKED: Meaning = Nothing("masks are looked at in any case");
const NO_REALMS: Meaning = Nothing("AMQP 0-9-1 has no realms");
const UNTRANSFORMED: Meaning = Nothing("Sundew has no transformations any more");

const KEYWORDS: &[Keyword] = &[
    // Both sides.
    all("type", Word, Becomes("type")),
    all("accept", Words(2), Becomes("masks")),
    all("reject", Word, Becomes("masks")),
    all("imask", Word, Becomes("masks")),
    all("emask", Word, Becomes("masks")),
    all("logrotate", Word, Becomes("log.keep")),
    all("noduplicates", Boolean, Becomes("duplicates")),
    all("debug", Switch, Nothing("more text in Sundew's own log")),
    all("publog", Boolean, Nothing("of the log publishing tools")),
    all("keepAlive", Boolean, Nothing("connections are kept alive always")),
    row("protocol", Word, [BY_TYPE, BY_TYPE, BY_TYPE, Becomes("destination")]),
    row("exchange_realm", Word, [NO_REALMS, NO_REALMS, NO_REALMS, NO_BROKER]),
    transfers("ssh_keyfile", Word, "key_file"),
    transfers("ftp_mode", Word, "ftp_mode"),
    row("patternMatching", Boolean, [MASKED, DIRECT, Becomes("masks"), MASKED]),
    place("host", Word),
    place("port", Number),
    place("user", Word),
    place("password", Word),
    place("destination", Words(2)),
    amqp("exchange_name", Word, "exchange"),
    amqp("exchange_type", Word, "exchange"),
    row(
        "exchange_key",
        Word,
        [Becomes("key"), Becomes("bind"), LOCAL, NO_BROKER],
    ),
    queued("batch", Number, "batch"),
    queued("cache_size", Number, "duplicates"),
    queued("mtime", Number, "min_age"),
    queued("sorter", Word, "order"),
    queued("validation", Boolean, "validation"),
    row(
        "fx_script",
        Word,
        [Nothing("Sundew runs it for files, not here"), Hook, Hook, Hook],
    ),
    row("directory", Word, [RENAMING, PULLS, PULLS, Becomes("directory")]),
    // Senders alone.
    senders("include", Word, INCLUDED, INCLUDED),
    senders("filename", Word, RENAMING, Becomes("filename")),
    senders("exchange_content", Word, Becomes("content_type"), NO_BROKER),
    senders("purge", Word, Becomes("purge"), Becomes("purge")),
    senders("purgeAlias", Words(2), Becomes("purge"), Becomes("purge")),
    senders("maxLength", Number, BULLETINS, BULLETINS),
    senders("am_dest_thread", Words(2), BULLETINS, BULLETINS),
    delivers("timeout", Number, "connect_timeout"),
    delivers("timeout_send", Number, "read_timeout"),
    delivers("kbytes_ps", Number, "bandwidth"),
    delivers("chmod", Number, "chmod"),
    delivers("lock", Word, "lock"),
    delivers("binary", Boolean, "ascii"),
    delivers("dir_mkdir", Boolean, "mkdir"),
    delivers("dir_pattern", Boolean, "directory"),
    senders("destfn_script", Word, RENAMING, Hook),
    senders("dx_script", Word, BULLETINS, BULLETINS),
    senders(
        "send_script",
        Word,
        Nothing("of senders of type script"),
        Becomes("send_script"),
    ),
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
    row("lx_script", Word, [Foreign, DIRECT, Hook, Foreign]),
    row(
        "pull_script",
        Word,
        [Foreign, Nothing("of file receivers"), Hook, Foreign],
    ),
    receivers("vip", Word, PULLS),
    receivers("get", Word, PULLS),
    receivers("pull_sleep", Number, PULLS),
    receivers("pull_wait", Number, PULLS),
    receivers("timeout_get", Number, PULLS),
    receivers("delete", Boolean, PULLS),
    receivers("pull_prefix", Word, PULLS),
    receivers("timask", Word, UNTRANSFORMED),
    receivers("temask", Word, UNTRANSFORMED),
    receivers("transformation", Word, UNTRANSFORMED),
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

const INCLUDED: Meaning = Nothing("its lines stand in its place");

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
