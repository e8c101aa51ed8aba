use std::path::Path;

use std::time::Duration;

use super::decide::{Decision, Letter, decide};
use super::*;
use crate::config::{Errors, Places};
use crate::flow::queued::Why;
use crate::metrics::Count;
use crate::spool::queue::{Order, Rules};

const UNIT: &str = r#"
type = "amqp"
broker = "bunny"
exchange = { name = "cmc", durable = false }
key = "exp.dd.notify.${0}"
masks = [{ reject = '^ensemble\.naefs\.grib2\.raw.*' }, { accept = '^(.*)\+\+.*' }, { reject = "(?s).*" }]
"#;
const NAME: &str = "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS.gif:URP:XSS:RADAR:GIF::20130606144709";
const NOW: &str = "2026-11-21T12:00:00Z";

fn read(text: &str) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("px.toml"), "[brokers.bunny]\nurls = [\"amqp://bunny\"]\n").unwrap();
    let (site, errors) = Site::load(&Places::under(dir.path()));
    assert!(errors.is_empty(), "{errors:?}");
    let table = Table::parse(Path::new("t.toml"), text, &Errors::default());
    let (config, errors) = table.read_whole(|table| {
        table.string("type");
        Config::read(table, &site)
    });
    config.ok_or_else(|| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = read(UNIT).unwrap();
    assert_eq!(
        (config.queued.batch, config.queued.duplicates, config.queued.min_age),
        (100, None, Duration::ZERO)
    );
    assert_eq!(
        (config.content_type.as_str(), config.queued.order),
        ("text/plain", Order::Priority)
    );
    assert_eq!(
        (config.queued.rules, config.unroutable),
        (Rules::default(), Unroutable::Count)
    );
    assert!(!config.exchange.durable);
    let config = read(&format!("{UNIT}duplicates = {{}}\n")).unwrap();
    let duplicates = config.queued.duplicates.unwrap();
    assert_eq!(
        (duplicates.entries, duplicates.keep),
        (125_000, Duration::from_secs(8 * 3600))
    );
}

#[test]
fn every_option_is_read() {
    let more = "content_type = \"x/y\"\nbatch = 7\nduplicates = { entries = 5, keep = \"2h\" }\nvalidation = true\n\
                min_age = \"3s\"\norder = \"mtime\"\npurge = [{ priority = [4, 5], after = \"10h\" }]\n\
                unroutable = \"hold\"\n";
    let config = read(&format!("{UNIT}{more}")).unwrap();
    assert_eq!(
        (config.content_type.as_str(), config.queued.batch, config.queued.order),
        ("x/y", 7, Order::Mtime)
    );
    assert_eq!(
        (config.queued.min_age, config.unroutable),
        (Duration::from_secs(3), Unroutable::Hold)
    );
    assert_eq!(config.queued.duplicates.map(|how| how.entries), Some(5));
    assert_eq!(config.queued.rules.purge[0].to_string(), "(36000, [4, 5])");
    assert!(config.queued.rules.validation);
}

#[test]
fn every_wrong_option_is_one_error() {
    let table = [
        ("batch = 0", "batch"),
        ("batch = 20001", "batch"),
        ("content_type = \"a\\nb\"", "content_type"),
        ("duplicates = { entries = 0 }", "duplicates.entries"),
        ("duplicates = { keep = \"0s\" }", "duplicates.keep"),
        ("duplicates = true", "duplicates"),
        ("purge = [{ after = \"5h\" }]", "purge.priority: missing"),
        ("purge = [{ priority = [3] }]", "purge.after: missing"),
        ("purge = [{ priority = [6], after = \"5h\" }]", "purge.priority"),
        ("purge = [{ priority = [], after = \"5h\" }]", "purge.priority"),
        ("purge = [{ priority = 3, after = \"5h\" }]", "purge.priority"),
        ("order = \"name\"", "order"),
        ("sync = \"crash\"", "sync"),
    ];
    for (line, wanted) in table {
        let errors = read(&format!("{UNIT}{line}\n")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(wanted), "{line}: {errors:?}");
    }
    let errors = read("type = \"amqp\"\nbroker = \"bunny\"\nexchange = \"x\"\n").unwrap_err();
    assert!(errors.len() == 1 && errors[0].contains("key: missing"), "{errors:?}");
}

fn decided(config: &Config, name: &str) -> Decision {
    decide(config, name.as_bytes(), NOW.parse().unwrap())
}

#[test]
fn what_the_seed_sends_has_its_key_and_its_header() {
    let config = read(UNIT).unwrap();
    let wanted = Letter {
        key: "exp.dd.notify.radar.24_HR_ACCUM.GIF.XSS".to_string(),
        filename: b"radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS.gif:URP:XSS:RADAR:GIF:".to_vec(),
        content_type: "text/plain".to_string(),
    };
    assert_eq!(decided(&config, NAME), Decision::Send(wanted));
    for name in ["ensemble.naefs.grib2.raw++a:b:c:d:e::2013", "plain", "a\nb"] {
        assert_eq!(decided(&config, name), Decision::Erase(Why::NoPattern), "{name}");
    }
}

#[test]
fn rules_go_before_masks_and_what_has_no_key_is_set_aside() {
    let rules = "validation = true\npurge = [{ priority = [3], after = \"5h\" }]\n";
    let config = read(&format!("{UNIT}{rules}")).unwrap();
    assert_eq!(decided(&config, NAME), Decision::Erase(Why::Incorrect));
    let purged = Decision::Erase(Why::Purged("(18000, [3])".to_string()));
    assert_eq!(decided(&config, "a++b:ncp1:CWAO:SA:3:Direct:20261121065959"), purged);
    let young = decided(&config, "a++b:ncp1:CWAO:SA:3:Direct:20261121115959");
    assert!(matches!(young, Decision::Send(letter) if letter.key == "exp.dd.notify.a"));

    let stamped = UNIT.replace("${0}", "${RYYYY}");
    let config = read(&stamped).unwrap();
    for name in ["a++b", "a++b:c"] {
        let decision = decided(&config, name);
        assert!(
            matches!(&decision, Decision::SetAside(why) if why.contains("RYYYY")),
            "{decision:?}"
        );
    }
    let long = format!("{}++b", "x".repeat(250));
    let decision = decided(&read(UNIT).unwrap(), &long);
    assert!(
        matches!(&decision, Decision::SetAside(why) if why.contains("255")),
        "{decision:?}"
    );
}

#[test]
fn a_name_with_few_fields_is_sent_like_any_other() {
    let config = read("broker = \"bunny\"\nexchange = \"x\"\nkey = \"k\"\n").unwrap();
    let table: [(&str, &[u8]); 4] = [
        ("plain", b"plain"),
        ("a:b", b"a:b"),
        ("a:20", b"a"),
        ("20130606144709", b"20130606144709"),
    ];
    for (name, filename) in table {
        match decided(&config, name) {
            Decision::Send(letter) => {
                assert_eq!((letter.key.as_str(), &letter.filename[..]), ("k", filename), "{name}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_lines_of_what_is_removed_are_those_of_sundew() {
    let table = [
        (Why::Incorrect, "Filename incorrect", Count::Invalid),
        (
            Why::Purged("(18000, [3])".into()),
            "Purged ((18000, [3]))",
            Count::Purged,
        ),
        (Why::NoPattern, "No pattern (TX) matching", Count::Rejected),
    ];
    for (why, text, count) in table {
        assert_eq!((why.to_string().as_str(), why.count()), (text, count));
    }
}

#[test]
fn the_host_is_named_with_its_port_only_where_that_is_unusual() {
    let config = read(UNIT).unwrap();
    let mut broker = config.broker().clone();
    assert_eq!(connection::host(&broker), "bunny");
    broker.urls[0].port = 6781;
    assert_eq!(connection::host(&broker), "bunny:6781");
}
