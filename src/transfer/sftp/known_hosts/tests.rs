//! Lines as ssh-keygen writes them.

use super::*;

const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFn8nF8YwWkF2FTQQK19TLeh6d4RBrKszfBgGPkvvUy0";
const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIUq6jtOV1wMvsDVF5tJevctQ52RzTDPj0KkV3W6572m";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJlJACm+2SPyI29iepaxv6NVE\
                     RJYQsKHfPnU2Jbklug0zbVVOK8zVxr/pNH5hft0/hxfFehWp20oh/wtCKVF/cM=";
const AUTHORITY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJwnOKxz5lRoqiIwuoAtKPIz0ZwxPA0W0t4nV0P1eqK3";
/// Of A, for example.org and *.wx.ca, from 2020 to 2099.
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIOXeHs4A+\
    aDVk8sBXnhE+UPnKsvRPiSmz8DPdOdc04zmAAAAIFn8nF8YwWkF2FTQQK19TLeh6d4RBrKszfBgGPkvvUy0AAAAAAAAAAAAAAACAAAABmhvc3QtYQAAAB\
    oAAAALZXhhbXBsZS5vcmcAAAAHKi53eC5jYQAAAABeC+EAAAAAAPSFBYAAAAAAAAAAAAAAAAAAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIJwnOKxz5lRoqi\
    IwuoAtKPIz0ZwxPA0W0t4nV0P1eqK3AAAAUwAAAAtzc2gtZWQyNTUxOQAAAEDV8M2O5s7+Pa4KGgSnA2koTYvAj1oE1cdImRW29uYAgnBd9mRv0JVP7b\
    6H9j2x8VEiDshIoBsVPyw80OZ4ew8N";
/// Of B, for a user.
const OF_A_USER: &str = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIJNCMA9Z6MoG\
    h084WwgZ/+btPVCiiQGyyY4aquP69qWSAAAAIIUq6jtOV1wMvsDVF5tJevctQ52RzTDPj0KkV3W6572mAAAAAAAAAAAAAAABAAAABnVzZXItYgAAAA8A\
    AAALZXhhbXBsZS5vcmcAAAAAXgvhAAAAAAD0hQWAAAAAAAAAAIIAAAAVcGVybWl0LVgxMS1mb3J3YXJkaW5nAAAAAAAAABdwZXJtaXQtYWdlbnQtZm9y\
    d2FyZGluZwAAAAAAAAAWcGVybWl0LXBvcnQtZm9yd2FyZGluZwAAAAAAAAAKcGVybWl0LXB0eQAAAAAAAAAOcGVybWl0LXVzZXItcmMAAAAAAAAAAAAA\
    ADMAAAALc3NoLWVkMjU1MTkAAAAgnCc4rHPmVGiqIjC6gC0o8jPRnDE8DRbS3idXQ/V6orcAAABTAAAAC3NzaC1lZDI1NTE5AAAAQFm2bzANl2cmb9Ob\
    9v+vm+/3pDQymXpRrOt3jcsICDEN/dAWSHyhc6PltpiTlpmQwl9aoyWXpTnap9IHArYbDg0=";
/// `example.org` and `[example.org]:2222`, for A.
const HASHED: &str = "|1|gUAfZurS0wWdufVhjDIYfJG3qLs=|zIXBMWrhdUmGi2CDoWL/cPLy3j8=";
const HASHED_2222: &str = "|1|h2vZgUPoJjtbnzTXEeS/NyFNw2U=|uxsUGgcCxy7hYRJ2VPCiiOdnKZ0=";
/// In 2026.
const NOW_S: u64 = 1_790_000_000;

fn known(text: &str, host: &str, port: u16) -> Result<KnownHosts, TransferError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    std::fs::write(&file, text).unwrap();
    let trust = Trust {
        known_hosts: Some(file),
        ca_file: None,
    };
    KnownHosts::read(&trust, host, port)
}

fn key(text: &str) -> PublicKeyOrCertificate {
    PublicKey::from_openssh(text).unwrap().into()
}

fn certificate(text: &str) -> PublicKeyOrCertificate {
    Certificate::from_openssh(text).unwrap().into()
}

#[test]
fn lines_mean_the_hosts_that_they_name() {
    let table = [
        ("example.org", "example.org", 22, true),
        ("example.org", "Example.ORG", 22, true),
        ("example.org", "example.org", 2222, false),
        ("[example.org]:2222", "example.org", 2222, true),
        ("[example.org]:2222", "example.org", 22, false),
        ("a,example.org,192.0.2.1", "192.0.2.1", 22, true),
        ("*.wx.ca", "dd1.wx.ca", 22, true),
        ("*.wx.ca,!dd1.wx.ca", "dd1.wx.ca", 22, false),
        ("!dd1.wx.ca,*.wx.ca", "dd2.wx.ca", 22, true),
        ("dd?.wx.ca", "dd12.wx.ca", 22, false),
        ("*", "anything", 22, true),
        (HASHED, "example.org", 22, true),
        (HASHED, "example.com", 22, false),
        (HASHED_2222, "example.org", 2222, true),
        (HASHED_2222, "example.org", 22, false),
        ("|1|x|y", "example.org", 22, false),
        ("", "example.org", 22, false),
    ];
    for (hosts, host, port, is_known) in table {
        let text = format!("# comment\n\n{hosts} {A} somebody\r\n");
        let checked = known(&text, host, port).unwrap().check(&key(A), NOW_S);
        assert_eq!(checked.is_ok(), is_known, "{hosts} {host}:{port} {checked:?}");
    }
}

#[test]
fn unknown_changed_and_revoked_are_told_apart() {
    let says = |text: &str, shown: &str| known(text, "h", 22).unwrap().check(&key(shown), NOW_S);
    let unknown = says(&format!("other {A}\n"), A).unwrap_err();
    assert!(unknown.contains("not known: no line for h in "), "{unknown}");
    assert!(unknown.contains("ssh-ed25519 SHA256:"), "{unknown}");
    let changed = says(&format!("# x\nh {A}\n"), B).unwrap_err();
    assert!(
        changed.contains("has changed: ") && changed.contains("known_hosts:2 says ssh-ed25519"),
        "{changed}"
    );
    assert!(
        says(&format!("h {ECDSA}\n"), A).unwrap_err().contains("has changed"),
        "another type is another key"
    );
    assert!(says(&format!("h {A}\nh {B}\n"), B).is_ok(), "a host may have several");
    let revoked = says(&format!("h {A}\n@revoked * {A}\n"), A).unwrap_err();
    assert!(revoked.contains("known_hosts:2 revokes"), "{revoked}");
    assert!(
        says(&format!("@cert-authority h {A}\n"), A)
            .unwrap_err()
            .contains("not known")
    );
}

#[test]
fn lines_that_cannot_be_read_trust_nobody() {
    for text in [
        "h\n",
        "h ssh-ed25519\n",
        "h ssh-ed25519 %%%\n",
        "h 1024 37 1599\n",
        "\u{0}\n",
    ] {
        assert!(known(text, "h", 22).unwrap().check(&key(A), NOW_S).is_err(), "{text}");
    }
    for text in ["@revoked h ssh-ed25519 %%%\n", "@other h x y\n"] {
        let err = known(&format!("h {A}\n{text}"), "h", 22).unwrap_err();
        assert!(err.fault == Fault::Own && err.what.contains("known_hosts:2: "), "{err}");
    }
    let trust = Trust {
        known_hosts: Some("/nonexistent/known_hosts".into()),
        ca_file: None,
    };
    assert_eq!(KnownHosts::read(&trust, "h", 22).unwrap_err().fault, Fault::Own);
}

#[test]
fn known_types_are_asked_for_first() {
    let all = &russh::Preferred::DEFAULT.key;
    let known = known(&format!("h {ECDSA}\n"), "h", 22).unwrap();
    let (keys, certificates) = known.order(all);
    assert!(matches!(keys[0], Algorithm::Ecdsa { .. }), "{keys:?}");
    assert_eq!((keys.len(), certificates.len()), (all.len(), 0));
}

#[test]
fn certificates_are_trusted_by_their_authority_for_their_hosts_and_time() {
    let check = |lines: &str, host: &str, shown: &str, now_s| {
        let known = known(lines, host, 22).unwrap();
        assert!(!known.order(&[Algorithm::Ed25519]).1.is_empty());
        known.check(&certificate(shown), now_s)
    };
    let trusted = format!("@cert-authority * {AUTHORITY}\n");
    assert_eq!(check(&trusted, "example.org", CERTIFICATE, NOW_S), Ok(()));
    assert_eq!(check(&trusted, "dd1.wx.ca", CERTIFICATE, NOW_S), Ok(()));
    let table = [
        (
            trusted.clone(),
            "example.com",
            CERTIFICATE,
            NOW_S,
            "not for example.com",
        ),
        (
            trusted.clone(),
            "example.org",
            CERTIFICATE,
            1_000_000_000,
            "not valid now",
        ),
        (trusted.clone(), "example.org", OF_A_USER, NOW_S, "not for hosts"),
        (
            format!("@cert-authority * {B}\n"),
            "example.org",
            CERTIFICATE,
            NOW_S,
            "no line trusts",
        ),
        (
            format!("{trusted}@revoked * {AUTHORITY}\n"),
            "example.org",
            CERTIFICATE,
            NOW_S,
            "revokes",
        ),
        (
            format!("{trusted}@revoked * {A}\n"),
            "example.org",
            CERTIFICATE,
            NOW_S,
            "revokes",
        ),
    ];
    for (lines, host, shown, now_s, why) in table {
        let err = check(&lines, host, shown, now_s).unwrap_err();
        assert!(err.contains(why), "{err}");
    }
}
