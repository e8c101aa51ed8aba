//! The server of a sender: Sundew names it line by line, or by a URL that sets all of it at once.

use crate::config::sundew::lines::Line;
use crate::config::sundew::reading::{Reading, text};
use crate::config::{Secret, url};

const HOST: &str = "accepted: HOST or HOST:PORT";
const DESTINATION: &str = "accepted: ftp://USER:PASSWORD@HOST/PATH without a port, sftp://USER:PASSWORD@HOST/PATH, \
                           file://localhost/PATH";

const USER: &str = "accepted: the user on the server, without : / ? # % \\ and control characters";
/// What would be no part of a user's name in a URL.
const NO_USER: [char; 6] = [':', '/', '?', '#', '%', '\\'];
/// Stands for what has been refused.
const MISSING: &str = "missing";

/// How files go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Directories of this host.
    File,
    Ftp,
    Sftp,
}

impl Protocol {
    fn of(word: &str) -> Option<Protocol> {
        match word {
            "file" => Some(Protocol::File),
            "ftp" => Some(Protocol::Ftp),
            "sftp" => Some(Protocol::Sftp),
            _ => None,
        }
    }
}

/// What the lines have said so far; the last one counts, each for itself.
#[derive(Default)]
struct Said<'a> {
    protocol: Option<(Protocol, &'a Line)>,
    host: Option<(String, &'a Line)>,
    port: Option<(u16, &'a Line)>,
    user: Option<(String, &'a Line)>,
    password: Option<(Secret, &'a Line)>,
}

/// A server that can be written down.
pub(super) struct Server<'a> {
    pub protocol: Protocol,
    /// `destination`, and its line.
    url: (String, Option<&'a Line>),
    password: Option<(Secret, &'a Line)>,
}

impl<'a> Server<'a> {
    /// What the lines come to. What is missing or wrong is refused and has a stand-in, so that the component does not
    /// say it again.
    pub(super) fn read(reading: &mut Reading<'a>) -> Server<'a> {
        let mut said = Said::default();
        let keywords = ["protocol", "host", "port", "user", "password", "destination"];
        for line in reading.all(&keywords) {
            match line.keyword() {
                "protocol" => match Protocol::of(line.value()) {
                    Some(protocol) => said.protocol = Some((protocol, line)),
                    None => reading.refuse(line, "accepted: ftp, sftp, file"),
                },
                "host" => said.host = Some((line.value().to_string(), line)),
                "port" => said.port = port(reading, line).or(said.port),
                "user" => said.user = Some((line.value().to_string(), line)),
                "password" => said.password = Some((Secret::new(line.value()), line)),
                _ => said.go(reading, line),
            }
        }
        if reading.all(&["protocol", "destination"]).next().is_none() {
            reading.missing("protocol", "ftp, sftp, file");
        }
        let (protocol, line) = said.protocol.unzip();
        let url = match protocol {
            Some(Protocol::File) => "file:".to_string(),
            Some(protocol) => said.url(reading, protocol),
            None => format!("ftp://{MISSING}@{MISSING}"),
        };
        let protocol = protocol.unwrap_or(Protocol::Ftp);
        Server {
            protocol,
            url: (url, line),
            password: said.password.filter(|_| protocol != Protocol::File),
        }
    }

    /// Into the table.
    pub(super) fn put(self, reading: &mut Reading) {
        let (url, line) = self.url;
        reading.put("destination", line, text(&url));
        if let Some((password, line)) = self.password {
            reading.put("password", Some(line), text(password.expose()));
        }
    }
}

impl<'a> Said<'a> {
    /// `destination ftp://feeder:secret@host//data`: protocol, user, password and host, and the port is the usual one.
    fn go(&mut self, reading: &Reading, line: &'a Line) {
        let Some((protocol, login, host)) = destination(line.value()) else {
            reading.refuse(line, DESTINATION);
            return;
        };
        if protocol == Protocol::Sftp && login.is_some() {
            reading.warn(line, "Sundew takes neither user nor host from an sftp URL; px does");
        }
        let (user, password) = login.unzip();
        self.protocol = Some((protocol, line));
        self.user = user.map(|user| (user.to_string(), line));
        self.password = password.map(|password| (Secret::new(password), line));
        self.host = (!host.is_empty()).then(|| (host.to_string(), line));
        self.port = None;
    }

    fn url(&self, reading: &Reading, protocol: Protocol) -> String {
        let (host, own_port) = self.host(reading);
        let user = match &self.user {
            Some((user, line)) if user.is_empty() || user.chars().any(|c| c.is_control() || NO_USER.contains(&c)) => {
                reading.refuse(line, USER);
                MISSING
            }
            Some((user, _)) => user,
            None => {
                reading.missing("user", "the user on the server");
                MISSING
            }
        };
        if protocol == Protocol::Sftp && self.password.is_none() && reading.last("ssh_keyfile").is_none() {
            reading.missing("ssh_keyfile", "the absolute path of a private key, or else a password");
        }
        if let (Some(own), Some((port, line))) = (own_port, self.port)
            && own != port
        {
            reading.refuse(line, &format!("host says port {own}; say it once"));
        }
        let (scheme, usual) = match protocol {
            Protocol::Sftp => ("sftp", 22),
            Protocol::Ftp | Protocol::File => ("ftp", 21),
        };
        let port = own_port
            .or(self.port.map(|(port, _)| port))
            .filter(|port| *port != usual);
        if let (Protocol::Ftp, Some((_, line))) = (protocol, self.port) {
            reading.warn(line, "Sundew's FTP goes to 21 whatever it says; px uses it");
        }
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("{scheme}://{user}@{host}{port}")
    }

    fn host(&self, reading: &Reading) -> (String, Option<u16>) {
        let Some((host, line)) = &self.host else {
            return ("localhost".to_string(), None);
        };
        url::host_and_port(host, &|_| None).unwrap_or_else(|why| {
            reading.refuse(line, &format!("{why}; {HOST}"));
            (MISSING.to_string(), None)
        })
    }
}

fn port<'a>(reading: &Reading, line: &'a Line) -> Option<(u16, &'a Line)> {
    // What is no number at all has been refused.
    let number = crate::config::sundew::keywords::number(line.value())?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        reading.refuse(line, "accepted: a whole number from 1 to 65535");
    }
    port.map(|port| (port, line))
}

/// Protocol, user with password, host.
type Parts<'a> = (Protocol, Option<(&'a str, &'a str)>, &'a str);

/// The parts of a URL in Sundew's narrow reading: one colon, one `@`. One of `sftp` may
/// have no login, for Sundew's own lines had to say it.
fn destination(url: &str) -> Option<Parts<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let protocol = Protocol::of(scheme)?;
    if rest.contains(['?', '#', ';']) {
        return None;
    }
    let authority = rest.split('/').next()?;
    let login = authority.split_once(':').and_then(|(user, rest)| {
        let (password, host) = rest.split_once('@')?;
        let is_one = |text: &str| !text.is_empty() && !text.contains([':', '@']);
        [user, password, host]
            .into_iter()
            .all(is_one)
            .then_some(((user, password), host))
    });
    match (protocol, login) {
        (Protocol::File, _) => Some((protocol, None, "")),
        (_, Some((login, host))) => Some((protocol, Some(login), host)),
        (Protocol::Sftp, None) if !authority.contains(['@', ':']) => Some((protocol, None, authority)),
        (Protocol::Ftp | Protocol::Sftp, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_narrowly_as_sundew_does() {
        use Protocol::{File, Ftp, Sftp};
        for (text, expected) in [
            ("ftp://u:p@h", Some((Ftp, Some(("u", "p")), "h"))),
            ("ftp://u:p@h//data", Some((Ftp, Some(("u", "p")), "h"))),
            ("sftp://u:p@h/data", Some((Sftp, Some(("u", "p")), "h"))),
            ("sftp://h/data", Some((Sftp, None, "h"))),
            ("file://localhost//apps/px/operator", Some((File, None, ""))),
            ("file:///apps", Some((File, None, ""))),
            ("ftp://h/data", None),
            ("ftp://u@h/data", None),
            ("ftp://u:p@h:21/data", None),
            ("ftp://u:p@h@i/", None),
            ("ftp://:p@h", None),
            ("ftp://u:@h", None),
            ("ftp://u:p@", None),
            ("ftp://u:p@h/a?b", None),
            ("sftp://u@h/", None),
            ("amqp://u:p@h/", None),
            ("am://h:1", None),
            ("u:p@h", None),
        ] {
            assert_eq!(destination(text), expected, "{text}");
        }
    }
}
