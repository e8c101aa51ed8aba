//! What a confirm is worth, and what arrives.

use std::collections::VecDeque;

use px::broker::{Confirm, Confirmed, Returns, Settlement};
use px::message::{Envelope, ExchangeKind, Fault, Headers, Topology, Value};

use crate::fixture::*;
use crate::support::within;

pub async fn confirm_means_durable(fixture: &mut dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fixture.flush_definitions();
    let bodies: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let mut confirms = Vec::new();
    for body in &bodies {
        confirms.push(
            connection
                .publish("", &message("q", body), Returns::Counted)
                .await
                .expect("publish"),
        );
    }
    for confirm in confirms {
        assert_eq!(
            within(SOON, "confirmed", confirm).await.expect("confirm"),
            Confirmed::Routed
        );
    }
    fixture.crash();
    let consumer = consumer(fixture).await;
    let mut subscription = consumer.subscribe("q", 10).await.expect("subscribe");
    for body in bodies {
        assert_eq!(take_text(&mut subscription).await, body);
    }
}

fn every_header_type() -> Headers {
    let plain = Headers::from([
        ("bool".into(), Value::Bool(true)),
        ("i8".into(), Value::I8(-8)),
        ("u8".into(), Value::U8(200)),
        ("i16".into(), Value::I16(-1600)),
        ("u16".into(), Value::U16(60000)),
        ("i32".into(), Value::I32(-320_000)),
        ("u32".into(), Value::U32(4_000_000_000)),
        ("i64".into(), Value::I64(i64::MIN)),
        ("f32".into(), Value::F32(1.5)),
        ("f64".into(), Value::F64(-2.25)),
        ("decimal".into(), Value::Decimal(2, 31415)),
        ("text".into(), Value::from("neige à Montréal")),
        ("not utf-8".into(), Value::Str(vec![0xff, 0x80, 0])),
        ("bytes".into(), Value::Bytes(vec![0, 1, 0xfe])),
        ("time".into(), Value::Timestamp(1_700_000_000)),
        ("void".into(), Value::Void),
        ("".into(), Value::from("")),
    ]);
    let mut headers = plain.clone();
    headers.insert("array".into(), Value::Array(plain.values().cloned().collect()));
    headers.insert("table".into(), Value::Table(plain));
    headers
}

pub async fn a_message_arrives_as_it_was_published(fixture: &dyn Fixture) {
    let sent = [
        Envelope {
            key: "q".into(),
            headers: every_header_type(),
            content_type: Some("text/plain".into()),
            content_encoding: Some("identity".into()),
            priority: Some(3),
            message_id: Some("id-1".into()),
            correlation_id: Some("for-0".into()),
            reply_to: Some("q.answers".into()),
            expiration: Some("3600000".into()),
            timestamp: Some(1_700_000_000),
            kind: Some("announcement".into()),
            app_id: Some("px".into()),
            body: (0..=255).collect(),
        },
        // Nothing at all, not even a body.
        message("q", ""),
        Envelope {
            headers: Headers::from([("h".into(), Value::Bytes(vec![7; 12_000]))]),
            ..message("q", "headers that nearly fill a frame")
        },
    ];
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    for envelope in sent {
        publish(&*connection, "", &envelope).await;
        let received = take(&mut subscription).await;
        assert_eq!(received.envelope, envelope);
        assert!(!received.redelivered);
        received.receipt.settle(Settlement::Ack).await.expect("settle");
    }
}

pub async fn ten_mebibytes_arrive_whole(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    let envelope = Envelope {
        body: (0..10 << 20).map(|byte: u32| (byte % 251) as u8).collect(),
        ..message("q", "")
    };
    assert_eq!(publish(&*connection, "", &envelope).await, Confirmed::Routed);
    let mut subscription = connection.subscribe("q", 1).await.expect("subscribe");
    let received = take(&mut subscription).await;
    assert!(
        received.envelope == envelope,
        "{} bytes came",
        received.envelope.body.len()
    );
}

pub async fn the_publish_that_found_no_queue_is_known(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        bindings: vec![binding("x", "q", "good")],
    };
    declare(&*connection, &topology).await;
    let publishes = (0..200).map(|number| async move {
        let key = if number % 3 == 0 { "good" } else { "bad" };
        (key, number)
    });
    // All at once: each still learns its own fate.
    let verdicts = futures_util::future::join_all(publishes.map(async |publish| {
        let (key, number) = publish.await;
        let envelope = message(key, &number.to_string());
        let confirm = connection
            .publish("x", &envelope, Returns::Known)
            .await
            .expect("publish");
        (key, within(SOON, "confirmed", confirm).await.expect("confirm"))
    }))
    .await;
    for (key, verdict) in verdicts {
        assert_eq!(
            verdict,
            if key == "good" {
                Confirmed::Routed
            } else {
                Confirmed::Returned
            }
        );
    }
}

pub async fn publishes_that_found_no_queue_are_counted(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    let topology = Topology {
        exchanges: vec![exchange("x", ExchangeKind::Topic)],
        queues: vec![queue("q")],
        bindings: vec![binding("x", "q", "good")],
    };
    declare(&*connection, &topology).await;
    let mut confirms = Vec::new();
    for number in 0..1000 {
        let key = if number % 2 == 0 { "good" } else { "bad" };
        confirms.push(
            connection
                .publish("x", &message(key, ""), Returns::Counted)
                .await
                .expect("publish"),
        );
    }
    let mut returned = 0;
    for confirm in confirms {
        if within(SOON, "confirmed", confirm).await.expect("confirm") == Confirmed::Returned {
            returned += 1;
        }
    }
    assert_eq!(returned, 500);
}

pub async fn publishing_to_a_missing_exchange_is_our_own_fault(fixture: &dyn Fixture) {
    for returns in [Returns::Counted, Returns::Known] {
        let connection = publisher(fixture).await;
        let verdict = match connection.publish("missing", &message("k", ""), returns).await {
            Ok(confirm) => within(SOON, "confirmed", confirm).await,
            Err(error) => Err(error),
        };
        let error = verdict.expect_err("there is no such exchange");
        assert_eq!(error.fault, Fault::Own, "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

pub async fn what_cannot_be_carried_is_the_messages_fault(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    let long = "x".repeat(256);
    let bad = [
        message(&long, ""),
        Envelope {
            message_id: Some(long.clone()),
            ..message("q", "")
        },
        Envelope {
            headers: Headers::from([(long, Value::Void)]),
            ..message("q", "")
        },
    ];
    for envelope in bad {
        let error = connection
            .publish("", &envelope, Returns::Counted)
            .await
            .err()
            .expect("too long");
        assert_eq!(error.fault, Fault::Message, "{error}");
    }
    // The others go on.
    fill(&*connection, "q", &["good"]).await;
}

pub async fn a_closed_connection_refuses_at_once(fixture: &dyn Fixture) {
    let connection = publisher(fixture).await;
    declare(&*connection, &only_queue("q")).await;
    fill(&*connection, "q", &["safe"]).await;
    connection.close().await;
    within(SOON, "closed", connection.closed()).await;
    for returns in [Returns::Counted, Returns::Known] {
        assert!(connection.publish("", &message("q", ""), returns).await.is_err());
    }
    assert!(connection.subscribe("q", 1).await.is_err());
    assert!(connection.depth("q").await.is_err());
    assert!(connection.declare(&only_queue("q")).await.is_err());
    connection.close().await;
}

/// 10⁵ messages published in a window while they are consumed: each comes once, in order, and their sum is right.
pub async fn sums_are_equal_over_many_messages(fixture: &dyn Fixture) {
    const MESSAGES: u64 = 100_000;
    const WINDOW: usize = 512;
    let publishing = publisher(fixture).await;
    let consuming = consumer(fixture).await;
    declare(&*publishing, &only_queue("q")).await;
    let publish = async {
        let mut window: VecDeque<Confirm> = VecDeque::new();
        for number in 0..MESSAGES {
            if window.len() == WINDOW
                && let Some(oldest) = window.pop_front()
            {
                assert_eq!(
                    within(SOON, "confirmed", oldest).await.expect("confirm"),
                    Confirmed::Routed
                );
            }
            let envelope = message("q", &number.to_string());
            window.push_back(
                publishing
                    .publish("", &envelope, Returns::Counted)
                    .await
                    .expect("publish"),
            );
        }
        for confirm in window {
            assert_eq!(
                within(SOON, "confirmed", confirm).await.expect("confirm"),
                Confirmed::Routed
            );
        }
    };
    let consume = async {
        let mut subscription = consuming.subscribe("q", 200).await.expect("subscribe");
        let mut sum = 0;
        for number in 0..MESSAGES {
            let got: u64 = take_text(&mut subscription).await.parse().expect("a number");
            assert_eq!(got, number);
            sum += got;
        }
        sum
    };
    let ((), sum) = tokio::join!(publish, consume);
    assert_eq!(sum, MESSAGES * (MESSAGES - 1) / 2);
    assert_eq!(depth(&*publishing, "q").await, Some(0));
}
