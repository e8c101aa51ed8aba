//! Programs of the site that have a say: `fx_script`, `destfn_script`, and those that a `filename` names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Secret, Table, options};
use crate::flow::Unit;
use crate::flow::script::{Hook, Script};

/// Which programs, and what they are told.
#[derive(Debug, Clone)]
pub(super) struct Config {
    fx: Option<Vec<String>>,
    destfn: Option<Vec<String>>,
    pub(super) send: Option<Vec<String>>,
    timeout: Duration,
    options: Option<Secret>,
}

impl Config {
    /// `fx_script`, `destfn_script`, `send_script`, `script_timeout`, `script_options`.
    pub(super) fn read(table: &mut Table) -> Option<Config> {
        let mut word = |key: &str| {
            let words = options::script(table, key);
            (words.is_some() == table.has(key)).then_some(words)
        };
        let (fx, destfn, send) = (word("fx_script"), word("destfn_script"), word("send_script"));
        let (timeout, has_options) = (options::script_timeout(table), table.has("script_options"));
        let options = options::script_options(table);
        if has_options && options.is_none() {
            return None;
        }
        Some(Config {
            fx: fx?,
            destfn: destfn?,
            send: send?,
            timeout,
            options,
        })
    }

    /// Notes options that only programs have, where there is none; and the programs that a `filename` names and that
    /// cannot be started. Whether there is nothing to refuse.
    pub(super) fn check<'a>(&self, table: &mut Table, etc: &Path, named: impl Iterator<Item = &'a str>) -> bool {
        let named: BTreeSet<&str> = named.collect();
        for name in &named {
            options::check_program(table, "filename", &etc.join("scripts").join(name));
        }
        let has_program = !named.is_empty()
            || [&self.fx, &self.destfn, &self.send]
                .iter()
                .any(|script| script.is_some());
        let mut is_good = true;
        for key in ["script_timeout", "script_options"] {
            if table.has(key) && !has_program {
                table.refuse(
                    key,
                    "the unit has no fx_script, destfn_script, send_script or DESTFNSCRIPT",
                );
                is_good = false;
            }
        }
        is_good
    }

    fn script(&self, words: Vec<String>, hook: Hook, unit: &Unit) -> Script {
        Script::new(words, hook, self.timeout, unit).with_options(self.options.clone())
    }

    /// The program that delivers.
    pub(super) fn sender(&self, unit: &Unit) -> Option<Script> {
        let script = self.script(self.send.clone()?, Hook::Send, unit);
        // What it has delivered by then is not delivered again.
        Some(script.with_end(unit.abandon.clone()))
    }
}

/// The programs of a running unit that change products.
pub(super) struct Hooks {
    pub(super) fx: Option<Script>,
    pub(super) destfn: Option<Script>,
    /// Those that a `filename` names, by that name.
    pub(super) named: BTreeMap<String, Script>,
}

impl Hooks {
    pub(super) fn new<'a>(config: &Config, named: impl Iterator<Item = &'a str>, unit: &Unit) -> Hooks {
        let scripts = unit.places.etc.join("scripts");
        let program = |name: &str| {
            let path: PathBuf = scripts.join(name);
            config.script(vec![path.to_string_lossy().into_owned()], Hook::Destfn, unit)
        };
        Hooks {
            fx: config.fx.clone().map(|words| config.script(words, Hook::Fx, unit)),
            destfn: config
                .destfn
                .clone()
                .map(|words| config.script(words, Hook::Destfn, unit)),
            named: named.map(|name| (name.to_string(), program(name))).collect(),
        }
    }
}
