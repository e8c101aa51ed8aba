use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::broker::{Connection, Purpose, Settlement, Subscription, connect};
use crate::config::{BrokerUrl, Errors, Places, Site};
use crate::message::{Binding, ExchangeKind, Queue};

const SOON: std::time::Duration = std::time::Duration::from_secs(30);

const SEED: &str = r#"
[announcements]
broker = "bunny"
exchange = { name = "cmc", durable = false }
announce = ["exp", "v00"]
url = "http://dd1.weather.gc.ca/"
[[url_files]]
queue = "dd-notify-wxo-b1"
url = "http://dd1.weather.gc.ca/"
"#;
const NAME: &str = "201306061440_XSS_24_HR_ACCUM_MM.gif";
const INGESTED: &str = "201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709";
const DIRECTORY: &[u8] = b"radar/24_HR_ACCUM/GIF/XSS";

fn site(root: &Path) -> Site {
    let places = Places::under(root);
    let url = BrokerUrl::parse("embedded:px.db", &places).unwrap();
    Site::of(&places, [Broker::new("bunny", url)])
}

fn read(text: &str) -> Result<Option<Config>, Vec<String>> {
    let site = site(Path::new("/r"));
    let table = Table::parse(Path::new("u.toml"), text, &Errors::default());
    let (config, found) = table.read_whole(|table| Config::read(table, &site, "wxo-b1-oper-dd"));
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(found.iter().map(ToString::to_string).collect()),
    }
}

fn unit(root: &Path) -> Unit {
    Unit {
        name: UnitName::new(UnitDir::Tx, "wxo-b1-oper-dd").unwrap(),
        places: Places::under(root),
        metrics: Arc::default(),
        state: super::super::State::default(),
        stop: CancellationToken::new(),
        abandon: CancellationToken::new(),
    }
}

fn delivered(directory: &[u8], name: &[u8], ingested: &[u8]) -> Delivered {
    let mut content = tempfile::tempfile().unwrap();
    content.write_all(b"hello").unwrap();
    Delivered {
        ingest_name: ingested.to_vec(),
        priority: 3,
        directory: directory.to_vec(),
        name: name.to_vec(),
        content,
        size: 5,
        modified: Some("2013-06-06T14:47:00Z".parse().unwrap()),
        digests: Digests::default(),
    }
}

fn seed() -> Arc<[Delivered]> {
    Arc::new([delivered(DIRECTORY, NAME.as_bytes(), INGESTED.as_bytes())])
}

/// The files in a queue, by their path in it, with their content.
fn queued(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left = vec![root.join("txq")];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap();
                let name = String::from_utf8_lossy(name.as_os_str().as_bytes()).into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

async fn announcer(text: &str, root: &Path) -> Announcer {
    let table = Table::parse(Path::new("u.toml"), text, &Errors::default());
    let (config, found) = table.read_whole(|table| Config::read(table, &site(root), "wxo-b1-oper-dd"));
    let config = config.unwrap_or_else(|| panic!("{found:?}")).unwrap();
    Announcer::start(&unit(root), config).await.unwrap()
}

#[test]
fn its_options_are_read_and_what_is_wrong_has_its_line() {
    assert!(read("").unwrap().is_none());
    let config = read(SEED).unwrap().unwrap();
    assert_eq!(config.broker().unwrap().name, "bunny");
    assert!(
        config
            .messages
            .unwrap()
            .announce
            .iter()
            .all(|how| how.keyed == Keyed::Directory)
    );
    let two_step = read("[[url_files]]\nqueue = \"q\"\nurl = \"http://h\"\nroot = \"/data//dd/\"\n")
        .unwrap()
        .unwrap();
    assert!(two_step.broker().is_none());
    assert_eq!(two_step.urls[0].place.root, [b"data".to_vec(), b"dd".to_vec()]);
    let bad = [
        ("[announcements]\n", "u.toml:1: announcements.broker: missing"),
        (
            "[announcements]\nbroker = \"bunny\"\nexchange = \"x\"\nannounce = [\"exp\"]\n",
            "announcements.url: missing",
        ),
        (
            &SEED.replace("announce = [\"exp\", \"v00\"]", ""),
            "announcements.announce: missing",
        ),
        (
            &SEED.replace("announce =", "key = \"name\"\nannounce ="),
            "key = \"name\": accepted: \"directory\", \"file\"",
        ),
        (
            &SEED.replace("announce =", "kye = \"file\"\nannounce ="),
            "unknown key, did you mean \"key\"",
        ),
        (
            &SEED.replace("announce =", "root = \"a/../b\"\nannounce ="),
            "root = \"a/../b\": accepted: a directory",
        ),
        (
            &SEED.replace("http://", "http://u:canary@"),
            "accepted: the URL of the directory `root`, without user",
        ),
        (
            "[[url_files]]\nqueue = \"../q\"\nurl = \"http://h/\"\n",
            "is no unit name",
        ),
        (
            "[[url_files]]\nqueue = \"wxo-b1-oper-dd\"\nurl = \"http://h/\"\n",
            "for ever",
        ),
        ("[[url_files]]\nurl = \"http://h/\"\n", "url_files.queue: missing"),
    ];
    for (text, wanted) in bad {
        let found = read(text).unwrap_err().join("\n");
        assert!(found.contains(wanted) && !found.contains("canary"), "{text}: {found}");
    }
}

#[test]
fn a_url_has_what_follows_the_root() {
    let place = |url: &str, root: &str| {
        let text = format!("[[url_files]]\nqueue = \"q\"\nurl = \"{url}\"\nroot = \"{root}\"\n");
        read(&text).unwrap().unwrap().urls.remove(0).place
    };
    type Row<'a> = (&'a str, &'a str, &'a [u8], Result<&'a str, &'a str>);
    let table: [Row<'_>; 8] = [
        ("http://h/", "", b"a/b", Ok("a/b/n")),
        ("http://h/", "", b"", Ok("n")),
        ("http://h/x/y", "/data/dd", b"//data/./dd/a/", Ok("x/y/a/n")),
        ("http://h/", "data/dd", b"data/dd", Ok("n")),
        (
            "http://h/",
            "data/dd",
            b"data/dd2/a",
            Err("not below the root \"data/dd\""),
        ),
        ("http://h/", "data/dd", b"data", Err("not below the root")),
        ("http://h/", "", b"a/../b", Err("leads upwards")),
        ("http://h/my%20x/", "", b"caf\xc3\xa9", Ok("my x/café/n")),
    ];
    for (url, root, directory, wanted) in table {
        let path = place(url, root).path(directory, b"n");
        match (path, wanted) {
            (Ok(path), Ok(wanted)) => assert_eq!(path.0, wanted.as_bytes()),
            (Err(why), Err(wanted)) => assert!(why.contains(wanted), "{why}"),
            (path, _) => panic!("{path:?} for {directory:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_announced_is_known_before_it_is_delivered() {
    let root = tempfile::tempdir().unwrap();
    let text = SEED.replace("[announcements]", "[announcements]\nroot = \"radar\"");
    let announcer = announcer(&text, root.path()).await;
    let check = |directory: &[u8], name: &[u8]| announcer.check(INGESTED.as_bytes(), directory, name);
    assert_eq!(check(DIRECTORY, NAME.as_bytes()), Ok(()));
    for (directory, name, wanted) in [
        (&b"model/x"[..], &b"n"[..], "not below the root \"radar\""),
        (b"radar/..", b"n", "upwards"),
        (b"radar/a", b"n\nm", "the file for dd-notify-wxo-b1 would hold control"),
        (b"radar/a", &[b'x'; 230], "would be longer than 255 bytes"),
        (&[b'y'; 4200], b"n", "not below"),
    ] {
        let why = check(directory, name).unwrap_err();
        assert!(
            why.starts_with("it cannot be announced: ") && why.contains(wanted),
            "{why}"
        );
    }
    let long = [b"radar/".as_slice(), &b"y/".repeat(2100)].concat();
    assert!(check(&long, b"n").unwrap_err().contains("longer than 4096 bytes"));
}

#[tokio::test]
async fn one_product_is_announced_as_the_old_sender_did_both_ways() {
    let root = tempfile::tempdir().unwrap();
    let announcer = announcer(SEED, root.path()).await;
    let messages = announcer.shared.messages(&seed()).unwrap();
    let url = format!("http://dd1.weather.gc.ca/radar/24_HR_ACCUM/GIF/XSS/{NAME}");
    let filename = format!("radar.24_HR_ACCUM.GIF.XSS++{NAME}:URP:XSS:RADAR:GIF:");
    let (exchange, exp) = &messages[0];
    assert_eq!(
        (exchange.as_str(), exp.key.as_str()),
        ("cmc", "exp.dd.notify.radar.24_HR_ACCUM.GIF.XSS")
    );
    assert_eq!(exp.body, url.as_bytes());
    assert_eq!(exp.headers["filename"].as_str(), Some(filename.as_str()));
    let v00 = &messages[1].1;
    assert_eq!(v00.key, "v00.dd.notify.radar.24_HR_ACCUM.GIF.XSS");
    let body = format!("5d41402abc4b2a76b9719d911017c592 5 http://dd1.weather.gc.ca/ radar/24_HR_ACCUM/GIF/XSS/{NAME}");
    assert_eq!(String::from_utf8_lossy(&v00.body), body);

    announcer.add(seed()).await.unwrap();
    let files = queued(root.path());
    assert_eq!(files.len(), 1);
    assert!(files[0].0.starts_with("txq/dd-notify-wxo-b1/3/20"), "{files:?}");
    assert!(
        files[0].0.ends_with(&format!("/{filename}:20130606144709")),
        "{files:?}"
    );
    assert_eq!(files[0].1, url);
}

#[tokio::test]
async fn a_repeat_takes_the_place_of_the_first_and_another_url_of_that_name_goes_beside_it() {
    use std::os::unix::fs::MetadataExt;
    let root = tempfile::tempdir().unwrap();
    let text = &SEED[SEED.find("[[url_files]]").unwrap()..];
    let announcer = announcer(text, root.path()).await;
    let inode = |name: &str| std::fs::metadata(root.path().join(name)).unwrap().ino();
    announcer.add(seed()).await.unwrap();
    let first = queued(root.path());
    let before = inode(&first[0].0);
    announcer.add(seed()).await.unwrap();
    assert_eq!(queued(root.path()), first);
    assert_ne!(
        inode(&first[0].0),
        before,
        "a sender that has read the first must not remove the second"
    );
    // Another directory of the same dotted name.
    let other = delivered(b"radar/24_HR_ACCUM.GIF/XSS", NAME.as_bytes(), INGESTED.as_bytes());
    announcer.add(Arc::new([other])).await.unwrap();
    let both = queued(root.path());
    assert_eq!(both.len(), 2);
    assert!(
        both[1].0.ends_with(":20130606144710") && both[1].1.contains("24_HR_ACCUM.GIF/XSS"),
        "{both:?}"
    );
    assert!(announcer.add(Arc::new([delivered(b"a/..", b"n", b"n")])).await.is_err());
}

#[tokio::test]
async fn hostile_names_keep_their_url_and_their_directory() {
    let root = tempfile::tempdir().unwrap();
    let announcer = announcer(SEED, root.path()).await;
    let odd = delivered(b"a#b/c*d", b"x++y z\xff?.gif", b"x++y:A:B:C:D::20130606144709");
    let messages = announcer.shared.messages(std::slice::from_ref(&odd)).unwrap();
    assert_eq!(messages[0].1.key, "exp.dd.notify.a%23b.c%22d");
    let url = "http://dd1.weather.gc.ca/a%23b/c*d/x++y%20z%FF%3F.gif";
    assert_eq!(String::from_utf8_lossy(&messages[0].1.body), url);
    announcer.add(Arc::new([odd])).await.unwrap();
    let files = queued(root.path());
    assert_eq!(files[0].1, url);
    assert!(files[0].0.contains("/a#b.c*d++x+%2By z"), "{files:?}");
}

/// A subscriber of everything on the embedded broker of the site.
async fn subscriber(root: &Path) -> (Box<dyn Connection>, Box<dyn Subscription>) {
    let cmc = Exchange {
        name: "cmc".into(),
        kind: ExchangeKind::Topic,
        durable: false,
        auto_delete: false,
    };
    let topology = Topology {
        exchanges: vec![cmc],
        queues: vec![Queue {
            name: "q".into(),
            durable: true,
            ..Queue::default()
        }],
        bindings: vec![Binding {
            exchange: "cmc".into(),
            queue: "q".into(),
            key: "#".into(),
        }],
    };
    let broker = site(root).broker("bunny").unwrap().clone();
    let connection = connect(&broker, Purpose::Consume, "test").await.unwrap();
    connection.declare(&topology).await.unwrap();
    let subscription = connection.subscribe("q", 100).await.unwrap();
    (connection, subscription)
}

fn product(n: usize) -> Delivered {
    let name = format!("p{n}.gif");
    let ingested = format!("{name}:URP:XSS:RADAR:GIF::20130606144709");
    delivered(DIRECTORY, name.as_bytes(), ingested.as_bytes())
}

async fn next_url(subscription: &mut Box<dyn Subscription>) -> String {
    let next = tokio::time::timeout(SOON, subscription.next());
    let received = next.await.expect("an announcement in time").unwrap();
    received.receipt.settle(Settlement::Ack).await.unwrap();
    String::from_utf8(received.envelope.body).unwrap()
}

const ONE_STEP: &str = r#"
[announcements]
broker = "bunny"
exchange = { name = "cmc", durable = false }
announce = ["exp"]
url = "http://dd1.weather.gc.ca/"
"#;

#[tokio::test]
async fn what_is_added_is_published_in_order_and_leaves_the_outbox() {
    let root = tempfile::tempdir().unwrap();
    let (_connection, mut subscription) = subscriber(root.path()).await;
    let announcer = announcer(ONE_STEP, root.path()).await;
    let all: Vec<Delivered> = (0..600).map(product).collect();
    for one in all {
        announcer.add(Arc::new([one])).await.unwrap();
    }
    for n in 0..600 {
        let url = next_url(&mut subscription).await;
        assert!(
            url.ends_with(&format!("/radar/24_HR_ACCUM/GIF/XSS/p{n}.gif")),
            "{n}: {url}"
        );
    }
    announcer.finish().await;
    let outbox = announcer.outbox.as_ref().unwrap();
    assert!(outbox.is_empty() && outbox.take(0, 1).await.unwrap().is_empty());
    let state = &announcer.shared.unit.state;
    assert_eq!(state.snapshot().gauges[posting::GAUGE], 0);
}

/// The unit is gone before anything could be published; the outbox has it.
#[tokio::test]
async fn what_was_added_and_not_published_is_announced_after_a_restart_in_order() {
    let root = tempfile::tempdir().unwrap();
    {
        let announcer = announcer(ONE_STEP, root.path()).await;
        announcer.shared.unit.abandon.cancel();
        announcer.finish().await;
        for n in 0..5 {
            announcer.add(Arc::new([product(n), product(n + 100)])).await.unwrap();
        }
        assert_eq!(announcer.outbox.as_ref().unwrap().len(), 10);
    }
    let (_connection, mut subscription) = subscriber(root.path()).await;
    let announcer = announcer(ONE_STEP, root.path()).await;
    for n in [0, 100, 1, 101, 2, 102, 3, 103, 4, 104] {
        let url = next_url(&mut subscription).await;
        assert!(url.ends_with(&format!("/p{n}.gif")), "{n}: {url}");
    }
    announcer.finish().await;
    assert!(announcer.outbox.as_ref().unwrap().is_empty());
}

#[tokio::test]
async fn what_an_operator_wants_tried_again_goes_out_again() {
    let root = tempfile::tempdir().unwrap();
    let (_connection, mut subscription) = subscriber(root.path()).await;
    let failed = root.path().join("state/tx_wxo-b1-oper-dd/failed.db");
    let failed = FailedStore::open(&failed, failed::Limits::default()).unwrap();
    let now = Timestamp::now();
    failed
        .keep(&failed::Failure {
            envelope: Envelope {
                key: "exp.x".into(),
                body: b"http://h/again".to_vec(),
                ..Envelope::default()
            },
            queue: "cmc".into(),
            reason: "refused".into(),
            fault: crate::message::Fault::Message,
            attempts: 1,
            first: now,
            last: now,
            is_rubbish: false,
        })
        .unwrap();
    let announcer = announcer(ONE_STEP, root.path()).await;
    failed.ask_replay(failed::Which::All).unwrap();
    assert_eq!(next_url(&mut subscription).await, "http://h/again");
    announcer.finish().await;
    assert_eq!(failed.totals().unwrap().products, 0);
}
