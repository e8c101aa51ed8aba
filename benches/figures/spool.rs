//! What Sundew's spool costs: a sender's queue, and the way into the database and on to the clients.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

use crate::support::{RabbitServer, TestBroker, wait_until};
use crate::{
    BenchSite, FILES, MINUTE, ROUNDS, Report, WINDOW, bound_queue, channel, count, depth, median, purge, rss_anon_mib,
    spread,
};

const KIB: [u8; 1024] = [b'x'; 1024];
/// An hour of a queue.
const HOUR: &str = "2026112103";
const QUEUED: usize = 1_000_000;
/// ext4 has at most 65 000 names for one file.
const NAMES_PER_FILE: usize = 50_000;
const INGESTED: usize = 3000;

fn name(number: usize) -> String {
    format!("file-{number:07}.gif:URP:XSS:RADAR:GIF::20261121030000")
}

/// 10 000 files of 1 KiB in a sender's queue, against the bare confirm loop with the same bodies and headers.
pub async fn sender(server: &RabbitServer, report: &mut Report) {
    let broker = TestBroker::on(server, "sender");
    let (_connection, channel) = channel(&broker).await;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.expect("confirms");
    bound_queue(&channel, "q", "#").await;
    let mut site = BenchSite::new(&broker);
    let unit = "type = \"amqp\"\nbroker = \"b\"\nkey = \"exp.test.this\"\n";
    site.write("etc/tx/s.toml", unit);
    site.start("tx/s");
    let (mut bare, mut px) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(publish_all(&channel).await);
        purge(&channel, "q").await;
        let prepared = site.path(&format!("prepared-{round}"));
        std::fs::create_dir_all(&prepared).expect("directory");
        for number in 0..FILES {
            std::fs::write(prepared.join(name(number)), KIB).expect("file");
        }
        let priority = site.path("txq/s/3");
        std::fs::create_dir_all(&priority).expect("directory");
        let begun = Instant::now();
        // The whole queue at once.
        std::fs::rename(&prepared, priority.join(format!("202611210{round}"))).expect("rename");
        while depth(&channel, "q").await < FILES as u32 {
            assert!(begun.elapsed() < MINUTE, "only {} sent", depth(&channel, "q").await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        px.push(FILES as f64 / begun.elapsed().as_secs_f64());
        purge(&channel, "q").await;
    }
    report.figure("bare confirm loop, window 256, bodies of 1 KiB, msg/s", spread(&bare));
    report.figure("sender, 10 000 files of 1 KiB, files/s", spread(&px));
    let ratio = median(px) / median(bare);
    report.check(
        "sender / bare loop, at least 0.60",
        format!("{ratio:.2}"),
        ratio >= 0.60,
    );
}

async fn publish_all(channel: &Channel) -> f64 {
    let mut confirms = VecDeque::new();
    let begun = Instant::now();
    for number in 0..FILES {
        let mut headers = FieldTable::default();
        headers.insert("filename".into(), AMQPValue::LongString(name(number).into()));
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_delivery_mode(2)
            .with_headers(headers);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = channel.basic_publish("x".into(), "exp.test.this".into(), options, &KIB, properties);
        confirms.push_back(publish.await.expect("publish"));
        if confirms.len() >= WINDOW {
            confirms.pop_front().expect("window").await.expect("confirm");
        }
    }
    for confirm in confirms {
        confirm.await.expect("confirm");
    }
    FILES as f64 / begun.elapsed().as_secs_f64()
}

/// Memory with a million files queued in one hour, while the first of them are sent.
pub async fn queue(server: &RabbitServer, report: &mut Report) {
    const SENT: u32 = 60_000;
    let broker = TestBroker::on(server, "queue");
    let (_connection, channel) = channel(&broker).await;
    bound_queue(&channel, "q", "#").await;
    let mut site = BenchSite::new(&broker);
    fill(&site.path(&format!("txq/s/3/{HOUR}")));
    site.write(
        "etc/tx/s.toml",
        "type = \"amqp\"\nbroker = \"b\"\nkey = \"exp.test.this\"\n",
    );
    let begun = Instant::now();
    let pid = site.start("tx/s");
    let mut most: f64 = 0.0;
    while depth(&channel, "q").await < SENT {
        most = most.max(rss_anon_mib(pid));
        assert!(begun.elapsed() < 3 * MINUTE, "only {} sent", depth(&channel, "q").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = f64::from(SENT) / begun.elapsed().as_secs_f64();
    report.check(
        "sender with 1 000 000 files queued, most RssAnon, below 60 MiB",
        format!("{most:.1} MiB"),
        most < 60.0,
    );
    report.figure(
        "the same, first 60 000 files, its start included, files/s",
        format!("{rate:.0}"),
    );
}

fn fill(directory: &Path) {
    std::fs::create_dir_all(directory).expect("directory");
    let mut first = directory.join(name(0));
    for number in 0..QUEUED {
        let path = directory.join(name(number));
        if number % NAMES_PER_FILE == 0 {
            std::fs::write(&path, b"abc").expect("file");
            first = path;
        } else {
            std::fs::hard_link(&first, path).expect("link");
        }
    }
}

/// Files of 1 KiB dropped into a receiver's queue: into the database and the queues of three clients.
pub fn ingest(server: &RabbitServer, report: &mut Report) {
    let broker = TestBroker::on(server, "ingest");
    for sync in ["power", "crash"] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let mut site = BenchSite::new(&broker);
            for client in ["a", "b", "c"] {
                let conf = "type single-file\nprotocol ftp\nhost h\nuser u\naccept .*RADAR.*\n";
                site.write(&format!("etc/tx/{client}.conf"), conf);
            }
            let unit = format!("type = \"single-file\"\nsync = \"{sync}\"\n");
            site.write("etc/rx/in.toml", &unit);
            site.start("rx/in");
            let prepared = site.path("prepared");
            std::fs::create_dir_all(&prepared).expect("directory");
            for number in 0..INGESTED {
                let name = format!("file-{number:07}.gif:URP:XSS:RADAR:GIF");
                std::fs::write(prepared.join(name), KIB).expect("file");
            }
            let begun = Instant::now();
            // A whole directory at once; receivers look into directories of their queue.
            std::fs::rename(&prepared, site.path("rxq/in/prepared")).expect("rename");
            wait_until(MINUTE, "all are ingested", || count(&site.path("rxq/in/prepared")) == 0);
            // The last links are made before a file leaves the receiver's queue.
            assert_eq!(count(&site.path("db/")), 1, "one day");
            rates.push(INGESTED as f64 / begun.elapsed().as_secs_f64());
        }
        let what = format!("ingest of 1 KiB and links to three clients, sync = {sync}, files/s");
        report.figure(&what, spread(&rates));
    }
}
