use super::*;
use Verdict::{Accept, Reject};

#[test]
fn the_first_match_wins_and_no_match_accepts() {
    let masks = Masks::new([(Accept, "site/keep.*"), (Reject, "site/"), (Reject, r".*\.bak$")]).unwrap();
    let table: &[(&[u8], bool)] = &[
        (b"site/keep/a.bak", true),
        (b"site/a.xml", false),
        (b"my/site/a.xml", true),
        (b"other/a.bak", false),
        (b"other/a.bak2", true),
        (b"", true),
    ];
    for (name, wanted) in table {
        assert_eq!(masks.accepts(name), *wanted, "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(masks.first_match(b"other/a.bak"), Ok(Some((2, Reject))));
    assert!(Masks::default().accepts(b"anything"));
}

#[test]
fn patterns_are_anchored_at_the_start_only() {
    let masks = Masks::new([(Accept, "^(.*)\\+\\+.*"), (Accept, "a|b"), (Reject, ".*")]).unwrap();
    for (name, wanted) in [
        ("dir++file", true),
        ("a.gif", true),
        ("ba", true),
        ("ca", false),
        ("xx", false),
    ] {
        assert_eq!(masks.accepts(name.as_bytes()), wanted, "{name}");
    }
}

#[test]
fn names_need_not_be_utf8() {
    let masks = Masks::new([(Reject, r".*\.gif$"), (Reject, "[é]t"), (Reject, "(?x) old # comment")]).unwrap();
    for name in [&b"caf\xe9.gif"[..], "été".as_bytes(), b"old"] {
        assert!(!masks.accepts(name), "{name:?}");
    }
    assert!(masks.accepts(b"caf\xe9.png"));
}

#[test]
fn every_wrong_pattern_is_reported_by_its_place() {
    let errors = Masks::new([(Accept, "("), (Accept, "fine"), (Reject, "[z-a]"), (Reject, "(?=x")]).unwrap_err();
    let places: Vec<usize> = errors.iter().map(|error| error.index).collect();
    assert_eq!(places, [0, 2, 3]);
    assert!(errors[0].to_string().contains("unclosed group"), "{}", errors[0]);
}
