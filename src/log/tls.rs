//! TLS with certificates on both sides: who cannot show one of our authority's is nobody.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::ship::ShipError;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A certificate, its key, and the authority that the other side's must be of.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why certificates cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    path: PathBuf,
    what: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for TlsError {}

impl Tls {
    /// Reads a certificate (with what leads to the authority, if anything), its key, and the authority's certificates, in
    /// PEM. Blocks on I/O.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(cert: &Path, key: &Path, ca: &Path) -> Result<Self, TlsError> {
        let failed = |path: &Path, what: &dyn fmt::Display| TlsError { path: path.into(), what: what.to_string() };
        let chain = certificates(cert)?;
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|error| failed(ca, &error))?;
        }
        let roots = Arc::new(roots);
        let text = fs::read(key).map_err(|error| failed(key, &error))?;
        let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|error| failed(key, &error))?;
        let provider = Arc::new(ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(cert, &error))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), secret.clone_key())
            .map_err(|error| failed(cert, &error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let verifier = verifier.build().map_err(|error| failed(ca, &error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(cert, &error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, secret)
            .map_err(|error| failed(cert, &error))?;
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }

    /// The side that connected: the other must be `host`, a name or an address.
    ///
    /// # Errors
    /// [`ShipError::Untrusted`], or the connection broke.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<client::TlsStream<TcpStream>, ShipError> {
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(host.to_owned())
                .map_err(|error| ShipError::Untrusted { what: format!("{host}: {error}") })?,
        };
        shaken(tokio::time::timeout(HANDSHAKE, self.connector.connect(name, stream)).await)
    }

    /// The side that was connected to: the other must have a certificate of the authority.
    ///
    /// # Errors
    /// As [`Tls::connect`].
    pub async fn accept(&self, stream: TcpStream) -> Result<server::TlsStream<TcpStream>, ShipError> {
        shaken(tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |what: String| TlsError { path: path.into(), what };
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("there is no certificate in it".to_owned())) } else { Ok(found) }
}

fn shaken<T>(hands: Result<std::io::Result<T>, tokio::time::error::Elapsed>) -> Result<T, ShipError> {
    match hands {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(super::session::broken(&error)),
        Err(_) => Err(ShipError::Silent { after: HANDSHAKE }),
    }
}
