//! The admin socket against its own client, and against raw bytes where a client would be too polite.

use std::net::{IpAddr, Ipv4Addr};

use hyper::StatusCode;
use picored_core::name::HandlerName;
use picored_core::status::{AppStatus, MemberStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::ClientError;
use super::*;

/// For what shall not happen, and for what ends only by its time.
const SHORT: Duration = Duration::from_millis(200);

/// So much can be sent along in these tests.
const LARGEST_UPLOAD: u64 = 1 << 20;

/// A directory, and a node's status to be served there.
struct Place {
    dir: tempfile::TempDir,
    publish: watch::Sender<Arc<Status>>,
    events: Events,
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
            evidence: None,
        };
        let status = Status { node: "web1".into(), members: vec![member], ..Status::default() };
        Self {
            dir: tempfile::tempdir().unwrap(),
            publish: watch::Sender::new(Arc::new(status)),
            events: Events::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("picored.sock")
    }

    fn commands(&self) -> (Commands, mpsc::Receiver<Command>) {
        Commands::channel(self.dir.path().to_owned(), LARGEST_UPLOAD)
    }

    fn serve(&self) -> JoinHandle<()> {
        self.serve_commands().0
    }

    fn serve_commands(&self) -> (JoinHandle<()>, mpsc::Receiver<Command>) {
        let (commands, taken) = self.commands();
        let server = Server::bind(&self.path()).unwrap();
        (tokio::spawn(server.serve(self.publish.subscribe(), Metrics::default(), self.events.clone(), commands)), taken)
    }

    /// What was sent and is still there.
    fn uploads(&self) -> usize {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("upload-")).count()
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
    for (request, status, allowed) in [
        ("GET /", 404, None),
        ("GET /v1", 404, None),
        ("POST /v1/handlers/dns", 404, None),
        ("POST /v1/handlers/-/rollback", 404, None),
        ("POST /v1/status", 405, Some("GET")),
        ("DELETE /v1/members", 405, Some("GET")),
        ("GET /v1/handlers/dns/upgrade", 405, Some("POST")),
        ("PUT /v1/handlers/dns/rollback", 405, Some("POST")),
    ] {
        let answer = place.raw(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
        assert_eq!(answer.split("allow: ").nth(1).and_then(|rest| rest.lines().next()), allowed, "{answer}");
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
}

#[tokio::test]
async fn a_command_is_answered_by_who_takes_it_and_what_was_sent_goes_with_it() {
    let place = Place::new();
    let (_server, mut taken) = place.serve_commands();
    let (path, dns) = (place.path(), HandlerName::new("dns").unwrap());
    // Larger than the socket's buffer.
    let component: Vec<u8> = (0..LARGEST_UPLOAD).map(|number| (number % 251) as u8).collect();
    let driver = async {
        let Command { change: Change::Upgrade { handler, component: sent }, reply } = taken.recv().await.unwrap()
        else {
            panic!("another command");
        };
        assert_eq!((handler.as_str(), fs::read(sent.path()).unwrap() == component), ("dns", true));
        assert_eq!(fs::metadata(sent.path()).unwrap().mode() & 0o7777, 0o600);
        let change = HandlerChange { handler: "dns".into(), version: "ab".into(), before: None };
        reply.send(Ok(serde_json::to_value(&change).unwrap())).unwrap();
        drop(sent);
        let Command { change: Change::Rollback { .. }, reply } = taken.recv().await.unwrap() else {
            panic!("another command");
        };
        reply.send(Err(Refusal::new(StatusCode::CONFLICT, "there is no version before"))).unwrap();
        change
    };
    let asker =
        async { (client::upgrade(&path, &dns, component.clone()).await.unwrap(), client::rollback(&path, &dns).await) };
    let (change, (upgraded, rolled_back)) = tokio::join!(driver, asker);
    assert_eq!(upgraded, change);
    let ClientError::Refused { status: 409, text, .. } = rolled_back.unwrap_err() else { panic!("it was refused") };
    assert_eq!(text, "there is no version before");
    assert_eq!(place.uploads(), 0);
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_is_no_command() {
    let place = Place::new();
    let (_server, mut taken) = place.serve_commands();
    let dns = HandlerName::new("dns").unwrap();
    let large = vec![0; usize::try_from(LARGEST_UPLOAD).unwrap() + 1];
    // The daemon hangs up in the middle; the client may not hear why any more.
    assert!(client::upgrade(&place.path(), &dns, large).await.is_err());
    let head = "POST /v1/handlers/dns/upgrade HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    let mut stream = UnixStream::connect(place.path()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let body = "POST /v1/handlers/dns/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    assert!(place.raw(body.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    assert!(taken.try_recv().is_err());
    assert_eq!(place.uploads(), 0);
}

#[tokio::test]
async fn a_command_may_take_longer_than_a_question() {
    let place = Place::new();
    let (commands, mut taken) = place.commands();
    let mut server = Server::bind(&place.path()).unwrap();
    server.connection_time = SHORT;
    let _server =
        tokio::spawn(server.serve(place.publish.subscribe(), Metrics::default(), place.events.clone(), commands));
    let (path, dns) = (place.path(), HandlerName::new("dns").unwrap());
    let asked = tokio::spawn(async move { client::rollback(&path, &dns).await });
    let command = taken.recv().await.unwrap();
    // Another one is ended by its time meanwhile, so the first one's has passed.
    let mut silent = UnixStream::connect(place.path()).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    let change = HandlerChange { handler: "dns".into(), version: "ab".into(), before: None };
    command.reply.send(Ok(serde_json::to_value(&change).unwrap())).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), change);

    // A daemon that goes has an answer too.
    let (path, dns) = (place.path(), HandlerName::new("dns").unwrap());
    drop(taken);
    assert!(matches!(client::rollback(&path, &dns).await, Err(ClientError::Refused { status: 503, .. })));
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
    let _server = tokio::spawn(server.serve(
        place.publish.subscribe(),
        Metrics::default(),
        place.events.clone(),
        place.commands().0,
    ));
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
