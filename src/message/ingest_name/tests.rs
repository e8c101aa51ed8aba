use super::*;
use crate::message::{Pattern, Verdict};

const RADAR: &str = "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF::20130606144709";
const PRECIPITATION: &str = "201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META::20150120180902";
const ECHOTOP: &str = "200801151910~NAV9_ONT_ECHOTOP~ECHOTOP,2.0,100M,AGL,78,N:URP:NAV9_ONT:RADAR:IMV6::20080115191243";
const CARTES: &str = "TVE-cartes_2007111300_317_P45.gif:TVE:CMOI:CARTES:4:GIF:20071113033933";
const MAPS: &str = "MAPS_12Z:OCXCARTE:CMC:CHART:IMV6::20120611192817";
const SACN31: &str = "SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct:20061008042436";
const SACN43: &str = "SACN43_CWAO_012000_CYOJ_41613:ncp1:CWAO:SA:3.A.I.E::20050201200339";
const SAUY: &str = "SAUY_SUMU_280100_00005:nws-alph:SUMU:SA:5:Direct:20051107210952";
const ISAA51: &str = "ISAA51_CWXS_211500___60968:ncp1deb-bufr:CWXS:IS:3:ncpdeb_bufr:20120821150803";
const GRIB: &str = "iceglbgrib2_12:iceglb:CMC:GRIB:BIN:2012";

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_received_name_is_filled_from_the_extension() {
    let named = Extension::parse("-NAME:CC:TT:3:FMT", "ss").unwrap();
    let table = [
        (
            "plain",
            "plain:MISSING:MISSING:MISSING:MISSING:",
            "plain:ss:CC:TT:3:FMT",
            false,
        ),
        ("a::c", "a:MISSING:c:MISSING:MISSING:", "a:ss:c:TT:3:FMT", false),
        ("a:b:c:d:e:f:g:h", "a:b:c:d:e:f", "a:b:c:d:e:f", true),
        ("a:b:c:d:e:f:", "a:b:c:d:e:f", "a:b:c:d:e:f", true),
        ("a:b:c:d:e:f", "a:b:c:d:e:f", "a:b:c:d:e:f", false),
        // What a sender's header becomes at a receiver.
        (
            "f:URP:XSS:RADAR:GIF:",
            "f:URP:XSS:RADAR:GIF:",
            "f:URP:XSS:RADAR:GIF:FMT",
            false,
        ),
        // Field 0 is never filled.
        ("", ":MISSING:MISSING:MISSING:MISSING:", ":ss:CC:TT:3:FMT", false),
        (":b", ":b:MISSING:MISSING:MISSING:", ":b:CC:TT:3:FMT", false),
    ];
    for (received, by_default, by_named, is_truncated) in table {
        for (extension, wanted) in [(&Extension::default(), by_default), (&named, by_named)] {
            let stem = extension.stem(received.as_bytes());
            assert_eq!(
                (text(stem.name).as_str(), stem.is_truncated),
                (wanted, is_truncated),
                "{received}"
            );
        }
    }
    let stem = named.stem(b"\xff:\xe9");
    assert_eq!(stem.name, b"\xff:\xe9:CC:TT:3:FMT");
    assert_eq!(
        text(stamped(b"plain:ss:CC:TT:3:FMT", utc("2026-11-21T20:12:34.9Z"))),
        "plain:ss:CC:TT:3:FMT:20261121201234"
    );
}

#[test]
fn an_extension_has_five_fields() {
    assert_eq!(
        Extension::parse("MISSING:MISSING:MISSING:MISSING:", "x"),
        Ok(Extension::default())
    );
    let literal = Extension::parse("pull-NAME:-CCCC:-TT:-PRIORITY:x", "ss").unwrap();
    assert_eq!(text(literal.stem(b"a").name), "a:pullss:-CCCC:-TT:-PRIORITY:x");
    for (bad, fields) in [("", 1), ("a:b:c:d", 4), ("a:b:c:d:e:f", 6), (":a:b:c:d:e", 6)] {
        assert_eq!(Extension::parse(bad, "x"), Err(ExtensionError::Fields(fields)), "{bad}");
    }
    for bad in ["a/b:b:c:d:", "a:..:c:d:", ".:b:c:d:", "a\0:b:c:d:"] {
        assert!(
            matches!(Extension::parse(bad, "x"), Err(ExtensionError::Unfit(_))),
            "{bad:?}"
        );
    }
}

#[test]
fn a_stamp_begins_with_its_date_and_its_hour() {
    assert_eq!(
        (date(utc("2026-01-02T03:04:05Z")), hour(utc("2026-01-02T03:04:05Z"))),
        ("20260102".into(), "2026010203".into())
    );
}

/// Name, place in the database, what names the queue, priority, sort key, whether it is valid, header.
type Row = (
    &'static str,
    Option<&'static str>,
    &'static str,
    Option<u8>,
    &'static str,
    bool,
    &'static str,
);

const NAMES: [Row; 10] = [
    (
        RADAR,
        Some("RADAR/URP/XSS"),
        "GIF",
        None,
        "20130606144709",
        false,
        "radar.24_HR_ACCUM.GIF.XSS++201306061440_XSS_24_HR_ACCUM_MM.gif:URP:XSS:RADAR:GIF:",
    ),
    (
        PRECIPITATION,
        Some("RADAR/URP/IWA"),
        "META",
        None,
        "20150120180902",
        false,
        "201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META:",
    ),
    (
        ECHOTOP,
        Some("RADAR/URP/NAV9_ONT"),
        "IMV6",
        None,
        "20080115191243",
        false,
        "200801151910~NAV9_ONT_ECHOTOP~ECHOTOP,2.0,100M,AGL,78,N:URP:NAV9_ONT:RADAR:IMV6:",
    ),
    (
        CARTES,
        Some("CARTES/TVE/CMOI"),
        "4",
        Some(4),
        "420071113033933",
        true,
        "TVE-cartes_2007111300_317_P45.gif:TVE:CMOI:CARTES:4:GIF",
    ),
    (
        MAPS,
        Some("CHART/OCXCARTE/CMC"),
        "IMV6",
        None,
        "20120611192817",
        false,
        "MAPS_12Z:OCXCARTE:CMC:CHART:IMV6:",
    ),
    (
        SACN31,
        Some("SA/file/CWAO"),
        "3",
        Some(3),
        "320061008042436",
        true,
        "SACN31_CWAO_300651___0006:file:CWAO:SA:3:Direct",
    ),
    (
        SACN43,
        Some("SA/ncp1/CWAO"),
        "3",
        Some(3),
        "320050201200339",
        true,
        "SACN43_CWAO_012000_CYOJ_41613:ncp1:CWAO:SA:3.A.I.E:",
    ),
    (
        SAUY,
        Some("SA/nws-alph/SUMU"),
        "5",
        Some(5),
        "520051107210952",
        true,
        "SAUY_SUMU_280100_00005:nws-alph:SUMU:SA:5:Direct",
    ),
    (
        ISAA51,
        Some("IS/ncp1deb-bufr/CWXS"),
        "3",
        Some(3),
        "320120821150803",
        true,
        "ISAA51_CWXS_211500___60968:ncp1deb-bufr:CWXS:IS:3:ncpdeb_bufr",
    ),
    (
        GRIB,
        Some("GRIB/iceglb/CMC"),
        "BIN",
        None,
        "2",
        false,
        "iceglbgrib2_12:iceglb:CMC:GRIB:BIN",
    ),
];

#[test]
fn the_names_of_the_field_are_read() {
    for (name, directory, field, digit, key, valid, header) in NAMES {
        let name = name.as_bytes();
        let shown = name.escape_ascii();
        assert_eq!(db_directory(name).map(text).as_deref(), directory, "{shown}");
        assert_eq!(priority_field(name), Some(field.as_bytes()), "{shown}");
        assert_eq!(priority(name), digit, "{shown}");
        assert_eq!(text(sort_key(name)), key, "{shown}");
        assert_eq!(is_valid(name), valid, "{shown}");
        assert_eq!(text(filename_header(name)), header, "{shown}");
    }
}

#[test]
fn no_name_leads_out_of_the_database() {
    let table: [(&[u8], Option<&str>); 9] = [
        (b"a:b:c:d", None),
        (b"", None),
        (b"a:b:c:d:", Some("d/b/c")),
        (b"a::c:d:e", Some("d/c")),
        (b"a::::", Some("")),
        (b"a:..:..:..:e::20150120180902", None),
        (b"a:b:.:d:e", None),
        (b"a:b:c:/etc:e", None),
        (b"a:b:c:d\0:e", None),
    ];
    for (name, wanted) in table {
        assert_eq!(
            db_directory(name).map(text).as_deref(),
            wanted,
            "{}",
            name.escape_ascii()
        );
    }
}

#[test]
fn short_and_odd_names_have_a_place_in_the_order() {
    let sorted = [
        // Priority 0 and 1, the shorter first.
        "a:b:c:d:0:f:20990101000000",
        "a:b:c:d:1",
        "a:b:c:d:1.A.B::20010101000000",
        // No priority: without stamp, with.
        "short",
        "a:b:c:d:GIF::20130606144709",
        "a:b:c:d:6:f:20130606144710",
        "a:b:c:d:2:f:20010101000000",
        "a:b:c:d:3:f:20010101000000",
        "a:b:c:d:3:f:SENDER=x:20010101000000",
        "a:b:c:d:5:f:20010101000000",
    ];
    for pair in sorted.windows(2) {
        assert!(sort_key(pair[0].as_bytes()) < sort_key(pair[1].as_bytes()), "{pair:?}");
    }
    for name in [
        "a:b:c:d:33:f:20130606144709",
        "a:b:c:d:-1:f:20130606144709",
        "a:b:c:d::f:20130606144709",
        "a:b",
    ] {
        assert_eq!(priority(name.as_bytes()), None, "{name}");
    }
    assert_eq!(priority_field(b"a:b:c:d"), None);
    assert_eq!(priority_field(b"a:b:c:d:"), Some(&b""[..]));
    assert_eq!(priority_field(b"a:b:c:d:.."), Some(&b""[..]));
}

/// Every row as Python 2.7 searches `^.*?:.*?:.*?:.*?:(\d).*?:.*?:(\d{14})$`.
#[test]
fn a_valid_name_has_a_digit_in_a_late_field_and_a_stamp() {
    let table: [(&[u8], bool); 14] = [
        (b"a:b:c:d:3:f:20061008042436", true),
        (b"a:b:c:d:e:3:f:20061008042436", true),
        (b"a:b:c:d:e:f:3:20061008042436", false),
        (b"a:b:c:d:e:3:20061008042436", false),
        (b"a:b:c:3:e:f:20061008042436", false),
        (b"a:b:c:d:3:20061008042436", false),
        (b"a:b:c:d:3:f:2006100804243", false),
        (b"a:b:c:d:3:f:x20061008042436", false),
        (b"a:b:c:d:3:f:120061008042436", false),
        (b"a:b:c:d:3:f:99999999999999", true),
        (b"a:b:c:d:3:f:20061008042436\n", true),
        (b"a:b\n:c:d:3:f:20061008042436", false),
        (b"\xff:\xff:\xff:\xff:3\xff:\xff:20061008042436", true),
        (b"", false),
    ];
    for (name, wanted) in table {
        assert_eq!(is_valid(name), wanted, "{}", name.escape_ascii());
    }
}

#[test]
fn the_header_drops_a_last_field_of_this_century_only() {
    let table = [
        ("a:b:20", "a:b"),
        ("a:b:20x", "a:b"),
        ("a:b:19991231235959", "a:b:19991231235959"),
        ("a:b:", "a:b:"),
        (":20", ""),
        ("plain", "plain"),
        ("20150120.gif", "20150120.gif"),
        ("", ""),
    ];
    for (name, wanted) in table {
        assert_eq!(text(filename_header(name.as_bytes())), wanted, "{name}");
    }
}

#[test]
fn the_routing_key_is_made_of_the_groups() {
    let accept = |text: &str| (Verdict::Accept, Pattern::from(text));
    let reject = |text: &str| (Verdict::Reject, Pattern::from(text));
    let airnow = "20070515.txt:AQ1245Z:AIRNOW:CMQ:ASCII::20070515124501";
    let glob = (Verdict::Accept, Pattern::Glob("*".to_string()));
    let table = [
        (
            vec![accept(".*(txt:AQ).*(:AIRNOW:.*:ASCII)")],
            airnow,
            Some("txt:AQ_:AIRNOW:CMQ:ASCII"),
        ),
        (vec![accept(".*(:AIRNOW:)")], airnow, Some(":AIRNOW:")),
        (vec![accept("20070515")], airnow, None),
        (vec![accept("20070515.txt")], airnow, Some("20070515.txt")),
        (vec![reject(".*AIRNOW"), accept(".*(txt:AQ)")], airnow, None),
        (vec![accept("no"), accept(".*(txt:AQ)")], airnow, Some("txt:AQ")),
        (vec![accept("no")], airnow, None),
        (vec![], airnow, Some("20070515.txt:AQ1245Z:AIRNOW:CMQ:ASCII:")),
        (
            vec![glob.clone()],
            airnow,
            Some("20070515.txt:AQ1245Z:AIRNOW:CMQ:ASCII:"),
        ),
        (vec![glob, accept(".*(txt:AQ)")], airnow, Some("txt:AQ")),
        (
            vec![accept("iceglbgrib2_(..):iceglb:(CMC):(GRIB):BIN.*")],
            GRIB,
            Some("12_CMC_GRIB"),
        ),
    ];
    for (list, name, wanted) in table {
        let shown = format!("{list:?}");
        let masks = Masks::new(list).unwrap();
        let key = routing_key(&masks, name.as_bytes()).unwrap();
        assert_eq!(key.map(text).as_deref(), wanted, "{shown}");
    }
}
