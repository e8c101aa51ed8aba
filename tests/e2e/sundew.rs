//! A Sundew site moves over: its own configuration, its own subscribers, its own spool.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use px::message::{Envelope, Value as Header};
use serde_json::{Value, json};

use crate::support::{
    Feed, RabbitServer, SOON, TestBroker, TestSite, enter_own_network, files_below, spawn_kept, wait_until,
};

const UNIT: &str = "dd-notify-wxo-b1";
const PRODUCT: &str =
    "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709";
const URL: &str = "http://dd1.weather.gc.ca/radar/24_HR_ACCUM/GIF/XSS/201306061440_XSS_24_HR_ACCUM_MM.gif";

/// A plain subscriber, and what it prints: one JSON document a line.
struct Subscriber {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subscriber {
    /// Bound to the exchange when this returns.
    fn start(exchange: &str, key: &str, count: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/subscriber.py");
        // Debian's Python has Debian's python3-pika.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "/usr/bin/python3"]).arg(script);
        command.args(["5672", exchange, key, &count.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn_kept(command).expect("setpriv");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut subscriber = Subscriber { child, lines };
        let first = subscriber.next();
        assert!(first["bound"].is_string(), "{first}");
        subscriber
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line of the subscriber");
        serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{error}: {line:?}; is python3-pika there? run scripts/test, or apt-get install python3-pika")
        })
    }
}

/// A site that has no file of px, on a broker where the old configurations look for it.
struct Sundew {
    site: TestSite,
    /// Lives as long as the site.
    _server: RabbitServer,
}

impl Sundew {
    fn new() -> Self {
        let site = TestSite::with_site_file("");
        std::fs::remove_file(site.path("etc/px.toml")).expect("px.toml");
        let hosts = site.path("hosts");
        enter_own_network(&hosts, &["wxo-b1.cmc.ec.gc.ca"]);
        let server = RabbitServer::start_on(5672, "", "[].");
        for (user, password) in [("feeder", "********"), ("guest", "guest")] {
            server.ctl(&["add_user", user, password]);
            server.ctl(&["set_permissions", "-p", "/", user, ".*", ".*", ".*"]);
        }
        let sundew = Sundew { site, _server: server };
        sundew.site.write("etc/px.conf", "# a site without options\n");
        sundew
    }

    /// `pxSender NAME COMMAND`, by a link to px.
    fn old_program(&self, program: &str, arguments: &[&str]) -> (i32, String) {
        let link = self.site.path(program);
        if !link.exists() {
            std::os::unix::fs::symlink(crate::support::PX, &link).expect("link");
        }
        let output = Command::new(&link)
            .args(arguments)
            .env("PXROOT", self.site.root())
            .env_remove("PX_ROOT")
            .output()
            .expect("the old program");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn queued(&self, unit: &str, below: &str) -> PathBuf {
        self.site.path(&format!("txq/{unit}/{below}"))
    }

    fn log(&self, unit: &str) -> String {
        let path = self.site.path(&format!("log/{unit}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

/// The message without digits that differ each time.
fn masked(line: &str) -> String {
    let (stamp, rest) = line.split_at(23);
    let stamp: String = stamp
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    let (text, figures) = rest.split_once("(lat=").expect("lat");
    let (lat, speed) = figures.trim_end_matches(')').split_once(",speed=").expect("speed");
    for figure in [lat, speed] {
        let (whole, fraction) = figure.split_once('.').expect("a fraction");
        assert!(whole.parse::<u64>().is_ok() && fraction.len() == 6, "{line}");
    }
    format!("{stamp}{text}(lat=N,speed=N)")
}

/// The configuration is the seed's to the byte, and so are the key, the URL, the header and the line of the log.
#[test]
fn the_seeds_sender_gives_a_plain_subscriber_the_seeds_message() {
    let sundew = Sundew::new();
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew/seed/tx/dd-notify-wxo-b1.conf");
    sundew.site.write(
        &format!("etc/tx/{UNIT}.conf"),
        std::fs::read(conf).expect("the seed's file"),
    );
    let mut subscriber = Subscriber::start("cmc", "exp.dd.notify.#", 1);
    sundew.site.write(&format!("txq/{UNIT}/3/2013060614/{PRODUCT}"), URL);
    let refused = "ensemble.naefs.grib2.raw++x:A:B:C:D::20130606144710";
    sundew
        .site
        .write(&format!("txq/{UNIT}/3/2013060614/{refused}"), "http://h/x");

    assert_eq!(sundew.old_program("pxSender", &[UNIT, "start"]), (0, String::new()));
    let message = subscriber.next();
    assert_eq!(message["key"], "exp.dd.notify.radar.24_HR_ACCUM.GIF.XSS");
    assert_eq!(message["body"], URL);
    let name = "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF:";
    assert_eq!(message["headers"], json!({ "filename": name }));
    let properties = &message["properties"];
    assert_eq!(properties["content_type"], "text/plain");
    let only = ["headers", "content_type", "delivery_mode"];
    let others: Vec<_> = properties
        .as_object()
        .expect("properties")
        .keys()
        .filter(|key| !only.contains(&key.as_str()))
        .collect();
    assert!(others.is_empty(), "{properties}");

    let queue = sundew.queued(UNIT, "3/2013060614");
    sundew.site.wait_that("both files are gone", || {
        std::fs::read_dir(&queue).is_ok_and(|left| left.count() == 0)
    });
    let log = sundew.log(&format!("tx_{UNIT}"));
    let line = log.lines().find(|line| line.contains("Bytes")).expect("a product line");
    let of_the_seed = format!(
        "2013-06-06 14:47:11,368 [INFO] (86 Bytes) Message {PRODUCT}  delivered (lat=1.368449,speed=168950.887119)"
    );
    assert_eq!(masked(line), masked(&of_the_seed));
    // What the scripts of a site cut.
    let columns: Vec<&str> = line.split(' ').collect();
    assert_eq!(
        (columns[3], columns[4], columns[5], columns[6]),
        ("(86", "Bytes)", "Message", PRODUCT)
    );
    assert_eq!(
        line.split_whitespace().nth(6).and_then(|name| name.split(':').nth(6)),
        Some("20130606144709")
    );
    let unlinked = format!(
        "No pattern (TX) matching: {} has been unlinked!",
        queue.join(refused).display()
    );
    assert!(log.contains(&unlinked), "{log}");

    let pid = std::fs::read_to_string(sundew.queued(UNIT, ".lock")).expect(".lock");
    let running = format!("Sender {UNIT} is running with PID {pid}\n");
    assert_eq!(sundew.old_program("pxSender", &[UNIT, "status"]), (0, running));
    assert_eq!(sundew.old_program("pxSender", &[UNIT, "stop"]), (0, String::new()));
    assert!(!sundew.queued(UNIT, ".lock").exists());
    let log = sundew.log(&format!("tx_{UNIT}"));
    for text in [
        format!("[INFO] Sender {UNIT} has been started"),
        format!("[INFO] Initialisation of client {UNIT}"),
        "[INFO] AMQP Sender is now connected to: wxo-b1.cmc.ec.gc.ca".to_owned(),
        "new messages will be sent".to_owned(),
        format!("[INFO] Sender {UNIT} (type: amqp) has been stopped"),
    ] {
        assert!(log.lines().any(|line| line.contains(&text)), "{text}\n{log}");
    }
}

const SENDER: &str = "type amqp\nvalidation False\nnoduplicates False\nprotocol amqp\nhost localhost\nuser guest\n\
                      password guest\nexchange_name myname\nexchange_key exp.test.this\nexchange_type topic\naccept .*\n";
const RECEIVER: &str = "type amqp\nvalidation False\nprotocol amqp\nhost localhost\nuser guest\npassword guest\n\
                        exchange_name myname\nexchange_key exp.test.this\nexchange_type topic\n\
                        extension -NAME:CC:TT:3:FMT\naccept .*(URP):(XSS).*\naccept (.*)\n";
/// A program of the old site on the same spool: it takes what lies in its queue, as a sender of another type would.
const FOREIGN: &str = "queue=$1 taken=$2 wanted=$3 count=0\n\
                       while [ $count -lt $wanted ]; do\n\
                       for file in $queue/[0-5]/*/*; do [ -f \"$file\" ] && mv \"$file\" \"$taken/\" && count=$((count+1)); done\n\
                       sleep 0.05; done";

impl Sundew {
    /// A sender, a receiver, a client that px serves and one that it leaves to Sundew.
    fn with_both_ends() -> Self {
        let sundew = Self::new();
        sundew.site.write("etc/tx/out.conf", SENDER);
        sundew.site.write("etc/rx/back.conf", RECEIVER);
        sundew.site.write(
            "etc/tx/sink.conf",
            "type single-file\nhost h\nuser u\nprotocol ftp\naccept .*URP.*\n",
        );
        sundew
            .site
            .write("etc/tx/other.conf", "type am\nhost h\nuser u\naccept .*\n");
        sundew.site.write(
            "etc/pxRouting.conf",
            "clientAlias all sink,other\nkey URP_XSS all 2\nkey_accept .* other 4\n",
        );
        sundew
    }

    fn database(&self) -> Vec<PathBuf> {
        files_below(&self.site.path("db"))
    }
}

/// The name without the reception stamp.
fn stem(path: &Path) -> String {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    name.rsplit_once(':').map_or(name.clone(), |(stem, _)| stem.to_owned())
}

/// From one queue by the broker into another site's database and into the queues of its clients; what px does not
/// serve takes its own part from the same spool.
#[test]
fn a_product_goes_from_a_sender_through_a_receiver_to_px_and_to_foreign_clients() {
    let sundew = Sundew::with_both_ends();
    assert_eq!(sundew.old_program("pxReceiver", &["back", "start"]), (0, String::new()));
    sundew
        .site
        .wait("rx/back", "is bound", |status| status["ready"] == Value::Bool(true));
    let taken = sundew.site.path("taken");
    std::fs::create_dir_all(&taken).expect("taken");
    std::fs::create_dir_all(sundew.site.path("txq/sink")).expect("txq/sink");
    const COUNT: usize = 300;
    let mut foreign = Command::new("setpriv");
    foreign.args(["--pdeathsig", "KILL", "bash", "-c", FOREIGN, "foreign"]);
    foreign
        .args([sundew.site.path("txq/sink"), taken.clone()])
        .arg(COUNT.to_string());
    let mut foreign = spawn_kept(foreign).expect("bash");

    assert_eq!(sundew.old_program("pxSender", &["out", "start"]), (0, String::new()));
    // A foreign ingest links into the sender's queue while it works.
    for n in 0..COUNT {
        let name = format!("p{n}.gif:URP:XSS:RADAR:GIF::20130606144709");
        sundew.site.write(&format!("foreign-db/{name}"), format!("content {n}"));
        let hour = sundew.site.path("txq/out/3/2013060614");
        std::fs::create_dir_all(&hour).expect("hour");
        std::fs::hard_link(sundew.site.path(&format!("foreign-db/{name}")), hour.join(&name)).expect("link");
    }
    sundew.site.write("foreign-db/odd", "odd");
    let hour = sundew.site.path("txq/out/1/2013060614");
    std::fs::create_dir_all(&hour).expect("hour");
    std::fs::hard_link(sundew.site.path("foreign-db/odd"), hour.join("odd")).expect("link");

    sundew
        .site
        .wait_that("all are in the database", || sundew.database().len() == COUNT + 1);
    wait_until(SOON, "the foreign client has taken its part", || {
        foreign.try_wait().is_ok_and(|end| end.is_some())
    });
    let mut names: Vec<String> = files_below(&taken).iter().map(|path| stem(path)).collect();
    names.sort();
    let mut wanted: Vec<String> = (0..COUNT).map(|n| format!("p{n}.gif:URP:XSS:RADAR:GIF:FMT")).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    sundew.site.wait_that("the other client has all", || {
        files_below(&sundew.site.path("txq/other")).len() == COUNT + 1
    });
    for path in sundew.database().iter().filter(|path| stem(path).starts_with('p')) {
        let number = stem(path)[1..].split('.').next().expect("a number").to_owned();
        assert_eq!(
            std::fs::read_to_string(path).expect("product"),
            format!("content {number}")
        );
        assert!(
            path.parent().is_some_and(|parent| parent.ends_with("RADAR/URP/XSS")),
            "{}",
            path.display()
        );
        // The receiver's own goes last.
        sundew
            .site
            .wait_that(&format!("db, sink, other: {}", path.display()), || {
                std::fs::metadata(path).expect("product").nlink() == 3
            });
    }
    // The columns that latency tools join.
    let log = sundew.log("rx_back");
    let ingested = log
        .lines()
        .find(|line| line.contains("Ingested"))
        .expect("a product line");
    let column = ingested.split(' ').nth(9).expect("the tenth column");
    assert!(Path::new(column).starts_with(sundew.site.path("db")), "{ingested}");
    assert!(
        log.lines().any(|line| line.ends_with("] Queued for: other sink ")),
        "{log}"
    );
    let priority = files_below(&sundew.site.path("txq/other/2"));
    assert_eq!(priority.len(), COUNT, "the routing table's priority");
    assert_eq!(sundew.old_program("pxReceiver", &["back", "stop"]).0, 0);
    // What is left to Sundew is listed, and neither started nor stopped.
    let said = sundew.site.px_ends(0, &["check"]);
    assert!(said.out.contains("tx/other.conf: left to Sundew"), "{said:?}");
}

/// What is in hand when the receiver is killed comes again, and so may what the broker had not written down when it is
/// killed: neither is lost, neither is linked a second time.
#[test]
fn five_thousand_products_are_each_linked_once_whatever_is_killed() {
    const COUNT: usize = 5000;
    const LONG: Duration = Duration::from_secs(120);
    const UNIT: &str = "rx/back";
    let mut server = RabbitServer::start();
    let broker = TestBroker::on(&server, "sundew-kill");
    let site = TestSite::new(&broker);
    site.write(
        "etc/tx/sink.conf",
        "type single-file\nprotocol ftp\nhost h\nuser u\naccept .*\n",
    );
    site.unit(
        UNIT,
        "type = \"amqp\"\nbroker = \"main\"\nqueue = \"in\"\nbind = [\"exp.#\"]\n",
    );
    let feed = Feed::new(&broker.config());
    feed.queue("in", &["exp.#"]);
    server.flush_definitions();
    feed.announce_all((0..COUNT).map(|n| {
        Envelope {
            key: "exp.test".into(),
            headers: [(
                "filename".to_owned(),
                Header::from(&*format!("p{n}:URP:XSS:RADAR:GIF:")),
            )]
            .into(),
            body: format!("content {n}").into_bytes(),
            ..Envelope::default()
        }
    }));
    let linked = || files_below(&site.path("db")).len();
    let mut receiver = site.run_ready(UNIT);
    for (round, share) in [1, 2, 3, 4].into_iter().enumerate() {
        site.wait_that_for(LONG, "some more are linked", || linked() >= COUNT * share / 6);
        match round {
            2 => {
                server.kill();
                server.start_again();
            }
            _ => {
                receiver.kill();
                receiver = site.run(UNIT);
            }
        }
    }
    site.wait_that_for(LONG, "every product is in the database", || linked() >= COUNT);
    let settled = Feed::new(&broker.config());
    site.wait_that_for(LONG, "the queue is empty", || settled.depth("in") == Some(0));
    assert!(receiver.terminate().success(), "{}", site.logs());

    for below in ["db", "txq/sink"] {
        let files = files_below(&site.path(below));
        let mut stems: Vec<String> = files.iter().map(|path| stem(path)).collect();
        stems.sort();
        let mut wanted: Vec<String> = (0..COUNT).map(|n| format!("p{n}:URP:XSS:RADAR:GIF:")).collect();
        wanted.sort();
        let twice: Vec<_> = stems
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| &pair[0])
            .collect();
        assert!(twice.is_empty(), "{below}: linked twice: {} {twice:?}", twice.len());
        assert!(stems == wanted, "{below}: {} of {COUNT}", stems.len());
    }
    assert_eq!(files_below(&site.path("rxq/back")), Vec::<PathBuf>::new());
}
