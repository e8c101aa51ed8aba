//! Programs that have a say in what a receiver ingests: shell and Python, good, bad, slow and killed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::support::{TestSite, files_below};

const UNIT: &str = "rx/drop";

/// A receiver `drop` and a client `sink` that Sundew serves.
fn site(more: &str) -> TestSite {
    let site = TestSite::with_site_file("");
    site.write(
        "etc/tx/sink.conf",
        "type single-file\nprotocol ftp\nhost h\nuser u\naccept .*\n",
    );
    let text = "type = \"single-file\"\nextension = \"-NAME:XSS:RADAR:3:GIF\"\n";
    site.unit(UNIT, &format!("{text}{more}"));
    site
}

/// A program below the site's root.
fn program(site: &TestSite, name: &str, text: &str) {
    site.write(name, text);
    fs::set_permissions(site.path(name), PermissionsExt::from_mode(0o755)).expect("chmod");
}

fn host() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/px-python-hook");
    path.display().to_string()
}

/// The words of a Sundew-style file run by the host.
fn hosted(file: &str) -> String {
    format!("[{:?}, \"--options\", \"{{root}}/{file}\"]", host())
}

/// The first colon field of the names in the database.
fn ingested(site: &TestSite) -> Vec<String> {
    let mut names: Vec<String> = files_below(&site.path("db"))
        .iter()
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            name.split(':').next().unwrap_or_default().to_owned()
        })
        .collect();
    names.sort();
    names
}

fn queue_is_empty(site: &TestSite) -> bool {
    files_below(&site.path("rxq/drop")) == [site.path("rxq/drop/.lock")]
}

fn content(site: &TestSite, name: &str) -> String {
    let files = files_below(&site.path("db"));
    let is_it = |path: &&PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name));
    fs::read_to_string(files.iter().find(is_it).expect(name)).expect(name)
}

/// The fenced block of this language in the manual.
fn example(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scripts.md");
    let manual = fs::read_to_string(path).expect("docs/scripts.md");
    let (_, rest) = manual.split_once(&format!("```{language}\n")).expect(language);
    rest.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn the_shell_example_of_the_manual_drops_compresses_and_keeps() {
    let site = site("fx_script = '{root}/fx'\n");
    program(&site, "fx", &example("sh"));
    let mut unit = site.run_ready(UNIT);
    for (name, text) in [("empty", ""), ("a.txt", "text"), ("sub/b", "b")] {
        site.write(&format!("rxq/drop/{name}.tmp"), text);
        let path = site.path(&format!("rxq/drop/{name}"));
        fs::rename(site.path(&format!("rxq/drop/{name}.tmp")), path).expect("rename");
    }
    site.wait_that("two are ingested", || ingested(&site) == ["a.txt.gz", "b"]);
    site.wait_that("the queue is empty", || queue_is_empty(&site));
    site.wait_count(UNIT, "rejected", 1);
    assert!(unit.terminate().success());
    let said = site.said(UNIT);
    for line in [
        "[WARNING] FX script ignored the file : empty\n",
        "[INFO] FX script modified a.txt to a.txt.gz \n",
        "[WARNING] FX script kept the file as is : b\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
}

#[test]
fn the_python_example_of_the_manual_ingests_what_is_complete() {
    let site = site("lx_script = ['{root}/lx']\n");
    program(&site, "lx", &example("python"));
    site.write("rxq/drop/a", "a");
    site.write("rxq/drop/b", "b");
    site.write("rxq/drop/b.done", "");
    let _unit = site.run_ready(UNIT);
    site.wait_that("one is ingested", || ingested(&site) == ["b"]);
    site.write("rxq/drop/a.done", "");
    site.wait_that("the other one is", || ingested(&site) == ["a", "b"]);
    site.wait_that("the queue is empty", || queue_is_empty(&site));
    let said = site.said(UNIT);
    assert!(said.contains(" files process with lx_script\n"), "{said}");
    assert!(said.contains("[INFO] b is complete\n"), "{said}");
}

/// Every run writes down what it was shown, and takes all once there are three.
#[test]
fn what_an_lx_script_leaves_is_shown_again_soon_with_what_is_new_then_later() {
    let lx = r#"#!/bin/sh
list=$(cat)
echo "$list" | wc -l >> ../../shown
[ "$(echo "$list" | wc -l)" -lt 3 ] || echo "$list" | sed 's/}$/,"result":"ingest"}/'
"#;
    let site = site("lx_script = ['{root}/lx']\n");
    program(&site, "lx", lx);
    let shown = || fs::read_to_string(site.path("shown")).unwrap_or_default();
    site.write("rxq/drop/a", "a");
    let _unit = site.run_ready(UNIT);
    site.wait_that("it is shown alone, twice", || shown() == "1\n1\n");
    let second = std::time::Instant::now();
    site.wait_that("and once more", || shown() == "1\n1\n1\n");
    assert!(second.elapsed().as_secs() >= 3, "{:?}", second.elapsed());
    site.write("rxq/drop/b", "b");
    site.write("rxq/drop/c", "c");
    site.wait_that("all are shown together", || ingested(&site) == ["a", "b", "c"]);
}

/// Files of Sundew's kind: what they return, raise, print and know.
#[test]
fn python_files_of_sundew_run_unchanged() {
    let fx = r#"
import os
def fx(path, logger):
    print("printed, not answered")
    name = os.path.basename(path)
    if name == 'dropped': return None
    if name == 'failing': raise ValueError('no good')
    if name == 'renamed':
        os.rename(path, path + '.new')
        return path + '.new'
    if name == 'elsewhere':
        new = os.environ['PX_SPOOL'] + '/elsewhere.out'
        open(new, 'w').write('from ' + self.host)
        return new
    return path
self.fx_script = fx
"#;
    let lx = r#"
def lx(paths, logger):
    logger.info('list of %d', len(paths))
    return paths
self.lx_script = lx
"#;
    let more = format!("fx_script = {}\nlx_script = {}\n", hosted("fx.py"), hosted("lx.py"));
    let site = site(&format!(
        "{more}[script_options]\nhost = \"there\"\npasswd = \"hush-hush\"\n"
    ));
    site.write("fx.py", fx);
    site.write("lx.py", lx);
    for name in ["dropped", "failing", "renamed", "elsewhere", "kept"] {
        site.write(&format!("rxq/drop/{name}"), name);
    }
    let mut unit = site.run_ready(UNIT);
    let wanted = ["elsewhere.out", "kept", "renamed.new"];
    site.wait_that("the good ones are ingested", || ingested(&site) == wanted);
    let left = [site.path("rxq/drop/.lock"), site.path("rxq/drop/failing")];
    site.wait_that("one stays", || files_below(&site.path("rxq/drop")) == left);
    assert_eq!(content(&site, "elsewhere.out"), "from there");
    assert!(unit.terminate().success());
    let said = site.said(UNIT);
    assert!(
        said.contains("[INFO] list of 5\n") && said.contains("[ERROR] ValueError: no good\n"),
        "{said}"
    );
    assert!(said.contains("fx_script: printed, not answered\n"), "{said}");
    assert!(!said.contains("hush-hush"), "{said}");
}

/// The host, run as px runs it: what a file of Sundew delivers and names, and what its faults are.
#[test]
fn the_python_host_delivers_and_names() {
    let site = TestSite::with_site_file("");
    let send = r#"
import shutil
def send(client, files, logger):
    logger.start_timer()
    for path, directory, name in files:
        if name == 'bad': raise IOError('refused for ' + client.user)
        shutil.copy(path, directory + '/' + name)
        logger.delivered('(1 Bytes) File %s delivered' % path, path)
self.send_script = send
"#;
    site.write("send.py", send);
    site.write(
        "destfn.py",
        "self.destfn_script = lambda name: None if name == 'same' else name.upper()\n",
    );
    site.write("q/a", "a");
    site.write("out/.keep", "");
    let (q, out) = (site.path("q/a"), site.path("out"));
    let line = |name: &str| format!("{{\"path\":{q:?},\"directory\":{out:?},\"name\":{name:?}}}\n");
    let options = "{\"options\":{\"user\":\"u\"}}\n";
    let (code, said, log) = run_host(&site, "send.py", "send_script", &format!("{options}{}", line("b")));
    assert_eq!((code, said.lines().count()), (0, 1), "{log}");
    assert!(
        said.contains("delivered") && log.contains("<6>(1 Bytes) File "),
        "{said}{log}"
    );
    assert_eq!(fs::read_to_string(site.path("out/b")).expect("delivered"), "a");
    let both = format!("{options}{}{}", line("c"), line("bad"));
    let (code, said, log) = run_host(&site, "send.py", "send_script", &both);
    assert_eq!((code, said.as_str()), (75, ""), "{log}");
    assert!(log.contains("refused for u"), "{log}");
    let names = "{\"options\":{}}\n{\"name\":\"same\"}\n{\"name_hex\":\"61ff\"}\n";
    let (code, said, log) = run_host(&site, "destfn.py", "destfn_script", names);
    let wanted = "{\"name\": \"same\", \"result\": \"keep\"}\n\
                  {\"name_hex\": \"61ff\", \"result\": \"replace\", \"with_hex\": \"41ff\"}\n";
    assert_eq!((code, said.as_str()), (0, wanted), "{log}");
    assert_eq!(run_host(&site, "missing.py", "fx_script", "").0, 75);
    assert_eq!(run_host(&site, "destfn.py", "no_script", "").0, 2);
}

/// Exit code, standard output, standard error.
fn run_host(site: &TestSite, file: &str, hook: &str, input: &str) -> (i32, String, String) {
    let mut command = Command::new(host());
    command
        .arg("--options")
        .arg(site.path(file))
        .arg(hook)
        .env("PX_QUEUE", site.path("q"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3, of the Debian package python3");
    let mut stdin = child.stdin.take().expect("stdin");
    // Who does not read it has ended; its exit code tells.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let ended = child.wait_with_output().expect("its end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        ended.status.code().unwrap_or(-1),
        text(&ended.stdout),
        text(&ended.stderr),
    )
}

#[test]
fn a_python_2_file_stops_the_unit_and_loses_nothing() {
    let site = site(&format!("fx_script = {}\n", hosted("fx.py")));
    site.write("fx.py", "def fx(path, logger):\n    print 'x'\nself.fx_script = fx\n");
    site.write("rxq/drop/a", "a");
    let _unit = site.run_ready(UNIT);
    site.wait_state(UNIT, "paused: fx_script");
    site.wait_that("it is told of", || {
        site.said(UNIT).contains("fx.py: it is not Python 3, line 2")
    });
    site.write("fx.py", "self.fx_script = lambda path, logger: path\n");
    site.wait_that("the file is ingested", || ingested(&site) == ["a"]);
    site.wait_state(UNIT, "running");
}

#[test]
fn a_pull_script_fetches_again_and_again_and_is_told_to_sleep() {
    let pull = r#"
def pull(flow, logger, sleeping):
    import os, time
    if sleeping:
        open(os.environ['PX_SPOOL'] + '/slept', 'w').close()
        return []
    path = os.path.join(os.environ['PX_QUEUE'], flow.prefix + str(time.time_ns()))
    open(path, 'w').write(flow.pulls[0][0])
    return [path]
self.pull_script = pull
"#;
    let more = format!("pull_script = {}\npull_every = \"100ms\"\n", hosted("pull.py"));
    let site = site(&format!(
        "{more}[script_options]\nprefix = \"p\"\npulls = [[\"dir\", \".*\"]]\n"
    ));
    site.write("pull.py", pull);
    let _unit = site.run_ready(UNIT);
    site.wait_count(UNIT, "ingested", 2);
    site.wait_count(UNIT, "fetched", 2);
    assert_eq!(content(&site, "p"), "dir");
    site.write("rxq/drop/.sleep", "");
    site.wait_that("it sleeps", || site.path("slept").exists());
    assert!(site.said(UNIT).contains("[INFO] This pull is sleeping\n"));
}

#[test]
fn while_a_program_cannot_nothing_is_ingested_and_the_unit_says_why() {
    for (end, wanted) in [
        ("exit 75", "paused: fx_script {root}/fx ended with 75"),
        ("kill -9 $$", "paused: fx_script {root}/fx was killed by signal 9"),
        ("exec no-such-thing", "paused: fx_script {root}/fx ended with 127"),
        ("sleep 600", "paused: fx_script {root}/fx did not end within 200ms"),
    ] {
        let site = site("fx_script = '{root}/fx'\nscript_timeout = '200ms'\n");
        program(
            &site,
            "fx",
            &format!("#!/bin/sh\n[ -e ../../good ] && exec sed 's/}}/,\"result\":\"keep\"}}/'\n{end}\n"),
        );
        site.write("rxq/drop/a", "a");
        let _unit = site.run_ready(UNIT);
        site.wait_state(UNIT, &wanted.replace("{root}", &site.root().display().to_string()));
        assert!(site.path("rxq/drop/a").exists());
        site.write("good", "");
        site.wait_that("it is ingested", || ingested(&site) == ["a"]);
        site.wait_state(UNIT, "running");
    }
}

/// One file with which the program fails takes no other along, and stays.
#[test]
fn a_file_that_fails_is_asked_about_alone_and_stays() {
    let site = site("fx_script = '{root}/fx'\n");
    let text = "#!/bin/sh\nwhile read -r line; do case $line in *poison*) exit 1;; esac\n\
                echo \"${line%?}, \\\"result\\\": \\\"keep\\\"}\"; done\n";
    program(&site, "fx", text);
    site.write("rxq/drop/a-poison", "x");
    for n in 0..20 {
        site.write(&format!("rxq/drop/good{n}"), "x");
    }
    let mut unit = site.run_ready(UNIT);
    site.wait_that("all others are ingested", || ingested(&site).len() == 20);
    assert!(site.path("rxq/drop/a-poison").exists());
    assert_eq!(site.state(UNIT), "running");
    assert!(unit.terminate().success());
    assert!(site.said(UNIT).contains("fx ended with 1"), "{}", site.said(UNIT));
}

/// px is killed while the program works: the program goes with it, and each file is ingested in the end.
#[test]
fn a_program_dies_with_px_and_nothing_is_lost() {
    let site = site("fx_script = '{root}/fx'\nbatch = 10\n");
    let text = "#!/bin/sh\n[ -e ../../good ] && exec sed 's/}/,\"result\":\"keep\"}/'\necho $$ > ../../pid\n\
                while :; do read -r line; done\n";
    program(&site, "fx", text);
    for n in 0..50 {
        site.write(&format!("rxq/drop/p{n}"), "x");
    }
    let mut unit = site.run_ready(UNIT);
    let pid = || {
        fs::read_to_string(site.path("pid"))
            .unwrap_or_default()
            .trim()
            .parse::<i32>()
            .ok()
    };
    site.wait_that("the program works", || pid().is_some());
    let program = pid().and_then(Pid::from_raw).expect("its pid");
    unit.kill();
    site.wait_that("it is gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", program.as_raw_nonzero()));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z"))
    });
    site.write("good", "");
    let _unit = site.run_ready(UNIT);
    site.wait_that("all are ingested", || {
        ingested(&site).len() == 50 && queue_is_empty(&site)
    });
}

/// px is told to stop: the program has its time, then it is ended. Told twice, at once.
#[test]
fn a_program_is_ended_when_px_stops() {
    let site = site("fx_script = '{root}/fx'\n");
    program(
        &site,
        "fx",
        "#!/bin/sh\necho $$ > ../../pid\ntrap '' TERM\nwhile :; do sleep 1; done\n",
    );
    site.write("rxq/drop/a", "x");
    let mut unit = site.run_ready(UNIT);
    let pid = || {
        fs::read_to_string(site.path("pid"))
            .unwrap_or_default()
            .trim()
            .parse::<i32>()
            .ok()
    };
    site.wait_that("the program works", || pid().is_some());
    let program = pid().and_then(Pid::from_raw).expect("its pid");
    unit.signal(Signal::TERM);
    site.wait_that("it is told", || site.said(UNIT).contains("stopping"));
    unit.signal(Signal::TERM);
    unit.wait_end();
    site.wait_that("it is gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", program.as_raw_nonzero()));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z"))
    });
    assert!(site.path("rxq/drop/a").exists());
}

/// Killed again and again while files are replaced: each product comes out at least once, and no file is left.
#[test]
fn what_is_replaced_is_never_lost_whenever_px_is_killed() {
    const COUNT: usize = 300;
    let site = site("fx_script = '{root}/fx'\nbatch = 20\n");
    let text = "#!/bin/sh\nsed -n 's/^{\"path\":\"\\([^\"]*\\)\"}$/\\1/p' | while read -r path; do case $path in\n\
                *.new) echo \"{\\\"path\\\": \\\"$path\\\", \\\"result\\\": \\\"keep\\\"}\";;\n\
                *) { read -r x; echo \"new $x\"; } < \"$path\" > \"$path.tmp\"; mv \"$path.tmp\" \"$path.new\"\n\
                echo \"{\\\"path\\\": \\\"$path\\\", \\\"result\\\": \\\"replace\\\", \\\"with\\\": \\\"$path.new\\\"}\";;\n\
                esac; done\n";
    program(&site, "fx", text);
    for n in 0..COUNT {
        site.write(&format!("rxq/drop/p{n}"), format!("content {n}\n"));
    }
    let mut unit = site.run(UNIT);
    for share in 1..4 {
        site.wait_that("some more are ingested", || ingested(&site).len() >= COUNT * share / 5);
        unit.kill();
        unit = site.run(UNIT);
    }
    site.wait_that("the queue is empty", || queue_is_empty(&site));
    let mut names = ingested(&site);
    names.dedup();
    let mut wanted: Vec<String> = (0..COUNT).map(|n| format!("p{n}.new")).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    assert!(unit.terminate().success());
    assert_eq!(content(&site, "p7.new"), "new content 7\n");
}
