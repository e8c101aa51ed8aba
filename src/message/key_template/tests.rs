use super::*;
use crate::message::{Masks, Pattern, Verdict};

const RADAR: &[u8] =
    b"radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709";
const BULLETIN: &[u8] = b"SACN43_CWAO_012000_CYOJ_41613:ncp1:CWAO:SA:3.A.I.E::20050201200339";

fn expand(key: &str, name: &[u8], groups: Option<&[&str]>) -> Result<String, KeyError> {
    let groups: Option<Vec<Vec<u8>>> =
        groups.map(|groups| groups.iter().map(|group| group.as_bytes().to_vec()).collect());
    KeyTemplate::parse(key)?.expand(name, groups.as_deref())
}

#[test]
fn groups_of_the_masks_become_words() {
    let table = [
        (
            r"^(.*)\+\+.*",
            "exp.dd.notify.${0}",
            "exp.dd.notify.radar.24_HR_ACCUM.GIF.XSS".to_string(),
        ),
        (".*", "exp.${0}", format!("exp.{}", String::from_utf8_lossy(RADAR))),
        (
            r"^(.*)\+\+.*",
            "x.${RYYYY}${RMM}${RDD}.${RHH}",
            "x.20130606.14".to_string(),
        ),
    ];
    for (mask, key, wanted) in table {
        let masks = Masks::new([(Verdict::Accept, mask)]).unwrap();
        let groups = masks.groups(RADAR).unwrap();
        let template = KeyTemplate::parse(key).unwrap();
        assert_eq!(template.expand(RADAR, groups.as_deref()), Ok(wanted), "{key}");
        assert_eq!(template.has_groups(), key.contains("{0}"), "{key}");
    }
}

#[test]
fn every_name_has_its_place() {
    let table = [
        ("${T1}", "S"),
        ("${T2}", "A"),
        ("${A1}", "C"),
        ("${A2}", "N"),
        ("${ii}", "43"),
        ("${CCCC}", "CWAO"),
        ("${YY}", "01"),
        ("${GG}", "20"),
        ("${Gg}", "00"),
        ("${BBB}", "CYO"),
        ("${RYYYY}", "2005"),
        ("${RMM}", "02"),
        ("${RDD}", "01"),
        ("${RHH}", "20"),
        ("${RMN}", "03"),
        ("${RSS}", "39"),
        ("${0}", "g0"),
        ("${1}", "g1"),
        ("${10}", "g10"),
    ];
    let groups = ["g0", "g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8", "g9", "g10"];
    for (key, wanted) in table {
        assert_eq!(expand(key, BULLETIN, Some(&groups)).as_deref(), Ok(wanted), "{key}");
    }
}

#[test]
fn the_rules_of_the_old_engine_hold() {
    let table = [
        // Without a dollar, as it stands.
        ("", ""),
        ("exp..a.", "exp..a."),
        ("{T1}", "{T1}"),
        // Empty words of the template vanish.
        (".a..${T1}.", "a.S"),
        // Pieces, also the one before the dollar, and what follows a name.
        ("{T1}x$y", "Sxy"),
        ("a${T1}b${T2}c", "aSbAc"),
        ("x.{T1}.${T2}", "x.S.A"),
        ("a$b", "ab"),
        ("a{T1}$b", "a{T1}b"),
        // What is not known.
        ("x.${9}.y", "x..y"),
        ("x.${9}z", "x.{9}z"),
        ("x.${9}z}", "x"),
        ("x.${HOME}", "x"),
        ("x.${home}z", "x.{home}z"),
        ("x.${00}", "x"),
        ("x.${+1}z", "x.{+1}z"),
        ("x.${}", "x.{}"),
        ("x.${", "x.{"),
        ("x.$", "x"),
        ("x.${0", "x.{0"),
        ("x.${t1}", "x"),
        // Dots at the end go, one within stays.
        ("x.${2}.${2}", "x"),
        ("x.${1}.y", "x.a.b.y"),
        ("${1}.${3}", "a.b.#/*"),
    ];
    for (key, wanted) in table {
        let groups = ["zero", "a.b", "", "#/*."];
        assert_eq!(expand(key, BULLETIN, Some(&groups)).as_deref(), Ok(wanted), "{key}");
    }
    assert_eq!(expand("x.${0}.y", BULLETIN, None).as_deref(), Ok("x..y"));
    assert_eq!(expand("x.${0}", BULLETIN, Some(&[])).as_deref(), Ok("x"));
}

#[test]
fn what_a_name_has_is_taken_as_far_as_it_goes() {
    let table: [(&str, &[u8], &str); 5] = [
        ("x.${T1}${A2}${ii}", b"SA", "x.S"),
        ("x.${CCCC}", b"a_:b", "x"),
        ("x.${YY}${GG}", b"a_b_123", "x.123"),
        ("x.${RYYYY}${RMM}", b"a:b:c:d:e:f:20", "x.20"),
        ("x.${RYYYY}", b"a:b:c:d:3:f:SENDER=x:20061008042436", "x.SEND"),
    ];
    for (key, name, wanted) in table {
        assert_eq!(expand(key, name, None).as_deref(), Ok(wanted), "{key}");
    }
}

#[test]
fn a_key_that_cannot_be_made_is_an_error() {
    let missing = [
        "CCCC", "YY", "GG", "Gg", "BBB", "RYYYY", "RMM", "RDD", "RHH", "RMN", "RSS",
    ];
    for wanted in missing {
        let error = expand(&format!("x.${{{wanted}}}"), b"short", None).unwrap_err();
        assert!(
            matches!(error, KeyError::Missing { wanted: found, .. } if found == wanted),
            "{wanted}: {error}"
        );
    }
    let error = expand("${RYYYY}", b"a:b:c:d:e:f", None).unwrap_err().to_string();
    assert_eq!(
        error,
        "the key wants ${RYYYY}, which is in the seventh field, and the name has none"
    );
    for key in ["$", "${9}", ".${9}.${9}.", "${0}"] {
        assert_eq!(expand(key, BULLETIN, Some(&["..."])), Err(KeyError::Empty), "{key}");
    }
}

#[test]
fn a_key_is_text_of_at_most_255_bytes() {
    let long = "a".repeat(255);
    assert_eq!(expand("${0}", b"x", Some(&[&long])), Ok(long.clone()));
    assert_eq!(expand("${0}.", b"x", Some(&[&long])), Ok(long.clone()));
    assert_eq!(expand("b${0}", b"x", Some(&[&long])), Err(KeyError::TooLong(256)));
    assert_eq!(expand(&long, b"x", None), Ok(long.clone()));
    assert_eq!(KeyTemplate::parse(&format!("{long}b")), Err(KeyError::TooLong(256)));
    let template = KeyTemplate::parse("x.${0}").unwrap();
    assert_eq!(template.expand(b"x", Some(&[b"\xe9".to_vec()])), Err(KeyError::NotText));
    assert_eq!(template.expand(b"x", Some(&["é".into()])).as_deref(), Ok("x.é"));
    assert_eq!(expand("x.${T1}", "é".as_bytes(), None), Err(KeyError::NotText));
    assert_eq!(expand("x.${T1}${T2}", "é".as_bytes(), None).as_deref(), Ok("x.é"));
}

#[test]
fn a_mask_that_gives_up_is_a_key_that_cannot_be_made() {
    let masks = Masks::new([(Verdict::Accept, Pattern::from(r"(\w*)(\w*)(\w*)\1\2\3!"))]).unwrap();
    let key = || -> Result<String, KeyError> {
        let groups = masks.groups(&[b'a'; 250])?;
        KeyTemplate::parse("x.${0}")?.expand(b"a", groups.as_deref())
    };
    assert!(matches!(key(), Err(KeyError::Undecided(_))));
}
