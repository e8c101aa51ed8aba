use crate::config::Places;

/// What a check of a site with these files says, with paths from `etc`.
fn findings(files: &[(&str, &str)]) -> String {
    let root = tempfile::tempdir().unwrap();
    let places = Places::under(root.path());
    for (name, text) in files.iter().chain(&[("px.conf", "user px\n")]) {
        let path = places.etc.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let report = crate::flow::check(&places);
    report.to_string().replace(&format!("{}/", places.etc.display()), "")
}

const AMQP: &str = "type amqp\nhost h\nuser u\npassword p\nexchange_name e\n";
const DROPPED: &str = "type = \"single-file\"\n";

#[test]
fn a_receiver_that_does_not_look_at_its_queue_cannot_be_fed() {
    let fed = |name: &str, text: &str| findings(&[("rx/a.toml", &format!("{DROPPED}feeds = [\"x\"]\n")), (name, text)]);
    for (name, text) in [
        ("rx/x.conf", AMQP),
        ("rx/x.toml", "type = \"amqp\"\n"),
        ("rx/x.toml", "type = \"pull\"\n"),
    ] {
        let text = fed(name, text);
        assert!(text.contains("x takes nothing from rxq/x"), "{text}");
    }
    for (name, text) in [
        ("rx/x.conf", "type single-file\nroutemask False\n"),
        ("rx/x.conf", "type bulletin-file\n"),
        ("rx/x.conf", "type single-file\npull_script p.py\n"),
        ("rx/x.toml", DROPPED),
    ] {
        assert_eq!(fed(name, text), "", "{name} {text}");
    }
    assert!(fed("rx/y.toml", DROPPED).contains("there is no receiver x"));
}

#[test]
fn receivers_that_feed_each_other_in_a_circle_are_refused() {
    let unit = |feeds: &str| format!("{DROPPED}feeds = [{feeds}]\n");
    let text = findings(&[
        ("rx/a.toml", &unit("\"d\", \"b\"")),
        ("rx/b.conf", "type single-file\nroutemask False\nfeed c\n"),
        ("rx/c.toml", &unit("\"a\"")),
        ("rx/d.toml", DROPPED),
        ("rx/e.toml", &unit("\"a\"")),
    ]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("rx/a.toml:2: feeds") && lines[0].ends_with("for ever: a, b, c, a"));
    assert!(lines[1].starts_with("rx/b.conf:3: feeds"), "{text}");
    assert!(lines[2].starts_with("rx/c.toml:2: feeds"), "{text}");
}

#[test]
fn a_directory_of_clients_that_cannot_be_listed_refuses_the_receiver() {
    let text = findings(&[("rx/a.toml", DROPPED), ("fx", "")]);
    assert!(
        text.contains("rx/a.toml:1: route: it cannot be known who the clients are: fx: cannot list"),
        "{text}"
    );
}
