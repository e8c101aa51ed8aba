//! Where one product goes: `directory`, `filename`, and the masks that may have their own.

use jiff::Timestamp;

use crate::config::{Table, options};
use crate::message::{DirectoryTemplate, Masks, NAMING, Naming, NamingError, Scripted, Verdict};

/// `directory`, `filename` and `masks` of a unit.
#[derive(Debug, Clone)]
pub(super) struct Config {
    plain: Place,
    masks: Masks,
    /// What each mask has of its own; nothing where it rejects.
    own: Vec<Own>,
}

#[derive(Debug, Clone, Default)]
struct Place {
    directory: DirectoryTemplate,
    naming: Naming,
}

#[derive(Debug, Clone, Default)]
struct Own {
    accepts: bool,
    directory: Option<DirectoryTemplate>,
    naming: Option<Naming>,
}

/// What is done with a product, as far as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is delivered there, under this name. Both are fit for every protocol.
    Put {
        /// `a/b`, `/a/b`, or empty: where the login or the URL begins.
        directory: Vec<u8>,
        /// One file name.
        name: Vec<u8>,
    },
    /// This script is to be asked for its name first, with the ingest name.
    NeedsScript(String),
    /// The masks reject it.
    Rejected,
    /// It can never be delivered; why.
    SetAside(String),
}

impl Config {
    /// Reads the three options. `roots`: whether directories must begin with `/`, as on this host.
    pub(super) fn read(table: &mut Table, roots: bool) -> Option<Config> {
        let directory = options::directory_template(table, "directory", roots);
        let has_directory = table.has("directory");
        let naming = read_naming(table);
        let has_naming = table.has("filename");
        let read = options::masks_with(table, |mask, verdict| read_own(mask, verdict, roots));
        if roots && !has_directory {
            table.reject("directory", options::ABSOLUTE_DIRECTORY);
            return None;
        }
        if (has_directory && directory.is_none()) || (has_naming && naming.is_none()) {
            return None;
        }
        let plain = Place {
            directory: directory.unwrap_or_default(),
            naming: naming.unwrap_or_default(),
        };
        let (masks, own) = read?;
        let config = Config { plain, masks, own };
        config.check_groups(table).then_some(config)
    }

    /// Whether every mask takes the groups that the directory of its products wants. Those of Sundew's files are only
    /// told of: Sundew starts with them.
    fn check_groups(&self, table: &mut Table) -> bool {
        let is_sundew = table.file().extension().is_some_and(|extension| extension == "conf");
        let mut is_good = true;
        let mut note = |table: &mut Table, key: &str, wanted: usize, takes: usize| {
            let why = format!(
                "the directory wants ${{{wanted}}}, and the masks take {takes} groups at most: none of these products can \
                 be delivered"
            );
            match is_sundew {
                true => table.warn(key, &why),
                false => {
                    table.refuse(key, &why);
                    is_good = false;
                }
            }
        };
        for (index, own) in self.own.iter().enumerate().filter(|(_, own)| own.accepts) {
            let (directory, key) = match &own.directory {
                Some(directory) => (directory, "masks"),
                None => (&self.plain.directory, "directory"),
            };
            let takes = self.masks.groups_from(index);
            if let Some(wanted) = directory.last_group().filter(|wanted| *wanted >= takes) {
                note(table, key, wanted, takes);
            }
        }
        if let (Some(wanted), false) = (
            self.plain.directory.last_group(),
            self.own.iter().any(|own| own.accepts),
        ) {
            note(table, "directory", wanted, 0);
        }
        is_good
    }

    /// Notes the roots of what announces that no directory of the unit can be below. Whether there are none.
    pub(super) fn check_roots(&self, table: &mut Table) -> bool {
        let mut is_good = true;
        let announcing = table
            .has("announcements")
            .then(|| table.table("announcements"))
            .flatten();
        for mut element in announcing.into_iter().chain(table.tables("url_files")) {
            // Read whole, and told of, elsewhere.
            element.know_all();
            let root = element.string("root").unwrap_or_default();
            let root: Vec<&str> = root.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
            if !self.directories().any(|directory| may_be_below(directory, &root)) {
                element.refuse("root", "no product is delivered below it, so none could be announced");
                is_good = false;
            }
            element.finish();
        }
        is_good
    }

    /// Those that products may be delivered into. The unit's own is for what no mask matches.
    fn directories(&self) -> impl Iterator<Item = &DirectoryTemplate> {
        let own = self.own.iter().filter_map(|own| own.directory.as_ref());
        own.chain([&self.plain.directory])
    }

    /// Every script that may have to be asked ([`Decision::NeedsScript`]).
    pub(super) fn scripts(&self) -> impl Iterator<Item = &str> {
        let own = self.own.iter().filter_map(|own| own.naming.as_ref());
        std::iter::once(&self.plain.naming)
            .chain(own)
            .filter_map(Naming::script)
    }

    /// Decides by the ingest name alone. `scripted` is what the script has answered, `None` before it was asked.
    pub(super) fn decide(&self, name: &[u8], now: Timestamp, scripted: Option<Scripted<'_>>) -> Decision {
        let own = match self.masks.first_match(name) {
            Ok(Some((_, Verdict::Reject))) => return Decision::Rejected,
            Ok(Some((index, Verdict::Accept))) => self.own.get(index),
            Ok(None) => None,
            // Never removed for a pattern that could not tell.
            Err(undecided) => return Decision::SetAside(undecided.to_string()),
        };
        let naming = own.and_then(|own| own.naming.as_ref()).unwrap_or(&self.plain.naming);
        if let (Some(script), None) = (naming.script(), scripted) {
            return Decision::NeedsScript(script.to_string());
        }
        let delivered = match naming.apply(name, now, scripted.unwrap_or(Scripted::Keep)) {
            Ok(delivered) => delivered,
            Err(error) => return Decision::SetAside(error.to_string()),
        };
        let template = own
            .and_then(|own| own.directory.as_ref())
            .unwrap_or(&self.plain.directory);
        let groups = match template.has_groups() {
            true => match self.masks.groups(name) {
                Ok(groups) => groups,
                Err(undecided) => return Decision::SetAside(undecided.to_string()),
            },
            false => None,
        };
        match template.expand(name, groups.as_deref(), now) {
            Ok(directory) => Decision::Put {
                directory,
                name: delivered,
            },
            Err(error) => Decision::SetAside(error.to_string()),
        }
    }
}

fn read_naming(table: &mut Table) -> Option<Naming> {
    table.parsed(
        "filename",
        |text| {
            Naming::parse(text).map_err(|error| match error {
                // What is accepted follows.
                NamingError::Unknown(keyword) => format!("unknown keyword {keyword:?}"),
                error => error.to_string(),
            })
        },
        NAMING,
    )
}

fn read_own(mask: &mut Table, verdict: Verdict, roots: bool) -> Option<Own> {
    if verdict == Verdict::Reject {
        for key in ["directory", "filename"] {
            if mask.has(key) {
                mask.refuse(key, "only where the mask accepts");
                return None;
            }
        }
    }
    let own = Own {
        accepts: verdict == Verdict::Accept,
        directory: options::directory_template(mask, "directory", roots),
        naming: read_naming(mask),
    };
    let is_whole = own.directory.is_some() == mask.has("directory") && own.naming.is_some() == mask.has("filename");
    is_whole.then_some(own)
}

fn may_be_below(directory: &DirectoryTemplate, root: &[&str]) -> bool {
    let (known, is_all) = directory.known_beginning();
    let is_long_enough = !is_all || known.len() >= root.len();
    is_long_enough && known.iter().zip(root).all(|(known, root)| known == root)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Errors;

    fn read(file: &str, text: &str, roots: bool) -> (Option<Config>, Vec<String>) {
        let table = Table::parse(Path::new(file), text, &Errors::default());
        let (config, found) = table.read_whole(|table| Config::read(table, roots));
        (config, found.iter().map(ToString::to_string).collect())
    }

    fn decide(text: &str, name: &str, scripted: Option<Scripted<'_>>) -> Decision {
        let (config, found) = read("u.toml", text, false);
        let now = "2026-11-21T20:12:34Z".parse().unwrap();
        config
            .unwrap_or_else(|| panic!("{found:?}"))
            .decide(name.as_bytes(), now, scripted)
    }

    fn put(directory: &str, name: &str) -> Decision {
        Decision::Put {
            directory: directory.into(),
            name: name.into(),
        }
    }

    const PDS: &str = "2013_XSS.gif:URP:XSS:RADAR:GIF::20130606144709";

    #[test]
    fn the_first_mask_that_matches_has_the_say() {
        let text = r#"
            directory = "data/${YYYYMMDD}"
            filename = "NONE"
            masks = [
                { reject = '.*\.tmp' },
                { accept = '.*:URP:(...):(RADAR)', directory = "/radar/${0}/${1}", filename = "WHATFN:TIME" },
                { accept_glob = "*.txt:*", directory = "text" },
                { accept = 'x:', filename = "DESTFN=latest" },
                { reject = 'no' },
            ]
        "#;
        let table = [
            (PDS, put("/radar/XSS/RADAR", "2013_XSS.gif:20130606144709")),
            ("a.tmp:b:c:d:e", Decision::Rejected),
            ("no", Decision::Rejected),
            ("a.txt:b:c:d:e::2", put("text", "a.txt:b:c:d:e")),
            ("x:b", put("data/20261121", "latest")),
            ("a:b:c:d:e::2", put("data/20261121", "a:b:c:d:e")),
        ];
        for (name, wanted) in table {
            assert_eq!(decide(text, name, None), wanted, "{name}");
        }
        assert_eq!(decide("", PDS, None), put("", "2013_XSS.gif"));
    }

    #[test]
    fn what_can_never_be_delivered_is_set_aside() {
        let table = [
            (
                "filename = \"NONE\"",
                "a:b",
                "NONE wants 5 colon fields, and the name has 2",
            ),
            ("directory = \"${RHH}\"", "a:b", "the directory wants ${RHH}"),
            (
                "directory = \"${0}\"\nmasks = [{ accept = '.' }]",
                "a:b",
                "the directory wants ${0}, and the masks take no such group",
            ),
            (
                "masks = [{ accept = '(..)', directory = '${0}' }]",
                "..",
                "it would be delivered as \"..\"",
            ),
            (
                "masks = [{ accept = '(..)x', directory = '${0}' }]",
                "..x",
                "\"..\" can be no directory",
            ),
        ];
        for (text, name, start) in table {
            match decide(text, name, None) {
                Decision::SetAside(why) => assert!(why.starts_with(start), "{why}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_script_is_asked_before_there_is_a_name() {
        let text = "masks = [{ accept = 'a', filename = 'WHATFN:DESTFNSCRIPT=s.py' }]";
        assert_eq!(decide(text, "a:b", None), Decision::NeedsScript("s.py".to_string()));
        assert_eq!(decide(text, "b:b", None), put("", "b"));
        assert_eq!(decide(text, "a:b", Some(Scripted::Keep)), put("", "a"));
        assert_eq!(decide(text, "a:b", Some(Scripted::Name(b"made"))), put("", "made"));
        let (config, _) = read("u.toml", text, false);
        assert_eq!(config.unwrap().scripts().collect::<Vec<_>>(), ["s.py"]);
    }

    #[test]
    fn sundew_starts_with_a_directory_that_no_product_has() {
        let (config, found) = read("u.conf", "directory = \"${7}\"\nmasks = [{ accept = 'a(b)' }]", false);
        assert!(
            config.is_some() && found.len() == 1 && found[0].contains("warning: the directory wants ${7}"),
            "{found:?}"
        );
    }

    #[test]
    fn a_root_that_nothing_is_delivered_below_is_known_at_once() {
        let table = [
            ("a/b", "", true),
            ("a/b", "/a/", true),
            ("/a/b", "a/b", true),
            ("a/${YYYY}", "a/2026", true),
            ("a${YYYY}", "a", true),
            ("a", "a/b", false),
            ("a/b", "elsewhere", false),
            ("a/${YYYY}", "b", false),
            ("", "b", false),
        ];
        for (directory, root, is_good) in table {
            let directory = DirectoryTemplate::parse(directory).unwrap();
            let root: Vec<&str> = root.split('/').filter(|name| !name.is_empty()).collect();
            assert_eq!(may_be_below(&directory, &root), is_good, "{directory:?} {root:?}");
        }
    }

    #[test]
    fn each_wrong_option_has_its_line() {
        let table = [
            (
                "filename = \"WHATSFN\"",
                false,
                "u.toml:1: filename = \"WHATSFN\": unknown keyword \"WHATSFN\"; accepted: WHATFN, HEADFN",
            ),
            (
                "directory = \"a/${b}\"",
                false,
                "u.toml:1: directory = \"a/${b}\": unknown ${b}",
            ),
            (
                "directory = \"a/${1}\"\nmasks = [{ accept = 'a(b)' }]",
                false,
                "u.toml:1: directory = \"a/${1}\": the directory wants ${1}, and the masks take 1 groups at most",
            ),
            (
                "directory = \"${0}\"",
                false,
                "u.toml:1: directory = \"${0}\": the directory wants ${0}, and the masks take 0",
            ),
            (
                "masks = [{ accept_glob = 'a*', directory = '${0}' }]",
                false,
                "u.toml:1: masks = […]: the directory wants ${0}",
            ),
            ("directory = 1", false, "u.toml:1: directory = 1: accepted: a path"),
            (
                "directory = \"a\"",
                true,
                "u.toml:1: directory = \"a\": accepted: an absolute path",
            ),
            ("", true, "u.toml:1: directory: missing; accepted: an absolute path"),
            (
                "directory = \"/a\"\n[[masks]]\naccept = \"a\"\ndirectory = \"a\"",
                true,
                "u.toml:4: masks.directory = \"a\": accepted: an absolute path",
            ),
            (
                "masks = [{ reject = 'a', filename = 'WHATFN' }]",
                false,
                "u.toml:1: masks.filename = \"WHATFN\": only where the mask accepts",
            ),
            (
                "masks = [{ accept = '(', directory = '..' }]",
                false,
                "u.toml:1: masks.accept = \"(\"",
            ),
        ];
        for (text, roots, start) in table {
            let (config, found) = read("u.toml", text, roots);
            assert!(config.is_none(), "{text}");
            assert!(found[0].starts_with(start), "{found:#?}");
        }
    }
}
