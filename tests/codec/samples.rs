//! Messages as peers send them, read and written.

use px::message::{
    AnnounceAs, Announcement, By, DecodeOptions, Decoded, DigestOf, EncodeError, Format, Identity, Method, ProductPath,
    Reason, Template, UnitHeaders, Value, decode, encode, seen_key,
};

use crate::support::{message, product, sample, utc};

const URP_PATH: &str = "db/20150120/RADAR/URP/IWA/\
    201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META::20150120180902";
const URP_DIGEST: &str = "a985c32cbdee8af2ab5d7b8f6022e781";
const SHA512: &str = "07e547d9586f6a73f73fbac0435ed76951218fb7d0c8d788a309d785436bbb64\
    2e93a252a954f23912547d1e8a3b5ed6e1bfd7097821233fa0538f3db854fee6";

fn identity(method: Method, value: &str, of: DigestOf) -> Option<Identity> {
    Some(Identity {
        method,
        value: value.into(),
        of,
    })
}

#[test]
fn v00_of_urp_is_read_with_its_digest_of_the_name() {
    for name in ["v00_urp", "v00_urp_padded"] {
        let read = product(&sample(name));
        assert_eq!(
            (read.base.as_str(), &read.path),
            ("http://urp-1.cmc.ec.gc.ca/", &ProductPath::from(URP_PATH))
        );
        assert_eq!(read.size, Some(498081));
        assert_eq!(read.identity, identity(Method::Md5, URP_DIGEST, DigestOf::Name));
        assert_eq!(read.fetch_url(), format!("http://urp-1.cmc.ec.gc.ca/{URP_PATH}"));
        assert_eq!(read.source(), "urp-1.cmc.ec.gc.ca:80");
    }
}

#[test]
fn v00_of_urp_is_written_byte_for_byte() {
    let wanted = sample("v00_urp");
    let how = AnnounceAs::new(Format::V00, Some("v00.urp.input"), Some(DigestOf::Name)).unwrap();
    // The same from what was read, and from a file of which only place and size are known.
    let read = product(&wanted);
    let mut fresh = Announcement::new("http://urp-1.cmc.ec.gc.ca", ProductPath::from(URP_PATH)).unwrap();
    fresh.size = Some(498081);
    for announcement in [read, fresh] {
        let written = encode(
            &announcement,
            &how,
            &UnitHeaders::default(),
            utc("2015-01-20T18:09:02.5Z"),
        )
        .unwrap();
        assert_eq!(written.envelope.key, wanted.key);
        assert_eq!(written.envelope.body, wanted.body);
        assert_eq!(written.envelope.content_type, wanted.content_type);
        assert_eq!(written.envelope.timestamp, Some(1421777342));
        assert!(written.envelope.headers.is_empty() && !written.is_key_cut && written.left_out.is_empty());
    }
}

#[test]
fn v00_of_the_datamart_is_read_and_written() {
    let wanted = sample("v00_dd");
    let read = product(&wanted);
    assert_eq!(
        read.identity,
        identity(Method::Md5, "7fb793e9387277ad5009b3aa787723e1", DigestOf::Content)
    );
    assert_eq!(read.size, Some(76));
    let mut fresh = read.clone();
    fresh.headers.clear();
    let written = encode(&fresh, &Format::V00.into(), &watcher(), utc("2015-01-20T18:00:00Z"))
        .unwrap()
        .envelope;
    assert_eq!(
        (written.key, written.body, written.headers),
        (wanted.key, wanted.body, wanted.headers)
    );
}

/// The three messages of the old watcher, made from one file.
#[test]
fn a_watched_file_is_announced_as_the_old_watcher_did() {
    let path = "citypage_weather/xml/ON/s0000430_e.xml";
    let mut file = Announcement::new("http://dd1.weather.gc.ca/", ProductPath::from(path)).unwrap();
    file.size = Some(76);
    file.identity = identity(Method::Md5, "7fb793e9387277ad5009b3aa787723e1", DigestOf::Content);
    let now = utc("2015-11-21T20:12:34.700999Z");
    for (format, name) in [(Format::V02, "v02_watcher"), (Format::Exp, "exp_watcher")] {
        let wanted = sample(name);
        let written = encode(&file, &format.into(), &watcher(), now).unwrap().envelope;
        assert_eq!(
            String::from_utf8_lossy(&written.body),
            String::from_utf8_lossy(&wanted.body)
        );
        assert_eq!((written.key, written.headers), (wanted.key, wanted.headers));
        assert_eq!(written.content_type.as_deref(), Some("text/plain"));
        assert_eq!(written.timestamp, Some(1448136754));
    }
    let v00 = encode(&file, &Format::V00.into(), &watcher(), now).unwrap().envelope;
    assert_eq!(v00.key, "v00.dd.notify.citypage_weather.xml.ON.s0000430_e.xml");
    let body = format!("7fb793e9387277ad5009b3aa787723e1 76 http://dd1.weather.gc.ca/ {path}");
    assert_eq!(String::from_utf8(v00.body).unwrap(), body);
}

fn watcher() -> UnitHeaders {
    UnitHeaders {
        source: Some("dd-xml-inotify".into()),
        cluster: Some("dd.weather.gc.ca".into()),
        filename: Some(Template::parse("msg_${FILE}:WXO:LOCAL:FILE:XML").unwrap()),
    }
}

#[test]
fn exp_is_read_as_base_and_path() {
    let read = product(&sample("exp_sender"));
    assert_eq!(read.base, "http://dd1.weather.gc.ca/");
    assert_eq!(
        read.path,
        ProductPath::from("radar/24_HR_ACCUM/GIF/XSS/201306061440_XSS_24_HR_ACCUM_MM.gif")
    );
    assert_eq!((read.identity.clone(), read.size, read.time), (None, None, None));
    assert!(read.headers.contains_key("filename"));
    let table = [
        (
            "http://h:81/caf%E9%20100%25.gif\n",
            "http://h:81/",
            &b"caf\xe9 100%.gif"[..],
        ),
        ("file:///data/x", "file:///", b"data/x"),
        ("http://h//x?y=z", "http://h/", b"x?y=z"),
        ("http://h/été.gif", "http://h/", "été.gif".as_bytes()),
    ];
    for (body, base, path) in table {
        let read = product(&message("exp.x", body));
        assert_eq!((read.base.as_str(), read.path.0.as_slice()), (base, path), "{body}");
    }
}

#[test]
fn v02_of_python_is_read() {
    let read = product(&sample("v02_python"));
    assert_eq!(
        read.path,
        ProductPath::from("20150120/RADAR/URP/IWA/201501201810~~PA,60 km.gif")
    );
    assert_eq!(read.identity, identity(Method::Md5, URP_DIGEST, DigestOf::Content));
    assert_eq!(
        (read.size, read.time),
        (Some(498081), Some(utc("2026-11-21T20:12:34.567890123Z")))
    );
    assert_eq!(read.mtime, Some(utc("2026-11-21T20:12:33.5Z")));
    let names: Vec<&str> = read.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["atime", "mode", "source", "to_clusters"]);
    // A unit's own source does not replace that of the first publisher.
    let written = encode(&read, &Format::V02.into(), &watcher(), utc("2027-01-01T00:00:00Z"))
        .unwrap()
        .envelope;
    assert_eq!(written.headers["source"], Value::from("URP"));
    assert_eq!(written.headers["mtime"], Value::from("20261121201233.500"));
    assert!(
        written
            .body
            .starts_with(b"20261121201234.567 http://urp-1.cmc.ec.gc.ca/ ")
    );
}

#[test]
fn v02_of_c_is_read_with_its_oddities() {
    let read = product(&sample("v02_c"));
    assert_eq!(read.base, "sftp://px@host/");
    assert!(read.has_user_info());
    assert_eq!(read.path, ProductPath::from("20261121/SA/café# 1.txt"));
    assert_eq!(read.identity, identity(Method::Sha512, SHA512, DigestOf::Content));
    assert_eq!((read.size, read.time), (Some(76), Some(utc("2026-11-21T20:12:34Z"))));
    assert_eq!(read.headers["from_cluster"], Value::Bytes(b"DDSR.CMC".to_vec()));
    assert_eq!(read.fetch_url(), "sftp://px@host/20261121/SA/caf%C3%A9%23%201.txt");
}

#[test]
fn every_sum_of_v02_is_read_and_written_again() {
    let (md5, sha) = (URP_DIGEST, SHA512);
    let table = [
        (format!("d,{md5}"), Method::Md5, md5, DigestOf::Content),
        (format!("s,{sha}"), Method::Sha512, sha, DigestOf::Content),
        (format!("n,{md5}"), Method::Md5, md5, DigestOf::Name),
        ("0,1234".into(), Method::Random, "1234", DigestOf::Unknown),
        (
            "a,free text, with comma".into(),
            Method::Arbitrary,
            "free text, with comma",
            DigestOf::Unknown,
        ),
        ("z,s".into(), Method::ComputeOnDownload, "sha512", DigestOf::Unknown),
        ("z,d".into(), Method::ComputeOnDownload, "md5", DigestOf::Unknown),
        ("z,x".into(), Method::ComputeOnDownload, "x", DigestOf::Unknown),
        (format!("p,{sha}"), Method::Other("p".into()), sha, DigestOf::Unknown),
        ("n,odd".into(), Method::Other("n".into()), "odd", DigestOf::Unknown),
    ];
    for (sum, method, value, of) in table {
        let mut envelope = message("v02.post.x", "20261121201234.5 http://h/ x");
        envelope.headers.insert("sum".into(), Value::from(sum.as_str()));
        let read = product(&envelope);
        assert_eq!(read.identity, identity(method, value, of), "{sum}");
        let written = encode(
            &read,
            &Format::V02.into(),
            &UnitHeaders::default(),
            utc("2027-01-01T00:00:00Z"),
        )
        .unwrap();
        assert_eq!(written.envelope.headers["sum"], Value::from(sum.as_str()));
    }
    let bare = product(&message("v02.post.x", "20261121201234.5 http://h/ x"));
    assert_eq!((bare.identity, bare.size), (None, None));
}

#[test]
fn v03_is_read_and_written_with_every_unknown_field() {
    let envelope = sample("v03_python");
    let read = product(&envelope);
    assert_eq!(
        read.path,
        ProductPath::from("20150120/RADAR/URP/IWA/201501201810~~PA,60 km.gif")
    );
    assert_eq!(read.identity, identity(Method::Md5, URP_DIGEST, DigestOf::Content));
    assert_eq!(
        (read.size, read.time),
        (Some(498081), Some(utc("2026-11-21T20:12:34.567890123Z")))
    );
    assert_eq!(read.mtime, Some(utc("2026-11-21T20:12:33.5Z")));
    assert_eq!(read.headers["mode"], Value::from("664"));
    let written = encode(
        &read,
        &Format::V03.into(),
        &UnitHeaders::default(),
        utc("2027-01-01T00:00:00Z"),
    )
    .unwrap();
    let json = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
    let mut wanted = json(&envelope.body);
    let fields = wanted.as_object_mut().unwrap();
    fields.retain(|name, _| !name.starts_with('_'));
    fields["mtime"] = "20261121T201233.500".into();
    assert_eq!(json(&written.envelope.body), wanted);
    assert_eq!(written.envelope.content_type.as_deref(), Some("application/json"));
    assert!(written.envelope.headers.is_empty() && written.left_out.is_empty());
}

#[test]
fn v03_of_other_writers_is_read() {
    let of_c = product(&sample("v03_c"));
    assert_eq!(
        (of_c.base.as_str(), &of_c.path),
        ("http://urp-1.cmc.ec.gc.ca/", &ProductPath::from("20150120/a.gif"))
    );
    assert_eq!(of_c.size, Some(498081));
    assert_eq!(of_c.identity, identity(Method::Sha512, SHA512, DigestOf::Content));
    assert_eq!(of_c.fetch_url(), "http://urp-1.cmc.ec.gc.ca/get?f=a.gif");
    let of_rs = product(&sample("v03_rs"));
    assert_eq!(of_rs.time, Some(utc("2026-11-21T20:12:34.5Z")));
    assert_eq!(
        of_rs.identity,
        identity(Method::ComputeOnDownload, "sha512", DigestOf::Unknown)
    );
    let inlined = product(&sample("v03_inlined"));
    let Value::Table(content) = &inlined.headers["content"] else {
        panic!("{inlined:?}")
    };
    assert_eq!(content["encoding"].as_str(), Some("base64"));
    let as_v03 = encode(
        &inlined,
        &Format::V03.into(),
        &UnitHeaders::default(),
        utc("2027-01-01T00:00:00Z"),
    )
    .unwrap();
    assert_eq!(product(&as_v03.envelope), inlined);
    let legacy =
        r#"{"pubTime":"20261121T201234","baseUrl":"http://h/","relPath":"a","parts":"1,5,1,0,0","identity":null}"#;
    assert_eq!(product(&message("v03.a", legacy)).size, Some(5));
}

#[test]
fn what_is_not_a_whole_file_is_skipped_with_its_reason() {
    let table = [
        ("v02_c_mkdir", Reason::DirectoryMade),
        ("v02_removal", Reason::Removal),
        ("v02_link", Reason::Link),
        ("v02_part", Reason::Part),
        ("v03_removal", Reason::Removal),
        ("v03_rename", Reason::Rename),
    ];
    for (name, reason) in table {
        assert_eq!(
            decode(&sample(name), &DecodeOptions::default()),
            Ok(Decoded::NotForFetching(reason)),
            "{name}"
        );
    }
    let table = [
        (r#""fileOp":{"remove":"","directory":""}"#, Reason::DirectoryRemoved),
        (r#""fileOp":{"directory":""}"#, Reason::DirectoryMade),
        (r#""fileOp":{"hlink":"x"}"#, Reason::Link),
        (r#""fileOp":{"chmod":"x"}"#, Reason::OtherOperation),
        (r#""blocks":{"method":"inplace","size":7,"count":3}"#, Reason::Part),
        (r#""parts":"i,1,2,0,0""#, Reason::Part),
    ];
    for (field, reason) in table {
        let envelope = message("v03.x", format!("{{{field}}}"));
        assert_eq!(
            decode(&envelope, &DecodeOptions::default()),
            Ok(Decoded::NotForFetching(reason)),
            "{field}"
        );
    }
    let mut rmdir = message("v02.post.x", "20261121201241.25 http://h/ x");
    rmdir.headers.insert("sum".into(), "r,".into());
    assert_eq!(
        decode(&rmdir, &DecodeOptions::default()),
        Ok(Decoded::NotForFetching(Reason::DirectoryRemoved))
    );
}

#[test]
fn the_unit_says_what_a_message_does_not() {
    let body = "7fb793e9387277ad5009b3aa787723e1 76 http://h/ a/b.gif";
    let options = DecodeOptions {
        default_format: Some(Format::V00),
        digest: Some(DigestOf::Content),
    };
    let Ok(Decoded::Product(read)) = decode(&message("site.products", body), &options) else {
        panic!()
    };
    assert_eq!(read.identity.map(|identity| identity.of), Some(DigestOf::Content));
    // A digest that plainly is of the name stays one.
    let Ok(Decoded::Product(read)) = decode(&sample("v00_urp"), &options) else {
        panic!()
    };
    assert_eq!(read.identity.map(|identity| identity.of), Some(DigestOf::Name));
}

#[test]
fn formats_convert_as_far_as_they_reach() {
    let now = utc("2027-01-01T00:00:00Z");
    let v02 = product(&sample("v02_python"));
    let v03 = encode(&v02, &Format::V03.into(), &UnitHeaders::default(), now).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&v03.envelope.body).unwrap();
    assert_eq!(json["atime"], "20261121T201233.25");
    assert_eq!(json["identity"]["value"], "qYXDLL3uivKrXXuPYCLngQ==");
    let back = encode(
        &product(&v03.envelope),
        &Format::V02.into(),
        &UnitHeaders::default(),
        now,
    )
    .unwrap();
    assert_eq!(back.envelope.headers["atime"], Value::from("20261121201233.25"));
    let again = product(&back.envelope);
    assert_eq!(
        (&again.path, &again.identity, again.mtime, &again.headers),
        (&v02.path, &v02.identity, v02.mtime, &v02.headers)
    );
    // Inlined content does not fit into v02; the product is fetched instead.
    let inlined = encode(
        &product(&sample("v03_inlined")),
        &Format::V02.into(),
        &UnitHeaders::default(),
        now,
    )
    .unwrap();
    assert_eq!(inlined.left_out, ["content"]);
    // Two formats of one content are one product.
    assert_eq!(seen_key(&again, By::Auto), seen_key(&v02, By::Auto));
    // A digest of the name never turns into one of the content.
    let urp = product(&sample("v00_urp"));
    let sum = encode(&urp, &Format::V02.into(), &UnitHeaders::default(), now)
        .unwrap()
        .envelope
        .headers["sum"]
        .clone();
    assert_eq!(sum, Value::from(format!("n,{URP_DIGEST}").as_str()));
}

#[test]
fn a_header_of_another_format_does_not_turn_a_product_into_a_removal() {
    let mut envelope = message("exp.x", "http://h/a");
    envelope.headers.insert("sum".into(), "R,".into());
    envelope.headers.insert("parts".into(), "i,1,2,0,0".into());
    envelope.headers.insert("fileOp".into(), "x".into());
    let read = product(&envelope);
    for format in [Format::V02, Format::V03] {
        let written = encode(
            &read,
            &format.into(),
            &UnitHeaders::default(),
            utc("2027-01-01T00:00:00Z"),
        )
        .unwrap();
        assert_eq!(product(&written.envelope).path, read.path);
    }
}

#[test]
fn what_a_format_cannot_carry_is_said() {
    let now = utc("2027-01-01T00:00:00Z");
    let unit = UnitHeaders::default();
    let try_as = |path: &[u8], how: &AnnounceAs| {
        let mut file = Announcement::new("http://h/", ProductPath(path.to_vec())).unwrap();
        file.size = Some(1);
        encode(&file, how, &unit, now)
    };
    let urp = AnnounceAs::new(Format::V00, Some("v00.urp.input"), None).unwrap();
    for path in [&b"a b"[..], b"a\tb", b"a\nb", b"a\x7fb"] {
        assert!(matches!(
            try_as(path, &urp),
            Err(EncodeError::Unnameable {
                format: Format::V00,
                ..
            })
        ));
        assert!(try_as(path, &Format::Exp.into()).is_ok() && try_as(path, &Format::V03.into()).is_ok());
    }
    assert!(try_as(b"caf\xe9.gif", &urp).is_ok());
    let latin1 = try_as(b"caf\xe9.gif", &Format::V03.into());
    assert!(matches!(
        latin1,
        Err(EncodeError::Unnameable {
            format: Format::V03,
            ..
        })
    ));
    for format in Format::ALL {
        for path in [&b""[..], b"a/", b"/a", b"a\0b", &[b'x'; 4097]] {
            assert!(
                matches!(try_as(path, &format.into()), Err(EncodeError::Unnameable { .. })),
                "{format} {path:?}"
            );
        }
    }
    let lacking = try_as(b"a", &Format::V00.into()).unwrap_err();
    assert_eq!(lacking.to_string(), "v00 needs an md5 or sha512 of the content");
    let mut file = Announcement::new("http://u:canary@h/", ProductPath::from("a")).unwrap();
    let error = encode(&file, &Format::Exp.into(), &unit, now).unwrap_err();
    assert!(error == EncodeError::Password && !error.to_string().contains("canary"));
    file.base = "h".into();
    assert!(matches!(
        encode(&file, &Format::Exp.into(), &unit, now),
        Err(EncodeError::Base(_))
    ));
}

#[test]
fn headers_that_v02_cannot_hold_are_left_out_by_name() {
    let mut file = Announcement::new("http://h/", ProductPath::from("a")).unwrap();
    file.identity = identity(Method::Other("sha256".into()), "x", DigestOf::Unknown);
    file.headers.insert("long".into(), Value::Str(vec![b'x'; 256]));
    file.headers.insert("_internal".into(), "x".into());
    file.headers.insert("n".repeat(129), "x".into());
    file.headers
        .insert("nested".into(), Value::Array(vec![Value::Str(vec![b'x'; 256])]));
    file.headers.insert("ok".into(), Value::Str(vec![b'x'; 255]));
    for i in 0..100 {
        file.headers.insert(format!("z{i:02}"), Value::Str(vec![b'x'; 200]));
    }
    let written = encode(&file, &Format::V02.into(), &watcher(), utc("2027-01-01T00:00:00Z")).unwrap();
    let headers = &written.envelope.headers;
    assert!(headers.contains_key("ok") && headers.contains_key("z00") && headers.contains_key("filename"));
    assert!(!headers.contains_key("z99") && !headers.contains_key("_internal"));
    for name in ["sum", "long", "nested", "z99", &"n".repeat(129)] {
        assert!(written.left_out.iter().any(|left| left == name), "{name}");
    }
}
