use super::*;
use crate::config::ClientKind;

fn clients(names: &str) -> Vec<Client> {
    let client = |name: &str| Client {
        name: name.to_string(),
        kind: ClientKind::Sender,
        masks: Masks::default(),
    };
    names.split(' ').map(client).collect()
}

/// Loads the text as `pxRouting.conf` of a site with the clients a, b, c, aftn and with.dot; the findings without the
/// directory's name, which is `@` in the text.
fn load(text: &[u8], others: &[(&str, &[u8])]) -> (RoutingTable, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let write = |name: &str, text: &[u8]| {
        let text: Vec<u8> = text
            .iter()
            .flat_map(|byte| match byte {
                b'@' => at.as_bytes().to_vec(),
                byte => vec![*byte],
            })
            .collect();
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    write("pxRouting.conf", text);
    for (name, text) in others {
        write(name, text);
    }
    let path = dir.path().join("pxRouting.conf");
    let (table, findings) = RoutingTable::load(&path, &clients("a b c aftn with.dot")).unwrap();
    let findings = findings.iter().map(|finding| finding.to_string().replace(&at, "@"));
    (table, findings.collect())
}

/// `a,b 3`; empty where the key is not routed.
fn routed(table: &RoutingTable, key: &[u8]) -> String {
    table.route(key).map_or_else(String::new, |route| {
        format!("{} {}", route.clients.join(","), route.priority)
    })
}

#[test]
fn keys_and_patterns_lead_to_clients() {
    let table: [(&str, &str, &str); 19] = [
        ("key K a 3", "K", "a 3"),
        ("key K a 3", "KK", ""),
        ("key K a 3", "", ""),
        ("key\tK \x0b a,b  5\r", "K", "a,b 5"),
        ("key K b,a,b,,a 0", "K", "b,a 0"),
        ("key K 2", "K", " 2"),
        ("key_accept K.* a 4", "Kx", "a 4"),
        ("key_accept K.* 4", "Kx", " 4"),
        // From the start, and not to the end.
        ("key_accept K a 4", "Kx", "a 4"),
        ("key_accept K a 4", "xK", ""),
        ("key_accept (?!K) a 4", "xK", "a 4"),
        ("key_accept .* a 4\nkey K b 1", "K", "b 1"),
        ("key_accept K a 4\nkey_accept .* b 1", "Kx", "a 4"),
        ("key_accept K a 4\nkey_accept .* b 1", "x", "b 1"),
        (
            "clientAlias two a,b\nclientAlias all two,c\nkey K c,all 3",
            "K",
            "c,a,b 3",
        ),
        ("clientAlias a b\nkey K a 3", "K", "b 3"),
        ("subclient aftn X,Y\nkey K aftn.X,a,aftn.Y 3", "K", "aftn,a 3"),
        ("key K with.dot 3", "K", "with.dot 3"),
        (
            "# key K b 1\n\nkey K a 3\n #key K b 1\naftnMap DEFAULT AACN30",
            "K",
            "a 3",
        ),
    ];
    for (text, key, expected) in table {
        let (table, findings) = load(text.as_bytes(), &[]);
        assert_eq!(routed(&table, key.as_bytes()), expected, "{text}");
        assert_eq!(findings, [] as [&str; 0], "{text}");
    }
}

#[test]
fn keys_are_bytes() {
    let (table, findings) = load(b"key \xe9 a 3\nkey_accept \xe8 a 3\n", &[]);
    assert_eq!(routed(&table, b"\xe9"), "a 3");
    assert_eq!(routed(&table, "é".as_bytes()), "");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with("@/pxRouting.conf:2: key_accept = \"è a 3\": warning: not UTF-8"),
        "{findings:?}"
    );
}

#[test]
fn each_bad_line_is_one_finding_and_the_others_count() {
    let table = [
        ("key", format!("key: {KEY}")),
        ("key K", format!("key = \"K\": {KEY}")),
        ("key K a b 3", format!("key = \"K a b 3\": {KEY}")),
        ("key K a 3 # note", format!("key = \"K a 3 # note\": {KEY}")),
        ("key K a", format!("key = \"K a\": {PRIORITY}")),
        ("key K a 6", format!("key = \"K a 6\": {PRIORITY}")),
        ("key K a 10", format!("key = \"K a 10\": {PRIORITY}")),
        ("key_accept", format!("key_accept: {KEY_ACCEPT}")),
        ("key_accept K a x", format!("key_accept = \"K a x\": {PRIORITY}")),
        ("clientAlias A", format!("clientAlias = \"A\": {ALIAS}")),
        ("clientAlias A ,", format!("clientAlias = \"A ,\": {ALIAS}")),
        ("subclient A", format!("subclient = \"A\": {SUBCLIENT}")),
        ("aftnMap A", format!("aftnMap = \"A\": {AFTN_MAP}")),
        ("include", format!("include: {INCLUDE}")),
        ("include more.conf", format!("include = \"more.conf\": {INCLUDE}")),
        ("include @/none", "include = \"@/none\": no such file".to_string()),
        (
            "include @/pxRouting.conf",
            "include = \"@/pxRouting.conf\": the file includes itself".to_string(),
        ),
    ];
    for (line, expected) in table {
        let (table, findings) = load(format!("key B a 3\n{line}\nkey A b 3\n").as_bytes(), &[]);
        assert_eq!(findings, [format!("@/pxRouting.conf:2: {expected}")], "{line}");
        assert_eq!(
            (routed(&table, b"B"), routed(&table, b"A")),
            ("a 3".into(), "b 3".into()),
            "{line}"
        );
        assert_eq!(routed(&table, b"K"), "", "{line}");
    }
    let (_, findings) = load(b"key_accept ( a 3\n", &[]);
    assert_eq!(findings.len(), 1);
    assert!(
        findings[0].starts_with("@/pxRouting.conf:1: key_accept = \"( a 3\": "),
        "{findings:?}"
    );
}

#[test]
fn what_counts_otherwise_than_it_seems_is_a_warning() {
    let table = [
        (
            "key_reject K a 3",
            "key_reject = \"K a 3\": warning: Sundew passes over it, and so does px; accepted: key, ",
        ),
        (
            "clientAlias A a # note",
            "clientAlias = \"A a # note\": warning: there are more words than Sundew reads",
        ),
        (
            "key K a 3",
            "key = \"K a 3\": warning: the key has a line before this one already: this one counts",
        ),
        (
            "key_accept P a 3",
            "key_accept = \"P a 3\": warning: the pattern has a line before this one already",
        ),
    ];
    for (line, expected) in table {
        let (table, findings) = load(
            format!("key K b 1\nkey_accept P b 1\nkey_accept .* c 1\n{line}\n").as_bytes(),
            &[],
        );
        assert_eq!(findings.len(), 1, "{line} {findings:?}");
        assert!(
            findings[0].starts_with(&format!("@/pxRouting.conf:4: {expected}")),
            "{findings:?}"
        );
        let replaced = |directive: &str| if line.starts_with(directive) { "a 3" } else { "b 1" };
        assert_eq!(routed(&table, b"K"), replaced("key "));
        assert_eq!(routed(&table, b"P"), replaced("key_accept "));
    }
}

#[test]
fn clients_that_the_site_does_not_have_are_dropped_with_sundews_warning() {
    let text =
        b"clientAlias early late,a\nclientAlias late b\nkey K nobody,a,early,aftn.X\nkey K nobody,a,early,aftn.X 3\n\
        key_accept L nobody,elsewhere 3\nsubclient gone X\nkey M gone.X 3\n";
    let (table, findings) = load(text, &[]);
    assert_eq!(
        (routed(&table, b"K"), routed(&table, b"L")),
        ("a 3".into(), " 3".into())
    );
    let expected = [
        format!("@/pxRouting.conf:3: key = \"K nobody,a,early,aftn.X\": {PRIORITY}"),
        "@/pxRouting.conf:4: key: warning: Client aftn.X is in pxRouting.conf but not in px".into(),
        "@/pxRouting.conf:4: key: warning: Client late is in pxRouting.conf but not in px".into(),
        "@/pxRouting.conf:4: key: warning: Client nobody is in pxRouting.conf but not in px".into(),
        "@/pxRouting.conf:5: key_accept: warning: Client elsewhere is in pxRouting.conf but not in px".into(),
        "@/pxRouting.conf:7: key: warning: Client gone is in pxRouting.conf but not in px".into(),
    ];
    assert_eq!(findings, expected);
}

#[test]
fn included_lines_stand_in_their_place_and_never_without_end() {
    let others: [(&str, &[u8]); 3] = [
        ("one.conf", b"clientAlias A a,b\nkey K A 1\n"),
        ("round.conf", b"\ninclude @/back.conf\n"),
        ("back.conf", b"include @/round.conf\nkey B a 1\n"),
    ];
    let text = b"key K c 2\ninclude @/one.conf\nkey L A 3\ninclude @/round.conf\n";
    let (table, findings) = load(text, &others);
    assert_eq!(
        (routed(&table, b"K"), routed(&table, b"L")),
        ("a,b 1".into(), "a,b 3".into())
    );
    assert_eq!(routed(&table, b"B"), "a 1");
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert_eq!(
        findings[0],
        "@/back.conf:1: include = \"@/round.conf\": the file includes itself"
    );
    assert!(
        findings[1].starts_with("@/one.conf:2: key = \"K A 1\": warning: the key has a line before"),
        "{findings:?}"
    );
}

#[test]
fn a_large_table_is_loaded_and_a_thousand_findings_are_enough() {
    let mut text = String::new();
    for number in 0..50_000 {
        text.push_str(&format!("key K{number} a,b 3\nkey K{number}\n"));
    }
    let (table, findings) = load(text.as_bytes(), &[]);
    assert_eq!((table.keys.len(), table.routes.len()), (50_000, 1));
    assert_eq!(findings.len(), FINDINGS_MAX + 1);
    assert!(findings.last().unwrap().contains("more than 1000 findings"));
    assert_eq!(format!("{table:?}"), "RoutingTable(50000 keys, 0 patterns)");
}

#[test]
fn a_table_that_cannot_be_read_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pxRouting.conf");
    let error = RoutingTable::load(&path, &[]).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: no such file", path.display()));
    assert!(!error.warning);
}
