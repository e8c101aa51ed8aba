use super::log::COMPACT_MIN;
use super::*;
use crate::spool::Durability;

fn memory(entries: usize) -> Memory {
    Memory {
        entries: NonZeroUsize::new(entries).unwrap(),
        keep: Duration::from_secs(24 * 3600),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(n: u64) -> Key {
    let mut key = [7; 16];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key
}

fn facts(source: &str) -> Facts<'_> {
    Facts {
        source,
        path: b"a/b",
        size: Some(10),
        time: None,
        content: None,
    }
}

fn md5(value: u64) -> Option<Fingerprint> {
    Some(Fingerprint { method: 1, value })
}

const HELD: Duration = Duration::from_millis(1500);

fn remember(seen: &mut Seen, n: u64, now: Timestamp) -> Batch {
    let mut batch = Batch::default();
    seen.remember(key(n), &facts("urp-1:80"), HELD, now, &mut batch);
    batch
}

fn winner(seen: &Seen, n: u64, facts: &Facts<'_>) -> Winner {
    match seen.verdict(&key(n), facts, at(1)) {
        Verdict::Duplicate(winner) => winner,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_is_forwarded_a_repeat_is_a_duplicate_a_change_by_the_winner_a_reissue() {
    let mut seen = Seen::new(memory(10));
    let (first, other) = (facts("urp-1:80"), facts("urp-2:80"));
    assert_eq!(seen.verdict(&key(1), &first, at(0)), Verdict::First);
    remember(&mut seen, 1, at(0));
    let (size, path, time) = (Some(11), b"c".as_slice(), Some(at(5)));
    for copy in [
        first,
        other,
        Facts { size: None, ..first },
        Facts { time, ..first },
        Facts {
            content: md5(1),
            ..first
        },
        Facts { path, ..other },
        Facts { size, ..other },
    ] {
        let winner = winner(&seen, 1, &copy);
        assert_eq!(
            (&*winner.source, winner.is_own),
            ("urp-1:80", copy.source == first.source)
        );
        assert_eq!(winner.came, at(0) - HELD);
    }
    for reissue in [Facts { path, ..first }, Facts { size, ..first }] {
        assert_eq!(seen.verdict(&key(1), &reissue, at(1)), Verdict::Reissue);
    }
    seen.remember(key(2), &Facts { time, ..first }, HELD, at(6), &mut Batch::default());
    let time = Some(at(6));
    assert_eq!(seen.verdict(&key(2), &Facts { time, ..first }, at(6)), Verdict::Reissue);
}

#[test]
fn two_sources_disagree_where_both_tell_and_it_can_be_compared() {
    let mut seen = Seen::new(memory(10));
    let mut batch = Batch::default();
    let (first, other) = (facts("urp-1:80"), facts("urp-2:80"));
    let content = md5(7);
    seen.remember(key(1), &Facts { content, ..first }, HELD, at(0), &mut batch);
    let of_method_2 = Some(Fingerprint { method: 2, value: 8 });
    for agreeing in [
        Facts { content, ..other },
        Facts { size: None, ..other },
        Facts {
            content: of_method_2,
            ..other
        },
        Facts {
            content: md5(8),
            ..first
        },
    ] {
        assert_eq!(winner(&seen, 1, &agreeing).disagreement, None, "{agreeing:?}");
    }
    let size = Some(11);
    let found = winner(&seen, 1, &Facts { size, ..other }).disagreement.unwrap();
    assert_eq!((found.sizes, found.contents), ([Some(10), size], None));
    let content = md5(8);
    let found = winner(
        &seen,
        1,
        &Facts {
            content,
            size: None,
            ..other
        },
    )
    .disagreement
    .unwrap();
    assert_eq!(
        (found.sizes, found.contents),
        ([Some(10), None], Some([md5(7).unwrap(), md5(8).unwrap()]))
    );
    // Nothing is known of the content of the second.
    seen.remember(key(2), &first, HELD, at(0), &mut batch);
    assert_eq!(winner(&seen, 2, &Facts { content, ..other }).disagreement, None);
}

#[test]
fn keep_counts_from_the_forward_and_hits_do_not_extend_it() {
    let mut seen = Seen::new(memory(10));
    remember(&mut seen, 1, at(0));
    for hour in 1..24 {
        assert_ne!(
            seen.verdict(&key(1), &facts("urp-2:80"), at(hour * 3600)),
            Verdict::First
        );
    }
    assert_eq!(seen.verdict(&key(1), &facts("urp-2:80"), at(24 * 3600)), Verdict::First);
}

#[test]
fn only_evictions_before_their_time_are_counted() {
    let mut seen = Seen::new(memory(2));
    remember(&mut seen, 1, at(0));
    remember(&mut seen, 2, at(1));
    remember(&mut seen, 2, at(2));
    assert_eq!(seen.evicted_early(), 0);
    remember(&mut seen, 3, at(3));
    assert_eq!((seen.evicted_early(), seen.len()), (1, 2));
    remember(&mut seen, 4, at(25 * 3600));
    assert_eq!((seen.evicted_early(), seen.len()), (1, 1));
}

#[test]
fn a_restart_learns_the_memory_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/dispatch_urp/seen.log");
    for durability in [Durability::Power, Durability::Crash] {
        let mut seen = Seen::new(memory(100));
        let (mut log, _) = SeenLog::open(&path, durability, &mut seen, at(0)).unwrap();
        for n in 0..10 {
            log.append_batch(&remember(&mut seen, n, at(0))).unwrap();
        }
        log.append_batch(&Batch::default()).unwrap();
    }
    let mut seen = Seen::new(memory(100));
    let (_, loaded) = SeenLog::open(&path, Durability::Power, &mut seen, at(0)).unwrap();
    assert_eq!((loaded.records, loaded.torn_bytes, seen.len()), (20, 0, 10));
    assert_ne!(seen.verdict(&key(9), &facts("urp-2:80"), at(1)), Verdict::First);
    let mut late = Seen::new(memory(100));
    SeenLog::open(&path, Durability::Power, &mut late, at(25 * 3600)).unwrap();
    assert!(late.is_empty());
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    let mut seen = Seen::new(memory(100));
    let (mut log, _) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
    log.append_batch(&remember(&mut seen, 1, at(0))).unwrap();
    let whole = std::fs::metadata(&path).unwrap().len();
    log.append_batch(&remember(&mut seen, 2, at(0))).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let torn = (whole as usize + 1..bytes.len()).map(|end| bytes[..end].to_vec());
    for torn in torn.chain([flipped, [&bytes[..whole as usize], &[0; 100]].concat()]) {
        std::fs::write(&path, &torn).unwrap();
        let mut seen = Seen::new(memory(100));
        let (mut log, loaded) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
        assert_eq!((loaded.records, loaded.torn_bytes), (1, torn.len() as u64 - whole));
        log.append_batch(&remember(&mut seen, 3, at(0))).unwrap();
        let mut again = Seen::new(memory(100));
        let (_, loaded) = SeenLog::open(&path, Durability::Crash, &mut again, at(0)).unwrap();
        assert_eq!((loaded.records, loaded.torn_bytes, again.len()), (2, 0, 2));
    }
}

#[test]
fn the_log_is_rewritten_when_most_of_it_is_history() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    let mut seen = Seen::new(memory(100));
    let (mut log, _) = SeenLog::open(&path, Durability::Power, &mut seen, at(0)).unwrap();
    let mut batch = Batch::default();
    for n in 0..=COMPACT_MIN as u64 {
        assert!(!log.wants_rewrite(seen.len()));
        seen.remember(key(n), &facts("urp-1:80"), HELD, at(0), &mut batch);
    }
    log.append_batch(&batch).unwrap();
    assert!(log.wants_rewrite(seen.len()));
    rewrite(&mut log, &seen);
    assert!(!log.wants_rewrite(seen.len()));
    log.append_batch(&remember(&mut seen, 1, at(2))).unwrap();
    let mut again = Seen::new(memory(100));
    let (_, loaded) = SeenLog::open(&path, Durability::Power, &mut again, at(3)).unwrap();
    assert_eq!((loaded.records, again.len()), (101, 100));
    assert_eq!(keys(&again), keys(&seen));
}

#[test]
fn a_log_in_which_a_record_stands_twice_is_written_anew_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    let mut seen = Seen::new(memory(COMPACT_MIN));
    let (mut log, _) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
    let mut batch = Batch::default();
    for n in 0..COMPACT_MIN as u64 {
        batch.append(&remember(&mut seen, n, at(0)));
    }
    for _ in 0..3 {
        log.append_batch(&batch).unwrap();
    }
    assert!(log.wants_rewrite(seen.len()));
    rewrite(&mut log, &seen);
    assert!(!log.wants_rewrite(seen.len()));
}

fn rewrite(log: &mut SeenLog, seen: &Seen) {
    let mut aside = log.begin_aside().unwrap();
    while !aside.is_complete(log) {
        let records = aside.next(log, 0).unwrap();
        aside.add(&seen.still_known(&records, at(1))).unwrap();
    }
    log.replace(aside).unwrap();
}

/// The newest first.
fn keys(seen: &Seen) -> Vec<Key> {
    seen.entries.iter().map(|(key, _)| *key).collect()
}

/// Forwards go on between the slices. What a kill leaves after any of them, and what stands there in the end, knows all.
#[test]
fn a_log_that_is_rewritten_is_whole_at_every_moment() {
    const COUNT: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let (path, killed) = (dir.path().join("seen.log"), dir.path().join("killed"));
    let mut seen = Seen::new(memory(COUNT as usize));
    let (mut log, _) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
    let mut history = Batch::default();
    for n in 0..3 * COUNT {
        history.append(&remember(&mut seen, n % COUNT, at((n / COUNT) as i64)));
    }
    log.append_batch(&history).unwrap();
    let (mut aside, mut slices) = (log.begin_aside().unwrap(), 0);
    let knows_all = |seen: &Seen| {
        std::fs::copy(&path, &killed).unwrap();
        let mut again = Seen::new(memory(COUNT as usize));
        SeenLog::open(&killed, Durability::Crash, &mut again, at(3)).unwrap();
        assert!(keys(&again) == keys(seen), "all of it, in the same order");
    };
    loop {
        let records = aside.next(&log, 0).unwrap();
        aside.add(&seen.still_known(&records, at(3))).unwrap();
        if aside.is_complete(&log) {
            break;
        }
        slices += 1;
        // One that is new, one that the new log may have already, and one that it has not.
        for n in [COUNT + slices, slices, COUNT - slices] {
            log.append_batch(&remember(&mut seen, n, at(3))).unwrap();
        }
        knows_all(&seen);
    }
    log.replace(aside).unwrap();
    knows_all(&seen);
    assert!(slices > 10 && path.metadata().unwrap().len() < history.size() as u64 / 2);
    assert_eq!(dir.path().read_dir().unwrap().count(), 2, "the log and the copy");
}

/// A record that the disk has changed ends the rewrite, and nothing of the new log is left.
#[test]
fn a_damaged_log_is_not_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    let mut seen = Seen::new(memory(10));
    let (mut log, _) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
    log.append_batch(&remember(&mut seen, 1, at(0))).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut aside = log.begin_aside().unwrap();
    let error = aside.next(&log, 0).unwrap_err();
    assert!(error.to_string().contains("cannot read the seen log"), "{error}");
    drop(aside);
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

#[test]
fn an_empty_file_is_an_empty_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    std::fs::write(&path, "").unwrap();
    let mut seen = Seen::new(memory(1));
    let (mut log, loaded) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
    assert_eq!((loaded.records, loaded.torn_bytes), (0, 0));
    log.append_batch(&remember(&mut seen, 1, at(0))).unwrap();
    let mut again = Seen::new(memory(1));
    let (_, loaded) = SeenLog::open(&path, Durability::Crash, &mut again, at(0)).unwrap();
    assert_eq!(loaded.records, 1);
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    std::fs::write(&path, "somebody's notes").unwrap();
    let mut seen = Seen::new(memory(1));
    assert!(SeenLog::open(&path, Durability::Power, &mut seen, at(0)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody's notes");
}

#[test]
fn thousands_of_sources_do_not_fill_the_table() {
    let mut seen = Seen::new(memory(10));
    let mut batch = Batch::default();
    for n in 0..5000 {
        seen.remember(key(n), &facts(&format!("host-{n}:80")), HELD, at(0), &mut batch);
    }
    assert_eq!(seen.sources.len(), 10);
    let long = "h".repeat(5000);
    seen.remember(key(1), &facts(&long), HELD, at(0), &mut batch);
    assert!(matches!(
        seen.verdict(&key(1), &facts(&long), at(0)),
        Verdict::Duplicate(Winner { is_own: true, .. })
    ));
}

/// A log as px wrote it before it remembered digests: `key`, forwarded at second 3 from `urp-1:80`, 10 bytes of `a/b`.
fn record_1(n: u64, size: u64) -> Vec<u8> {
    let mut payload = key(n).to_vec();
    payload.extend_from_slice(&1_800_000_003_000i64.to_le_bytes());
    payload.extend_from_slice(&[0xa7, 0xe8, 0x61, 0x36, 0x54, 0x3b, 0x01, 0x9d]); // md5 of a/b begins so
    payload.extend_from_slice(&size.to_le_bytes());
    payload.extend_from_slice(&i64::MIN.to_le_bytes());
    payload.extend_from_slice(b"urp-1:80");
    let check = crate::message::identity::md5(&payload);
    [&[56, 0, 0, 0], &check[..4], &payload].concat()
}

#[test]
fn a_log_of_version_1_is_read_and_written_anew_whole_or_torn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    let whole = [b"pxseen1\n".to_vec(), record_1(1, 10), record_1(2, u64::MAX)].concat();
    for (end, records) in [(whole.len(), 2), (whole.len() - 1, 1), (8 + 64 + 3, 1), (8, 0)] {
        std::fs::write(&path, &whole[..end]).unwrap();
        for is_older in [true, false] {
            let mut seen = Seen::new(memory(100));
            let (mut log, loaded) = SeenLog::open(&path, Durability::Power, &mut seen, at(4)).unwrap();
            let torn_bytes = if is_older { end - 8 - records * 64 } else { 0 } as u64;
            let added = usize::from(!is_older && records < 3);
            assert_eq!(
                loaded,
                Loaded {
                    records: records + added,
                    torn_bytes,
                    is_older
                }
            );
            assert_eq!(seen.len(), records + added);
            for n in 1..=records as u64 {
                let winner = winner(&seen, n, &facts("urp-1:80"));
                assert_eq!((&*winner.source, winner.is_own, winner.came), ("urp-1:80", true, at(3)));
                let content = md5(7);
                let other = Facts {
                    content,
                    size: Some(11),
                    ..facts("urp-2:80")
                };
                let sizes = self::winner(&seen, n, &other).disagreement.map(|found| found.sizes);
                assert_eq!(sizes, (n == 1).then_some([Some(10), Some(11)]));
            }
            assert!(std::fs::read(&path).unwrap().starts_with(b"pxseen2\n"));
            if is_older {
                log.append_batch(&remember(&mut seen, 9, at(4))).unwrap();
            }
        }
    }
}

/// A kill between the writing of the new log and its taking the name leaves both.
#[test]
fn what_an_unfinished_rewrite_left_beside_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    std::fs::write(&path, [b"pxseen1\n".to_vec(), record_1(1, 10)].concat()).unwrap();
    std::fs::write(dir.path().join("seen.log.new"), b"pxseen2\nhalf a rec").unwrap();
    let mut seen = Seen::new(memory(100));
    let (_, loaded) = SeenLog::open(&path, Durability::Crash, &mut seen, at(4)).unwrap();
    assert_eq!((loaded.records, loaded.is_older), (1, true));
    let mut again = Seen::new(memory(100));
    let (_, loaded) = SeenLog::open(&path, Durability::Crash, &mut again, at(4)).unwrap();
    assert_eq!((loaded.records, loaded.torn_bytes, loaded.is_older), (1, 0, false));
}

#[test]
fn a_restart_knows_contents_and_how_long_forwards_took() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seen.log");
    let mut seen = Seen::new(memory(100));
    let (mut log, _) = SeenLog::open(&path, Durability::Crash, &mut seen, at(0)).unwrap();
    let (content, source, mut batch) = (md5(7), "urp-é:80", Batch::default());
    let first = Facts {
        content,
        ..facts(source)
    };
    seen.remember(key(1), &first, HELD, at(0), &mut batch);
    seen.remember(key(2), &first, Duration::from_secs(3600), at(0), &mut batch);
    log.append_batch(&batch).unwrap();
    let mut again = Seen::new(memory(100));
    SeenLog::open(&path, Durability::Crash, &mut again, at(1)).unwrap();
    let content = md5(8);
    let copy = Facts {
        content,
        ..facts("urp-2:80")
    };
    for seen in [&seen, &again] {
        let winner = winner(seen, 1, &copy);
        assert_eq!((&*winner.source, winner.came), (source, at(0) - HELD));
        assert_eq!(
            winner.disagreement.unwrap().contents,
            Some([md5(7), md5(8)].map(Option::unwrap))
        );
        let longest = Duration::from_millis(u16::MAX.into());
        assert_eq!(self::winner(seen, 2, &copy).came, at(0) - longest);
    }
}
