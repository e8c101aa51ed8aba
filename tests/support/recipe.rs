//! The recipes of docs/broker.md, as they stand there: tests run the very text.

/// The fenced block whose first line is the comment `# TITLE` (`% TITLE` in a file of Erlang terms), that line
/// included. The title is the whole comment.
#[track_caller]
pub fn recipe(title: &str) -> String {
    let mut found: Vec<String> = blocks()
        .into_iter()
        .filter(|(found, _)| found == title)
        .map(|(_, text)| text)
        .collect();
    assert_eq!(
        found.len(),
        1,
        "docs/broker.md has so many blocks that begin with {title:?}"
    );
    found.remove(0)
}

/// A recipe at home on this machine: every `(from, to)` is replaced wherever it stands, and must stand somewhere.
#[track_caller]
pub fn recipe_with(title: &str, replacements: &[(&str, &str)]) -> String {
    let mut text = recipe(title);
    for (from, to) in replacements {
        assert!(text.contains(from), "the recipe {title:?} has no {from:?}:\n{text}");
        text = text.replace(from, to);
    }
    text
}

/// Every block of the document: its title and its text. A block without a title has an empty one.
pub fn blocks() -> Vec<(String, String)> {
    let document = include_str!("../../docs/broker.md");
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in document.lines() {
        match (&mut open, line.starts_with("```")) {
            (None, true) => open = Some(String::new()),
            (None, false) => {}
            (Some(text), false) => {
                text.push_str(line);
                text.push('\n');
            }
            (Some(text), true) => {
                let first = text.lines().next().unwrap_or_default();
                let title = first.strip_prefix("# ").or_else(|| first.strip_prefix("% "));
                blocks.push((title.unwrap_or_default().to_owned(), std::mem::take(text)));
                open = None;
            }
        }
    }
    assert!(open.is_none(), "docs/broker.md has a block that is not closed");
    blocks
}
