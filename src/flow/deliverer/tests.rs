use std::path::Path;

use super::*;
use crate::config::{Errors, Places};
use crate::spool::Durability;
use crate::transfer::deliver::{Destination, Lock};

fn read(text: &str) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    let broker = "[brokers.bunny]\nurls = [\"amqp://bunny\"]\nexchange = \"cmc\"\n";
    std::fs::write(etc.join("px.toml"), broker).unwrap();
    let (site, errors) = Site::load(&Places::under(dir.path()));
    assert!(errors.is_empty(), "{errors:?}");
    let table = Table::parse(Path::new("t.toml"), text, &Errors::default());
    let (config, errors) = table.read_whole(|table| Config::read(table, &site, "dd"));
    config.ok_or_else(|| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = read("destination = \"file:\"\ndirectory = \"/data\"\n").unwrap();
    let destination = config.destination.as_ref().unwrap();
    let options = &destination.options;
    assert!(matches!(options.destination, Destination::File));
    assert_eq!(options.lock, Lock::Suffix(".tmp".to_string()));
    assert_eq!(
        (options.mode, options.bandwidth, options.makes_directories),
        (None, None, true)
    );
    assert_eq!((options.durability, destination.connections), (Durability::Power, 1));
    assert_eq!(config.rules.queued.batch, 100);
    assert_eq!(config.kind(), "single-file");
    let config = read("destination = \"http://h/in\"\n").unwrap();
    let options = &config.destination.as_ref().unwrap().options;
    assert_eq!((&options.lock, options.makes_directories), (&Lock::None, false));
    assert_eq!(options.destination.to_string(), "http://h/in/");
}

#[test]
fn a_server_is_read_with_who_px_is_there() {
    let text = "destination = \"ftp://wxofeed@wxo-b1:2121\"\npassword = \"hush\"\nftp_mode = \"active\"\ntls = true\n\
                ascii = true\nca_file = \"/ca.pem\"\nlock = \"umask\"\nchmod = \"775\"\nmkdir = false\n\
                bandwidth = \"10MB\"\nconnections = 4\nconnect_timeout = \"3s\"\nread_timeout = \"4s\"\n\
                directory = \"data\"\n";
    let config = read(text).unwrap();
    let destination = config.destination.as_ref().unwrap();
    let Destination::Ftp(peer, how) = &destination.options.destination else {
        panic!("{destination:?}");
    };
    assert_eq!((peer.host.as_str(), peer.port), ("wxo-b1", 2121));
    assert_eq!(peer.login.user, "wxofeed");
    assert!(how.active && how.tls && how.ascii);
    assert_eq!(
        (peer.connect_timeout, peer.read_timeout),
        (Duration::from_secs(3), Duration::from_secs(4))
    );
    let options = &destination.options;
    assert_eq!((&options.lock, options.mode), (&Lock::Umask, Some(0o775)));
    assert_eq!(
        (options.bandwidth, options.makes_directories, destination.connections),
        (Some(10_000_000), false, 4)
    );
    let shown = format!("{config:?}");
    assert!(!shown.contains("hush"), "{shown}");
    let config = read("destination = \"sftp://u@[::1]\"\nkey_file = \"/k\"\nknown_hosts = \"/kh\"\n").unwrap();
    let Destination::Sftp(peer) = &config.destination.as_ref().unwrap().options.destination else {
        panic!("{config:?}");
    };
    assert_eq!((peer.host.as_str(), peer.port), ("::1", 22));
    assert_eq!(peer.trust.known_hosts.as_deref(), Some(Path::new("/kh")));
    let config = read("destination = \"https://u@h:8443/a\"\npassword = \"x\"\nwebdav = true\n").unwrap();
    let Destination::Http(http) = &config.destination.as_ref().unwrap().options.destination else {
        panic!("{config:?}");
    };
    assert_eq!((http.url.as_str(), http.webdav), ("https://h:8443/a/", true));
    assert_eq!((http.peer.login.user.as_str(), http.peer.port), ("u", 8443));
    let script = read("send_script = [\"/bin/deliver\"]\ndirectory = \"a\"\n").unwrap();
    assert_eq!(script.kind(), "script");
}

#[test]
fn what_is_changed_on_the_way_is_not_announced() {
    let announced = "[announcements]\nbroker = \"bunny\"\nannounce = [\"exp\"]\nurl = \"http://dd/\"\n";
    let config = read(&format!("destination = \"ftp://u@h\"\n{announced}")).unwrap();
    assert!(config.broker().is_some());
    assert!(read("destination = \"ftp://u@h\"\n").unwrap().broker().is_none());
    let errors = read(&format!("destination = \"ftp://u@h\"\nascii = true\n{announced}")).unwrap_err();
    assert!(
        errors[0].starts_with("t.toml:2: ascii = true: what is announced"),
        "{errors:?}"
    );
}

const MISFITS: [(&str, &str); 35] = [
    ("", "t.toml:1: destination: missing; accepted: \"file:\""),
    (
        "destination = \"ftp://u:hush@h\"",
        "t.toml:1: destination = \"ftp://u:***@h\": accepted",
    ),
    (
        "destination = \"ftp://u@h/a\"",
        "t.toml:1: destination = \"ftp://u@h/a\": its path goes into directory: directory = \"/a\"; accepted",
    ),
    (
        "destination = \"file:/tmp\"",
        "t.toml:1: destination = \"file:/tmp\": its path goes into directory: directory = \"/tmp\"; accepted",
    ),
    (
        "destination = \"ftps://u@h\"",
        "t.toml:1: destination = \"ftps://u@h\": with TLS it is ftp:// and tls = true",
    ),
    (
        "destination = \"ftp://u@h:\"",
        "t.toml:1: destination = \"ftp://u@h:\": there is no port",
    ),
    (
        "destination = \"ftp://u@h\"\npassword = \"\"",
        "t.toml:2: password = ***: accepted: a password that is not empty",
    ),
    (
        "destination = \"https://h/a\"\npassword = \"hush\"",
        "t.toml:1: destination = \"https://h/a\": it names no user; accepted: \"https://USER@HOST/PATH/\"",
    ),
    (
        "destination = \"ftp://u@h\"\nchmod = \"1775\"",
        "t.toml:2: chmod = \"1775\": accepted: three octal digits",
    ),
    (
        "destination = \"sftp://u@h\"\nkey_file = \"/etc/passwd\"",
        "t.toml:2: key_file = \"/etc/passwd\": no private key is in it",
    ),
    (
        "destination = \"ftp://u@h\"\nscript_timeout = \"5s\"",
        "t.toml:2: script_timeout = \"5s\": the unit has no",
    ),
    (
        "destination = \"ftp://u@h\"\n[script_options]\na = 1",
        "t.toml:2: script_options = {…}: the unit has no",
    ),
    (
        "destination = \"ftp://u@h\"\ndirectory = \"a\"\n[[url_files]]\nqueue = \"q\"\nurl = \"http://dd/\"\nroot = \"b\"",
        "t.toml:6: url_files.root = \"b\": no product is delivered below it",
    ),
    (
        "destination = \"gopher://h\"",
        "t.toml:1: destination = \"gopher://h\": accepted",
    ),
    (
        "destination = \"file:\"",
        "t.toml:1: directory: missing; accepted: an absolute path",
    ),
    (
        "destination = \"file:\"\ndirectory = \"a\"",
        "t.toml:2: directory = \"a\": accepted: an absolute path",
    ),
    (
        "destination = \"ftp://u@h\"\nkey_file = \"/k\"",
        "t.toml:2: key_file = \"/k\": not with ftp://; accepted with sftp://",
    ),
    (
        "destination = \"ftp://u@h\"\nca_file = \"/k\"",
        "t.toml:2: ca_file = \"/k\": only with tls = true",
    ),
    (
        "destination = \"ftp://h\"\npassword = \"hush\"",
        "t.toml:1: destination = \"ftp://h\": it names no user",
    ),
    (
        "destination = \"sftp://u@h\"",
        "t.toml:1: destination = \"sftp://u@h\": who px is there",
    ),
    (
        "destination = \"sftp://u@h\"\nagent = true\ntls = true",
        "t.toml:3: tls = true: not with sftp://",
    ),
    (
        "destination = \"http://h/\"\nlock = \"umask\"",
        "t.toml:2: lock = \"umask\": umask: HTTP has no permissions",
    ),
    (
        "destination = \"http://h/\"\nlock = \".tmp\"",
        "t.toml:2: lock = \".tmp\": plain PUT",
    ),
    (
        "destination = \"http://h/\"\nchmod = \"664\"",
        "t.toml:2: chmod = \"664\": not with http://",
    ),
    (
        "destination = \"http://h/\"\nmkdir = true",
        "t.toml:2: mkdir = true: plain PUT makes no directories",
    ),
    (
        "destination = \"http://h/\"\nca_file = \"/c\"",
        "t.toml:2: ca_file = \"/c\": not with http://",
    ),
    (
        "destination = \"ftp://u@h\"\nlock = \"tmp\"",
        "t.toml:2: lock = \"tmp\": accepted",
    ),
    (
        "destination = \"ftp://u@h\"\nchmod = \"888\"",
        "t.toml:2: chmod = \"888\": accepted",
    ),
    (
        "destination = \"ftp://u@h\"\nconnections = 0",
        "t.toml:2: connections = 0: accepted",
    ),
    (
        "destination = \"ftp://u@h\"\nbandwidth = \"0B\"",
        "t.toml:2: bandwidth = \"0B\": accepted",
    ),
    (
        "destination = \"ftp://u@h\"\nsync = \"crash\"",
        "t.toml:2: sync = \"crash\": not with ftp://",
    ),
    (
        "destination = \"ftp://u@h\"\npasword = \"hush\"",
        "t.toml:2: pasword = ***: unknown key",
    ),
    (
        "destination = \"ftp://u@h\"\npassword = \"a\"\npassword_file = \"/b\"",
        "t.toml:2: password = ***: password or",
    ),
    (
        "send_script = [\"/bin/x\"]\ndestination = \"file:\"",
        "t.toml:2: destination = \"file:\": not with send_script",
    ),
    (
        "send_script = [\"/bin/x\"]\nlock = \"none\"",
        "t.toml:2: lock = \"none\": not with send_script",
    ),
];

#[test]
fn what_does_not_fit_the_destination_is_refused_with_its_line() {
    for (text, start) in MISFITS {
        let errors = read(text).err().unwrap_or_default();
        assert!(
            errors.iter().any(|error| error.starts_with(start)),
            "{text}\n{start}\n{errors:#?}"
        );
        assert!(!format!("{errors:?}").contains("hush"), "{errors:?}");
    }
}
