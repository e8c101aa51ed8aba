use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;
use crate::config::{ClientKind, RoutingTable};
use crate::message::{Extension, Verdict};

mod foreign;
mod repeats;

const NAME: &[u8] = b"a.gif:URP:XSS:RADAR:2:";
const UNSETTLED: usize = 3;
const STEM: &str = "a.gif:URP:XSS:RADAR:2:";

/// A spool, and a receiver `in` on it.
struct World {
    dir: tempfile::TempDir,
    durability: Durability,
}

fn client(name: &str, kind: ClientKind, accept: &str) -> Client {
    let masks = [(Verdict::Accept, accept), (Verdict::Reject, "(?s).*")];
    Client {
        name: name.into(),
        kind,
        masks: Masks::new(masks).unwrap(),
    }
}

fn clients() -> Vec<Client> {
    vec![
        client("all", ClientKind::Sender, ".*"),
        client("radar", ClientKind::Sender, ".*:RADAR:"),
        client("sat", ClientKind::Sender, ".*:SAT:"),
        client("filter", ClientKind::Filter, ".*gif"),
        client("both", ClientKind::Transceiver, ".*"),
    ]
}

impl World {
    fn new() -> World {
        World {
            dir: tempfile::tempdir().unwrap(),
            durability: Durability::Power,
        }
    }

    fn options(&self) -> Options {
        Options {
            extension: Extension::default(),
            masks: Masks::default(),
            routing: Routing::Masks,
            feeds: Vec::new(),
            durability: self.durability,
            unsettled: UNSETTLED,
        }
    }

    fn open(&self) -> Ingester {
        self.open_with(self.options())
    }

    fn open_with(&self, options: Options) -> Ingester {
        Ingester::open(&Places::under(self.dir.path()), "in", options, clients()).unwrap()
    }

    fn by_table(&self, masks: Masks, table: &str) -> Ingester {
        let path = self.path("pxRouting.conf");
        fs::write(&path, table).unwrap();
        self.open_with(Options {
            masks,
            routing: Routing::Table(Arc::new(RoutingTable::load(&path, &clients()).unwrap().0)),
            ..self.options()
        })
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// An earlier process was at work until then.
    fn mark(&self, at: &str) {
        let at: Timestamp = at.parse().unwrap();
        let mark = fs::File::create(self.path("state/rx_in/ingested")).unwrap();
        mark.set_modified(at.into()).unwrap();
    }

    /// Every file below a directory: its path without stamp and hour, how often, its bytes.
    fn files(&self, below: &str) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in walk(&self.path(below)) {
            let bytes = fs::read_to_string(&path).unwrap();
            let text = path
                .strip_prefix(self.dir.path())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let text = text.rsplit_once(':').map_or(text.clone(), |(stem, _)| stem.to_string());
            let is_time = |part: &&str| part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_digit());
            let parts: Vec<&str> = text.split('/').filter(|part| !is_time(part)).collect();
            found.entry(parts.join("/")).or_default().push(bytes);
        }
        found.values_mut().for_each(|bytes| bytes.sort());
        found
    }

    /// The usual product, once everywhere, and nothing left in `rxq`.
    #[track_caller]
    fn assert_once(&self) {
        let once = vec!["bytes".to_string()];
        let want = |paths: &[String]| paths.iter().map(|path| (path.clone(), once.clone())).collect();
        assert_eq!(self.files("db"), want(&[format!("db/RADAR/URP/XSS/{STEM}")]));
        let queued = [format!("txq/all/2/{STEM}"), format!("txq/radar/2/{STEM}")];
        assert_eq!(self.files("txq"), want(&queued));
        assert_eq!(self.files("fxq"), want(&[format!("fxq/filter/{STEM}")]));
        assert_eq!(self.files("rxq"), BTreeMap::new());
        assert_eq!(fs::metadata(&walk(&self.path("db"))[0]).unwrap().nlink(), 4);
    }
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

async fn receive(ingester: &Ingester, name: &[u8], bytes: &str, is_redelivered: bool) -> Taken {
    try_receive(ingester, name, bytes, is_redelivered).await.unwrap()
}

async fn try_receive(ingester: &Ingester, name: &[u8], bytes: &str, is_redelivered: bool) -> Result<Taken, SpoolError> {
    let bytes = bytes.to_string();
    let fill = move |draft: &mut Draft| draft.write_all(bytes.as_bytes());
    ingester.receive(ingester.turn(name), is_redelivered, fill).await
}

async fn recover(ingester: &Ingester) -> usize {
    let told = std::sync::Mutex::new(0);
    assert!(
        ingester
            .recover(|_| *told.lock().unwrap() += 1)
            .await
            .unwrap()
            .is_empty()
    );
    told.into_inner().unwrap()
}

#[tokio::test]
async fn a_product_is_linked_to_everybody_who_accepts_it() {
    for durability in [Durability::Power, Durability::Crash] {
        let world = World {
            durability,
            ..World::new()
        };
        let ingester = world.open_with(Options {
            feeds: vec!["fed".into()],
            ..world.options()
        });
        let taken = receive(&ingester, NAME, "bytes", false).await;
        let [ingested] = &taken.ingested[..] else {
            panic!("{taken:?}")
        };
        let name = String::from_utf8(ingested.name.clone()).unwrap();
        let (date, hour) = (&name[STEM.len() + 1..][..8], &name[STEM.len() + 1..][..10]);
        assert_eq!(ingested.path, world.path(&format!("db/{date}/RADAR/URP/XSS/{name}")));
        assert_eq!(ingested.clients.as_ref().unwrap(), &["all", "radar", "filter"]);
        assert_eq!((ingested.bytes, &ingested.feeds[..]), (5, &["fed".to_string()][..]));
        assert!(ingested.warnings.is_empty() && taken.known.is_none());
        for path in [
            format!("txq/all/2/{hour}/{name}"),
            format!("txq/radar/2/{hour}/{name}"),
            format!("fxq/filter/{name}"),
            format!("rxq/fed/{name}"),
        ] {
            assert!(world.path(&path).exists(), "{path}");
        }
        fs::remove_dir_all(world.path("rxq/fed")).unwrap();
        world.assert_once();
        for made in [
            format!("txq/all/2/{hour}"),
            "txq/all".into(),
            format!("db/{date}/RADAR"),
        ] {
            let mode = fs::metadata(world.path(&made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o1775, "{made}");
        }
    }
}

#[tokio::test]
async fn the_table_decides_by_the_key_and_the_clients_masks_too() {
    let world = World::new();
    let masks = [
        (Verdict::Accept, ".*:(URP):(XSS):"),
        (Verdict::Reject, ".*secret"),
        (Verdict::Accept, "(plain)"),
    ];
    let table = "key URP_XSS sat,radar,both,nobody 4\nkey other all 1\n";
    let ingester = world.by_table(Masks::new(masks).unwrap(), table);
    let taken = receive(&ingester, NAME, "x", false).await;
    assert_eq!(taken.ingested[0].clients.as_ref().unwrap(), &["radar", "both"]);
    assert_eq!(
        world.files("txq").into_keys().collect::<Vec<_>>(),
        [format!("txq/both/4/{STEM}"), format!("txq/radar/4/{STEM}")]
    );
    for (name, warning) in [
        (
            "plain",
            "Key not in routing table (plain from plain:MISSING:MISSING:MISSING:MISSING::",
        ),
        (
            "secret",
            "Key not generated (no accept match) with secret:MISSING:MISSING:MISSING:MISSING::",
        ),
    ] {
        let taken = receive(&ingester, name.as_bytes(), "x", false).await;
        let ingested = &taken.ingested[0];
        assert_eq!(
            ingested.clients.as_deref(),
            Some(&[][..]),
            "databased, queued for nobody"
        );
        assert!(ingested.warnings[0].starts_with(warning), "{:?}", ingested.warnings);
        assert!(ingested.path.exists());
    }
}

#[tokio::test]
async fn a_field_that_is_no_priority_becomes_three() {
    let world = World::new();
    let ingester = world.open();
    for (name, priority) in [
        ("a:b:c:d:GIF:", 3),
        ("a:b:c:d:5.A.I.E:", 5),
        ("a:b:c:d:6:", 3),
        ("a:b:c:d:0:", 0),
    ] {
        receive(&ingester, name.as_bytes(), "x", false).await;
        let path = format!("txq/all/{priority}/{name}");
        assert!(
            world.files("txq").contains_key(&path),
            "{path}: {:?}",
            world.files("txq")
        );
    }
}

#[tokio::test]
async fn a_problem_bulletin_is_kept_and_queued_for_nobody() {
    let world = World::new();
    let ingester = world.open_with(Options {
        feeds: vec!["fed".into()],
        ..world.options()
    });
    let taken = receive(&ingester, b"PROBLEM_BULLETIN:a:b:c:3", "x", false).await;
    assert_eq!(
        (taken.ingested[0].clients.as_ref(), taken.ingested[0].feeds.len()),
        (None, 0)
    );
    assert_eq!(world.files("db").len(), 1);
    assert!(world.files("txq").is_empty() && world.files("rxq").is_empty());
}

#[tokio::test]
async fn names_are_filled_cut_and_counted_on_with_sundews_warnings() {
    let world = World::new();
    let ingester = world.open_with(Options {
        extension: Extension::parse("-NAME:CC:TT:3:FMT", "ss").unwrap(),
        ..world.options()
    });
    for (name, stem, warning) in [
        ("plain", "plain:ss:CC:TT:3:FMT", None),
        ("a::c", "a:ss:c:TT:3:FMT", None),
        (
            "a:b:c:d:e:f:g:h",
            "a:b:c:d:e:f",
            Some("File name a:b:c:d:e:f:g:h truncated to a:b:c:d:e:f"),
        ),
    ] {
        let taken = receive(&ingester, name.as_bytes(), name, false).await;
        let ingested = &taken.ingested[0];
        let text = String::from_utf8(ingested.name.clone()).unwrap();
        assert_eq!(text.rsplit_once(':').unwrap().0, stem);
        assert_eq!(ingested.warnings.first().map(String::as_str), warning);
    }
    // As many as fit into less than a second: most stamps are taken.
    let mut warned = 0;
    for n in 0..20 {
        let taken = receive(&ingester, b"plain", &n.to_string(), false).await;
        for warning in &taken.ingested[0].warnings {
            let path = warning.strip_prefix("dbName ").unwrap();
            let path = path.strip_suffix(" found in db, attempt to modify suffix ").unwrap();
            assert!(Path::new(path).starts_with(world.path("db")));
            warned += 1;
        }
    }
    assert!(warned > 0);
    let all = world.files("db");
    assert_eq!(all["db/TT/ss/CC/plain:ss:CC:TT:3:FMT"].len(), 21, "none is lost");
    assert_eq!(world.files("txq")["txq/all/3/plain:ss:CC:TT:3:FMT"].len(), 21);
}

#[tokio::test]
async fn hostile_names_are_the_messages_fault_and_leave_nothing_behind() {
    let world = World::new();
    let ingester = world.open();
    let (long, longer) = ("n".repeat(240), "n".repeat(300));
    for name in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\0b",
        ".hidden",
        ".lock",
        &long,
        &longer,
        "a:..:c:d:e",
        "a:b:c:.:e",
        ".px-0123456789abcdef-1f.tmp",
    ] {
        let error = try_receive(&ingester, name.as_bytes(), "x", false).await.unwrap_err();
        assert_eq!(error.fault, Fault::Message, "{name:?}: {error}");
        assert!(ingester.draft(name.as_bytes()).is_err() && ingester.check(name.as_bytes()).is_err());
    }
    let told = ingester.check(b"a:..:c:d:e").unwrap_err().what;
    assert_eq!(told, "Bad ingest name (a:..:c:d:e) => No dbName");
    assert!(world.files("rxq").is_empty() && world.files("db").is_empty());
    for name in ["quit", "a.tmp", "caf\u{e9} au lait", "..a", "a\nb"]
        .iter()
        .filter(|name| !name.starts_with('.'))
    {
        assert_eq!(
            receive(&ingester, name.as_bytes(), "quit", false).await.ingested.len(),
            1,
            "{name:?}"
        );
    }
    assert_eq!(receive(&ingester, b"empty", "", false).await.ingested[0].bytes, 0);
}

/// What a process that was killed at each point leaves on the disk. A new one finishes it; and when the message is
/// delivered again, nothing more is linked.
#[tokio::test]
async fn whatever_the_moment_of_a_kill_each_link_is_made_once() {
    type Moment = (&'static str, fn(&World));
    let moments: [Moment; 8] = [
        ("before the first byte", |_| {}),
        ("while it was written", |world| {
            fs::write(world.path("rxq/in/.px-0123456789abcdef-1f.tmp"), "byt").unwrap();
        }),
        ("after the rename", |world| in_rxq(world)),
        ("after the link into db", |world| {
            in_rxq(world);
            link(world, "db/20261120/RADAR/URP/XSS", 5);
        }),
        ("after the first client", |world| {
            in_rxq(world);
            link(world, "db/20261120/RADAR/URP/XSS", 5);
            link(world, "txq/all/2/2026112023", 5);
        }),
        ("after a client whose stamp was taken", |world| {
            in_rxq(world);
            link(world, "db/20261120/RADAR/URP/XSS", 5);
            link(world, "txq/all/2/2026112023", 7);
            for taken in [5, 6] {
                let path = format!("txq/all/2/2026112023/{STEM}:2026112023595{taken}");
                fs::write(world.path(&path), "other").unwrap();
            }
        }),
        ("after all links", |world| {
            in_rxq(world);
            all_links(world);
        }),
        ("after the unlink, before the ack", |world| {
            in_rxq(world);
            all_links(world);
            fs::remove_file(rxq_file(world)).unwrap();
        }),
    ];
    for (moment, prepare) in moments {
        let world = World::new();
        drop(world.open());
        prepare(&world);
        world.mark("2026-11-20T23:59:55Z");
        let ingester = world.open();
        recover(&ingester).await;
        let taken = receive(&ingester, NAME, "bytes", true).await;
        let is_fresh = moment.starts_with("before") || moment.starts_with("while");
        assert_eq!(
            (taken.known.is_none(), taken.ingested.len()),
            (is_fresh, usize::from(is_fresh)),
            "{moment}"
        );
        for taken in [5, 6] {
            // The other products of the same name were there before.
            let path = world.path(&format!("txq/all/2/2026112023/{STEM}:2026112023595{taken}"));
            if fs::read(&path).is_ok_and(|bytes| bytes == b"other") {
                fs::remove_file(path).unwrap();
            }
        }
        world.assert_once();
        assert_eq!(
            receive(&ingester, NAME, "bytes", true).await.ingested,
            [],
            "{moment}: and again"
        );
    }
}

fn rxq_file(world: &World) -> PathBuf {
    world.path("rxq/in").join(STEM)
}

fn in_rxq(world: &World) {
    fs::write(rxq_file(world), "bytes").unwrap();
}

fn link(world: &World, directory: &str, second: u8) {
    fs::create_dir_all(world.path(directory)).unwrap();
    let name = match directory.starts_with("fxq") || directory.starts_with("rxq") {
        true => format!("{STEM}:20261120235955"),
        false => format!("{STEM}:2026112023595{second}"),
    };
    fs::hard_link(rxq_file(world), world.path(directory).join(name)).unwrap();
}

fn all_links(world: &World) {
    for directory in [
        "db/20261120/RADAR/URP/XSS",
        "txq/all/2/2026112023",
        "txq/radar/2/2026112023",
        "fxq/filter",
    ] {
        link(world, directory, 5);
    }
}

#[tokio::test]
async fn many_of_one_name_at_once_are_all_kept_in_their_order() {
    const COUNT: usize = 40;
    let world = World::new();
    let ingester = world.open();
    let works = (0..COUNT).map(|n| {
        let (ingester, turn) = (ingester.clone(), ingester.turn(NAME));
        let fill = move |draft: &mut Draft| write!(draft, "{n:02}");
        tokio::spawn(async move { ingester.receive(turn, false, fill).await.unwrap() })
    });
    for work in works.collect::<Vec<_>>() {
        work.await.unwrap();
    }
    // By name is by stamp.
    let kept: Vec<String> = walk(&world.path("db"))
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(kept, (0..COUNT).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    assert_eq!(world.files("txq")[&format!("txq/all/2/{STEM}")].len(), COUNT);
    assert!(world.files("rxq").is_empty());
}

#[tokio::test]
async fn what_lies_in_rxq_under_the_same_name_is_a_product_too() {
    let world = World::new();
    let ingester = world.open();
    fs::write(rxq_file(&world), "dropped").unwrap();
    let taken = receive(&ingester, NAME, "bytes", false).await;
    assert_eq!(taken.ingested.len(), 2);
    assert_eq!(world.files("db").values().next().unwrap(), &["bytes", "dropped"]);
    // The same bytes delivered again are the file itself.
    fs::write(rxq_file(&world), "again").unwrap();
    let taken = receive(&ingester, NAME, "again", true).await;
    assert_eq!((taken.ingested.len(), taken.known), (1, None));
    assert!(world.files("rxq").is_empty());
}

#[tokio::test]
async fn trouble_half_way_is_this_hosts_and_is_finished_later() {
    let world = World::new();
    let ingester = world.open();
    fs::write(world.path("txq/radar"), "in the way").unwrap();
    let error = try_receive(&ingester, NAME, "bytes", false).await.unwrap_err();
    assert_eq!(error.fault, Fault::Own, "{error}");
    assert!(rxq_file(&world).exists());
    assert!(ingester.recover(|_| ()).await.is_err());
    fs::remove_file(world.path("txq/radar")).unwrap();
    assert_eq!(receive(&ingester, NAME, "bytes", true).await.ingested.len(), 1);
    world.assert_once();
}

#[tokio::test]
async fn a_start_ingests_what_is_whole_and_leaves_what_is_not_its_own() {
    let world = World::new();
    drop(world.open());
    for n in 0..200 {
        fs::write(world.path(&format!("rxq/in/f{n}:a:b:c:1:")), n.to_string()).unwrap();
    }
    let long = "n".repeat(245);
    for name in [".lock", ".sleep", &long] {
        fs::write(world.path(&format!("rxq/in/{name}")), "x").unwrap();
    }
    fs::create_dir(world.path("rxq/in/sub")).unwrap();
    let ingester = world.open();
    let told = std::sync::Mutex::new(0);
    let left = ingester.recover(|_| *told.lock().unwrap() += 1).await.unwrap();
    assert_eq!((told.into_inner().unwrap(), left.len()), (200, 1));
    assert!(left[0].what.contains("longer than 255 bytes"), "{}", left[0]);
    assert_eq!(walk(&world.path("rxq")).len(), 3);
    assert_eq!(world.files("db").len(), 200);
    assert_eq!(recover_left(&ingester).await, 0, "nothing more");
}

async fn recover_left(ingester: &Ingester) -> usize {
    let told = std::sync::Mutex::new(0);
    ingester.recover(|_| *told.lock().unwrap() += 1).await.unwrap();
    told.into_inner().unwrap()
}

#[tokio::test]
async fn dropped_files_are_ingested_from_anywhere_below() {
    let world = World::new();
    let ingester = world.open();
    fs::create_dir_all(world.path("rxq/in/sub/deep")).unwrap();
    fs::write(world.path("rxq/in/sub/deep").join(STEM), "bytes").unwrap();
    let path = [b"sub/deep/", NAME].concat();
    assert!(ingester.ingest(&path).await.unwrap().is_some());
    assert!(ingester.ingest(&path).await.unwrap().is_none(), "gone");
    world.assert_once();
    assert_eq!(ingester.ingest(b"sub/.x").await.unwrap_err().fault, Fault::Message);
}

/// In a directory of somebody else's. Clients would get it again and again.
#[test]
fn what_cannot_be_taken_away_is_not_linked() {
    const SOMEBODY: u32 = 65_534;
    for (directory_mode, other_file) in [(0o555, false), (0o1777, true)] {
        let is_root = rustix::process::geteuid().is_root();
        if other_file && !is_root {
            continue; // only root can make files of others
        }
        let world = World::new();
        let ingester = world.open();
        fs::create_dir(world.path("rxq/in/sub")).unwrap();
        let path = world.path("rxq/in/sub").join(STEM);
        fs::write(&path, "bytes").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        for (below, mode) in [
            ("", 0o777),
            ("db", 0o777),
            ("txq", 0o777),
            ("fxq", 0o777),
            ("rxq/in/sub", directory_mode),
        ] {
            fs::set_permissions(world.path(below), fs::Permissions::from_mode(mode)).unwrap();
        }
        let work = move || {
            if is_root {
                let uid = rustix::process::Uid::from_raw(SOMEBODY);
                rustix::thread::set_thread_uid(uid).unwrap();
            }
            let path = [b"sub/", NAME].concat();
            let source = ingester.inner.rxq.source(&path).unwrap().unwrap();
            ingester.inner.link_up(source).map(drop).unwrap_err()
        };
        let error = std::thread::spawn(work).join().unwrap();
        assert_eq!(error.fault, Fault::Own, "{error}");
        assert!(error.what.contains("cannot remove"), "{error}");
        assert!(world.files("db").is_empty() && world.files("txq").is_empty());
        fs::set_permissions(world.path("rxq/in/sub"), fs::Permissions::from_mode(0o777)).unwrap();
    }
}
