//! From a URL to an open connection, or to a reason why not.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use lapin::runtime::default_runtime;
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};

use super::classify::{classify, classify_io, fault, reason, reply_code};
use super::filtered::{self, Filtered};
use crate::broker::BrokerError;
use crate::config::{Broker, BrokerUrl, Scheme};
use crate::message::Fault;

/// An open connection and a second handle on its socket.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) socket: TcpStream,
}

/// Shuts the socket down unless told to keep it: the library's I/O thread would wait for a silent broker for ever.
struct HangUp(Option<TcpStream>);

impl HangUp {
    fn keep(mut self) -> Option<TcpStream> {
        self.0.take()
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // Nothing lost: it fails only when the peer has already gone.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Tries one candidate: address, TCP, TLS, AMQP, all within the connect time-out. The error's text is the reason
/// alone; the caller names the candidate.
pub(super) async fn dial(url: &BrokerUrl, broker: &Broker, name: &str) -> Result<Dialled, BrokerError> {
    let deadline = Instant::now() + broker.connect_timeout;
    let silence = |_| no_answer(broker.connect_timeout);
    // lapin could do all of this itself, but a refused attempt would leave a task of its behind, each time.
    let runtime = default_runtime().map_err(|error| plain(&error))?;
    let mut refusal = fault(Fault::Endpoint, "the name has no address");
    let mut plain_stream = None;
    let addresses = timeout_at(deadline, lookup_host((bare_host(url), url.port)))
        .await
        .map_err(silence)?
        .map_err(|error| fault(classify_io(&error), error.to_string()))?;
    for address in addresses {
        match timeout_at(deadline, AsyncTcpStream::connect(&runtime, address))
            .await
            .map_err(silence)?
        {
            Ok(stream) => {
                plain_stream = Some(stream);
                break;
            }
            Err(error) => refusal = fault(classify_io(&error), error.to_string()),
        }
    }
    let Some(stream) = plain_stream else {
        return Err(refusal);
    };
    let AsyncTcpStream::Plain(inner) = &stream else {
        unreachable!("TLS comes after this");
    };
    let socket = inner
        .get_ref()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| fault(classify_io(&error), format!("cannot duplicate the socket: {error}")))?;
    let hang_up = HangUp(Some(TcpStream::from(socket)));

    let stream = match url.scheme {
        Scheme::Amqps => {
            let tls = tls_config(broker)?;
            timeout_at(deadline, stream.into_tls(bare_host(url), tls.as_ref()))
                .await
                .map_err(silence)?
                .map_err(|error| tls_refusal(&error, broker))?
        }
        _ => stream,
    };
    let stream = AsyncTcpStream::Plain(Filtered::new(stream, url.frame_max));
    let once = Mutex::new(Some(stream));
    let hand_over = async move |_, _| {
        let stream = once.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
    };
    let connecting = Connection::connector(uri(url), filtered::runtime(runtime), hand_over, properties(name));
    let connection = timeout_at(deadline, connecting)
        .await
        .map_err(silence)?
        .map_err(|error| handshake_refusal(&error, url))?;
    match hang_up.keep() {
        Some(socket) => Ok(Dialled { connection, socket }),
        None => unreachable!("kept once"),
    }
}

fn no_answer(timeout: Duration) -> BrokerError {
    fault(Fault::Endpoint, format!("no answer within {timeout:?}"))
}

fn plain(error: &lapin::Error) -> BrokerError {
    fault(classify(error), reason(error))
}

/// A literal IPv6 address is written in brackets in a URL, and without them everywhere else.
fn bare_host(url: &BrokerUrl) -> &str {
    url.host.trim_start_matches('[').trim_end_matches(']')
}

/// Holds the password: never printed.
fn uri(url: &BrokerUrl) -> AMQPUri {
    AMQPUri {
        scheme: match url.scheme {
            Scheme::Amqps => AMQPScheme::AMQPS,
            _ => AMQPScheme::AMQP,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: url.user.clone(),
                password: url.password.expose().to_owned(),
            },
            host: bare_host(url).to_owned(),
            port: url.port,
        },
        vhost: url.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(url.frame_max),
            heartbeat: Some(url.heartbeat_s),
            ..AMQPQueryString::default()
        },
    }
}

fn properties(name: &str) -> ConnectionProperties {
    ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "px".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
}

fn tls_config(broker: &Broker) -> Result<OwnedTLSConfig, BrokerError> {
    let Some(path) = &broker.ca_file else {
        return Ok(OwnedTLSConfig::default());
    };
    let cert_chain = std::fs::read_to_string(path)
        .map_err(|error| fault(Fault::Own, format!("cannot read ca_file {}: {error}", path.display())))?;
    if !cert_chain.contains("-----BEGIN CERTIFICATE-----") {
        let what = format!("ca_file {} holds no PEM certificate", path.display());
        return Err(fault(Fault::Own, what));
    }
    Ok(OwnedTLSConfig {
        identity: None,
        cert_chain: Some(cert_chain),
    })
}

/// A connection that breaks is the other side's; a certificate that does not please is for the operator.
fn tls_refusal(error: &io::Error, broker: &Broker) -> BrokerError {
    use io::ErrorKind::*;
    if matches!(
        error.kind(),
        ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof | TimedOut
    ) {
        return fault(Fault::Endpoint, format!("broken off during the TLS handshake: {error}"));
    }
    let advice = match broker.ca_file {
        Some(_) => "does ca_file name the CA of this broker?",
        None => "install ca-certificates, or name the broker's CA with ca_file",
    };
    fault(Fault::Own, format!("TLS: {error}; {advice}"))
}

fn handshake_refusal(error: &lapin::Error, url: &BrokerUrl) -> BrokerError {
    let advice = match reply_code(error) {
        Some(403) if url.lacks_password() => format!("; there is no password for user {}", url.user),
        Some(403) => format!("; check the password of user {}", url.user),
        Some(530) => format!("; does vhost {} exist, and may user {} enter it?", url.vhost, url.user),
        _ => String::new(),
    };
    let why = match error.kind() {
        lapin::ErrorKind::ParsingError(_) => format!(
            "what answers there does not speak AMQP; is {} the port of the broker, with the right one of amqp:// and \
             amqps://?",
            url.port
        ),
        _ => reason(error),
    };
    fault(classify(error), format!("{why}{advice}"))
}
