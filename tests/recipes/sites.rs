//! The site's files on the page are files that px takes.

use std::os::unix::fs::PermissionsExt;

use crate::support::{TestSite, blocks, recipe};

const SITE: &str = "/etc/px/px.toml: on each of the two brokers";

fn site(site_file: &str) -> TestSite {
    let site = TestSite::with_site_file(site_file);
    site.write("etc/secrets.toml", "[bunny]\nfeeder = \"f\"\nroot = \"r\"\n");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(site.path("etc/secrets.toml"), mode).expect("0600");
    site
}

#[test]
fn px_check_takes_the_sites_and_the_dispatchers() {
    let title = "/etc/px/px.toml: TLS";
    let tls = site(&recipe(title));
    tls.px_ends(0, &["check"]);
    for title in [
        "/etc/px/dispatch/urp.toml: by the address",
        "/etc/px/dispatch/urp.toml: by the broker",
    ] {
        let site = site(&recipe(SITE));
        site.write("etc/dispatch/urp.toml", recipe(title));
        let said = site.px_ends(0, &["check"]);
        assert_eq!((said.out, said.err), (String::new(), String::new()), "{title}");
    }
}

/// Warnings tell of passwords that are not there.
#[test]
fn px_check_takes_every_broker_toml() {
    let files: Vec<_> = blocks()
        .into_iter()
        .filter(|(title, _)| title.starts_with("/etc/px/broker.toml"))
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for (title, text) in files {
        let site = site(&recipe(SITE));
        site.write("etc/broker.toml", &text);
        let said = site.px_ends(0, &["check"]);
        let strange = |line: &&str| !line.contains("password");
        let strange: Vec<&str> = said.out.lines().chain(said.err.lines()).filter(strange).collect();
        assert!(strange.is_empty(), "{title}: {strange:#?}");
    }
}
