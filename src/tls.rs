//! TLS as a client: whose roots count, the handshake, and what went wrong with it in words.
//!
//! The platform's roots are read once, at the first https request that needs them, and shared by all; a daemon that
//! speaks plain HTTP never reads them. Called by the gate of the handlers and by the checks.

use std::io;
use std::sync::Arc;

use picored_core::policy::Host;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The platform's roots, read when they are first needed.
#[derive(Default)]
pub struct Tls {
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    /// Speaks TLS on `stream` with the server of that name or address. An error is a text for people.
    pub(crate) async fn handshake(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let name = match host {
            Host::Name(name) => {
                ServerName::DnsName(DnsName::try_from(name.clone()).map_err(|error| error.to_string())?)
            }
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        };
        handshake(self.platform().await?, name, stream).await
    }

    /// Trust in the platform's roots.
    pub(crate) async fn platform(&self) -> Result<Arc<ClientConfig>, String> {
        self.config.get_or_try_init(platform).await.cloned()
    }
}

/// Speaks TLS on `stream` with the server of that name or address. An error is a text for people.
pub(crate) async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let wanted = name.to_str().into_owned();
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| reason(&error, &wanted))
}

/// Trust in the certificates of this PEM text and no other. An error is a text that goes on after the text's name.
pub(crate) fn trusting(pem: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(pem)) {
        let certificate = certificate.map_err(|error| format!("is no PEM text: {error}"))?;
        roots.add(certificate).map_err(|error| format!("has no usable certificate at place {number}: {error}"))?;
    }
    if roots.is_empty() {
        return Err("has no certificate; it should hold one or more, each from BEGIN CERTIFICATE to END".into());
    }
    with_roots(roots)
}

/// Trust in whoever answers: its certificate is not looked at.
pub(crate) fn trusting_anyone() -> Result<Arc<ClientConfig>, String> {
    let config = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth();
    Ok(Arc::new(config))
}

/// The same trust for who wants every handshake to be a whole one, so that each looks at the certificate again.
pub(crate) fn without_resumption(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

async fn platform() -> Result<Arc<ClientConfig>, String> {
    // Hundreds of files may have to be read.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let found = found.map_err(|error| format!("cannot read the platform's certificates: {error}"))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("the platform has no root certificates (install ca-certificates){why}"));
    }
    with_roots(roots)
}

fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    Ok(Arc::new(builder()?.with_root_certificates(roots).with_no_client_auth()))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

/// Why the server of that name was not believed, or what it spoke instead.
fn reason(error: &io::Error, name: &str) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "connection closed during the TLS handshake".into(),
            _ => error.to_string(),
        };
    };
    match error {
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet".into()
            }
            CertificateError::UnknownIssuer => "the server's certificate is of an unknown issuer".into(),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server's certificate is not valid for name {name}")
            }
            other => format!("the server's certificate is not taken: {other}"),
        },
        Error::InvalidMessage(_) => "the server does not speak TLS here".into(),
        other => other.to_string(),
    }
}

/// Takes every certificate. What it says of signatures would be worth nothing, as anybody may have made the key.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    // A root that only the tests know, and a certificate of it for `localhost`, valid until 2100.
    const ROOT: &[u8] = include_bytes!("../tests/tls/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../tests/tls/cert.pem");
    const KEY: &[u8] = include_bytes!("../tests/tls/key.pem");

    /// Connects to a TLS server of that certificate by `name`, and reads what it says.
    async fn read_from(name: &str, roots: RootCertStore) -> Result<String, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
                PrivateKeyDer::from_pem_slice(KEY).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = TlsAcceptor::from(Arc::new(server)).accept(stream).await {
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let tls = Tls { config: OnceCell::new_with(Some(with_roots(roots).unwrap())) };
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = tls.handshake(&Host::Name(name.into()), stream).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.map_err(|error| error.to_string())?;
        Ok(said)
    }

    fn roots() -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ROOT).unwrap()).unwrap();
        roots
    }

    #[tokio::test]
    async fn a_server_that_a_root_vouches_for_is_spoken_to() {
        assert_eq!(read_from("localhost", roots()).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn another_name_or_an_unknown_root_is_refused() {
        let error = read_from("other.example", roots()).await.unwrap_err();
        assert!(error.contains("not valid for name"), "{error}");
        let error = read_from("localhost", RootCertStore::empty()).await.unwrap_err();
        assert!(error.contains("unknown issuer"), "{error}");
    }

    #[test]
    fn texts_without_a_usable_certificate_are_refused() {
        assert!(trusting(ROOT).is_ok());
        let refusals = [
            (&b""[..], "has no certificate"),
            (b"hello", "has no certificate"),
            (KEY, "has no certificate"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no usable certificate at place 1"),
            (b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "is no PEM text"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "is no PEM text"),
        ];
        for (text, part) in refusals {
            let error = trusting(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
