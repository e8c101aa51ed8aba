use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/config")
        .join(name)
}

/// The report on a copy of a root under `tests/data/config`, with paths from its `etc`.
fn report_on(root: &Path) -> Report {
    check(&Places::under(root)).1
}

/// Each directory under `bad/` holds a root and, in `findings`, exactly what is said of it.
#[test]
fn each_bad_directory_is_refused_with_its_findings() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(data("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    for root in names {
        // Whatever the umask of a clone was: passwords that others can read are told of elsewhere.
        let site = Places::under(&root).site_file();
        if site.exists() {
            std::fs::set_permissions(&site, PermissionsExt::from_mode(0o640)).unwrap();
        }
        let (units, mut report) = check(&Places::under(&root));
        for (_, mut table, _) in units {
            table.know_all();
            report.add(table.read_whole(|_| Some(())).1);
        }
        let etc = format!("{}/", root.join("etc").display());
        let text = report.to_string().replace(&etc, "");
        let expected = std::fs::read_to_string(root.join("findings")).unwrap();
        assert_eq!(text, expected, "{}", root.display());
        assert!(report.refused(), "{}", root.display());
    }
}

#[test]
fn the_examples_are_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (served, report) = check(&Places::under(root));
    assert!(!report.refused(), "{report}");
    let names: Vec<String> = served.iter().map(|(name, ..)| name.to_string()).collect();
    for unit in ["watch/xml", "rx/pull_urp", "dispatch/urp"] {
        assert!(names.iter().any(|name| name == unit), "{names:?}");
    }
    let unserved = report
        .findings()
        .iter()
        .filter(|finding| finding.accepted == NOT_SERVED)
        .count();
    assert_eq!(unserved, 0, "{report}");
}

#[test]
fn what_is_not_served_is_one_warning_a_file() {
    let report = report_on(&data("unserved"));
    let etc = format!("{}/", data("unserved/etc").display());
    let text = report.to_string().replace(&etc, "");
    assert_eq!(text, format!("process/filter.toml: warning: {NOT_SERVED}\n"));
    assert!(!report.refused());
}

/// A root of Sundew's alone: nothing is asked of `px.toml`, what px does not serve is noted, and what Sundew drops is a
/// warning.
#[test]
fn a_sundew_site_is_read_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew/site");
    let places = Places::under(&root);
    let (served, report) = check(&places);
    let names: Vec<String> = served.iter().map(|(name, ..)| name.to_string()).collect();
    assert_eq!(names, ["tx/dd-notify-wxo-b1", "tx/files", "rx/dropped", "rx/radar"]);
    let etc = format!("{}/", places.etc.display());
    let notes: Vec<String> = report
        .notes()
        .iter()
        .map(|(file, text)| format!("{}: {text}", file.display()).replace(&etc, ""))
        .collect();
    let expected = [
        "fx/to-nc.conf: left to Sundew (type filter)",
        "rx/nws.conf: left to Sundew (type bulletin-file)",
        "rx/pull-urp.conf: left to Sundew (type single-file with pull_script); px runs it with hook_host in [sundew] of \
         px.toml",
        "rx/sleeping.conf: left to Sundew (type none)",
        "trx/aftn.conf: left to Sundew (type aftn)",
        "tx/bulletins.conf: left to Sundew (type am)",
        "tx/wxo-b1-oper-dd.conf: left to Sundew (type script with sftp_amqp.py); px runs it with \
         [sftp_amqp.wxo-b1-oper-dd] of px.toml",
    ];
    assert_eq!(notes, expected);
    assert!(!report.refused(), "{report}");
    let text = report.to_string().replace(&etc, "");
    let starts = [
        "px.conf:13: webmaster = ***: warning: no keyword of px.conf or of a flow",
        "pxRouting.conf:12: key: warning: Client elsewhere is in pxRouting.conf but not in px",
        "rx/nws.conf:3: include = \"rx.inc\": warning: Sundew reads no include here",
        "rx/nws.conf:4: accept = \"[\": warning: ",
        "tx/bulletins.conf:5: accept = \"(.*\": warning: ",
    ];
    assert_eq!(text.lines().count(), starts.len(), "{text}");
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

/// The whole way of a product's key at that site.
#[test]
fn a_sundew_site_routes_by_its_table_and_its_clients() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sundew/site");
    let places = Places::under(&root);
    let (clients, _) = clients(&places);
    let names: Vec<&str> = clients.iter().map(|client| &*client.name).collect();
    let expected = [
        "bulletins",
        "dd-notify-wxo-b1",
        "files",
        "wxo-b1-oper-dd",
        "to-nc",
        "aftn",
    ];
    assert_eq!(names, expected);
    let (table, _) = RoutingTable::load(&places.routing_table(), &clients).unwrap();
    let routed = [
        ("SACN43_CWAO", Some(("bulletins", 3))),
        ("AACN01_ANIK", Some(("aftn", 1))),
        ("KEPT_ONLY", Some(("", 3))),
        (
            "txt:AQ_:AIRNOW:CMQ:ASCII",
            Some(("dd-notify-wxo-b1 wxo-b1-oper-dd files", 2)),
        ),
        ("MAPS_12Z", Some(("files to-nc", 4))),
        ("MAPS_RADAR", Some(("files to-nc", 4))),
        ("RADAR", Some(("dd-notify-wxo-b1 wxo-b1-oper-dd", 3))),
        ("OLDER", Some(("", 5))),
        ("SACN43", None),
    ];
    for (key, expected) in routed {
        let route = table.route(key.as_bytes());
        let found = route.map(|route| (route.clients.join(" "), route.priority));
        assert_eq!(
            found,
            expected.map(|(names, priority)| (names.to_string(), priority)),
            "{key}"
        );
    }
    let wanted: [(&str, &str); 6] = [
        (
            "d++x.gif:URP:XSS:RADAR:GIF::20130606144709",
            "dd-notify-wxo-b1 wxo-b1-oper-dd to-nc",
        ),
        (
            "SACN43_CWAO_012000:ncp1:CWAO:SA:3:Direct:20050201200339",
            "bulletins to-nc",
        ),
        ("SACN43_CWAO_012000_RRZ_1:ncp1:CWAO:SA:3:Direct:20050201200339", "to-nc"),
        ("MAPS_12Z:OCXCARTE:CMC:CHART:IMV6::20120611192817", "files to-nc"),
        ("a:AFTN:CYYZ:X:3::20120611192817", "to-nc aftn"),
        ("MAPS.never:OCXCARTE:CMC:CHART:IMV6::20120611192817", ""),
    ];
    for (name, expected) in wanted {
        let found = clients.iter().filter(|client| client.masks.accepts(name.as_bytes()));
        // aftn accepts all but what px.conf rejects, and bulletins all, for one of its accepts is none.
        let found: Vec<&str> = found.map(|client| &*client.name).collect();
        let without_aftn = found
            .iter()
            .filter(|name| !["aftn", "bulletins"].contains(name) || expected.contains(**name));
        assert_eq!(without_aftn.copied().collect::<Vec<_>>().join(" "), expected, "{name}");
    }
}

#[test]
fn a_flow_of_sundews_may_have_a_name_that_no_unit_can_have() {
    let root = tempfile::tempdir().unwrap();
    let places = Places::under(root.path());
    std::fs::create_dir_all(places.etc.join("tx")).unwrap();
    for (name, text) in [
        ("a+b.conf", "type am"),
        ("c+d.conf", "type amqp"),
        ("e.conf", "type am"),
        ("e.toml", ""),
    ] {
        std::fs::write(places.etc.join("tx").join(name), text).unwrap();
    }
    let (_, report) = check(&places);
    let etc = format!("{}/", places.etc.display());
    let notes: Vec<String> = report
        .notes()
        .iter()
        .map(|(file, _)| file.display().to_string())
        .collect();
    assert_eq!(notes, [format!("{etc}tx/a+b.conf")]);
    let text = report.to_string().replace(&etc, "");
    assert!(text.contains("tx/c+d.conf: \"c+d\" is no unit name"), "{text}");
    assert!(text.contains("tx/e.conf: the unit tx/e is in "), "{text}");
    let names: Vec<String> = clients(&places).0.into_iter().map(|client| client.name).collect();
    assert_eq!(names, ["a+b", "c+d", "e"]);
}

#[test]
fn a_type_that_nobody_has_is_an_error_and_not_left_to_sundew() {
    let root = tempfile::tempdir().unwrap();
    let places = Places::under(root.path());
    for (name, text) in [
        ("tx/a.conf", "host h\ntype ampq\n"),
        ("rx/b.conf", "\u{feff}type amqb\n"),
        ("fx/c.conf", "type am\n"),
        ("trx/d.conf", "type amqp\n"),
        ("tx/e.conf", "\u{feff}type am\n"),
        ("tx/f.conf", "type wmo\n"),
    ] {
        let path = places.etc.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let (served, report) = check(&places);
    let etc = format!("{}/", places.etc.display());
    let text = report.to_string().replace(&etc, "");
    let told = |place: &str| text.contains(&format!("{place}: neither px nor Sundew has such a type; accepted: am"));
    assert!(served.is_empty() && report.refused());
    assert!(
        told("tx/a.conf:2: type = \"ampq\"") && told("rx/b.conf:1: type = \"amqb\""),
        "{text}"
    );
    assert!(
        text.contains("fx/c.conf:1: type") && text.contains("trx/d.conf:1: type"),
        "{text}"
    );
    let notes: Vec<String> = report.notes().iter().map(|(_, text)| text.clone()).collect();
    assert_eq!(notes, ["left to Sundew (type am)", "left to Sundew (type wmo)"]);
}
