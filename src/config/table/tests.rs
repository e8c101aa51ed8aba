use super::*;

fn parse(text: &str) -> (Table, Errors) {
    let errors = Errors::default();
    (Table::parse(Path::new("x.toml"), text, &errors), errors)
}

/// The findings of reading `text` with `read`, one a line.
fn findings(text: &str, read: impl FnOnce(&mut Table)) -> Vec<String> {
    let (mut table, errors) = parse(text);
    read(&mut table);
    table.finish();
    errors.take().iter().map(ToString::to_string).collect()
}

#[test]
fn good_values_are_read() {
    let text = r##"
        name = "a"
        flag = true
        count = 0x10
        keep = "10m"
        most = "50MB"
        bind = ["a.#", "b"]
        by = "path"
        announce = ["v02", { format = "v00", key = "k" }]
        one = "v02"
        seen.by = "name"
        seen.entries = 5
        inline = { x = 1 }
        [[tree]]
        path = "/a"
        [[tree]]
        path = "/b"
    "##;
    let found = findings(text, |t| {
        assert_eq!(t.string("name").as_deref(), Some("a"));
        assert_eq!(t.boolean("flag"), Some(true));
        assert_eq!(t.integer::<u8>("count", 1..=100), Some(16));
        assert_eq!(t.duration("keep"), Some(Duration::from_secs(600)));
        assert_eq!(t.size("most"), Some(50_000_000));
        assert_eq!(t.strings("bind").unwrap(), ["a.#", "b"]);
        assert_eq!(t.choice("by", &[("name", 1), ("path", 2)]), Some(2));
        let mut items = t.values("announce").into_iter();
        assert!(matches!(items.next(), Some(Item::Text(text)) if text == "v02"));
        let Some(Item::Table(mut format)) = items.next() else {
            panic!("no table")
        };
        assert_eq!(format.string("format").as_deref(), Some("v00"));
        assert_eq!(format.string("key").as_deref(), Some("k"));
        format.finish();
        assert!(matches!(&t.values("one")[..], [Item::Text(_)]));
        let seen = t.within("seen", |t| Some((t.string("by")?, t.integer::<u64>("entries", 0..=9)?)));
        assert_eq!(seen, Some(("name".to_string(), 5)));
        assert_eq!(t.within("inline", |t| t.integer::<i64>("x", 0..=1)), Some(1));
        let paths: Vec<_> = t
            .tables("tree")
            .into_iter()
            .map(|mut tree| {
                let path = tree.string("path");
                tree.finish();
                path.unwrap()
            })
            .collect();
        assert_eq!(paths, ["/a", "/b"]);
        assert_eq!(t.string("absent"), None);
    });
    assert_eq!(found, [] as [&str; 0]);
}

#[test]
fn every_fault_has_its_line_key_value_and_what_is_accepted() {
    let text = r#"name = 5
flag = "yes"
count = 300
keep = "10"
most = 50
bind = [
  "a",
  7,
]
by = "size"
seen.by = "nam"

[table]
x = 1

[[tree]]
path = "/a"

[[tree]]
depth = "deep"
"#;
    let found = findings(text, |t| {
        assert_eq!(t.string("name"), None);
        assert_eq!(t.boolean("flag"), None);
        assert_eq!(t.integer::<u16>("count", 1..=100), None);
        assert_eq!(t.duration("keep"), None);
        assert_eq!(t.size("most"), None);
        assert_eq!(t.strings("bind"), None);
        assert_eq!(t.choice("by", &[("name", 1), ("path", 2)]), None);
        t.within("seen", |t| t.choice("by", &[("name", 1)]));
        assert_eq!(t.string("table"), None);
        for mut tree in t.tables("tree") {
            tree.required_string("path");
            tree.integer::<u8>("depth", 0..=9);
            tree.finish();
        }
        t.required_string("queue");
    });
    assert_eq!(
        found,
        [
            r#"x.toml:1: name = 5: accepted: a string"#,
            r#"x.toml:1: queue: missing; accepted: a string that is not empty"#,
            r#"x.toml:2: flag = "yes": accepted: true or false"#,
            r#"x.toml:3: count = 300: accepted: a whole number from 1 to 100"#,
            r#"x.toml:4: keep = "10": accepted: a duration such as "250ms", "30s", "10m", "24h" or "7d""#,
            r#"x.toml:5: most = 50: accepted: a size such as "512B", "50MB" (decimal) or "50MiB" (binary)"#,
            r#"x.toml:8: bind = 7: accepted: a list of strings"#,
            r#"x.toml:10: by = "size": accepted: "name", "path""#,
            r#"x.toml:11: seen.by = "nam": did you mean "name"?; accepted: "name""#,
            r#"x.toml:13: table = {…}: accepted: a string"#,
            r#"x.toml:19: tree.path: missing; accepted: a string that is not empty"#,
            r#"x.toml:20: tree.depth = "deep": accepted: a whole number from 0 to 9"#,
        ]
    );
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion_and_the_list() {
    let found = findings("brokr = \"b\"\nzzz = 1\n[seen]\nentrys = 3\n", |t| {
        t.string("broker");
        t.string("queue");
        t.within("seen", |t| t.integer::<u8>("entries", 0..=9));
    });
    assert_eq!(
        found,
        [
            r#"x.toml:1: brokr = "b": unknown key, did you mean "broker"?; accepted: broker, queue, seen"#,
            r#"x.toml:2: zzz = ***: unknown key; accepted: broker, queue, seen"#,
            r#"x.toml:4: seen.entrys = 3: unknown key, did you mean "entries"?; accepted: entries"#,
        ]
    );
}

#[test]
fn several_syntax_errors_are_told_at_once_and_not_twice() {
    let found = findings("a = \nb = [1,, 2]\nc = \"open\nd = 1\nd = 2\nflag = maybe\n", |t| {
        t.required_string("a");
        t.strings("b");
        t.string("c");
        t.integer::<u8>("d", 0..=9);
        t.boolean("flag");
        t.required_string("queue");
    });
    let lines: Vec<&str> = found.iter().map(|text| &text[..9]).collect();
    assert!(found.iter().all(|text| text.contains("not TOML: ")), "{found:#?}");
    for line in ["x.toml:1:", "x.toml:2:", "x.toml:3:", "x.toml:5:", "x.toml:6:"] {
        assert!(lines.contains(&line), "{line} in {found:#?}");
    }
}

#[test]
fn a_warning_refuses_nothing() {
    let (table, _) = parse("old = 1\n");
    let (value, found) = table.read_whole(|t| {
        t.warn("old", "not served by this version");
        t.integer::<u8>("old", 0..=1)
    });
    assert_eq!(value, Some(1));
    assert_eq!(
        found[0].to_string(),
        "x.toml:1: old = 1: warning: not served by this version"
    );
    let (table, _) = parse("old = 1\n");
    let (value, found) = table.read_whole(|_| Some(()));
    assert_eq!((value, found.len()), (None, 1));
}

#[test]
fn passwords_are_not_shown_whatever_is_wrong() {
    let text = r#"
pasword = "canary"
passphrase = "canary"
url = "amqp://u:canary@h"
list = ["amqp://u:canary@h", 3]
what = { password = "canary" }
whot = "canary"
password = ["canary"]
"#;
    let found = findings(text, |t| {
        t.integer::<u8>("url", 0..=1);
        t.parsed_list("list", |_| Err::<(), _>(String::new()), "nothing");
        t.string("what");
        t.string("password");
    });
    // Mistyped harmless keys are shown, so `whot` is the price of a suggestion; it is no password's name.
    let leaks: Vec<_> = found
        .iter()
        .filter(|text| text.contains("canary") && !text.contains("whot"))
        .collect();
    assert_eq!(leaks, [] as [&String; 0]);
    assert!(found.len() >= 7, "{found:#?}");
    let (table, errors) = parse("[bunny]\nfeeder = 5\nx = \"canary\"\n");
    let mut table = table.keep_secret();
    table.within("bunny", |t| t.string("feeder"));
    assert!(!format!("{table:?}").contains("canary"));
    table.finish();
    let found: Vec<String> = errors.take().iter().map(ToString::to_string).collect();
    assert_eq!(found[0], "x.toml:2: bunny.feeder = ***: accepted: a string");
    assert!(!found.concat().contains("canary"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in r#"([a-c."'\[\]={},#0-9\n \\]|[a-c] = |\[\[a\]\]\n|\[a\]\n){0,60}"#) {
        let (mut table, errors) = parse(&text);
        for key in ["a", "b"] {
            table.values(key);
        }
        table.strings("c");
        table.finish();
        errors.take();
    }
}
