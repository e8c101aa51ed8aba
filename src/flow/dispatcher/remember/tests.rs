use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_log_that_cannot_be_rewritten_is_appended_to() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("seen.log");
    let memory = Memory {
        entries: NonZeroUsize::MIN,
        keep: Duration::from_secs(3600),
    };
    let (mut seen, now) = (Seen::new(memory), Timestamp::now());
    let (log, _) = SeenLog::open(&path, Durability::Crash, &mut seen, now).unwrap();
    let mut keeper = Keeper::new(log);
    let facts = Facts {
        source: "h:80",
        path: b"/p",
        size: None,
        time: None,
        content: None,
    };
    let mut batch = Batch::default();
    for n in 0..20_000_u128 {
        seen.remember(n.to_be_bytes(), &facts, Duration::ZERO, now, &mut batch);
    }
    keeper.append(&batch, true).unwrap();
    let seen = Mutex::new(seen);
    // What stands in the way: no room for a second log.
    std::fs::create_dir(home.path().join("seen.log.new")).unwrap();
    let length = || std::fs::metadata(&path).unwrap().len();
    for _ in 0..2 {
        let (before, mut one) = (length(), Batch::default());
        lock(&seen).remember([7; 16], &facts, Duration::ZERO, now, &mut one);
        keeper.append(&one, true).unwrap();
        assert!(!keeper.rewrite(&seen, 1) && length() > before);
    }
    std::fs::remove_dir(home.path().join("seen.log.new")).unwrap();
    let before = length();
    assert!(!keeper.rewrite(&seen, 0) && length() == before, "not at once");
    keeper.not_before = None;
    while keeper.rewrite(&seen, 0) {}
    assert!(length() < 1000, "{}", length());
}

/// Else the next start would cut off all that stands behind it.
#[test]
fn a_log_with_a_damaged_record_is_written_anew_from_memory() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("seen.log");
    let memory = Memory {
        entries: NonZeroUsize::new(10_000).unwrap(),
        keep: Duration::from_secs(3600),
    };
    let (seen, log) = twice(&path, memory, Durability::Crash);
    let mut keeper = Keeper::new(log);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut one = Batch::default();
    let (mut seen, now) = (seen, Timestamp::now());
    seen.remember(key_of(0), &FACTS, Duration::ZERO, now, &mut one);
    keeper.append(&one, true).unwrap();
    let seen = Mutex::new(seen);
    while keeper.rewrite(&seen, 0) {}
    keeper.append(&one, true).unwrap();
    let mut again = Seen::new(memory);
    let (_, loaded) = SeenLog::open(&path, Durability::Crash, &mut again, now).unwrap();
    assert_eq!((loaded.records, loaded.torn_bytes, again.len()), (10_001, 0, 10_000));
    assert_eq!(home.path().read_dir().unwrap().count(), 1);
}

const FACTS: Facts<'_> = Facts {
    source: "urp-1.radar.example.org:80",
    path: b"/p",
    size: None,
    time: None,
    content: None,
};

fn key_of(n: usize) -> [u8; 16] {
    (n as u128)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        .to_be_bytes()
}

/// A log in which everything stands twice, and its memory: time for a new log.
fn twice(path: &std::path::Path, memory: Memory, durability: Durability) -> (Seen, SeenLog) {
    let (mut seen, now) = (Seen::new(memory), Timestamp::now());
    let (mut log, _) = SeenLog::open(path, Durability::Crash, &mut seen, now).unwrap();
    let mut batch = Batch::default();
    let later = now + Duration::from_millis(1);
    let all = |at| (0..memory.entries.get()).map(move |n| (n, at));
    for (n, at) in all(now).chain(all(later)) {
        seen.remember(key_of(n), &FACTS, Duration::ZERO, at, &mut batch);
        if n % 10_000 == 9_999 {
            log.append_batch(&std::mem::take(&mut batch)).unwrap();
        }
    }
    drop(log);
    // Else the first who syncs writes all of it.
    std::fs::File::open(path).unwrap().sync_all().unwrap();
    let (log, _) = SeenLog::open(path, durability, &mut Seen::new(memory), now).unwrap();
    (seen, log)
}

/// What it takes to write all of the memory at once: as long as it is locked where that is done.
fn at_once(seen: &Seen, path: &std::path::Path, memory: Memory) -> Duration {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    let (mut log, _) = SeenLog::open(&copy, Durability::Power, &mut Seen::new(memory), Timestamp::now()).unwrap();
    let begun = Instant::now();
    log.renew(seen, Timestamp::now()).unwrap();
    begun.elapsed()
}

/// Looks into the memory all the time; ends with the longest that this took.
fn looker(
    remembered: &Arc<Remembered>,
    announcement: &Arc<Announcement>,
    is_over: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<Duration> {
    let (remembered, announcement, is_over) = (Arc::clone(remembered), Arc::clone(announcement), Arc::clone(is_over));
    std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !is_over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            remembered.verdict(SeenKey([1; 16]), &announcement, None);
            longest = longest.max(begun.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        longest
    })
}

fn said(waits: &mut [Duration]) -> String {
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    format!(
        "{} forwards, p50 {:?}, p99 {:?}, max {:?}",
        waits.len(),
        at(50),
        at(99),
        at(100)
    )
}

/// What a forward and a look into the memory wait for at most, while a million products are written anew.
#[test]
#[ignore = "measures"]
fn measure_a_rewrite_of_a_million_products() {
    let home = tempfile::tempdir_in(std::env::current_dir().unwrap().join("target")).unwrap();
    let path = home.path().join("seen.log");
    let memory = Memory {
        entries: NonZeroUsize::new(1_000_000).unwrap(),
        keep: Duration::from_secs(3600),
    };
    let (seen, log) = twice(&path, memory, Durability::Power);
    let filled = std::fs::metadata(&path).unwrap().len();
    let at_once = at_once(&seen, &path, memory);
    let seen = Arc::new(Mutex::new(seen));
    let metrics = Arc::new(Metrics::default());
    let (keeper, asked) = mpsc::channel(BATCH);
    let (shared, counts) = (Arc::clone(&seen), Arc::clone(&metrics));
    let thread = std::thread::spawn(move || keep_log(&mut Keeper::new(log), &shared, &counts, asked, None));
    let remembered = Arc::new(Remembered {
        seen,
        keeper,
        metrics,
        samples: Sampler::default(),
    });
    let announcement = Announcement::new("http://h/", crate::message::ProductPath(b"p".to_vec())).unwrap();
    let announcement = Arc::new(announcement);
    let is_over = Arc::new(AtomicBool::new(false));
    let looker = looker(&remembered, &announcement, &is_over);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut meanwhile, mut after) = (Vec::new(), Vec::new());
    for n in 0_u128.. {
        let is_rewritten = std::fs::metadata(&path).unwrap().len() < filled;
        if after.len() == 1000 {
            break;
        }
        let begun = Instant::now();
        let key = SeenKey((u128::MAX - n).to_be_bytes());
        let written = remembered.remember(key, &announcement, None, Timestamp::now());
        runtime.block_on(written).unwrap();
        let waits = if is_rewritten { &mut after } else { &mut meanwhile };
        waits.push(begun.elapsed());
    }
    is_over.store(true, Ordering::Relaxed);
    let looked = looker.join().unwrap();
    eprintln!("meanwhile {}", said(&mut meanwhile));
    eprintln!("afterwards {}", said(&mut after));
    let longest = meanwhile.last().unwrap();
    let ratio = at_once.as_secs_f64() / longest.as_secs_f64();
    eprintln!("a look {looked:?} at most; at once {at_once:?}, {ratio:.0} times the longest wait");
    drop(remembered);
    thread.join().unwrap();
}
