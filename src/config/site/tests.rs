use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::config::{Scheme, options};

struct TestSite(tempfile::TempDir);

impl TestSite {
    fn new(px: &str) -> TestSite {
        let site = TestSite(tempfile::tempdir().unwrap());
        std::fs::create_dir(site.0.path().join("etc")).unwrap();
        let file = site.places().site_file();
        std::fs::write(&file, px).unwrap();
        // Passwords in it are nobody else's.
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        site
    }

    fn places(&self) -> Places {
        Places::under(self.0.path())
    }

    fn secrets(self, text: &str, mode: u32) -> TestSite {
        let path = self.places().secrets_file();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    fn load(&self, variables: &[(&str, &str)]) -> (Site, Vec<String>) {
        let find = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_string())
        };
        let (site, found) = Site::load_with(&self.places(), &find);
        let etc = format!("{}/", self.places().etc.display());
        (
            site,
            found
                .iter()
                .map(|finding| finding.to_string().replace(&etc, ""))
                .collect(),
        )
    }
}

#[test]
fn a_full_broker_is_read() {
    let px = r#"
        [brokers.bunny]
        urls = ["amqps://feeder@h1?connection_timeout=1500", "amqp://other:x@h2/v"]
        exchange = { name = "cmc", type = "direct", durable = false }
        management = { url = "https://h1:15671/", user = "root" }
        ca_file = "/etc/ssl/ca.pem"
        reply_timeout = "5s"
        order = "given"
        [log]
        keep = 7
        level = "debug"
    "#;
    let site = TestSite::new(px).secrets("[bunny]\nfeeder = \"one\"\nroot = \"${ROOT}\"\n", 0o600);
    let (site, found) = site.load(&[("ROOT", "two")]);
    assert_eq!(found, [] as [&str; 0]);
    let bunny = site.broker("bunny").unwrap();
    let passwords: Vec<&str> = bunny.urls.iter().map(|url| url.password.expose()).collect();
    assert_eq!(passwords, ["one", "x"]);
    assert_eq!(
        (bunny.connect_timeout, bunny.reply_timeout),
        (Duration::from_millis(1500), Duration::from_secs(5))
    );
    assert!(!bunny.random_order);
    assert_eq!(bunny.ca_file.as_deref(), Some(Path::new("/etc/ssl/ca.pem")));
    assert!(!bunny.exchange.as_ref().unwrap().durable);
    let management = bunny.management.as_ref().unwrap();
    assert_eq!(
        (&management.url[..], management.password.expose()),
        ("https://h1:15671", "two")
    );
    assert_eq!(
        site.log,
        Log {
            keep: 7,
            level: tracing::Level::DEBUG
        }
    );
}

#[test]
fn a_small_broker_has_the_documented_defaults() {
    let (site, found) = TestSite::new("brokers.b.urls = [\"embedded:px.db\"]").load(&[]);
    assert_eq!(found, [] as [&str; 0]);
    let broker = site.broker("b").unwrap();
    assert_eq!(
        (broker.connect_timeout, broker.reply_timeout),
        (Duration::from_secs(10), Duration::from_secs(30))
    );
    assert!(broker.random_order && broker.exchange.is_none() && broker.management.is_none());
    assert_eq!(broker.urls[0].path, site.places.spool.join("px.db"));
    assert_eq!(
        site.log,
        Log {
            keep: 30,
            level: tracing::Level::INFO
        }
    );
}

#[test]
fn passwords_come_from_the_credentials_directory_first() {
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("b.joe"), "from systemd\n").unwrap();
    let directory = credentials.path().to_str().unwrap();
    let site = TestSite::new("brokers.b.urls = [\"amqp://joe@h\", \"amqp://ann@h\", \"amqp://x%2fy@h\"]")
        .secrets("[b]\njoe = \"from the file\"\nann = \"hers\"\n\"x/y\" = \"odd\"", 0o600);
    let (site, found) = site.load(&[("CREDENTIALS_DIRECTORY", directory)]);
    assert_eq!(found, [] as [&str; 0]);
    let urls = &site.broker("b").unwrap().urls;
    let passwords: Vec<&str> = urls.iter().map(|url| url.password.expose()).collect();
    assert_eq!(passwords, ["from systemd", "hers", "odd"]);
}

#[test]
fn a_missing_password_is_a_warning_that_says_where_it_belongs() {
    let site = TestSite::new("brokers.b.urls = [\"amqp://joe@h\", \"amqp://joe@i\"]");
    let (loaded, found) = site.load(&[]);
    assert!(loaded.broker("b").is_some());
    let expected = r#"warning: no password for joe: secrets.toml (0600) has no [b] joe = "…""#;
    assert_eq!(found, [format!("px.toml:1: brokers.b.urls = […]: {expected}")]);
}

#[test]
fn secrets_that_others_can_read_are_refused_in_one_line() {
    let site = TestSite::new("brokers.b.urls = [\"amqp://joe@h\"]").secrets("[b]\njoe = \"canary\"\n", 0o644);
    let (_, found) = site.load(&[]);
    assert_eq!(
        found,
        ["secrets.toml: others can get at these passwords (mode 0644); run chmod 0600 on it"]
    );
}

#[test]
fn a_unit_of_a_faulty_broker_is_not_blamed() {
    for px in [
        "[brokers.b]\nurls = []\n",
        "[brokers\nb = 1\n",
        "brokers = 1\n",
        "\u{0}",
    ] {
        let (site, found) = TestSite::new(px).load(&[]);
        assert!(!found.is_empty() && site.broker("b").is_none(), "{px}");
        let table = Table::parse(Path::new("u.toml"), "broker = \"b\"\n", &Errors::default());
        let (broker, found) = table.read_whole(|table| options::broker(table, &site));
        assert!(broker.is_none() && found.is_empty(), "{px}: {found:?}");
    }
}

#[test]
fn what_is_understood_but_not_served_is_a_warning() {
    let px = "[brokers.s]\nurls = [\"stomp://h\"]\n[brokers.t]\nurls = [\"amqps10://u:p@h\"]\n";
    let (site, found) = TestSite::new(px).load(&[]);
    assert_eq!(site.broker("s").unwrap().urls[0].scheme, Scheme::Stomp);
    assert!(!site.broker("s").unwrap().urls[0].scheme.is_served());
    let expected = [
        "px.toml:2: brokers.s.urls = […]: warning: not served by this version",
        "px.toml:4: brokers.t.urls = […]: warning: not served by this version",
    ];
    assert_eq!(found, expected);
}

/// A canary in every place a password can be, in files with every kind of fault: no finding and no `Debug` has it.
#[test]
fn canary_passwords_appear_nowhere() {
    let texts = [
        r#"urls = ["amqp://u:canary@h", "amqps://u:canary@h:1/v?heartbeat=3"]"#,
        r#"urls = ["amqp://u:canary@h:99999", "http://u:canary@h", "amqp//u:canary@h", "u:canary", 3]"#,
        r#"urls = "amqp://u:canary@h""#,
        r#"urls = "amqp//u:canary""#,
        r#"urls = { password = "canary" }"#,
        r#"urls = ["amqp://u:${CANARY}@h"]"#,
        r#"urls = ["${CANARY}"]"#,
        r#"urls = ["amqp://u:canary@h?x=canary", "amqp://u:ca/canary@h", "amqp://u:ca#canary@h"]"#,
        r#"urls = ["amqp://u:canary@h", "stomp://u:canary@h", "embedded:x"]"#,
        r#"url = ["amqp://u:canary@h"]"#,
        r#"urlss = "amqp//u:canary""#,
        r#"password = "canary""#,
        r#"pasword = "canary""#,
        r#"pw = "canary""#,
        r#"management = "https://root:canary@h""#,
        r#"management = { url = "https://root:canary@h:15671" }"#,
        r#"management = { url = "https://root:canary@h:15671", user = "root", password = "canary" }"#,
        r#"management = { url = "ftp://root:canary@h" }"#,
        r#"management = { url = "https://root:canary", user = "root" }"#,
        r#"management = { url = "https://root:ca/canary@h", user = "root" }"#,
        r#"management = { url = "https://root:${CANARY}@h" }"#,
        r#"management = { url = "${CANARY}" }"#,
        r#"urls = ["amqp://u:canary@h" "#,
        r#"urls = ["amqp://u:canary@h"#,
        r#"urls = amqp://u:canary@h"#,
        "urls = [\"amqp://u:canary@h\"]\nurls = [\"amqp://u:canary@h\"]",
    ];
    let secrets = [
        "[b]\nu = \"canary\"\nroot = \"canary\"\n",
        "[b]\nu = \"${CANARY}\"\nroot = \"canary${NONE}\"\n",
        "[b]\nu = canary\n",
        "[b]\nu = [\"canary\"]\n[c]\nu = \"canary\"\n",
        "u = \"canary\"\nb = \"canary\"\n",
        "[b]\nu = \"canary\nx = \"canary\"\nx = \"canary\"\n",
    ];
    let mut count = 0;
    for text in texts {
        for secret in secrets {
            let site = TestSite::new(&format!("[brokers.b]\n{text}\n")).secrets(secret, 0o600);
            let (loaded, found) = site.load(&[("CANARY", "canary://u:canary")]);
            count += found.len();
            let shown = format!("{loaded:?} {found:#?}");
            assert!(!shown.contains("canary"), "{text}\n{secret}\n{shown}");
            for broker in loaded.broker_names() {
                let urls: Vec<String> = loaded
                    .broker(broker)
                    .unwrap()
                    .urls
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                assert!(!urls.concat().contains("canary"), "{urls:?}");
            }
        }
    }
    assert!(count > 100, "only {count} findings were looked at");
}

#[test]
fn how_long_products_and_logs_are_kept_is_said_by_px_toml_then_by_px_conf() {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let table = [
        ("", "", days(30), 30),
        ("", "daysToKeepInDB 40\nlogrotate 7", days(40), 7),
        ("spool.keep_db = \"12h\"\nlog.keep = 9", "", days(1) / 2, 9),
        (
            "spool = {}\nlog.level = \"warn\"",
            "daysToKeepInDB 40\nlogrotate 7",
            days(40),
            7,
        ),
        (
            "spool.keep_db = \"3d\"\nlog.keep = 9",
            "daysToKeepInDB 40\nlogrotate 7",
            days(3),
            9,
        ),
    ];
    for (px_toml, px_conf, keep_db, log_keep) in table {
        let site = TestSite::new(px_toml);
        std::fs::write(site.places().sundew_site_file(), px_conf).unwrap();
        let (site, found) = site.load(&[]);
        assert_eq!(found, [] as [&str; 0]);
        assert_eq!(
            (site.keep_db, site.log.keep),
            (keep_db, log_keep),
            "{px_toml} {px_conf}"
        );
    }
    let (site, found) = TestSite::new("spool.keep_db = \"0s\"").load(&[]);
    assert_eq!((site.keep_db, found.len()), (KEEP_DB, 1), "{found:?}");
}

#[test]
fn px_toml_may_be_missing_where_px_conf_is_or_no_unit_needs_it() {
    let none = || {
        let site = TestSite::new("");
        std::fs::remove_file(site.places().site_file()).unwrap();
        std::fs::create_dir(site.places().etc.join("tx")).unwrap();
        site
    };
    assert_eq!(none().load(&[]).1, [] as [&str; 0]);
    let sundews = none();
    std::fs::write(sundews.places().etc.join("tx/a.conf"), "type amqp").unwrap();
    assert_eq!(sundews.load(&[]).1, [] as [&str; 0]);
    let ours = none();
    std::fs::write(ours.places().etc.join("tx/a.toml"), "").unwrap();
    assert_eq!(ours.load(&[]).1, ["px.toml: no such file"]);
    std::fs::write(ours.places().sundew_site_file(), "user px").unwrap();
    assert_eq!(ours.load(&[]).1, [] as [&str; 0]);
    // What px.toml would have had is told where it is asked for.
    let table = Table::parse(Path::new("u.toml"), "broker = \"b\"\n", &Errors::default());
    let (_, found) = table.read_whole(|table| options::broker(table, &ours.load(&[]).0));
    assert_eq!(found[0].to_string(), "u.toml:1: broker = \"b\": px.toml has no brokers");
}

#[test]
fn the_reaper_is_read_with_its_broker() {
    let broker = "[brokers.b]\nurls = [\"amqp://u:p@h/site\"]\nmanagement = { url = \"http://u:p@h:15672\" }\n";
    let (site, found) = TestSite::new(&format!("{broker}[reaper]\nbroker = \"b\"\n")).load(&[]);
    assert_eq!(found, [] as [&str; 0]);
    assert_eq!(site.reaper.unwrap().broker.name, "b");
    assert!(TestSite::new(broker).load(&[]).0.reaper.is_none());
    let (site, found) = TestSite::new(&format!("{broker}[reaper]\nbroker = \"b\"\nmax = 3\n")).load(&[]);
    assert!(found[0].starts_with("px.toml:6: reaper.max = "), "{found:?}");
    assert!(site.reaper.is_some(), "what could be read is there");
}
