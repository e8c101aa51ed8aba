//! `directory`, `filename` and what an accepting line has of its own: which of them is in force where.

use super::server::Protocol;
use crate::config::error::is_login;
use crate::config::sundew::lines::Line;
use crate::config::sundew::reading::Reading;
use crate::config::sundew::sender::is_file_name_option;

const NAMING: &str = "accepted: WHATFN, HEADFN, NONE, NONESENDER, SENDER, TIME, DESTFN=NAME, DESTFNSCRIPT=FILE, \
                      SATNET=TEXT, or several of them with colons between";
const SCRIPT: &str = "DESTFNSCRIPT=";
/// The whole name of a product, which is what a script is given.
const WHOLE: &str = "TIME";

/// Where the products of an accepting line go.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// As the unit's table has it.
    pub directory: String,
    pub directory_line: Option<&'a Line>,
    /// As the unit's table has it.
    pub filename: String,
    /// `None` where nothing was said.
    pub filename_line: Option<&'a Line>,
}

/// What scripts have to do with names.
pub(super) enum Naming<'a> {
    /// Nothing.
    Plain,
    /// This one, named in this line, makes all of them.
    Script((&'a Line, &'a str)),
    /// One makes some of them.
    Mixed,
}

/// What is in force at a line.
#[derive(Clone, Copy, Default)]
struct InForce<'a> {
    directory: Option<(&'a str, &'a Line)>,
    filename: Option<(&'a str, &'a Line)>,
}

/// What is in force at each accepting line. An included file begins with what is in force where it is included, and
/// what it says itself is over with it; the flow's own file begins anew after `px.conf`.
fn in_force(lines: &[Line]) -> Vec<(&Line, InForce<'_>)> {
    let mut open: Vec<(&Line, InForce<'_>)> = Vec::new();
    let mut found = Vec::new();
    for line in lines {
        match open.iter().rposition(|(first, _)| first.file == line.file) {
            Some(at) if open[at].0.is_site == line.is_site => open.truncate(at + 1),
            _ => {
                if open.last().is_some_and(|(last, _)| last.is_site != line.is_site) {
                    open.clear();
                }
                let inherited = open.last().map(|(_, in_force)| *in_force).unwrap_or_default();
                open.push((line, inherited));
            }
        }
        let Some((_, now)) = open.last_mut() else { continue };
        // What is none is refused once, where names are checked.
        let option = |at: usize| line.words.get(at).filter(|word| is_file_name_option(word));
        match line.keyword() {
            "directory" => now.directory = Some((line.value(), line)),
            "filename" => now.filename = option(1).map(|word| (word.as_str(), line)).or(now.filename),
            "destination" => {
                now.directory = Some((path(line.value()), line));
                now.filename = option(2).map(|word| (word.as_str(), line)).or(now.filename);
            }
            "accept" => {
                let own = option(2).map(|word| (word.as_str(), line));
                let filename = own.or(now.filename);
                found.push((line, InForce { filename, ..*now }));
            }
            "imask" => found.push((line, *now)),
            _ => {}
        }
    }
    found
}

/// The path of a URL: all behind the host.
fn path(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.find('/').map_or("", |at| &rest[at..])
}

/// Where the products of each accepting line go; what is wrong with it is noted.
pub(super) fn read<'a>(reading: &Reading<'a>, protocol: Option<Protocol>) -> Vec<(&'a Line, Place<'a>)> {
    let (by_pattern, _) = reading.boolean("dir_pattern", false);
    check_names(reading);
    let is_scripted = matches!(scripted(reading.lines), Naming::Script(_));
    let mut told: Vec<&Line> = Vec::new();
    let mut places = Vec::new();
    for (line, in_force) in in_force(reading.lines) {
        let (written, directory_line) = in_force.directory.unzip();
        let directory = directory(written.unwrap_or("."), protocol, by_pattern);
        let said_of = directory_line.unwrap_or(line);
        if !told.iter().any(|told| std::ptr::eq(*told, said_of)) {
            told.push(said_of);
            check_directory(reading, said_of, written, &directory, by_pattern);
        }
        let (filename, filename_line) = in_force.filename.unzip();
        places.push((
            line,
            Place {
                directory,
                directory_line,
                filename: if is_scripted {
                    WHOLE
                } else {
                    filename.unwrap_or("WHATFN")
                }
                .to_string(),
                filename_line,
            },
        ));
    }
    places
}

/// A directory as px has it: Sundew drops the first character; what remains is relative to the login unless it begins
/// with a slash, to the root of this host for `protocol file`, and to the root wherever `dir_pattern` has been at it.
fn directory(written: &str, protocol: Option<Protocol>, by_pattern: bool) -> String {
    let mut rest = written.chars();
    rest.next();
    let rest = rest.as_str();
    let parts = rest.split('/').filter(|part| !part.is_empty());
    let parts: Vec<String> = match by_pattern {
        true => parts.map(template).collect(),
        false => parts.map(str::to_string).collect(),
    };
    let parts = parts.join("/");
    let is_from_root = rest.starts_with('/') || protocol == Some(Protocol::File) || (by_pattern && !parts.is_empty());
    match is_from_root {
        true => format!("/{parts}"),
        false => parts,
    }
}

/// A part of a directory as px writes templates. Sundew looks for names in braces at the begin and behind every `$`,
/// which it drops, and leaves what it does not know.
fn template(part: &str) -> String {
    const NAMES: [&str; 16] = [
        "T1", "T2", "A1", "A2", "ii", "CCCC", "YY", "GG", "Gg", "BBB", "RYYYY", "RMM", "RDD", "RHH", "RMN", "RSS",
    ];
    let is_known = |name: &str| {
        let is_group = !name.is_empty() && name.len() <= 2 && name.bytes().all(|byte| byte.is_ascii_digit());
        NAMES.contains(&name) || (is_group && (name == "0" || !name.starts_with('0')))
    };
    let pieces = part.split('$').map(|piece| {
        let name = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        match name {
            Some((name, _)) if is_known(name) => format!("${piece}"),
            _ => piece.to_string(),
        }
    });
    pieces.collect()
}

fn check_directory(reading: &Reading, line: &Line, written: Option<&str>, directory: &str, by_pattern: bool) {
    // That there is a password in it is told already.
    if written.is_some_and(is_login) {
        return;
    }
    if let Some(written) = written.filter(|written| !written.is_empty() && !written.starts_with('/') && *written != ".")
    {
        let dropped = written.chars().next().unwrap_or_default();
        let text = format!(
            "Sundew drops the first character, {dropped:?}, whatever it is, and so does px: this is {directory:?}; \
             write /RELATIVE or //ABSOLUTE"
        );
        reading.warn(line, &text);
    }
    if !by_pattern && directory.contains("${") {
        reading.refuse(
            line,
            "without dir_pattern Sundew delivers into a directory of this very name, and px makes a template of it; \
             accepted: dir_pattern True, or no ${ in it",
        );
    }
    if by_pattern && directory.replace("${", "").contains('{') {
        reading.warn(
            line,
            "Sundew's directories know no such name in braces: it stays as it is, without its $",
        );
    }
    if directory.split('/').any(|part| part == "..") {
        reading.refuse(line, "it leads upwards; accepted: a directory without ..");
    }
    if directory == "/" {
        reading.warn(line, "files go into the root directory itself, as under Sundew");
    }
}

/// Sundew erases every file that matches a line whose option it does not know. px does not start with one.
fn check_names(reading: &Reading) {
    for line in reading.all(&["accept", "filename", "destination"]) {
        let (option, words) = match line.keyword() {
            "filename" => (Some(line.value()), 1),
            _ => (line.words.get(2).map(String::as_str), 2),
        };
        match option {
            Some(option) if option.starts_with('#') => reading.refuse(
                line,
                &format!(
                    "there are no comments behind a value: Sundew takes # for a file name option that it does not know, \
                     and erases every file that matches; {NAMING}"
                ),
            ),
            Some(option) if !is_file_name_option(option) => reading.refuse(
                line,
                &format!("no file name option, and Sundew erases every file that matches; {NAMING}"),
            ),
            _ if line.keyword() == "accept" && line.words.len() > words + 1 => reading.warn_of_rest(line, words),
            _ => {}
        }
    }
}

/// What scripts have to do with the names of what is accepted.
pub(super) fn scripted(lines: &[Line]) -> Naming<'_> {
    let found = in_force(lines);
    let names = found.iter().map(|(_, in_force)| in_force.filename);
    let mut scripts = names.map(|name| {
        let (name, line) = name?;
        let has_script = name.split(':').any(|part| part.starts_with(SCRIPT));
        has_script.then_some((line, name))
    });
    let Some(first) = scripts.clone().flatten().next() else {
        return Naming::Plain;
    };
    let has_other = lines.iter().any(|line| line.keyword() == "destfn_script");
    let is_one = scripts.all(|script| script.is_some_and(|(_, name)| name == first.1));
    match first.1.strip_prefix(SCRIPT) {
        Some(script) if is_one && !has_other && !script.contains(':') => Naming::Script((first.0, script)),
        _ => Naming::Mixed,
    }
}
