//! `px convert`: Sundew's files as TOML, shown or in their places.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Said, px};

/// A Sundew site: no px.toml.
struct Old(tempfile::TempDir);

const SENDER: &str = "type amqp\nvalidation False\nnoduplicates False\nhost h.example\nuser feeder\npassword canary\n\
                      exchange_name cmc\nexchange_type topic\nexchange_key exp.dd.notify.${0}\naccept ^(.*)\\+\\+.*\n";

const CONVERTED: &str = r#"type = "amqp"
broker = "h-example-feeder"
exchange = { name = "cmc", type = "topic", durable = false }
key = "exp.dd.notify.${0}"
masks = [
    { accept = '^(.*)\+\+.*' },
    { reject = '(?s).*' },
]
validation = false
log = { keep = 5 }
"#;

const DELIVERER: &str = "protocol ftp\nhost h.example\nuser feeder\npassword canary\ndirectory //data\nlock umask\n\
                         noduplicates False\nvalidation False\naccept .*\n";

impl Old {
    fn new(files: &[(&str, &str)]) -> Old {
        let old = Old(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(old.path("rx")).unwrap();
        for (file, text) in [&[("px.conf", "# a site\n")], files].concat() {
            old.write(file, text);
        }
        old
    }

    /// Below `etc`.
    fn path(&self, below: &str) -> std::path::PathBuf {
        self.0.path().join("etc").join(below)
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.path(below)).unwrap_or_default()
    }

    fn run(&self, arguments: &[&str]) -> Said {
        px(self.0.path(), arguments)
    }

    #[track_caller]
    fn run_ok(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
        assert!(!format!("{said:?}").contains("canary"), "{said:?}");
        said
    }

    #[track_caller]
    fn assert_converted(&self) {
        assert_eq!(self.read("tx/dd.toml"), CONVERTED);
        assert_eq!(
            self.read("px.toml"),
            "[brokers.h-example-feeder]\nurls = [\"amqp://feeder@h.example\"]\n"
        );
        assert_eq!(self.read("secrets.toml"), "[h-example-feeder]\nfeeder = \"canary\"\n");
        let mode = std::fs::metadata(self.path("secrets.toml"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!self.path("tx/dd.conf").exists() && self.read("tx/dd.conf.off") == SENDER);
        let left: Vec<_> = std::fs::read_dir(self.path("tx"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        let said = self.run_ok(&["check"]);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    }
}

#[test]
fn a_unit_is_shown_without_its_password_and_nothing_is_written() {
    let old = Old::new(&[("tx/dd.conf", SENDER)]);
    let said = old.run_ok(&["convert", "dd"]);
    assert_eq!(said.err, "");
    let header = "# tx/dd.toml\n# px.toml, and the password in secrets.toml:\n#     [brokers.h-example-feeder]\n\
                  #     urls = [\"amqp://feeder@h.example\"]\n";
    assert_eq!(said.out, format!("{header}{CONVERTED}\n"));
    assert!(!old.path("tx/dd.toml").exists() && !old.path("px.toml").exists());
}

#[test]
fn a_broker_is_shown_under_the_name_that_it_is_written_with() {
    let other = SENDER.replace("canary", "canary-2");
    let old = Old::new(&[("tx/a.conf", SENDER), ("tx/b.conf", &other), ("tx/c.conf", SENDER)]);
    let shown = old.run_ok(&["convert"]).out;
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("broker = "));
        lines.map(str::to_string).collect()
    };
    assert!(shown.contains("[brokers.h-example-feeder-2]"), "{shown}");
    old.run_ok(&["convert", "--write"]);
    let written: String = ["a", "b", "c"]
        .map(|name| old.read(&format!("tx/{name}.toml")))
        .concat();
    assert_eq!(names(&shown), names(&written));
    assert_eq!(names(&shown).len(), 3);
}

#[test]
fn passwords_are_never_added_where_others_can_read_them() {
    for (site, mode) in [(false, 0o644), (true, 0o644), (false, 0o640)] {
        let old = Old::new(&[("tx/dd.conf", SENDER), ("secrets.toml", "")]);
        if site {
            old.write("px.toml", "");
        }
        std::fs::set_permissions(old.path("secrets.toml"), PermissionsExt::from_mode(mode)).unwrap();
        old.run(&["convert", "--write"]);
        let found = std::fs::metadata(old.path("secrets.toml"))
            .unwrap()
            .permissions()
            .mode()
            & 0o077;
        assert!(found == 0 || old.read("secrets.toml").is_empty(), "{site} {mode:o}");
    }
}

#[test]
fn a_written_unit_is_what_it_was() {
    let old = Old::new(&[("tx/dd.conf", SENDER)]);
    let said = old.run_ok(&["convert", "--write", "tx/dd"]);
    assert_eq!(said.err, "");
    old.assert_converted();
    let said = old.run_ok(&["convert", "--write", "tx/dd"]);
    assert_eq!(
        (said.out.as_str(), said.err.as_str()),
        ("", "px: tx/dd is TOML already\n")
    );
    old.assert_converted();
    assert_eq!(old.run(&["convert", "tx/dd"]).code, 1);
    assert_eq!(old.run_ok(&["convert"]).out, "");
}

/// As after a crash between any two of the files.
#[test]
fn what_a_crash_left_is_finished() {
    let done = Old::new(&[("tx/dd.conf", SENDER)]);
    done.run_ok(&["convert", "--write"]);
    let files = ["px.toml", "secrets.toml", "tx/dd.toml"];
    for count in 0..=files.len() {
        let old = Old::new(&[("tx/dd.conf", SENDER)]);
        if count < files.len() {
            old.write("tx/.dd.toml.px-convert", "type = ");
        }
        for file in &files[..count] {
            std::fs::copy(done.path(file), old.path(file)).unwrap();
        }
        old.run_ok(&["convert", "--write"]);
        old.assert_converted();
    }
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let old = Old::new(&[("tx/dd.conf", SENDER), ("tx/dd.toml", "# mine\n")]);
    let said = old.run(&["convert", "--write", "tx/dd"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("dd.toml is there already and is not what"),
        "{said:?}"
    );
    std::fs::remove_file(old.path("tx/dd.toml")).unwrap();
    old.write("tx/dd.conf.off", "# mine too\n");
    let said = old.run(&["convert", "--write", "tx/dd"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("dd.conf.off is there already: move it away first"),
        "{said:?}"
    );
    assert!(!old.path("px.toml").exists() && !old.path("secrets.toml").exists());
    assert_eq!(old.read("tx/dd.conf"), SENDER);
}

#[test]
fn what_is_there_keeps_its_text_its_mode_and_its_link() {
    let old = Old::new(&[("tx/dd.conf", SENDER)]);
    let real = old.0.path().join("px.toml");
    std::fs::write(&real, "# the site\n[log]\nkeep = 9").unwrap();
    std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("../px.toml", old.path("px.toml")).unwrap();
    old.run_ok(&["convert", "--write"]);
    let text = std::fs::read_to_string(&real).unwrap();
    assert!(
        text.starts_with("# the site\n[log]\nkeep = 9\n\n[brokers.h-example-feeder]\n"),
        "{text}"
    );
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(
        std::fs::read_link(old.path("px.toml")).unwrap(),
        Path::new("../px.toml")
    );
}

#[test]
fn what_is_refused_or_left_to_sundew_is_not_converted() {
    let bad = SENDER.replace("exchange_type topic", "exchange_type topik");
    let old = Old::new(&[
        ("tx/dd.conf", SENDER),
        ("tx/bad.conf", &bad),
        ("tx/old.conf", "type script\n"),
    ]);
    let said = old.run(&["convert", "--write"]);
    assert_eq!(said.code, 1, "{said:?}");
    let line = format!(
        "{}:8: exchange.type = \"topik\": did you mean \"topic\"?; accepted:",
        old.path("tx/bad.conf").display()
    );
    assert!(
        said.err.contains(&line) && said.err.contains("px: tx/bad: not converted\n"),
        "{said:?}"
    );
    assert!(!said.err.contains("tx/old"), "{said:?}");
    assert!(old.path("tx/dd.toml").exists() && old.path("tx/old.conf").exists() && !old.path("tx/bad.toml").exists());
    let said = old.run(&["convert", "tx/old"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("left to Sundew (type script without send_script)"),
        "{said:?}"
    );
}

/// And a run after a crash between two of the files finishes what was begun.
#[test]
fn a_servers_password_is_in_a_file_of_its_own() {
    let old = Old::new(&[("tx/dd.conf", DELIVERER)]);
    let said = old.run_ok(&["convert", "dd"]);
    assert!(
        said.out
            .starts_with("# tx/dd.toml\n# tx/dd.password: the password\ntype = \"deliver\"\n"),
        "{said:?}"
    );
    let files = ["tx/dd.password", "tx/dd.toml"];
    let done = Old::new(&[("tx/dd.conf", DELIVERER)]);
    done.run_ok(&["convert", "--write"]);
    for count in 0..=files.len() {
        let old = Old::new(&[("tx/dd.conf", DELIVERER)]);
        for file in &files[..count] {
            let text = done
                .read(file)
                .replace(&*done.path("").to_string_lossy(), &old.path("").to_string_lossy());
            old.write(file, &text);
        }
        old.run_ok(&["convert", "--write"]);
        assert_eq!(old.read("tx/dd.password"), "canary\n");
        let mode = std::fs::metadata(old.path("tx/dd.password"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let unit = old.read("tx/dd.toml");
        let named = format!(
            "password_file = {:?}\n",
            old.path("tx/dd.password").display().to_string()
        );
        assert!(unit.contains(&named) && !unit.contains("canary"), "{unit}");
        assert!(old.path("tx/dd.conf.off").exists() && !old.path("tx/dd.conf").exists());
        old.run_ok(&["check"]);
    }
    let old = Old::new(&[("tx/dd.conf", DELIVERER), ("tx/dd.password", "another\n")]);
    let said = old.run(&["convert", "--write"]);
    assert!(
        said.code == 1
            && said
                .err
                .contains("dd.password is there already and holds another password"),
        "{said:?}"
    );
    assert!(!old.path("tx/dd.toml").exists() && old.read("tx/dd.password") == "another\n");
}

/// What scripts are told may hold a password.
#[test]
fn a_unit_that_holds_a_password_is_for_its_owner_alone() {
    let script = DELIVERER.replace("protocol ftp", "type script\nsend_script s.py");
    let old = Old::new(&[
        ("tx/dd.conf", &script),
        ("px.toml", "[sundew]\nhook_host = \"/bin/true\"\n"),
    ]);
    let said = old.run_ok(&["convert", "dd"]);
    assert!(
        said.out.starts_with("# tx/dd.toml, for its owner alone\n") && said.out.contains("passwd = \"***\""),
        "{said:?}"
    );
    old.run_ok(&["convert", "--write"]);
    assert!(old.read("tx/dd.toml").contains("passwd = \"canary\""));
    let mode = std::fs::metadata(old.path("tx/dd.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn who_no_longer_finds_the_unit_is_told() {
    let old = Old::new(&[("tx/dd.conf", SENDER), ("rx/bulletins.conf", "type collector\n")]);
    let said = old.run_ok(&["convert", "--write", "tx/dd"]);
    assert!(
        said.err
            .contains("puts nothing more into txq/dd after its next start or reload"),
        "{said:?}"
    );
}

/// What the reader makes of every sample is what its component takes.
#[test]
fn every_sample_is_taken_by_its_component() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew");
    let old = Old::new(&[("pxRouting.conf", "")]);
    let table = old.path("pxRouting.conf").display().to_string();
    let mut names = Vec::new();
    for (source, directory) in [("tx", "tx"), ("seed/tx", "tx"), ("deliver", "tx"), ("rx", "rx")] {
        for entry in std::fs::read_dir(data.join(source)).unwrap() {
            let path = entry.unwrap().path();
            let is_sample = !["toml", "findings"]
                .iter()
                .any(|other| path.extension().is_some_and(|own| own == *other));
            if !is_sample || path.ends_with("deliver/bad.conf") {
                continue;
            }
            let name = format!("{directory}/{}", path.file_name().unwrap().display());
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.replace("/etc/px/pxRouting.radar.conf", &table);
            old.write(&name, &text.replace("/etc/px/pxRouting.conf", &table));
            names.extend(name.strip_suffix(".conf").map(str::to_string));
        }
    }
    assert!(names.len() >= 17);
    old.write(
        "px.toml",
        &std::fs::read_to_string(data.join("deliver/px.toml")).unwrap(),
    );
    old.write("px.conf", &std::fs::read_to_string(data.join("px.conf")).unwrap());
    let said = old.run_ok(&["convert", "--write"]);
    for name in names {
        assert!(said.out.contains(&format!("{name}: ")), "{name}: {said:?}");
    }
    let said = old.run_ok(&["check"]);
    assert_eq!(said.err, "");
    // The last two are of files that this host has not. And these samples are of more than one site.
    let known = [
        "exchange \"xpublic\" is declared otherwise by",
        "there is no receiver",
        "gone with its connection",
        "there is no \"/usr/lib/px/px-python-hook\"",
        "key_file = \"/etc/px/.ssh/id\": warning: no such file",
    ];
    let is_known = |line: &&str| known.iter().any(|known| line.contains(known));
    let warnings: Vec<&str> = said.out.lines().filter(|line| !is_known(line)).collect();
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn a_receiver_that_loses_messages_is_told_once_and_where() {
    let receiver = SENDER.replace("accept ^(.*)\\+\\+.*", "routemask False");
    let old = Old::new(&[("rx/dd.conf", &receiver)]);
    let said = old.run_ok(&["check"]);
    let place = format!(
        "{}:1: type = \"amqp\": warning: the queue has no name",
        old.path("rx/dd.conf").display()
    );
    assert!(
        said.out.starts_with(&place) && said.out.lines().count() == 1,
        "{said:?}"
    );
}
