//! PowerDNS for the tests, with the zone `example.org.`: the server inside picored, or Debian's with its SQLite backend.
//! Both are asked and changed by their API alone, as an operator would, so that a test cannot tell which it has.
//!
//! A third one, [`Scripted`], gives the answers that it is told to give and keeps what it was asked.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, Once};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use picored::demo::api;
use picored::demo::zone::Zone;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::debian_powerdns::{NEEDED, PROGRAM, arguments, create_database};
use crate::server::read;
use crate::wait::{found, until};

/// What the API wants to see.
pub(crate) const KEY: &str = "key-of-the-api";
/// The name whose records are kept.
pub(crate) const NAME: &str = "www.example.org.";
/// Where the API keeps all zones.
pub(crate) const ZONES: &str = "/api/v1/servers/localhost/zones";
/// Names Debian's server. If it is set, a server that is missing is a failure.
const NAMED: &str = "PICORED_POWERDNS";

/// Which server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The one inside picored.
    Embedded,
    /// Debian's.
    Debian,
}

/// A server with the zone, and nothing in it but what a zone must have. Dropped, it is gone.
pub(crate) struct Server {
    address: SocketAddr,
    _alive: Alive,
}

enum Alive {
    Tasks(#[expect(dead_code, reason = "kept until the server is dropped")] JoinSet<()>),
    Process(#[expect(dead_code, reason = "the same")] Child, #[expect(dead_code, reason = "the same")] TempDir),
}

impl Server {
    /// Starts it on a loopback address. `None` if there is no PowerDNS on this machine, which is told.
    pub(crate) async fn start(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Embedded => Some(Self::embedded().await),
            Kind::Debian => Some(Self::debian(&program()?).await),
        }
    }

    async fn embedded() -> Self {
        let zone = Arc::new(Zone::new("example.org.", [127, 0, 0, 1].into()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
        tasks.spawn(async move { panic!("{:?}", api::serve(listener, zone, KEY).await) });
        Self { address, _alive: Alive::Tasks(tasks) }
    }

    async fn debian(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (database, log) = (create_database(folder.path()).unwrap(), folder.path().join("log"));
        let (address, dns) = own_addresses();
        let mut process = Command::new(program)
            .args(arguments(&database, dns, address, "127.0.0.0/8", KEY))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect(NEEDED);
        let says = || format!(": {}", fs::read_to_string(&log).unwrap_or_default());
        let takes_connections = found(async || TcpStream::connect(address).await.ok());
        until("PowerDNS takes connections", says, async {
            tokio::select! {
                _ = takes_connections => {}
                ended = process.wait() => panic!("PowerDNS, {ended:?}{}", says()),
            }
        })
        .await;
        let server = Self { address, _alive: Alive::Process(process, folder) };
        let zone = json!({ "name": "example.org.", "kind": "Native", "nameservers": ["ns.example.org."] });
        let (status, said) = server.exchange(Method::POST, ZONES, &zone).await;
        assert_eq!(status, 201, "{said}");
        server
    }

    /// `http://ADDRESS:PORT`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the records of one type of the name. A record is its content, and whether it is disabled.
    pub(crate) async fn put(&self, kind: &str, ttl: u32, records: &[(&str, bool)]) {
        let records: Vec<_> =
            records.iter().map(|(content, off)| json!({ "content": content, "disabled": off })).collect();
        let set = json!({ "name": NAME, "type": kind, "changetype": "REPLACE", "ttl": ttl, "records": records });
        let (status, said) =
            self.exchange(Method::PATCH, &format!("{ZONES}/example.org."), &json!({ "rrsets": [set] })).await;
        assert_eq!(status, 204, "{said}");
    }

    /// The records of the name by type, each with its TTL, its content and whether it is disabled; in order.
    pub(crate) async fn records(&self) -> Vec<(String, u64, String, bool)> {
        let mut found = Vec::new();
        for set in self.zone().await["rrsets"].as_array().unwrap() {
            for record in set["records"].as_array().unwrap().iter().filter(|_| set["name"] == NAME) {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let (ttl, off) = (set["ttl"].as_u64().unwrap(), record["disabled"].as_bool().unwrap());
                found.push((text(&set["type"]), ttl, text(&record["content"]), off));
            }
        }
        found.sort();
        found
    }

    /// The addresses that the name answers with.
    pub(crate) async fn published(&self) -> Vec<IpAddr> {
        let records = self.records().await.into_iter().filter(|(.., disabled)| !disabled);
        let mut addresses: Vec<_> = records.map(|(_, _, content, _)| content.parse().unwrap()).collect();
        addresses.sort();
        addresses
    }

    /// Grows with every change.
    pub(crate) async fn serial(&self) -> u64 {
        self.zone().await["serial"].as_u64().unwrap()
    }

    async fn zone(&self) -> Value {
        let (status, zone) = self.exchange(Method::GET, &format!("{ZONES}/example.org."), &Value::Null).await;
        assert_eq!(status, 200, "{zone}");
        zone
    }

    async fn exchange(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let stream = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        let _connection = tokio::spawn(connection);
        let body: Full<Bytes> = if body.is_null() { Full::default() } else { Full::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        let request = request.header("x-api-key", KEY).body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// Debian's server, if it is there.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(NAMED) {
        return Some(named.into());
    }
    let usual = PathBuf::from(PROGRAM);
    if usual.exists() {
        return Some(usual);
    }
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        use std::io::Write;
        // Past the capture of what a test prints, which is shown for failed tests alone.
        let line = format!("NOT TRIED: dns-powerdns at Debian's PowerDNS, which is not here: {NEEDED}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    });
    None
}

/// Addresses for an API and for DNS that nobody else has: the loopback network has room for every process.
fn own_addresses() -> (SocketAddr, SocketAddr) {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ports = NEXT.fetch_add(2, Ordering::Relaxed);
    let address = Ipv4Addr::new(127, 64 | high, middle, low);
    ((address, ports).into(), (address, ports + 1).into())
}

/// A server that answers as it is told, down to the bytes, and keeps what it was asked.
pub(crate) struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Scripted {
    /// `answer` is given a request as it came.
    pub(crate) async fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let kept = seen.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read(&mut stream).await else { continue };
                let answer = answer(&request);
                kept.lock().unwrap().push(request);
                // Who asked may have gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    /// `http://ADDRESS:PORT`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, as they came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// An answer with that status and body.
pub(crate) fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}
