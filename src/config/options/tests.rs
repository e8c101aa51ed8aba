use super::*;
use std::path::Path;

use crate::config::{BrokerUrl, Errors, Places};

fn site() -> Site {
    let places = Places::under(Path::new("/r"));
    let url = BrokerUrl::parse("embedded:px.db", &places).unwrap();
    let mut bunny = Broker::new("bunny", url.clone());
    bunny.exchange = Some(Exchange {
        durable: false,
        ..bare("cmc".into())
    });
    Site::of(&places, [bunny, Broker::new("bare", url)])
}

/// What `read` makes of the text, and the findings.
fn read<T>(text: &str, read: impl FnOnce(&mut Table) -> Option<T>) -> (Option<T>, Vec<String>) {
    let (value, found) = Table::parse(Path::new("u.toml"), text, &Errors::default()).read_whole(read);
    (value, found.iter().map(ToString::to_string).collect())
}

#[test]
fn a_unit_names_a_broker_of_the_site() {
    let site = site();
    assert_eq!(
        read("broker = \"bunny\"", |t| broker(t, &site)).0.unwrap().name,
        "bunny"
    );
    for (text, finding) in [
        ("", "u.toml:1: broker: missing; accepted: a string that is not empty"),
        (
            "broker = \"bunni\"",
            "u.toml:1: broker = \"bunni\": px.toml has no such broker; accepted: bare, bunny",
        ),
        ("broker = 1", "u.toml:1: broker = 1: accepted: a string"),
    ] {
        assert_eq!(read(text, |t| broker(t, &site)), (None, vec![finding.to_string()]));
    }
}

#[test]
fn a_units_exchange_overrides_its_brokers() {
    let site = site();
    let (bunny, none) = (site.broker("bunny").unwrap(), site.broker("bare").unwrap());
    let of = |text: &str, broker: &Broker| read(text, |t| exchange(t, broker));
    let transient = Exchange {
        durable: false,
        ..bare("cmc".into())
    };
    assert_eq!(of("", bunny).0, Some(transient.clone()));
    assert_eq!(of("exchange = \"cmc\"", bunny).0, Some(transient));
    assert_eq!(of("exchange = { name = \"cmc\" }", bunny).0, Some(bare("cmc".into())));
    assert_eq!(of("exchange = \"xpublic\"", bunny).0, Some(bare("xpublic".into())));
    let spelled = of("exchange = { name = \"x\", type = \"fanout\", durable = false }", none)
        .0
        .unwrap();
    assert_eq!((spelled.kind, spelled.durable), (ExchangeKind::Fanout, false));
    for (text, finding) in [
        ("", "exchange: missing"),
        ("exchange = \"\"", "exchange = \"\": accepted"),
        ("exchange = [\"x\"]", "exchange = […]: accepted: a string or a table"),
        (
            "exchange = { name = \"x\", type = \"topics\" }",
            "exchange.type = \"topics\": did you mean \"topic\"?; accepted: \"topic\", \"direct\"",
        ),
        (
            "exchange = { name = \"x\", durabel = true }",
            "exchange.durabel = true: unknown key, did you mean \"durable\"",
        ),
        ("exchange = { type = \"topic\" }", "exchange.name: missing"),
    ] {
        let (value, found) = of(text, none);
        assert!(
            value.is_none() && found.len() == 1 && found[0].contains(finding),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn a_queue_without_a_name_is_of_one_connection() {
    let (own, found) = read("queue = \"\"\ndurable = false\nauto_delete = true\n", |t| {
        queue(t, None)
    });
    let own = own.unwrap();
    assert!(own.exclusive && own.name.is_empty() && !own.durable);
    assert!(
        found[0].contains("what is published while the unit is down is lost"),
        "{found:?}"
    );
    for (text, finding) in [
        ("queue = \"\"", "u.toml:1: queue = \"\": a durable queue needs a name"),
        ("queue = \"\"\ndurable = true", "u.toml:1: queue"),
        (
            "queue = \"\"\ndurable = false\nauto_delete = false",
            "u.toml:3: auto_delete = false: a queue without",
        ),
        (
            "queue = \"\"\ndurable = false\nexpires = \"1h\"",
            "u.toml:3: expires = \"1h\": a queue without",
        ),
        ("durable = false", "u.toml:1: queue: missing; accepted: a name"),
    ] {
        let (value, found) = read(text, |t| queue(t, None));
        assert!(
            value.is_none() && found.len() == 1 && found[0].starts_with(finding),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn a_quorum_queue_is_durable_named_and_of_a_cluster() {
    let site = site();
    let embedded = site.broker("bunny");
    let read_on = |text: &str, broker| read(text, |t| queue(t, broker));
    let (own, found) = read_on("queue = \"q\"\nqueue_type = \"quorum\"\nexpires = \"1h\"", None);
    assert!(own.is_some_and(|own| own.quorum && own.durable) && found.is_empty());
    let (own, _) = read_on("queue = \"q\"\nqueue_type = \"classic\"", embedded);
    assert!(own.is_some_and(|own| !own.quorum));
    for (text, broker, finding) in [
        ("queue = \"q\"", embedded, "the embedded broker has one host"),
        ("queue = \"q\"\ndurable = false", None, "always durable"),
        (
            "queue = \"q\"\nauto_delete = true",
            None,
            "never goes with its last consumer",
        ),
        ("queue = \"\"\ndurable = false", None, "needs a name"),
    ] {
        let (value, found) = read_on(&format!("queue_type = \"quorum\"\n{text}"), broker);
        assert!(
            value.is_none() && found.len() == 1 && found[0].contains(finding),
            "{text}: {found:?}"
        );
        assert!(found[0].starts_with("u.toml:1: queue_type = \"quorum\": "), "{found:?}");
    }
    let (_, found) = read_on("queue = \"q\"\nqueue_type = \"stream\"", None);
    assert!(found[0].contains("accepted: \"classic\", \"quorum\""), "{found:?}");
}

#[test]
fn queues_and_bindings() {
    let text = r##"
        queue = "cmc.q"
        expires = "30m"
        bind = ["v02.#", { exchange = "other", key = "x" }]
    "##;
    let ((own, list), found) = match read(text, |t| queue(t, None).zip(binds(t))) {
        (Some(both), found) => (both, found),
        (None, found) => panic!("{found:?}"),
    };
    assert_eq!(found, [] as [&str; 0]);
    assert!(own.durable && own.expires == Some(Duration::from_secs(1800)));
    let topology = topology(own, &bare("cmc".into()), &list);
    let names: Vec<&str> = topology
        .exchanges
        .iter()
        .map(|exchange| exchange.name.as_str())
        .collect();
    assert_eq!(names, ["cmc", "other"]);
    let binding = |at: usize| (&topology.bindings[at].exchange[..], &topology.bindings[at].key[..]);
    assert_eq!((binding(0), binding(1)), (("cmc", "v02.#"), ("other", "x")));

    let long = "x".repeat(256);
    let (value, found) = read(
        &format!("queue = \"amq.x\"\nexpires = \"0s\"\nbind = [\n\"{long}\",\n{{ key = \"a\" }}, 5,\n]\n"),
        |t| queue(t, None).zip(binds(t)),
    );
    assert!(value.is_none());
    let starts = [
        "u.toml:1: queue = \"amq.x\": accepted: a name of at most 200 bytes",
        "u.toml:2: expires = \"0s\": accepted: a duration",
        "u.toml:4: bind = \"xxx",
        "u.toml:5: bind = 5: accepted: strings or tables",
        "u.toml:5: bind.exchange: missing; accepted: a name",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (finding, start) in found.iter().zip(starts) {
        assert!(finding.starts_with(start), "{finding} is not {start}");
    }
    let (_, found) = read("bind = []", binds);
    assert!(found[0].contains("at least one"), "{found:?}");
    let is_left = |text| {
        read(text, |t| {
            t.know("queue");
            Some(is_bound_elsewhere(t))
        })
    };
    assert_eq!(is_left("queue = \"q\"\nbind = []"), (Some(true), Vec::new()));
    assert_eq!(is_left("queue = \"q\"").0, Some(false));
    assert_eq!(is_left("queue = \"\"\nbind = []").0, None); // nobody can bind what has no name
}

#[test]
fn masks_are_compiled_in_order_and_each_fault_has_its_line() {
    let (value, _) = read(
        "masks = [{ reject = \"a/b\" }, { accept = \"a\" }, { reject = \".*\" }]",
        masks,
    );
    let value = value.unwrap();
    assert!(value.accepts(b"a/c") && !value.accepts(b"a/b") && !value.accepts(b"b"));
    assert!(read("", masks).0.unwrap().accepts(b"anything"));
    let text = "[[masks]]\naccept = \"(\"\n[[masks]]\naccept = \"a\"\nreject = \"b\"\n[[masks]]\nrejct = \"x\"\n";
    let (value, found) = read(text, masks);
    assert!(value.is_none());
    assert_eq!(
        found[0],
        "u.toml:2: masks.accept = \"(\": unclosed group; accepted: a regular expression"
    );
    assert!(
        found[1].starts_with("u.toml:5: masks.reject = \"b\": accept and reject in one mask"),
        "{found:#?}"
    );
    assert!(found[2].starts_with("u.toml:6: masks.accept: missing"), "{found:#?}");
    assert!(found[3].contains("did you mean \"reject\""), "{found:#?}");
}

#[test]
fn masks_may_be_shell_patterns() {
    let text = "masks = [{ reject_glob = \"*.bak\" }, { accept_glob = \"a*\" }, { reject = \"(?!b)\" }]";
    let masks_of_all = read(text, masks).0.unwrap();
    for (name, is_wanted) in [
        ("a.gif", true),
        ("a.bak", false),
        ("a.bak2", true),
        ("b.gif", true),
        ("c.gif", false),
    ] {
        assert_eq!(masks_of_all.accepts(name.as_bytes()), is_wanted, "{name}");
    }
    let bad = [
        (
            "masks = [{ accept_glob = \"[b-a]\" }]",
            "u.toml:1: masks.accept_glob = \"[b-a]\": bad range b-a; accepted: a shell pattern",
        ),
        (
            "masks = [{ accept = \"a\", reject_glob = \"b\" }]",
            "u.toml:1: masks.reject_glob = \"b\": accept and reject_glob in one mask",
        ),
        (
            "masks = [{ reject = 1 }]",
            "u.toml:1: masks.reject = 1: accepted: a regular expression",
        ),
        (
            "masks = [{}]",
            "u.toml:1: masks.accept: missing; accepted: { accept = REGULAR",
        ),
    ];
    for (text, start) in bad {
        let (value, found) = read(text, masks);
        assert!(value.is_none(), "{text}");
        assert!(found.len() == 1 && found[0].starts_with(start), "{found:#?}");
    }
}

#[test]
fn masks_have_more_than_patterns_only_for_those_who_ask() {
    let text = "masks = [{ accept = \"a\", directory = \"x\" }, { reject = \"b\" }]";
    let (value, found) = read(text, masks);
    assert!(value.is_none() && found.len() == 1, "{found:#?}");
    assert!(found[0].starts_with("u.toml:1: masks.directory"), "{found:#?}");
    let own = |text| {
        read(text, |table| {
            masks_with(table, |mask, _| Some(mask.string("directory")))
        })
        .0
    };
    assert_eq!(own(text).unwrap().1, [Some("x".to_string()), None]);
    assert_eq!(own("").unwrap().1, []);
    let (value, found) = read(text, |table| masks_with(table, |_, _| None::<()>));
    assert!(value.is_none() && found.len() == 1, "{found:#?}");
}

#[test]
fn sync_is_power_unless_it_says_crash() {
    for (text, expected) in [("", 'p'), ("sync = \"power\"", 'p'), ("sync = \"crash\"", 'c')] {
        assert_eq!(read(text, |t| Some(sync(t, 'p', 'c'))).0, Some(expected));
    }
    assert_eq!(read("sync = \"never\"", |t| Some(sync(t, 'p', 'c'))).0, None);
}

#[test]
fn a_units_log_overrides_the_sites_word_by_word() {
    let site = Log {
        keep: 7,
        level: tracing::Level::WARN,
    };
    let table = [
        ("", 7, tracing::Level::WARN, 0),
        ("log = { keep = 5 }", 5, tracing::Level::WARN, 0),
        ("log.level = \"debug\"", 7, tracing::Level::DEBUG, 0),
        ("log = { keep = 0, levl = \"debug\" }", 7, tracing::Level::WARN, 2),
        ("log = \"info\"", 7, tracing::Level::WARN, 1),
    ];
    for (text, keep, level, errors) in table {
        let unit = Table::parse(Path::new("u.toml"), text, &Errors::default());
        let mut read = None;
        let (_, found) = unit.read_whole(|table| {
            read = Some(log(table, &site));
            Some(())
        });
        assert_eq!((read, found.len()), (Some(Log { keep, level }), errors), "{text}");
    }
}
