//! From a name to an SSH connection whose server is known. Who px is there comes after (`login`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::client::{self, Handle, Handler};
use russh::keys::PublicKeyOrCertificate;
use russh::{Preferred, SshId, cipher, kex, mac};
use tokio::net::TcpStream;

use super::fault::{classify_io, classify_ssh};
use super::known_hosts::KnownHosts;
use crate::message::Fault;
use crate::transfer::peer::Peer;
use crate::transfer::{Kind, TransferError, off_thread};

/// A silent server is asked whether it is still there; firewalls forget connections that say nothing.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVES_MAX: usize = 4;
/// Bytes that the server may send before they are read.
const WINDOW: u32 = 4 << 20;

/// The strongest first; what only old servers have comes last.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_GEX_SHA256,
    kex::DH_G18_SHA512,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::DH_G14_SHA1,
    kex::DH_GEX_SHA1,
    kex::DH_G1_SHA1,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
    cipher::AES_256_CBC,
    cipher::AES_192_CBC,
    cipher::AES_128_CBC,
];
const MACS: &[mac::Name] = &[
    mac::HMAC_SHA256_ETM,
    mac::HMAC_SHA512_ETM,
    mac::HMAC_SHA256,
    mac::HMAC_SHA512,
    mac::HMAC_SHA1_ETM,
    mac::HMAC_SHA1,
];

/// Checks the server's key.
pub(super) struct Doorkeeper {
    known: KnownHosts,
    place: String,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not the right server.
    Stranger(TransferError),
    Ssh(russh::Error),
}

impl From<russh::Error> for Refusal {
    fn from(err: russh::Error) -> Refusal {
        Refusal::Ssh(err)
    }
}

impl Handler for Doorkeeper {
    type Error = Refusal;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.known.check(shown, now.as_secs()) {
            Ok(()) => Ok(true),
            Err(why) => {
                let what = format!("cannot connect to {}: {why}", self.place);
                let err = TransferError::new(Fault::Endpoint, Kind::Unreachable, what);
                Err(Refusal::Stranger(err))
            }
        }
    }
}

/// Connects; the server is the right one when this returns.
pub(super) async fn connect(peer: &Peer, place: &str) -> Result<Handle<Doorkeeper>, TransferError> {
    let (trust, host, port) = (peer.trust.clone(), peer.host.clone(), peer.port);
    let known = off_thread(move || KnownHosts::read(&trust, &host, port)).await?;
    let config = Arc::new(config(&known));
    let stream = dial(peer, place).await?;
    let doorkeeper = Doorkeeper {
        known,
        place: place.to_owned(),
    };
    match client::connect_stream(config, stream, doorkeeper).await {
        Ok(handle) => Ok(handle),
        Err(Refusal::Stranger(err)) => Err(err),
        Err(Refusal::Ssh(err)) => Err(ssh(err, place)),
    }
}

/// An error of the SSH library, while connecting.
pub(super) fn ssh(err: russh::Error, place: &str) -> TransferError {
    let (fault, kind, why) = classify_ssh(&err);
    TransferError::new(fault, kind, format!("cannot connect to {place}: {why}")).caused_by(err)
}

fn config(known: &KnownHosts) -> client::Config {
    let (key, host_key_certificates) = known.order(&Preferred::DEFAULT.key);
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-px_", env!("CARGO_PKG_VERSION")))),
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(key),
            host_key_certificates: Cow::Owned(host_key_certificates),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Preferred::DEFAULT.compression,
        },
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_MAX,
        window_size: WINDOW,
        ..client::Config::default()
    }
}

/// Every address of the host in turn.
async fn dial(peer: &Peer, place: &str) -> Result<TcpStream, TransferError> {
    let refused = |(fault, kind, why): (Fault, Kind, &str), err| {
        TransferError::new(fault, kind, format!("cannot connect to {place}: {why}")).caused_by(err)
    };
    let unknown = (Fault::Endpoint, Kind::Unreachable, "the host name is not known");
    let addresses = tokio::net::lookup_host((peer.host.as_str(), peer.port)).await;
    let addresses = addresses.map_err(|err| match classify_io(&err) {
        ours @ (Fault::Own, ..) => refused(ours, err),
        _ => refused(unknown, err),
    })?;
    let mut last = TransferError::new(
        unknown.0,
        unknown.1,
        format!("cannot connect to {place}: {}", unknown.2),
    );
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream
                    .set_nodelay(true)
                    .map_err(|err| refused(classify_io(&err), err))?;
                return Ok(stream);
            }
            Err(err) => last = refused(classify_io(&err), err),
        }
    }
    Err(last)
}
