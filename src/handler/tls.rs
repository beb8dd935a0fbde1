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
