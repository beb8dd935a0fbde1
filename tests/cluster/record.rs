//! Nodes that are alive and are not to write the record: one that is alone, one that holds the handler to be another thing
//! than most, and one whom the provider refuses. Where others write it, everybody says who is odd.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use picored::demo::api;
use picored::demo::zone::{Zone, absolute};
use picored_core::name::{HandlerName, NodeName};
use picored_core::plan;
use picored_core::status::{MismatchStatus, Status};
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::node::{Line, is};
use crate::site::{Setup, Site, fixture, free_address};
use crate::website::Website;

const APP: &str = "interval = \"100ms\"\ntimeout = \"30s\"\nrise = 1\nfall = 1";
const KEY: &str = "the-api-key-of-the-zone";
const RECORD: &str = "www.example.org.";

/// The name of a second node to which the record would fall, if both were as good.
fn second_name(first: &str) -> String {
    let dns = HandlerName::new("dns").unwrap();
    let is_so = |name: &String| {
        let two = [NodeName::new(first).unwrap(), NodeName::new(name).unwrap()];
        plan::runner(&dns, "www", two.iter()) == Some(&two[1])
    };
    (2..9).map(|number| format!("n{number}")).find(is_so).unwrap()
}

/// With the handler that writes the record, told to give it this TTL, and one whose component is that fixture.
fn handlers(setup: Setup, api: &str, key: &Path, ttl: u32, other: &str) -> Setup {
    let dns = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers-wasm/dist/dns-powerdns.wasm");
    let more = format!(
        "apps = [\"ww*\"]\n[handler.config]\napi = \"{api}\"\nzone = \"example.org.\"\nrecord = \"{RECORD}\"\nttl = {ttl}\n\
         [[handler.http]]\nallow = \"{api}\"\nmethods = [\"GET\", \"PATCH\"]\n\
         paths = [\"/api/v1/servers/localhost/zones/example.org.\"]\nallow_private = [\"127.0.0.1/32\"]\n\
         auth = {{ header = \"X-API-Key\", secret = \"pdns\" }}\n[secrets]\npdns = {{ file = {key:?} }}\n"
    );
    setup.handler("dns", &dns, &more).handler("other", &fixture(other), "on = [\"reconcile\"]")
}

/// Who differs, and in what.
fn odd(it: &MismatchStatus) -> (&str, &str) {
    (&it.node, &it.differs)
}

/// What a node shows of each of its handlers: the state, and who differs in what.
fn shown(status: &Status) -> Vec<(&str, Vec<(&str, &str)>)> {
    status.handlers.iter().map(|it| (it.state.as_str(), it.mismatches.iter().map(odd).collect())).collect()
}

/// A DNS server with an API, and where that is.
async fn provider() -> (Arc<Zone>, String) {
    let zone = Arc::new(Zone::new("example.org.", [127, 0, 0, 1].into()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = zone.clone();
    tokio::spawn(async move { api::serve(listener, served, KEY).await });
    (zone, url)
}

/// A file that holds a secret.
fn secret(site: &Site, name: &str, key: &str) -> PathBuf {
    let path = site.path(name);
    fs::write(&path, key).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// `PICORED_STAGGER` says how many seconds lie between two starts; else each begins as soon as the one before has settled.
#[tokio::test]
async fn a_cold_start_one_after_another_never_leaves_the_first_alone_in_the_record() {
    let site = Site::new();
    let (zone, url) = provider().await;
    let key = secret(&site, "pdns.key", KEY);
    let name = absolute(RECORD).unwrap();
    let stagger = std::env::var("PICORED_STAGGER").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let addresses = [1, 2, 3].map(|number| free_address(&format!("127.0.8.{number}")));
    let mut sizes = zone.subscribe();
    let watched = tokio::spawn({
        let name = name.clone();
        async move {
            let mut seen = Vec::new();
            loop {
                let size = sizes.borrow_and_update().addresses(&name).len();
                seen.push(size);
                if size == 3 || sizes.changed().await.is_err() {
                    return seen;
                }
            }
        }
    });
    let mut running = Vec::new();
    for (number, address) in (1..).zip(addresses) {
        let (website, is_up) = Website::switched().await;
        let mut setup = site.setup(&format!("n{number}"), address);
        for seed in addresses.iter().filter(|seed| **seed != address) {
            setup = setup.seed(seed);
        }
        let setup = setup.app(&website, &format!("192.0.2.{number}"), APP);
        let node = site.start(&handlers(setup, &url, &key, 30, "ok"));
        let own = format!("n{number}");
        let is_up_here = |status: &Status| {
            let own = status.members.iter().find(|member| member.name == own)?;
            own.apps.iter().any(|app| app.state == "up").then_some(())
        };
        node.shows("that its application is up", is_up_here).await;
        tokio::time::sleep(stagger.unwrap_or_default()).await;
        running.push((node, website, is_up));
    }
    let seen = site.until("all three are published", watched).await.unwrap();
    assert!(seen.iter().all(|size| *size != 1), "the first was alone in the record: {seen:?}");
}

#[tokio::test]
async fn who_is_told_to_leave_goes_out_of_the_record_first_and_then_ends() {
    let site = Site::new();
    let (zone, url) = provider().await;
    let key = secret(&site, "pdns.key", KEY);
    let (mut running, mut seed) = (Vec::new(), None);
    for number in 1..=3 {
        let (website, _) = Website::switched().await;
        let mut setup = site.setup(&format!("n{number}"), "127.0.0.1:0");
        setup.node = "drain_wait = \"1s\"".into();
        if let Some(seed) = seed {
            setup = setup.seed(seed);
        }
        let setup = setup.app(&website, &format!("192.0.2.{number}"), APP);
        let node = site.start(&handlers(setup, &url, &key, 30, "ok"));
        seed = Some(node.address().await);
        running.push((node, website));
    }
    let name = absolute(RECORD).unwrap();
    let holds = async |what: &str, addresses: &[&str]| {
        let wanted: BTreeSet<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let mut contents = zone.subscribe();
        let reached = contents.wait_for(|contents| contents.addresses(&name) == wanted);
        site.until(what, reached).await.unwrap();
    };
    holds("all are published", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
    let (leaving, _website) = running.remove(0);
    let is_draining = async {
        holds("the first is out", &["192.0.2.2", "192.0.2.3"]).await;
        leaving.shows("that it is draining", |status| (status.state == "draining").then_some(())).await;
    };
    let ((code, text, _), ()) = tokio::join!(leaving.told(&["leave"]), is_draining);
    assert_eq!((code, text.as_str()), (Some(0), "n1 is draining: it leaves 1s after its addresses\nn1 has left\n"));
    let ended = leaving.end().await;
    assert_eq!(ended.status.code(), Some(0));
    let told = |line: &&Line| is(line, "picored::node", "drained") && line["level"] == "INFO";
    assert!(ended.lines.iter().find(told).is_some(), "{}", site.last_lines());

    // Maintenance waits in the same way.
    let (code, text, error) = running[0].0.told(&["maintenance", "on", "--wait", "1s"]).await;
    assert_eq!((code, error.as_str()), (Some(0), ""), "{text}");
    holds("the second is out", &["192.0.2.3"]).await;
}

#[tokio::test]
async fn a_node_whom_the_provider_refuses_is_named_and_another_writes_the_record() {
    let site = Site::new();
    let (zone, url) = provider().await;
    let nodes: Vec<_> = (1..=3).map(|number| NodeName::new(&format!("n{number}")).unwrap()).collect();
    let refused = plan::runner(&HandlerName::new("dns").unwrap(), "www", nodes.iter()).unwrap().as_str();
    let (good, bad) = (secret(&site, "good.key", KEY), secret(&site, "bad.key", "the-key-of-last-year"));
    let (mut running, mut seed) = (Vec::new(), None);
    for (number, node) in (1..).zip(&nodes) {
        let (website, is_up) = Website::switched().await;
        let mut setup = site.setup(node.as_str(), "127.0.0.1:0").app(&website, &format!("192.0.2.{number}"), APP);
        if let Some(seed) = seed {
            setup = setup.seed(seed);
        }
        let key = if node.as_str() == refused { &bad } else { &good };
        let node = site.start(&handlers(setup, &url, key, 30, "ok"));
        seed = Some(node.address().await);
        running.push((node, website, is_up));
    }
    let holds = async |what: &str, addresses: &[&str]| {
        let wanted: BTreeSet<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let mut contents = zone.subscribe();
        let reached = contents.wait_for(|contents| contents.addresses(&absolute(RECORD).unwrap()) == wanted);
        site.until(what, reached).await.unwrap();
    };
    holds("all are published", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;
    running[1].2.store(false, Ordering::SeqCst);
    holds("the second is out", &["192.0.2.1", "192.0.2.3"]).await;
    for (node, ..) in &running {
        let is_named = |status: &Status| {
            let failing = &status.handlers.iter().find(|it| it.name == "dns")?.failing;
            failing.iter().any(|it| it.node == refused && it.scope.as_deref() == Some("www")).then_some(())
        };
        node.shows("whose runs fail", is_named).await;
        let said = format!("failing: {refused}'s last run of dns for www failed, another node stands in");
        for what in [&["why", "www"][..], &["status"]] {
            let (_, text, _) = node.told(what).await;
            assert!(text.contains(&said), "{text}");
        }
    }
}

#[tokio::test]
async fn a_node_with_another_config_is_named_and_never_touches_the_record() {
    let site = Site::new();
    let (zone, url) = provider().await;
    let key = secret(&site, "pdns.key", KEY);
    let name = absolute(RECORD).unwrap();
    // Every TTL that the record ever had.
    let (seen, ttls) = watch::channel(BTreeSet::new());
    let (mut contents, of) = (zone.subscribe(), name.clone());
    tokio::spawn(async move {
        while contents.changed().await.is_ok() {
            let now = contents.borrow_and_update().clone();
            let ttls = now.sets.iter().filter(|((name, _), _)| *name == of).map(|(_, set)| set.ttl);
            seen.send_modify(|seen: &mut BTreeSet<u32>| seen.extend(ttls));
        }
    });
    let holds = async |what: &str, addresses: &[&str]| {
        let wanted: BTreeSet<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let mut contents = zone.subscribe();
        let reached = contents.wait_for(|contents| contents.addresses(&name) == wanted);
        site.until(what, reached).await.unwrap();
    };

    let ((first, first_up), (second, second_up)) = (Website::switched().await, Website::switched().await);
    let setup = handlers(site.setup("n1", "127.0.0.1:0").app(&first, "192.0.2.1", APP), &url, &key, 30, "ok");
    let n1 = site.start(&setup);
    let odd_name = second_name("n1");
    let n2_name = odd_name.as_str();
    let setup = site.setup(n2_name, "127.0.0.1:0").seed(n1.address().await).app(&second, "192.0.2.2", APP);
    let setup = handlers(setup, &url, &key, 60, "trap");
    let n2 = site.start(&setup);
    holds("both are published", &["192.0.2.1", "192.0.2.2"]).await;

    let (config, component) = (vec![(n2_name, "config")], vec![(n2_name, "component")]);
    let fine = [("ready", config.clone()), ("ready", component.clone())];
    let odd = [("config-mismatch", config), ("config-mismatch", component)];
    n1.shows("who is odd", |status| (shown(status) == fine).then_some(())).await;
    n2.shows("that it is odd", |status| (shown(status) == odd).then_some(())).await;
    let said = Command::new(env!("CARGO_BIN_EXE_picored")).args(["status", "--socket"]).arg(&setup.socket).output();
    let text = String::from_utf8(said.unwrap().stdout).unwrap();
    for line in ["dns, its config differs", "other, its component differs"] {
        let line = format!("config-mismatch: {n2_name} does not run {line} from most nodes'\n");
        assert!(text.contains(&line), "{text}");
    }

    second_up.store(false, Ordering::SeqCst);
    holds("the second is out", &["192.0.2.1"]).await;
    second_up.store(true, Ordering::SeqCst);
    holds("the second is back", &["192.0.2.1", "192.0.2.2"]).await;
    first_up.store(false, Ordering::SeqCst);
    holds("the first is out", &["192.0.2.2"]).await;
    first_up.store(true, Ordering::SeqCst);
    holds("the first is back", &["192.0.2.1", "192.0.2.2"]).await;
    assert_eq!(*ttls.borrow(), [30].into(), "{}", site.last_lines());
    let ran = n2.logged(|line: &Line| is(line, "picored::delivery", "started") && line["handler"] == "dns");
    assert!(ran.is_empty(), "{ran:?}");

    // Alone it is the one that most agree with.
    n1.signal(Signal::TERM);
    holds("the first has left", &["192.0.2.2"]).await;
    let alone = [("ready", vec![]), ("ready", vec![])];
    n2.shows("that nobody is odd", |status| (shown(status) == alone).then_some(())).await;
}
