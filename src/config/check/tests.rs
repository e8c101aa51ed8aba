use super::*;
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
    assert_eq!(unserved, 1, "{report}");
}

#[test]
fn what_is_not_served_is_one_warning_a_file() {
    let report = report_on(&data("unserved"));
    let etc = format!("{}/", data("unserved/etc").display());
    let text = report.to_string().replace(&etc, "");
    let warned = ["process/filter.toml", "px.toml:3: reaper = {…}"];
    let expected: Vec<String> = warned
        .iter()
        .map(|place| format!("{place}: warning: {NOT_SERVED}\n"))
        .collect();
    assert_eq!(text, expected.concat());
    assert!(!report.refused());
}
