//! The broker of a flow: Sundew names it line by line in every flow.

use super::lines::Line;
use super::reading::{Reading, text};
use crate::config::{Broker, BrokerUrl, Scheme, Secret, url};

const HOST: &str = "accepted: HOST or HOST:PORT";
const DESTINATION: &str = "accepted: amqp://USER:PASSWORD@HOST/PATH, without a port";

/// What the lines have said so far; the last one counts, each for itself.
#[derive(Default)]
struct Login<'a> {
    host: Option<(String, &'a Line)>,
    port: Option<(u16, &'a Line)>,
    user: Option<(String, &'a Line)>,
    password: Option<Secret>,
}

/// Puts `broker` into the table. What is missing or wrong is refused and has a stand-in, so that the component does not
/// say it again.
pub(super) fn read(reading: &mut Reading) -> Broker {
    let mut login = Login::default();
    for line in reading.all(&["host", "port", "user", "password", "destination"]) {
        match line.keyword() {
            "host" => login.host = Some((line.value().to_string(), line)),
            "port" => login.port = port(reading, line).or(login.port),
            "user" => login.user = Some((line.value().to_string(), line)),
            "password" => login.password = Some(Secret::new(line.value())),
            _ => login.go(reading, line),
        }
    }
    let broker = login.broker(reading);
    let line = login.host.map(|(_, line)| line);
    reading.put("broker", line, text(&broker.name));
    broker
}

impl<'a> Login<'a> {
    /// `destination amqp://feeder:secret@host//data`: user, password and host, and the port is the usual one.
    fn go(&mut self, reading: &Reading, line: &'a Line) {
        let Some((user, password, host)) = destination(line.value()) else {
            reading.refuse(line, DESTINATION);
            return;
        };
        let text = match [user, password, host].iter().any(|part| part.contains("amqp")) {
            true => {
                "Sundew reads \"ftp\" for every \"amqp\" in it; px uses user, password and host as they are written"
            }
            false => "user, password and host are taken from it; its path means nothing to AMQP",
        };
        reading.warn(line, text);
        self.host = Some((host.to_string(), line));
        self.user = Some((user.to_string(), line));
        self.password = Some(Secret::new(password));
        self.port = None;
    }

    fn broker(&self, reading: &Reading) -> Broker {
        let (host, own_port) = self.host(reading);
        let user = match &self.user {
            Some((user, line)) if user.chars().any(char::is_control) => {
                reading.refuse(line, "a control character; accepted: the broker's user");
                ""
            }
            Some((user, _)) => user,
            None => {
                reading.missing("user", "the broker's user");
                ""
            }
        };
        if self.password.is_none() {
            reading.missing("password", "the password of the broker's user");
        }
        if let (Some(own), Some((port, line))) = (own_port, self.port)
            && own != port
        {
            reading.refuse(line, &format!("host says port {own}; say it once"));
        }
        let port = own_port.or(self.port.map(|(port, _)| port));
        let plain = BrokerUrl::unset(Scheme::Amqp);
        let url = BrokerUrl {
            user: user.to_string(),
            password: self.password.clone().unwrap_or_default(),
            host,
            port: port.unwrap_or(Scheme::Amqp.default_port()),
            ..plain
        };
        Broker::new(&name(&url), url)
    }

    fn host(&self, reading: &Reading) -> (String, Option<u16>) {
        let Some((host, line)) = &self.host else {
            return ("localhost".to_string(), None);
        };
        match url::host_and_port(host, &|_| None) {
            Ok(parts) => parts,
            Err(why) => {
                reading.refuse(line, &format!("{why}; {HOST}"));
                ("localhost".to_string(), None)
            }
        }
    }
}

fn port<'a>(reading: &Reading, line: &'a Line) -> Option<(u16, &'a Line)> {
    use super::keywords::{Kind, number};
    // What is no number at all has been refused.
    let number = number(line.value())?;
    let Some(port) = u16::try_from(number).ok().filter(|port| *port > 0) else {
        reading.refuse(line, "accepted: a whole number from 1 to 65535");
        return None;
    };
    reading.warn(
        line,
        match reading.kind {
            Kind::Sender => "Sundew's amqp senders cannot connect with it; px does. Both understand host HOST:PORT",
            _ => "Sundew's amqp receivers pass over it and connect to 5672; px uses it. Both understand host HOST:PORT",
        },
    );
    Some((port, line))
}

/// User, password and host of a URL in Sundew's narrow reading: one colon, one `@`.
fn destination(url: &str) -> Option<(&str, &str, &str)> {
    let rest = url.strip_prefix("amqp://").or_else(|| url.strip_prefix("ftp://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, rest) = authority.split_once(':')?;
    let (password, host) = rest.split_once('@')?;
    let is_one = |text: &str| !text.is_empty() && !text.contains([':', '@']);
    [user, password, host]
        .into_iter()
        .all(is_one)
        .then_some((user, password, host))
}

/// `HOST-USER`, or `HOST-PORT-USER` for an unusual port: the same broker has the same name in every flow.
fn name(url: &BrokerUrl) -> String {
    let host = match url.port == Scheme::Amqp.default_port() {
        true => url.host.clone(),
        false => format!("{}-{}", url.host, url.port),
    };
    let name = format!("{host}-{}", url.user);
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    name.chars().map(legal).take(NAME_MAX).collect()
}

/// Shorter than a broker's name may be, so that there is room for a number.
const NAME_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_narrowly_as_sundew_does() {
        assert_eq!(
            destination("amqp://guest:guestpw@test.cmc.ec.gc.ca//data"),
            Some(("guest", "guestpw", "test.cmc.ec.gc.ca"))
        );
        assert_eq!(destination("ftp://u:p@h"), Some(("u", "p", "h")));
        for text in [
            "amqp://h//data",
            "amqp://u@h//data",
            "amqp://u:p@h:5672//data",
            "amqp://u:p@h@i/",
            "amqp://:p@h",
            "amqp://u:p@",
            "amqp://u:@h",
            "amqps://u:p@h/",
            "sftp://u:p@h/",
            "wmo://192.108.62.1:24901",
            "file://localhost//apps",
            "u:p@h",
        ] {
            assert_eq!(destination(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_legal_and_bounded() {
        let named = |host: &str, port, user: &str| {
            name(&BrokerUrl {
                host: host.to_string(),
                port,
                user: user.to_string(),
                ..BrokerUrl::unset(Scheme::Amqp)
            })
        };
        assert_eq!(
            named("wxo-b1.cmc.ec.gc.ca", 5672, "feeder"),
            "wxo-b1-cmc-ec-gc-ca-feeder"
        );
        assert_eq!(named("::1", 5673, "a b"), "--1-5673-a-b");
        assert_eq!(named(&"é".repeat(100), 5672, "x"), "-".repeat(60));
    }
}
