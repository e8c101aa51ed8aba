//! What holds for every announcement, and for every message whatever it holds.

use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use px::message::topic::{self, KEY_BYTES_MAX};
use px::message::{
    AnnounceAs, Announcement, By, DecodeOptions, Decoded, DigestOf, Envelope, Format, Headers, Identity, Method,
    ProductPath, UnitHeaders, Value, decode, encode, seen_key,
};
use url::Url;

use crate::support::{product, utc};

/// Paths of such bytes: no slash at either end, no NUL.
fn paths(bytes: impl Strategy<Value = u8> + Clone + 'static) -> BoxedStrategy<ProductPath> {
    let byte = bytes.prop_map(|byte| if byte == b'/' || byte == 0 { b'_' } else { byte });
    let segment = vec(byte, 1..40);
    vec(segment, 1..12)
        .prop_map(|segments| ProductPath(segments.join(&b'/')))
        .boxed()
}

fn utf8_paths() -> BoxedStrategy<ProductPath> {
    vec("[^/\0]{1,12}", 1..8)
        .prop_map(|segments| ProductPath(segments.join("/").into_bytes()))
        .boxed()
}

fn roots() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "http://h/",
        "https://dd1.weather.gc.ca:8443/",
        "http://[::1]:80/",
        "file:///",
        "file:/",
    ])
    .prop_map(str::to_owned)
}

fn bases() -> impl Strategy<Value = String> {
    (roots(), prop::sample::select(vec!["", "a/", "a/b%20c/", "caf\u{e9}/"])).prop_map(|(root, rest)| root + rest)
}

fn md5() -> impl Strategy<Value = String> {
    "[0-9a-f]{32}"
}

fn content_identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        md5().prop_map(|value| Identity::of_content(Method::Md5, value)),
        "[0-9a-f]{128}".prop_map(|value| Identity::of_content(Method::Sha512, value)),
    ]
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let unknown = |method: Method, value: String| Identity {
        method,
        value,
        of: DigestOf::Unknown,
    };
    prop_oneof![
        content_identity(),
        md5().prop_map(|value| Identity {
            method: Method::Md5,
            value,
            of: DigestOf::Name
        }),
        "[0-9]{4}".prop_map(move |value| unknown(Method::Random, value)),
        "\\PC{0,20}".prop_map(move |value| unknown(Method::Arbitrary, value)),
        "(md5|sha512)".prop_map(move |value| unknown(Method::ComputeOnDownload, value)),
        "[a-z0-9]{0,20}".prop_map(move |value| unknown(Method::Other("p".into()), value)),
    ]
}

/// Headers that no format gives a meaning to.
fn headers(values: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Headers> {
    btree_map("x[a-z]{1,8}", values, 0..5).boxed()
}

fn amqp_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<u8>().prop_map(Value::U8),
        any::<u64>().prop_map(Value::Timestamp),
        vec(any::<u8>(), 0..100).prop_map(Value::Str),
        vec(any::<u8>(), 0..100).prop_map(Value::Bytes),
        Just(Value::Void),
    ];
    nested(leaf.boxed())
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        (i64::MAX as u64 + 1..).prop_map(Value::Timestamp),
        (prop::num::f64::NORMAL | prop::num::f64::ZERO).prop_map(Value::F64),
        "\\PC{0,20}|[\0-\u{1f}\"\\\\]{0,5}".prop_map(|text| Value::Str(text.into_bytes())),
        Just(Value::Void),
    ];
    nested(leaf.boxed())
}

fn nested(leaf: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map("[a-z]{1,5}", inner, 0..4).prop_map(Value::Table),
        ]
    })
}

/// Years 0 to 9999, in steps of this many nanoseconds.
fn times(step: i64) -> impl Strategy<Value = Timestamp> {
    (-62_167_219_200i64..253_402_207_200, 0..1_000_000_000 / step).prop_map(move |(second, steps)| {
        let second = Timestamp::from_second(second).unwrap();
        second + jiff::SignedDuration::from_nanos(steps * step)
    })
}

prop_compose! {
    fn announcements(
        base: BoxedStrategy<String>,
        path: BoxedStrategy<ProductPath>,
        headers: BoxedStrategy<Headers>,
    )(base in base, path in path, headers in headers) -> Announcement {
        let mut announcement = Announcement::new(&base, path).unwrap();
        announcement.headers = headers;
        announcement
    }
}

/// Written, read again, and the key within its limit.
fn there_and_back(announcement: &Announcement, how: &AnnounceAs) -> Announcement {
    let written = encode(announcement, how, &UnitHeaders::default(), utc("2026-11-21T20:12:34Z")).unwrap();
    assert!(written.envelope.key.len() <= KEY_BYTES_MAX);
    assert_eq!(written.left_out, [""; 0]);
    product(&written.envelope)
}

proptest! {
    #[test]
    fn exp_carries_place_and_headers(
        announcement in announcements(roots().boxed(), paths(any::<u8>()), headers(amqp_values())),
    ) {
        prop_assert_eq!(there_and_back(&announcement, &Format::Exp.into()), announcement);
    }

    #[test]
    fn v00_of_the_datamart_carries_any_name_size_and_content(
        mut announcement in announcements(bases().boxed(), paths(any::<u8>()), headers(amqp_values())),
        identity in content_identity(),
        size in any::<u64>(),
    ) {
        announcement.identity = Some(identity);
        announcement.size = Some(size);
        prop_assert_eq!(there_and_back(&announcement, &Format::V00.into()), announcement);
    }

    #[test]
    fn v00_of_urp_carries_raw_names_without_blanks(
        mut announcement in announcements(bases().boxed(), paths(0x21..0x7fu8), headers(amqp_values())),
        value in md5(),
        size in any::<u64>(),
    ) {
        announcement.identity = Some(Identity { method: Method::Md5, value, of: DigestOf::Name });
        announcement.size = Some(size);
        let urp = AnnounceAs::new(Format::V00, Some("v00.urp.input"), None).unwrap();
        prop_assert_eq!(there_and_back(&announcement, &urp), announcement);
    }

    #[test]
    fn v02_carries_everything_to_the_millisecond(
        mut announcement in announcements(bases().boxed(), paths(any::<u8>()), headers(amqp_values())),
        identity in prop::option::of(any_identity()),
        size in prop::option::of(any::<u64>()),
        time in times(1_000_000),
        mtime in prop::option::of(times(1)),
    ) {
        announcement.identity = identity;
        announcement.size = size;
        announcement.time = Some(time);
        announcement.mtime = mtime;
        prop_assert_eq!(there_and_back(&announcement, &Format::V02.into()), announcement);
    }

    #[test]
    fn v03_carries_everything_with_names_in_utf8(
        mut announcement in announcements(bases().boxed(), utf8_paths(), headers(json_values())),
        identity in prop::option::of(any_identity()),
        size in prop::option::of(any::<u64>()),
        time in times(1),
        mtime in prop::option::of(times(1)),
    ) {
        announcement.identity = identity;
        announcement.size = size;
        announcement.time = Some(time);
        announcement.mtime = mtime;
        prop_assert_eq!(there_and_back(&announcement, &Format::V03.into()), announcement);
    }

    #[test]
    fn no_key_exceeds_255_bytes(
        path in vec(any::<u8>(), 0..600),
        prefix in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}",
        to in "\\PC{0,300}",
    ) {
        let key = topic::key(&prefix, &ProductPath(path));
        prop_assert!(key.text.len() <= KEY_BYTES_MAX);
        prop_assert!(topic::begins_with(&key.text, &prefix));
        let rekeyed = topic::rekey(&key.text, &prefix, &to).unwrap();
        prop_assert!(rekeyed.text.len() <= KEY_BYTES_MAX);
        let below = format!("{prefix}.#");
        prop_assert!(topic::matches(&below, &key.text));
        prop_assert!(topic::matches_below("#", &key.text));
    }

    #[test]
    fn a_pattern_of_stars_counts_words(words in vec("[a-z]{0,3}", 1..10), stars in 1..10usize) {
        let key = words.join(".");
        let words = if key.is_empty() { 0 } else { words.len() };
        prop_assert_eq!(topic::matches(&vec!["*"; stars].join("."), &key), stars == words);
        prop_assert!(topic::matches("#", &key) && topic::matches(&key, &key));
    }

    #[test]
    fn decode_never_panics_and_what_it_accepts_is_sound(envelope in messages()) {
        for default_format in Format::ALL {
            let options = DecodeOptions { default_format: Some(default_format), digest: None };
            match decode(&envelope, &options) {
                Ok(Decoded::Product(announcement)) => assert_sound(&announcement),
                Ok(Decoded::NotForFetching(reason)) => prop_assert!(!reason.to_string().is_empty()),
                Err(error) => prop_assert!(error.to_string().len() < 200),
            }
        }
    }
}

/// Whatever a message says, the URL to fetch stays with the host that the base names, and everything can be asked.
fn assert_sound(announcement: &Announcement) {
    assert!(announcement.base.ends_with('/'));
    assert!(!announcement.path.0.starts_with(b"/") && !announcement.path.0.contains(&0));
    assert!(!announcement.path.file_name().is_empty());
    let base = Url::parse(&announcement.base).unwrap();
    let url = Url::parse(&announcement.fetch_url()).unwrap();
    assert_eq!(
        (base.scheme(), base.host_str(), base.port()),
        (url.scheme(), url.host_str(), url.port())
    );
    assert!(!announcement.source().is_empty());
    assert!(seen_key(announcement, By::Auto).is_some());
    for format in Format::ALL {
        // Refusing is fine here: the announcement may lack what the format needs.
        if let Ok(written) = encode(
            announcement,
            &format.into(),
            &UnitHeaders::default(),
            Timestamp::UNIX_EPOCH,
        ) {
            assert!(written.envelope.key.len() <= KEY_BYTES_MAX);
            // exp has one URL, so that directories of the base come back as part of the path.
            assert!(product(&written.envelope).path.0.ends_with(&announcement.path.0));
        }
    }
}

/// Bodies of any bytes, and bodies that nearly make sense.
fn messages() -> impl Strategy<Value = Envelope> {
    let words = prop::sample::select(vec![
        "20261121201234.5",
        "7fb793e9387277ad5009b3aa787723e1",
        "76",
        "http://h/",
        "http://h",
        "https://u:p@h:8443/x/",
        "file:///",
        "file:/etc/",
        "sftp://px@host/",
        "s3://b/",
        "a/b.gif",
        "/a",
        "../../x",
        "//evil/x",
        "@evil",
        "\\\\evil",
        "?q",
        "#f",
        ":80/x",
        "%00",
        "%2e%2e/x",
        "%",
        "é",
        "x::20150120180902",
        "",
        "\0",
    ]);
    let text = vec(
        (words.clone(), prop::sample::select(vec![" ", "", "/", " \n", "  "])),
        0..7,
    )
    .prop_map(|pieces| {
        pieces
            .into_iter()
            .map(|(word, blank)| format!("{word}{blank}"))
            .collect::<String>()
    });
    let fields = prop::sample::select(vec![
        "pubTime",
        "baseUrl",
        "relPath",
        "retrievePath",
        "retPath",
        "size",
        "identity",
        "integrity",
        "mtime",
        "atime",
        "fileOp",
        "blocks",
        "parts",
        "content",
        "_x",
        "x",
    ]);
    let values = prop_oneof![
        words.clone().prop_map(|word| serde_json::json!(word)),
        Just(serde_json::json!({"method": "md5", "value": "qYXDLL3uivKrXXuPYCLngQ=="})),
        Just(serde_json::json!(-1)),
        Just(serde_json::json!(1e300)),
        Just(serde_json::json!([null, {}])),
    ];
    let mandatory = (words.clone(), words.clone());
    let json = (mandatory, vec((fields, values), 0..5)).prop_map(|((base, path), fields)| {
        let mut object = serde_json::json!({"pubTime": "20261121T201234", "baseUrl": base, "relPath": path});
        for (name, value) in fields {
            object[name] = value;
        }
        object.to_string()
    });
    let header_names = prop::sample::select(vec!["sum", "parts", "mtime", "atime", "filename", "content", "x"]);
    let header_texts = prop::sample::select(vec![
        "d,",
        "R,",
        "n,7fb793e9387277ad5009b3aa787723e1",
        "1,5,1,0,0",
        "i,",
        "z,d",
        ",",
    ]);
    let header_values = prop_oneof![header_texts.prop_map(Value::from), amqp_values()];
    let body = prop_oneof![
        vec(any::<u8>(), 0..300),
        text.prop_map(String::into_bytes),
        json.prop_map(String::into_bytes),
    ];
    let keys = prop::sample::select(vec!["", "x", "exp.x", "v00.dd.x", "v00.urp.x", "v02.post.x", "v03.x"]);
    (
        keys,
        body,
        btree_map(header_names.prop_map(str::to_owned), header_values, 0..3),
    )
        .prop_map(|(key, body, headers)| Envelope {
            key: key.into(),
            headers,
            body,
            ..Envelope::default()
        })
}
