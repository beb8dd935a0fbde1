//! Hosts, handlers, events and snapshots for the tests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picored::handler::{Host, HostConfig, Limits, Loaded, Secrets};
use picored_core::config::{Handler, RunOn, SecretSource, Source};
use picored_core::event::{Event, EventKind, RunEnd};
use picored_core::name::{AppName, HandlerName, NodeName, SecretName};
use picored_core::policy::{Auth, AuthScheme, Grant};
use picored_core::snapshot::{Endpoint, EndpointSet, MemberInfo, MemberState, Snapshot};
use picored_core::time::Wall;

use crate::wait::{self, CEILING};

/// A guest's file: the committed one, or of the folder that `PICORED_GUESTS` names, such as a fresh build.
pub(crate) fn guest(name: &str) -> PathBuf {
    let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers-wasm/dist");
    let folder = std::env::var_os("PICORED_GUESTS").map_or_else(committed, PathBuf::from);
    folder.join(format!("{name}.wasm"))
}

/// A fixture guest's file.
pub(crate) fn fixture(name: &str) -> PathBuf {
    guest(&format!("fixtures/{name}"))
}

/// A host with its code in `cache`.
pub(crate) fn host_in(cache: &Path, limits: Limits) -> Host {
    host_with(cache, Path::new(env!("CARGO_BIN_EXE_picored")), [7; 32], limits)
}

/// A host without secrets, of all its other parts.
pub(crate) fn host_with(cache: &Path, compiler: &Path, node_key: [u8; 32], limits: Limits) -> Host {
    Host::new(HostConfig {
        cache_dir: cache.to_owned(),
        compiler: compiler.to_owned(),
        node_key,
        limits,
        metrics: Default::default(),
        secrets: Secrets::none(),
    })
    .unwrap()
}

/// A host that adds these secrets to requests, whose cache outlives the test.
pub(crate) fn host_of(secrets: Arc<Secrets>) -> Host {
    Host::new(HostConfig {
        cache_dir: cache(),
        compiler: env!("CARGO_BIN_EXE_picored").into(),
        node_key: [7; 32],
        limits: Limits::default(),
        metrics: Default::default(),
        secrets,
    })
    .unwrap()
}

/// A host as [`host`] that adds `secret` to the requests that `handler` may send, and the handler with its grants so.
/// The secret is read once: the file that it comes from is gone by then, and what was good stays.
pub(crate) fn host_with_secret(secret: &str, scheme: AuthScheme, mut handler: Handler) -> (Host, Handler) {
    let name = SecretName::new("key").unwrap();
    for grant in &mut handler.http {
        grant.auth = Some(Auth { scheme: scheme.clone(), secret: name.clone() });
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, secret).unwrap();
    let sources = BTreeMap::from([(name, SecretSource::File(file.path().to_owned()))]);
    (host_of(Secrets::read(&sources, std::slice::from_ref(&handler)).unwrap()), handler)
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("handler-code")
}

/// A host whose cache outlives the test, so that not every test compiles.
pub(crate) fn host(limits: Limits) -> Host {
    host_in(&cache(), limits)
}

/// A handler of that file, which has no grants.
pub(crate) fn handler(source: PathBuf) -> Handler {
    Handler {
        name: HandlerName::new("tested").unwrap(),
        source: Source::File(source),
        on: EventKind::ALL.to_vec(),
        apps: Vec::new(),
        watch: false,
        run_on: RunOn::default(),
        reconcile_every: Duration::from_secs(60),
        timeout: CEILING,
        config: BTreeMap::new(),
        http: Vec::new(),
    }
}

/// A fixture's handler with that config and those grants.
pub(crate) fn configured(name: &str, config: &[(&str, &str)], grants: Vec<Grant>) -> Handler {
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Handler { config, http: grants, ..handler(fixture(name)) }
}

/// A grant of `methods` on `paths` of `origin`, with the addresses in `private` open.
pub(crate) fn grant(origin: &str, methods: &[&str], paths: &[&str], private: &[&str]) -> Grant {
    Grant {
        origin: origin.parse().unwrap(),
        methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
        paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
        auth: None,
        allow_private: private.iter().map(|range| range.parse().unwrap()).collect(),
    }
}

pub(crate) fn event() -> Event {
    Event {
        id: "event-1".into(),
        kind: EventKind::AppDown,
        app: Some(AppName::new("web").unwrap()),
        member: Some(NodeName::new("b").unwrap()),
        time: Wall(1_700_000_000_123),
    }
}

pub(crate) fn snapshot() -> Arc<Snapshot> {
    let member = |name: &str, state, address: &str| MemberInfo {
        name: NodeName::new(name).unwrap(),
        state,
        address: address.parse().unwrap(),
    };
    let (first, second) = ("192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::2".parse::<IpAddr>().unwrap());
    let web = EndpointSet {
        revision: "r1".into(),
        endpoints: vec![Endpoint { member: NodeName::new("a").unwrap(), address: first, port: 80 }],
        claimed: vec![first, second],
    };
    let apps = [("web", web), ("none", EndpointSet::default())];
    Arc::new(Snapshot {
        node: member("a", MemberState::Alive, "127.0.0.1"),
        members: vec![member("a", MemberState::Alive, "127.0.0.1"), member("b", MemberState::Down, "127.0.0.2")],
        apps: apps.into_iter().map(|(name, set)| (AppName::new(name).unwrap(), set)).collect(),
        revision: "s1".into(),
    })
}

/// Addresses of their texts.
pub(crate) fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// A cluster that wants `wanted`, and of which `claimed` is its own.
pub(crate) fn cluster(wanted: &[&str], claimed: &[&str]) -> Arc<Snapshot> {
    let member = NodeName::new("a").unwrap();
    let endpoints: Vec<_> =
        addresses(wanted).into_iter().map(|address| Endpoint { member: member.clone(), address, port: 80 }).collect();
    let set = EndpointSet { revision: format!("{wanted:?}"), endpoints, claimed: addresses(claimed) };
    let apps = BTreeMap::from([(AppName::new("www").unwrap(), set)]);
    Arc::new(Snapshot { apps, ..(*snapshot()).clone() })
}

/// Runs it once.
pub(crate) async fn run(loaded: &Arc<Loaded>) -> RunEnd {
    run_in(loaded, snapshot()).await
}

/// Runs it once where the cluster is as in `snapshot`.
pub(crate) async fn run_in(loaded: &Arc<Loaded>, snapshot: Arc<Snapshot>) -> RunEnd {
    wait::until("every run ends", String::new, loaded.run(event(), 1, snapshot)).await
}

/// Loads a fixture into a host of those limits and runs it once.
pub(crate) async fn run_fixture(name: &str, config: &[(&str, &str)], grants: Vec<Grant>, limits: Limits) -> RunEnd {
    run(&host(limits).load(&configured(name, config, grants)).await.unwrap()).await
}

/// The text of a run that worked.
pub(crate) fn done(end: RunEnd) -> String {
    match end {
        RunEnd::Done { text, .. } => text,
        other => panic!("the run should have worked: {other:?}"),
    }
}
