//! What delivering costs: against a bare copy loop, `sftp -b` and `lftp mput`, and with announcements against without.
//!
//! Both sides write under a temporary name and rename, and are given the same files anew in every round, one side after
//! the other. px's unit is ready when its queue is filled, and logs in within the time; so do `sftp` and `lftp`.

use std::fs::File;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{FTP_UID, FtpServer, FtpTls, Ftpd, RabbitServer, SSH_UID, SshServer, TestBroker};
use crate::{BenchSite, MINUTE, ROUNDS, Report, bound_queue, channel, count, depth, median, purge, spread};

const HOUR: &str = "2026112103";
/// Directories that are younger are synced with all above them; see `settled`.
const YOUNG: Duration = Duration::from_secs(61);

/// What is delivered in one go.
#[derive(Clone, Copy)]
struct Load {
    what: &'static str,
    files: usize,
    bytes: usize,
}

const SMALL: Load = Load {
    what: "5 000 files of 10 kB",
    files: 5000,
    bytes: 10_000,
};
const LARGE: Load = Load {
    what: "4 files of 64 MiB",
    files: 4,
    bytes: 64 << 20,
};
/// For a look whether everything works.
const FEW: Load = Load {
    what: "200 files of 10 kB",
    files: 200,
    bytes: 10_000,
};
const SHORT: Load = Load {
    what: "2 files of 8 MiB",
    files: 2,
    bytes: 8 << 20,
};

pub async fn deliver(server: &RabbitServer, report: &mut Report, is_quick: bool) {
    let loads = if is_quick { [FEW, SHORT] } else { [SMALL, LARGE] };
    let local = Local::new(server);
    for load in loads {
        sftp(&local.broker, report, load).await;
        for connections in [1, 4] {
            ftp(&local.broker, report, load, connections).await;
        }
    }
    local.settled();
    for load in loads {
        for sync in ["power", "crash"] {
            file(&local, report, load, sync).await;
        }
    }
    for sync in ["power", "crash"] {
        announcing(&local, report, loads[0], sync).await;
    }
}

/// A unit, a place for the files before they are queued, and the directory that they go to.
struct Setup<'a> {
    broker: &'a TestBroker,
    /// The unit's configuration.
    unit: String,
    target: PathBuf,
    load: Load,
}

impl Setup<'_> {
    /// The files in a directory of their own, and nothing left to be written to disk.
    fn prepare(&self, directory: &Path) {
        empty(&self.target);
        std::fs::create_dir_all(directory).expect("directory");
        let bytes = vec![b'x'; self.load.bytes];
        for number in 0..self.load.files {
            std::fs::write(directory.join(name(number)), &bytes).expect("file");
        }
        rustix::fs::sync();
    }

    /// Seconds until px has delivered everything and removed it from its queue, and `is_done` holds.
    async fn px(&self, is_done: impl AsyncFn() -> bool) -> f64 {
        let mut site = BenchSite::new(self.broker);
        site.write("etc/tx/d.toml", &self.unit);
        let (prepared, queued) = (site.path("prepared"), site.path(&format!("txq/d/3/{HOUR}")));
        self.prepare(&prepared);
        std::fs::create_dir_all(queued.parent().expect("priority")).expect("directory");
        site.start("tx/d");
        let last = queued.join(name(self.load.files - 1));
        let begun = Instant::now();
        // The whole queue at once.
        std::fs::rename(&prepared, &queued).expect("rename");
        // The last one first: to look at all of them would cost what is measured.
        while last.exists() || count(&queued) > 0 || !is_done().await {
            assert!(begun.elapsed() < 5 * MINUTE, "{} are left", count(&queued));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = begun.elapsed().as_secs_f64();
        self.check();
        took
    }

    /// Seconds that the other side takes, with a directory of the same files.
    fn other(&self, work: impl Fn(&Path)) -> f64 {
        let directory = tempfile::tempdir().expect("directory");
        self.prepare(directory.path());
        let begun = Instant::now();
        work(directory.path());
        let took = begun.elapsed().as_secs_f64();
        self.check();
        took
    }

    fn check(&self) {
        let entries = std::fs::read_dir(&self.target).expect("target");
        let sizes = entries.map(|entry| entry.expect("entry").metadata().expect("metadata").len());
        let whole = sizes.filter(|size| *size == self.load.bytes as u64).count();
        assert_eq!(whole, self.load.files, "whole files in {}", self.target.display());
        assert_eq!(
            count(&self.target),
            self.load.files,
            "files in {}",
            self.target.display()
        );
    }
}

/// At the destination all have names without what follows the first colon.
fn name(number: usize) -> String {
    format!("file-{number:07}.gif:URP:XSS:RADAR:GIF::20261121030000")
}

fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("target") {
        std::fs::remove_file(entry.expect("entry").path()).expect("remove");
    }
}

fn rates(load: Load, took: &[f64]) -> Vec<f64> {
    let per_second = |took: &f64| match load.files {
        100.. => load.files as f64 / took,
        _ => (load.files * load.bytes) as f64 / took / 1e6,
    };
    took.iter().map(per_second).collect()
}

/// The rates of both: of files where there are many, else of bytes.
fn both(report: &mut Report, load: Load, [other, px]: [(&str, &[f64]); 2]) {
    let unit = if load.files >= 100 { "files/s" } else { "MB/s" };
    for (who, took) in [other, px] {
        report.figure(&format!("{who}, {}, {unit}", load.what), spread(&rates(load, took)));
    }
}

/// Directories of this host, made at the beginning.
struct Local {
    broker: TestBroker,
    tree: tempfile::TempDir,
    made: Instant,
}

impl Local {
    fn new(server: &RabbitServer) -> Local {
        let tree = tempfile::tempdir().expect("tree");
        std::fs::create_dir(tree.path().join("in")).expect("target");
        Local {
            broker: TestBroker::on(server, "deliver"),
            tree,
            made: Instant::now(),
        }
    }

    fn target(&self) -> PathBuf {
        self.tree.path().join("in")
    }

    /// For the first minute of a directory px syncs those above it too, since somebody may have made them just now. A
    /// site's directories are older, and so must be those that are measured.
    fn settled(&self) {
        std::thread::sleep(YOUNG.saturating_sub(self.made.elapsed()));
    }

    fn unit(&self, sync: &str, more: &str) -> String {
        let target = self.target();
        format!(
            "type = \"deliver\"\ndestination = \"file:\"\nsync = \"{sync}\"\ndirectory = \"{}\"\n{more}",
            target.display()
        )
    }
}

/// A directory of this host, against a loop that copies, syncs as often, renames and unlinks.
async fn file(local: &Local, report: &mut Report, load: Load, sync: &str) {
    let setup = Setup {
        broker: &local.broker,
        unit: local.unit(sync, ""),
        target: local.target(),
        load,
    };
    let (mut bare, mut px) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(setup.other(|from| copy_all(from, &setup.target, sync == "power").expect("copy loop")));
        px.push(setup.px(async || true).await);
    }
    let names = [
        format!("bare copy loop, sync = {sync}"),
        format!("px to file:, sync = {sync}"),
    ];
    both(report, load, [(&names[0], &bare), (&names[1], &px)]);
    let ratio = median(bare) / median(px);
    report.check(
        &format!(
            "px to file: / bare copy loop, {}, sync = {sync}, at least 0.80",
            load.what
        ),
        format!("{ratio:.2}"),
        ratio >= 0.80,
    );
}

/// As many renames as this share a sync of their directory, as with px.
const GROUP: usize = 32;

fn copy_all(from: &Path, to: &Path, is_power: bool) -> io::Result<()> {
    let directory = File::open(to)?;
    let mut names: Vec<String> = std::fs::read_dir(from)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for group in names.chunks(GROUP) {
        for name in group {
            let there = to.join(name.split(':').next().unwrap_or(name));
            let temporary = there.with_extension("gif.tmp");
            let mut copy = File::create_new(&temporary)?;
            // By the kernel, without a buffer.
            io::copy(&mut File::open(from.join(name))?, &mut copy)?;
            if is_power {
                copy.sync_data()?;
            }
            drop(copy);
            std::fs::rename(temporary, there)?;
        }
        if is_power {
            directory.sync_all()?;
        }
        for name in group {
            std::fs::remove_file(from.join(name))?;
        }
    }
    Ok(())
}

/// A private sshd, against `sftp -b` with the same key: with `put -f`, which syncs each file as px does, and without.
async fn sftp(broker: &TestBroker, report: &mut Report, load: Load) {
    let ssh = SshServer::start();
    let target = ssh.home().join("in");
    std::fs::create_dir(&target).expect("target");
    chown(&target, Some(SSH_UID), Some(SSH_UID)).expect("chown");
    let at = ssh.path().display();
    let unit = format!(
        "type = \"deliver\"\ndestination = \"sftp://u@127.0.0.1:{}\"\nkey_file = \"{at}/user_key\"\n\
         known_hosts = \"{at}/known_hosts\"\ndirectory = \"in\"\n",
        ssh.port
    );
    let setup = Setup {
        broker,
        unit,
        target,
        load,
    };
    let (mut synced, mut plain, mut px) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        synced.push(setup.other(|from| run_sftp(&ssh, from, "put -f")));
        px.push(setup.px(async || true).await);
        plain.push(setup.other(|from| run_sftp(&ssh, from, "put")));
    }
    both(report, load, [("sftp -b, put -f", &synced), ("px to sftp:", &px)]);
    report.figure(
        &format!("px to sftp: / sftp -b without syncs, {}, times its time", load.what),
        format!("{:.2}", median(px.clone()) / median(plain)),
    );
    within(report, "px to sftp: / sftp -b, put -f", load, (px, synced));
}

/// The target of what goes over a connection.
fn within(report: &mut Report, what: &str, load: Load, (px, other): (Vec<f64>, Vec<f64>)) {
    let ratio = median(px) / median(other);
    report.check(
        &format!("{what}, {}, times its time, at most 1.3", load.what),
        format!("{ratio:.2}"),
        ratio <= 1.3,
    );
}

fn run_sftp(ssh: &SshServer, from: &Path, put: &str) {
    let mut batch = format!("lcd \"{}\"\ncd in\n", from.display());
    for number in 0..count(from) {
        let (here, there) = (name(number), format!("file-{number:07}.gif"));
        batch += &format!("{put} \"{here}\" \"{there}.tmp\"\nrename \"{there}.tmp\" \"{there}\"\n");
    }
    let file = ssh.path().join("batch");
    std::fs::write(&file, batch).expect("batch");
    let at = ssh.path().display();
    let mut command = Command::new("sftp");
    command.args(["-q", "-F", "none", "-b"]).arg(file);
    command.args(["-P", &ssh.port.to_string(), "-i", &format!("{at}/user_key")]);
    command.args([
        "-o",
        &format!("UserKnownHostsFile={at}/known_hosts"),
        "-o",
        "IdentitiesOnly=yes",
    ]);
    succeed(command.arg("u@127.0.0.1"), "openssh-client");
}

/// A private proftpd, against `lftp`.
async fn ftp(broker: &TestBroker, report: &mut Report, load: Load, connections: usize) {
    // Its own default is no limit; sites have one, and it must not be in the way.
    let ftp = FtpServer::start_with(Ftpd::Proftpd, FtpTls::None, None, &["MaxInstances 30"]);
    let target = ftp.home().join("in");
    std::fs::create_dir(&target).expect("target");
    chown(&target, Some(FTP_UID), Some(FTP_UID)).expect("chown");
    let unit = format!(
        "type = \"deliver\"\ndestination = \"ftp://u@127.0.0.1:{}\"\npassword = \"pw\"\ndirectory = \"in\"\n\
         connections = {connections}\n",
        ftp.port
    );
    let setup = Setup {
        broker,
        unit,
        target,
        load,
    };
    let (mut lftp, mut px) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        lftp.push(setup.other(|from| run_lftp(&ftp, from, connections)));
        px.push(setup.px(async || true).await);
    }
    let (how, with) = match connections {
        1 => ("mput", "1 connection".to_owned()),
        _ => ("mirror -R", format!("{connections} connections")),
    };
    let names = [format!("lftp {how}, {with}"), format!("px to ftp:, {with}")];
    both(report, load, [(&names[0], &lftp), (&names[1], &px)]);
    within(report, &format!("px to ftp: / lftp {how}, {with}"), load, (px, lftp));
}

/// Under a temporary name and then renamed, and removed here. `mput` has one connection only.
fn run_lftp(ftp: &FtpServer, from: &Path, connections: usize) {
    let here = from.display();
    let work = match connections {
        1 => format!("lcd {here}; cd in; mput -E *"),
        _ => format!("mirror -R --parallel={connections} --no-perms --Remove-source-files {here} in"),
    };
    let script = format!(
        "set cmd:fail-exit yes; set net:max-retries 1; set ftp:ssl-allow no; set xfer:use-temp-file yes; \
         set xfer:temp-file-name *.tmp; open -u u,pw -p {} 127.0.0.1; {work}",
        ftp.port
    );
    succeed(Command::new("lftp").args(["--norc", "-c", &script]), "lftp");
}

fn succeed(command: &mut Command, package: &str) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|err| panic!("{command:?}: {err}; Debian package {package}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}

/// What it costs to announce each product that is delivered to a directory of this host.
async fn announcing(local: &Local, report: &mut Report, load: Load, sync: &str) {
    let (_connection, channel) = channel(&local.broker).await;
    bound_queue(&channel, "announced", "#").await;
    let target = local.target();
    let announcements = format!(
        "[announcements]\nbroker = \"b\"\nexchange = \"x\"\nannounce = [\"v02\"]\nurl = \"http://h/\"\nroot = \"{}\"\n",
        target.display()
    );
    let setup = |more: &str| Setup {
        broker: &local.broker,
        unit: local.unit(sync, more),
        target: target.clone(),
        load,
    };
    let (silent, announced) = (setup(""), setup(&announcements));
    let (mut alone, mut both_done) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(silent.px(async || true).await);
        let all_there = async || depth(&channel, "announced").await >= load.files as u32;
        both_done.push(announced.px(all_there).await);
        purge(&channel, "announced").await;
    }
    report.figure(
        &format!(
            "px to file:, each announced in v02, {}, sync = {sync}, files/s",
            load.what
        ),
        spread(&rates(load, &both_done)),
    );
    report.figure(
        &format!(
            "delivered and announced / delivered alone, {}, sync = {sync}, times its time",
            load.what
        ),
        format!("{:.2}", median(both_done) / median(alone)),
    );
}
