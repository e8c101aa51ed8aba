//! Messages that are delivered again.

use super::*;

/// A repeat that was published is a product; only one that was delivered again is not.
#[tokio::test]
async fn only_equal_bytes_under_an_equal_name_delivered_again_are_known() {
    let world = World::new();
    let ingester = world.open();
    receive(&ingester, NAME, "bytes", false).await;
    let taken = receive(&ingester, NAME, "bytes", true).await;
    assert!(taken.ingested.is_empty() && taken.known.unwrap().starts_with(world.path("db")));
    for (bytes, is_redelivered) in [("bytes", false), ("other", true), ("bytes2", true)] {
        let taken = receive(&ingester, NAME, bytes, is_redelivered).await;
        assert_eq!(taken.ingested.len(), 1, "{bytes} {is_redelivered}");
    }
    assert_eq!(
        world.files("db").values().next().unwrap(),
        &["bytes", "bytes", "bytes2", "other"]
    );
}

/// The same notice, of a file that is written now and then. What comes again because this host's trouble had sent it
/// back, or a connection broke, is not the one of yesterday.
#[tokio::test]
async fn what_comes_again_is_none_of_the_products_of_long_ago() {
    let world = World::new();
    let old = Timestamp::now() - jiff::SignedDuration::from_hours(24);
    drop(world.open());
    in_rxq(&world);
    all_links(&world);
    fs::remove_file(rxq_file(&world)).unwrap();
    world.mark(&(old + jiff::SignedDuration::from_hours(1)).to_string());
    let ingester = world.open();
    assert_eq!(
        receive(&ingester, NAME, "bytes", true).await.ingested.len(),
        1,
        "of another process"
    );
    assert!(receive(&ingester, NAME, "bytes", true).await.known.is_some());
    for n in 0..2 * UNSETTLED {
        receive(&ingester, format!("f{n}:a:b:c:1:").as_bytes(), "other", false).await;
    }
    assert_eq!(
        receive(&ingester, NAME, "bytes", true).await.ingested.len(),
        1,
        "of this process"
    );
}

/// A reload lets go of what takes too long, and a slow disk goes on with it beside the next configuration's work.
#[tokio::test]
async fn what_is_let_go_of_and_runs_on_is_waited_for_and_known() {
    let world = World::new();
    let before = world.open();
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let fill = move |draft: &mut Draft| {
        begun.send(()).unwrap();
        may_go.recv().unwrap();
        draft.write_all(b"bytes")
    };
    let turn = before.turn(NAME);
    let work = tokio::spawn(async move { before.receive(turn, false, fill).await });
    is_begun.await.unwrap();
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    let next = world.open();
    let again = tokio::spawn(async move { receive(&next, NAME, "bytes", true).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!again.is_finished());
    go.send(()).unwrap();
    again.await.unwrap();
    world.assert_once();
}
