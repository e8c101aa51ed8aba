use std::path::PathBuf;

use super::*;
use crate::config::value::{Entry, Value};
use crate::config::{ConfigError, Site};

/// A root with the sample files of one directory, under their own names.
pub(super) struct Samples {
    root: tempfile::TempDir,
    pub places: Places,
}

impl Samples {
    pub(super) fn new() -> Samples {
        let root = tempfile::tempdir().unwrap();
        let places = Places::under(root.path());
        let samples = Samples { root, places };
        for dir in ["tx", "rx"] {
            std::fs::create_dir_all(samples.places.etc.join(dir)).unwrap();
        }
        samples
    }

    /// With `px.conf` and all files of `tx/` and `rx/`.
    pub(super) fn all() -> (Samples, Vec<UnitName>) {
        let samples = Samples::new();
        let mut names = Vec::new();
        let data = data();
        std::fs::copy(data.join("px.conf"), samples.places.etc.join("px.conf")).unwrap();
        for (dir, source) in [(UnitDir::Tx, "tx"), (UnitDir::Rx, "rx"), (UnitDir::Tx, "seed/tx")] {
            for entry in std::fs::read_dir(data.join(source)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap();
                std::fs::copy(&path, samples.places.etc.join(dir.name()).join(name)).unwrap();
                if path.extension().is_some_and(|extension| extension == "conf") {
                    names.push(UnitName::new(dir, path.file_stem().unwrap().to_str().unwrap()).unwrap());
                }
            }
        }
        assert!(names.len() >= 12, "{names:?}");
        (samples, names)
    }

    /// A file below `etc`.
    pub(super) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.places.etc.join(path), text).unwrap();
    }

    pub(super) fn read(&self, name: &UnitName) -> (Option<Flow>, Vec<ConfigError>) {
        let errors = Errors::default();
        let path = self
            .places
            .etc
            .join(name.dir.name())
            .join(format!("{}.conf", name.name));
        let flow = read(&self.places, name, &path, &errors);
        (flow, errors.take())
    }

    /// The table as TOML, and what was said, without the root.
    pub(super) fn told(&self, dir: UnitDir, text: &str) -> (String, Vec<String>) {
        self.write(&format!("{}/x.conf", dir.name()), text);
        let (flow, errors) = self.read(&UnitName::new(dir, "x").unwrap());
        let root = format!("{}/etc/", self.root.path().display());
        let errors = errors.iter().map(|error| error.to_string().replace(&root, ""));
        (print(&flow.unwrap().table), errors.collect())
    }
}

pub(super) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew")
}

/// Whether two tables say the same, wherever their lines are.
pub(super) fn are_same(one: &[Entry], other: &[Entry]) -> bool {
    one.len() == other.len()
        && one.iter().all(|entry| {
            let twin = other.iter().find(|other| other.key == entry.key);
            twin.is_some_and(|twin| is_same(&entry.value, &twin.value))
        })
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => one == other,
        (Value::Boolean(one), Value::Boolean(other)) => one == other,
        (Value::Integer(one, _), Value::Integer(other, _)) => one == other,
        (Value::Table(one), Value::Table(other)) => are_same(one, other),
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|((_, one), (_, other))| is_same(one, other))
        }
        _ => false,
    }
}

/// Lines that every amqp flow needs.
const LOGIN: &str = "type amqp\nhost h\nuser u\npassword canary\nexchange_name e\n";
const ACCEPT: &str = "accept .*\n";

/// What a sender with these lines is in TOML.
fn sender(lines: &str) -> (String, Vec<String>) {
    Samples::new().told(UnitDir::Tx, &format!("{LOGIN}{ACCEPT}{lines}"))
}

fn dropped(lines: &str) -> (String, Vec<String>) {
    Samples::new().told(UnitDir::Rx, &format!("type single-file\n{lines}"))
}

#[test]
fn the_seeds_sender_says_nothing_that_surprises() {
    let (samples, _) = Samples::all();
    samples.write("px.conf", "");
    let (flow, errors) = samples.read(&"tx/dd-notify-wxo-b1".parse().unwrap());
    assert!(errors.is_empty(), "{errors:?}");
    let flow = flow.unwrap();
    assert_eq!(
        print(&flow.table),
        r#"type = "amqp"
broker = "wxo-b1-cmc-ec-gc-ca-feeder"
exchange = { name = "cmc", type = "topic", durable = false }
key = "exp.dd.notify.${0}"
masks = [
    { reject = '^ensemble.naefs.grib2.raw.*' },
    { accept = '^(.*)\+\+.*' },
    { reject = '(?s).*' },
]
validation = false
log = { keep = 5 }
"#
    );
    let url = &flow.broker.unwrap().urls[0];
    assert_eq!(url.to_string(), "amqp://feeder@wxo-b1.cmc.ec.gc.ca:5672/");
    assert_eq!(url.password.expose(), "********");
}

#[test]
fn the_sample_receiver_is_told_what_it_loses() {
    let (samples, _) = Samples::all();
    samples.write("px.conf", "");
    let (flow, errors) = samples.read(&"rx/receiver_amqp".parse().unwrap());
    assert!(
        errors.len() == 1 && errors[0].warning && errors[0].line == 5,
        "{errors:?}"
    );
    assert_eq!(
        print(&flow.unwrap().table),
        r#"type = "amqp"
broker = "localhost-guest"
exchange = { name = "myname", type = "topic", durable = false }
queue = ""
bind = ["exp.test.this"]
durable = false
auto_delete = true
masks = [{ accept = '.*' }]
route = "table"
log = { keep = 5 }
"#
    );
}

#[test]
fn what_sundew_does_without_being_told_is_written_out() {
    let (table, errors) = sender("");
    assert_eq!(errors, [""; 0]);
    for line in [
        "exchange = { name = \"e\", type = \"fanout\", durable = false }\n",
        "key = \"\"\n",
        "    { reject = '(?s).*' },\n",
        "duplicates = { entries = 125000, keep = \"8h\" }\n",
        "validation = true\n",
        "log = { keep = 5 }\n",
    ] {
        assert!(table.contains(line), "{line}{table}");
    }
    let (table, _) = dropped("");
    assert_eq!(table, "type = \"single-file\"\nroute = \"table\"\nlog = { keep = 5 }\n");
}

/// A line, and the option that it becomes; an empty one is not there.
#[test]
fn lines_become_options() {
    for (line, expected) in [
        ("exchange_content text/html", "\ncontent_type = \"text/html\"\n"),
        ("batch 7", "\nbatch = 7\n"),
        ("batch 20000", "\nbatch = 20000\n"),
        ("batch 7\nbatch 8", "\nbatch = 8\n"),
        ("cache_size 9", "\nduplicates = { entries = 9, keep = \"8h\" }\n"),
        ("mtime 5", "\nmin_age = \"5s\"\n"),
        ("mtime 0", "\nmin_age = \"0s\"\n"),
        ("sorter None", "\norder = \"mtime\"\n"),
        ("sorter MultiKeysStringSorter", "\norder = \"priority\"\n"),
        ("purge 5H,3", "\npurge = [{ priority = [3], after = \"5h\" }]\n"),
        (
            "purgeAlias OLD 5H,3:10H,4+\npurge OLD",
            "\npurge = [\n    { priority = [3], after = \"5h\" },\n    { priority = [4, 5], after = \"10h\" },\n]\n",
        ),
        (
            "purge 1x,0+\npurge 2h,5",
            "\npurge = [{ priority = [5], after = \"2h\" }]\n",
        ),
        ("logrotate 12", "\nlog = { keep = 12 }\n"),
        (
            "emask *.tmp",
            "\nmasks = [\n    { reject_glob = '*.tmp' },\n    { accept = '.*' },\n",
        ),
        ("imask a'b", "\nmasks = [\n    { accept_glob = \"a'b\" },\n"),
        ("host i:99", "\nbroker = \"i-99-u\"\n"),
        ("host [::1]:99", "\nbroker = \"--1-99-u\"\n"),
        ("exchange_key a.${0}", "\nkey = \"a.${0}\"\n"),
    ] {
        let (table, errors) = sender(line);
        assert!(
            errors.is_empty() && table.contains(expected),
            "{line}\n{table}{errors:?}"
        );
    }
    for (line, expected) in [
        ("extension -NAME:A:B:C:D", "\nextension = \"-NAME:A:B:C:D\"\n"),
        ("routemask off", "\nroute = \"masks\"\n"),
        ("routingTable /r\nroutemask True", "\nrouting_table = \"/r\"\n"),
        ("feed a\nfeed b\nfeed a", "\nfeeds = [\"a\", \"b\"]\n"),
        ("validation on", "\nvalidation = true\n"),
        (
            "noduplicates on",
            "\nduplicates = { entries = 125000, keep = \"8h\" }\n",
        ),
        ("sorter MultiKeysStringSorter", "\norder = \"priority\"\n"),
        ("reject a", "\nmasks = [{ reject = 'a' }]\n"),
    ] {
        let (table, errors) = dropped(line);
        assert!(
            errors.is_empty() && table.contains(expected),
            "{line}\n{table}{errors:?}"
        );
    }
}

/// A line of a sender, and its warning.
const PASSED_OVER: &[(&str, &str)] = &[
    (
        "batch 10 # more",
        "batch = \"10\": warning: there are no comments behind a value: Sundew takes the rest for more words, which have no effect",
    ),
    (
        "user u canary",
        "user = \"u\": warning: there are more words than Sundew reads: the rest has no effect",
    ),
    (
        "password canary two",
        "password = ***: warning: there are more words than Sundew reads: the rest has no effect",
    ),
    (
        "batch",
        "batch = \"\": warning: no value, so the line says nothing, as under Sundew",
    ),
    (
        "validation Oui",
        "validation = \"Oui\": warning: counts as false, as under Sundew; accepted: True, False",
    ),
    (
        "port 99",
        "port = \"99\": warning: Sundew's amqp senders cannot connect with it; px does. Both understand host HOST:PORT",
    ),
    (
        "destination amqp://u:canary@h//d",
        "destination = ***: warning: user, password and host are taken from it; its path means nothing to AMQP",
    ),
    (
        "destination amqp://u:canary@amqp.h/",
        "destination = ***: warning: Sundew reads \"ftp\" for every \"amqp\" in it; px uses user, password and host as they are written",
    ),
    (
        "accept a # note",
        "accept = \"a # note\": warning: there are no comments behind a value: Sundew takes # for a file name option and erases every file that matches; px publishes it",
    ),
    (
        "accept a ALL",
        "accept = \"a ALL\": warning: Sundew knows no such file name option and erases every file that matches; px publishes it and drops the word",
    ),
    (
        "accept a NONE and",
        "accept = \"a NONE\": warning: there are more words than Sundew reads: the rest has no effect",
    ),
    (
        "filename ALL",
        "filename = \"ALL\": warning: Sundew knows no such file name option and erases every file that matches; px publishes it and drops the word",
    ),
    (
        "batch 20001",
        "batch = \"20001\": warning: px takes 20000 at most, which are the files that it sorts at once",
    ),
    (
        "logrotate 0",
        "logrotate = \"0\": warning: 0 means all of them for Sundew; px keeps them for 3650 days at most",
    ),
    (
        "routemask False",
        "routemask = \"False\": warning: a keyword of receivers: it has no effect in senders, as under Sundew",
    ),
];

#[test]
fn what_sundew_passes_over_in_silence_is_told() {
    for (line, warning) in PASSED_OVER {
        let (_, errors) = sender(line);
        assert_eq!(errors, [format!("tx/x.conf:7: {warning}")], "{line}");
    }
    for line in [
        "filename NONE:TIME",
        "accept a WHATFN",
        "accept a DESTFN=x:SATNET=1",
        "timeout",
        "lock umask",
        "nothing",
    ] {
        let expected = usize::from(line == "timeout");
        assert_eq!(sender(line).1.len(), expected, "{line}");
    }
    let (table, errors) = dropped("validation True\nvalidation False");
    assert!(table.contains("validation = true"), "{table}");
    assert!(
        errors.len() == 1 && errors[0].contains("3: validation = \"False\": warning: line 2 of"),
        "{errors:?}"
    );
}

#[test]
fn masks_that_remove_nothing_and_make_no_key_are_left_out() {
    let (table, errors) = dropped("routemask False\npatternMatching False\nreject .*part");
    assert!(!table.contains("masks ="), "{table}");
    assert!(
        errors.len() == 1 && errors[0].contains("warning: with it Sundew removes nothing by reject"),
        "{errors:?}"
    );
    let (table, errors) = dropped("patternMatching False\naccept a.*");
    assert!(
        table.contains("accept = 'a.*'") && errors.is_empty(),
        "{table} {errors:?}"
    );
}

#[test]
fn bad_samples_are_refused_with_all_their_findings() {
    let mut count = 0;
    for entry in std::fs::read_dir(data().join("bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "conf") {
            continue;
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let dir = if stem.starts_with("tx") {
            UnitDir::Tx
        } else {
            UnitDir::Rx
        };
        let (_, errors) = Samples::new().told(dir, &std::fs::read_to_string(&path).unwrap());
        let prefix = format!("{}/x.conf:", dir.name());
        let errors: Vec<&str> = errors
            .iter()
            .map(|error| error.strip_prefix(&prefix).unwrap())
            .collect();
        let findings = std::fs::read_to_string(path.with_extension("findings")).unwrap();
        // Without a line, the file's name ends the place.
        let findings: Vec<&str> = findings
            .lines()
            .map(|line| line.strip_prefix(':').unwrap_or(line))
            .collect();
        assert_eq!(errors.join("\n"), findings.join("\n"), "{stem}");
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn a_components_error_is_at_the_line_it_is_about() {
    let samples = Samples::new();
    samples.write("px.conf", "# all\nbatch 5\n");
    samples.write("tx/more.inc", "\n\naccept (\n");
    samples.write(
        "tx/x.conf",
        &format!("{LOGIN}{ACCEPT}include more.inc\nexchange_type fan\n"),
    );
    let name: UnitName = "tx/x".parse().unwrap();
    let (flow, errors) = samples.read(&name);
    assert!(errors.is_empty(), "{errors:?}");
    let flow = flow.unwrap();
    let site = Site::of(&samples.places, flow.broker);
    let (_, errors) = flow.table.read_whole(|table| {
        let broker = crate::config::options::broker(table, &site)?;
        crate::config::options::exchange(table, &broker);
        crate::config::options::masks(table);
        table.integer::<u32>("batch", 10..=20);
        table.refuse("key", "so");
        table.know_all();
        Some(())
    });
    let etc = format!("{}/", samples.places.etc.display());
    let errors: Vec<String> = errors.iter().map(|error| error.to_string().replace(&etc, "")).collect();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(
        errors[0].starts_with("px.conf:2: batch = 5: accepted: a whole number from 10"),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with("tx/more.inc:3: masks.accept = \"(\": "),
        "{errors:?}"
    );
    assert!(errors[2].starts_with("tx/x.conf: key = \"\": so"), "{errors:?}");
    assert!(
        errors[3].starts_with("tx/x.conf:8: exchange.type = \"fan\": accepted: \"topic\""),
        "{errors:?}"
    );
}

#[test]
fn types_that_are_not_served_are_nobodys_here() {
    for (unit, text) in [
        ("tx/x", "type wmo\nwhatever x\n"),
        ("tx/x", "type am\n"),
        ("rx/x", "type collector\n"),
        ("rx/x", "type amqp\ntype pull-file\n"),
    ] {
        let samples = Samples::new();
        samples.write(&format!("{unit}.conf"), text);
        let (flow, errors) = samples.read(&unit.parse().unwrap());
        assert!(flow.is_none() && errors.is_empty(), "{text}");
    }
}

#[test]
fn a_mistyped_password_is_shown_nowhere() {
    let samples = Samples::new();
    let name: UnitName = "tx/x".parse().unwrap();
    let path = samples.places.etc.join("tx/x.conf");
    for line in [
        &b"pasword canary\xe9"[..],
        b"user u canary",
        b"user \x01 canary",
        b"host h/ canary",
        b"port 99999 canary",
        b"destination canary@h",
        b"exchange_nam canary",
        b"canary canary",
        b"password canary\xe9 canary",
    ] {
        let text = [LOGIN.as_bytes(), ACCEPT.as_bytes(), line, b"\n"].concat();
        std::fs::write(&path, text).unwrap();
        let (flow, errors) = samples.read(&name);
        assert!(!errors.is_empty(), "{}", String::from_utf8_lossy(line));
        let keys: Vec<String> = errors
            .iter()
            .map(|error| error.to_string().replace(" canary = ***", ""))
            .collect();
        let shown = format!("{keys:?}{flow:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

/// Mixed-up lines, each with its password, as they reach a finding, the table or the words about who runs the unit.
#[test]
fn a_password_at_an_odd_place_is_shown_nowhere() {
    for line in [
        "password=s3cr3t # x",
        "destination=amqp://feeder:s3cr3t@h/x foo",
        "amqp://feeder:s3cr3t@h/x a",
        "amqp://feeder:s3cr3t@h/x",
        "s3cr3t password",
        "s3cr3t",
        "batch s3cr3t",
        "port s3cr3t",
        "logrotate s3cr3t",
        "validation s3cr3t",
        "sorter s3cr3t",
        "type sftp://u:s3cr3t@h",
        "type s3cr3t",
        "exchange_name amqp://feeder:s3cr3t@h",
        "exchange_key amqp://feeder:s3cr3t@h",
        "accept amqp://feeder:s3cr3t@h",
    ] {
        for (dir, kind) in [
            (UnitDir::Tx, "amqp"),
            (UnitDir::Rx, "amqp"),
            (UnitDir::Rx, "single-file"),
            (UnitDir::Tx, "single-file"),
        ] {
            let samples = Samples::new();
            samples.write("px.conf", &format!("{line}\n"));
            samples.write(
                &format!("{}/x.conf", dir.name()),
                &format!("{LOGIN}type {kind}\n{line}\n"),
            );
            let name = UnitName::new(dir, "x").unwrap();
            let (flow, errors) = samples.read(&name);
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let path = samples.places.etc.join(dir.name()).join("x.conf");
            let service = service(&samples.places, dir, &path);
            let (_, site) = Site::load(&samples.places);
            let lines = lines::flow(&samples.places, lines::FlowDir::Tx, &path, &Errors::default());
            let shown = format!("{told:?}{errors:?}{flow:?}{service}{site:?}{lines:?}");
            assert!(!shown.contains("s3cr3t"), "{line}: {shown}");
            let is_shown = flow.is_some_and(|flow| print(&flow.table).contains("s3cr3t"));
            assert!(
                !is_shown || errors.iter().any(|error| !error.warning),
                "{line}: {told:?}"
            );
        }
    }
}
