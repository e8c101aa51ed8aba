//! Files that others have put there.

use super::*;

/// Somebody else's file is no reason not to start. A queue that takes no link is.
#[test]
fn a_start_leaves_a_file_that_it_may_not_take_and_goes_on() {
    const SOMEBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return; // only root can make files of others
    }
    let world = World::new();
    drop(world.open());
    let allow = |below: &str, mode: u32| {
        fs::set_permissions(world.path(below), fs::Permissions::from_mode(mode)).unwrap();
    };
    for below in ["", "db", "txq", "fxq", "rxq", "rxq/in", "state", "state/rx_in"] {
        allow(below, 0o777);
    }
    fs::write(world.path("rxq/in/secret:a:b:c:1:"), "x").unwrap();
    allow("rxq/in/secret:a:b:c:1:", 0o600);
    fs::write(rxq_file(&world), "bytes").unwrap();
    std::os::unix::fs::chown(rxq_file(&world), Some(SOMEBODY), None).unwrap();
    let ingester = world.open();
    let recover = |mode: u32| {
        allow("txq", mode);
        let ingester = ingester.clone();
        // The threads for blocking work are this one's children, and have its rights.
        let work = move || {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(SOMEBODY)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(ingester.recover(|_| ()))
        };
        std::thread::spawn(work).join().unwrap()
    };
    let error = recover(0o555).unwrap_err();
    assert!(error.fault == Fault::Own && !error.one_file, "{error}");
    let left = recover(0o777).unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].what.contains("secret:"), "{}", left[0]);
    assert_eq!(walk(&world.path("rxq")), [world.path("rxq/in/secret:a:b:c:1:")]);
}
