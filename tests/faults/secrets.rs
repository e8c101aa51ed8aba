//! Canary passwords: whatever goes well or wrong, they stand in no log, status, command line or error.

use std::os::unix::fs::PermissionsExt;

use crate::UNIT;
use crate::support::{Answer, Feed, ProductServer, TestBroker, TestSite, free_port, v02};

const CANARY: &str = "canary";

#[track_caller]
fn assert_no_canary(what: &str, text: &[u8]) {
    let found = text
        .windows(CANARY.len())
        .position(|window| window == CANARY.as_bytes());
    if let Some(at) = found {
        let around = &text[at.saturating_sub(200)..(at + 100).min(text.len())];
        panic!("{what}: …{}…", String::from_utf8_lossy(around));
    }
}

#[test]
fn passwords_stand_nowhere_but_in_their_files() {
    let broker = TestBroker::new("canary");
    let feed = Feed::new(&broker.config());
    feed.queue("pull", &["v02.post.#"]);
    let user = broker.user("puller", ".*", ".*", ".*");
    let (name, port, vhost) = (&user.urls[0].user, user.urls[0].port, &user.urls[0].vhost);
    // The first candidate refuses the connection, the second the password of its URL, the third takes the secret one.
    let site = TestSite::with_site_file(&format!(
        "[brokers.main]\norder = \"given\"\nurls = [\"amqp://joe:canary-dead@127.0.0.1:{}/\", \
         \"amqp://admin:canary-wrong@127.0.0.1:{port}/{vhost}\", \"amqp://{name}@127.0.0.1:{port}/{vhost}\"]\n\
         exchange = {{ name = \"xp\", type = \"topic\" }}\n",
        free_port()
    ));
    site.write("etc/secrets.toml", format!("[main]\n{name} = \"canary-password\"\n"));
    let secrets = site.path("etc/secrets.toml");
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let server = ProductServer::start();
    server.serve("a/file", b"file");
    server.answer("b/unauthorised", Answer::status(401));
    server.answer("a/elsewhere", Answer::redirect("http://u:canary-redirect@127.0.0.1:1/"));
    let credentials = format!(
        "[[credentials]]\nurl = \"{}\"\nuser = \"joe\"\npassword = \"canary-http\"\n",
        server.url()
    );
    site.puller(UNIT, &credentials);

    let unit = site.run_as(UNIT, &[], &["--level", "trace"]);
    site.wait_ready(UNIT, unit.pid());
    for path in ["a/file", "b/unauthorised", "a/elsewhere"] {
        feed.announce(v02(&server.url(), path, b"file"));
    }
    let mut announced = v02("http://u:canary-announced@127.0.0.1:1/", "a/x", b"file");
    feed.announce(announced.clone());
    announced.body = b"20260101000000.000 http://u:canary-announced@127.0.0.1:bad/ x".to_vec();
    feed.announce(announced);
    site.wait_count(UNIT, "fetched", 1);
    site.wait_count(UNIT, "failed", 3);
    site.wait_count(UNIT, "parked", 1);

    let command_line = std::fs::read(format!("/proc/{}/cmdline", unit.pid())).expect("cmdline");
    assert_no_canary("command line", &command_line);
    for arguments in [
        &["check"][..],
        &["check", "--json"],
        &["status"],
        &["status", "--json"],
        &["failed", "list"],
        &["failed", "list", "--json"],
    ] {
        let said = site.px(arguments);
        assert_no_canary(
            &format!("px {arguments:?}"),
            format!("{}{}", said.out, said.err).as_bytes(),
        );
    }
    // Configuration that is refused shows where, not what.
    site.write(
        "etc/px.toml",
        "[brokers.main]\nurls = [\"amqp://u:canary-a@h:bad/\", \"amqps://u:canary-b@\", \"x://u:canary-c@h/\"]\n",
    );
    site.write("etc/secrets.toml", "[main]\njoe = [\"canary-d\"]\nmax = canary-e\n");
    for arguments in [
        &["check"][..],
        &["check", "--json"],
        &["run", UNIT],
        &["reload", UNIT],
        &["start", UNIT],
    ] {
        let said = site.px(arguments);
        assert_ne!(said.out.len() + said.err.len(), 0);
        assert_no_canary(
            &format!("px {arguments:?}"),
            format!("{}{}", said.out, said.err).as_bytes(),
        );
    }
    drop(unit);
    assert_no_canary("the log", site.said(UNIT).as_bytes());
    for directory in ["run", "log"] {
        for entry in std::fs::read_dir(site.path(directory)).into_iter().flatten().flatten() {
            let bytes = std::fs::read(entry.path()).expect("read");
            assert_no_canary(&entry.path().display().to_string(), &bytes);
        }
    }
}
