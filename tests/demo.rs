//! The parts of `picored demo` on real sockets: its DNS server, its PowerDNS-like API, its web server and its visitor.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use picored::demo::client::{Visit, resolve, visit_once};
use picored::demo::dns::Server;
use picored::demo::zone::{Edit, NewSet, Zone, absolute};
use picored::demo::{api, web};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

const KEY: &str = "secret";
const ZONE_PATH: &str = "/api/v1/servers/localhost/zones/example.org.";

/// A zone with both of its servers, until dropped.
struct Fixture {
    zone: Arc<Zone>,
    dns: SocketAddr,
    api: SocketAddr,
    servers: JoinSet<()>,
}

impl Fixture {
    async fn new() -> Self {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let zone = Arc::new(Zone::new("example.org.", local.ip()).unwrap());
        let server = Server::bind(local).await.unwrap();
        let listener = TcpListener::bind(local).await.unwrap();
        let (dns, api) = (server.address(), listener.local_addr().unwrap());
        let mut servers = JoinSet::new();
        let (for_dns, for_api) = (Arc::clone(&zone), Arc::clone(&zone));
        servers.spawn(async move { panic!("{:?}", server.serve(for_dns).await) });
        servers.spawn(async move { panic!("{:?}", api::serve(listener, for_api, KEY).await) });
        Self { zone, dns, api, servers }
    }

    fn set(&self, name: &str, kind: &str, addresses: &[&str]) {
        let records = addresses.iter().map(|text| (text.to_string(), false)).collect();
        let edit = Edit { name: name.into(), kind: kind.into(), set: Some(NewSet { ttl: 30, records }) };
        self.zone.apply(&[edit]).unwrap();
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind)).await
    }

    async fn send(&self, message: &Message) -> Message {
        let answer = exchange(self.dns, &message.to_vec().unwrap()).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        answer
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call("GET", path, Some(KEY), "").await
    }

    async fn patch(&self, body: &Value) -> (StatusCode, Value) {
        self.call("PATCH", ZONE_PATH, Some(KEY), &body.to_string()).await
    }

    async fn call(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> (StatusCode, Value) {
        let stream = TcpStream::connect(self.api).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Sends bytes over UDP; the answer, or `None` if a later, good question is answered first.
async fn exchange(dns: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut probe = question("example.org.", RecordType::SOA);
    let id = bytes.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    probe.metadata.id = id.wrapping_add(1);
    socket.send(&probe.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    (buffer[..2] != probe.metadata.id.to_be_bytes()).then(|| buffer[..length].to_vec())
}

async fn over_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[tokio::test]
async fn dns_answers_with_the_authority_of_its_zone() {
    let fixture = Fixture::new().await;
    fixture.set("www.example.org.", "A", &["10.0.0.1"]);
    fixture.set("www.example.org.", "AAAA", &["2001:db8::1"]);

    let answer = fixture.ask("WWW.Example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
    assert!(
        answer.queries[0].name().eq_case(&Name::from_ascii("WWW.Example.org.").unwrap()),
        "the question comes back"
    );
    assert_eq!(addresses(&answer), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(answer.answers[0].ttl, 30);

    let answer = fixture.ask("www.example.org.", RecordType::AAAA).await;
    assert_eq!(addresses(&answer), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    assert_eq!(fixture.ask("www.example.org.", RecordType::ANY).await.answers.len(), 2);

    for (kind, want) in [(RecordType::SOA, "ns.example.org. ns.example.org. 3 "), (RecordType::NS, "ns.example.org.")] {
        let answer = fixture.ask("example.org.", kind).await;
        assert!(answer.answers[0].data.to_string().starts_with(want), "{answer:?}");
    }
    assert_eq!(addresses(&fixture.ask("ns.example.org.", RecordType::A).await), [fixture.dns.ip()]);
}

#[tokio::test]
async fn dns_says_what_it_does_not_have() {
    let fixture = Fixture::new().await;
    fixture.set("www.example.org.", "A", &["10.0.0.1"]);
    for (name, kind, code) in [
        ("www.example.org.", RecordType::AAAA, ResponseCode::NoError),
        ("www.example.org.", RecordType::MX, ResponseCode::NoError),
        ("other.example.org.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = fixture.ask(name, kind).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.answers.is_empty() && answer.metadata.authoritative);
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)), "{name} {kind}: {answer:?}");
    }
    for (name, kind) in [
        ("example.net.", RecordType::A),
        ("org.", RecordType::SOA),
        (".", RecordType::NS),
        ("example.org.", RecordType::AXFR),
    ] {
        let answer = fixture.ask(name, kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name} {kind}");
        assert!(answer.answers.is_empty() && answer.authorities.is_empty() && !answer.metadata.authoritative);
    }
}

#[tokio::test]
async fn dns_gives_each_address_its_turn_at_the_front() {
    let fixture = Fixture::new().await;
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    fixture.set("www.example.org.", "A", &all);
    let mut first = BTreeSet::new();
    for _ in all {
        let given = addresses(&fixture.ask("www.example.org.", RecordType::A).await);
        assert_eq!(given.len(), 3);
        first.insert(given[0]);
    }
    assert_eq!(first.len(), 3);
}

#[tokio::test]
async fn dns_cuts_what_is_too_long_for_udp_and_gives_it_whole_over_tcp() {
    let fixture = Fixture::new().await;
    let many: Vec<String> = (0..50).map(|i| format!("10.0.0.{i}")).collect();
    fixture.set("many.example.org.", "A", &many.iter().map(String::as_str).collect::<Vec<_>>());

    let plain = question("many.example.org.", RecordType::A);
    let cut = fixture.send(&plain).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());

    let mut with_edns = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    with_edns.set_edns(edns);
    let whole = fixture.send(&with_edns).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 50);
    assert_eq!(whole.edns.unwrap().max_payload(), 1232);

    let mut stream = TcpStream::connect(fixture.dns).await.unwrap();
    for _ in 0..2 {
        assert_eq!(over_tcp(&mut stream, &plain).await.answers.len(), 50, "two questions on one connection");
    }
}

#[tokio::test]
async fn dns_tells_off_what_is_no_question_of_its_kind() {
    let fixture = Fixture::new().await;
    let good = question("example.org.", RecordType::SOA);

    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(fixture.send(&update).await.metadata.response_code, ResponseCode::NotImp);

    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(fixture.send(&chaos).await.metadata.response_code, ResponseCode::Refused);

    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(fixture.send(&two).await.metadata.response_code, ResponseCode::FormErr);
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(fixture.send(&none).await.metadata.response_code, ResponseCode::FormErr);

    let mut newer = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    let answer = fixture.send(&newer).await;
    // One number for two names: BADVERS here, BADSIG in a signed message.
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.unwrap().version(), 0);
}

#[tokio::test]
async fn dns_lives_through_garbage() {
    let fixture = Fixture::new().await;
    let good = question("example.org.", RecordType::SOA).to_vec().unwrap();
    for length in 0..good.len() {
        let answer = exchange(fixture.dns, &good[..length]).await;
        assert_eq!(answer.is_some(), length >= 12, "{length} bytes");
        if let Some(answer) = answer {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{length} bytes");
        }
    }
    let mut answer_as_question = good.clone();
    answer_as_question[2] |= 0x80;
    assert_eq!(exchange(fixture.dns, &answer_as_question).await, None, "an answer is not answered");
    let mut looping_name = good.clone();
    looping_name.splice(12.., [0xc0, 0x0c, 0, 1, 0, 1]);
    let answer = exchange(fixture.dns, &looping_name).await.unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::FormErr);

    // Over TCP a broken frame ends its own connection and no other.
    let mut broken = TcpStream::connect(fixture.dns).await.unwrap();
    broken.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), broken.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    let mut fine = TcpStream::connect(fixture.dns).await.unwrap();
    let answer = over_tcp(&mut fine, &question("example.org.", RecordType::SOA)).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn api_shows_the_zone_as_powerdns_does() {
    let fixture = Fixture::new().await;
    fixture.set("www.example.org.", "A", &["10.0.0.2", "10.0.0.1"]);
    fixture.set("www.example.org.", "AAAA", &["2001:db8::1"]);

    let (status, zone) = fixture.get(ZONE_PATH).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&zone["id"], &zone["name"]), (&json!("example.org."), &json!("example.org.")));
    assert_eq!((&zone["kind"], &zone["serial"]), (&json!("Native"), &json!(3)));
    let sets = zone["rrsets"].as_array().unwrap();
    let kinds: Vec<_> = sets.iter().map(|set| (set["name"].as_str().unwrap(), set["type"].as_str().unwrap())).collect();
    let (apex, ns, www) = ("example.org.", "ns.example.org.", "www.example.org.");
    assert_eq!(kinds, [(apex, "SOA"), (apex, "NS"), (ns, "A"), (www, "A"), (www, "AAAA")]);

    let wanted = json!({
        "name": "www.example.org.", "type": "A", "ttl": 30, "comments": [],
        "records": [{ "content": "10.0.0.2", "disabled": false }, { "content": "10.0.0.1", "disabled": false }],
    });
    for (query, count) in [
        ("?rrset_name=www.example.org.&rrset_type=A", 1),
        ("?rrset_type=a&rrset_name=WWW%2Eexample.org.", 1),
        ("?rrset_name=www.example.org.", 2),
        ("?rrset_name=none.example.org.&rrset_type=A", 0),
        ("?rrset_name=www.example.org.&rrset_type=TXT", 0),
    ] {
        let (status, zone) = fixture.get(&format!("{ZONE_PATH}{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}");
        let sets = zone["rrsets"].as_array().unwrap();
        assert_eq!(sets.len(), count, "{query}");
        assert!(count == 0 || sets[0] == wanted, "{query}: {sets:?}");
    }
    let (_, zone) = fixture.get(&format!("{ZONE_PATH}?rrsets=false")).await;
    assert_eq!(zone.get("rrsets"), None);
    let (status, error) = fixture.get(&format!("{ZONE_PATH}?rrset_type=A")).await;
    assert_eq!((status, error["error"].is_string()), (StatusCode::UNPROCESSABLE_ENTITY, true));
}

#[tokio::test]
async fn api_replaces_and_deletes_and_dns_says_so_at_once() {
    let fixture = Fixture::new().await;
    let mut seen = fixture.zone.subscribe();
    let set = |changetype: &str, records: Value| {
        let set = json!({
            "name": "www.example.org.", "type": "A", "ttl": 5, "changetype": changetype, "records": records,
        });
        json!({ "rrsets": [set] })
    };
    let two = set("REPLACE", json!([{ "content": "10.0.0.1", "disabled": false }, { "content": "10.0.0.2" }]));
    assert_eq!(fixture.patch(&two).await, (StatusCode::NO_CONTENT, Value::Null));
    let name = absolute("www.example.org.").unwrap();
    assert_eq!(seen.borrow_and_update().addresses(&name).len(), 2);
    assert_eq!(fixture.ask("www.example.org.", RecordType::A).await.answers.len(), 2);

    let one = set("REPLACE", json!([{ "content": "10.0.0.3" }]));
    assert_eq!(fixture.patch(&one).await.0, StatusCode::NO_CONTENT);
    let answer = fixture.ask("www.example.org.", RecordType::A).await;
    assert_eq!(addresses(&answer), ["10.0.0.3".parse::<IpAddr>().unwrap()]);

    assert_eq!(fixture.patch(&set("DELETE", json!(null))).await.0, StatusCode::NO_CONTENT);
    let answer = fixture.ask("www.example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(fixture.patch(&one).await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.patch(&set("REPLACE", json!([]))).await.0, StatusCode::NO_CONTENT);
    assert!(seen.borrow_and_update().addresses(&name).is_empty(), "an empty set is none");
}

#[tokio::test]
async fn api_refuses_with_the_codes_of_powerdns() {
    let fixture = Fixture::new().await;
    let one = |change: Value| {
        let mut set = json!({
            "name": "www.example.org.", "type": "A", "ttl": 5, "changetype": "REPLACE",
            "records": [{ "content": "10.0.0.1" }],
        });
        for (key, value) in change.as_object().unwrap() {
            set[key] = value.clone();
        }
        set.as_object_mut().unwrap().retain(|_, value| *value != json!("absent"));
        json!({ "rrsets": [set] }).to_string()
    };
    let large = format!("{{\"rrsets\": [], \"x\": \"{}\"}}", "x".repeat(70_000));
    let good = one(json!({}));
    let seen = fixture.zone.subscribe();
    for (method, path, key, body, status) in [
        ("GET", ZONE_PATH, None, "", 401),
        ("PATCH", ZONE_PATH, Some("wrong"), good.as_str(), 401),
        ("GET", "/", None, "", 401),
        ("GET", "/", Some(KEY), "", 404),
        ("GET", "/api/v1/servers/localhost/zones", Some(KEY), "", 404),
        ("GET", "/api/v1/servers/localhost/zones/", Some(KEY), "", 404),
        ("GET", "/api/v1/servers/localhost/zones/example.net.", Some(KEY), "", 404),
        ("PATCH", "/api/v1/servers/localhost/zones/example.net.", Some(KEY), &good, 404),
        ("PATCH", "/api/v1/servers/localhost/zones/example.org./x", Some(KEY), &good, 404),
        ("PUT", ZONE_PATH, Some(KEY), "", 405),
        ("DELETE", ZONE_PATH, Some(KEY), "", 405),
        ("PATCH", ZONE_PATH, Some(KEY), &large, 413),
        ("PATCH", ZONE_PATH, Some(KEY), "", 400),
        ("PATCH", ZONE_PATH, Some(KEY), "{\"rrsets\"", 400),
        ("PATCH", ZONE_PATH, Some(KEY), "{}", 422),
        ("PATCH", ZONE_PATH, Some(KEY), "{\"rrsets\": 1}", 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "name": "www.example.org" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "name": "www.example.net." })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "type": "NOPE" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "type": "SOA" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "changetype": "ADD" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "changetype": "absent" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "ttl": "absent" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "ttl": -1 })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "ttl": 2_147_483_648_u32 })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "records": "absent" })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "records": [{ "content": "::1" }] })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "records": [{ "content": "10.0.0" }] })), 422),
        ("PATCH", ZONE_PATH, Some(KEY), &one(json!({ "records": [{}] })), 422),
    ] {
        let (got, answer) = fixture.call(method, path, key, body).await;
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path} {body}: {answer}");
    }
    assert!(!seen.has_changed().unwrap(), "nothing was half done");
    let without_dot = ZONE_PATH.trim_end_matches('.');
    assert_eq!(fixture.call("PATCH", without_dot, Some(KEY), &good).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_visitor_finds_the_site_by_its_name_and_only_while_it_is_up() {
    let mut fixture = Fixture::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let site = fixture.servers.spawn(async move { panic!("{:?}", web::serve(listener, "web1").await) });
    fixture.set("www.example.org.", "A", &["127.0.0.1"]);
    let name = Name::from_ascii("www.example.org.").unwrap();
    assert_eq!(resolve(fixture.dns, &name).await.unwrap(), [address.ip()]);

    let visit = Visit { dns: fixture.dns, name, port: address.port() };
    assert_eq!(visit_once(&visit).await.unwrap(), "Hello from web1\n");
    let lost = Visit { name: Name::from_ascii("lost.example.org.").unwrap(), ..visit.clone() };
    assert!(visit_once(&lost).await.unwrap_err().to_string().contains("Non-Existent Domain"));

    site.abort();
    let ended = fixture.servers.join_next().await.unwrap().unwrap_err();
    assert!(ended.is_cancelled());
    assert!(visit_once(&visit).await.is_err(), "the listener is gone");

    // The same port can be had again at once, as a restart needs it.
    let again = TcpListener::bind(address).await.unwrap();
    fixture.servers.spawn(async move { panic!("{:?}", web::serve(again, "web1").await) });
    assert_eq!(visit_once(&visit).await.unwrap(), "Hello from web1\n");
}

#[tokio::test]
async fn a_visitor_gives_up_on_a_site_that_hangs() {
    let fixture = Fixture::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    fixture.set("www.example.org.", "A", &["127.0.0.1"]);
    let name = Name::from_ascii("www.example.org.").unwrap();
    let visit = Visit { dns: fixture.dns, name, port: silent.local_addr().unwrap().port() };
    let result = timeout(Duration::from_secs(30), visit_once(&visit)).await.expect("it gives up by itself");
    assert!(format!("{:#}", result.unwrap_err()).contains("did not answer"));
}
