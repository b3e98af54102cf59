//! TLS under a probe: whom to trust, and the handshake.
//!
//! Each probe makes a full handshake, so that each verifies the certificate: a resumed session would go on with what was
//! verified once, and its ticket might even come from another backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::time::Time;
use super::{Setback, Target, setback};

const PHASE: &str = "tls";

/// How a TLS connection to a backend is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// Asked for by SNI, and whom the certificate must name; `None` is the probed address.
    pub name: Option<ServerName<'static>>,
    pub trust: Trust,
}

/// Whose certificates are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Those that this machine trusts, as of the first check.
    System,
    /// Those that the certificates in this PEM file signed. It is read for each probe: new ones need no reload.
    File(PathBuf),
    /// Any, whoever signed it, for whatever name, expired or not.
    Anyone,
}

impl Tls {
    /// A connection with TLS over `stream`, which is one to `target`.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        target: Target,
        time: &Time,
    ) -> Result<TlsStream<TcpStream>, Setback> {
        let config = self.trust.config().await.map_err(|reason| Setback::Unasked(format!("{PHASE}: {reason}")))?;
        let name = self.name.clone().unwrap_or_else(|| ServerName::IpAddress(target.ip().into()));
        let connected = time.keep(PHASE, TlsConnector::from(config).connect(name, stream)).await?;
        connected.map_err(|error| setback(PHASE, &error))
    }
}

impl Trust {
    /// # Errors
    /// This machine lacks the certificates to verify by: why, for the operator.
    pub(crate) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        /// Some hundred certificates, which take milliseconds to read.
        static SYSTEM: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();
        match self {
            Self::System => SYSTEM.get_or_try_init(|| async { verifying(system_roots().await?) }).await.cloned(),
            Self::File(path) => verifying(roots_in(path).await?),
            Self::Anyone => not_verifying(),
        }
    }
}

async fn system_roots() -> Result<RootCertStore, String> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    // Some that cannot be parsed are in every system's store.
    let (n_usable, _) = roots.add_parsable_certificates(found.certs);
    match n_usable {
        0 => Err("this machine trusts no certificates; install ca-certificates, or set ca_file".to_owned()),
        _ => Ok(roots),
    }
}

async fn roots_in(path: &Path) -> Result<RootCertStore, String> {
    let failed = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let pem = super::file::read(path).await?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() { Err(failed(&"no certificate in it")) } else { Ok(roots) }
}

fn verifying(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    Ok(finished(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth()))
}

fn not_verifying() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.dangerous();
    Ok(finished(builder.with_custom_certificate_verifier(Arc::new(Unverified(provider))).with_no_client_auth()))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Takes any certificate, but only from who has its key: what else a handshake promises stays true.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
