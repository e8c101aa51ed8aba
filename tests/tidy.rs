//! The house stays in order: layers, foreign crates, sizes, documents, examples, options, unsafe code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

#[path = "tidy/source.rs"]
mod source;

use source::Source;

/// Lowest first. A module imports what stands in an earlier row, and nothing of its own row but itself.
const LAYERS: [&[&str]; 8] = [
    &["metrics", "backoff"],
    &["message"],
    &["config"],
    &["spool"],
    &["broker", "transfer"],
    &["flow"],
    &["daemon"],
    &["cli"],
];

/// Units meet through a broker or the spool, never in the code; only `src/flow/mod.rs` knows them all.
const COMPONENTS: [&str; 7] = [
    "watcher",
    "dispatcher",
    "puller",
    "sender",
    "deliverer",
    "receiver",
    "dropped",
];

/// Where a foreign crate may be named, so that it can be exchanged there and nowhere else.
const CONFINED: [(&str, &[&str]); 31] = [
    ("anyhow", &["src/flow", "src/daemon", "src/cli"]),
    ("async_rs", &["src/broker/amqp/filtered.rs"]),
    ("backon", &["src/backoff.rs"]),
    ("base16ct", &["src/message"]),
    (
        "base64",
        &["src/message", "src/spool/line.rs", "src/broker/administration"],
    ),
    ("clap", &["src/cli"]),
    ("fancy_regex", &["src/message/mask/pattern.rs"]),
    ("flate2", &["src/spool/spill.rs"]),
    ("hmac", &["src/transfer/sftp"]),
    ("if_addrs", &["src/flow/vip.rs"]),
    ("inotify", &["src/spool/tree"]),
    ("lapin", &["src/broker/amqp"]),
    ("libc", &["src/spool/tree"]),
    ("lru", &["src/spool", "src/transfer"]),
    ("md5", &["src/message", "src/spool", "src/broker/administration"]),
    ("notify", &["src/spool/tree"]),
    (
        "percent_encoding",
        &[
            "src/message",
            "src/config",
            "src/broker/management",
            "src/transfer",
            "src/cli/demo",
        ],
    ),
    ("regex", &["src/message/mask/pattern.rs"]),
    (
        "reqwest",
        &["src/broker/management", "src/transfer/http.rs", "src/transfer/http"],
    ),
    ("rusqlite", &["src/spool", "src/broker/embedded"]),
    ("rustls_native_certs", &["src/transfer/ftp"]),
    ("russh", &["src/transfer/sftp.rs", "src/transfer/sftp"]),
    ("russh_sftp", &["src/transfer/sftp.rs", "src/transfer/sftp"]),
    ("sd_notify", &["src/daemon"]),
    ("sha1", &["src/transfer/sftp"]),
    ("sha2", &["src/message", "src/spool", "src/broker/administration"]),
    ("strsim", &["src/config"]),
    ("suppaftp", &["src/transfer/ftp.rs", "src/transfer/ftp"]),
    (
        "tokio",
        &[
            "src/spool",
            "src/broker",
            "src/transfer",
            "src/flow",
            "src/daemon",
            "src/cli",
        ],
    ),
    ("toml", &["src/config", "src/cli/demo"]),
    ("tracing_subscriber", &["src/daemon/log.rs"]),
];

/// Crates of values and traits, at home everywhere.
const ANYWHERE: [&str; 11] = [
    "async_trait",
    "fastrand",
    "futures_util",
    "jiff",
    "rustix",
    "serde",
    "serde_json",
    "thiserror",
    "tokio_util",
    "tracing",
    "url",
];

/// What `message` must not touch: no files, no sockets, no threads, no environment.
const NOT_FOR_MESSAGE: [&str; 5] = ["fs", "net", "thread", "env", "process"];

const UNSAFE: [&str; 5] = [
    "src/main.rs",
    "src/cli/control/launch.rs",
    "src/flow/script/program.rs",
    "src/spool/tree",
    "src/spool/queue/waker.rs",
];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Where paths that documents name begin.
const TOP: [&str; 8] = [
    "src/", "tests/", "scripts/", "etc/", "man/", "docs/", ".ci/", ".config/",
];

/// Example units, and the file that holds their component's manual.
const UNITS: [(&str, &str); 10] = [
    ("px.toml", "src/config/site.rs"),
    ("broker.toml", "src/config/administration.rs"),
    ("watch/xml.toml", "src/flow/watcher.rs"),
    ("tx/dd-notify.toml", "src/flow/sender.rs"),
    ("tx/wxo-b1-oper-dd.toml", "src/flow/deliverer.rs"),
    ("tx/amqp_expose_db.toml", "src/flow/watcher.rs"),
    ("dispatch/urp.toml", "src/flow/dispatcher.rs"),
    ("rx/pull_urp.toml", "src/flow/puller.rs"),
    ("rx/receiver_amqp.toml", "src/flow/receiver.rs"),
    ("rx/dropped.toml", "src/flow/dropped.rs"),
];

/// A manual that goes on in another file.
const CONTINUED: [(&str, &str); 1] = [("src/flow/deliverer.rs", "src/flow/announcer.rs")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a directory of the project, by its path from the root.
fn files_below(directory: &str) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![PathBuf::from(directory)]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(root().join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    files
}

fn rust_below(directory: &str) -> Vec<Source> {
    let files = files_below(directory).into_iter();
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source::read(root(), &path))
        .collect()
}

#[track_caller]
fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The layer's module and rank of a file of `src/`; `None` for `lib.rs` and `main.rs`, which see everything.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn layer_of_file(path: &Path) -> Option<String> {
    let inner = path.strip_prefix("src").unwrap().with_extension("");
    let module = inner.iter().next().unwrap().to_string_lossy().into_owned();
    (module != "lib" && module != "main").then_some(module)
}

#[test]
fn imports_go_one_way_through_the_layers() {
    let mut faults = Vec::new();
    for source in rust_below("src") {
        let Some(own) = layer_of_file(&source.path) else {
            continue;
        };
        let rank = layer(&own).unwrap_or_else(|| panic!("src/{own} is in no layer of this test"));
        for path in source.paths().iter().filter(|path| path.segments[0] == "crate") {
            let Some(other) = path.segments.get(1) else { continue };
            let is_below = layer(other).is_some_and(|other| other < rank);
            if *other != own && !is_below {
                let (file, path_text) = (source.path.display(), path.segments.join("::"));
                faults.push(format!("{file}:{}: {own} may not name {path_text}", path.line));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn components_never_import_each_other() {
    let mut faults = Vec::new();
    for source in rust_below("src/flow") {
        if source.path == Path::new("src/flow/mod.rs") {
            continue;
        }
        let inner = source.path.strip_prefix("src/flow").unwrap().with_extension("");
        let own = inner.iter().next().unwrap().to_string_lossy();
        for path in source.paths() {
            let is_flow = path.segments.starts_with(&["crate".to_string(), "flow".to_string()]);
            let named = path.segments.get(2).filter(|_| is_flow);
            if named.is_some_and(|named| COMPONENTS.contains(&named.as_str()) && *named != own) {
                let (file, path_text) = (source.path.display(), path.segments.join("::"));
                faults.push(format!("{file}:{}: {path_text}", path.line));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn foreign_crates_stay_where_they_can_be_exchanged() {
    let mut faults = Vec::new();
    for source in rust_below("src") {
        for path in source.paths() {
            let places = CONFINED.iter().find(|(name, _)| *name == path.segments[0]);
            let is_allowed = places.is_none_or(|(_, places)| places.iter().any(|place| source.path.starts_with(place)));
            let is_message = source.path.starts_with("src/message") && path.segments[0] == "std";
            let is_outside = path
                .segments
                .get(1)
                .is_some_and(|s| NOT_FOR_MESSAGE.contains(&s.as_str()));
            if !is_allowed || is_message && is_outside {
                let (file, path_text) = (source.path.display(), path.segments.join("::"));
                faults.push(format!("{file}:{}: {path_text}", path.line));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn every_dependency_has_its_place_and_is_used() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let used: BTreeSet<String> = rust_below("src")
        .iter()
        .flat_map(Source::paths)
        .map(|path| path.segments[0].clone())
        .collect();
    let mut faults = Vec::new();
    for name in manifest["dependencies"].as_table().unwrap().keys() {
        let name = match name.as_str() {
            "md-5" => "md5".to_string(),
            name => name.replace('-', "_"),
        };
        if !ANYWHERE.contains(&name.as_str()) && !CONFINED.iter().any(|(confined, _)| *confined == name) {
            faults.push(format!("{name}: say in CONFINED or ANYWHERE where it may be named"));
        }
        if !used.contains(&name) {
            faults.push(format!("{name}: nothing in src names it"));
        }
    }
    assert_none(faults);
}

#[test]
fn files_and_functions_fit_a_head() {
    let mut faults = Vec::new();
    for source in rust_below("src").into_iter().chain(rust_below("tests")) {
        let (file, lines) = (source.path.display(), source.text.lines().count());
        if lines > FILE_LINES_MAX {
            faults.push(format!(
                "{file}: {lines} lines, at most {FILE_LINES_MAX}: look for the second subject"
            ));
        }
        // A test may be one long table.
        let is_test = source.path.starts_with("tests");
        for (name, line, lines) in source.functions() {
            if lines > FUNCTION_LINES_MAX && !is_test {
                faults.push(format!(
                    "{file}:{line}: {name}: {lines} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn unsafe_code_is_where_it_must_be_and_says_why() {
    let mut faults = Vec::new();
    for source in rust_below("src") {
        let lines: Vec<&str> = source.text.lines().collect();
        for line in source.lines_with("unsafe") {
            let is_said = lines[line.saturating_sub(4)..line]
                .iter()
                .any(|line| line.contains("// SAFETY:"));
            if !is_said || !UNSAFE.iter().any(|place| source.path.starts_with(place)) {
                faults.push(format!("{}:{line}", source.path.display()));
            }
        }
    }
    assert_none(faults);
}

/// Documents, code, examples: everything that is ours and is read by people.
fn own_texts() -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = documents();
    files.extend(["Cargo.toml", "LICENSE-MIT", "LICENSE-APACHE"].map(PathBuf::from));
    for directory in ["src", "tests", "scripts", "etc", "man", ".ci", ".config"] {
        files.extend(files_below(directory));
    }
    let texts = files.into_iter().filter_map(|path| {
        let text = String::from_utf8(std::fs::read(root().join(&path)).unwrap()).ok()?;
        Some((path, text))
    });
    texts.collect()
}

fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"]
        .map(PathBuf::from)
        .into();
    if root().join("docs").is_dir() {
        documents.extend(files_below("docs"));
    }
    documents
}

/// A text that only its author understands: places of one machine, notes to oneself.
#[test]
fn nothing_speaks_of_the_authors_desk() {
    let places = ["home", "root", "work", "Users", "mnt"].map(|place| format!(" /{place}/"));
    let notes = ["TO\u{44}O", "FIX\u{4d}E", "design \u{a7}"];
    let mut faults = Vec::new();
    for (path, text) in own_texts() {
        for (number, line) in text.lines().enumerate() {
            let plain = format!(" {line}").replace(['"', '\'', '`', '(', '='], " ");
            let found = places
                .iter()
                .map(String::as_str)
                .chain(notes)
                .find(|word| plain.contains(word));
            if let Some(word) = found {
                faults.push(format!("{}:{}: {:?}", path.display(), number + 1, word.trim()));
            }
        }
    }
    assert_none(faults);
}

/// Paths in code spans and links of the documents, without what follows a colon.
fn named_paths(text: &str) -> Vec<String> {
    let mut named: Vec<String> = Vec::new();
    for paragraph in text.split("```").step_by(2) {
        named.extend(paragraph.split('`').skip(1).step_by(2).map(str::to_string));
        named.extend(
            paragraph
                .split("](")
                .skip(1)
                .filter_map(|rest| Some(rest.split_once(')')?.0.to_string())),
        );
    }
    let is_document = |name: &str| name.ends_with(".md") || name.starts_with("LICENSE") || name == "Cargo.toml";
    let paths = named.into_iter().filter(|name| !name.contains(char::is_whitespace));
    paths
        .filter(|name| TOP.iter().any(|top| name.starts_with(top)) || is_document(name))
        .map(|name| name.split([':', '#']).next().unwrap_or_default().to_string())
        .collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut faults = Vec::new();
    for document in documents() {
        let text = read(document.to_str().unwrap());
        let missing = named_paths(&text).into_iter().filter(|path| {
            let beside = document.parent().unwrap().join(path);
            !root().join(path).exists() && !root().join(beside).exists()
        });
        faults.extend(missing.map(|path| format!("{}: {path}", document.display())));
    }
    assert_none(faults);
}

#[test]
fn the_changelog_tells_of_this_version() {
    let changelog = read("CHANGELOG.md");
    let first = changelog.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert!(first.contains(env!("CARGO_PKG_VERSION")), "{first}");
}

/// A root with the examples, into which a test may write.
fn examples() -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    for path in files_below("etc") {
        let copy = site.path().join(&path);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(root().join(&path), copy).unwrap();
    }
    site
}

/// What `px check --json` finds, and its exit code.
fn check(site: &Path) -> (Vec<Value>, i32) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_px"))
        .args(["check", "--json"])
        .env("PX_ROOT", site)
        .output()
        .unwrap();
    let findings = serde_json::from_slice(&output.stdout).unwrap();
    (findings, output.status.code().unwrap())
}

#[test]
fn the_examples_load() {
    let site = examples();
    let (findings, code) = check(site.path());
    assert_eq!(code, 0, "{findings:#?}");
    let warnings = findings.iter().map(|finding| finding["accepted"].as_str().unwrap());
    let unexpected: Vec<&str> = warnings
        .filter(|text| !text.contains("no password for") && !text.contains("not served by this version"))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// Every key that a file's tables accept, from what is said about one that nobody knows.
fn accepted_keys(site: &Path, file: &str) -> BTreeSet<String> {
    let path = site.join("etc").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut with_stranger = "stranger = 1\n".to_string();
    for line in text.lines() {
        with_stranger.push_str(&format!("{line}\n"));
        if line.starts_with('[') {
            with_stranger.push_str("stranger = 1\n");
        }
    }
    if file == "px.toml" {
        with_stranger.push_str("[log]\nstranger = 1\n");
    }
    std::fs::write(&path, with_stranger).unwrap();
    let (findings, _) = check(site);
    let lists = findings.iter().filter_map(|finding| {
        let is_here = finding["file"].as_str()?.ends_with(file) && finding["key"].as_str()?.ends_with("stranger");
        finding["accepted"]
            .as_str()?
            .split_once("accepted: ")
            .filter(|_| is_here)
    });
    lists
        .flat_map(|(_, keys)| keys.split(", ").map(str::to_string).collect::<Vec<_>>())
        .collect()
}

/// The words in the code spans of a text.
fn words(text: &str) -> BTreeSet<String> {
    let spans = text.split('`').skip(1).step_by(2);
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    spans
        .flat_map(|span| span.split(move |c| !is_inside(c)).map(str::to_string))
        .collect()
}

/// The lines of a file's own manual.
fn manual(file: &str) -> Vec<String> {
    let text = read(file);
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    lines
        .filter(|line| !line.trim().starts_with("```"))
        .map(|line| line.trim().to_string())
        .collect()
}

#[test]
fn manuals_and_code_know_the_same_options() {
    let mut faults = Vec::new();
    for (example, file) in UNITS {
        let site = examples();
        let accepted = accepted_keys(site.path(), example);
        let continued = CONTINUED.iter().filter(|(first, _)| *first == file);
        let parts = std::iter::once(file).chain(continued.map(|(_, second)| *second));
        let manual: Vec<String> = parts.flat_map(manual).collect();
        let mut is_options = false;
        for line in &manual {
            if !line.starts_with('|') {
                is_options = false;
            } else if line.starts_with("| option |") {
                is_options = true;
            } else if is_options {
                let first = line.split('|').nth(1).unwrap_or_default();
                let unknown = words(first).into_iter().filter(|word| !accepted.contains(word));
                faults.extend(unknown.map(|word| format!("{file}: its manual has {word}, which it does not accept")));
            }
        }
        let documented = words(&manual.join("\n"));
        let untold = accepted.iter().filter(|key| !documented.contains(*key));
        faults.extend(untold.map(|key| format!("{file}: accepts {key}, which its manual does not have")));
    }
    assert_none(faults);
}
