use super::*;

/// A root with these files below `etc`.
fn site(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Places) {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join("etc").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let places = Places::under(root.path());
    (root, places)
}

/// The clients, and the findings with paths from `etc`.
fn read(files: &[(&str, &[u8])]) -> (Vec<Client>, Vec<String>) {
    let (_root, places) = site(files);
    let (clients, errors) = clients(&places);
    let etc = format!("{}/", places.etc.display());
    let findings = errors.iter().map(|error| error.to_string().replace(&etc, ""));
    (clients, findings.collect())
}

#[test]
fn clients_are_all_flows_but_receivers_whoever_runs_them() {
    use ClientKind::{Filter, Sender, Transceiver};
    let (clients, findings) = read(&[
        ("tx/z.conf", b"type amqp\n"),
        ("tx/a.conf", b"type bulletin-file\n"),
        ("tx/b.toml", b"type = \"amqp\"\n"),
        ("tx/b.conf", b"type amqp\n"),
        ("tx/expose.toml", b"type = \"announce\"\nmasks = 1\n"),
        ("tx/of f.conf.off", b""),
        ("tx/x.off", b""),
        ("tx/.hidden.conf", b""),
        ("tx/more.inc", b""),
        ("rx/r.conf", b"type amqp\n"),
        ("fx/f.conf", b""),
        ("trx/aftn.conf", b""),
        ("watch/w.toml", b""),
    ]);
    let found: Vec<_> = clients.iter().map(|client| (&*client.name, client.kind)).collect();
    let expected = [
        ("a", Sender),
        ("b", Sender),
        ("z", Sender),
        ("f", Filter),
        ("aftn", Transceiver),
    ];
    assert_eq!(found, expected);
    assert_eq!(findings, [] as [&str; 0]);
    assert!(read(&[]).0.is_empty());
}

/// The client's file, `px.conf`, what is in the file, and what the client wants and does not.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

#[test]
fn masks_are_read_in_sundews_order_with_its_fall_backs() {
    let table: [Case; 11] = [
        ("tx/c.conf", "", "", &[], &["a", "", "a\nb"]),
        ("trx/c.conf", "", "", &[], &["a", "a\nb"]),
        ("fx/c.conf", "", "", &["a", "", "a\nb"], &[]),
        (
            "tx/c.conf",
            "",
            "reject ab\naccept a",
            &["a", "axb"],
            &["ab", "ba", "b\na"],
        ),
        ("fx/c.conf", "", "reject a", &["b", "ba"], &["a"]),
        ("tx/c.conf", "accept px", "reject p\naccept .*", &["px", "a"], &["p"]),
        ("fx/c.conf", "reject px", "accept p", &["p", "a"], &["px"]),
        // Globs before all, wherever they stand, and over the whole name.
        (
            "tx/c.conf",
            "accept .*",
            "emask *.tmp\nimask a*.tmp",
            &["a", "x.tmpx"],
            &["a.tmp", "b.tmp"],
        ),
        ("tx/c.conf", "imask [!b]*", "reject a", &["a", "ab"], &["b"]),
        ("tx/c.conf", "", "accept a # a note\naccept\n#accept b", &["a"], &["b"]),
        ("rx/c.conf", "", "accept .*", &[], &[]),
    ];
    for (name, px_conf, text, wanted, unwanted) in table {
        let (clients, findings) = read(&[("px.conf", px_conf.as_bytes()), (name, text.as_bytes())]);
        assert_eq!(findings, [] as [&str; 0], "{text}");
        for (names, is_wanted) in [(wanted, true), (unwanted, false)] {
            for file in names {
                let accepted = clients[0].masks.accepts(file.as_bytes());
                assert_eq!(accepted, is_wanted, "{name} {px_conf:?} {text:?} {file:?}");
            }
        }
    }
}

#[test]
fn a_unit_in_toml_has_its_own_list_and_accepts_what_none_matches() {
    let (clients, findings) = read(&[
        ("px.conf", b"reject .*\n"),
        (
            "tx/c.toml",
            b"type = \"amqp\"\nmasks = [{ reject = \"a\" }]\nwhatever = 1\n",
        ),
    ]);
    assert_eq!(findings, [] as [&str; 0]);
    assert!(clients[0].masks.accepts(b"b") && !clients[0].masks.accepts(b"a"));
}

#[test]
fn a_bad_accept_accepts_everything_and_a_bad_reject_is_dropped_alone() {
    let (clients, findings) = read(&[
        (
            "tx/c.conf",
            b"accept (\naccept a\nimask [z-a]\ninclude c.inc\ninclude none.inc\n",
        ),
        ("tx/c.inc", b"\nreject *\naccept \xe9\n"),
    ]);
    assert!(clients[0].masks.accepts(b"a") && clients[0].masks.accepts(b"b"));
    let starts = [
        "tx/c.conf:1: accept = \"(\": warning: ",
        "tx/c.conf:3: imask = \"[z-a]\": warning: ",
        "tx/c.conf:5: include = \"none.inc\": warning: tx/none.inc: no such file",
        "tx/c.inc:2: reject = \"*\": warning: ",
        "tx/c.inc:3: accept = \"é\": warning: not UTF-8",
    ];
    assert_eq!(findings.len(), starts.len(), "{findings:#?}");
    for (finding, start) in findings.iter().zip(starts) {
        assert!(finding.starts_with(start), "{finding}");
    }
    for (finding, is_lost) in findings.iter().zip([true, true, true, false, false]) {
        let told = finding.ends_with("; until this is right, client c is sent every product");
        assert_eq!(told, is_lost, "{finding}");
    }
    let (clients, findings) = read(&[("tx/c.conf", b"accept a\nreject *\nacept b\n")]);
    assert!(clients[0].masks.accepts(b"b"), "{findings:?}");
    let (clients, findings) = read(&[("tx/c.conf", b"reject *\naccept a\n")]);
    assert!(clients[0].masks.accepts(b"a") && !clients[0].masks.accepts(b"b"));
    assert!(findings[0].ends_with("; the line is dropped, as under Sundew"));
    let (clients, _) = read(&[("fx/c.conf", b"accept (\nreject .*\n")]);
    assert!(clients[0].masks.accepts(b"b"));
}

/// Too many links are removed by its own masks; a missing one is a product lost.
#[test]
fn a_client_whose_masks_cannot_be_known_accepts_everything_with_a_warning() {
    let (clients, findings) = read(&[
        (
            "tx/a.toml",
            b"type = \"amqp\"\nmasks = [{ accept = \"(\" }]\nother = 1\n",
        ),
        ("tx/b.toml", b"type = \"amqp\"\nmasks = [\n"),
        ("tx/c.toml", b"type = \"amqp\"\n"),
        ("tx/e.conf/file", b""),
        ("fx/d.conf/file", b""),
        ("trx/f.conf/file", b""),
    ]);
    let names: Vec<&str> = clients.iter().map(|client| &*client.name).collect();
    assert_eq!(names, ["a", "b", "c", "e", "d", "f"]);
    assert!(clients.iter().all(|client| client.masks.accepts(b"any")));
    assert!(
        findings.iter().all(|finding| finding.contains("warning")),
        "{findings:?}"
    );
    for start in [
        "fx/d.conf: warning: a directory",
        "trx/f.conf: warning: a directory",
        "tx/a.toml:2: masks.accept = \"(\": warning: ",
        "tx/b.toml:",
        "tx/e.conf: warning: a directory",
    ] {
        assert!(
            findings.iter().any(|finding| finding.starts_with(start)),
            "{start} {findings:#?}"
        );
    }
}

#[test]
fn a_deliverers_masks_may_say_where_to() {
    let masks = "masks = [{ accept = 'a', directory = 'x', filename = 'NONE' }, { reject = '.*' }]\n";
    let deliver = format!("type = \"deliver\"\n{masks}");
    let (clients, findings) = read(&[("tx/d.toml", deliver.as_bytes())]);
    assert_eq!(findings, [] as [&str; 0]);
    assert!(clients[0].masks.accepts(b"a") && !clients[0].masks.accepts(b"b"));
}
