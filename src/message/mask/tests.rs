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

const RADAR: &str = "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709";
const PRECIPITATION: &str = "201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META::20150120180902";

fn glob(pattern: &str) -> Pattern {
    Pattern::Glob(pattern.to_string())
}

/// Every row as Python 2.7's `re.match` decides.
#[test]
fn patterns_are_spelled_as_in_python() {
    let table: &[(&str, &[u8], bool)] = &[
        ("a{x}", b"a{x}", true),
        ("{}b", b"{}b", true),
        ("a{,2}b", b"aab", true),
        ("a{,2}b", b"aaab", false),
        ("a{2,}b", b"aab", true),
        (r".*gif\Z", b"a.gif", true),
        (r".*gif\Z", b"a.gif.bak", false),
        ("(?#a comment)a", b"a", true),
        ("a(?i)b", b"AB", true),
        ("(?x) a b # comment", b"ab", true),
        ("a # no b (?x)", b"a", true),
        ("(?x)a[ #]b", b"a#b", true),
        ("(?iu)A", b"a", true),
        (r"\_\:\~\,\<\h", b"_:~,<h", true),
        (r"\101\0\x2e", b"A\0.", true),
        (r"[\101\b]+$", b"A\x08", true),
        ("[]a]+$", b"]a", true),
        ("[^]]+$", b"a]", false),
        ("[a[]+$", b"[a", true),
        ("[a&&b]$", b"&", true),
        ("[+--]+$", b"+,-", true),
        ("[~~-]$", b"-", true),
        (r"[\w.-]+$", b"a_1.-", true),
        (r"\S+\s\D\d\W$", b"\xe9 \xe90\xe9", true),
        (".", b"\n", false),
        ("(?s).", b"\n", true),
        ("", b"", true),
        ("TVE-cartes_(?:20|21)", b"TVE-cartes_2007111300_317_P45.gif", true),
        (r"(?P<a>.)(?P=a)", b"aa", true),
        // The engine that backtracks.
        (r"(?!.*:GIF:).*", RADAR.as_bytes(), false),
        (r"(?!.*:GIF:).*", PRECIPITATION.as_bytes(), true),
        (r".*(?<!GIF)::", RADAR.as_bytes(), false),
        (r"(?=radar)r", RADAR.as_bytes(), true),
        (r"x(?=radar)", RADAR.as_bytes(), false),
        (r"(.)\1", b"aa", true),
        (r"(.)\1", b"baa", false),
        (r"(.)\1[0]", b"aa0", true),
        (r"(<)?a(?(1)>|$)", b"<a>", true),
        (r"(<)?a(?(1)>|$)", b"a>", false),
        (r"(?P<q><)?a(?(q)>)", b"<a", false),
        (r"(?=.)\xe9\b\D\W[\S]$", b"\xe9\xe9\xe9\xe9", false),
        (r"(?=.)\xe9\B\D\W[\S]$", b"\xe9\xe9\xe9\xe9", true),
        (r"(?=.)é\bt\w\s[\d]", "été".as_bytes(), false),
        (r"(?=.)é\bt\s[\d]", "ét 1".as_bytes(), true),
    ];
    for (pattern, name, wanted) in table {
        let masks = Masks::new([(Accept, *pattern)]).unwrap_or_else(|errors| panic!("{pattern}: {errors:?}"));
        let found = masks.first_match(name);
        assert_eq!(
            found,
            Ok(wanted.then_some((0, Accept))),
            "{pattern} on {}",
            name.escape_ascii()
        );
    }
}

#[test]
fn what_python_refuses_or_reads_otherwise_is_refused_in_one_line() {
    let table = [
        ("(", "unclosed group"),
        (")", "unopened group"),
        ("^(.*)++.*", r"multiple repeat at +; the character itself is \+"),
        ("a{2}{3}", "multiple repeat"),
        ("a**", "multiple repeat"),
        ("*a", "missing expression"),
        ("[[:digit:]]", "as in [0-9]"),
        ("[a", "unclosed character class"),
        (r"[\w-a]", "invalid range boundary"),
        ("[z-a]", "invalid character class range"),
        (r"(.)\10", "reference to group 10"),
        (r"a\", "a backslash at the end"),
        (r"\x4", "two hexadecimal digits"),
        (r"(a)\2", "reference to group 2"),
        ("(?#", "missing )"),
        ("(?=x", "parenthesis"),
        ("(?P<n", "group"),
        ("(?<=a+)b", "ook"),
    ];
    for (pattern, wanted) in table {
        let errors = Masks::new([(Accept, pattern)]).expect_err(pattern);
        let problem = errors[0].to_string();
        assert!(
            problem.contains(wanted) && !problem.contains('\n'),
            "{pattern}: {problem}"
        );
    }
}

/// Every row as Python 2.7's `fnmatch.fnmatch` decides.
#[test]
fn globs_match_the_whole_name() {
    let table: &[(&str, &[u8], bool)] = &[
        ("*.gif", b"a.gif", true),
        ("*.gif", b"a.gif.bak", false),
        ("*", b"a\nb", true),
        ("a?c", b"a\nc", true),
        ("a?c", b"ac", false),
        ("*.GIF", b"a.gif", false),
        ("*:URP:*:GIF::20*", RADAR.as_bytes(), true),
        ("[a-c]x", b"bx", true),
        ("[!a-c]x", b"bx", false),
        ("[!a-c]x", b"dx", true),
        ("[]-]", b"]", true),
        ("[]-]", b"-", true),
        ("[!]]", b"]", false),
        ("[^a]", b"^", true),
        ("[!!]", b"a", true),
        ("[a", b"[a", true),
        ("[!]", b"[!]", true),
        ("[*]?", b"*a", true),
        (r"\*", br"\a", true),
        (".+", b".+", true),
        (".+", b"aa", false),
        ("a**b*c", b"aXbYbc", true),
        ("a*b?c", b"abbbc", true),
        ("*a*a*a*a*b", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ("?", b"\xe9", true),
        ("??", "é".as_bytes(), true),
        ("", b"", true),
        ("", b"a", false),
    ];
    for (pattern, name, wanted) in table {
        let masks = Masks::new([(Reject, glob(pattern))]).unwrap();
        let found = masks.first_match(name);
        assert_eq!(
            found,
            Ok(wanted.then_some((0, Reject))),
            "{pattern} on {}",
            name.escape_ascii()
        );
    }
    let errors = Masks::new([(Accept, glob("a[b-a]"))]).unwrap_err();
    assert_eq!(errors[0].problem, "bad range b-a");
}

#[test]
fn globs_and_regular_expressions_stand_in_one_list() {
    let masks = Masks::new([
        (Accept, glob("*:GIF:*")),
        (Reject, Pattern::Regex("(?s).*".to_string())),
    ])
    .unwrap();
    assert!(masks.accepts(RADAR.as_bytes()) && !masks.accepts(PRECIPITATION.as_bytes()) && !masks.accepts(b"a\nb"));
    assert!(masks.has_regex() && !Masks::new([(Accept, glob("*"))]).unwrap().has_regex());
}

/// Every row as Python 2.7's `re.findall` finds.
#[test]
fn groups_come_from_the_only_place_where_a_pattern_is_found() {
    let grib = "iceglbgrib2_12:iceglb:CMC:GRIB:BIN:2012";
    let table: &[(&str, &str, Option<&[&str]>)] = &[
        (r"^(.*)\+\+.*", RADAR, Some(&["radar.24_HR_ACCUM.GIF.XSS"])),
        (".*", RADAR, Some(&[RADAR])),
        ("(.*)", RADAR, Some(&[RADAR])),
        ("(?:.*)", RADAR, Some(&[RADAR])),
        (
            r"iceglbgrib2_(..):iceglb:(CMC):(GRIB):BIN.*",
            grib,
            Some(&["12", "CMC", "GRIB"]),
        ),
        (
            r"(.*)~~(\w\w),.*:(?!GIF)(\w+)::",
            PRECIPITATION,
            Some(&["201501201810", "PA", "META"]),
        ),
        (r"(\w+)\.(?:24)", RADAR, Some(&["radar"])),
        (r"(b)(x)?", "baac", Some(&["b", ""])),
        (r"(b)(?=(a))", "baac", Some(&["b", "a"])),
        (r"b(x?)", "baac", Some(&[""])),
        // Found more than once.
        (r".*?(\d{4})", PRECIPITATION, None),
        (r"ba|c", "baac", None),
        (r"b?a", "baac", None),
        (r"a*", "baac", None),
        (r"(x?)", "baac", None),
        (r"\w(?=a)", "baac", None),
        // Two groups that are empty at the end of the name are a second place all the same.
        (r"(x)?(.*)", "baac", None),
        // Not at the start, so it does not match.
        (r"aa", "baac", None),
    ];
    for (pattern, name, wanted) in table {
        let masks = Masks::new([(Accept, *pattern)]).unwrap();
        let wanted = wanted.map(|groups| groups.iter().map(|group| group.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(masks.groups(name.as_bytes()), Ok(wanted), "{pattern} on {name}");
    }
    let odd = Masks::new([(Accept, r"(?=.)(.*)\+(.)$")]).unwrap();
    assert_eq!(
        odd.groups(b"\xe9\xff+\xe9"),
        Ok(Some(vec![b"\xe9\xff".to_vec(), b"\xe9".to_vec()]))
    );
}

#[test]
fn groups_are_looked_for_mask_after_mask() {
    let name = b"baac";
    let lone = |text: &str| Ok(Some(vec![text.as_bytes().to_vec()]));
    let regex = |text: &str| Pattern::Regex(text.to_string());
    let table = [
        (vec![(Accept, regex("x")), (Accept, regex("b"))], lone("b")),
        (vec![(Reject, regex("x")), (Accept, regex("b"))], lone("b")),
        (vec![(Reject, regex("b")), (Accept, regex("b"))], Ok(None)),
        (vec![(Accept, regex("b|a")), (Accept, regex("(b)a"))], lone("b")),
        (vec![(Accept, regex("b|a")), (Reject, regex("b"))], Ok(None)),
        (vec![(Accept, glob("*")), (Accept, regex("b"))], lone("b")),
        (vec![(Reject, glob("*")), (Accept, regex("b"))], lone("b")),
        (vec![(Accept, glob("*"))], Ok(None)),
        (vec![], Ok(None)),
    ];
    for (list, wanted) in table {
        let shown = format!("{list:?}");
        assert_eq!(Masks::new(list).unwrap().groups(name), wanted, "{shown}");
    }
}

/// A name made to keep a pattern busy costs a bounded time, and is no reason to lose it.
#[test]
fn a_mask_that_gives_up_says_so() {
    let masks = Masks::new([(Accept, "x"), (Reject, r"(\w*)(\w*)(\w*)\1\2\3!")]).unwrap();
    let name = [b'a'; 250];
    let error = masks.first_match(&name).unwrap_err();
    assert_eq!(error.index, 1);
    assert!(
        error.to_string().starts_with("mask 2 of the list cannot decide"),
        "{error}"
    );
    assert!(masks.groups(&name).is_err());
    assert!(masks.accepts(&name));
    assert!(!masks.accepts(b"aa!"));
}

#[test]
fn a_finder_finds_anywhere() {
    for (regex, text, wanted) in [
        (r"^cmc\.", "cmc.pull", true),
        (r"^cmc\.", "x.cmc.pull", false),
        ("pull", "cmc.pull", true),
        ("pull$", "cmc.pull 2", false),
        ("é", "réseau", true),
        ("(?<!cmc)pull", "cmc.pull", true),
        ("(?<!cmc.)pull", "cmc.pull", false),
        ("", "", true),
    ] {
        let finder = Finder::new(regex).unwrap();
        assert_eq!(finder.finds(text.as_bytes()), Ok(wanted), "{regex} in {text}");
        assert_eq!(finder.text(), regex);
    }
    assert!(Finder::new("(").is_err());
    let busy = Finder::new(r"(\w*)(\w*)(\w*)\1\2\3!").unwrap();
    assert!(busy.finds(&[b'a'; 250]).is_err());
}
