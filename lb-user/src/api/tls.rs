//! TLS on the API's TCP door: certificate and key, read at the start and at each reload.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::warn;

use crate::config;

/// The record that a TLS client begins with (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// What somebody is told who comes without.
const NOT_TLS: &str = "this port speaks TLS: use https://, or with xlb --api https://ADDRESS:PORT --ca-file FILE\n";

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file}: cannot be read", file = path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file}: no certificate in it; it must hold \"-----BEGIN CERTIFICATE-----\", the server's own first", file = path.display())]
    NoCertificate { path: PathBuf },
    #[error("{file}: no private key in it; it must hold \"-----BEGIN PRIVATE KEY-----\", without a passphrase", file = path.display())]
    NoKey { path: PathBuf },
    #[error("{file}: not PEM: {reason}", file = path.display())]
    NotPem { path: PathBuf, reason: pem::Error },
    #[error(
        "the key in {key} is not that of the first certificate in {certificate}",
        key = key.display(), certificate = certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{certificate} and {key} cannot be used", certificate = certificate.display(), key = key.display())]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

/// Who the API is for its clients. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Identity {
    files: config::ApiTls,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

/// What the files hold by now.
#[derive(Debug)]
pub struct Renewed(Arc<ServerConfig>);

impl Identity {
    /// As the files have it.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn open(files: &config::ApiTls) -> Result<Self, TlsError> {
        let Renewed(current) = read(files)?;
        Ok(Self { files: files.clone(), current: Arc::new(RwLock::new(current)) })
    }

    /// Reads the files again; nothing is different before [`Self::take`].
    ///
    /// # Errors
    /// They cannot be used.
    pub fn renew(&self) -> Result<Renewed, TlsError> {
        read(&self.files)
    }

    /// From the next connection on.
    pub fn take(&self, Renewed(config): Renewed) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// TLS over a connection. `None` after telling who speaks plain HTTP that this is not the place.
    ///
    /// # Errors
    /// The connection breaks, or the client does not like the certificate.
    pub async fn greet(&self, mut stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        if stream.peek(&mut first).await? > 0 && first != [HANDSHAKE] {
            let length = NOT_TLS.len();
            let head = format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            stream.write_all((head + NOT_TLS).as_bytes()).await?;
            stream.shutdown().await?;
            // What is unread would have the connection reset, and the answer lost.
            let mut unread = [0; 1024];
            while stream.try_read(&mut unread).is_ok_and(|n| n > 0) {}
            return Ok(None);
        }
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await.map(Some)
    }
}

fn read(files: &config::ApiTls) -> Result<Renewed, TlsError> {
    let (certificate, key) = (&files.certificate, &files.key);
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.clone() },
        reason => TlsError::NotPem { path: key.clone(), reason },
    })?;
    if others_may_read(key) {
        warn!("{}: others than its owner and group can read the key; chmod 640 it", key.display());
    }
    let unusable = |source: rustls::Error| TlsError::Unusable { certificate: certificate.clone(), key: key.clone(), source };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, secret).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() },
        source => unusable(source),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Renewed(Arc::new(config)))
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |reason| TlsError::NotPem { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(&bytes(path)?).collect::<Result<Vec<_>, _>>().map_err(not_pem)?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(chain) }
}

/// Whether anybody on this machine can take the key.
pub fn others_may_read(key: &Path) -> bool {
    fs::metadata(key).is_ok_and(|file| file.mode() & 0o007 != 0)
}

/// How long the first certificate in the file is valid from `now` on: zero if not any more, `None` where that cannot be told.
///
/// Asked whether the certificate is valid on a day far off, rustls says until when it was: that comes before all else that it
/// verifies. So no second parser of certificates is needed.
///
/// # Errors
/// There is no certificate.
pub fn valid_for(certificate: &Path, now: SystemTime) -> Result<Option<Duration>, TlsError> {
    const FAR_OFF: Duration = Duration::from_secs(400 * 365 * 86_400);
    let chain = certificates(certificate)?;
    let Some(own) = chain.first() else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    if roots.add(own.clone()).is_err() {
        return Ok(None);
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider())).build();
    let (Ok(verifier), Ok(name)) = (verifier, ServerName::try_from("any.invalid")) else { return Ok(None) };
    let far_off = UnixTime::since_unix_epoch(FAR_OFF);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match verifier.verify_server_cert(own, &chain[1..], &name, &[], far_off) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Ok(Some(Duration::from_secs(not_after.as_secs()).saturating_sub(now)))
        }
        _ => Ok(None),
    }
}
