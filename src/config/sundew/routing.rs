//! The routing table, `pxRouting.conf`: who gets what has a key.
//!
//! | line | meaning |
//! | --- | --- |
//! | `key KEY CLIENT,CLIENT PRIORITY` | products of this very key; without clients, for nobody |
//! | `key_accept RE CLIENT,CLIENT PRIORITY` | those of keys that match from the start; the first such line counts |
//! | `clientAlias NAME CLIENT,CLIENT` | one word for several; may name aliases of lines above it |
//! | `subclient CLIENT NAME,NAME` | `CLIENT.NAME` means CLIENT |
//! | `aftnMap ADDRESS HEADER` | of AFTN alone |
//! | `include PATH` | the lines of another file |
//!
//! Valid: `key txt:AQ_:AIRNOW:CMQ:ASCII web1,web2 3`; invalid: `key txt:AQ web1 3 # air`, for a comment is a line that
//! begins with `#`. A key that is written out counts before every pattern. Each line that is wrong is told; the others
//! count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use super::clients::Client;
use super::lines;
use crate::config::error::shown;
use crate::config::{ConfigError, file};
use crate::message::Masks;
use crate::message::Verdict::Accept;

/// A table of a large site has tens of thousands of lines.
const LARGEST: usize = 32 << 20;
/// Includes within includes.
const DEEPEST: usize = 16;
/// More of them help nobody.
const FINDINGS_MAX: usize = 1000;

/// Where products with a key go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Clients of this site, each once; who is not of this site is left out.
    pub clients: Vec<String>,
    /// 0 is first, 5 last.
    pub priority: u8,
}

/// A routing table, loaded.
#[derive(Clone, Default)]
pub struct RoutingTable {
    /// Every route once, however many keys have it.
    routes: Vec<Route>,
    keys: HashMap<Vec<u8>, usize>,
    patterns: Vec<(Masks, usize)>,
}

/// Its size alone, for it is large.
impl fmt::Debug for RoutingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, patterns) = (self.keys.len(), self.patterns.len());
        write!(f, "RoutingTable({keys} keys, {patterns} patterns)")
    }
}

impl RoutingTable {
    /// Loads a table. The table is usable whatever the findings beside it are: each is about a line that does not count
    /// or does less than it says. `Err` is for a file that cannot be read at all.
    pub fn load(path: &Path, known: &[Client]) -> Result<(RoutingTable, Vec<ConfigError>), ConfigError> {
        let bytes = file::bytes_up_to(path, LARGEST as u64).map_err(|fault| fault.of(path))?;
        let mut reader = Reader {
            known: known.iter().map(|client| client.name.as_str()).collect(),
            bytes_left: LARGEST,
            top: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ..Reader::default()
        };
        reader.text(path, &bytes);
        Ok(reader.finish())
    }

    /// Where a product with this key goes; `None` where the table does not say. A pattern that cannot be decided on
    /// counts as one that matches, for one too many harms less than one lost.
    pub fn route(&self, key: &[u8]) -> Option<&Route> {
        let of_pattern = || {
            let mut patterns = self.patterns.iter();
            patterns.find(|(pattern, _)| !matches!(pattern.first_match(key), Ok(None)))
        };
        let index = self.keys.get(key).or_else(|| of_pattern().map(|(_, index)| index))?;
        self.routes.get(*index)
    }
}

const DIRECTIVES: &str = "key, key_accept, clientAlias, subclient, aftnMap, include";
const KEY: &str = "accepted: key KEY CLIENT,CLIENT… PRIORITY or key KEY PRIORITY";
const KEY_ACCEPT: &str = "accepted: key_accept PATTERN CLIENT,CLIENT… PRIORITY or key_accept PATTERN PRIORITY";
const PRIORITY: &str = "accepted: a priority from 0 to 5 as the last word";
const ALIAS: &str = "accepted: clientAlias NAME CLIENT,CLIENT…";
const SUBCLIENT: &str = "accepted: subclient CLIENT NAME,NAME…";
const AFTN_MAP: &str = "accepted: aftnMap ADDRESS HEADER";
const INCLUDE: &str = "accepted: include PATH, an absolute path";

#[derive(Default)]
struct Reader<'a> {
    known: BTreeSet<&'a str>,
    /// The table's own name, for Sundew's warning.
    top: String,
    /// The files that are being read, each included by the one before it.
    open: Vec<PathBuf>,
    bytes_left: usize,
    aliases: HashMap<String, Vec<String>>,
    subclients: HashMap<String, Vec<String>>,
    table: RoutingTable,
    indices: HashMap<Route, usize>,
    /// Where in `patterns` a pattern is.
    places: HashMap<String, usize>,
    /// Clients that the site does not have, with the line that names them first.
    unknown: BTreeMap<String, ConfigError>,
    findings: Vec<ConfigError>,
}

/// A line while it is read.
struct Line<'a> {
    file: &'a Path,
    number: usize,
    words: Vec<&'a [u8]>,
}

impl Line<'_> {
    fn word(&self, index: usize) -> String {
        self.words.get(index).map(|word| lines::text(word)).unwrap_or_default()
    }

    fn finding(&self, text: impl Into<String>, warning: bool) -> ConfigError {
        let rest: Vec<String> = (1..self.words.len()).map(|index| self.word(index)).collect();
        ConfigError {
            file: self.file.to_path_buf(),
            line: self.number,
            key: match &*self.word(0) {
                known @ ("aftnMap" | "clientAlias" | "key_accept" | "subclient") => known.to_string(),
                other => lines::printable(other),
            },
            value: match rest.is_empty() {
                true => String::new(),
                false => shown(&rest.join(" ")),
            },
            accepted: text.into(),
            warning,
        }
    }
}

impl Reader<'_> {
    fn text(&mut self, path: &Path, bytes: &[u8]) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        self.open.push(path.to_path_buf());
        for (index, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let words: Vec<&[u8]> = lines::split(text).collect();
            if words.first().is_some_and(|first| !first.starts_with(b"#")) {
                let line = Line {
                    file: path,
                    number: index + 1,
                    words,
                };
                self.line(&line);
            }
        }
        self.open.pop();
    }

    fn line(&mut self, line: &Line) {
        match &*line.word(0) {
            "key" => self.key(line),
            "key_accept" => self.key_accept(line),
            "clientAlias" => {
                if let Some(names) = self.names(line, ALIAS) {
                    let names = self.expanded(names);
                    self.aliases.insert(line.word(1), names);
                }
            }
            "subclient" => {
                if let Some(names) = self.names(line, SUBCLIENT) {
                    self.subclients.insert(line.word(1), names);
                }
            }
            "aftnMap" if line.words.len() < 3 => self.error(line, AFTN_MAP),
            "aftnMap" => {}
            "include" => self.include(line),
            _ => self.warn(
                line,
                &format!("Sundew passes over it, and so does px; accepted: {DIRECTIVES}"),
            ),
        }
    }

    /// `clientAlias NAME one,two`: the list, where there is one.
    fn names(&mut self, line: &Line, accepted: &str) -> Option<Vec<String>> {
        let names = split_names(&line.word(2));
        if names.is_empty() {
            self.error(line, accepted);
            return None;
        }
        if line.words.len() > 3 {
            self.warn(line, "there are more words than Sundew reads: the rest has no effect");
        }
        Some(names)
    }

    fn key(&mut self, line: &Line) {
        let Some(route) = self.route(line, KEY) else { return };
        let key = line.words[1].to_vec();
        if self.table.keys.insert(key, route).is_some() {
            self.warn(line, "the key has a line before this one already: this one counts");
        }
    }

    fn key_accept(&mut self, line: &Line) {
        let pattern = line.word(1);
        let mask = match Masks::new([(Accept, pattern.as_str())]) {
            Ok(mask) => mask,
            Err(faults) => {
                let problem = faults.first().map(ToString::to_string).unwrap_or_default();
                self.error(line, &problem);
                return;
            }
        };
        let Some(route) = self.route(line, KEY_ACCEPT) else {
            return;
        };
        if std::str::from_utf8(line.words[1]).is_err() {
            self.warn(line, "not UTF-8: read as Latin-1, so it matches keys in UTF-8 only");
        }
        match self.places.get(&pattern) {
            Some(place) => {
                self.table.patterns[*place].1 = route;
                self.warn(
                    line,
                    "the pattern has a line before this one already: there, this one's clients count",
                );
            }
            None => {
                self.places.insert(pattern, self.table.patterns.len());
                self.table.patterns.push((mask, route));
            }
        }
    }

    /// The route of a key's line, by its index.
    fn route(&mut self, line: &Line, accepted: &str) -> Option<usize> {
        let (names, priority) = match line.words.len() {
            3 => (Vec::new(), line.words[2]),
            4 => (split_names(&line.word(2)), line.words[3]),
            _ => {
                self.error(line, accepted);
                return None;
            }
        };
        let [priority @ b'0'..=b'5'] = priority else {
            self.error(line, PRIORITY);
            return None;
        };
        let mut clients: Vec<String> = Vec::new();
        for name in self.expanded(names) {
            let client = self.client(line, name);
            clients.extend(client.filter(|client| !clients.contains(client)));
        }
        let route = Route {
            clients,
            priority: priority - b'0',
        };
        let routes = &mut self.table.routes;
        let index = self.indices.entry(route).or_insert_with_key(|route| {
            routes.push(route.clone());
            routes.len() - 1
        });
        Some(*index)
    }

    /// The client that a name means; `None`, noted once, where this site has none.
    fn client(&mut self, line: &Line, name: String) -> Option<String> {
        if self.known.contains(name.as_str()) {
            return Some(name);
        }
        let mut parts = name.split('.');
        let (parent, sub) = (parts.next().unwrap_or_default(), parts.next());
        let has_sub = |subs: &Vec<String>| sub.is_some_and(|sub| subs.iter().any(|other| other == sub));
        let meant = match self.subclients.get(parent) {
            Some(subs) if has_sub(subs) => parent,
            _ => name.as_str(),
        };
        if self.known.contains(meant) {
            return Some(meant.to_string());
        }
        if !self.unknown.contains_key(meant) && self.unknown.len() < FINDINGS_MAX {
            let text = format!("Client {} is in {} but not in px", plain(meant), self.top);
            let finding = ConfigError {
                value: String::new(),
                ..line.finding(text, true)
            };
            self.unknown.insert(meant.to_string(), finding);
        }
        None
    }

    /// With the aliases among them replaced, each name once.
    fn expanded(&self, names: Vec<String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut expanded = Vec::new();
        for name in names {
            let meant = self.aliases.get(&name).cloned().unwrap_or_else(|| vec![name]);
            expanded.extend(meant.into_iter().filter(|name| seen.insert(name.clone())));
        }
        expanded
    }

    fn include(&mut self, line: &Line) {
        let path = PathBuf::from(line.word(1));
        if line.words.len() != 2 || !path.is_absolute() {
            self.error(line, INCLUDE);
        } else if self.open.contains(&path) {
            self.error(line, "the file includes itself");
        } else if self.open.len() >= DEEPEST {
            self.error(line, &format!("more than {DEEPEST} files within each other"));
        } else {
            match file::bytes_up_to(&path, self.bytes_left as u64) {
                Ok(bytes) => self.text(&path, &bytes),
                Err(fault) => self.error(line, &fault.to_string()),
            }
        }
    }

    fn error(&mut self, line: &Line, text: &str) {
        self.find(line.finding(text, false));
    }

    fn warn(&mut self, line: &Line, text: &str) {
        self.find(line.finding(text, true));
    }

    fn find(&mut self, finding: ConfigError) {
        match self.findings.len() {
            0..FINDINGS_MAX => self.findings.push(finding),
            FINDINGS_MAX => self.findings.push(ConfigError {
                accepted: format!("this and all below: more than {FINDINGS_MAX} findings"),
                ..finding
            }),
            _ => {}
        }
    }

    fn finish(mut self) -> (RoutingTable, Vec<ConfigError>) {
        self.findings.extend(self.unknown.into_values());
        self.findings.sort();
        (self.table, self.findings)
    }
}

/// `one,two`; what is empty is none.
fn split_names(word: &str) -> Vec<String> {
    word.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_string)
        .collect()
}

/// A name as a log line bears it.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
