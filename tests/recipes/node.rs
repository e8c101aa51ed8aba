//! One node with everything that the document puts into `rabbitmq.conf` of a single broker: limits, TLS, LDAP.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::slapd::Slapd;
use crate::support::{PX, RabbitServer, TestSite, free_port, rabbitmq_mirrors, recipe, recipe_with};
use crate::type_in;

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

impl World {
    /// The document's site, with its brokers here; units log in as this user.
    fn site(&self, user: &str, password: &str) -> TestSite {
        let ca = self.certificates.path().join("ca.pem").display().to_string();
        let text = recipe_with(
            "/etc/px/px.toml: TLS",
            &[
                ("feeder@bunny1-op", &format!("{user}@localhost:{}", self.amqps)),
                (", \"amqps://feeder@bunny2-op\"", ""),
                ("bunny1-op:15671", &format!("localhost:{}", self.https)),
                ("/etc/px/ca.pem", &ca),
            ],
        );
        let site = TestSite::with_site_file(&format!("{text}[reaper]\nbroker = \"bunny\"\n"));
        let mut secrets = "[bunny]\nroot = \"rootpw\"\nfeeder = \"feederpw\"\nanonymous = \"anonymouspw\"\n".to_owned();
        if !["root", "feeder"].contains(&user) {
            secrets += &format!("{user} = {password:?}\n");
        }
        site.write("etc/secrets.toml", secrets);
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(site.path("etc/secrets.toml"), mode).expect("0600");
        let kind = if rabbitmq_mirrors() { "classic" } else { "quorum" };
        site.unit(
            UNIT,
            &format!(
                "type = \"pull\"\nbroker = \"bunny\"\nqueue = \"cmc.alice.pull\"\nbind = [\"v02.post.#\"]\n\
                 exchange = \"xpublic\"\ndirectory = \"{{root}}/data\"\nqueue_type = \"{kind}\"\n"
            ),
        );
        site
    }

    /// Commands of the document, on the host of this node and of this site.
    #[track_caller]
    fn type_here(&self, site: &TestSite, commands: &str) -> String {
        let environment = self.node.directory().join("env");
        let before = format!(
            "px() {{ PX_ROOT={:?} {PX:?} \"$@\"; }}\n. {:?}\n",
            site.root(),
            environment
        );
        type_in(self.node.directory(), &(before + commands))
    }
}

/// The limits are taken; users come from the file, by https, and clients by TLS; users of LDAP have rights of the
/// broker's own; an LDAP server that does not answer keeps out nobody but those.
#[test]
fn one_node_with_limits_users_tls_and_ldap() {
    let world = world();
    let set = world.node.ctl(&["environment"]).replace([' ', '\n'], "");
    for value in [
        "{consumer_timeout,1800000}",
        "{vm_memory_high_watermark,0.4}",
        "{disk_free_limit,\"50MB\"}",
    ] {
        assert!(set.contains(value), "{value}");
    }
    let feeder = world.site("feeder", "feederpw");
    make_users(&world, &feeder);

    let alice = world.site("alice", "alicepw");
    alice.write("etc/alice.toml", recipe("/etc/px/broker.toml: a user of LDAP"));
    let file = alice.path("etc/alice.toml").display().to_string();
    alice.px_ends(0, &["broker", "apply", "--file", &file]);
    drop(alice.run_ready(UNIT));
    world.type_here(&feeder, &recipe_with("a user of LDAP, by hand", &[("username", "bob")]));
    world
        .site("bob", "bobpw")
        .px_ends(0, &["broker", "ping", "bunny", "--timeout", "20s"]);
    let wrong = world.site("bob", "aaa");
    wrong.px_ends(1, &["broker", "ping", "bunny", "--timeout", "20s"]);

    world.slapd.freeze();
    let begun = Instant::now();
    feeder.px_ends(0, &["broker", "ping", "bunny", "--timeout", "20s"]);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    let _unit = alice.run(UNIT);
    alice.wait_state(UNIT, "paused: ");
    world.slapd.thaw();
    alice.wait_state(UNIT, "running");
    what_to_watch(&world, &feeder);
}

/// From a node that knows nobody but `guest` to the users of the example, and no further.
fn make_users(world: &World, site: &TestSite) {
    world.node.ctl(&["add_user", "guest", "guest"]);
    world.node.ctl(&["set_user_tags", "guest", "administrator"]);
    world.node.ctl(&["set_permissions", "guest", ".*", ".*", ".*"]);
    site.write("etc/broker.toml", include_str!("../../etc/broker.toml"));
    world.type_here(site, &recipe("on the host: make the users"));
    let guest = world.node.ctl(&["list_users"]);
    assert!(guest.lines().any(|line| line == "guest\t[]"), "{guest}");
    let again = site.px_ends(0, &["broker", "apply"]);
    assert_eq!(again.out, "nothing to do\n");
    site.write("etc/mirrored.toml", recipe("/etc/px/broker.toml: mirrored queues"));
    let file = site.path("etc/mirrored.toml").display().to_string();
    site.px_ends(0, &["broker", "apply", "--file", &file]);
    if !rabbitmq_mirrors() {
        let said = site.px_ends(0, &["broker", "check", "--file", &file]);
        assert!(!said.out.contains("ha-all"), "{said:?}");
        return;
    }
    let policies = world.node.ctl(&["list_policies"]);
    for part in [
        "ha-all",
        r"^cmc\.",
        r#""ha-mode":"all""#,
        r#""ha-sync-mode":"automatic""#,
    ] {
        assert!(policies.contains(part), "{part}: {policies}");
    }
}

/// The commands that look after a broker.
fn what_to_watch(world: &World, site: &TestSite) {
    let mut commands = recipe("on a broker: is all well?");
    if rabbitmq_mirrors() {
        commands += &recipe("on a broker: is each queue where it is to be? Mirrors, before RabbitMQ 4");
    }
    commands += &recipe("on a broker: is each queue where it is to be? Quorum queues");
    let said = world.type_here(site, &commands);
    assert!(
        said.contains("cmc.alice.pull\t1\t0\t") && said.contains("px@localhost"),
        "{said}"
    );
    let _unit = site.run_ready(UNIT);
    let said = world.type_here(site, &recipe("on a host with px: is all well?"));
    for part in ["answers, ", "queues  : [", "rx/pull  running (pid "] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
