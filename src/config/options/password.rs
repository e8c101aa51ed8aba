//! Passwords in a unit's own file, or in a file that it names.

use crate::config::{Secret, Table};

/// `password`, or `password_file` with an absolute path to a file that holds it. `None` where both are there, or the
/// file cannot be read, which is noted; `Some(None)` where neither is.
pub fn password(table: &mut Table) -> Option<Option<Secret>> {
    let (password, file) = (table.string("password"), table.string("password_file"));
    if table.has("password") && table.has("password_file") {
        table.refuse("password", "password or password_file, one of them");
        return None;
    }
    if let Some(file) = file {
        return match std::fs::read_to_string(&file) {
            Ok(text) => Some(Some(Secret::new(text.trim_end_matches(['\r', '\n'])))),
            Err(error) => {
                table.refuse("password_file", &format!("cannot be read: {error}"));
                None
            }
        };
    }
    let is_good = password.is_some() || !(table.has("password") || table.has("password_file"));
    is_good.then(|| password.map(Secret::new))
}
