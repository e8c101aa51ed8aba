//! What it costs to remember: a dispatcher with a million products, its log read and written anew.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lapin::options::ConfirmSelectOptions;
use px::message::Fingerprint;
use px::spool::Durability;
use px::spool::seen::{Batch, Facts, Memory, Seen, SeenLog};

use crate::support::{RabbitServer, TestBroker};
use crate::{BenchSite, FILES, MINUTE, Report, bound_queue, channel, depth, publish_all, rss_anon_mib};

const REMEMBERED: usize = 1_000_000;
const SOURCES: [&str; 3] = [
    "urp-1.radar.example.org:80",
    "urp-2.radar.example.org:8080",
    "142.135.12.59:80",
];

/// Starts on a log in which everything stands twice, so that the first forward makes it be written anew. The memory is
/// full: each forward pushes one out.
pub async fn seen(server: &RabbitServer, report: &mut Report) {
    let broker = TestBroker::on(server, "seen");
    let (_connection, channel) = channel(&broker).await;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.expect("confirms");
    bound_queue(&channel, "q.in", "v02.post.#").await;
    bound_queue(&channel, "q.out", "v02.notify.#").await;
    let mut site = BenchSite::new(&broker);
    let unit = "broker = \"b\"\nqueue = \"q.in\"\nbind = [\"v02.post.#\"]\n\
                seen = { by = \"name\", entries = 1000000 }\nrekey = { from = \"v02.post\", to = \"v02.notify\" }\n";
    site.write("etc/dispatch/d.toml", unit);
    let log = site.path("state/dispatch_d/seen.log");
    fill(&log);
    let filled = log.metadata().expect("log").len();
    let begun = Instant::now();
    let pid = site.start("dispatch/d");
    let starting = begun.elapsed().as_secs_f64();
    let mut most = rss_anon_mib(pid);
    publish_all(&channel, FILES, &["one", "two"]).await;
    while depth(&channel, "q.out").await < FILES as u32 || depth(&channel, "q.in").await > 0 {
        most = most.max(rss_anon_mib(pid));
        assert!(
            begun.elapsed() < 3 * MINUTE,
            "{} forwarded",
            depth(&channel, "q.out").await
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let is_full = || site.status("dispatch/d")["counts"]["evicted_early"] == FILES;
    crate::support::wait_until(MINUTE, "one made room for each", is_full);
    let is_anew = || log.metadata().expect("log").len() < filled * 2 / 3;
    crate::support::wait_until(MINUTE, "the log is written anew", is_anew);
    most = most.max(rss_anon_mib(pid));
    report.check(
        "dispatcher that remembers 1 000 000 products, most RssAnon, its log written anew meanwhile, at most 150 MiB",
        format!("{most:.1} MiB"),
        most <= 150.0,
    );
    report.figure("its start, a log of 2 000 000 records, s", format!("{starting:.1}"));
}

fn fill(path: &Path) {
    let entries = NonZeroUsize::new(REMEMBERED).expect("some");
    let keep = Duration::from_secs(24 * 3600);
    let (mut seen, now) = (Seen::new(Memory { entries, keep }), Timestamp::now());
    let (mut log, _) = SeenLog::open(path, Durability::Crash, &mut seen, now).expect("log");
    let mut batch = Batch::default();
    let all = |now| (0..REMEMBERED).map(move |number| (number, now));
    for (number, now) in all(now).chain(all(now + Duration::from_millis(1))) {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let path = format!("data/20261121/RADAR/URP/XAM/product-{number:07}");
        let facts = Facts {
            source: SOURCES[number % SOURCES.len()],
            path: path.as_bytes(),
            size: Some(number as u64),
            time: Some(now),
            content: Some(Fingerprint {
                method: 1,
                value: number as u64,
            }),
        };
        seen.remember(key, &facts, Duration::from_millis(3), now, &mut batch);
        if number % 10_000 == 9_999 {
            log.append_batch(&std::mem::take(&mut batch)).expect("append");
        }
    }
}
