//! One node with everything that the document puts into `rabbitmq.conf` of a single broker: limits, TLS, LDAP.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::slapd::Slapd;
use crate::support::{Feed, RabbitServer, TestBroker, TestSite, broker_of, free_port, recipe, recipe_with};

const UNIT: &str = "rx/pull";
/// A login that LDAP has no part in takes a fraction of this.
const AT_ONCE: Duration = Duration::from_secs(5);

struct World {
    certificates: tempfile::TempDir,
    slapd: Slapd,
    node: RabbitServer,
    amqps: u16,
    https: u16,
}

fn world() -> World {
    let certificates = tempfile::tempdir().expect("directory");
    type_in(
        certificates.path(),
        &recipe("a private CA, and a certificate for both brokers"),
    );
    let slapd = Slapd::start(Some(certificates.path()));
    let (amqps, https) = (free_port(), free_port());
    let here = |text: String| text.replace("/etc/rabbitmq/tls", &certificates.path().display().to_string());
    let conf = [
        recipe_with("/etc/rabbitmq/rabbitmq.conf: every node", &[("5GB", "50MB")]),
        here(recipe_with(
            "/etc/rabbitmq/rabbitmq.conf: TLS",
            &[
                (
                    "listeners.ssl.default = 5671",
                    &format!("listeners.ssl.1 = 127.0.0.1:{amqps}"),
                ),
                ("15671", &https.to_string()),
            ],
        )),
        here(recipe_with(
            "/etc/rabbitmq/rabbitmq.conf: passwords from LDAP",
            &[("ldap.cmc.ec.gc.ca", "localhost"), ("636", &slapd.tls_port())],
        )),
    ];
    World {
        node: RabbitServer::start_with_ldap(&conf.concat(), "[]."),
        certificates,
        slapd,
        amqps,
        https,
    }
}

/// Runs commands of the document in a directory.
#[track_caller]
fn type_in(directory: &Path, commands: &str) -> String {
    let output = Command::new("bash")
        .args(["-euc", commands])
        .current_dir(directory)
        .output()
        .expect("bash");
    assert!(output.status.success(), "{output:?}\n{commands}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl World {
    /// The document's site, with its brokers here.
    fn site(&self, user: &str, password: &str) -> TestSite {
        let amqps = format!("localhost:{}", self.amqps);
        let text = recipe_with(
            "/etc/px/px.toml: TLS",
            &[
                ("feeder@bunny1-op", &format!("{user}@{amqps}")),
                (", \"amqps://feeder@bunny2-op\"", ""),
                ("bunny1-op:15671", &format!("localhost:{}", self.https)),
                (
                    "/etc/px/ca.pem",
                    &self.certificates.path().join("ca.pem").display().to_string(),
                ),
            ],
        );
        let site = TestSite::with_site_file(&text);
        site.write(
            "etc/secrets.toml",
            format!("[bunny]\n{user} = {password:?}\nroot = \"admin\"\n"),
        );
        let secrets = site.path("etc/secrets.toml");
        std::fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("0600");
        site.unit(
            UNIT,
            "type = \"pull\"\nbroker = \"bunny\"\nqueue = \"cmc.pull\"\nbind = [\"v02.post.#\"]\n\
             directory = \"{root}/data\"\n",
        );
        site
    }

    /// Commands of the document, on the host of this node.
    #[track_caller]
    fn type_here(&self, commands: &str) -> String {
        let environment = self.node.directory().join("env").display().to_string();
        type_in(self.node.directory(), &format!(". '{environment}'\n{commands}"))
    }
}

/// The limits are taken, clients come by TLS, users of LDAP with rights of the broker's own, and an LDAP server that
/// does not answer keeps out nobody but those.
#[test]
fn one_node_with_limits_tls_and_ldap() {
    let world = world();
    let set = world.node.ctl(&["environment"]);
    for value in [
        "{consumer_timeout,1800000}",
        "{vm_memory_high_watermark,0.4}",
        "{disk_free_limit,\"50MB\"}",
    ] {
        assert!(set.replace([' ', '\n'], "").contains(value), "{value}: {set}");
    }

    // A user whose password is in LDAP.
    let made = recipe_with("a user of LDAP, by hand", &[("username", "alice")]);
    world.type_here(&made);
    let alice = world.site("alice", "alicepw");
    {
        let _unit = alice.run_ready(UNIT);
        alice.wait_state(UNIT, "running");
    }
    let wrong = world.site("alice", "x");
    let _unit = wrong.run(UNIT);
    wrong.wait_state(UNIT, "paused: ");

    world.slapd.freeze();
    let begun = Instant::now();
    let admin = world.site("admin", "admin");
    let _unit = admin.run_ready(UNIT);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    let _unit = alice.run(UNIT);
    alice.wait_state(UNIT, "paused: ");
    world.slapd.thaw();
    alice.wait_state(UNIT, "running");
    assert!(alice.count(UNIT, "reconnects") == 0);
    what_to_watch(&world, &admin);
}

/// The commands that look after a broker.
fn what_to_watch(world: &World, site: &TestSite) {
    let broker = TestBroker::on(&world.node, "unused");
    let mut url = broker.url("admin", "admin");
    url.vhost = "/".into();
    Feed::new(&broker_of(vec![url])).queue("cmc.left", &["#"]);
    let said = world.type_here(&recipe("on a broker: is all well?"));
    assert!(
        said.contains("cmc.left\t0\t0\t") && said.contains("px@localhost"),
        "{said}"
    );
    let _ = site;
}
