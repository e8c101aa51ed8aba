//! Messages that nobody well-meaning sends.

use px::message::{DecodeOptions, Format, Value, decode};

use crate::support::{message, refused};

#[test]
fn every_bad_message_is_refused_with_one_clear_sentence() {
    let md5 = "7fb793e9387277ad5009b3aa787723e1";
    let v00 = |rest: &str| format!("{md5} 76 {rest}").into_bytes();
    let v03 = |rest: &str| format!(r#"{{"pubTime":"20261121T201234","baseUrl":"http://h/",{rest}}}"#).into_bytes();
    let long = "x".repeat(5000);
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", b"x".to_vec(), "cannot tell the format"),
        ("exp.x", vec![], "exp body of 0 words; wanted 1"),
        ("exp.x", b"\xff\xfe\x00".to_vec(), "exp: the base is no absolute URL"),
        ("exp.x", b"a b c".to_vec(), "exp body of 3 words; wanted 1"),
        ("exp.x", b"http://h/a b".to_vec(), "exp body of 2 words; wanted 1"),
        ("exp.x", b"http://h".to_vec(), "exp path names no file"),
        ("exp.x", b"http://h/dir/".to_vec(), "exp path names no file"),
        ("exp.x", b"/etc/passwd".to_vec(), "exp: the base is no absolute URL"),
        ("exp.x", b"http://h/a%00b".to_vec(), "exp path has a NUL in it"),
        (
            "exp.x",
            format!("http://h/{long}").into_bytes(),
            "exp path is longer than 4096 bytes",
        ),
        ("v00.x", vec![], "v00 body of 0 words; wanted 4"),
        ("v00.x", b"a b c".to_vec(), "v00 body of 3 words; wanted 4"),
        ("v00.x", b"\xff 76 http://h/ a".to_vec(), "v00 digest is no digest"),
        (
            "v00.x",
            format!("{long} 76 http://h/ a").into_bytes(),
            "v00 digest is no digest",
        ),
        ("v00.x", v00("h a"), "v00: the base is no absolute URL"),
        ("v00.x", v00("\u{e9} a"), "v00: the base is no absolute URL"),
        (
            "v00.x",
            v00("http://h/?q a"),
            "v00: the base URL has a query or a fragment",
        ),
        (
            "v00.x",
            v00(&format!("http://h/{long} a")),
            "v00: the base URL is longer than 2048 bytes",
        ),
        ("v00.x", v00("http://h/ a\0b"), "v00 path has a NUL in it"),
        ("v00.x", v00("http://h/ /"), "v00 path names no file"),
        (
            "v00.x",
            format!("{md5} -1 http://h/ a").into_bytes(),
            "v00 size is no number",
        ),
        (
            "v00.x",
            format!("{md5} +1 http://h/ a").into_bytes(),
            "v00 size is no number",
        ),
        (
            "v00.x",
            format!("{md5} 18446744073709551616 http://h/ a").into_bytes(),
            "v00 size is no number",
        ),
        ("v02.x", vec![], "v02 body of 0 words; wanted 3"),
        (
            "v02.x",
            b"20261121201234 http://h/ \n".to_vec(),
            "v02 body of 2 words; wanted 3",
        ),
        ("v02.x", b"20261341201234 http://h/ a".to_vec(), "v02 time is no time"),
        ("v02.x", b"\xff http://h/ a".to_vec(), "v02 time is no time"),
        (
            "v02.x",
            b"20261121201234 \xff a".to_vec(),
            "v02: the base is no absolute URL",
        ),
        (
            "v02.x",
            b"20261121201234 http://h/ a%00".to_vec(),
            "v02 path has a NUL in it",
        ),
        ("v03.x", vec![], "v03 body is no JSON object (line 1, column 0)"),
        ("v03.x", b"{\"a\":\xff}".to_vec(), "v03 body is no JSON object"),
        ("v03.x", b"[]".to_vec(), "v03 body is no JSON object"),
        ("v03.x", b"{}".to_vec(), "v03 baseUrl is missing"),
        ("v03.x", "[".repeat(100_000).into_bytes(), "v03 body is no JSON object"),
        ("v03.x", v03(r#""relPath":7"#), "v03 relPath is no text"),
        ("v03.x", v03(r#""relPath":"""#), "v03 path names no file"),
        ("v03.x", v03(r#""relPath":"a\u0000b""#), "v03 path has a NUL in it"),
        ("v03.x", v03(r#""relPath":"\ud800""#), "v03 body is no JSON object"),
        (
            "v03.x",
            v03(r#""relPath":"a","size":-1"#),
            "v03 size is no number of bytes",
        ),
        (
            "v03.x",
            v03(r#""relPath":"a","size":1.5"#),
            "v03 size is no number of bytes",
        ),
        (
            "v03.x",
            v03(r#""relPath":"a","size":"1e9""#),
            "v03 size is no number of bytes",
        ),
        (
            "v03.x",
            v03(r#""relPath":"a","identity":"md5""#),
            "v03 identity names no method",
        ),
        (
            "v03.x",
            v03(r#""relPath":"a","identity":{"method":"md5"}"#),
            "v03 identity has no value",
        ),
        (
            "v03.x",
            v03(r#""relPath":"a","identity":{"method":"md5","value":"AAAA"}"#),
            "v03 identity is no digest of its method",
        ),
        (
            "v03.x",
            br#"{"pubTime":"x","baseUrl":"http://h/","relPath":"a"}"#.to_vec(),
            "v03 pubTime is no time",
        ),
    ];
    for (key, body, wanted) in table {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let text = refused(&message(key, body)).to_string();
        assert!(text.starts_with(wanted), "{key} {shown}: {text}");
        assert!(text.len() < 120, "{text}");
    }
}

#[test]
fn bad_headers_of_v02_are_refused() {
    let table = [
        ("sum", Value::from("d,"), "v02 sum is no digest of its method"),
        (
            "sum",
            Value::from("d,zz93e9387277ad5009b3aa787723e1ff"),
            "v02 sum is no digest of its method",
        ),
        (
            "sum",
            Value::from("s,7fb793e9387277ad5009b3aa787723e1"),
            "v02 sum is no digest of its method",
        ),
        ("sum", Value::Str(vec![0xff]), "v02 sum is no text"),
        ("sum", Value::I32(7), "v02 sum is no text"),
        ("parts", Value::from("1"), "v02 parts has no size"),
        ("parts", Value::from("1,many,1,0,0"), "v02 parts has no size"),
        ("parts", Value::from("x"), "v02 parts has no size"),
        ("parts", Value::Table(Default::default()), "v02 parts is no text"),
    ];
    for (name, value, wanted) in table {
        let mut envelope = message("v02.post.x", "20261121201234.5 http://h/ x");
        envelope.headers.insert(name.into(), value);
        assert_eq!(refused(&envelope).to_string(), wanted);
    }
}

#[test]
fn ten_mebibytes_are_refused_in_every_format() {
    for format in Format::ALL {
        for byte in [b'x', b' ', b'[', b'\n', 0, 0xff] {
            let text = refused(&message(&format!("{format}.x"), vec![byte; 10 << 20])).to_string();
            assert!(text.starts_with(&format!("{format} body of 10485760 bytes")), "{text}");
        }
    }
}

#[test]
fn an_error_never_quotes_the_message() {
    let canary = "canary-password";
    for format in Format::ALL {
        let bodies = [
            format!("http://u:{canary}@:x:y/ a"),
            format!("{canary} 1 http://u:{canary}@h/?{canary} {canary}"),
            format!("20261121201234 ht!tp://u:{canary}@h/ a"),
            format!(r#"{{"baseUrl":"http://u:{canary}@h/#","relPath":"{canary}","pubTime":"{canary}"}}"#),
            format!(r#"{{"{canary}":{canary}}}"#),
        ];
        for body in bodies {
            let result = decode(
                &message(&format!("{format}.x"), body.clone()),
                &DecodeOptions::default(),
            );
            let text = result.map_err(|error| format!("{error} {error:?}")).expect_err(&body);
            assert!(!text.contains(canary), "{text}");
        }
    }
}
