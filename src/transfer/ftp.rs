//! FTP, through suppaftp: products are put into servers, and fetched from them.
//!
//! Names travel as the bytes they are. A directory is entered component by component (`CWD`), and the one that px is
//! in is remembered. In passive mode data connections go to the address of the control connection, whatever the server
//! says; over IPv6 they are asked for with `EPSV` and `EPRT`. With TLS, control and data connections are protected, and
//! those for data resume the session of the control connection, which proftpd asks for by default; where it refuses
//! one of TLS 1.3 (`425`), px connects again with TLS 1.2 and tries once more.
//!
//! A product is put under its temporary name, its size asked for (`SIZE`), its time (`MFMT`) and mode (`SITE CHMOD`)
//! set, and renamed. Where a server does not replace an existing file by renaming, that file is removed (`DELE`) and
//! the renaming tried once more. A server without `SIZE` or `MFMT` is believed; one without `SITE CHMOD` is warned of.
//!
//! The lock `umask` is `SITE UMASK 777` before and `SITE CHMOD` after: it needs both (vsftpd has them; proftpd and
//! pyftpdlib have no `SITE UMASK`). A file of the final name is removed first, for it would keep its mode.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use suppaftp::tokio::{AsyncRustlsFtpStream, AsyncRustlsStream, TransferStream};
use suppaftp::types::Response;
use suppaftp::{Encoding, FtpError, FtpResult, Mode, Status};
use tokio::net::TcpStream;

use super::peer::Peer;
use super::{Kind, TransferError, shorten};
use crate::message::Fault;
use classify::{Doing, classify};
use tls::Versions;

mod classify;
mod get;
mod put;
mod tls;

pub(super) use get::fetch;

/// A kept connection that was not used for so long is asked whether it lives.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// For saying good-bye.
const FAREWELL: Duration = Duration::from_secs(1);
const OPENED: [Status; 2] = [Status::AboutToSend, Status::AlreadyOpen];

type Client = AsyncRustlsFtpStream;
type Data = TransferStream<AsyncRustlsStream>;

/// What FTP leaves to the sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct How {
    /// The server connects back for data.
    pub active: bool,
    /// `AUTH TLS` before the login; a server without it is refused.
    pub tls: bool,
    /// Image type; else ASCII, in which servers may change the ends of lines.
    pub ascii: bool,
}

/// A connection that is logged in.
pub(super) struct Session {
    client: Client,
    peer: Peer,
    how: How,
    /// Where relative directories begin.
    home: String,
    /// Where px is; `None` where that is not certain.
    at: Option<Place>,
    has_size: bool,
    has_mfmt: bool,
    /// The server's own umask, while px has set another.
    umask: Option<String>,
    warned_of_mode: bool,
    used: Instant,
    versions: Versions,
    /// A data connection was refused, perhaps because its session was.
    wants_older_tls: bool,
    /// Whether the next answer belongs to the next command is not certain.
    is_torn: bool,
}

/// A directory as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Place {
    from_root: bool,
    parts: Vec<Vec<u8>>,
}

impl Place {
    fn of(directory: &[u8]) -> Place {
        let parts = directory.split(|byte| *byte == b'/');
        Place {
            from_root: directory.starts_with(b"/"),
            parts: parts
                .filter(|part| !part.is_empty() && *part != b".")
                .map(<[u8]>::to_vec)
                .collect(),
        }
    }

    fn is_below(&self, other: &Place) -> bool {
        self.from_root == other.from_root && self.parts.starts_with(&other.parts)
    }
}

impl Session {
    /// Name look-up, TCP, TLS and login, within `connect_timeout`.
    pub(super) async fn connect(peer: &Peer, how: How) -> Result<Session, TransferError> {
        Session::connect_with(peer, how, Versions::Usual).await
    }

    async fn connect_with(peer: &Peer, how: How, versions: Versions) -> Result<Session, TransferError> {
        match tokio::time::timeout(peer.connect_timeout, open(peer, how, versions)).await {
            Ok(result) => result,
            Err(_) => {
                let what = format!("cannot connect to {}: no answer in time", shown(peer, b"", b""));
                Err(TransferError::new(Fault::Endpoint, Kind::TimedOut, what))
            }
        }
    }

    pub(super) async fn close(mut self) {
        if !self.is_torn {
            // Nothing lost: what was delivered was answered for.
            let _ = within(FAREWELL, self.client.quit()).await;
        }
    }

    /// Makes sure that the server still listens: it may have ended a connection that was idle.
    async fn wake(&mut self) -> Result<(), TransferError> {
        let limit = self.peer.connect_timeout;
        let is_doubtful = self.used.elapsed() > PROBE_AFTER;
        let is_lost = self.is_torn || is_doubtful && within(limit, self.client.noop()).await.is_err();
        if is_lost {
            self.connect_again().await?;
        }
        Ok(())
    }

    async fn connect_again(&mut self) -> Result<(), TransferError> {
        let versions = match self.wants_older_tls {
            true => Versions::Older,
            false => self.versions,
        };
        *self = Session::connect_with(&self.peer.clone(), self.how, versions).await?;
        Ok(())
    }

    /// Goes to a directory, making what is missing where that is allowed.
    async fn enter(&mut self, directory: &[u8], makes: bool, work: &Work<'_>) -> Result<(), TransferError> {
        let wanted = Place::of(directory);
        let start = match self.at.take() {
            Some(at) if wanted.is_below(&at) => at.parts.len(),
            _ => {
                let begin = if wanted.from_root { "/" } else { &self.home };
                let entered = within(self.peer.read_timeout, self.client.cwd(begin)).await;
                entered.map_err(|err| self.fail(work, work.entering, "", err))?;
                0
            }
        };
        for part in &wanted.parts[start..] {
            self.step(part, makes, work).await?;
        }
        self.at = Some(wanted);
        Ok(())
    }

    async fn step(&mut self, part: &[u8], makes: bool, work: &Work<'_>) -> Result<(), TransferError> {
        let (part, limit) = (argument(part), self.peer.read_timeout);
        let entered = answered(within(limit, self.client.cwd(&part)).await);
        let refused = match entered.map_err(|err| self.fail(work, work.entering, &part, err))? {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        if !makes {
            return Err(self.fail(work, work.entering, &part, FtpError::UnexpectedResponse(refused)));
        }
        self.open_umask(work).await?;
        let made = answered(within(limit, self.client.mkdir(&part)).await);
        let made = made.map_err(|err| self.fail(work, Doing::Make, &part, err))?;
        // Somebody else may have made it meanwhile.
        let entered = answered(within(limit, self.client.cwd(&part)).await);
        match (entered.map_err(|err| self.fail(work, work.entering, &part, err))?, made) {
            (Ok(()), _) => Ok(()),
            (Err(_), Err(refused)) => Err(self.fail(work, Doing::Make, &part, FtpError::UnexpectedResponse(refused))),
            (Err(refused), Ok(())) => Err(self.fail(work, work.entering, &part, FtpError::UnexpectedResponse(refused))),
        }
    }

    /// Gives the server's own umask back.
    async fn open_umask(&mut self, work: &Work<'_>) -> Result<(), TransferError> {
        let Some(umask) = self.umask.take() else {
            return Ok(());
        };
        let answer = within(self.peer.read_timeout, self.client.site(format!("UMASK {umask}"))).await;
        answer.map_err(|err| self.fail(work, Doing::Prepare, "", err)).map(drop)
    }

    /// What went wrong, in words; notes when the connection is of no more use.
    fn fail(&mut self, work: &Work<'_>, doing: Doing, name: &str, err: FtpError) -> TransferError {
        self.wants_older_tls |= self.how.tls
            && self.versions == Versions::Usual
            && matches!(&err, FtpError::UnexpectedResponse(reply) if reply.status == Status::CannotOpenDataConnection);
        self.is_torn |= !matches!(&err, FtpError::UnexpectedResponse(reply) if reply.status != Status::NotAvailable);
        failure(&self.peer, work.what, doing, name, err)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", shown(&self.peer, b"", b""))
    }
}

/// What is being done, for errors.
struct Work<'a> {
    /// `cannot put ftp://…`
    what: &'a str,
    /// What a directory is entered for.
    entering: Doing,
}

async fn open(peer: &Peer, how: How, versions: Versions) -> Result<Session, TransferError> {
    let what = format!("cannot connect to {}", shown(peer, b"", b""));
    let fail = |doing: Doing, err: FtpError| failure(peer, &what, doing, "", err);
    let connector = match how.tls {
        true => Some(tls::connector(peer, versions).await?),
        false => None,
    };
    let stream = TcpStream::connect((peer.host.as_str(), peer.port)).await;
    let stream = stream.map_err(|err| fail(Doing::Connect, FtpError::ConnectionError(err)))?;
    let ready = stream.set_nodelay(true).and_then(|()| stream.peer_addr());
    let is_ipv6 = ready
        .map_err(|err| fail(Doing::Connect, FtpError::ConnectionError(err)))?
        .is_ipv6();
    let greeted = Client::connect_with_stream(stream).await;
    let mut client = greeted.map_err(|err| fail(Doing::Connect, err))?;
    client = match (how.active, is_ipv6) {
        (true, _) => client.active_mode(peer.read_timeout),
        (false, true) => set_mode(client, Mode::ExtendedPassive),
        (false, false) => set_mode(client, Mode::Passive),
    };
    client.set_passive_nat_workaround(true);
    client.set_encoding(Bytes).await;
    if let Some(connector) = connector {
        let secured = client.into_secure(connector, &peer.host).await;
        client = secured.map_err(|err| fail(Doing::Secure, err))?;
    }
    let (user, password) = credentials(peer);
    let logged_in = client.login(user, password).await;
    logged_in.map_err(|err| fail(Doing::LogIn, err))?;
    // Without the format that the client would name: some servers know none.
    let kind = if how.ascii { "TYPE A" } else { "TYPE I" };
    let prepared = client.custom_command(kind, &[Status::CommandOk]).await;
    prepared.map_err(|err| fail(Doing::Prepare, err))?;
    let home = client.pwd().await.map_err(|err| fail(Doing::Prepare, err))?;
    let features = match client.feat().await {
        Ok(features) => Some(features),
        // It has none, or says so in a way of its own.
        Err(FtpError::UnexpectedResponse(_) | FtpError::BadResponse) => None,
        Err(err) => return Err(fail(Doing::Prepare, err)),
    };
    let has = |name: &str| {
        let features = features.as_ref();
        features.map(|features| features.keys().any(|key| key.eq_ignore_ascii_case(name)))
    };
    Ok(Session {
        has_size: has("SIZE").unwrap_or(true),
        has_mfmt: has("MFMT").unwrap_or(false),
        client,
        peer: peer.clone(),
        how,
        home: home.replace("\"\"", "\""),
        at: Some(Place::default()),
        umask: None,
        warned_of_mode: false,
        used: Instant::now(),
        versions,
        wants_older_tls: false,
        is_torn: false,
    })
}

fn set_mode(mut client: Client, mode: Mode) -> Client {
    client.set_mode(mode);
    client
}

/// As the client's encoding wants them.
fn credentials(peer: &Peer) -> (String, String) {
    let password = peer.login.password.as_ref().map_or("", |password| password.expose());
    match peer.login.user.as_str() {
        "" if password.is_empty() => ("anonymous".into(), "anonymous@".into()),
        "" => ("anonymous".into(), text(password.as_bytes())),
        user => (text(user.as_bytes()), text(password.as_bytes())),
    }
}

/// Bytes as characters of the same number, so that names of any encoding pass through the client's strings.
#[derive(Debug)]
struct Bytes;

impl Encoding for Bytes {
    fn decode(&self, bytes: &[u8]) -> String {
        text(bytes)
    }

    fn encode(&self, text: &str) -> io::Result<Vec<u8>> {
        text.chars()
            .map(|letter| u8::try_from(letter).map_err(|_| io::ErrorKind::InvalidInput.into()))
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A name as the argument of a command: a server may take a tilde for a home, and strip blanks.
fn argument(name: &[u8]) -> String {
    match name.first() {
        Some(b'~' | b' ') => format!("./{}", text(name)),
        _ => text(name),
    }
}

/// Where a product is, as an operator writes it; without the password.
fn shown(peer: &Peer, directory: &[u8], name: &[u8]) -> String {
    let mut url = peer.ftp_url();
    for part in [directory, name].into_iter().filter(|part| !part.is_empty()) {
        url += "/";
        url += &String::from_utf8_lossy(part);
    }
    let printable: String = url.chars().filter(|letter| !letter.is_control()).collect();
    shorten(&printable).to_string()
}

/// What went wrong, classified, in words that never hold the password.
fn failure(peer: &Peer, what: &str, doing: Doing, name: &str, err: FtpError) -> TransferError {
    let (fault, kind, mut why) = classify(&err, doing, name);
    if let Some(password) = peer
        .login
        .password
        .as_ref()
        .filter(|password| !password.expose().is_empty())
    {
        why = why.replace(password.expose(), "***");
    }
    let failure = TransferError::new(fault, kind, format!("{what}: {why}"));
    match err {
        FtpError::ConnectionError(err) => failure.caused_by(err),
        // Replies are in the text, and might hold what must not be printed.
        _ => failure,
    }
}

/// Silence has an end.
async fn within<T>(limit: Duration, work: impl Future<Output = FtpResult<T>>) -> FtpResult<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(FtpError::ConnectionError(io::ErrorKind::TimedOut.into())),
    }
}

/// A refusal is an answer; all else means that the connection is of no more use.
fn answered<T>(result: FtpResult<T>) -> FtpResult<Result<T, Response>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(FtpError::UnexpectedResponse(reply)) if reply.status != Status::NotAvailable => Ok(Err(reply)),
        Err(err) => Err(err),
    }
}

/// Whether the server does not know the command at all.
fn is_unknown(reply: &Response) -> bool {
    matches!(
        reply.status,
        Status::BadCommand | Status::BadArguments | Status::NotImplemented | Status::NotImplementedParameter
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::transfer::peer::{Login, Trust};

    fn peer(user: &str, host: &str, port: u16) -> Peer {
        Peer {
            host: host.into(),
            port,
            login: Login {
                user: user.into(),
                password: Some(Secret::new("canary")),
                ..Login::default()
            },
            trust: Trust::default(),
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_place_is_shown_as_an_operator_writes_it_and_without_the_password() {
        let table = [
            (peer("u", "h", 21), &b"a/b"[..], &b"n"[..], "ftp://u@h/a/b/n"),
            (
                peer("", "h", 2121),
                b"",
                b"n\r\n\xff",
                "ftp://anonymous@h:2121/n\u{fffd}",
            ),
            (peer("u", "::1", 21), b"/a", b"n", "ftp://u@[::1]//a/n"),
        ];
        for (peer, directory, name, url) in table {
            assert_eq!(shown(&peer, directory, name), url);
        }
    }

    #[test]
    fn a_server_that_repeats_the_password_does_not_make_px_print_it() {
        let reply = Response::new(Status::NotLoggedIn, b"530 no such password: canary\r\n".to_vec());
        let err = failure(
            &peer("u", "h", 21),
            "cannot connect",
            Doing::LogIn,
            "",
            FtpError::UnexpectedResponse(reply),
        );
        assert_eq!((err.fault, err.kind), (Fault::Endpoint, Kind::Forbidden));
        assert!(!format!("{err} {err:?}").contains("canary"), "{err:?}");
    }

    #[test]
    fn names_of_any_encoding_pass_through() {
        let name: Vec<u8> = (1..=255).collect();
        assert_eq!(Bytes.encode(&text(&name)).unwrap(), name);
        assert!(Bytes.encode("€").is_err());
        assert_eq!(argument(b"~root"), "./~root");
    }

    #[test]
    fn only_what_lies_deeper_is_entered_from_here() {
        let table: [(&[u8], &[u8], bool); 6] = [
            (b"a/b", b"a", true),
            (b"a//./b/", b"a/b", true),
            (b"ab", b"a", false),
            (b"/a/b", b"a", false),
            (b"a", b"", true),
            (b"", b"a", false),
        ];
        for (wanted, at, is_below) in table {
            assert_eq!(
                Place::of(wanted).is_below(&Place::of(at)),
                is_below,
                "{wanted:?} {at:?}"
            );
        }
    }
}
