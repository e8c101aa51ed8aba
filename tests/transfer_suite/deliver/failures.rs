//! Servers that die, hang, refuse; and what the next try finds.

use std::time::{Duration, Instant};

use px::config::Secret;
use px::message::Fault;
use px::transfer::deliver::{Lock, Options};
use px::transfer::{Kind, TransferError};

use super::row::{Row, SILENCE, SOON, assert_no_secret, lane, peer};
use super::rows;
use crate::support::{eventually, wait_until};

/// The rows that have a server; the others say why they have none.
fn served(what: &str) -> Vec<Box<dyn Row>> {
    let mut rows = rows();
    rows.retain_mut(|row| match row.server() {
        Ok(_) => true,
        Err(why) => {
            row.leaves_out(what, why);
            false
        }
    });
    rows
}

/// One that gives up soon.
fn impatient(row: &dyn Row) -> Options {
    let mut options = row.options();
    if let Some(peer) = peer(&mut options.destination) {
        peer.read_timeout = SILENCE;
        // A log-in that nobody freezes must be done in this time, on a machine that is busy.
        peer.connect_timeout = 3 * SILENCE;
    }
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_the_middle_leaves_nothing_and_gets_all_after_its_return() {
    let bytes = vec![b'x'; 1_000_000];
    for mut row in served("dying") {
        let mut lane = lane(Options {
            bandwidth: Some(400_000),
            ..row.options()
        });
        let parcel = row.parcel("", b"whole", &bytes);
        let before = row.bytes_there();
        let putting = tokio::spawn(async move { (lane.put(&parcel).await, lane) });
        eventually(SOON, "bytes arrive", async || row.bytes_there() > before).await;
        row.server().unwrap().kill();
        let (put, mut lane) = putting.await.unwrap();
        let err = put.unwrap_err();
        assert_eq!(err.fault, Fault::Endpoint, "{}: {err} {err:?}", row.name());
        assert_no_secret(&err);
        assert_eq!(row.read(b"whole"), None, "{}: nothing under the final name", row.name());
        let refused = lane.put(&row.parcel("", b"whole", &bytes)).await.unwrap_err();
        assert_eq!(
            (refused.fault, refused.kind),
            (Fault::Endpoint, Kind::Unreachable),
            "{refused}"
        );
        row.server().unwrap().start_again();
        let put = lane.put(&row.parcel("", b"whole", &bytes)).await;
        assert!(put.is_ok(), "{}: {put:?}", row.name());
        assert!(row.read(b"whole").unwrap() == bytes, "{}", row.name());
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    for mut row in served("silence") {
        let mut warm = lane(impatient(&*row));
        warm.put(&row.parcel("", b"first", b"x")).await.unwrap();
        row.server().unwrap().freeze();
        let mut options = impatient(&*row);
        if let Some(peer) = peer(&mut options.destination) {
            peer.connect_timeout = SILENCE;
        }
        let mut cold = lane(options);
        for (lane, of) in [(&mut warm, "an old connection"), (&mut cold, "a new one")] {
            let begun = Instant::now();
            let err = lane.put(&row.parcel("", b"never", b"x")).await.unwrap_err();
            assert_eq!(
                (err.fault, err.kind),
                (Fault::Endpoint, Kind::TimedOut),
                "{} {of}: {err}",
                row.name()
            );
            assert!(
                begun.elapsed() < 6 * SILENCE,
                "{} {of}: {:?}",
                row.name(),
                begun.elapsed()
            );
        }
        row.server().unwrap().thaw();
        let put = warm.put(&row.parcel("", b"after", b"x")).await;
        assert!(put.is_ok(), "{}: {put:?}", row.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_taking_bytes_is_given_up_in_time() {
    for mut row in served("silence") {
        let mut lane = lane(impatient(&*row));
        lane.put(&row.parcel("", b"first", b"x")).await.unwrap();
        let parcel = row.parcel("", b"large", &vec![b'x'; 60_000_000]);
        let before = row.bytes_there();
        let putting = tokio::spawn(async move { (lane.put(&parcel).await, lane) });
        wait_until(SOON, "bytes arrive", || row.bytes_there() > before);
        row.server().unwrap().freeze();
        let (put, _) = putting.await.unwrap();
        row.server().unwrap().thaw();
        let err = put.unwrap_err();
        assert_eq!(
            (err.fault, err.kind),
            (Fault::Endpoint, Kind::TimedOut),
            "{}: {err}",
            row.name()
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_endpoints_and_never_shown() {
    for row in served("passwords") {
        let mut options = row.options();
        let peer = peer(&mut options.destination).unwrap();
        peer.login.password = Some(Secret::new("canary"));
        let mut lane = lane(options);
        let err = lane.put(&row.parcel("", b"x", b"x")).await.unwrap_err();
        assert_eq!(
            (err.fault, err.kind),
            (Fault::Endpoint, Kind::LoginRefused),
            "{}: {err}",
            row.name()
        );
        assert_no_secret(&err);
        assert_eq!(row.read(b"x"), None);
    }
}

#[tokio::test]
async fn a_destination_that_failed_rests_and_says_so() {
    for mut row in served("rests") {
        row.server().unwrap().kill();
        let deliverer = px::transfer::deliver::Deliverer::new(Options {
            rest_first: Duration::from_secs(600),
            rest_longest: Duration::from_secs(600),
            ..row.options()
        })
        .unwrap();
        let mut lane = deliverer.lane();
        let fails = async |lane: &mut px::transfer::deliver::Lane| -> TransferError {
            lane.put(&row.parcel("", b"x", b"x")).await.unwrap_err()
        };
        assert_eq!(fails(&mut lane).await.kind, Kind::Unreachable, "{}", row.name());
        let resting = fails(&mut deliverer.lane()).await;
        assert_eq!(
            (resting.fault, resting.kind),
            (Fault::Endpoint, Kind::Resting),
            "{}",
            row.name()
        );
        assert!(resting.retry_after.unwrap() > Duration::from_secs(500));
        assert!(deliverer.rests().unwrap() > Duration::from_secs(500));
    }
}

#[tokio::test]
async fn many_products_go_over_one_connection() {
    for mut row in served("connections") {
        let before = match row.server().unwrap().connections() {
            Ok(before) => before,
            Err(why) => {
                row.leaves_out("counting connections", why);
                continue;
            }
        };
        let mut lane = row.lane();
        for n in 0..500 {
            let put = lane.put(&row.parcel("", format!("p{n}").as_bytes(), b"x")).await;
            assert!(put.is_ok(), "{}: {n}: {put:?}", row.name());
        }
        lane.close().await;
        let made = row.server().unwrap().connections().unwrap() - before;
        assert_eq!(made, 1, "{}", row.name());
        assert_eq!(row.read(b"p499").unwrap(), b"x");
    }
}

/// Without a lock half may stay, but the next try replaces it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lock_the_next_try_begins_anew() {
    for mut row in served("dying") {
        if !row.locks().contains(&Lock::None) {
            continue;
        }
        let options = Options {
            lock: Lock::None,
            bandwidth: Some(400_000),
            ..row.options()
        };
        let mut lane = lane(options);
        let bytes = vec![b'y'; 400_000];
        let (parcel, before) = (row.parcel("", b"open", &bytes), row.bytes_there());
        let putting = tokio::spawn(async move { (lane.put(&parcel).await, lane) });
        eventually(SOON, "bytes arrive", async || row.bytes_there() > before).await;
        row.server().unwrap().kill();
        let (put, mut lane) = putting.await.unwrap();
        assert_eq!(put.unwrap_err().fault, Fault::Endpoint, "{}", row.name());
        row.server().unwrap().start_again();
        lane.put(&row.parcel("", b"open", &bytes)).await.unwrap();
        assert!(row.read(b"open").unwrap() == bytes, "{}", row.name());
    }
}
