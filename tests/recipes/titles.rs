//! No recipe is left out.

use std::path::Path;

use crate::support::{blocks, files_below};

/// What no test does, and why.
const NOT_RUN: [(&str, &str); 1] = [(
    "on the host: install the broker",
    "scripts/test installs this very package; whatever it needs more would change the machine",
)];

#[test]
fn every_block_has_a_title_and_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let sources: String = [tests.join("recipes"), tests.join("cluster")]
        .iter()
        .flat_map(|directory| files_below(directory))
        .filter(|path| !path.ends_with("titles.rs"))
        .map(|path| std::fs::read_to_string(path).expect("a source"))
        .collect();
    let mut missing = Vec::new();
    for (title, text) in blocks() {
        assert!(!title.is_empty(), "a block without a title:\n{text}");
        let is_run = sources.contains(&format!("{title:?}"));
        let is_excused = NOT_RUN.iter().any(|(excused, _)| *excused == title);
        if is_run == is_excused {
            missing.push(title);
        }
    }
    assert!(
        missing.is_empty(),
        "no test takes these, or they need no excuse: {missing:#?}"
    );
}
