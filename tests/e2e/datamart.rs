//! The data mart: products go to a web server by FTP, and are announced when they are there and never before.
//!
//! Everything stands where the old configuration looks for it: FTP, RabbitMQ and the web server on a loopback of the
//! test's own, by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    FtpServer, FtpTls, Ftpd, Process, RabbitServer, TestSite, enter_own_network, files_below, spawn_kept, wait_until,
};

const DELIVERER: &str = "tx/wxo-b1-oper-dd";
const NOTIFIER: &str = "tx/dd-notify-wxo-b1";
const DIRECTORY: &str = "radar/24_HR_ACCUM/GIF/XSS";
const KEY: &str = "exp.dd.notify.radar.24_HR_ACCUM.GIF.XSS";
const PATIENCE: Duration = Duration::from_secs(120);

/// The whole machinery but the units.
struct Datamart {
    site: TestSite,
    rabbit: RabbitServer,
    ftp: FtpServer,
    _web: Web,
    port: u16,
}

/// nginx, as a user who may not read everything, on port 80.
struct Web {
    process: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Web {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Web {
    fn start(root: &Path) -> Web {
        use std::os::unix::fs::PermissionsExt;
        // In this network only.
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").expect("any port for anybody");
        let directory = tempfile::Builder::new()
            .prefix("px-test-dd-")
            .tempdir()
            .expect("directory");
        let at = directory.path().display().to_string();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("mode");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {at}/tmp; "))
            .concat();
        let conf = format!(
            "pid {at}/pid; error_log {at}/error.log; daemon off; master_process off;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; {temporary} server {{ listen 127.0.0.1:80; root {}; }} }}\n",
            root.display()
        );
        std::fs::write(directory.path().join("nginx.conf"), conf).expect("nginx.conf");
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
        ]);
        command.args(["/usr/sbin/nginx", "-p", &at, "-e", &format!("{at}/error.log"), "-c"]);
        command.arg(format!("{at}/nginx.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = spawn_kept(command).expect("setpriv");
        wait_until(
            Duration::from_secs(20),
            "nginx serves; Debian package nginx-light",
            || TcpStream::connect(("127.0.0.1", 80)).is_ok(),
        );
        Web {
            process,
            _directory: directory,
        }
    }
}

/// Status and body of what stands at a URL now.
fn get(url: &str) -> (u16, String) {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .expect("a URL");
    let mut stream = TcpStream::connect((host, 80)).expect("the web server");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("time-out");
    let asked = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(asked.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

impl Datamart {
    fn new() -> Datamart {
        let site = TestSite::with_site_file(
            "[brokers.wxo]\nurls = [\"amqp://feeder:********@wxo-b1.cmc.ec.gc.ca/\"]\n\
             exchange = { name = \"cmc\", durable = false }\n\
             [sftp_amqp.wxo-b1-oper-dd]\nqueue = \"dd-notify-wxo-b1\"\nurl = \"http://dd1.weather.gc.ca/\"\n",
        );
        enter_own_network(&site.path("hosts"), &["wxo-b1.cmc.ec.gc.ca", "dd1.weather.gc.ca"]);
        let rabbit = RabbitServer::start_on(5672, "", "[].");
        rabbit.ctl(&["add_user", "feeder", "********"]);
        rabbit.ctl(&["set_permissions", "-p", "/", "feeder", ".*", ".*", ".*"]);
        // With SITE UMASK, which few servers have and this method needs; as a user, as servers do.
        let words = ["umask", "user", "login=wxofeed:**********"];
        let ftp = FtpServer::start_with(Ftpd::Python, FtpTls::None, None, &words);
        let web = Web::start(ftp.home());
        let port = ftp.port;
        Datamart {
            site,
            rabbit,
            ftp,
            _web: web,
            port,
        }
    }

    /// The seed's two units, to the byte but for the port, for what the seed has left out, where products go, and for
    /// `lock` where that is not `umask`.
    fn two_step(&self, lock: &str) {
        let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew/seed/tx");
        let read = |name: &str| std::fs::read_to_string(seed.join(name)).expect("the seed's file");
        let deliverer = read("wxo-b1-oper-dd.conf").replace("lock  umask", &format!("lock  {lock}"));
        let deliverer = deliverer.replace(".gc.ca\n", &format!(".gc.ca:{}\n", self.port));
        let places =
            "dir_mkdir True\ndir_pattern True\ndirectory /radar/24_HR_ACCUM/GIF/${0}\naccept .*:URP:(.*):RADAR:GIF.*\n";
        self.site
            .write("etc/tx/wxo-b1-oper-dd.conf", format!("{deliverer}\n{places}"));
        self.site
            .write("etc/tx/dd-notify-wxo-b1.conf", read("dd-notify-wxo-b1.conf"));
    }

    /// One unit that does both.
    fn one_step(&self, lock: &str) {
        self.site.unit(
            DELIVERER,
            &format!(
                "type = \"deliver\"\ndestination = \"ftp://wxofeed@wxo-b1.cmc.ec.gc.ca:{}\"\n\
                 password = \"**********\"\nftp_mode = \"active\"\nlock = \"{lock}\"\nchmod = \"775\"\n\
                 directory = \"{DIRECTORY}\"\n[announcements]\nbroker = \"wxo\"\nannounce = [\"exp\"]\n\
                 url = \"http://dd1.weather.gc.ca/\"\n",
                self.port
            ),
        );
    }

    /// Puts products into the queue of the deliverer, as receivers do.
    fn queue(&self, numbers: std::ops::Range<usize>) {
        let hour = self.site.path("txq/wxo-b1-oper-dd/3/2013060614");
        std::fs::create_dir_all(&hour).expect("queue");
        for number in numbers {
            let hidden = hour.join(".new");
            std::fs::write(&hidden, content(number)).expect("product");
            let name = format!("{}:URP:XSS:RADAR:GIF::20130606144709", name(number));
            std::fs::rename(&hidden, hour.join(name)).expect("rename");
        }
    }

    /// What the deliverer has delivered, in order.
    fn delivered(&self) -> Vec<usize> {
        let said = self.site.said(DELIVERER);
        let lines = said.lines().filter(|line| line.contains(" delivered to "));
        lines
            .map(|line| {
                line.split("_XSS_")
                    .nth(1)
                    .and_then(|rest| rest[..5].parse().ok())
                    .expect(line)
            })
            .collect()
    }

    fn is_delivered(&self, count: usize) -> bool {
        files_below(self.ftp.home()).len() >= count && files_below(&self.site.path("txq/wxo-b1-oper-dd/3")).is_empty()
    }

    #[track_caller]
    fn wait_delivered(&self, count: usize) {
        self.site
            .wait_that_for(PATIENCE, "all are delivered", || self.is_delivered(count));
    }
}

fn name(number: usize) -> String {
    format!("201306061440_XSS_{number:05}_MM.gif")
}

fn content(number: usize) -> String {
    format!("product {number} {}", "x".repeat(number % 997))
}

/// A plain subscriber who fetches at once what is announced, and looks whether it is the product.
struct Reader {
    subscriber: Child,
    seen: Receiver<Result<usize, String>>,
    /// How often each product was announced.
    counts: BTreeMap<usize, usize>,
    /// In the order of their first announcements.
    order: Vec<usize>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.subscriber.kill();
        let _ = self.subscriber.wait();
    }
}

impl Reader {
    /// Bound when this returns.
    fn start() -> Reader {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/subscriber.py");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "/usr/bin/python3"]).arg(script);
        command.args(["5672", "cmc", "exp.dd.notify.#", "1000000"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut subscriber = spawn_kept(command).expect("setpriv");
        let mut lines = BufReader::new(subscriber.stdout.take().expect("piped")).lines();
        let bound = lines.next().expect("a line: is python3-pika there?").expect("text");
        assert!(bound.contains("bound"), "{bound}");
        let (sender, seen) = channel();
        // A thread of this thread's network.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let message = serde_json::from_str(&line).expect("JSON");
                if sender.send(fetched(&message)).is_err() {
                    return;
                }
            }
        });
        Reader {
            subscriber,
            seen,
            counts: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// Until all these products have been announced and fetched.
    #[track_caller]
    fn wait_all(&mut self, datamart: &Datamart, wanted: std::ops::Range<usize>) {
        let end = Instant::now() + PATIENCE;
        let mut missing: BTreeSet<usize> = wanted.filter(|number| !self.counts.contains_key(number)).collect();
        while !missing.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok(Ok(number)) => {
                    missing.remove(&number);
                    let count = self.counts.entry(number).or_default();
                    *count += 1;
                    if *count == 1 {
                        self.order.push(number);
                    }
                }
                Ok(Err(why)) => panic!("{why}\n{}", datamart.site.logs()),
                Err(error) => panic!(
                    "{error}: {} are not announced, the first {:?}\n{}",
                    missing.len(),
                    missing.first(),
                    datamart.site.logs()
                ),
            }
        }
    }
}

/// The number of the product that is announced, if it is the seed's message and the product is there at this moment.
fn fetched(message: &Value) -> Result<usize, String> {
    let url = message["body"].as_str().unwrap_or_default();
    let (status, body) = get(url);
    let number = url
        .rsplit('/')
        .next()
        .and_then(|name| name.split('_').nth(2)?.parse().ok());
    let number: usize = number.ok_or_else(|| format!("no product: {message}"))?;
    let name = name(number);
    let header = format!("radar.24_HR_ACCUM.GIF.XSS++{name}:URP:XSS:RADAR:GIF:");
    let is_right = message["key"] == KEY
        && url == format!("http://dd1.weather.gc.ca/{DIRECTORY}/{name}")
        && message["headers"] == json!({ "filename": header })
        && message["properties"]["content_type"] == "text/plain";
    match (is_right, status == 200 && body == content(number)) {
        (true, true) => Ok(number),
        (false, _) => Err(format!("not the message of the seed: {message}")),
        (true, false) => Err(format!(
            "announced, and not there: {url}: {status}, {} bytes",
            body.len()
        )),
    }
}

#[test]
fn the_seeds_two_units_announce_two_thousand_products_each_when_it_can_be_fetched() {
    const COUNT: usize = 2000;
    let datamart = Datamart::new();
    datamart.two_step("umask");
    let mut reader = Reader::start();
    let mut notifier = datamart.site.run_ready(NOTIFIER);
    let mut deliverer = datamart.site.run_ready(DELIVERER);
    datamart.queue(0..COUNT);
    reader.wait_all(&datamart, 0..COUNT);
    assert_eq!(
        reader.counts.values().sum::<usize>(),
        COUNT,
        "each once, for nothing was killed"
    );
    assert!(deliverer.terminate().success() && notifier.terminate().success());
    let modes = files_below(datamart.ftp.home()).into_iter().map(|path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).expect("a product").permissions().mode() & 0o777
    });
    assert_eq!(modes.collect::<BTreeSet<u32>>(), BTreeSet::from([0o775]));
    assert!(files_below(&datamart.site.path("txq/dd-notify-wxo-b1")).is_empty());
}

/// The broker goes and comes back; delivery goes on meanwhile, and nothing is forgotten or out of order.
#[test]
fn one_unit_delivers_and_announces_two_thousand_products_whatever_becomes_of_the_broker() {
    let mut datamart = Datamart::new();
    datamart.one_step("umask");
    let mut reader = Reader::start();
    let mut deliverer = datamart.site.run_ready(DELIVERER);
    datamart.queue(0..1000);
    reader.wait_all(&datamart, 0..1000);
    let first = std::mem::take(&mut reader.order);
    assert_eq!(reader.counts.values().sum::<usize>(), 1000);
    drop(reader);

    datamart.rabbit.stop();
    datamart.queue(1000..2000);
    datamart.wait_delivered(2000);
    datamart.site.wait(DELIVERER, "shows what waits", |status| {
        status["gauges"]["outbox"] == 1000
    });
    datamart.rabbit.start_again();
    let mut reader = Reader::start();
    reader.wait_all(&datamart, 1000..2000);
    let announced = [first, std::mem::take(&mut reader.order)].concat();
    assert!(
        announced == datamart.delivered(),
        "not announced in the order of the deliveries"
    );
    datamart
        .site
        .wait(DELIVERER, "has nothing left", |status| status["gauges"]["outbox"] == 0);
    assert!(deliverer.terminate().success(), "{}", datamart.site.logs());
}

/// Kills the units again and again while products go through; every one is announced, and none before it is there. Not
/// with `lock umask`: a product that is delivered again after a crash is locked anew under its own name for a moment,
/// and who has just been told of it finds it so.
fn kills(datamart: &Datamart, units: &[&str]) {
    const COUNT: usize = 1200;
    const KILLS: usize = 8;
    let mut reader = Reader::start();
    let run = || -> Vec<Process> { units.iter().map(|unit| datamart.site.run(unit)).collect() };
    let mut running = run();
    datamart.queue(0..COUNT);
    for kill in 1..=KILLS {
        let wanted = COUNT * kill / (KILLS + 2);
        datamart.site.wait_that_for(PATIENCE, "some more are delivered", || {
            files_below(datamart.ftp.home()).len() >= wanted
        });
        running.iter_mut().for_each(Process::kill);
        running = run();
    }
    reader.wait_all(datamart, 0..COUNT);
    datamart.wait_delivered(COUNT);
    for process in &mut running {
        assert!(process.terminate().success(), "{}", datamart.site.logs());
    }
}

#[test]
fn nothing_that_two_killed_units_delivered_stays_unannounced() {
    let datamart = Datamart::new();
    datamart.two_step(".tmp");
    kills(&datamart, &[NOTIFIER, DELIVERER]);
}

#[test]
fn nothing_that_one_killed_unit_delivered_stays_unannounced() {
    let datamart = Datamart::new();
    datamart.one_step(".tmp");
    kills(&datamart, &[DELIVERER]);
}
