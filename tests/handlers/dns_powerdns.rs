//! The built `dns-powerdns` in the real host, against the embedded server, and against one that answers badly.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use picored::demo::api;
use picored::demo::zone::{Edit, NewSet, Zone, absolute};
use picored::handler::{Limits, Loaded};
use picored_core::config::Handler;
use picored_core::event::{RunEnd, StopReason};
use picored_core::name::{AppName, NodeName};
use picored_core::snapshot::{Endpoint, EndpointSet, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{CEILING, event, grant, guest, handler, host, snapshot};

const KEY: &str = "secret";
const NAME: &str = "www.example.org.";
const PATH: &str = "/api/v1/servers/localhost/zones/example.org.";

/// The zone behind its API, and the handler that writes it.
struct Scene {
    zone: Arc<Zone>,
    loaded: Arc<Loaded>,
    _servers: JoinSet<()>,
}

fn configured(api: SocketAddr, config: &[(&str, &str)]) -> Handler {
    let origin = format!("http://{api}");
    let mut all = BTreeMap::from(
        [("api", origin.as_str()), ("zone", "example.org."), ("record", NAME), ("ttl", "30"), ("api_key", KEY)]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    all.extend(config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Handler {
        config: all,
        http: vec![grant(&origin, &["GET", "PATCH"], &[PATH], &["127.0.0.1/32"])],
        ..handler(guest("dns-powerdns"))
    }
}

async fn scene(config: &[(&str, &str)]) -> Scene {
    let zone = Arc::new(Zone::new("example.org.", [127, 0, 0, 1].into()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (served, mut servers) = (zone.clone(), JoinSet::new());
    servers.spawn(async move { panic!("{:?}", api::serve(listener, served, KEY).await) });
    let loaded = host(Limits::default()).load(&configured(address, config)).await.unwrap();
    Scene { zone, loaded, _servers: servers }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// A cluster that wants `wanted`, and of which `claimed` is its own.
fn cluster(wanted: &[&str], claimed: &[&str]) -> Arc<Snapshot> {
    let member = NodeName::new("a").unwrap();
    let endpoints: Vec<_> =
        addresses(wanted).into_iter().map(|address| Endpoint { member: member.clone(), address, port: 80 }).collect();
    let set = EndpointSet { revision: format!("{wanted:?}"), endpoints, claimed: addresses(claimed) };
    let apps = BTreeMap::from([(AppName::new("www").unwrap(), set)]);
    Arc::new(Snapshot { apps, ..(*snapshot()).clone() })
}

async fn run(loaded: &Arc<Loaded>, snapshot: Arc<Snapshot>) -> RunEnd {
    tokio::time::timeout(CEILING, loaded.run(event(), 1, snapshot)).await.expect("every run ends")
}

impl Scene {
    fn put(&self, kind: &str, ttl: u32, records: &[(&str, bool)]) {
        let records = records.iter().map(|(text, disabled)| ((*text).to_owned(), *disabled)).collect();
        let set = Some(NewSet { ttl, records });
        self.zone.apply(&[Edit { name: NAME.into(), kind: kind.into(), set }]).unwrap();
    }

    fn published(&self) -> Vec<IpAddr> {
        self.zone.subscribe().borrow().addresses(&absolute(NAME).unwrap()).into_iter().collect()
    }

    fn serial(&self) -> u32 {
        self.zone.subscribe().borrow().serial
    }

    /// Runs once; whether it says that it changed something, and what it says.
    async fn publish(&self, wanted: &[&str], claimed: &[&str]) -> (bool, String) {
        match run(&self.loaded, cluster(wanted, claimed)).await {
            RunEnd::Done { changed, text } => (changed, text),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn it_makes_the_record_and_then_leaves_it_alone() {
    let scene = scene(&[]).await;
    let both = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    let (changed, text) = scene.publish(&both, &both).await;
    assert!(changed && text.contains("192.0.2.1") && text.contains("2001:db8::1"), "{text}");
    assert_eq!(scene.published(), addresses(&both));
    let serial = scene.serial();
    let (changed, text) = scene.publish(&both, &both).await;
    assert!(!changed && text.contains("192.0.2.1"), "{text}");
    assert_eq!(scene.serial(), serial, "nothing was written");
}

#[tokio::test]
async fn it_takes_out_what_is_the_clusters_and_keeps_what_is_not() {
    let scene = scene(&[]).await;
    scene.put("A", 30, &[("192.0.2.1", false), ("192.0.2.2", false), ("198.51.100.9", false)]);
    let (changed, text) = scene.publish(&["192.0.2.1"], &["192.0.2.1", "192.0.2.2"]).await;
    assert!(changed && text.contains("198.51.100.9"), "{text}");
    assert_eq!(scene.published(), addresses(&["192.0.2.1", "198.51.100.9"]));
}

#[tokio::test]
async fn a_family_that_nobody_has_any_more_goes_and_one_that_nobody_had_stays() {
    let scene = scene(&[]).await;
    scene.put("AAAA", 30, &[("2001:db8::2", false)]);
    scene.publish(&["192.0.2.1"], &["192.0.2.1"]).await;
    assert_eq!(scene.published(), addresses(&["192.0.2.1", "2001:db8::2"]), "somebody else's");
    scene.publish(&["192.0.2.1"], &["192.0.2.1", "2001:db8::2"]).await;
    assert_eq!(scene.published(), addresses(&["192.0.2.1"]));
}

#[tokio::test]
async fn addresses_are_compared_as_addresses_and_the_ttl_too() {
    let scene = scene(&[]).await;
    scene.put("AAAA", 30, &[("2001:DB8:0:0::1", false)]);
    assert!(!scene.publish(&["2001:db8::1"], &["2001:db8::1"]).await.0);
    scene.put("AAAA", 300, &[("2001:db8::1", false)]);
    let (changed, text) = scene.publish(&["2001:db8::1"], &["2001:db8::1"]).await;
    assert!(changed && text.contains("300"), "{text}");
}

#[tokio::test]
async fn a_wrong_key_and_a_wrong_zone_are_told_and_not_tried_again() {
    for (config, word) in [(&[("api_key", "wrong")][..], "401"), (&[("record", "www.example.com.")], "example.com")] {
        let scene = scene(config).await;
        match run(&scene.loaded, cluster(&["192.0.2.1"], &["192.0.2.1"])).await {
            RunEnd::Permanent(text) => assert!(text.contains(word), "{text}"),
            other => panic!("{word}: {other:?}"),
        }
        assert!(scene.published().is_empty());
    }
}

#[tokio::test]
async fn a_config_that_lacks_something_names_it() {
    let scene = scene(&[("ttl", "soon")]).await;
    match run(&scene.loaded, cluster(&["192.0.2.1"], &[])).await {
        RunEnd::Permanent(text) => assert!(text.contains("ttl"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A server that gives one answer to everything.
async fn run_against(answer: &'static str) -> RunEnd {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // One read has the head, and the handler's requests for reading have no body.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let loaded = host(Limits::default()).load(&configured(address, &[])).await.unwrap();
    let end = run(&loaded, cluster(&["192.0.2.1"], &["192.0.2.1"])).await;
    server.abort();
    end
}

#[tokio::test]
async fn bad_answers_end_with_the_right_word() {
    let end = run_against("HTTP/1.1 429 Slow Down\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
    assert!(matches!(&end, RunEnd::RetryAfter(wait, _) if *wait == Duration::from_secs(7)), "{end:?}");
    let end = run_against("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    assert!(matches!(&end, RunEnd::Retry(_)), "{end:?}");
    let end = run_against("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(matches!(&end, RunEnd::Retry(text) if text.contains("not a zone as PowerDNS shows it")), "{end:?}");
    // A field renamed: what this handler does not understand it must not write over.
    let renamed = "HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n{\"name\":\"example.org.\",\"rr\":[]}";
    let end = run_against(renamed).await;
    assert!(matches!(&end, RunEnd::Permanent(text) if text.contains("rrsets")), "{end:?}");
    let end = run_against("HTTP/1.1 422 No\r\ncontent-length: 16\r\n\r\n{\"error\":\"this\"}").await;
    assert!(matches!(&end, RunEnd::Permanent(text) if text.contains("this")), "{end:?}");
    let end = run_against("").await;
    assert!(!matches!(&end, RunEnd::Done { .. } | RunEnd::Stopped(StopReason::Trap, _)), "{end:?}");
}
