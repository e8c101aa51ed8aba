use super::*;

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
    }
}

fn remember(seen: &mut Seen, n: u64, now: Timestamp) -> Batch {
    let mut batch = Batch::default();
    seen.remember(key(n), &facts("urp-1:80"), now, &mut batch);
    batch
}

#[test]
fn the_first_is_forwarded_a_repeat_is_a_duplicate_a_change_by_the_winner_a_reissue() {
    let mut seen = Seen::new(memory(10));
    let first = facts("urp-1:80");
    assert_eq!(seen.verdict(&key(1), &first, at(0)), Verdict::First);
    remember(&mut seen, 1, at(0));
    let duplicate = Verdict::Duplicate {
        of_source: "urp-1:80".into(),
    };
    let table = [
        (facts("urp-1:80"), duplicate.clone()),
        (facts("urp-2:80"), duplicate.clone()),
        (Facts { path: b"c", ..first }, Verdict::Reissue),
        (
            Facts {
                size: Some(11),
                ..first
            },
            Verdict::Reissue,
        ),
        (Facts { size: None, ..first }, duplicate.clone()),
        (
            Facts {
                time: Some(at(5)),
                ..first
            },
            duplicate.clone(),
        ),
        (
            Facts {
                path: b"c",
                ..facts("urp-2:80")
            },
            duplicate.clone(),
        ),
        (
            Facts {
                size: Some(11),
                ..facts("urp-2:80")
            },
            duplicate,
        ),
    ];
    for (facts, verdict) in table {
        assert_eq!(seen.verdict(&key(1), &facts, at(1)), verdict, "{facts:?}");
    }
    let mut batch = Batch::default();
    seen.remember(
        key(2),
        &Facts {
            time: Some(at(5)),
            ..first
        },
        at(6),
        &mut batch,
    );
    let later = Facts {
        time: Some(at(6)),
        ..first
    };
    assert_eq!(seen.verdict(&key(2), &later, at(6)), Verdict::Reissue);
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
        seen.remember(key(n), &facts("urp-1:80"), at(0), &mut batch);
    }
    log.append_batch(&batch).unwrap();
    assert!(log.wants_rewrite(seen.len()));
    log.rewrite(&seen.snapshot(at(1))).unwrap();
    assert!(!log.wants_rewrite(seen.len()));
    log.append_batch(&remember(&mut seen, 1, at(2))).unwrap();
    let mut again = Seen::new(memory(100));
    let (_, loaded) = SeenLog::open(&path, Durability::Power, &mut again, at(3)).unwrap();
    assert_eq!((loaded.records, again.len()), (101, 100));
    let order = |seen: &Seen| seen.entries.iter().map(|(key, _)| *key).collect::<Vec<_>>();
    assert_eq!(order(&again), order(&seen));
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
        seen.remember(key(n), &facts(&format!("host-{n}:80")), at(0), &mut batch);
    }
    assert!(seen.sources.len() <= SOURCES_KEPT);
    let long = "h".repeat(5000);
    seen.remember(key(1), &facts(&long), at(0), &mut batch);
    assert!(matches!(
        seen.verdict(&key(1), &facts(&long), at(0)),
        Verdict::Duplicate { .. }
    ));
}
