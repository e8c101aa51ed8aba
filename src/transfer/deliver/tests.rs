//! What is decided without a connection.

use url::Url;

use super::*;
use crate::spool::Durability;
use crate::transfer::peer::Peer;

fn options(lock: Lock) -> Options {
    Options {
        destination: Destination::File,
        lock,
        mode: None,
        makes_directories: true,
        bandwidth: None,
        durability: Durability::Crash,
        rest_first: Duration::from_secs(60),
        rest_longest: Duration::from_secs(60),
    }
}

fn parcel(directory: &str, name: &[u8]) -> Parcel {
    Parcel {
        content: tempfile::tempfile().unwrap(),
        size: 0,
        directory: directory.into(),
        name: name.to_vec(),
        modified: None,
    }
}

fn err(fault: Fault, kind: Kind) -> TransferError {
    TransferError::new(fault, kind, "x")
}

#[test]
fn what_rests_after_a_failure_and_what_goes_on() {
    let table = [
        (Fault::Endpoint, Kind::Unreachable, Rests::Whole, true),
        (Fault::Endpoint, Kind::LoginRefused, Rests::Whole, true),
        (Fault::Endpoint, Kind::Forbidden, Rests::Directory, false),
        (Fault::Endpoint, Kind::TimedOut, Rests::Whole, true),
        (Fault::Endpoint, Kind::Unavailable, Rests::Whole, true),
        (Fault::Message, Kind::Rejected, Rests::IsWell, false),
        (Fault::Message, Kind::Local, Rests::NotKnown, true),
        (Fault::Own, Kind::Local, Rests::NotKnown, true),
    ];
    for (fault, kind, rests, is_spoilt) in table {
        let err = err(fault, kind);
        assert_eq!(spoils(&err), is_spoilt, "{fault:?} {kind:?}");
        assert_eq!(whose(&err), rests, "{fault:?} {kind:?}");
    }
}

#[test]
fn a_refused_directory_rests_alone_and_a_dead_server_wholly() {
    let deliverer = Deliverer::new(options(Lock::None)).unwrap();
    let shared = &deliverer.shared;
    let (one, other) = (parcel("a", b"1"), parcel("b", b"2"));
    let (of_one, of_other) = (shared.places(&one), shared.places(&other));
    let failed = |kind| Err(err(Fault::Endpoint, kind));
    shared.note(&of_one, &one, &failed(Kind::Forbidden));
    assert_eq!(shared.turn(&of_one, &one).unwrap_err().kind, Kind::Resting);
    assert!(shared.turn(&of_other, &other).is_ok() && deliverer.rests().is_none());
    shared.note(&of_other, &other, &failed(Kind::Broken));
    let err = shared.turn(&of_other, &other).unwrap_err();
    assert!(err.retry_after.unwrap() > Duration::from_secs(50), "{err:?}");
    assert!(deliverer.rests().is_some());
    shared.note(&of_other, &other, &Ok(()));
    assert!(deliverer.rests().is_none());
    shared.note(&of_other, &other, &failed(Kind::LoginRefused));
    assert!(deliverer.rests().is_some(), "a refused login concerns everything");
}

#[test]
fn hostile_names_and_directories_are_refused() {
    let long = vec![b'x'; 256];
    let table: [(&str, &[u8], bool); 14] = [
        ("a/b", b"x y%#~:", true),
        ("/a//./b/", "é".as_bytes(), true),
        ("", &long[..255], true),
        ("", b"\xff\xfe", true),
        ("", &long, false),
        ("", b"", false),
        ("", b".", false),
        ("", b"..", false),
        ("", b"a/b", false),
        ("", b"a\r\nDELE b", false),
        ("", b"a\0", false),
        ("a/../../b", b"x", false),
        ("a\nb", b"x", false),
        (std::str::from_utf8(&long).unwrap(), b"x", false),
    ];
    for (directory, name, is_allowed) in table {
        let result = parcel(directory, name).check();
        assert_eq!(result.is_ok(), is_allowed, "{directory} {name:?}");
        if let Err(err) = result {
            assert_eq!(err.fault, Fault::Message);
            assert!(!err.what.contains(|c: char| c.is_control()), "{}", err.what);
        }
    }
}

#[test]
fn a_temporary_name_fits_and_is_its_own() {
    let tmp = options(Lock::Suffix(".tmp".into()));
    let name_of = |name: &[u8]| tmp.temporary_name(&parcel("", name)).unwrap();
    assert_eq!(name_of(b"abc"), b"abc.tmp");
    assert_eq!(name_of(&[b'x'; 251]).len(), 255);
    let (one, other) = ([&[b'x'; 254][..], b"1"].concat(), [&[b'x'; 254][..], b"2"].concat());
    assert_ne!(name_of(&one), name_of(&other));
    let umlauts = "ä".repeat(127);
    for name in [one, umlauts.into_bytes()] {
        let temporary = name_of(&name);
        assert!(temporary.len() <= 255 && temporary.ends_with(b".tmp"));
        assert!(std::str::from_utf8(&temporary).is_ok());
    }
    assert_eq!(options(Lock::None).temporary_name(&parcel("", b"a")), None);
    assert_eq!(options(Lock::Umask).temporary_name(&parcel("", b"a")), None);
}

#[test]
fn a_lock_is_one_that_the_destination_has() {
    let http = |webdav| {
        Destination::Http(HttpDestination {
            url: Url::parse("http://h/").unwrap(),
            peer: Peer {
                host: "h".into(),
                port: 80,
                login: Default::default(),
                trust: Default::default(),
                connect_timeout: Duration::from_secs(1),
                read_timeout: Duration::from_secs(1),
            },
            webdav,
        })
    };
    let tmp = || Lock::Suffix(".tmp".into());
    let table = [
        (Destination::File, tmp(), true),
        (Destination::File, Lock::Umask, true),
        (Destination::File, Lock::Suffix(String::new()), false),
        (Destination::File, Lock::Suffix("/x".into()), false),
        (Destination::File, Lock::Suffix("a\nb".into()), false),
        (http(true), tmp(), true),
        (http(true), Lock::None, true),
        (http(true), Lock::Umask, false),
        (http(false), tmp(), false),
        (http(false), Lock::None, true),
        (http(false), Lock::Umask, false),
    ];
    for (destination, lock, is_possible) in table {
        assert_eq!(destination.check(&lock).is_ok(), is_possible, "{destination} {lock:?}");
    }
}

#[test]
fn a_product_may_have_the_temporary_name_of_another() {
    let deliverer = Deliverer::new(options(Lock::Suffix(".tmp".to_owned()))).unwrap();
    let written = |directory: &str, name: &[u8]| deliverer.written_names(&parcel(directory, name));
    assert_eq!(written("/a//./b/", b"n"), [b"/a/b/n.tmp".to_vec(), b"/a/b/n".to_vec()]);
    assert_eq!(written("/a/b", b"n.tmp")[1], written("/a/b", b"n")[0]);
    assert_eq!(written("a/b", b"n")[1], b"a/b/n");
    let deliverer = Deliverer::new(options(Lock::None)).unwrap();
    assert_eq!(deliverer.written_names(&parcel("", b"n")), [b"n"]);
}

/// Several at once are answered for one by one, in their order: what fails holds up nobody but its own directory.
#[tokio::test]
async fn one_bad_product_among_many_fails_alone() {
    for durability in [Durability::Power, Durability::Crash] {
        let root = tempfile::tempdir().unwrap();
        let [good, gone] = ["good", "file"].map(|name| root.path().join(name).display().to_string());
        std::fs::create_dir_all(root.path().join("good/taken")).unwrap();
        std::fs::write(&gone, b"no directory").unwrap();
        let mut options = options(Lock::Suffix(".tmp".into()));
        options.durability = durability;
        let mut lane = Deliverer::new(options).unwrap().lane();
        let mut parcels = [
            parcel(&good, b"a"),
            parcel(&good, b"taken"),
            parcel(&good, b".."),
            parcel(&gone, b"b"),
            parcel(&gone, b"c"),
            parcel(&good, b"d"),
        ];
        parcels[5].size = 1;
        let results = lane.put_all(&parcels.iter().collect::<Vec<_>>()).await;
        let kinds: Vec<_> = results
            .iter()
            .map(|one| one.as_ref().err().map(|err| err.kind))
            .collect();
        let wanted = [
            None,
            Some(Kind::Rejected),
            Some(Kind::Rejected),
            Some(Kind::Forbidden),
            Some(Kind::Resting),
            Some(Kind::Local),
        ];
        assert_eq!(kinds, wanted, "{results:?}");
        let mut names: Vec<_> = std::fs::read_dir(&good)
            .unwrap()
            .map(|one| one.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["a", "taken"]);
        parcels[5].size = 0;
        let results = lane.put_all(&[&parcels[5], &parcels[0]]).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}
