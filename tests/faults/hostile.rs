//! Messages that nobody should send: the worker stays alive, each is kept aside with a reason, and nothing is written
//! outside the destination.

use px::message::{Envelope, Headers, Value};

use crate::support::{Answer, ProductServer, v02};
use crate::{UNIT, World};

fn raw(key: &str, body: &[u8]) -> Envelope {
    Envelope {
        key: key.into(),
        body: body.to_vec(),
        ..Envelope::default()
    }
}

/// A message, and what its reason says.
fn hostile(url: &str, elsewhere: &str) -> Vec<(Envelope, &'static str)> {
    let v00 = "v00.dd.notify.x";
    let v02_body = |base: &str, path: &str| raw("v02.post.x", format!("20260101000000.000 {base} {path}").as_bytes());
    let json = |path: &str| {
        let text = format!(r#"{{"pubTime":"20260101T000000","baseUrl":"{url}","relPath":"{path}","size":4}}"#);
        raw("v03.x", text.as_bytes())
    };
    let mut list = vec![
        (raw("v02.post.x", b""), "0 words"),
        (raw(v00, b""), "0 words"),
        (raw("exp.dd.notify.x", b""), "exp"),
        (raw("v03.x", b""), "JSON"),
        (raw(v00, b"d41d8cd98f00b204e9800998ecf8427e 4 http://h/"), "3 words"),
        (raw("v02.post.x", &vec![b'x'; 10 << 20]), "at most"),
        (raw("v03.x", &vec![b'{'; 10 << 20]), "at most"),
        (raw("v02.post.x", b"\xff\xfe\xfd \xff \xff"), "time"),
        (raw("v03.x", b"\xff\xfe\xfd"), "JSON"),
        (raw("nothing.known", b"hello"), "format"),
        (v02_body(url, "../../x"), ".."),
        (v02_body(url, "a/../../../x"), ".."),
        (v02_body(url, "a/..%2f..%2fx"), ".."),
        (json("../../x"), ".."),
        (json("a/\\u0000b"), "NUL"),
        (v02_body(url, "a/%00b"), "NUL"),
        (v02_body(url, "a/"), "names no file"),
        (v02_body(url, &"n".repeat(300)), "name"),
        (v02_body(url, &("d/".repeat(3000) + "x")), "4096"),
        (v02_body("file:///", "etc/hostname"), "file_roots"),
        (raw("exp.dd.notify.x", b"file:///etc/hostname"), "file_roots"),
        (v02_body("ftp://127.0.0.1/", "x"), "scheme"),
        (v02_body("gopher://127.0.0.1/", "x"), "scheme"),
        (v02_body("http://user:canary@127.0.0.1/", "x"), "user information"),
        (v02_body("not-a-url", "x"), "base"),
        (v02(url, "redirect/scheme", b"file"), "scheme"),
        (v02(url, "redirect/host", b"file"), "host"),
        (v02(url, "redirect/loop", b"file"), "redirects"),
        (v02(url, "redirect/user", b"file"), "user information"),
    ];
    let too_large = raw(v00, format!("- 99999999999999999 {url} x").as_bytes());
    list.push((too_large, "bytes"));
    let nameless = raw("v02.post.x", format!("20260101000000.000 {elsewhere} .").as_bytes());
    list.push((nameless, ""));
    list
}

#[test]
fn hostile_messages_are_kept_aside_with_a_reason_and_touch_nothing() {
    let world = World::new("hostile", "mirror = true\n");
    let elsewhere = ProductServer::start();
    elsewhere.serve("stolen", b"file");
    world
        .server
        .answer("redirect/scheme", Answer::redirect("file:///etc/hostname"));
    world
        .server
        .answer("redirect/host", Answer::redirect(&format!("{}stolen", elsewhere.url())));
    world.server.answer("redirect/loop", Answer::redirect("/redirect/loop"));
    let with_user = format!("http://u:canary@{}/x", world.server.authority());
    world.server.answer("redirect/user", Answer::redirect(&with_user));
    world.feed.queue("pull", &["#"]);
    // Would be written outside, if the path were taken as it stands.
    let outside = world.site.path("x");
    world.server.serve("../../x", b"file");
    world.server.serve("x", b"file");
    let mut unit = world.site.run_ready(UNIT);

    let messages = hostile(&world.server.url(), &elsewhere.url());
    let count = messages.len();
    world
        .feed
        .announce_all(messages.iter().map(|(envelope, _)| envelope.clone()));
    world.site.wait_count(UNIT, "failed", count as u64);
    unit.assert_runs();
    let mut failed = world.site.failed(UNIT);
    failed.reverse();
    assert_eq!(failed.len(), count, "{failed:#?}");
    for ((envelope, wanted), entry) in messages.iter().zip(&failed) {
        let reason = entry["reason"].as_str().unwrap_or_default();
        assert!(
            reason.contains(wanted) && !reason.is_empty(),
            "{} {:?}: wanted {wanted:?}, found {entry:#}",
            envelope.key,
            String::from_utf8_lossy(&envelope.body[..envelope.body.len().min(200)])
        );
        assert_eq!(
            entry["bytes"].as_u64(),
            Some(envelope.body.len() as u64),
            "kept whole: {entry:#}"
        );
        assert!(!reason.contains("canary"), "{reason}");
    }
    assert_eq!(elsewhere.hits_of_all(), 0, "a redirect elsewhere was followed");
    assert!(!outside.exists() && !std::path::Path::new("/x").exists());
    assert_eq!(world.site.names(), [""; 0]);

    // Absolute paths are paths in the tree.
    world.server.serve("etc/inside", b"inside");
    world.feed.announce(v02(&world.server.url(), "/etc/inside", b"inside"));
    world.wait_arrived("etc/inside", b"inside");
    assert_eq!(world.site.state(UNIT), "running");
    assert_eq!(world.site.count(UNIT, "parked"), 0);
    let listed = world.site.px_ends(0, &["failed", "list", UNIT]);
    assert!(
        !listed.out.contains('\u{0}') && listed.out.lines().count() == count,
        "{listed:?}"
    );
}

/// Our own marks, forged: they count for what they say at most, and break nothing.
#[test]
fn forged_marks_of_parking_break_nothing() {
    let world = World::new("forged", "");
    let mut unit = world.site.run_ready(UNIT);
    let forged = |path: &str, attempts: Value, first_seen: Value| {
        let mut envelope = v02(&world.server.url(), path, b"gone");
        envelope.headers.insert("x-px-attempts".into(), attempts);
        envelope.headers.insert("x-px-first-seen".into(), first_seen);
        envelope
    };
    let most = Value::I64(i64::from(u32::MAX));
    world.feed.announce_all([
        forged("a/most", most.clone(), Value::I64(i64::MAX)),
        forged("a/least", Value::I64(i64::MIN), Value::I64(i64::MIN)),
        forged(
            "a/other",
            Value::Str(b"many".to_vec()),
            Value::Table(Headers::default()),
        ),
    ]);
    world.site.wait_count(UNIT, "failed", 1);
    world.announce("a/file", b"file");
    world.wait_arrived("file", b"file");
    world.site.wait_count(UNIT, "failed", 3);
    unit.assert_runs();
    // What claims to come from the future has been waited for as long as anything else.
    world.server.answer("a/future", Answer::status(503));
    let year_3000 = Value::I64(32_503_680_000_000);
    world.feed.announce(forged("a/future", Value::I64(0), year_3000));
    world.site.wait_count(UNIT, "received", 9);
    assert!(!world.site.said(UNIT).contains("panicked"), "{}", world.site.logs());
}
