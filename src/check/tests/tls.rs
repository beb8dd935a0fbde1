//! https probes: whose certificate is believed, and servers that go wrong in or behind the handshake.
//!
//! The certificates in `tests/tls` share one key. `ca.pem` vouches for `cert.pem` (localhost), `ca2.pem` for `address.pem`
//! (localhost and 127.0.0.1), `expired.pem` (until 2021) and `early.pem` (from 2099).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use picored_core::config::{App, Check, CheckTls, HttpCheck, Trust};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use url::Host;

use super::{PATIENT, SHORT, read_head};
use crate::check::http::BODY_LIMIT;
use crate::check::{CheckError, Prober};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn trusting(name: &str) -> Trust {
    Trust::CaFile(file(name))
}

/// Serves one connection with that certificate: says `answer` to the request and then `again` until the other side has
/// had enough. Ends with the request's head, if the handshake was finished.
async fn server(
    certificate: &str,
    answer: &'static str,
    again: Option<&'static str>,
) -> (SocketAddr, JoinHandle<Option<String>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(file(certificate)).unwrap()],
            PrivateKeyDer::from_pem_file(file("key.pem")).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
        let head = read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        while let Some(more) = again {
            if stream.write_all(more.as_bytes()).await.is_err() {
                return Some(head);
            }
            tokio::task::yield_now().await;
        }
        // Who asked may have gone already.
        let _ = stream.shutdown().await;
        Some(head)
    });
    (address, task)
}

fn check(address: SocketAddr, host: &str, trust: Trust) -> HttpCheck {
    let url: url::Url = format!("https://{host}:{}/health", address.port()).parse().unwrap();
    let server_name = url.host().unwrap().to_owned();
    HttpCheck { url, tls: Some(CheckTls { server_name, trust }), ..super::check(address) }
}

fn app(check: &HttpCheck, limit: std::time::Duration) -> App {
    super::app(Check::Http(check.clone()), limit)
}

async fn probe(check: &HttpCheck, limit: std::time::Duration) -> Result<(), String> {
    let app = app(check, limit);
    let prober = Prober::new(std::slice::from_ref(&app), Arc::default()).unwrap();
    prober.probe(&app).await
}

/// The verdict on a good server that has this certificate, asked by this name.
async fn verdict(certificate: &str, host: &str, trust: Trust) -> Result<(), String> {
    let (address, _task) = server(certificate, GOOD, None).await;
    let mut check = check(address, host, trust);
    check.expect_body = Some("OK".into());
    probe(&check, PATIENT).await
}

#[tokio::test]
async fn a_server_that_the_ca_file_vouches_for_is_good() {
    assert_eq!(verdict("cert.pem", "localhost", trusting("ca.pem")).await, Ok(()));
    assert_eq!(verdict("address.pem", "localhost", trusting("ca2.pem")).await, Ok(()));
    assert_eq!(verdict("address.pem", "127.0.0.1", trusting("ca2.pem")).await, Ok(()));
}

#[tokio::test]
async fn certificates_are_refused_for_a_reason() {
    let cases = [
        ("cert.pem", "localhost", trusting("ca2.pem"), "is of an unknown issuer"),
        ("cert.pem", "127.0.0.1", trusting("ca.pem"), "is not valid for name 127.0.0.1"),
        ("expired.pem", "localhost", trusting("ca2.pem"), "has expired"),
        ("early.pem", "localhost", trusting("ca2.pem"), "is not valid yet"),
    ];
    for (certificate, host, trust, why) in cases {
        let said = verdict(certificate, host, trust).await;
        assert_eq!(said, Err(format!("the server's certificate {why}")), "{certificate} as {host}");
    }
}

#[tokio::test]
async fn without_a_ca_file_it_is_the_platform_that_vouches() {
    let refusal = verdict("cert.pem", "localhost", Trust::Platform).await.unwrap_err();
    let reasons = ["the server's certificate is of an unknown issuer", "the platform has no root certificates"];
    assert!(reasons.iter().any(|reason| refusal.starts_with(reason)), "{refusal}");
}

#[tokio::test]
async fn skipping_the_verification_takes_any_certificate() {
    for (certificate, host) in
        [("cert.pem", "localhost"), ("cert.pem", "127.0.0.1"), ("expired.pem", "localhost"), ("early.pem", "localhost")]
    {
        assert_eq!(verdict(certificate, host, Trust::Anyone).await, Ok(()), "{certificate} as {host}");
    }
}

#[tokio::test]
async fn the_certificate_is_the_one_of_the_name_in_the_host_header() {
    let (address, task) = server("cert.pem", GOOD, None).await;
    let mut check = check(address, "127.0.0.1", trusting("ca.pem"));
    check.headers = vec![("host".into(), "localhost".into())];
    check.tls.as_mut().unwrap().server_name = Host::Domain("localhost".into());
    assert_eq!(probe(&check, PATIENT).await, Ok(()));
    let head = task.await.unwrap().unwrap().to_ascii_lowercase();
    assert_eq!(head.matches("host:").count(), 1, "{head}");
    assert!(head.contains("host: localhost\r\n"), "{head}");
}

#[tokio::test]
async fn wrong_answers_over_tls_are_judged_as_over_tcp() {
    let (address, _task) = server("cert.pem", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", None).await;
    let said = probe(&check(address, "localhost", trusting("ca.pem")), PATIENT).await;
    assert_eq!(said, Err("status 503, expected 200-399".into()));

    let (address, _task) = server("cert.pem", "HTTP/1.1 200 OK\r\nX-Half: ", None).await;
    let said = probe(&check(address, "localhost", trusting("ca.pem")), PATIENT).await;
    assert_eq!(said, Err("connection closed before the response was complete".into()));

    let (address, task) = server("cert.pem", "HTTP/1.1 200 OK\r\n\r\n", Some("xxxxxxxxxxxxxxxx")).await;
    let mut check = check(address, "localhost", trusting("ca.pem"));
    check.expect_body = Some("OK".into());
    let refusal = format!("the first {} KiB of the body do not contain \"OK\"", BODY_LIMIT / 1024);
    assert_eq!(probe(&check, PATIENT).await, Err(refusal));
    task.await.unwrap();
}

#[tokio::test]
async fn hanging_in_the_handshake_or_behind_it_is_told_apart() {
    // The kernel accepts for a listener that never does.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let silent = check(listener.local_addr().unwrap(), "localhost", trusting("ca.pem"));
    assert_eq!(probe(&silent, SHORT).await, Err("timed out after 200ms in the TLS handshake".into()));

    let (address, task) = server("cert.pem", "HTTP/1.1 200 OK\r\nX-Half: ", Some("")).await;
    let said = probe(&check(address, "localhost", trusting("ca.pem")), SHORT).await;
    assert_eq!(said, Err("timed out after 200ms waiting for the response".into()));
    task.abort();
}

#[tokio::test]
async fn a_server_without_tls_is_told() {
    for (said, reason) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "the server does not speak TLS here"),
        ("", "connection closed during the TLS handshake"),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let check = check(listener.local_addr().unwrap(), "localhost", Trust::Anyone);
        let plain = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            // All of what was said is taken, so that the end is no reset.
            let mut hello = [0; 4096];
            assert!(stream.try_read(&mut hello).unwrap() > 0);
            stream.write_all(said.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        assert_eq!(probe(&check, PATIENT).await, Err(reason.into()));
        plain.await.unwrap();
    }
}

#[test]
fn unusable_ca_files_are_named_with_their_app() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |name: &str, content: Option<&[u8]>| {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let errors = Prober::new(&[app(&check(address, "localhost", Trust::CaFile(path)), PATIENT)], Arc::default());
        let errors = errors.err().unwrap();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().contains(&format!("{name} of app www")), "{}", errors[0]);
        errors.into_iter().next().unwrap()
    };
    assert!(matches!(refusal("missing.pem", None), CheckError::CaFile { .. }));
    assert!(matches!(refusal("long.pem", Some(&vec![b'x'; (1 << 20) + 1])), CheckError::CaFile { .. }));
    assert!(matches!(refusal("empty.pem", Some(b"")), CheckError::Certificates { .. }));
    assert!(matches!(
        refusal("key.pem", Some(&std::fs::read(file("key.pem")).unwrap())),
        CheckError::Certificates { .. }
    ));
}
