//! The built `dns-powerdns` in the real host, once in Rust and once in JavaScript: one list of tests for both, against
//! the embedded server and Debian's PowerDNS; in `answers`, against one that answers as it is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use picored::handler::Loaded;
use picored_core::config::Handler;
use picored_core::event::RunEnd;
use picored_core::policy::AuthScheme;
use tokio::sync::OnceCell;

use crate::powerdns::{KEY, Kind, NAME, Server, ZONES};
use crate::support::{addresses, cluster, grant, guest, handler, host_with_secret, run_in as run};

/// What is tried.
#[derive(Clone, Copy, Debug)]
enum Component {
    Rust,
    JavaScript,
}

use Component::{JavaScript, Rust};
use Kind::{Debian, Embedded};

/// Makes a test of each function for each subject.
macro_rules! tests {
    ([$($module:ident: $subject:expr),* $(,)?] $names:tt) => { $(tests!(@ $module, $subject, $names);)* };
    (@ $module:ident, $subject:expr, [$($name:ident),* $(,)?]) => {
        mod $module {
            use super::*;

            $(#[tokio::test]
            async fn $name() {
                super::$name($subject).await;
            })*
        }
    };
}

mod answers;

tests!([
    rust_at_embedded: (Rust, Embedded),
    rust_at_debian: (Rust, Debian),
    javascript_at_embedded: (JavaScript, Embedded),
    javascript_at_debian: (JavaScript, Debian),
] [
    it_makes_the_record_and_then_leaves_it_alone,
    it_takes_out_what_is_the_clusters_and_keeps_what_is_not,
    a_family_that_nobody_has_any_more_goes_and_one_that_nobody_had_stays,
    another_time_to_live_is_a_difference,
    what_the_operator_disabled_stays_disabled_and_stays,
    a_wrong_key_and_a_wrong_zone_are_told_and_not_tried_again,
]);

impl Component {
    fn file(self) -> PathBuf {
        match self {
            Rust => guest("dns-powerdns"),
            JavaScript => {
                let committed = "examples/dns-powerdns-js/dist/dns-powerdns-js.wasm";
                let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join(committed);
                std::env::var_os("PICORED_JS_GUEST").map_or_else(committed, PathBuf::from)
            }
        }
    }

    /// Loads it for the API at `origin`, with that config beside what it needs.
    async fn load(self, origin: &str, config: &[(&str, &str)]) -> Arc<Loaded> {
        self.load_with_key(KEY, origin, config).await
    }

    /// The same, with that API key at the host.
    async fn load_with_key(self, key: &str, origin: &str, config: &[(&str, &str)]) -> Arc<Loaded> {
        let mut all = BTreeMap::from(
            [("api", origin), ("zone", "example.org."), ("record", NAME), ("ttl", "30")]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        all.extend(config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let handler = Handler {
            config: all,
            http: vec![grant(origin, &["GET", "PATCH"], &[ZONES], &["127.0.0.0/8"])],
            ..handler(self.file())
        };
        // Whoever is first has it compiled; the others find the code.
        static COMPILED: [OnceCell<()>; 2] = [OnceCell::const_new(), OnceCell::const_new()];
        let scheme = AuthScheme::Header { header: "x-api-key".into() };
        let (host, handler) = host_with_secret(key, scheme, handler);
        let load = async || host.load(&handler).await.unwrap();
        COMPILED[self as usize].get_or_init(async || drop(load().await)).await;
        load().await
    }
}

fn permanent(end: RunEnd) -> String {
    match end {
        RunEnd::Permanent(text) => text,
        other => panic!("not for good: {other:?}"),
    }
}

/// The zone behind its API, and the handler that writes it.
struct Scene {
    server: Server,
    loaded: Arc<Loaded>,
}

impl Scene {
    async fn new((component, kind): (Component, Kind)) -> Option<Self> {
        let server = Server::start(kind).await?;
        let loaded = component.load(&server.origin(), &[]).await;
        Some(Self { server, loaded })
    }

    /// Runs once; whether it says that it changed something, and what it says.
    async fn publish(&self, wanted: &[&str], claimed: &[&str]) -> (bool, String) {
        match run(&self.loaded, cluster(wanted, claimed)).await {
            RunEnd::Done { changed, text } => (changed, text),
            other => panic!("{other:?}"),
        }
    }
}

async fn it_makes_the_record_and_then_leaves_it_alone(subject: (Component, Kind)) {
    let Some(scene) = Scene::new(subject).await else { return };
    let both = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    let (changed, text) = scene.publish(&both, &both).await;
    let words = "A: 192.0.2.1 192.0.2.2 (added 192.0.2.1 192.0.2.2), AAAA: 2001:db8::1 (added 2001:db8::1)";
    assert_eq!((changed, text), (true, format!("{NAME} {words}")));
    assert_eq!(scene.server.published().await, addresses(&both));
    let serial = scene.server.serial().await;
    let (changed, text) = scene.publish(&both, &both).await;
    let words = "A: 192.0.2.1 192.0.2.2 (unchanged), AAAA: 2001:db8::1 (unchanged)";
    assert_eq!((changed, text), (false, format!("{NAME} {words}")));
    assert_eq!(scene.server.serial().await, serial, "nothing was written");
}

async fn it_takes_out_what_is_the_clusters_and_keeps_what_is_not(subject: (Component, Kind)) {
    let Some(scene) = Scene::new(subject).await else { return };
    scene.server.put("A", 30, &[("192.0.2.1", false), ("192.0.2.2", false), ("198.51.100.9", false)]).await;
    let (changed, text) = scene.publish(&["192.0.2.1"], &["192.0.2.1", "192.0.2.2"]).await;
    let words = "A: 192.0.2.1 (removed 192.0.2.2; kept foreign 198.51.100.9)";
    assert_eq!((changed, text), (true, format!("{NAME} {words}")));
    assert_eq!(scene.server.published().await, addresses(&["192.0.2.1", "198.51.100.9"]));
}

async fn a_family_that_nobody_has_any_more_goes_and_one_that_nobody_had_stays(subject: (Component, Kind)) {
    let Some(scene) = Scene::new(subject).await else { return };
    scene.server.put("AAAA", 30, &[("2001:db8::2", false)]).await;
    scene.publish(&["192.0.2.1"], &["192.0.2.1"]).await;
    assert_eq!(scene.server.published().await, addresses(&["192.0.2.1", "2001:db8::2"]), "somebody else's");
    scene.publish(&["192.0.2.1"], &["192.0.2.1", "2001:db8::2"]).await;
    assert_eq!(scene.server.published().await, addresses(&["192.0.2.1"]));
}

async fn another_time_to_live_is_a_difference(subject: (Component, Kind)) {
    let Some(scene) = Scene::new(subject).await else { return };
    scene.server.put("AAAA", 300, &[("2001:db8::1", false)]).await;
    let (changed, text) = scene.publish(&["2001:db8::1"], &["2001:db8::1"]).await;
    assert_eq!((changed, text), (true, format!("{NAME} AAAA: 2001:db8::1 (ttl 300 to 30)")));
    assert_eq!(scene.server.records().await, [("AAAA".to_owned(), 30, "2001:db8::1".to_owned(), false)]);
}

async fn what_the_operator_disabled_stays_disabled_and_stays(subject: (Component, Kind)) {
    let Some(scene) = Scene::new(subject).await else { return };
    scene.server.put("A", 30, &[("192.0.2.1", false), ("192.0.2.2", true), ("198.51.100.9", true)]).await;
    let ours = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let (changed, text) = scene.publish(&["192.0.2.2", "192.0.2.3"], &ours).await;
    let words = "A: 192.0.2.3 (added 192.0.2.3; removed 192.0.2.1), left disabled 192.0.2.2";
    assert_eq!((changed, text), (true, format!("{NAME} {words}")));
    let expected = [("192.0.2.2", true), ("192.0.2.3", false), ("198.51.100.9", true)];
    let expected = expected.map(|(content, disabled)| ("A".to_owned(), 30, content.to_owned(), disabled));
    assert_eq!(scene.server.records().await, expected);
}

async fn a_wrong_key_and_a_wrong_zone_are_told_and_not_tried_again(subject: (Component, Kind)) {
    let Some(Scene { server, .. }) = Scene::new(subject).await else { return };
    let elsewhere = [("zone", "example.com."), ("record", "www.example.com.")];
    for (key, config, word) in [
        ("the wrong key", &[][..], "status 401"),
        (KEY, &[("record", "www.example.com.")], "`www.example.com.` does not lie in zone `example.org.`"),
        (KEY, &elsewhere, "status 404"),
    ] {
        let loaded = subject.0.load_with_key(key, &server.origin(), config).await;
        let text = permanent(run(&loaded, cluster(&["192.0.2.1"], &["192.0.2.1"])).await);
        assert!(text.contains(word), "{text}");
        assert!(server.published().await.is_empty());
    }
}
