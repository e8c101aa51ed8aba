//! A unit's table as TOML that gives the same table again, and what `px.toml`, `secrets.toml` and the unit need beside
//! it.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Flow;
use crate::config::value::{self, Entry, Value};
use crate::config::{Broker, BrokerUrl, Places, Scheme, Secret, Site, Table, UnitName, file};

/// What a URL has to have escaped of a user's name: `$` too, since `${NAME}` is a variable.
const USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Keys of a unit's own passwords: its server's, and what scripts are told.
const PASSWORDS: [&str; 2] = ["password", "passwd"];
/// Brokers that may have the same name before another is looked for in vain.
const NAMESAKES: usize = 100;

/// A unit in TOML, and the files beside it as they have to be for it. To be written in this order, each only once the
/// one before is safe: the broker before its password, for a password of no broker is an error.
pub struct Conversion {
    /// All of `px.toml`, where it lacks the unit's broker.
    pub site: Option<String>,
    /// All of `secrets.toml`, where it lacks the broker's password.
    pub secrets: Option<Secret>,
    /// The password of the unit's server, and the file beside the unit's that it goes into.
    pub password: Option<(PathBuf, Secret)>,
    /// The unit's file.
    pub unit: String,
    /// The same, to be shown.
    pub shown: String,
    /// The unit's broker, under the name that the unit's file has.
    pub broker: Option<Broker>,
}

impl Conversion {
    /// Whether the unit's file holds passwords itself, as what scripts are told may be.
    pub fn is_private(&self) -> bool {
        self.unit != self.shown
    }
}

/// Shows no password.
impl fmt::Debug for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversion")
            .field("site", &self.site)
            .field("secrets", &self.secrets)
            .field("password", &self.password)
            .field("unit", &self.shown)
            .field("broker", &self.broker)
            .finish()
    }
}

/// What has to be written so that the unit is TOML. Reads the site's files and writes none; done again after a crash
/// between two of them, it says what is left. `earlier` are brokers that would have been written by now.
pub fn convert(places: &Places, name: &UnitName, flow: Flow, earlier: &[Broker]) -> Result<Conversion, String> {
    let Some(broker) = &flow.broker else {
        // A unit in TOML needs a site file, be it empty; Sundew's is one too.
        let has_site = places.site_file().exists() || places.sundew_site_file().exists();
        let file = places.etc.join(name.dir.name()).join(format!("{}.password", name.name));
        let (table, password) = flow.table.with_secret_in("password", "password_file", &file);
        return Ok(Conversion {
            site: (!has_site).then(String::new),
            secrets: None,
            password: password.map(|password| (file, password)),
            unit: print(&table),
            shown: print_with(&table, true),
            broker: None,
        });
    };
    let site_text = read(&places.site_file())?.unwrap_or_default();
    let secrets_text = read(&places.secrets_file())?.unwrap_or_default();
    let (site, errors) = Site::load(places);
    let faults: Vec<String> = errors.iter().filter(|e| !e.warning).map(ToString::to_string).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let named = |count| match count {
        1 => broker.name.clone(),
        count => format!("{}-{count}", broker.name),
    };
    let (name, needs) = (1..=NAMESAKES)
        .map(named)
        .find_map(|name| {
            let needs = match earlier.iter().find(|earlier| earlier.name == name) {
                Some(earlier) => (earlier.urls == broker.urls).then_some(Needs::Nothing),
                None => needs(&site, &secrets_text, &name, broker),
            };
            needs.map(|needs| (name, needs))
        })
        .ok_or_else(|| format!("px.toml has {NAMESAKES} brokers named like {} already", broker.name))?;
    let broker = Broker { name, ..broker.clone() };
    let site = match needs {
        Needs::All => Some(with(&site_text, &broker_as_toml(&broker), &places.site_file())?),
        Needs::Password | Needs::Nothing => None,
    };
    let secrets = match needs {
        Needs::Nothing => None,
        Needs::All | Needs::Password => Some(with(
            &secrets_text,
            &password_as_toml(&broker)?,
            &places.secrets_file(),
        )?),
    };
    let table = flow.table.with_text("broker", &broker.name);
    Ok(Conversion {
        site,
        secrets: secrets.map(Secret::new),
        password: None,
        unit: print(&table),
        shown: print_with(&table, true),
        broker: Some(broker),
    })
}

/// What the site's files lack.
enum Needs {
    All,
    Password,
    Nothing,
}

/// What has to be added for the broker to be there under this name; `None` where the name is another's.
fn needs(site: &Site, secrets: &str, name: &str, broker: &Broker) -> Option<Needs> {
    let has_passwords = value::parse(secrets).0.iter().any(|entry| entry.key == name);
    let Some(known) = site.broker(name) else {
        return (!has_passwords).then_some(Needs::All);
    };
    let without = |url: &BrokerUrl| BrokerUrl {
        password: Secret::default(),
        ..url.clone()
    };
    let ([theirs], [ours]) = (&known.urls[..], &broker.urls[..]) else {
        return None;
    };
    let is_same = without(theirs) == without(ours);
    match theirs.password.expose() {
        password if is_same && password == ours.password.expose() => Some(Needs::Nothing),
        "" if is_same && !has_passwords => Some(Needs::Password),
        _ => None,
    }
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match file::bytes(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(format!("{}: not UTF-8", path.display())),
        },
        Err(fault) if fault.is_missing() => Ok(None),
        Err(fault) => Err(format!("{}: {fault}", path.display())),
    }
}

/// The text with more at its end, if that is TOML: it is not where a table is closed already.
fn with(text: &str, more: &str, path: &Path) -> Result<String, String> {
    let gap = match text {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let whole = format!("{text}{gap}{more}");
    match value::parse(&whole).1.is_empty() {
        true => Ok(whole),
        false => Err(format!("{}: nothing can be added at its end", path.display())),
    }
}

/// `[brokers.NAME]` as `px.toml` has it, without the password.
pub fn broker_as_toml(broker: &Broker) -> String {
    let urls: Vec<String> = broker.urls.iter().map(|url| quoted(&url_text(url))).collect();
    format!("[brokers.{}]\nurls = [{}]\n", key(&broker.name), urls.join(", "))
}

/// Never shown: for `secrets.toml` alone.
fn password_as_toml(broker: &Broker) -> Result<String, String> {
    let mut text = format!("[{}]\n", key(&broker.name));
    for url in &broker.urls {
        let password = url.password.expose();
        if password.contains("${") {
            return Err(format!(
                "the password of {} holds ${{, which secrets.toml takes for a variable: put it into a credentials file",
                url.user
            ));
        }
        text.push_str(&format!("{} = {}\n", key(&url.user), quoted(password)));
    }
    Ok(text)
}

/// `amqp://USER@HOST:PORT`; the virtual host is `/`, and the port only where it is unusual.
fn url_text(url: &BrokerUrl) -> String {
    let host = match url.host.contains(':') {
        true => format!("[{}]", url.host),
        false => url.host.clone(),
    };
    let port = match url.port == Scheme::Amqp.default_port() {
        true => String::new(),
        false => format!(":{}", url.port),
    };
    format!(
        "{}://{}@{host}{port}",
        url.scheme.name(),
        utf8_percent_encode(&url.user, USER)
    )
}

/// The table as TOML, a line for each key. It shows passwords, where the table has any.
pub fn print(table: &Table) -> String {
    print_with(table, false)
}

/// The same, and without passwords where it is to be shown.
fn print_with(table: &Table, is_shown: bool) -> String {
    let inline = |name: &str, value: &Value| inline(name, value, is_shown);
    let lines = table.entries().iter().map(|entry| {
        let value = match &entry.value {
            Value::List(list) if list.len() > 1 && list.iter().any(|(_, value)| matches!(value, Value::Table(_))) => {
                let elements: Vec<String> = list
                    .iter()
                    .map(|(_, value)| format!("    {},\n", inline("", value)))
                    .collect();
                format!("[\n{}]", elements.concat())
            }
            value => inline(&entry.key, value),
        };
        format!("{} = {value}\n", key(&entry.key))
    });
    lines.collect()
}

fn inline(name: &str, value: &Value, is_shown: bool) -> String {
    match value {
        Value::Text(_) if is_shown && PASSWORDS.contains(&name) => quoted("***"),
        Value::Text(text) => string(name, text),
        Value::Boolean(answer) => answer.to_string(),
        Value::Integer(_, text) | Value::Other(text) => text.clone(),
        Value::List(list) => {
            let elements: Vec<String> = list.iter().map(|(_, value)| inline(name, value, is_shown)).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Table(entries) if entries.is_empty() => "{}".to_string(),
        Value::Table(entries) => {
            let pair = |entry: &Entry| format!("{} = {}", key(&entry.key), inline(&entry.key, &entry.value, is_shown));
            let pairs: Vec<String> = entries.iter().map(pair).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

/// A pattern, and what would need escapes, is easier to read in single quotes.
fn string(name: &str, text: &str) -> String {
    let is_pattern = ["accept", "reject", "accept_glob", "reject_glob"].contains(&name);
    let is_plain = !text.contains('\'') && !text.contains(char::is_control);
    match is_plain && (is_pattern || text.contains(['\\', '"'])) {
        true => format!("'{text}'"),
        false => quoted(text),
    }
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    match is_bare {
        true => name.to_string(),
        false => quoted(name),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
