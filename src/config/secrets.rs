//! Passwords by broker and user: from a credentials directory, or from `secrets.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::url::{Variables, expand};
use super::{Errors, Places, Secret, file};

/// All passwords of a site. Prints no value.
#[derive(Debug, Clone, Default)]
pub(super) struct Secrets {
    by_broker: BTreeMap<(String, String), Secret>,
    /// Files named `BROKER.USER`; systemd names the directory in `$CREDENTIALS_DIRECTORY`.
    directory: Option<PathBuf>,
    /// The file was refused, so a missing password needs no words of its own.
    refused: bool,
}

impl Secrets {
    /// Reads `secrets.toml` next to `px.toml`: `[bunny] feeder = "…"`. `brokers` are the names that exist, and
    /// `are_all` says that any other is an error.
    pub(super) fn load(
        places: &Places,
        (brokers, are_all): (&[String], bool),
        variables: Variables,
        errors: &Errors,
    ) -> Secrets {
        let mut secrets = Secrets {
            directory: variables("CREDENTIALS_DIRECTORY")
                .filter(|name| !name.is_empty())
                .map(PathBuf::from),
            ..Secrets::default()
        };
        let own = Errors::default();
        if let Some(mut table) = file::load_secrets(&places.secrets_file(), &own) {
            for broker in brokers {
                table.within(broker, |users| {
                    for user in users.keys() {
                        let parse = |text: &str| match expand(text, variables) {
                            Ok(text) if text.is_empty() => Err("empty".to_string()),
                            other => other,
                        };
                        if let Some(password) = users.parsed(&user, parse, "a password, or ${NAME}") {
                            let who = (broker.clone(), user.clone());
                            secrets.by_broker.insert(who, Secret::new(password));
                        }
                    }
                    Some(())
                });
            }
            if are_all {
                table.finish();
            }
        }
        secrets.refused = own.refused();
        for error in own.take() {
            errors.push(error);
        }
        secrets
    }

    /// The password, if there is one; the credentials directory first.
    pub(super) fn find(&self, broker: &str, user: &str) -> Result<Option<Secret>, String> {
        let name = format!("{broker}.{user}");
        if let Some(directory) = self.directory.as_ref().filter(|_| !name.contains(['/', '\0']))
            && let Some(text) = file::credential(&directory.join(name))?
        {
            return Ok(Some(Secret::new(text)));
        }
        Ok(self.by_broker.get(&(broker.to_string(), user.to_string())).cloned())
    }

    /// Whether the operator has been told already why passwords are missing.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }
}
