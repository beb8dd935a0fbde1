//! TLS for the gate: the platform's roots, read once, at the first https request of any handler; nobody else's.
//!
//! A daemon whose handlers speak plain HTTP never reads them.

use std::sync::Arc;

use picored_core::policy::Host;
use rustls::pki_types::{DnsName, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What every handler's TLS shares: the roots.
#[derive(Default)]
pub(crate) struct Tls {
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    /// Speaks TLS on `stream` with the server of that name or address. An error is a text for the guest and its author.
    pub(crate) async fn handshake(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let name = match host {
            Host::Name(name) => {
                ServerName::DnsName(DnsName::try_from(name.clone()).map_err(|error| error.to_string())?)
            }
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        };
        let config = self.config.get_or_try_init(platform).await?.clone();
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())
    }
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
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    // A root that only the tests know, and a certificate of it for `localhost`, valid until 2100.
    const ROOT: &[u8] = include_bytes!("../../tests/tls/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../../tests/tls/cert.pem");
    const KEY: &[u8] = include_bytes!("../../tests/tls/key.pem");

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
        assert!(error.contains("UnknownIssuer"), "{error}");
    }
}
