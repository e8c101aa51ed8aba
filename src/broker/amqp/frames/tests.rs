//! What goes through, what is replaced, and that it does not matter how the bytes come in.

use lapin::protocol::basic::{AMQPMethod, parse_properties};
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::AMQPValue;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::message::UNREADABLE;

const FRAME_LIMIT: u32 = 4096;

fn short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend(text);
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, kind, channel, payload);
    out
}

fn deliver(channel: u16, tag: u64, exchange: &[u8], key: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 60];
    short(&mut payload, b"amq.ctag-x");
    payload.extend(tag.to_be_bytes());
    payload.push(1);
    short(&mut payload, exchange);
    short(&mut payload, key);
    frame(METHOD, channel, &payload)
}

fn get_ok(channel: u16, key: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 71, 0, 0, 0, 0, 0, 0, 0, 9, 0];
    short(&mut payload, b"x");
    short(&mut payload, key);
    payload.extend(7u32.to_be_bytes());
    frame(METHOD, channel, &payload)
}

fn returned(channel: u16, key: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 50, 1, 56];
    short(&mut payload, b"NO_ROUTE");
    short(&mut payload, b"x");
    short(&mut payload, key);
    frame(METHOD, channel, &payload)
}

fn tune(frame_max: u32) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 30, 7, 255];
    payload.extend(frame_max.to_be_bytes());
    payload.extend([0, 60]);
    frame(METHOD, 0, &payload)
}

fn header(channel: u16, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend(body_size.to_be_bytes());
    payload.extend(properties);
    frame(HEADER, channel, &payload)
}

/// Properties with this one table of headers.
fn headers(table: &[u8]) -> Vec<u8> {
    let mut out = HEADERS_ONLY.to_be_bytes().to_vec();
    out.extend((table.len() as u32).to_be_bytes());
    out.extend(table);
    out
}

fn string_header(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    short(&mut table, name);
    table.push(b'S');
    table.extend((value.len() as u32).to_be_bytes());
    table.extend(value);
    headers(&table)
}

/// So many arrays within each other.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = vec![b'V'];
    for _ in 0..depth {
        let mut outer = vec![b'A'];
        outer.extend((value.len() as u32).to_be_bytes());
        outer.extend(value);
        value = outer;
    }
    let mut table = Vec::new();
    short(&mut table, b"h");
    table.extend(value);
    headers(&table)
}

fn filtered(parts: &[&[u8]]) -> Vec<u8> {
    let (mut filter, mut all) = (Filter::new(FRAME_LIMIT), Vec::new());
    for part in parts {
        let mut out = Vec::new();
        let through = filter.read(part, &mut out);
        all.extend(&part[..through]);
        all.extend(out);
    }
    all
}

/// Type, channel and payload of each frame, none longer than allowed.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        assert!(AROUND + size <= FRAME_LIMIT as usize, "a frame of {size}");
        assert_eq!(rest[size], FRAME_END);
        found.push((head[0], u16::from_be_bytes([head[1], head[2]]), rest[..size].to_vec()));
        bytes = &rest[size + 1..];
    }
    assert!(bytes.is_empty());
    found
}

/// What the library makes of a replaced message: its method, its mark as text, and its body.
fn replaced(bytes: &[u8]) -> (AMQPMethod, HashMap<String, AMQPValue>, Vec<u8>) {
    let mut frames = frames(bytes).into_iter();
    let (_, _, method) = frames.next().unwrap();
    let Ok((_, AMQPClass::Basic(method))) = parse_class(&*method) else {
        panic!("not a method of basic")
    };
    let (_, _, header) = frames.next().unwrap();
    let (rest, properties) = parse_properties(&header[HEADER_FIXED..]).unwrap();
    assert!(rest.is_empty());
    let headers = properties.headers().clone().unwrap();
    assert_eq!(headers.inner().len(), 1);
    let AMQPValue::FieldTable(mark) = headers.inner()[UNREADABLE].clone() else {
        panic!("no mark")
    };
    let mark = mark
        .inner()
        .iter()
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    let body: Vec<u8> = frames.flat_map(|(_, _, payload)| payload).collect();
    let mut size = Fields(&header[4..HEADER_FIXED]);
    assert_eq!(size.u64(), Some(body.len() as u64));
    (method, mark, body)
}

fn why(mark: &HashMap<String, AMQPValue>) -> String {
    match &mark["why"] {
        AMQPValue::LongString(why) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unreadable_key_is_taken_out_and_kept() {
    let properties = string_header(b"name", b"value");
    let key = b"v02.post.donn\xe9es";
    let stream = [
        deliver(7, 42, b"xs", key),
        header(7, 4, &properties),
        frame(BODY, 7, b"body"),
    ]
    .concat();
    let (method, mark, body) = replaced(&filtered(&[&stream]));
    let AMQPMethod::Deliver(method) = method else {
        panic!("{method:?}")
    };
    assert_eq!((method.delivery_tag, method.redelivered), (42, true));
    assert_eq!((method.exchange.as_str(), method.routing_key.as_str()), ("xs", ""));
    assert_eq!(method.consumer_tag.as_str(), "amq.ctag-x");
    assert_eq!(why(&mark), "its routing key is not UTF-8");
    assert_eq!(mark["key"], AMQPValue::ByteArray(key.to_vec().into()));
    assert_eq!(mark["exchange"], AMQPValue::ByteArray(b"xs".to_vec().into()));
    assert_eq!(mark["properties"], AMQPValue::LongLongInt(properties.len() as i64));
    assert_eq!(body, [&properties[..], b"body"].concat());
}

#[test]
fn unreadable_names_are_taken_out_of_every_method_that_brings_a_message() {
    for method in [
        deliver(1, 1, b"x", b"\xff"),
        deliver(1, 1, b"\xff", b"key"),
        deliver(1, 1, b"\xff", b"\xff"),
        get_ok(1, b"\xff"),
        returned(1, b"\xff"),
    ] {
        let stream = [method, header(1, 0, &[0, 0])].concat();
        let (method, mark, body) = replaced(&filtered(&[&stream]));
        assert!(why(&mark).contains("not UTF-8"), "{mark:?}");
        assert_eq!(body, [0, 0]);
        match method {
            AMQPMethod::GetOk(ok) => assert_eq!(ok.message_count, 7),
            AMQPMethod::Return(returned) => assert_eq!(returned.reply_text.as_str(), "NO_ROUTE"),
            AMQPMethod::Deliver(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn unreadable_properties_are_moved_before_the_body() {
    let text = |bit: u16| {
        let mut properties = (1u16 << bit).to_be_bytes().to_vec();
        short(&mut properties, b"caf\xe9");
        properties
    };
    let mut table = Vec::new();
    short(&mut table, b"x");
    table.push(b'?');
    let cases = [
        (text(15), "its content_type is not UTF-8"),
        (text(14), "its content_encoding is not UTF-8"),
        (text(10), "its correlation_id is not UTF-8"),
        (text(9), "its reply_to is not UTF-8"),
        (text(8), "its expiration is not UTF-8"),
        (text(7), "its message_id is not UTF-8"),
        (text(5), "its type is not UTF-8"),
        (text(4), "its user_id is not UTF-8"),
        (text(3), "its app_id is not UTF-8"),
        (text(2), "its cluster_id is not UTF-8"),
        (
            string_header(b"\xff", b""),
            "the name of one of its headers is not UTF-8",
        ),
        (nested(65), "its headers are nested more than 64 deep"),
        (headers(&table), "its properties are broken off"),
        (vec![0x80, 0, 9, b'a'], "its properties are broken off"),
        (vec![0, 0, 1], "its properties are broken off"),
        (vec![0], "its properties are broken off"),
        (
            string_header(UNREADABLE.as_bytes(), b"forged"),
            "it has a header x-px-unreadable",
        ),
    ];
    for (properties, reason) in cases {
        let stream = [
            deliver(1, 5, b"x", b"key"),
            header(1, 2, &properties),
            frame(BODY, 1, b"ab"),
        ]
        .concat();
        let (method, mark, body) = replaced(&filtered(&[&stream]));
        assert!(matches!(method, AMQPMethod::Deliver(deliver) if deliver.routing_key.as_str() == "key"));
        assert!(why(&mark).starts_with(reason), "{} {reason}", why(&mark));
        assert_eq!(body, [&properties[..], b"ab"].concat(), "{reason}");
        assert!(!mark.contains_key("key"));
    }
}

#[test]
fn properties_longer_than_a_frame_go_in_several_and_need_no_reason() {
    let properties = string_header(b"long", &[b'v'; 20_000]);
    let stream = [
        tune(1000),
        deliver(3, 5, b"x", b"key"),
        header(3, 1, &properties),
        frame(BODY, 3, b"b"),
    ]
    .concat();
    let out = filtered(&[&stream]);
    let (_, mark, body) = replaced(&out[tune(1000).len()..]);
    assert_eq!(body, [&properties[..], b"b"].concat());
    assert!(!mark.contains_key("why"));
    // The broker has asked for less than we would take.
    let (mut filter, mut out) = (Filter::new(1 << 20), Vec::new());
    let small = [tune(4096), header(3, 0, &string_header(b"h", &[0; 5000]))].concat();
    assert_eq!(filter.read(&small, &mut out), tune(4096).len());
    assert!(frames(&out).len() > 2);
    let (mut filter, mut out) = (Filter::new(1 << 20), Vec::new());
    let large = [tune(0), header(3, 0, &string_header(b"h", &[0; 5000]))].concat();
    assert_eq!((filter.read(&large, &mut out), out.len()), (large.len(), 0));
}

#[test]
fn a_channel_is_marked_for_one_message() {
    let good = [
        deliver(1, 2, b"x", b"good"),
        header(1, 0, &[0, 0]),
        deliver(2, 3, b"x", b"good"),
        header(2, 0, &[0, 0]),
    ]
    .concat();
    let poison = [deliver(1, 1, b"x", b"\xff"), header(1, 0, &[0, 0])].concat();
    let out = filtered(&[&[poison, good.clone()].concat()]);
    assert!(out.ends_with(&good));
    // Nor is one whose header has never come.
    let out = filtered(&[&[deliver(1, 1, b"x", b"\xff"), good.clone()].concat()]);
    assert!(out.ends_with(&good));
    // Another channel's header may come first.
    let stream = [
        deliver(1, 1, b"x", b"\xff"),
        deliver(2, 1, b"x", b"good"),
        header(2, 0, &[0, 0]),
        header(1, 0, &[0, 0]),
    ];
    let found = frames(&filtered(&[&stream.concat()]));
    assert_eq!(found[2], (HEADER, 2, vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!((found[3].0, found[3].1), (HEADER, 1));
    assert!(found[3].2.len() > 14);
}

#[test]
fn nonsense_goes_through() {
    let mut torn = deliver(1, 1, b"x", b"\xff");
    *torn.last_mut().unwrap() = 0;
    for stream in [
        &b"AMQP\0\0\x09\x01"[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"A",
        &torn,
        &frame(METHOD, 1, &[0, 60, 0, 60, 200]),
        &frame(METHOD, 1, &[]),
        &frame(METHOD, 1, &[0xff; METHOD_MAX + 1]),
        &frame(HEADER, 1, &[0, 60, 0]),
        &frame(HEADER, 1, &[0, 61, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        &[HEADER, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 60],
    ] {
        assert_eq!(filtered(&[stream]), stream, "{}", stream.escape_ascii());
    }
}

/// Bytes of which many are text.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![6 => "[a-zé.]{0,12}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..255)]
}

/// A value with its type, nested a little.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let long = |kind: u8, bytes: Vec<u8>| [vec![kind], (bytes.len() as u32).to_be_bytes().to_vec(), bytes].concat();
    let fixed = [
        (b't', 1),
        (b'B', 1),
        (b'b', 1),
        (b's', 2),
        (b'U', 2),
        (b'u', 2),
        (b'I', 4),
        (b'i', 4),
        (b'f', 4),
        (b'D', 5),
        (b'l', 8),
        (b'L', 8),
        (b'd', 8),
        (b'T', 8),
        (b'V', 0),
    ];
    let leaf = prop_oneof![
        8 => (proptest::sample::select(fixed.to_vec()), any::<[u8; 8]>())
            .prop_map(|((kind, count), bytes)| [&[kind][..], &bytes[..count]].concat()),
        4 => vec(any::<u8>(), 0..20).prop_map(move |bytes| long(b'S', bytes)),
        1 => vec(any::<u8>(), 0..20).prop_map(move |bytes| long(b'x', bytes)),
        1 => vec(any::<u8>(), 1..3),
    ];
    leaf.prop_recursive(4, 20, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(move |values| long(b'A', values.concat())),
            vec((name(), inner), 0..4).prop_map(move |fields| long(b'F', table(&fields))),
        ]
    })
}

fn table(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        short(&mut out, name);
        out.extend(value);
    }
    out
}

fn some_properties() -> impl Strategy<Value = Vec<u8>> {
    (
        any::<u16>(),
        vec(name(), 10),
        vec((name(), value()), 0..5),
        any::<bool>(),
    )
        .prop_map(|(flags, names, fields, is_cut)| {
            let mut names = names.into_iter();
            let mut out = flags.to_be_bytes().to_vec();
            for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
                match bit {
                    13 => out.extend(&headers(&table(&fields))[2..]),
                    12 | 11 => out.push(1),
                    6 => out.extend(8u64.to_be_bytes()),
                    _ => short(&mut out, &names.next().unwrap()),
                }
            }
            if is_cut && flags % 5 == 0 {
                out.pop();
            }
            out
        })
}

/// A message on some channel, or something else that a broker may send.
fn some_frames() -> impl Strategy<Value = Vec<u8>> {
    let message = (
        1..4u16,
        name(),
        name(),
        some_properties(),
        vec(any::<u8>(), 0..300),
        0..3,
    )
        .prop_map(|(channel, exchange, key, properties, body, how)| {
            let method = match how {
                0 => deliver(channel, 1, &exchange, &key),
                1 => get_ok(channel, &key),
                _ => returned(channel, &key),
            };
            let header = header(channel, body.len() as u64, &properties);
            [method, header, frame(BODY, channel, &body)].concat()
        });
    prop_oneof![
        8 => message,
        1 => Just(frame(HEARTBEAT, 0, &[])),
        1 => vec(any::<u8>(), 0..40).prop_map(|payload| frame(METHOD, 1, &payload)),
        1 => vec(any::<u8>(), 0..9000).prop_map(|bytes| header(1, 0, &string_header(b"h", &bytes))),
    ]
}

proptest! {
    /// Whatever the library can read goes through, and nothing else.
    #[test]
    fn properties_are_judged_as_the_library_does(properties in prop_oneof![some_properties(), vec(any::<u8>(), 0..60)]) {
        let can_be_read = matches!(parse_properties(&*properties), Ok((rest, _)) if rest.is_empty());
        prop_assert_eq!(check(&properties).is_ok(), can_be_read);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_come_in(
        stream in vec(some_frames(), 1..12),
        tail in vec(any::<u8>(), 0..40),
        cuts in vec(any::<proptest::sample::Index>(), 0..20),
    ) {
        let stream = [stream.concat(), tail].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
        let whole = filtered(&[&stream]);
        prop_assert_eq!(&filtered(&parts), &whole);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&filtered(&bytes), &whole);
    }

    /// Every frame that comes out can be read, if every frame that went in was whole.
    #[test]
    fn what_comes_out_can_be_read(messages in vec(some_properties(), 1..6), key in name()) {
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|properties| [deliver(1, 1, b"x", &key), header(1, 0, properties)].concat())
            .collect();
        for (kind, _, payload) in frames(&filtered(&[&stream])) {
            match kind {
                METHOD => prop_assert!(parse_class(&*payload).is_ok()),
                HEADER => prop_assert!(check(&payload[HEADER_FIXED..]).is_ok() || payload[12] == 0x20),
                _ => {}
            }
            if kind == HEADER {
                prop_assert!(matches!(parse_properties(&payload[HEADER_FIXED..]), Ok((rest, _)) if rest.is_empty()));
            }
        }
    }

    #[test]
    fn what_can_be_read_goes_through_where_it_lies(
        messages in vec(("[a-zé.]{0,12}", some_properties(), vec(any::<u8>(), 0..4000)), 1..6),
    ) {
        let stream: Vec<u8> = messages
            .iter()
            .filter(|(_, properties, _)| check(properties).is_ok())
            .flat_map(|(key, properties, body)| {
                let size = body.len() as u64;
                [deliver(2, 1, b"x", key.as_bytes()), header(2, size, properties), frame(BODY, 2, body)].concat()
            })
            .collect();
        let mut out = Vec::new();
        prop_assert_eq!(Filter::new(FRAME_LIMIT).read(&stream, &mut out), stream.len());
        prop_assert!(out.is_empty());
    }
}
