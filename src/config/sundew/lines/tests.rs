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

/// The lines of `tx/a.conf` and all findings with paths from `etc`.
fn read(dir: FlowDir, files: &[(&str, &[u8])]) -> (Vec<String>, Vec<String>) {
    let (_root, places) = site(files);
    let errors = Errors::default();
    let file = places.etc.join(dir.name()).join("a.conf");
    let lines = flow(&places, dir, &file, &errors);
    let etc = format!("{}/", places.etc.display());
    let lines = lines.iter().map(|line| line.words.join(" "));
    let findings = errors.take();
    let findings = findings.iter().map(|finding| finding.to_string().replace(&etc, ""));
    (lines.collect(), findings.collect())
}

#[test]
fn a_line_is_words_between_blanks() {
    let table: &[(&[u8], &[&str])] = &[
        (b"type amqp", &["type", "amqp"]),
        (b"\t type \x0b amqp \x0c \r", &["type", "amqp"]),
        (b"accept .* # all", &["accept", ".*", "#", "all"]),
        (b"accept \"a b\"", &["accept", "\"a", "b\""]),
        (b"type#x amqp", &["type#x", "amqp"]),
        ("accept ^é".as_bytes(), &["accept", "^é"]),
        (b"accept \xe9\xa0", &["accept", "\u{e9}\u{a0}"]),
        (b"timeout", &["timeout"]),
        (b"", &[]),
        (b"# type amqp", &[]),
        (b"  \t#type amqp \xe9", &[]),
    ];
    for (line, wanted) in table {
        let found = words(line).map(|(words, _)| words).unwrap_or_default();
        assert_eq!(found, *wanted, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn the_site_comes_first_and_the_last_type_wins() {
    let files: [(&str, &[u8]); 2] = [
        ("px.conf", b"user px\ntype script\n"),
        ("tx/a.conf", b"type amqp\naccept .*"),
    ];
    let (lines, findings) = read(FlowDir::Tx, &files);
    assert_eq!(lines, ["user px", "type script", "type amqp", "accept .*"]);
    assert_eq!(findings, [] as [&str; 0]);
    let (_root, places) = site(&files);
    let errors = Errors::default();
    let lines = flow(&places, FlowDir::Tx, &places.etc.join("tx/a.conf"), &errors);
    assert_eq!(flow_type(&lines).map(Line::value), Some("amqp"));
    assert_eq!(lines.iter().filter(|line| line.is_site).count(), 2);
    assert_eq!(flow_type(&lines[..1]).map(Line::value), None);
}

#[test]
fn includes_stand_in_their_place() {
    let files: [(&str, &[u8]); 5] = [
        ("px.conf", b"include site.inc\n"),
        ("tx/site.inc", b"batch 1\n"),
        ("tx/a.conf", b"accept a\ninclude one.inc\naccept b\n"),
        ("tx/one.inc", b"accept one\ninclude two.inc\ninclude two.inc\n"),
        ("tx/two.inc", b"accept two\n"),
    ];
    let (lines, findings) = read(FlowDir::Tx, &files);
    assert_eq!(findings, [] as [&str; 0]);
    let lines: Vec<String> = lines.into_iter().filter(|line| !line.starts_with("include")).collect();
    let expected = [
        "batch 1",
        "accept a",
        "accept one",
        "accept two",
        "accept two",
        "accept b",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_bad_include_is_one_error_that_names_its_line() {
    let (lines, findings) = read(
        FlowDir::Tx,
        &[
            (
                "tx/a.conf",
                b"include none.inc\ninclude self.inc\ninclude ../tx\naccept a\n",
            ),
            ("tx/self.inc", b"\ninclude self.inc\n"),
        ],
    );
    assert_eq!(lines.last().map(String::as_str), Some("accept a"));
    let expected = [
        "tx/a.conf:1: include = \"none.inc\": tx/none.inc: no such file",
        "tx/a.conf:3: include = \"../tx\": tx/../tx: a directory, not a file",
        "tx/self.inc:2: include = \"self.inc\": the file includes itself",
    ];
    assert_eq!(findings, expected);
}

#[test]
fn includes_neither_go_round_nor_multiply_without_end() {
    // Another name of the same file at every step.
    let (lines, findings) = read(FlowDir::Tx, &[("tx/a.conf", b"include a.conf\naccept a\n")]);
    assert_eq!((lines.len(), findings.len()), (2, 1));
    let dots: Vec<(String, String)> = (0..20)
        .map(|n| (format!("tx/{n}.inc"), format!("include {}.inc\naccept x\n", n + 1)))
        .collect();
    let mut files: Vec<(&str, &[u8])> = dots.iter().map(|(name, text)| (&name[..], text.as_bytes())).collect();
    files.push(("tx/a.conf", b"include 0.inc\n"));
    let (_, findings) = read(FlowDir::Tx, &files);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("more than 16 files"), "{findings:?}");
    let large = vec![b'#'; 1 << 20];
    let many = b"include large.inc\n".repeat(10);
    let (lines, findings) = read(FlowDir::Tx, &[("tx/a.conf", &many), ("tx/large.inc", &large)]);
    assert_eq!((lines.len(), findings.len()), (10, 7));
    assert!(findings[0].contains("larger than 4 MiB"), "{findings:?}");
}

#[test]
fn a_receiver_includes_nothing_and_is_told_so() {
    let (lines, findings) = read(
        FlowDir::Rx,
        &[
            ("px.conf", b"include p.inc\n"),
            ("rx/a.conf", b"include b.inc\n"),
            ("tx/b.inc", b"type x\n"),
        ],
    );
    assert_eq!(lines, ["include p.inc", "include b.inc"]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("rx/a.conf:1: include = \"b.inc\": warning: Sundew reads no include here"));
}

#[test]
fn words_that_are_no_utf8_are_a_warning_and_comments_are_not() {
    let (lines, findings) = read(FlowDir::Rx, &[("rx/a.conf", b"# \xe9t\xe9\naccept \xe9t\xe9\n")]);
    assert_eq!(lines, ["accept \u{e9}t\u{e9}"]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with("rx/a.conf:2: accept = \"été\": warning: not UTF-8"),
        "{findings:?}"
    );
}

#[test]
fn no_password_is_shown() {
    let (_root, places) = site(&[(
        "tx/a.conf",
        b"password canary\ndestination amqp://u:canary@h//data\npasswd canary x",
    )]);
    let errors = Errors::default();
    let lines = flow(&places, FlowDir::Tx, &places.etc.join("tx/a.conf"), &errors);
    for line in &lines {
        let shown = format!("{line:?} {} {:?}", line.error("x"), line.warning("x"));
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_file_that_is_missing_or_too_large_is_one_error() {
    let (lines, findings) = read(FlowDir::Tx, &[("px.conf", &vec![b'#'; 2 << 20])]);
    assert!(lines.is_empty());
    assert_eq!(
        findings,
        ["px.conf: larger than 1048576 bytes", "tx/a.conf: no such file"]
    );
}
