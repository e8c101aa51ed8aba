//! A queue that is fed while it is spilled, message by message.

use super::*;

/// What came into the queue is in the file. Oddity of RabbitMQ: what is published in the moment of the queue's end may
/// be confirmed and not returned, though it came into no queue.
#[test]
fn nothing_that_comes_meanwhile_is_lost() {
    let broker = TestBroker::new("spill-meanwhile");
    let (site, config) = (TestSite::new(&broker), main_broker(&broker));
    let feed = Feed::new(&broker.config());
    let numbered = |number: usize| Envelope {
        key: "q".into(),
        body: number.to_string().into_bytes(),
        ..Envelope::default()
    };
    // Ever longer pauses, until the end falls into one.
    for round in 0..11 {
        let before = 50 * round + 1;
        fill(&config, "q", &(0..before).map(numbered).collect::<Vec<_>>());
        let is_over = AtomicBool::new(false);
        // A feeder that asks some questions after each message, so that the queue is dry for a moment now and then.
        let (spilled, fed) = std::thread::scope(|scope| {
            let feeder = scope.spawn(|| {
                runtime().block_on(async {
                    let connection = connect(&config, Purpose::Publish, "feed").await.expect("connect");
                    let mut next = before;
                    while !is_over.load(Ordering::Relaxed) {
                        let sent = connection.publish("", &numbered(next), Returns::Known).await;
                        if sent.expect("publish").await.expect("confirm") == Confirmed::Returned {
                            break;
                        }
                        next += 1;
                        for _ in 0..1 << round {
                            connection.depth("q").await.expect("an answer");
                        }
                    }
                    next
                })
            });
            let spilled = spill_now(&config, "q", &spilled_into(&site));
            is_over.store(true, Ordering::Relaxed);
            (spilled, feeder.join().expect("fed"))
        });
        let mut all = read(spilled.file.as_deref().expect("a file"));
        let may_miss = usize::from(spilled.ending == Ending::Deleted);
        if let Some(left) = depth(&config, "q") {
            wait_until(
                SOON,
                format!("{fed} are in all: {spilled:?}, {left} in the queue"),
                || spilled.messages + depth(&config, "q").unwrap_or(0) == fed as u64,
            );
            all.extend(feed.reader("q").take(fed - all.len()));
            broker.delete_queue("q");
        }
        assert!(all.len() + may_miss >= fed, "{} of {fed}: {spilled:?}", all.len());
        for (number, envelope) in all.iter().enumerate() {
            assert!(
                envelope.body == number.to_string().into_bytes(),
                "{number} is missing of {fed}: {spilled:?}"
            );
        }
        if may_miss > 0 {
            return;
        }
    }
    panic!("the moment of the end was never met");
}
