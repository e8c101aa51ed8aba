use super::client::parse_retry_after;
use super::*;

#[test]
fn every_status_has_its_class() {
    let url = Url::parse("http://h/x").unwrap();
    let table = [
        (404, Fault::Message, Kind::Gone),
        (410, Fault::Message, Kind::Gone),
        (400, Fault::Message, Kind::Rejected),
        (416, Fault::Message, Kind::Rejected),
        (304, Fault::Message, Kind::Rejected),
        (401, Fault::Endpoint, Kind::Forbidden),
        (403, Fault::Endpoint, Kind::Forbidden),
        (408, Fault::Endpoint, Kind::TimedOut),
        (429, Fault::Endpoint, Kind::Unavailable),
        (500, Fault::Endpoint, Kind::Unavailable),
        (503, Fault::Endpoint, Kind::Unavailable),
        (204, Fault::Endpoint, Kind::Broken),
        (206, Fault::Endpoint, Kind::Broken),
        (999, Fault::Endpoint, Kind::Broken),
    ];
    for (status, fault, kind) in table {
        let err = refusal(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            &url,
            Timestamp::now(),
        );
        assert_eq!((err.fault, err.kind), (fault, kind), "{status}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = "2015-10-21T07:27:00Z".parse().unwrap();
    let table = [
        ("120", Some(120)),
        (" 0 ", Some(0)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
        ("Wed, 21 Oct 2015 07:20:00 GMT", Some(0)),
        ("-1", None),
        ("soon", None),
        ("", None),
    ];
    for (text, seconds) in table {
        assert_eq!(parse_retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
    }
}
