use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::tell::{How, tell};
use super::*;
use crate::config::{Errors, Places};
use crate::message::Format;
use crate::message::identity::md5_hex as md5_of;
use crate::spool::inventory::Version;
use crate::spool::tree::{Digests, Needs};

const UNIT: &str = r#"
broker = "bunny"
exchange = "xpublic"
announce = ["v02", "exp", "v00"]
masks = [{ reject = '.*\.bak$' }]
source = "us"
cluster = "here"
filename = "msg_${FILE}:WXO:LOCAL:FILE:XML"

[[tree]]
path = "/data/site/"
url  = "http://dd1.weather.gc.ca/citypage_weather/xml/"

[[tree]]
path = "/data/marine"
url  = "http://dd1.weather.gc.ca/marine%20weather"
settle = "2s"
catch_up = "all"
rescan = "0s"
announce = [{ format = "v00", key = "v00.urp.input", digest = "name" }]
masks = []
"#;

fn read(text: &str) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("px.toml"), "[brokers.bunny]\nurls = [\"amqp://bunny\"]\n").unwrap();
    let (site, errors) = Site::load(&Places::under(dir.path()));
    assert!(errors.is_empty(), "{errors:?}");
    let table = Table::parse(Path::new("w.toml"), text, &Errors::default());
    let (config, errors) = table.read_whole(|table| Config::read(table, &site));
    config.ok_or_else(|| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_unit_gives_its_options_to_trees_that_have_none_of_their_own() {
    let config = read(UNIT).unwrap();
    let [site, marine] = &config.trees[..] else {
        panic!("{:?}", config.trees);
    };
    assert_eq!(site.how.path, Path::new("/data/site"));
    assert_eq!(
        (site.base.as_str(), site.prefix.as_slice()),
        ("http://dd1.weather.gc.ca/", &b"citypage_weather/xml/"[..])
    );
    assert_eq!((site.how.settle, site.how.catch_up), (Duration::ZERO, CatchUp::Since));
    assert_eq!((site.how.rescan, site.announce.len()), (RESCAN, 3));
    assert!(!site.how.masks.accepts(b"a.bak") && marine.how.masks.accepts(b"a.bak"));
    assert_eq!(marine.prefix, b"marine weather/");
    assert_eq!(
        (marine.how.settle, marine.how.catch_up),
        (Duration::from_secs(2), CatchUp::All)
    );
    assert_eq!(
        (marine.how.rescan, marine.announce[0].key.as_str()),
        (Duration::ZERO, "v00.urp.input")
    );
}

#[test]
fn a_tree_is_polled_where_it_says_so() {
    let polled = UNIT.replacen("[[tree]]", "[[tree]]\npoll = \"5s\"", 1);
    let config = read(&polled).unwrap();
    assert_eq!(config.trees[0].how.poll, Some(Duration::from_secs(5)));
    assert_eq!(config.trees[1].how.poll, None);
    for (more, told) in [
        ("poll = \"0s\"", "above zero"),
        ("poll = \"5s\"\nrescan = \"1h\"", "not with poll"),
    ] {
        let errors = read(&UNIT.replacen("[[tree]]", &format!("[[tree]]\n{more}"), 1)).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{errors:#?}");
    }
}

#[test]
fn every_fault_of_a_unit_is_told_with_its_place() {
    let text = r#"
broker = "bunny"
announce = ["v01", { format = "v02", digest = "name" }]
identity = "sha1"
[[tree]]
path = "relative"
url = "http://user:secret@h/x"
catch_up = "some"
setle = "2s"
[[tree]]
url = "http://h/?q"
"#;
    let errors = read(text).unwrap_err();
    let all = errors.join("\n");
    let wanted = [
        "w.toml:3: announce",
        "w.toml:4: identity",
        "w.toml:6: tree.path",
        "w.toml:7: tree.url",
        "w.toml:8: tree.catch_up",
        "w.toml:9: tree.setle",
        "did you mean \"settle\"",
        "w.toml:10: tree.path: missing",
        "w.toml:11: tree.url",
        "exchange",
    ];
    for part in wanted {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    assert!(!all.contains("secret"), "{all}");
    let twice = UNIT.replace("/data/marine", "/data/site");
    assert!(
        read(&twice)
            .unwrap_err()
            .join("")
            .contains("another tree of this unit has this path")
    );
    assert!(
        read("broker = \"bunny\"\nexchange = \"x\"\n")
            .unwrap_err()
            .join("\n")
            .contains("[[tree]]")
    );
}

#[test]
fn content_is_read_only_for_formats_that_carry_its_digest() {
    let need = |announce: &[AnnounceAs], identity: Method| {
        How {
            announce,
            identity: &identity,
            headers: &UnitHeaders::default(),
            filename: None,
        }
        .needs()
    };
    let only = |md5, sha512| Needs { md5, sha512 };
    let name = AnnounceAs::new(Format::V00, Some("v00.urp.input"), None).unwrap();
    assert_eq!(need(&[Format::Exp.into(), name], Method::Md5), only(false, false));
    assert_eq!(need(&[Format::V00.into()], Method::Sha512), only(true, false));
    assert_eq!(need(&[Format::V02.into()], Method::Md5), only(true, false));
    assert_eq!(
        need(&[Format::V03.into(), Format::V00.into()], Method::Sha512),
        only(true, true)
    );
}

/// The three messages of the program that this one replaces.
#[test]
fn a_file_is_announced_in_each_format_in_the_configured_order() {
    let config = read(UNIT).unwrap();
    let md5 = md5_of(b"hello");
    let version = Version {
        inode: 1,
        mtime_ns: 1_421_777_289_500_000_000,
        size: 5,
    };
    let digests = Digests {
        md5: Some(md5.clone()),
        sha512: None,
    };
    let now: Timestamp = "2015-01-20T18:08:09.007Z".parse().unwrap();
    let told = |tree: &Watched, path: &[u8], digests: &Digests| {
        let how = How {
            announce: &tree.announce,
            identity: &config.identity,
            headers: &config.headers,
            filename: None,
        };
        tell(tree.ready(path, version, digests), how, now)
    };
    let of_both = told(&config.trees[0], b"ON/s0000430_e.xml", &digests);
    let messages: Vec<(String, String)> = of_both
        .envelopes
        .iter()
        .map(|envelope| (envelope.key.clone(), String::from_utf8(envelope.body.clone()).unwrap()))
        .collect();
    let key = "citypage_weather.xml.ON.s0000430_e.xml";
    let path = "citypage_weather/xml/ON/s0000430_e.xml";
    let wanted = [
        (
            format!("v02.post.{key}"),
            format!("20150120180809.007 http://dd1.weather.gc.ca/ {path}"),
        ),
        (
            format!("exp.dd.notify.{key}"),
            format!("http://dd1.weather.gc.ca/{path}"),
        ),
        (
            format!("v00.dd.notify.{key}"),
            format!("{md5} 5 http://dd1.weather.gc.ca/ {path}"),
        ),
    ];
    assert_eq!(messages, wanted);

    let told = told(&config.trees[1], b"a b", &Digests::default());
    assert!(told.envelopes.is_empty());
    assert_eq!(told.unnameable.len(), 1);
}
