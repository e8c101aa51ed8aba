//! Broker URLs. No message of this file quotes its input: it may be a password.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{BrokerUrl, Scheme, Secret};

/// What a broker URL looks like, for messages.
pub(super) const ACCEPTED: &str = "amqp://USER@HOST:PORT/VHOST, amqps://…, embedded:PATH";

/// RabbitMQ hangs up without a word on who asks for less: from 4.1 on, and below 4096 always.
const FRAME_MIN: u32 = 8192;

/// Where `${NAME}` is looked up.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A URL, and what of it is not the URL's own affair.
pub(super) struct Parsed {
    pub url: BrokerUrl,
    /// Names a user and no password: to be found elsewhere.
    pub wants_password: bool,
    /// The password stands in the text itself, not in a variable.
    pub has_written_password: bool,
    /// From `?connection_timeout=`.
    pub connect_timeout: Option<Duration>,
}

/// Parses one candidate. `${NAME}` stands for a variable, taken as it is in any part, or for the whole URL.
pub(super) fn parse(text: &str, spool: &Path, variables: Variables) -> Result<Parsed, String> {
    let has_written_password = has_written_password(text);
    let text = &*whole(text, variables)?;
    if text.contains('#') {
        return Err("a # is written %23".to_string());
    }
    if let Some(path) = text.strip_prefix("embedded:") {
        return embedded(path, spool, variables);
    }
    let (scheme, rest) = text.split_once("://").ok_or("not a URL")?;
    let scheme = Scheme::ALL
        .into_iter()
        .find(|known| *known != Scheme::Embedded && known.name().eq_ignore_ascii_case(scheme))
        .ok_or("unknown scheme")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, address) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(login, host)| (Some(login), host));
    let (user, password) = credentials(login, variables)?;
    let (host, port) = host_and_port(address, variables)?;
    let mut parsed = Parsed {
        wants_password: user.is_some() && password.is_none(),
        has_written_password,
        url: BrokerUrl {
            scheme,
            user: user.unwrap_or_else(|| "guest".to_string()),
            password: Secret::new(
                password.unwrap_or_else(|| if login.is_none() { "guest".into() } else { String::new() }),
            ),
            host,
            port: port.unwrap_or(scheme.default_port()),
            vhost: Some(decode(vhost, variables)?)
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "/".to_string()),
            ..BrokerUrl::unset(scheme)
        },
        connect_timeout: None,
    };
    if parsed.url.vhost.len() > 255 {
        return Err("the virtual host is longer than 255 bytes".to_string());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        parsed.option(pair, variables)?;
    }
    Ok(parsed)
}

/// Whether whoever reads the text reads a password: more than a variable's name stands after the user.
pub(super) fn has_written_password(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let login = rest
        .split(['/', '?'])
        .next()
        .and_then(|authority| authority.rsplit_once('@'));
    let password = login
        .and_then(|(login, _)| login.split_once(':'))
        .map_or("", |(_, password)| password);
    let is_variable = password.starts_with("${") && password.find('}') == Some(password.len() - 1);
    !password.is_empty() && !is_variable
}

/// A URL that is one variable as a whole is that variable's text, to be parsed like any other.
pub(super) fn whole<'a>(text: &'a str, variables: Variables) -> Result<Cow<'a, str>, String> {
    match text.starts_with("${") && !text.contains("://") {
        true => expand(text, variables).map(Cow::Owned),
        false => Ok(Cow::Borrowed(text)),
    }
}

impl Parsed {
    fn option(&mut self, pair: &str, variables: Variables) -> Result<(), String> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value, variables)?;
        let within = |low: u32, high: u32| {
            let number = value.parse::<u32>().ok().filter(|number| (low..=high).contains(number));
            number.ok_or_else(|| format!("{key} is a whole number from {low} to {high}"))
        };
        match key {
            "heartbeat" => self.url.heartbeat_s = within(0, 3600)? as u16,
            "frame_max" => self.url.frame_max = within(FRAME_MIN, 1 << 24)?,
            "connection_timeout" => {
                self.connect_timeout = Some(Duration::from_millis(within(1, 600_000)?.into()));
            }
            _ => return Err("after ? only heartbeat (seconds), frame_max (bytes) and connection_timeout (ms)".into()),
        }
        Ok(())
    }
}

fn embedded(path: &str, spool: &Path, variables: Variables) -> Result<Parsed, String> {
    let path = expand(path, variables)?;
    if path.is_empty() || path.starts_with("//") || path.ends_with('/') || path.contains(['\0', '?']) {
        return Err("after embedded: comes the path of a file".to_string());
    }
    let url = BrokerUrl {
        path: spool.join(path),
        ..BrokerUrl::unset(Scheme::Embedded)
    };
    Ok(Parsed {
        url,
        wants_password: false,
        has_written_password: false,
        connect_timeout: None,
    })
}

fn credentials(login: Option<&str>, variables: Variables) -> Result<(Option<String>, Option<String>), String> {
    let Some(login) = login else { return Ok((None, None)) };
    let (user, password) = login
        .split_once(':')
        .map_or((login, None), |(user, password)| (user, Some(password)));
    let user = decode(user, variables)?;
    if user.is_empty() {
        return Err("no user before the @".to_string());
    }
    let password = password.map(|password| decode(password, variables)).transpose()?;
    Ok((Some(user), password))
}

pub(super) fn host_and_port(address: &str, variables: Variables) -> Result<(String, Option<u16>), String> {
    let address = expand(address, variables)?;
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("after ] comes : and a port")?)),
        None => address
            .split_once(':')
            .map_or((address.as_str(), None), |(host, port)| (host, Some(port))),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = match address.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !host.is_empty() && host.len() <= 253 && host.bytes().all(legal),
    };
    if !is_host {
        return Err("no host name or address where one belongs".to_string());
    }
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0));
    match port {
        Some(None) => Err("the port is a number from 1 to 65535".to_string()),
        Some(port) => Ok((host.to_string(), port)),
        None => Ok((host.to_string(), None)),
    }
}

/// `%XX` decoded in what is written, `${NAME}` replaced by the variable as it is.
pub(super) fn decode(text: &str, variables: Variables) -> Result<String, String> {
    let decoded = replace(text, variables, |plain| {
        let text = percent_decode_str(plain)
            .decode_utf8()
            .map_err(|_| "%XX that is not UTF-8".to_string())?;
        Ok(text.into_owned())
    })?;
    match decoded.chars().any(char::is_control) {
        true => Err("a control character".to_string()),
        false => Ok(decoded),
    }
}

/// `${NAME}` replaced by the variable, everything else as it is.
pub(super) fn expand(text: &str, variables: Variables) -> Result<String, String> {
    replace(text, variables, |plain| Ok(plain.to_string()))
}

fn replace(text: &str, variables: Variables, plain: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let (mut result, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("${ without }")?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("${NAME} is made of letters, digits and _".to_string());
        }
        result.push_str(&plain(before)?);
        result.push_str(&variables(name).ok_or_else(|| format!("the environment has no variable {name}"))?);
        rest = after;
    }
    result.push_str(&plain(rest)?);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "PW" => "p@/:?%41",
            "HOST" => "h2",
            "URL" => "amqps://joe:p%40w@h/v",
            _ => return None,
        };
        Some(value.to_string())
    }

    fn read(text: &str) -> Result<Parsed, String> {
        parse(text, Path::new("/spool"), &variables)
    }

    #[test]
    fn virtual_hosts() {
        for (text, vhost) in [
            ("amqp://h", "/"),
            ("amqp://h/", "/"),
            ("amqp://h/%2f", "/"),
            ("amqp://h/%2F", "/"),
            ("amqp://h//", "/"),
            ("amqp://h/px", "px"),
            ("amqp://h/a%2fb", "a/b"),
            ("amqp://h?heartbeat=5", "/"),
        ] {
            assert_eq!(read(text).unwrap().url.vhost, vhost, "{text}");
        }
    }

    #[test]
    fn users_passwords_and_variables() {
        for (text, user, password, host) in [
            ("amqp://h", "guest", "guest", "h"),
            ("amqp://joe:secret@h", "joe", "secret", "h"),
            ("amqp://joe:p%40%2f%3aw@h", "joe", "p@/:w", "h"),
            ("amqp://joe:a@b@h", "joe", "a@b", "h"),
            ("amqp://joe:@h", "joe", "", "h"),
            ("amqp://joe:${PW}@${HOST}:99/x", "joe", "p@/:?%41", "h2"),
            ("${URL}", "joe", "p@w", "h"),
        ] {
            let url = read(text).unwrap().url;
            assert_eq!(
                (&url.user[..], url.password.expose(), &url.host[..]),
                (user, password, host),
                "{text}"
            );
        }
        assert!(read("amqp://joe@h").unwrap().wants_password);
        assert!(!read("amqp://joe:@h").unwrap().wants_password && !read("amqp://h").unwrap().wants_password);
    }

    #[test]
    fn schemes_ports_and_options() {
        for (text, shown) in [
            ("amqp://h", "amqp://guest@h:5672/"),
            ("AMQPS://h", "amqps://guest@h:5671/"),
            ("stomp://u:p@h", "stomp://u@h:61613/"),
            ("stomp+ssl://h", "stomp+ssl://guest@h:61614/"),
            ("amqp10://h:1/v", "amqp10://guest@h:1/v"),
            ("amqps10://[::1]", "amqps10://guest@[::1]:5671/"),
            ("embedded:px.db", "embedded:/spool/px.db"),
            ("embedded:/x/px.db", "embedded:/x/px.db"),
        ] {
            assert_eq!(read(text).unwrap().url.to_string(), shown, "{text}");
        }
        let plain = read("amqp://h").unwrap().url;
        assert_eq!((plain.heartbeat_s, plain.frame_max), (30, 16384));
        let set = read("amqp://h/?heartbeat=5&frame_max=131072&connection_timeout=1500").unwrap();
        assert_eq!((set.url.heartbeat_s, set.url.frame_max), (5, 131_072));
        assert_eq!(set.connect_timeout, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn bad_urls_are_refused_without_their_password() {
        for text in [
            "",
            "canary",
            "http://joe:canary@h",
            "amqp:/joe:canary@h",
            "amqp://",
            "amqp://joe:canary@",
            "amqp://:canary@h",
            "amqp://joe:canary",
            "amqp://joe:canary@h:0",
            "amqp://joe:canary@h:65536",
            "amqp://joe:canary@h h",
            "amqp://joe:can/canary@h",
            "amqp://joe:can?canary@h",
            "amqp://joe:can#canary@h",
            "amqp://joe:canary@[::1",
            "amqp://joe:canary@[zz]",
            "amqp://joe:canary%ff@h",
            "amqp://joe:canary%00@h",
            "amqp://joe:canary@h/?heartbeat=canary",
            "amqp://joe:canary@h/?canary=1",
            "amqp://joe:canary@h/?frame_max=1",
            "amqp://joe:canary${NONE}@h",
            "amqp://joe:canary${@h",
            "amqp://joe:canary${a b}@h",
            "embedded:",
            "embedded://canary",
            "embedded:dir/",
        ] {
            match read(text) {
                Ok(parsed) => panic!("{text}: {}", parsed.url),
                Err(why) => assert!(!why.is_empty() && !why.contains("canary"), "{text}: {why}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_makes_the_parser_panic(text in r"(amqp://|embedded:|\$\{PW\}|[a:@/?#%&=\[\]{}$ é\x00]){0,20}") {
            if let Ok(parsed) = read(&text) {
                assert!(!format!("{} {:?}", parsed.url, parsed.url).is_empty());
            }
        }
    }
}
