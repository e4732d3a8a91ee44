//! Certificates on both sides: who has none of the authority's is nobody.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ringwal::{Lsn, ShipError, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::link::{append, pair, primary, soon, standby, until};
use crate::common::rig::Scratch;

/// An authority, and files of it and of what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    name: &'static str,
}

impl Authority {
    pub(crate) fn new(dir: PathBuf, name: &'static str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, dir, name };
        std::fs::write(authority.file("ca"), authority.issuer.pem()).unwrap();
        authority
    }

    pub(crate) fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}-{what}.pem", self.name))
    }

    /// A certificate for the loopback address, and its key.
    pub(crate) fn sign(&self) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file("cert"), certificate.pem()).unwrap();
        std::fs::write(self.file("key"), key.serialize_pem()).unwrap();
        (self.file("cert"), self.file("key"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_certificates_let_a_standby_follow() {
    let scratch = Scratch::new("tls");
    let authority = Authority::new(scratch.path().into(), "ours");
    let (cert, key) = authority.sign();
    let tls = Tls::load(&cert, &key, &authority.file("ca")).unwrap();
    let primary = primary(&scratch.join("a"), 1).await;
    let mut standby = standby(&scratch.join("b")).await;
    let (near, far) = pair().await;
    let (serving, acceptor, progress) = (primary.clone(), tls.clone(), standby.progress());
    let served = tokio::spawn(async move { serving.serve(acceptor.accept(far).await?).await });
    let followed = tokio::spawn(async move { standby.follow(tls.connect("127.0.0.1", near).await?).await });
    append(&primary, 1..=300).await;
    until("it is there", || progress.durable_lsn() == Lsn::new(300)).await;
    primary.log().close().await.unwrap();
    assert_eq!((soon(served).await.unwrap(), soon(followed).await.unwrap()), (Ok(()), Ok(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_certificate_a_wrong_one_a_wrong_name_and_plain_text_are_refused() {
    let scratch = Scratch::new("tls-bad");
    let (ours, others) =
        (Authority::new(scratch.path().into(), "ours"), Authority::new(scratch.path().into(), "others"));
    let ((cert, key), (wrong_cert, wrong_key)) = (ours.sign(), others.sign());
    let tls = Tls::load(&cert, &key, &ours.file("ca")).unwrap();
    let untrusted = |error: &ShipError| matches!(error, ShipError::Untrusted { .. }) && !error.is_passing();
    // Signed by somebody else: the side that accepts says no, the side that connected hears it.
    let stranger = Tls::load(&wrong_cert, &wrong_key, &ours.file("ca")).unwrap();
    let (near, far) = pair().await;
    let (accepted, connected) = tokio::join!(tls.accept(far), stranger.connect("127.0.0.1", near));
    assert!(untrusted(&accepted.err().unwrap()));
    if let Ok(mut stream) = connected {
        assert!(soon(stream.read(&mut [0; 1])).await.is_err());
    }
    // The side that accepts is signed by somebody else.
    let (near, far) = pair().await;
    let trusting = Tls::load(&wrong_cert, &wrong_key, &ours.file("ca")).unwrap();
    let (accepted, connected) = tokio::join!(trusting.accept(far), tls.connect("127.0.0.1", near));
    assert!(untrusted(&connected.err().unwrap()) && accepted.is_err());
    // The right authority, for another name.
    let (near, far) = pair().await;
    let (_, connected) = tokio::join!(tls.accept(far), tls.connect("example.org", near));
    assert!(untrusted(&connected.err().unwrap()));
    // No certificate.
    let (near, far) = pair().await;
    let connects = tokio::spawn(bare(ours.file("ca"), near));
    assert!(untrusted(&soon(tls.accept(far)).await.err().unwrap()));
    assert!(soon(connects).await.unwrap().is_err());
    // Plain text, and silence.
    let (mut near, far) = pair().await;
    near.write_all(b"no TLS at all, whatever it is").await.unwrap();
    assert!(untrusted(&soon(tls.accept(far)).await.err().unwrap()));
    // Files that are none.
    let error = Tls::load(&key, &key, &ours.file("ca")).unwrap_err().to_string();
    assert!(error.contains("ours-key.pem: there is no certificate"), "{error}");
}

/// A client of TLS that shows no certificate.
async fn bare(ca: PathBuf, stream: tokio::net::TcpStream) -> std::io::Result<usize> {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await?;
    stream.read(&mut [0; 1]).await
}
