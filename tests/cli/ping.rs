//! `px broker ping`, against brokers that answer, refuse, freeze, or are not there.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{RabbitServer, TestBroker, free_port};
use crate::{Said, Site};

/// What a ping may last longer than its time-out, on a machine that may be busy.
const SLACK: Duration = Duration::from_secs(8);

fn site_with(urls: &[String]) -> Site {
    let site = Site::new();
    site.write(
        "px.toml",
        &format!("[brokers.bunny]\nurls = {urls:?}\norder = \"given\"\n"),
    );
    site
}

#[track_caller]
fn assert_answered(said: &Said) {
    assert_eq!((said.code, said.out.lines().count()), (0, 1), "{said:?}");
    assert!(
        said.out.contains(" answers, ") && !said.out.contains("canary"),
        "{said:?}"
    );
}

#[track_caller]
fn assert_failed(said: &Said, told: &str) {
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.starts_with("px: ") && said.err.contains(told), "{said:?}");
    assert!(!said.err.contains("canary"), "{said:?}");
}

#[test]
fn a_broker_that_answers_is_zero_and_one_line() {
    let broker = TestBroker::new("ping");
    let site = site_with(&[broker.amqp_url()]);
    for arguments in [&["bunny"][..], &[]] {
        let said = site.run(&[&["broker", "ping", "--timeout", "20s"], arguments].concat());
        assert_answered(&said);
        assert_eq!(said.err, "", "{said:?}");
    }

    let wrong = broker.amqp_url().replace("admin@", "canary@");
    assert_failed(
        &site_with(&[wrong]).run(&["broker", "ping", "--timeout", "20s"]),
        "check the password of user admin",
    );
    let nowhere = broker.amqp_url().replace("px-test-", "no-such-");
    assert_failed(
        &site_with(&[nowhere]).run(&["broker", "ping", "--timeout", "20s"]),
        "does vhost no-such-ping",
    );
}

/// Passwords that are there and cannot be read are told as that, by whoever needs them; nobody is asked in vain.
#[test]
fn a_password_that_is_missing_or_open_is_told_before_anything_else() {
    use std::os::unix::fs::PermissionsExt;
    let site = site_with(&[format!("amqp://feeder@127.0.0.1:{}/", free_port())]);
    let (root, file) = (site.root().to_str().unwrap(), site.root().join("a"));
    std::fs::write(&file, "").unwrap();
    let post = [
        "post",
        "bunny",
        "--root",
        root,
        "--url",
        "http://h/",
        "--exchange",
        "x",
        file.to_str().unwrap(),
    ];
    let commands: [&[&str]; 3] = [&["broker", "ping"], &["listen", "bunny", "--exchange", "x"], &post];
    for command in commands {
        assert_failed(&site.run(command), "no password for feeder: put it into");
    }
    site.write("secrets.toml", "[bunny]\nfeeder = \"canary\"\nroot = \"canary\"\n");
    let secrets = site.root().join("etc/secrets.toml");
    std::fs::set_permissions(&secrets, PermissionsExt::from_mode(0o644)).unwrap();
    site.write("broker.toml", "broker = \"bunny\"\n");
    let px_toml = std::fs::read_to_string(site.root().join("etc/px.toml")).unwrap();
    site.write(
        "px.toml",
        &format!("{px_toml}management = {{ url = \"http://127.0.0.1:1\", user = \"root\" }}\n"),
    );
    let commands = commands
        .into_iter()
        .chain([&["broker", "check"][..], &["broker", "apply"]]);
    for command in commands {
        let said = site.run(command);
        assert_failed(&said, "others can get at these passwords (mode 0644)");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
    // Who has a password from elsewhere serves.
    let broker = TestBroker::new("ping-open");
    site.write(
        "px.toml",
        &format!("[brokers.bunny]\nurls = [{:?}]\n", broker.amqp_url()),
    );
    let said = site.run(&["broker", "ping", "--timeout", "20s"]);
    assert_answered(&said);
    assert!(said.err.contains("(mode 0644)"), "{said:?}");
}

#[test]
fn what_does_not_speak_amqp_is_told_as_that() {
    use std::io::{Read as _, Write as _};
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let web = std::thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        assert!(client.read(&mut [0; 8]).unwrap() > 0);
        client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let said =
        site_with(&[format!("amqp://joe:canary@127.0.0.1:{port}/")]).run(&["broker", "ping", "--timeout", "20s"]);
    web.join().unwrap();
    assert_failed(&said, "does not speak AMQP");
    assert!(!said.err.contains("leave the queue"), "{said:?}");
}

#[test]
fn of_several_urls_one_is_enough_unless_all_are_asked_for() {
    let broker = TestBroker::new("ping-any");
    let closed = format!("amqp://joe:canary@127.0.0.1:{}/", free_port());
    let site = site_with(&[closed.clone(), broker.amqp_url()]);
    let said = site.run(&["broker", "ping", "--timeout", "20s"]);
    assert_answered(&said);
    assert!(said.err.contains("refused") && !said.err.contains("canary"), "{said:?}");
    let said = site.run(&["broker", "ping", "--all", "--timeout", "20s"]);
    assert_eq!((said.code, said.out.lines().count()), (1, 1), "{said:?}");
    assert!(said.err.contains("refused") && !said.err.contains("canary"), "{said:?}");
    assert_answered(&site_with(&[broker.amqp_url()]).run(&["broker", "ping", "--all", "--timeout", "20s"]));

    let said = site_with(&[closed]).run(&["broker", "ping", "--timeout", "20s"]);
    assert_failed(&said, "Connection refused");
}

#[test]
fn a_frozen_broker_is_one_within_the_timeout() {
    let server = RabbitServer::start();
    let url = format!("amqp://admin:admin@127.0.0.1:{}/", server.amqp_port());
    let site = site_with(std::slice::from_ref(&url));
    assert_answered(&site.run(&["broker", "ping", "--timeout", "20s"]));
    // The end was in good order.
    let mut log = String::new();
    crate::wait_until("the broker has logged the end", || {
        log = log_of(&server);
        log.contains("closing AMQP connection")
    });
    assert!(!log.contains("unexpectedly closed"), "{log}");

    server.freeze();
    for arguments in [&[][..], &["--all"]] {
        let began = Instant::now();
        let said = site.run(&[&["broker", "ping", "--timeout", "700ms"], arguments].concat());
        assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
        assert_failed(&said, "no answer within");
    }
    // Another one serves: the frozen one takes no more than its share.
    let other = TestBroker::new("ping-frozen");
    assert_answered(&site_with(&[url, other.amqp_url()]).run(&["broker", "ping", "--timeout", "20s"]));
    server.thaw();
    assert_answered(&site.run(&["broker", "ping", "--timeout", "20s"]));
}

/// keepalived goes on trusting the broker, for no other node takes messages either; who asks for it is told.
#[test]
fn an_alarm_is_told_to_whoever_asks_for_it() {
    let server = RabbitServer::start();
    let url = format!("amqp://admin:admin@127.0.0.1:{}/", server.amqp_port());
    let site = site_with(std::slice::from_ref(&url));
    let ping = ["broker", "ping", "--timeout", "20s"];
    let asked = [&ping[..], &["--fail-on-alarm"]].concat();
    assert_failed(&site.run(&asked), "has no management API");
    let management = |port_of: &str, user: &str| {
        site.write(
            "px.toml",
            &format!("[brokers.bunny]\nurls = [{url:?}]\nmanagement = {{ url = {port_of:?}, user = {user:?} }}\n"),
        );
    };
    site.write("secrets.toml", "[bunny]\nadmin = \"admin\"\n");
    let secrets = site.root().join("etc/secrets.toml");
    std::fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    management(&server.management_url(), "admin");
    let said = site.run(&asked);
    assert_answered(&said);
    assert_eq!(said.err, "", "{said:?}");

    server.ctl(&["set_disk_free_limit", "1000GB"]);
    let mut said = site.run(&asked);
    crate::wait_until("the alarm is told", || {
        said = site.run(&asked);
        said.code == 1
    });
    assert_eq!((said.out.lines().count(), said.err.lines().count()), (1, 1), "{said:?}");
    assert!(
        said.err.starts_with("px: publishers have to wait: alarm: disk"),
        "{said:?}"
    );
    assert!(said.err.contains(" on px@"), "{said:?}");
    assert_answered(&site.run(&ping));
    server.ctl(&["set_disk_free_limit", "50MB"]);
    crate::wait_until("the alarm is over", || site.run(&asked).code == 0);

    // What is not known is not taken for well.
    management(&format!("http://127.0.0.1:{}", free_port()), "admin");
    let said = site.run(&asked);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.starts_with("px: alarms are not known: "), "{said:?}");
}

fn log_of(server: &RabbitServer) -> String {
    let files = std::fs::read_dir(server.directory().join("log")).unwrap();
    let texts = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
}

/// A name server that never answers, in a network of the test's own; needs root.
#[test]
fn a_name_server_that_is_silent_does_not_hold_it_up() {
    let site = site_with(&["amqp://joe:canary@bunny.example.org/".to_owned()]);
    std::fs::write(
        site.root().join("resolv.conf"),
        "nameserver 10.9.9.9\noptions timeout:30\n",
    )
    .unwrap();
    let script = "set -e; ip link add v0 type veth peer name v1; ip link set lo up; ip link set v0 up; \
                  ip link set v1 up; ip addr add 10.9.9.1/24 dev v0; \
                  ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 dev v0; \
                  mount --bind \"$PX_ROOT/resolv.conf\" /etc/resolv.conf; exec \"$0\" broker ping --timeout 700ms";
    let began = Instant::now();
    let output = Command::new("unshare")
        .args(["-n", "-m", "sh", "-c", script, env!("CARGO_BIN_EXE_px")])
        .env("PX_ROOT", site.root())
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .unwrap();
    let said = Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert_failed(&said, "no answer within");
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
}

#[test]
fn an_embedded_broker_answers_where_its_file_is() {
    let site = Site::new();
    assert_failed(&site.run(&["broker", "ping"]), "there is no such file");
    assert!(!site.root().join("own.db").exists());
    let file = site.root().join("a");
    std::fs::write(&file, "").unwrap();
    let (root, file) = (site.root().to_str().unwrap(), file.to_str().unwrap());
    assert_eq!(
        site.run(&["post", "own", "--root", root, "--url", "http://h/", file])
            .code,
        1
    );
    assert_answered(&site.run(&["broker", "ping", "--timeout", "20s"]));
    std::fs::write(site.root().join("own.db"), "no database").unwrap();
    assert_failed(&site.run(&["broker", "ping", "own"]), "own.db");
}

#[test]
fn whom_to_ping_has_to_be_said_where_there_are_several() {
    let site = Site::new();
    let two = "[brokers.a]\nurls = [\"embedded:a.db\"]\n[brokers.b]\nurls = [\"embedded:b.db\"]\n";
    site.write("px.toml", two);
    assert_failed(&site.run(&["broker", "ping"]), "name the broker to ping");
    assert_failed(&site.run(&["broker", "ping", "c"]), "has no broker \"c\"");
    let in_the_open = site.run(&["broker", "ping", "amqp://joe:canary@127.0.0.1/"]);
    assert_failed(&in_the_open, "a password on a command line");
    for timeout in ["0s", "2", "-1s"] {
        assert_eq!(
            site.run(&["broker", "ping", "a", "--timeout", timeout]).code,
            2,
            "{timeout}"
        );
    }
}
