//! `scripts/bench`: measures px against bare loops of the same library in the same run, and checks the ratios.
//!
//! Every round measures both sides one after the other; a figure is the median of the rounds. Exit code 1 when a ratio
//! or a limit is missed. `--quick` leaves out what takes a minute of silence, and delivers few files; `--only PART`
//! measures one of burst, dispatcher, seen, latency, pull, sender, queue, ingest, deliver, idle.

mod deliver;
mod seen;
mod spool;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use support::{RabbitServer, TestBroker, spawn_kept, wait_until};

const FILES: usize = 10_000;
const WINDOW: usize = 256;
const ROUNDS: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1));
    let is_wanted = |part: &str| only.is_none_or(|only| only == part);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let server = RabbitServer::start();
    let mut report = Report::default();
    if is_wanted("burst") {
        runtime.block_on(burst(&server, &mut report));
    }
    if is_wanted("dispatcher") {
        runtime.block_on(dispatcher(&server, &mut report));
    }
    if is_wanted("seen") {
        runtime.block_on(seen::seen(&server, &mut report));
    }
    if is_wanted("latency") {
        runtime.block_on(latency(&server, &mut report, is_quick));
    }
    if is_wanted("pull") {
        runtime.block_on(pull(&server, &mut report));
    }
    if is_wanted("sender") {
        runtime.block_on(spool::sender(&server, &mut report));
    }
    if is_wanted("queue") {
        runtime.block_on(spool::queue(&server, &mut report));
    }
    if is_wanted("ingest") {
        spool::ingest(&server, &mut report);
    }
    if is_wanted("deliver") {
        runtime.block_on(deliver::deliver(&server, &mut report, is_quick));
    }
    if is_wanted("idle") {
        idle(&server, &mut report, is_quick);
    }
    report.print()
}

#[derive(Default)]
struct Report {
    rows: Vec<(String, String, Option<bool>)>,
}

impl Report {
    fn figure(&mut self, what: &str, value: String) {
        eprintln!("{what}: {value}");
        self.rows.push((what.into(), value, None));
    }

    fn check(&mut self, what: &str, value: String, holds: bool) {
        eprintln!("{what}: {value} {}", if holds { "ok" } else { "MISSED" });
        self.rows.push((what.into(), value, Some(holds)));
    }

    fn print(&self) -> ExitCode {
        println!("| figure | value | |");
        println!("| --- | --- | --- |");
        for (what, value, holds) in &self.rows {
            let verdict = match holds {
                None => "",
                Some(true) => "ok",
                Some(false) => "**missed**",
            };
            println!("| {what} | {value} | {verdict} |");
        }
        if self.rows.iter().any(|(_, _, holds)| *holds == Some(false)) {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!(
        "{:.0} ({least:.0}–{most:.0}, n={})",
        median(values.to_vec()),
        values.len()
    )
}

/// A root of its own with units that run as processes.
struct BenchSite {
    root: tempfile::TempDir,
    units: Vec<(String, Child)>,
}

impl BenchSite {
    fn new(broker: &TestBroker) -> Self {
        let root = tempfile::tempdir().expect("temporary root");
        let site = BenchSite {
            root,
            units: Vec::new(),
        };
        let text = format!(
            "[brokers.b]\nurls = [\"{}\"]\nexchange = {{ name = \"x\", type = \"topic\" }}\n",
            broker.amqp_url()
        );
        site.write("etc/px.toml", &text);
        site
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(path, text).expect("write");
    }

    fn start(&mut self, unit: &str) -> u32 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_px"));
        let log = std::fs::File::create(self.path(&format!("{}.log", unit.replace('/', "_")))).expect("log");
        command
            .args(["run", unit])
            .env("PX_ROOT", self.root.path())
            .stdin(Stdio::null())
            .stderr(log);
        let child = spawn_kept(command).expect("px");
        let pid = child.id();
        self.units.push((unit.into(), child));
        wait_until(Duration::from_secs(20), format!("{unit} to be ready"), || {
            self.status(unit)["ready"] == true && self.status(unit)["pid"] == pid
        });
        pid
    }

    fn status(&self, unit: &str) -> serde_json::Value {
        let path = self.path(&format!("run/{}.status.json", unit.replace('/', "_")));
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn stop_all(&mut self) {
        for (_, child) in &mut self.units {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.units.clear();
    }
}

impl Drop for BenchSite {
    fn drop(&mut self) {
        self.stop_all();
    }
}

async fn channel(broker: &TestBroker) -> (Connection, Channel) {
    let connection = Connection::connect(&broker.amqp_url(), ConnectionProperties::default())
        .await
        .expect("connect");
    let channel = connection.create_channel().await.expect("channel");
    (connection, channel)
}

async fn bound_queue(channel: &Channel, queue: &str, key: &str) {
    use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare("x".into(), lapin::ExchangeKind::Topic, durable, FieldTable::default())
        .await
        .expect("exchange");
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), FieldTable::default())
        .await
        .expect("queue");
    channel
        .queue_bind(
            queue.into(),
            "x".into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("binding");
}

async fn depth(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await;
    declared.expect("depth").message_count()
}

async fn purge(channel: &Channel, queue: &str) {
    channel
        .queue_purge(queue.into(), QueuePurgeOptions::default())
        .await
        .expect("purge");
}

fn v02(number: usize, host: &str) -> (String, String, BasicProperties) {
    let path = format!("data/file-{number:05}");
    let mut headers = FieldTable::default();
    headers.insert(
        "sum".into(),
        AMQPValue::LongString("d,900150983cd24fb0d6963f7d28e17f72".into()),
    );
    headers.insert("parts".into(), AMQPValue::LongString("1,3,1,0,0".into()));
    let properties = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_delivery_mode(2)
        .with_headers(headers);
    let body = format!("20261121201234.567 http://{host}/ {path}");
    (format!("v02.post.{}", path.replace('/', ".")), body, properties)
}

/// The bare loop: publish with confirms in a window.
async fn publish_all(channel: &Channel, count: usize, hosts: &[&str]) -> f64 {
    let mut confirms = std::collections::VecDeque::new();
    let begun = Instant::now();
    for number in 0..count {
        for host in hosts {
            let (key, body, properties) = v02(number, host);
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let publish = channel.basic_publish("x".into(), key.into(), options, body.as_bytes(), properties);
            confirms.push_back(publish.await.expect("publish"));
            if confirms.len() >= WINDOW {
                confirms.pop_front().expect("window").await.expect("confirm");
            }
        }
    }
    for confirm in confirms {
        confirm.await.expect("confirm");
    }
    (count * hosts.len()) as f64 / begun.elapsed().as_secs_f64()
}

/// 10 000 small files written as fast as possible, announced in one format, against the bare confirm loop.
async fn burst(server: &RabbitServer, report: &mut Report) {
    let broker = TestBroker::on(server, "burst");
    let (_connection, channel) = channel(&broker).await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    bound_queue(&channel, "q", "#").await;
    let mut site = BenchSite::new(&broker);
    let tree = site.path("tree");
    std::fs::create_dir(&tree).expect("tree");
    let unit = "broker = \"b\"\nannounce = [\"v02\"]\n[[tree]]\npath = \"TREE\"\nurl = \"http://h/data/\"\n";
    site.write("etc/watch/w.toml", &unit.replace("TREE", &tree.display().to_string()));
    site.start("watch/w");
    let (mut bare, mut px, mut writing) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(publish_all(&channel, FILES, &["h"]).await);
        purge(&channel, "q").await;
        let directory = tree.join(format!("round-{round}"));
        std::fs::create_dir(&directory).expect("directory");
        let begun = Instant::now();
        let writer = std::thread::spawn(move || write_files(&directory, FILES));
        while depth(&channel, "q").await < FILES as u32 {
            assert!(
                begun.elapsed() < MINUTE,
                "only {} announced",
                depth(&channel, "q").await
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        px.push(FILES as f64 / begun.elapsed().as_secs_f64());
        writing.push(FILES as f64 / writer.join().expect("writer").as_secs_f64());
        purge(&channel, "q").await;
    }
    report.figure("bare confirm loop, window 256, msg/s", spread(&bare));
    report.figure("files written meanwhile, files/s", spread(&writing));
    report.figure("watcher, burst of 10 000 files in v02, files/s", spread(&px));
    let ratio = median(px) / median(bare);
    report.check(
        "watcher burst / bare loop, at least 0.60",
        format!("{ratio:.2}"),
        ratio >= 0.60,
    );
}

fn write_files(directory: &Path, count: usize) -> Duration {
    let begun = Instant::now();
    for number in 0..count {
        std::fs::write(directory.join(format!("file-{number:05}")), b"abc").expect("file");
    }
    begun.elapsed()
}

/// 20 000 announcements, half of them duplicates, against a bare consume+publish+confirm loop.
async fn dispatcher(server: &RabbitServer, report: &mut Report) {
    let broker = TestBroker::on(server, "dispatcher");
    let (_connection, channel) = channel(&broker).await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    bound_queue(&channel, "q.in", "v02.post.#").await;
    bound_queue(&channel, "q.out", "v02.notify.#").await;
    let (mut bare, mut px) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        publish_all(&channel, FILES, &["one", "two"]).await;
        bare.push(bare_forward(&broker).await);
        purge(&channel, "q.out").await;
        publish_all(&channel, FILES, &["one", "two"]).await;
        let mut site = BenchSite::new(&broker);
        let unit = "broker = \"b\"\nqueue = \"q.in\"\nbind = [\"v02.post.#\"]\nseen = {}\n\
                    rekey = { from = \"v02.post\", to = \"v02.notify\" }\n";
        site.write("etc/dispatch/d.toml", unit);
        let begun = Instant::now();
        site.start("dispatch/d");
        let starting = begun.elapsed();
        while depth(&channel, "q.out").await < FILES as u32 || depth(&channel, "q.in").await > 0 {
            assert!(begun.elapsed() < MINUTE, "{} forwarded", depth(&channel, "q.out").await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Its start is part of what was measured; that is against px.
        px.push(2.0 * FILES as f64 / begun.elapsed().as_secs_f64());
        eprintln!("  start took {starting:?}");
        site.stop_all();
        purge(&channel, "q.out").await;
    }
    report.figure(
        "bare consume+publish+confirm loop, half dropped, msg/s in",
        spread(&bare),
    );
    report.figure("dispatcher, half duplicates, sync = power, msg/s in", spread(&px));
    let ratio = median(px) / median(bare);
    report.check(
        "dispatcher / bare loop, at least 0.80",
        format!("{ratio:.2}"),
        ratio >= 0.80,
    );
}

async fn bare_forward(broker: &TestBroker) -> f64 {
    let (_publishing, out) = channel(broker).await;
    out.confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let (_consuming, input) = channel(broker).await;
    input
        .basic_qos(WINDOW as u16, BasicQosOptions::default())
        .await
        .expect("qos");
    let consume = BasicConsumeOptions::default();
    let begun = Instant::now();
    let mut deliveries = input
        .basic_consume("q.in".into(), "bare".into(), consume, FieldTable::default())
        .await
        .expect("consume");
    let mut waiting = std::collections::VecDeque::new();
    for number in 0..2 * FILES {
        let delivery = deliveries.next().await.expect("delivery").expect("delivery");
        if number % 2 == 1 {
            delivery.ack(BasicAckOptions::default()).await.expect("ack");
            continue;
        }
        let key = delivery.routing_key.as_str().replacen("v02.post", "v02.notify", 1);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = out.basic_publish(
            "x".into(),
            key.into(),
            options,
            &delivery.data,
            delivery.properties.clone(),
        );
        waiting.push_back((publish.await.expect("publish"), delivery));
        if waiting.len() >= WINDOW / 2 {
            let (confirm, delivery) = waiting.pop_front().expect("window");
            confirm.await.expect("confirm");
            delivery.ack(BasicAckOptions::default()).await.expect("ack");
        }
    }
    for (confirm, delivery) in waiting {
        confirm.await.expect("confirm");
        delivery.ack(BasicAckOptions::default()).await.expect("ack");
    }
    2.0 * FILES as f64 / begun.elapsed().as_secs_f64()
}

/// From the close of a file to its announcement in a consumer's hand.
async fn latency(server: &RabbitServer, report: &mut Report, is_quick: bool) {
    let broker = TestBroker::on(server, "latency");
    let (_connection, channel) = channel(&broker).await;
    bound_queue(&channel, "q", "#").await;
    let mut deliveries = channel
        .basic_consume(
            "q".into(),
            "c".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("consume");
    let mut site = BenchSite::new(&broker);
    let tree = site.path("tree");
    std::fs::create_dir(&tree).expect("tree");
    let unit = "broker = \"b\"\nannounce = [\"v02\"]\n[[tree]]\npath = \"TREE\"\nurl = \"http://h/data/\"\n";
    site.write("etc/watch/w.toml", &unit.replace("TREE", &tree.display().to_string()));
    site.start("watch/w");
    let mut once = async |name: String| {
        let path = tree.join(name);
        std::fs::write(&path, b"abc").expect("file");
        let closed = Instant::now();
        let delivery = deliveries.next().await.expect("delivery").expect("delivery");
        let took = closed.elapsed().as_secs_f64() * 1e3;
        delivery.ack(BasicAckOptions::default()).await.expect("ack");
        took
    };
    let mut took = Vec::new();
    for number in 0..200 {
        took.push(once(format!("busy-{number}")).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let p50 = median(took.clone());
    took.sort_by(f64::total_cmp);
    report.figure("close to delivery, p99 of 200, ms", format!("{:.2}", took[197]));
    report.check(
        "close to delivery, p50 of 200, below 5 ms",
        format!("{p50:.2} ms"),
        p50 < 5.0,
    );
    if !is_quick {
        let mut after_silence = Vec::new();
        for number in 0..3 {
            tokio::time::sleep(MINUTE).await;
            after_silence.push(once(format!("silence-{number}")).await);
        }
        let p50 = median(after_silence);
        report.check(
            "the same after a minute of silence, p50 of 3, below 5 ms",
            format!("{p50:.2} ms"),
            p50 < 5.0,
        );
    }
}

/// Files of 1 KiB fetched from a server in this process.
async fn pull(server: &RabbitServer, report: &mut Report) {
    const PRODUCTS: usize = 2000;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let host = listener.local_addr().expect("address").to_string();
    tokio::spawn(serve(listener));
    for sync in ["power", "crash"] {
        for workers in [1, 8] {
            let broker = TestBroker::on(server, "pull");
            let (_connection, channel) = channel(&broker).await;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await
                .expect("confirms");
            bound_queue(&channel, "q.pull", "v02.post.#").await;
            for number in 0..PRODUCTS {
                let (key, _, properties) = v02(number, &host);
                let body = format!("20261121201234.567 http://{host}/ data/file-{number:05}");
                let headers = FieldTable::default();
                let properties = properties.with_headers(headers);
                let options = BasicPublishOptions::default();
                let publish = channel.basic_publish("x".into(), key.into(), options, body.as_bytes(), properties);
                publish.await.expect("publish").await.expect("confirm");
            }
            let mut site = BenchSite::new(&broker);
            let unit = format!(
                "type = \"pull\"\nbroker = \"b\"\nqueue = \"q.pull\"\nbind = [\"v02.post.#\"]\nsync = \"{sync}\"\n\
                 workers = {workers}\ndirectory = \"{}\"\n",
                site.path("out").display()
            );
            site.write("etc/rx/p.toml", &unit);
            let begun = Instant::now();
            site.start("rx/p");
            while depth(&channel, "q.pull").await > 0 || count(&site.path("out")) < PRODUCTS {
                assert!(begun.elapsed() < MINUTE, "{} fetched", count(&site.path("out")));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let rate = PRODUCTS as f64 / begun.elapsed().as_secs_f64();
            report.figure(
                &format!("pull worker, 1 KiB, sync = {sync}, workers = {workers}, files/s"),
                format!("{rate:.0}"),
            );
        }
    }
}

fn count(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .count()
}

/// Answers every request with 1 KiB, connection kept.
async fn serve(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let answer = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n".as_slice(),
        &[b'x'; 1024],
    ]
    .concat();
    loop {
        let (mut socket, _) = listener.accept().await.expect("accept");
        let answer = answer.clone();
        tokio::spawn(async move {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                request.extend_from_slice(&buffer[..read]);
                while let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
                    request.drain(..end + 4);
                    if socket.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// What a unit costs when nothing happens.
fn idle(server: &RabbitServer, report: &mut Report, is_quick: bool) {
    let broker = TestBroker::on(server, "idle");
    let mut site = BenchSite::new(&broker);
    let tree = site.path("tree");
    std::fs::create_dir(&tree).expect("tree");
    let watch = "broker = \"b\"\nannounce = [\"v02\"]\n[[tree]]\npath = \"TREE\"\nurl = \"http://h/data/\"\n";
    site.write("etc/watch/w.toml", &watch.replace("TREE", &tree.display().to_string()));
    let dispatch = "broker = \"b\"\nqueue = \"q.in\"\nbind = [\"v02.post.#\"]\nseen = {}\n\
                    rekey = { from = \"v02.post\", to = \"v02.notify\" }\nvip = \"127.0.0.1\"\n";
    site.write("etc/dispatch/d.toml", dispatch);
    let pull = format!(
        "type = \"pull\"\nbroker = \"b\"\nqueue = \"q.pull\"\nbind = [\"v02.notify.#\"]\ndirectory = \"{}\"\n\
         alternates = {{ bind = [\"v02.post.#\"] }}\n",
        site.path("out").display()
    );
    site.write("etc/rx/p.toml", &pull);
    let units = ["watch/w", "dispatch/d", "rx/p"];
    let pids = units.map(|unit| site.start(unit));
    let before = pids.map(cpu_s);
    let silence = if is_quick { Duration::from_secs(10) } else { MINUTE };
    std::thread::sleep(silence);
    for ((unit, pid), before) in units.iter().zip(pids).zip(before) {
        let rss = rss_anon_mib(pid);
        report.check(
            &format!("{unit} idle, RssAnon, below 15 MiB"),
            format!("{rss:.1} MiB"),
            rss < 15.0,
        );
        let share = (cpu_s(pid) - before) / silence.as_secs_f64() * 100.0;
        report.check(
            &format!("{unit} idle, CPU over {} s, below 0.1 %", silence.as_secs()),
            format!("{share:.3} %"),
            share < 0.1,
        );
    }
}

/// User and system time of the process, its ended threads included; in steps of 10 ms.
fn cpu_s(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let after_name = text.rsplit(')').next().expect("name");
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.map(|n| n.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}

fn rss_anon_mib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<f64>().ok())
        .expect("kB")
        / 1024.0
}
