//! Passwords in a unit's own file, or in a file that it names.

use std::path::Path;

use super::named_file::warn_of_readers;
use crate::config::{Secret, Table};

const PASSWORD: &str = "a password that is not empty";

/// `password`, or `password_file` with an absolute path to a file that holds it. `None` where both are there, or the
/// file cannot be read, which is noted; `Some(None)` where neither is.
pub fn password(table: &mut Table) -> Option<Option<Secret>> {
    let password = |text: &str| match text {
        "" => Err(String::new()),
        text => Ok(text.to_owned()),
    };
    let (password, file) = (
        table.parsed("password", password, PASSWORD),
        table.string("password_file"),
    );
    if table.has("password") && table.has("password_file") {
        table.refuse("password", "password or password_file, one of them");
        return None;
    }
    if let Some(file) = file {
        return match std::fs::read_to_string(&file) {
            Ok(text) => match text.trim_end_matches(['\r', '\n']) {
                "" => {
                    table.refuse("password_file", "no password is in it");
                    None
                }
                password => {
                    warn_of_readers(table, "password_file", Path::new(&file));
                    Some(Some(Secret::new(password)))
                }
            },
            Err(error) => {
                table.refuse("password_file", &format!("cannot be read: {error}"));
                None
            }
        };
    }
    let is_good = password.is_some() || !(table.has("password") || table.has("password_file"));
    is_good.then(|| password.map(Secret::new))
}
