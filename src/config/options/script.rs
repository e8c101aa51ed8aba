//! Programs that a unit runs: which, for how long, and what they are told of the site.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::{check_program, positive_duration};
use crate::config::value::{Entry, Value};
use crate::config::{Secret, Table};

const PROGRAM: &str = r#"an absolute path, or a list of it and its arguments: ["/path/to/program", "argument"]"#;
/// How long a program may take when nobody says.
const TIMEOUT: Duration = Duration::from_secs(300);

/// `key = ["/path/to/program", "argument"]`, or the path alone: the words a program is started with. No shell reads
/// them.
pub fn script(table: &mut Table, key: &str) -> Option<Vec<String>> {
    let entry = table.entries().iter().find(|entry| entry.key == key);
    let words = match entry.and_then(|entry| entry.value.as_text()) {
        Some(_) => vec![table.string(key)?],
        None => table.parsed_list(key, |word| Ok(word.to_owned()), PROGRAM)?,
    };
    let has_program = words.first().is_some_and(|program| program.starts_with('/'));
    if !has_program || words.iter().any(|word| word.contains('\0')) {
        table.reject(key, PROGRAM);
        return None;
    }
    if let Some(program) = words.first() {
        check_program(table, key, Path::new(program));
    }
    Some(words)
}

/// `script_timeout`: how long each run of a program may take.
pub fn script_timeout(table: &mut Table) -> Duration {
    positive_duration(table, "script_timeout").unwrap_or(TIMEOUT)
}

/// `script_options`: a table of whatever the site's programs want to know, as one line of JSON. It may hold passwords.
pub fn script_options(table: &mut Table) -> Option<Secret> {
    let mut options = table.table("script_options")?.keep_secret();
    options.know_all();
    let read = object(options.entries());
    options.finish();
    match read {
        Ok(object) => Some(Secret::new(Json::Object(object).to_string())),
        Err(key) => {
            let why = format!(
                "{key} has a value that programs are not told; accepted: strings, whole numbers, true and \
                               false, lists and tables of them"
            );
            table.refuse("script_options", &why);
            None
        }
    }
}

/// The key that has no equal in JSON, else the object.
fn object(entries: &[Entry]) -> Result<Map<String, Json>, String> {
    let pairs = entries.iter().map(|entry| match json(&entry.value) {
        Some(value) => Ok((entry.key.clone(), value)),
        None => Err(entry.key.clone()),
    });
    pairs.collect()
}

fn json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Text(text) => Json::from(text.as_str()),
        Value::Boolean(answer) => Json::from(*answer),
        Value::Integer(number, _) => Json::from((*number)?),
        Value::Other(_) => return None,
        Value::List(elements) => {
            let elements: Option<Vec<Json>> = elements.iter().map(|(_, element)| json(element)).collect();
            Json::from(elements?)
        }
        Value::Table(entries) => Json::Object(object(entries).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;
    use crate::config::error::Errors;

    fn read<T>(text: &str, read: impl Fn(&mut Table) -> Option<T>) -> (Option<T>, Vec<ConfigError>) {
        Table::parse(Path::new("unit.toml"), text, &Errors::default()).read_whole(|table| read(table))
    }

    #[test]
    fn a_program_is_an_absolute_path_with_arguments() {
        let words = |text: &str| read(text, |table| script(table, "fx_script"));
        assert_eq!(words("fx_script = '/bin/fx'").0.unwrap(), ["/bin/fx"]);
        assert_eq!(
            words("fx_script = ['/bin/fx', '', '-v']").0.unwrap(),
            ["/bin/fx", "", "-v"]
        );
        assert!(words("").1.is_empty());
        for bad in [
            "'fx'",
            "[]",
            "['fx', '/bin/fx']",
            r#"["/bin/fx", "a\u0000b"]"#,
            "7",
            "''",
        ] {
            let (words, errors) = words(&format!("fx_script = {bad}"));
            assert!(words.is_none() && errors.len() == 1, "{bad}: {errors:?}");
            assert!(errors[0].to_string().contains("fx_script"), "{}", errors[0]);
        }
    }

    #[test]
    fn what_programs_are_told_is_any_table_and_is_never_shown() {
        let text = "[script_options]\nhost = 'h'\npasswd = 'hush'\nport = 21\nbinary = true\npulls = [['d', 're']]\n";
        let (options, errors) = read(text, script_options);
        assert!(errors.is_empty(), "{errors:?}");
        let options = options.unwrap();
        assert_eq!(
            options.expose(),
            r#"{"host":"h","passwd":"hush","port":21,"binary":true,"pulls":[["d","re"]]}"#
        );
        assert_eq!(format!("{options:?}"), "***");
        let (_, errors) = read("[script_options]\nratio = 1.5\npasswd = 'hush'\n", script_options);
        let said = format!("{errors:?}");
        assert!(
            errors.len() == 1 && said.contains("ratio") && !said.contains("hush"),
            "{said}"
        );
    }
}
