use super::*;
use crate::config::Places;
use std::os::unix::fs::PermissionsExt;

const SITE: &str = r#"
[brokers.bunny]
urls = ["amqp://feeder@h"]
management = { url = "http://h:15672", user = "root" }
[brokers.own]
urls = ["embedded:own.db"]
"#;

const SECRETS: &str = "[bunny]\nfeeder = \"canary-1\"\nroot = \"canary-2\"\nanonymous = \"canary-3\"\n";

struct Root(tempfile::TempDir);

impl Root {
    fn new(secrets: &str) -> Root {
        let root = Root(tempfile::tempdir().unwrap());
        root.write("px.toml", SITE);
        root.write("secrets.toml", secrets);
        root
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join("etc").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The file as read, and every finding without its directory.
    fn load(&self, text: &str) -> (Option<Administration>, Vec<String>) {
        self.write("broker.toml", text);
        let places = Places::under(self.0.path());
        let (site, _) = Site::load_with(&places, &|_| None);
        let (read, findings) = Administration::load(&site, &places.administration_file());
        let etc = format!("{}/", places.etc.display());
        let said = findings.iter().map(|finding| finding.to_string().replace(&etc, ""));
        (read, said.collect())
    }
}

#[track_caller]
fn refused(text: &str) -> Vec<String> {
    let (read, said) = Root::new(SECRETS).load(text);
    assert!(read.is_none(), "{text}");
    assert!(said.iter().all(|line| !line.contains("canary")), "{said:?}");
    said
}

#[test]
fn the_shipped_example_is_the_sites() {
    let example = include_str!("../../../etc/broker.toml");
    let (read, said) = Root::new(SECRETS).load(example);
    assert_eq!(said, [""; 0]);
    let read = read.unwrap();
    assert_eq!(
        (read.guest, read.vhosts.as_slice()),
        (Guest::Disarm, &["/".to_string()][..])
    );
    let anonymous = read.users.iter().find(|user| user.name == "anonymous").unwrap();
    let own = "^amq.gen.*$|^cmc.*$";
    assert_eq!(
        anonymous.permissions,
        [Permission {
            vhost: "/".to_string(),
            configure: format!("^xpublic|{own}"),
            write: own.to_string(),
            read: format!("^xpublic|{own}"),
        }]
    );
    assert_eq!(anonymous.password, Password::Known(Secret::new("canary-3")));
    assert!(anonymous.tags.is_empty() && read.own_user().unwrap().is_administrator());
    assert!(read.replicated[0].covers("cmc.x") && !read.replicated[0].covers("q.cmc.x"));
    assert!(!format!("{read:?}").contains("canary"));
}

#[test]
fn everything_has_a_default() {
    let (read, said) = Root::new(SECRETS).load(
        r#"
        broker = "bunny"
        vhosts = ["a b", "/"]
        [users."ü/\"'"]
        password = "external"
        permissions = [
            { configure = "", write = "x", read = ".*" },
            { vhost = "/", configure = "", write = "", read = "" },
        ]
        [[exchanges]]
        name = "x"
        [[policies]]
        name = "p"
        pattern = "y"
        definition = { max-length = 7, overflow = "reject-publish", deep = { list = [true, -1] } }
        [[replicated]]
        name = "r"
        pattern = "z$"
        vhost = "/"
        "#,
    );
    assert_eq!(said, [""; 0]);
    let read = read.unwrap();
    let user = &read.users[0];
    assert_eq!((user.name.as_str(), &user.password), ("ü/\"'", &Password::External));
    let vhosts: Vec<&str> = user
        .permissions
        .iter()
        .map(|permission| permission.vhost.as_str())
        .collect();
    assert_eq!(vhosts, ["a b", "/"]);
    let exchange = &read.exchanges[0];
    assert_eq!(
        (exchange.vhost.as_str(), exchange.kind, exchange.durable),
        ("a b", ExchangeKind::Topic, true)
    );
    let policy = &read.policies[0];
    assert_eq!((policy.apply_to, policy.priority), ("all", 0));
    let definition = Json::Object(policy.definition.clone()).to_string();
    assert_eq!(
        definition,
        r#"{"deep":{"list":[true,-1]},"max-length":7,"overflow":"reject-publish"}"#
    );
    assert!(read.replicated[0].covers("a z") && !read.replicated[0].covers("zebra"));
    assert_eq!(read.without_password(), [""; 0]);
}

#[test]
fn limits_keys_and_bindings_are_of_the_first_virtual_host() {
    let (read, said) = Root::new(SECRETS).load(
        r#"
        broker = "bunny"
        vhosts = ["a b", "/"]
        [users.u]
        password = "external"
        topic_permissions = { exchange = "x", write = "", read = "a" }
        limits = { max_channels = 0 }
        [[exchanges]]
        name = "x"
        [[bindings]]
        exchange = "x"
        queue = "q"
        key = ""
        [[vhost_limits]]
        vhost = "/"
        max_queues = -1
        "#,
    );
    assert_eq!(said, [""; 0]);
    let read = read.unwrap();
    let (user, exchange) = (&read.users[0], &read.exchanges[0]);
    assert!(!exchange.auto_delete && !exchange.internal && exchange.arguments.is_empty());
    let binding = &read.bindings[0];
    assert_eq!(
        (&*binding.vhost, &binding.to),
        ("a b", &Destination::Queue("q".to_string()))
    );
    assert_eq!(
        (&*user.topic_permissions[0].vhost, &user.limits),
        ("a b", &vec![("max-channels", 0)])
    );
    assert_eq!(
        (&*read.vhost_limits[0].vhost, &read.vhost_limits[0].limits),
        ("/", &vec![("max-queues", NO_LIMIT)])
    );
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let said = refused(
        "broker = \"bunny\"\nguest = \"disarmed\"\nvhosts = [\"/\"]\nuser = 1\n\
         [users.root]\ntags = [\"a,b\"]\n\
         [users.feeder]\npassword = \"canary\"\npermissions = { configure = \".*\", writ = \"x\", vhost = \"other\" }\n\
         [[exchanges]]\nname = \"amq.x\"\ntype = \"topical\"\n\
         [[policies]]\npattern = \"(\"\napply_to = \"all\"\ndefinition = { n = 1.5 }\n\
         [[replicated]]\nname = \"r\"\npattern = \"a)(b\"\n",
    );
    let told: Vec<&str> = said.iter().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [2, 4, 6, 8, 9, 9, 9, 9, 11, 12, 13, 16, 19].map(|line| format!("broker.toml:{line}"));
    assert_eq!(told, expected, "{said:#?}");
    assert!(
        said[0].ends_with("guest = \"disarmed\": did you mean \"disarm\"?; accepted: \"disarm\", \"delete\", \"keep\"")
    );
    let all = said.join("\n");
    for text in [
        "user = 1: unknown key, did you mean \"users\"?",
        "users.feeder.password = ***: accepted: \"external\"",
        "users.feeder.permissions.vhost = \"other\": not in vhosts; accepted: /",
        "users.feeder.permissions.write: missing; accepted: a regular expression",
        "policies.name: missing; accepted: ",
    ] {
        assert!(all.contains(text), "{text}\n{all}");
    }
}

#[test]
fn nobody_locks_himself_out() {
    let said = refused("broker = \"bunny\"\n[users.root]\n");
    assert_eq!(
        said,
        ["broker.toml:2: users = {…}: px itself logs in as root, who needs tags = [\"administrator\"]"]
    );
    let root = Root::new(SECRETS);
    root.write("px.toml", &SITE.replace("user = \"root\"", "user = \"guest\""));
    let (read, said) = root.load("broker = \"bunny\"\n");
    assert!(
        read.is_none() && said[0].contains("px itself logs in as guest"),
        "{said:?}"
    );
    let (read, said) = root.load("broker = \"bunny\"\nguest = \"keep\"\n");
    assert!(read.is_some() && said.is_empty(), "{said:?}");
    let said = refused("broker = \"bunny\"\n[users.guest]\npassword = \"external\"\n");
    assert!(said[0].contains("users has guest too"), "{said:?}");
}

#[test]
fn what_cannot_be_is_refused() {
    for (text, expected) in [
        ("", "broker: missing; accepted: a string that is not empty"),
        ("broker = \"own\"\n", "an embedded broker has no users"),
        ("broker = \"bunny\"\nvhosts = []\n", "at least one virtual host"),
        ("broker = \"bunny\"\nvhosts = [\"a\", \"a\"]\n", "\"a\" is there twice"),
        ("broker = \"bunny\"\nvhosts = [\"..\"]\n", "a name of at most 255 bytes"),
        (
            "broker = \"bunny\"\n[users.\"a\\nb\"]\npassword = \"external\"\n",
            "not a user's name",
        ),
        (
            "broker = \"bunny\"\n[users.u]\npassword = \"external\"\npermissions = [{ configure = \"\", write = \"\", \
             read = \"\" }, { configure = \"\", write = \"\", read = \"\" }]\n",
            "\"/\" has permissions of this user already",
        ),
        (
            "broker = \"bunny\"\n[[policies]]\nname = \"p\"\npattern = \"\"\ndefinition = { a = 1 }\n[[replicated]]\n\
             name = \"p\"\npattern = \"x\"\n",
            "two of the name \"p\"",
        ),
        (
            "broker = \"bunny\"\n[[bindings]]\nexchange = \"x\"\nqueue = \"q\"\nto_exchange = \"y\"\nkey = \"k\"\n",
            "queue = \"q\": accepted: either a queue or, as to_exchange, an exchange",
        ),
        (
            "broker = \"bunny\"\n[[bindings]]\nexchange = \"x\"\nkey = \"k\"\nbind = 1\n",
            "bindings.bind = ***: unknown key",
        ),
        (
            "broker = \"bunny\"\n[[bindings]]\nexchange = \"x\"\nto_exchange = \"y\"\n",
            "bindings.key: missing; accepted: a key or pattern",
        ),
        (
            "broker = \"bunny\"\n[users.u]\npassword = \"external\"\nlimits = { max_connections = -2, max_queues = 1 }\n",
            "users.u.limits.max_queues = ***: unknown key",
        ),
        (
            "broker = \"bunny\"\n[users.u]\npassword = \"external\"\nlimits = { max_connections = -2 }\n",
            "users.u.limits.max_connections = -2: accepted: ",
        ),
        (
            "broker = \"bunny\"\n[users.u]\npassword = \"external\"\ntopic_permissions = [{ exchange = \"x\", write = \"\", \
             read = \"\" }, { exchange = \"x\", write = \"\", read = \"a\" }]\n",
            "\"x\" in \"/\" has topic permissions of this user already",
        ),
        (
            "broker = \"bunny\"\n[[vhost_limits]]\nmax_queues = 1\n[[vhost_limits]]\nmax_queues = 2\n",
            "\"/\" has limits already",
        ),
        (
            "broker = \"bunny\"\n[[exchanges]]\nname = \"x\"\narguments = { a = 1.5 }\n",
            "exchanges.arguments = {…}: accepted: a table of texts",
        ),
        (
            "broker = \"bunny\"\n[[exchanges]]\nname = \"x\"\n[[exchanges]]\nname = \"x\"\n",
            "there twice",
        ),
    ] {
        let said = refused(text);
        assert!(said.iter().any(|line| line.contains(expected)), "{text}\n{said:?}");
    }
}

#[test]
fn without_the_management_api_there_are_only_commands() {
    let root = Root::new(SECRETS);
    root.write("px.toml", "[brokers.bunny]\nurls = [\"amqp://feeder@h\"]\n");
    let (read, said) = root.load("broker = \"bunny\"\n[users.root]\n");
    assert!(
        read.is_some() && said.len() == 1 && said[0].contains("only apply --as rabbitmqctl"),
        "{said:?}"
    );
}

#[test]
fn a_missing_password_is_a_warning_until_it_is_needed() {
    let (read, said) = Root::new("[bunny]\nfeeder = \"a\\nb\"\n").load("broker = \"bunny\"\n[users.feeder]\n");
    assert!(read.is_none() && said[0].contains("users.feeder"), "{said:?}");
    let text = "broker = \"bunny\"\n[users.x]\n[users.feeder]\n[users.y]\npassword = \"external\"\n";
    let (read, said) = Root::new("[bunny]\nfeeder = \"canary\"\n").load(text);
    assert_eq!(read.unwrap().without_password(), ["x"]);
    let expected =
        "broker.toml:2: users.x = {…}: warning: no password for x: secrets.toml (0600) has no [bunny] x = \"…\"";
    assert_eq!(said, [expected]);
}
