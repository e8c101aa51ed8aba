use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::message::{Envelope, Headers, Value};
use crate::spool::line::tests::full as message;

fn source(queue: &str) -> Source {
    let arguments = serde_json::json!({ "x-expires": 5, "x-px": "é" });
    Source {
        broker: "bunny".into(),
        vhost: "/".into(),
        queue: queue.into(),
        arguments: arguments.as_object().unwrap().clone(),
    }
}

fn now() -> Timestamp {
    "2026-11-21T21:03:37.5Z".parse().unwrap()
}

fn plain(number: u64) -> Message {
    Message {
        exchange: None,
        redelivered: false,
        envelope: Envelope {
            key: number.to_string(),
            ..Envelope::default()
        },
    }
}

/// A file of two batches, and where the second one begins.
fn two_batches(directory: &Path) -> (PathBuf, u64) {
    let mut file = SpillFile::create(directory, &source("q"), now()).unwrap();
    file.append(&[message(0), plain(1)]).unwrap();
    let first = file.length;
    file.append(&[plain(2), message(3)]).unwrap();
    assert_eq!(file.messages(), 4);
    let path = file.path().to_owned();
    file.end().unwrap();
    (path, first)
}

/// Its messages, after how many of them some are missing, and the number that it should hold.
fn read(path: &Path) -> (Vec<Message>, Vec<u64>, Option<u64>) {
    let mut reader = SpillReader::open(path).unwrap();
    let mut messages = Vec::new();
    while let Some(message) = reader.next().unwrap() {
        messages.push(message);
    }
    let damage = reader.damage().iter().map(|damage| damage.after).collect();
    (messages, damage, reader.end())
}

#[test]
fn what_was_spilled_is_read_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("a/b");
    let (path, _) = two_batches(&below);
    assert_eq!(path, below.join("q.20261121T210337.jsonl.gz"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let reader = SpillReader::open(&path).unwrap();
    assert_eq!(
        (reader.source(), reader.time()),
        (&source("q"), "2026-11-21T21:03:37.5Z")
    );
    let messages = vec![message(0), plain(1), plain(2), message(3)];
    assert_eq!(read(&path), (messages, vec![], Some(4)));
}

#[test]
fn zcat_reads_it_as_lines_of_json() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = two_batches(directory.path());
    let output = std::process::Command::new("zcat").arg(&path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[5], serde_json::json!({ "end": 4 }));
    assert_eq!((&lines[0]["px_spill"], &lines[0]["queue"]), (&1.into(), &"q".into()));
    assert_eq!(lines[1]["headers"]["i32"]["i32"], -320000);
    assert_eq!(lines[2], serde_json::json!({ "key": "1", "body": "" }));
}

#[test]
fn headers_nested_deeply_come_back() {
    let mut value = Value::I8(1);
    for _ in 0..63 {
        value = Value::Array(vec![Value::Table(Headers::from([("\"".into(), value)]))]);
    }
    let mut deep = plain(0);
    deep.envelope.headers.insert("deep".into(), value);
    let directory = tempfile::tempdir().unwrap();
    let mut file = SpillFile::create(directory.path(), &source("q"), now()).unwrap();
    file.append(std::slice::from_ref(&deep)).unwrap();
    assert_eq!(read(file.path()).0, [deep]);
}

/// Wherever a crash cuts the file off, its whole batches are read, and the rest is told.
#[test]
fn a_torn_end_costs_only_its_own_batch() {
    let directory = tempfile::tempdir().unwrap();
    let (path, first) = two_batches(directory.path());
    let (whole, first) = (std::fs::read(&path).unwrap(), first as usize);
    let cut = directory.path().join("cut");
    let last = whole.len() - member("{\"end\":4}").len();
    for length in (first..last).step_by(7).chain([first + 1, last - 1]) {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let (messages, damage, end) = read(&cut);
        assert_eq!(messages, [message(0), plain(1)], "{length}");
        assert_eq!((damage.is_empty(), end), (length == first, None), "{length}");
    }
    for length in last..whole.len() {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let (messages, damage, end) = read(&cut);
        assert_eq!((messages.len(), damage.is_empty(), end), (4, length == last, None));
    }
    // After a power cut the end may be zeros.
    std::fs::write(&cut, [&whole[..first], &[0; 40_000]].concat()).unwrap();
    assert_eq!(read(&cut), (vec![message(0), plain(1)], vec![2], None));
}

fn member(line: &str) -> Vec<u8> {
    pack(&[line.into()]).unwrap()
}

/// Whichever byte is bad, and wherever bytes are missing: the batches around are read.
#[test]
fn what_is_damaged_costs_only_its_own_batch() {
    let directory = tempfile::tempdir().unwrap();
    let (path, first) = two_batches(directory.path());
    let whole = std::fs::read(&path).unwrap();
    let head = member_after(&whole, 0);
    assert_eq!(member_after(&whole, head), first as usize);
    let spoilt = directory.path().join("spoilt");
    let mut left_out = 0;
    for at in (head + 1..first as usize).step_by(5).chain([first as usize - 1]) {
        for bytes in [
            [&whole[..at], &[whole[at] ^ 4], &whole[at + 1..]].concat(),
            [&whole[..at], &whole[at + 1..]].concat(),
            [&whole[..at], &[0; 9000], &whole[at..]].concat(),
        ] {
            std::fs::write(&spoilt, bytes).unwrap();
            let (messages, damage, end) = read(&spoilt);
            assert_eq!(end, Some(4), "{at}");
            assert_eq!(messages[messages.len() - 2..], [plain(2), message(3)], "{at}");
            // Not every byte of gzip's own header matters, and zeros at the end may be any zeros.
            let is_as_it_was = messages == [message(0), plain(1), plain(2), message(3)];
            let is_left_out = messages.len() == 2 && damage == [0];
            assert!(is_as_it_was || is_left_out, "{at}: {damage:?}");
            left_out += u32::from(is_left_out);
        }
    }
    assert!(left_out > 300, "{left_out}");
}

/// Where the next member begins.
fn member_after(bytes: &[u8], at: usize) -> usize {
    let found = bytes[at + 1..].windows(MEMBER.len()).position(|found| found == MEMBER);
    at + 1 + found.unwrap()
}

#[test]
fn what_px_has_not_spilled_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let mut newer = serde_json::to_value(source("q")).unwrap();
    newer["px_spill"] = 2.into();
    newer["version"] = "9".into();
    newer["time"] = "2026-11-21T00:00:00Z".into();
    for (bytes, why) in [
        (Vec::new(), "it is empty"),
        (b"{\"px_spill\":1}\n".to_vec(), "gzip header"),
        (pack(&["{}".into()]).unwrap(), "missing field"),
        (pack(&[]).unwrap(), "EOF"),
        (pack(&[newer.to_string()]).unwrap(), "that of px 9"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = SpillReader::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("was not spilled by px: ") && error.contains(why),
            "{error}"
        );
    }
    assert!(SpillReader::open(directory.path()).is_err());
}

#[test]
fn every_queue_has_a_name_of_its_own_and_no_file_is_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let long = "é/".repeat(85);
    let names = [
        "q",
        "Q",
        "a/b",
        "a%2Fb",
        "..",
        ".",
        "-rf",
        "~",
        "a b",
        "a\nb",
        "a\0b",
        "a\"'b",
        "été",
        &long,
        &long[2..],
    ];
    let mut paths = BTreeSet::new();
    for name in names.iter().chain(&names) {
        let mut file = SpillFile::create(directory.path(), &source(name), now()).unwrap();
        file.append(&[plain(1)]).unwrap();
        let path = file.path().to_owned();
        assert_eq!(path.parent(), Some(directory.path()));
        let shown = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(shown.len() < 255 && !shown.starts_with(['.', '-']), "{shown}");
        assert_eq!(SpillReader::open(&path).unwrap().source().queue, *name);
        assert!(paths.insert(path), "{name:?} is twice {shown}");
    }
    assert_eq!(paths.len(), 2 * names.len());
    assert!(paths.contains(&directory.path().join("a%2Fb.20261121T210337.jsonl.gz")));
    assert!(paths.contains(&directory.path().join("a%252Fb.20261121T210337.1.jsonl.gz")));
    let planted = directory.path().join("s.20261121T210337.jsonl.gz");
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &planted).unwrap();
    SpillFile::create(directory.path(), &source("s"), now()).unwrap();
    assert!(!directory.path().join("elsewhere").exists());
}

/// The file is never written again: it is what the first px spilled.
#[test]
fn a_file_of_the_first_px_is_read() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spool/spill-1.jsonl.gz");
    let messages = vec![message(0), plain(1), plain(2), message(3)];
    assert_eq!(read(&sample), (messages, vec![], Some(4)));
}

#[test]
fn a_file_without_its_end_is_named_until_it_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let left = |except: Option<&Path>| unfinished(directory.path(), &source("q"), except);
    assert_eq!(left(None), Vec::<PathBuf>::new());
    let (ended, _) = two_batches(directory.path());
    let mut files = Vec::new();
    for queue in ["q", "q", "q.20261121T210337", "other"] {
        let mut file = SpillFile::create(directory.path(), &source(queue), now()).unwrap();
        file.append(&[message(1)]).unwrap();
        files.push(file.path().to_owned());
    }
    // Of another virtual host, without a message, and no spill file at all.
    let elsewhere = Source {
        vhost: "v".into(),
        ..source("q")
    };
    for source in [&elsewhere, &source("q")] {
        SpillFile::create(directory.path(), source, now()).unwrap();
    }
    std::fs::write(directory.path().join("q.x.jsonl.gz"), "none").unwrap();
    assert_eq!(left(None), files[..2]);
    assert_eq!(left(Some(&files[0])), files[1..2]);
    // Torn in its end.
    let whole = std::fs::read(&ended).unwrap();
    for length in [whole.len() - 1, whole.len() - 30] {
        std::fs::write(&ended, &whole[..length]).unwrap();
        assert_eq!(left(None).len(), 3);
    }
}
