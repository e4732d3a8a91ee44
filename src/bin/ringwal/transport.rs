//! What `ship` and `receive` share: addresses, certificates, and who may be talked to in plain text.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use ringwal::{ShipError, Tls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// Certificates for both sides.
#[derive(Debug, clap::Args)]
pub(crate) struct TlsArgs {
    /// Our certificate, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_ca"])]
    tls_key: Option<PathBuf>,
    /// The authority that the other side's certificate must be of, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,
}

/// A connection, in plain text or not.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl TlsArgs {
    /// The certificates; none for plain text, which is for loopback addresses only.
    pub(crate) fn load(&self, address: &str) -> Result<Option<Tls>, Failure> {
        if let (Some(cert), Some(key), Some(ca)) = (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            return Tls::load(cert, key, ca).map(Some).map_err(|error| Failure::usage(error.to_string()));
        }
        let plain = resolve(address)?.iter().all(|one| one.ip().is_loopback());
        if plain {
            return Ok(None);
        }
        Err(Failure::usage(format!(
            "{address}: plain text is for loopback addresses; give --tls-cert, --tls-key and --tls-ca on both sides"
        )))
    }
}

/// What an address means now.
pub(crate) fn resolve(address: &str) -> Result<Vec<SocketAddr>, Failure> {
    match address.to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Failure::usage(format!("{address}: no such address; give HOST:PORT"))),
        Err(error) => Err(Failure::usage(format!("{address}: {error}; give HOST:PORT"))),
    }
}

/// Connects to `address`, as `resolve` and `load` have understood it.
pub(crate) async fn connect(address: &str, tls: Option<&Tls>) -> Result<Box<dyn Wire>, ShipError> {
    let broken = |error: std::io::Error| ShipError::Connection { what: format!("{address}: {error}") };
    let stream = TcpStream::connect(address).await.map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;
    match tls {
        // What a name means may have changed since it was looked up first.
        None if !stream.peer_addr().map_err(broken)?.ip().is_loopback() => {
            Err(ShipError::Untrusted { what: format!("{address} is no loopback address any more") })
        }
        None => Ok(Box::new(stream)),
        Some(tls) => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok(Box::new(tls.connect(host, stream).await?))
        }
    }
}

/// What an accepted connection is, after the handshake if there is one.
pub(crate) async fn accepted(stream: TcpStream, tls: Option<&Tls>) -> Result<Box<dyn Wire>, ShipError> {
    stream.set_nodelay(true).map_err(|error| ShipError::Connection { what: error.to_string() })?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(tls) => Ok(Box::new(tls.accept(stream).await?)),
    }
}

/// How a command ends on an error of a connection that trying again would not mend.
pub(crate) fn failed(what: impl std::fmt::Display, error: &ShipError) -> Failure {
    let line = format!("{what}: {error}");
    match error {
        ShipError::Log { .. } | ShipError::Untrusted { .. } => Failure::usage(line),
        error if error.is_passing() => Failure::usage(line),
        // The two logs do not go together.
        _ => Failure::check(line),
    }
}

/// A runtime on the calling thread: the disk has threads of its own.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::usage(format!("no runtime can be started: {error}; raise ulimit -n")))
}
