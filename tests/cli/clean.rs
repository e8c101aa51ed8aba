//! `px clean`: what is removed is told, what is kept is not.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::Site;

const ANNOUNCER: &str = "type = \"announce\"\nbroker = \"own\"\n";

fn day(site: &Site, name: &str, days: u64) {
    let path = site.root().join("db").join(name);
    fs::create_dir_all(path.join("RADAR/URP/XSS")).unwrap();
    fs::write(path.join("RADAR/URP/XSS/product"), "bytes").unwrap();
    let at = SystemTime::now() - Duration::from_secs(days * 86_400);
    File::open(&path).unwrap().set_modified(at).unwrap();
}

fn hour(site: &Site, below: &str) {
    fs::create_dir_all(site.root().join("txq").join(below)).unwrap();
}

#[test]
fn empty_hours_and_old_days_are_removed_once_and_told() {
    let site = Site::new();
    site.write("tx/dd.toml", ANNOUNCER);
    site.write("tx/bulletins.conf", "type wmo\n");
    day(&site, "20260101", 31);
    day(&site, "20260102", 10);
    hour(&site, "dd/3/2026010100");
    hour(&site, "bulletins/3/2026010100");
    hour(&site, "unknown/3/2026010100");
    let told = |done: &str| {
        let root = site.root().display();
        format!("{root}/txq/dd/3/2026010100 {done}\n{root}/db/20260101 {done}\n")
    };
    assert_eq!(site.run_ok(&["clean", "--dry-run"]), told("would be removed"));
    assert_eq!(site.run_ok(&["clean"]), told("has been removed"));
    assert_eq!(site.run_ok(&["clean"]), "");
    assert_eq!(site.run_ok(&["clean", "--json"]), "[]\n");
    for kept in ["txq/bulletins/3/2026010100", "txq/unknown/3/2026010100", "db/20260102"] {
        assert!(site.root().join(kept).exists(), "{kept}");
    }
    let findings: Value = serde_json::from_str(&site.run_ok(&["clean", "--keep", "5", "--json"])).unwrap();
    assert!(
        findings[0]["path"].as_str().unwrap().ends_with("db/20260102"),
        "{findings}"
    );
    assert_eq!(findings[0]["removed"], true);
    assert!(!site.root().join("db/20260102").exists());
}

#[test]
fn the_site_says_how_long_the_database_is_kept() {
    let site = Site::new();
    day(&site, "20260101", 10);
    fs::write(site.root().join("etc/px.conf"), "daysToKeepInDB 9\n").unwrap();
    assert!(site.run_ok(&["clean", "--dry-run"]).contains("db/20260101"));
    let text = fs::read_to_string(site.root().join("etc/px.toml")).unwrap();
    site.write("px.toml", &format!("{text}[spool]\nkeep_db = \"11d\"\n"));
    assert_eq!(site.run_ok(&["clean", "--dry-run"]), "");
    // What is to be kept is not known: nothing is removed.
    site.write("px.toml", &format!("{text}[spool]\nkeep_db = \"eleven\"\n"));
    let said = site.run(&["clean", "--keep", "1"]);
    assert_eq!((said.out.as_str(), said.code), ("", 1), "{said:?}");
    assert!(said.err.contains("keep_db"), "{said:?}");
    assert!(site.root().join("db/20260101").exists());
    assert_eq!(site.run(&["clean", "--keep", "0"]).code, 2);
}

#[test]
fn one_that_cannot_be_removed_is_told_and_the_others_go() {
    let site = Site::new();
    day(&site, "20260101", 31);
    day(&site, "20260102", 31);
    File::create(site.root().join("db/.20260101.px-old")).unwrap();
    let said = site.run(&["clean"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.err.starts_with("px: cannot remove ") && said.err.lines().count() == 1,
        "{said:?}"
    );
    assert!(said.out.contains("db/20260102 has been removed"), "{said:?}");
    assert!(Path::new(&site.root().join("db/20260101")).exists());
}
