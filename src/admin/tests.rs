//! The admin socket against its own client, and against raw bytes where a client would be too polite.

use std::net::{IpAddr, Ipv4Addr};

use picored_core::status::{AppStatus, MemberStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::client::ClientError;
use super::*;

/// For what shall not happen, and for what ends only by its time.
const SHORT: Duration = Duration::from_millis(200);

/// A directory, and a node's status to be served there.
struct Place {
    dir: tempfile::TempDir,
    publish: watch::Sender<Arc<Status>>,
}

impl Place {
    fn new() -> Self {
        let app = AppStatus { name: "www".into(), state: "up".into(), publish: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] };
        let member = MemberStatus {
            name: "web1".into(),
            address: "127.0.0.1:7946".into(),
            state: "alive".into(),
            generation: 7,
            apps: vec![app],
        };
        let status = Status { node: "web1".into(), members: vec![member], ..Status::default() };
        Self { dir: tempfile::tempdir().unwrap(), publish: watch::Sender::new(Arc::new(status)) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("picored.sock")
    }

    fn serve(&self) -> JoinHandle<()> {
        tokio::spawn(Server::bind(&self.path()).unwrap().serve(self.publish.subscribe()))
    }

    /// Sends these bytes and reads all that comes back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        // The server may hang up on nonsense before it has read all of it.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn answers_follow_what_is_published() {
    let place = Place::new();
    let _server = place.serve();
    let first = client::status(&place.path()).await.unwrap();
    assert_eq!(first.status, **place.publish.borrow());
    assert_eq!((first.version.as_str(), first.pid), (env!("CARGO_PKG_VERSION"), std::process::id()));
    assert_eq!(first.resident_bytes.is_some(), cfg!(target_os = "linux"));

    place.publish.send_modify(|status| Arc::make_mut(status).members[0].state = "suspect".into());
    assert_eq!(client::members(&place.path()).await.unwrap(), place.publish.borrow().members);
    assert_eq!(client::members(&place.path()).await.unwrap()[0].state, "suspect");
}

#[tokio::test]
async fn other_requests_are_refused_in_json() {
    let place = Place::new();
    let _server = place.serve();
    for (request, status) in [("GET /", 404), ("GET /v1", 404), ("POST /v1/status", 405), ("DELETE /v1/members", 405)] {
        let answer = place.raw(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
        assert_eq!(answer.contains("allow: GET\r\n"), status == 405);
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
}

#[tokio::test]
async fn nonsense_and_floods_leave_the_server_alive() {
    let place = Place::new();
    let _server = place.serve();
    let flood = ["GET /v1/status HTTP/1.1\r\nX-Long: ".as_bytes(), &[b'x'; 1 << 20]].concat();
    for bytes in [&b"\0\x01\x02\r\n\r\n"[..], b"", b"GET /v1/status HTTP/1.1\r\nX-Ha", &flood] {
        let mut stream = UnixStream::connect(place.path()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        drop(stream);
    }
    assert!(place.raw(&flood).await.starts_with("HTTP/1.1 431 "));
    client::status(&place.path()).await.unwrap();
}

#[tokio::test]
async fn silent_connections_wait_for_their_turn_to_end() {
    let place = Place::new();
    let _server = place.serve();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(UnixStream::connect(place.path()).await.unwrap());
    }
    // One more finds every place taken; it is served once one of them is free.
    let path = place.path();
    let mut waiting = tokio::spawn(async move { client::status(&path).await });
    assert!(tokio::time::timeout(SHORT, &mut waiting).await.is_err(), "it was served beyond the limit");
    silent.pop();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn silent_connections_are_ended() {
    let place = Place::new();
    let mut server = Server::bind(&place.path()).unwrap();
    server.connection_time = SHORT;
    let _server = tokio::spawn(server.serve(place.publish.subscribe()));
    let mut silent = UnixStream::connect(place.path()).await.unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn socket_is_private_and_goes_with_its_server() {
    let place = Place::new();
    let server = Server::bind(&place.path()).unwrap();
    let found = fs::symlink_metadata(place.path()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o7777, 0o660);
    drop(server);
    assert!(!place.path().exists());

    let serving = place.serve();
    client::status(&place.path()).await.unwrap();
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(!place.path().exists());
}

#[tokio::test]
async fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let place = Place::new();
    drop(std::os::unix::net::UnixListener::bind(place.path()).unwrap());
    assert!(matches!(client::status(&place.path()).await, Err(ClientError::NobodyListens(_))));
    let _server = place.serve();
    client::status(&place.path()).await.unwrap();

    let error = Server::bind(&place.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&place.path().display().to_string()), "{error}");
    client::status(&place.path()).await.unwrap();
}

#[tokio::test]
async fn longest_path_of_the_system_is_taken() {
    let place = Place::new();
    let room = 107 - place.dir.path().as_os_str().len() - 1;
    let _server = Server::bind(&place.dir.path().join("x".repeat(room))).unwrap();
}

#[tokio::test]
async fn another_servers_socket_is_left_in_its_place() {
    let place = Place::new();
    let old = Server::bind(&place.path()).unwrap();
    fs::remove_file(place.path()).unwrap();
    let _new = place.serve();
    drop(old);
    client::status(&place.path()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_bound_is_named() {
    let place = Place::new();
    fs::write(place.path(), "precious").unwrap();
    let error = Server::bind(&place.path()).unwrap_err().to_string();
    assert!(error.contains("is no socket") && error.contains("picored.sock"), "{error}");
    assert_eq!(fs::read_to_string(place.path()).unwrap(), "precious");

    for bad in [place.dir.path().join("none/picored.sock"), place.dir.path().join("x".repeat(120))] {
        let error = Server::bind(&bad).unwrap_err().to_string();
        assert!(error.contains(&bad.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn client_tells_what_is_wrong_at_the_other_end() {
    let place = Place::new();
    assert!(matches!(client::status(&place.path()).await, Err(ClientError::Missing(_))));

    fs::write(place.path(), "").unwrap();
    assert!(matches!(client::status(&place.path()).await, Err(ClientError::NotASocket(_))));
    fs::remove_file(place.path()).unwrap();

    let listener = UnixListener::bind(place.path()).unwrap();
    for answer in ["SSH-2.0\r\n\r\n", "", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"] {
        let stranger = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.read_u8().await.unwrap() != b'\n' {}
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let path = place.path();
        let (said, ()) = tokio::join!(client::status(&path), stranger);
        assert!(matches!(said, Err(ClientError::Protocol { .. })), "{answer:?}: {said:?}");
    }
}

#[tokio::test]
async fn client_gives_up_on_a_daemon_that_says_nothing() {
    let place = Place::new();
    let _listener = UnixListener::bind(place.path()).unwrap();
    let said: Result<NodeStatus, _> = client::get(&place.path(), "/v1/status", SHORT).await;
    assert!(matches!(said, Err(ClientError::Timeout(..))), "{said:?}");
}
