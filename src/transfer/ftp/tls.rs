//! TLS of one connection: by whom the server is trusted, and who px is.

use std::path::Path;
use std::sync::Arc;

use suppaftp::tokio::AsyncRustlsConnector;
use suppaftp::tokio_rustls::TlsConnector;
use suppaftp::tokio_rustls::rustls::pki_types::pem::PemObject;
use suppaftp::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use suppaftp::tokio_rustls::rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore, crypto, version};

use super::super::peer::Peer;
use super::super::{Kind, TransferError, off_thread};
use crate::message::Fault;

/// Which versions of TLS are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    /// 1.2 and 1.3.
    Usual,
    /// 1.2 alone, in which a session can be resumed as often as one likes. In 1.3 each ticket is good for once, and
    /// proftpd takes none but the two that it gave on the control connection.
    Older,
}

/// One for each control connection: its memory of sessions is what data connections resume from.
pub(super) async fn connector(peer: &Peer, versions: Versions) -> Result<AsyncRustlsConnector, TransferError> {
    let (ca_file, own_file) = (peer.trust.ca_file.clone(), peer.login.certificate_file.clone());
    off_thread(move || {
        let doing = "cannot prepare ftp with TLS";
        let roots = match &ca_file {
            Some(file) => roots_of(file)?,
            None => roots_of_system()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()));
        let builder = match versions {
            Versions::Usual => builder.with_protocol_versions(DEFAULT_VERSIONS),
            Versions::Older => builder.with_protocol_versions(&[&version::TLS12]),
        };
        let builder = builder
            .map_err(|err| local(doing).caused_by(err))?
            .with_root_certificates(roots);
        let config = match &own_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let (chain, key) = own_certificate(file)?;
                let doing = format!("cannot use the certificate in {}", file.display());
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|err| of_px(local(&doing).caused_by(err)))?
            }
        };
        Ok(TlsConnector::from(Arc::new(config)).into())
    })
    .await
}

fn roots_of(file: &Path) -> Result<RootCertStore, TransferError> {
    let doing = format!("cannot use the CA certificates in {}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, &doing)? {
        roots.add(certificate).map_err(|err| local(&doing).caused_by(err))?;
    }
    Ok(roots)
}

fn certificates(file: &Path, doing: &str) -> Result<Vec<CertificateDer<'static>>, TransferError> {
    let pem = std::fs::read(file).map_err(|err| local(doing).caused_by(err))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|err| local(doing).caused_by(err))?;
    match found.is_empty() {
        true => Err(local(&format!("{doing}: there are none"))),
        false => Ok(found),
    }
}

fn roots_of_system() -> Result<RootCertStore, TransferError> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read or parsed does not spoil the others.
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match added {
        0 => Err(local(
            "cannot prepare ftp with TLS: install ca-certificates or set ca_file",
        )),
        _ => Ok(roots),
    }
}

fn own_certificate(file: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TransferError> {
    let doing = format!("cannot use the certificate in {}", file.display());
    let chain = certificates(file, &doing).map_err(of_px)?;
    // The error of a bad key says where, and nothing of the key.
    let key = PrivateKeyDer::from_pem_file(file).map_err(|err| of_px(local(&doing).caused_by(err)))?;
    Ok((chain, key))
}

fn local(what: &str) -> TransferError {
    TransferError::new(Fault::Own, Kind::Local, what)
}

/// It is about px's own certificate.
fn of_px(err: TransferError) -> TransferError {
    TransferError {
        kind: Kind::Credentials,
        ..err
    }
}
