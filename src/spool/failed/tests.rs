use super::*;
use crate::message::Value;

fn store(limits: Limits) -> (tempfile::TempDir, FailedStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FailedStore::open(&dir.path().join("state/rx_pull/failed.db"), limits).unwrap();
    (dir, store)
}

fn failure(body: &[u8]) -> Failure {
    let headers = [
        ("sum".to_string(), Value::from("d,abc")),
        ("raw".to_string(), Value::Bytes(vec![0, 255])),
    ];
    Failure {
        envelope: Envelope {
            key: "v02.post.a".into(),
            headers: headers.into(),
            priority: Some(3),
            timestamp: Some(1),
            body: body.to_vec(),
            ..Envelope::default()
        },
        queue: "cmc.pull".into(),
        reason: "404 Not Found".into(),
        fault: Fault::Message,
        attempts: 3,
        first: "2026-11-21T21:03:37.617Z".parse().unwrap(),
        last: "2026-11-21T21:04:37.617Z".parse().unwrap(),
        is_rubbish: false,
    }
}

fn rubbish(reason: &str) -> Failure {
    Failure {
        is_rubbish: true,
        reason: reason.into(),
        ..failure(b"\xff\0garbage")
    }
}

#[test]
fn what_is_kept_comes_back_whole_also_in_another_process() {
    let (dir, store) = store(Limits::default());
    let mut odd = failure(b"\0\xffbody");
    assert_eq!(store.keep(&odd).unwrap(), Kept::Stored(1));
    odd.envelope.headers.insert("nan".into(), Value::F64(f64::NAN));
    let nested = (0..500).fold(Value::Void, |inner, _| Value::Array(vec![inner]));
    odd.envelope.headers.insert("deep".into(), nested);
    assert_eq!(store.keep(&odd).unwrap(), Kept::Stored(2));

    let other = FailedStore::open(&dir.path().join("state/rx_pull/failed.db"), Limits::default()).unwrap();
    assert_eq!(other.show(1).unwrap().unwrap(), failure(b"\0\xffbody"));
    let shown = other.show(2).unwrap().unwrap().envelope;
    assert!(matches!(shown.headers["nan"], Value::F64(number) if number.is_nan()));
    assert_eq!(shown.headers["deep"], odd.envelope.headers["deep"]);
    assert_eq!(shown.headers["raw"], Value::Bytes(vec![0, 255]));
    assert_eq!(other.show(3).unwrap(), None);
    let list = other.list(10).unwrap();
    assert_eq!(list.iter().map(|listed| listed.id).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(
        (list[1].key.as_str(), list[1].attempts, list[1].bytes),
        ("v02.post.a", 3, 6)
    );
}

#[test]
fn a_store_full_of_products_says_so_and_drops_nothing() {
    let (_dir, store) = store(Limits {
        products: 2,
        product_bytes: 100,
        ..Limits::default()
    });
    store.keep(&failure(&[0; 60])).unwrap();
    let err = store.keep(&failure(&[0; 41])).unwrap_err();
    assert!(err.store_full && err.fault == Fault::Own, "{err}");
    store.keep(&failure(&[0; 40])).unwrap();
    assert!(store.keep(&failure(b"")).unwrap_err().store_full);
    assert_eq!(
        store.keep(&rubbish("short")).unwrap(),
        Kept::Stored(3),
        "rubbish has room of its own"
    );
    assert_eq!(
        (store.totals().unwrap().products, store.totals().unwrap().product_bytes),
        (2, 100)
    );
    assert_eq!(store.drop_entries(Which::One(1)).unwrap(), 1);
    store.keep(&failure(b"")).unwrap();
}

#[test]
fn rubbish_is_sampled_and_the_rest_counted_by_reason() {
    let (_dir, store) = store(Limits {
        rubbish: 2,
        ..Limits::default()
    });
    for _ in 0..5 {
        store.keep(&rubbish("three tokens")).unwrap();
    }
    for n in 0..300 {
        assert_eq!(
            store.keep(&rubbish(&format!("hostile reason {n}"))).unwrap(),
            Kept::Counted
        );
    }
    let counted = store.counted().unwrap();
    assert!(counted.len() as i64 <= COUNTED_REASONS_MAX + 1);
    assert_eq!(counted.iter().map(|c| c.count).sum::<u64>(), 303);
    assert_eq!((counted[0].reason.as_str(), counted[1].count), (OTHER_REASONS, 3));
    assert_eq!(store.totals().unwrap().rubbish, 2);
    assert_eq!(store.drop_entries(Which::All).unwrap(), 2);
    assert_eq!(store.totals().unwrap(), Totals::default());
    assert!(store.counted().unwrap().is_empty());
}

#[test]
fn a_replay_keeps_its_entry_until_it_is_dropped() {
    let (_dir, store) = store(Limits::default());
    for body in [b"a", b"b", b"c"] {
        store.keep(&failure(body)).unwrap();
    }
    assert_eq!(store.ask_replay(Which::One(2)).unwrap(), 1);
    assert_eq!(store.ask_replay(Which::One(9)).unwrap(), 0);
    assert_eq!(store.replays(10).unwrap().len(), 1);
    let now = "2026-11-22T00:00:00Z".parse().unwrap();
    store.failed_again(2, "refused", Fault::Endpoint, now).unwrap();
    assert!(store.replays(10).unwrap().is_empty());
    let again = store.show(2).unwrap().unwrap();
    assert_eq!((again.attempts, again.fault, again.last), (4, Fault::Endpoint, now));
    assert_eq!(store.ask_replay(Which::All).unwrap(), 3);
    let ids: Vec<_> = store.replays(2).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [1, 2]);
    store.drop_entries(Which::One(1)).unwrap();
    assert_eq!(store.totals().unwrap().products, 2);
}

#[test]
fn two_processes_may_use_it_at_once() {
    let (dir, store) = store(Limits::default());
    let path = dir.path().join("state/rx_pull/failed.db");
    std::thread::scope(|scope| {
        scope.spawn(|| (0..50).for_each(|_| assert!(store.keep(&failure(b"x")).is_ok())));
        scope.spawn(|| {
            let other = FailedStore::open(&path, Limits::default()).unwrap();
            (0..50).for_each(|_| assert!(other.keep(&failure(b"y")).is_ok()));
        });
    });
    assert_eq!(store.totals().unwrap().products, 100);
}

#[test]
fn long_reasons_are_cut_at_a_character() {
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("aé", 3), "aé");
}

#[test]
fn looking_at_a_unit_without_failures_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/rx_pull/failed.db");
    assert!(FailedStore::open_existing(&path, Limits::default()).unwrap().is_none());
    assert!(!dir.path().join("state").exists());
}

/// The file is never written again: it is what px wrote before messages were lines of JSON here.
#[test]
fn a_store_of_the_first_px_is_read() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spool/failed-1.db");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("failed.db");
    std::fs::copy(sample, &path).unwrap();
    let store = FailedStore::open(&path, Limits::default()).unwrap();
    let first = store.show(1).unwrap().unwrap();
    // It kept a word in place of a header that its form could not hold.
    let expected = crate::spool::with_plain_headers(&crate::spool::line::tests::full(3).envelope);
    assert_eq!(first.envelope, expected);
    assert_eq!((first.queue.as_str(), first.attempts), ("cmc.pull", 3));
    let plain = Envelope {
        key: "4".into(),
        ..Envelope::default()
    };
    assert_eq!(store.show(2).unwrap().unwrap().envelope, plain);
    // A line of today stands beside them.
    let today = Failure {
        envelope: crate::spool::line::tests::full(3).envelope,
        ..first
    };
    store.keep(&today).unwrap();
    assert_eq!(store.show(3).unwrap().unwrap(), today);
}
