//! Secrets at the gate, through both doors: they arrive as their grant says and nowhere else, no guest sees one come
//! back, and a file that changes is read again.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use picored::handler::{Host, Secrets};
use picored_core::config::Config;
use tempfile::TempDir;

use crate::server::Server;
use crate::support::{done, fixture, host_of, run};

const KEY: &str = "k3y/of+the~door";
const DOORS: [&str; 2] = ["fetch", "fetch-wasi"];

/// A host with one secret in a file, and what its handlers are made from.
struct Scene {
    folder: TempDir,
    host: Host,
    grants: String,
}

impl Scene {
    /// `grants` is the text of `[[handler.http]]` sections; the secret is called `key`.
    fn new(grants: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("key"), KEY);
        let config = config(folder.path(), "fetch", &[], &grants);
        Self { host: host_of(Secrets::read(&config.secrets, &config.handlers).unwrap()), folder, grants }
    }

    /// What both doors say to one request.
    async fn ask(&self, settings: &[(&str, &str)]) -> [String; 2] {
        let mut said = Vec::new();
        for door in DOORS {
            let config = config(self.folder.path(), door, settings, &self.grants);
            let loaded = self.host.load(&config.handlers[0]).await.unwrap();
            said.push(done(run(&loaded).await));
        }
        said.try_into().unwrap()
    }

    fn rewrite(&self, text: &str) {
        write(&self.folder.path().join("key"), text);
    }
}

/// Written beside and moved, as whoever rotates a secret does.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

fn config(folder: &Path, door: &str, settings: &[(&str, &str)], grants: &str) -> Config {
    let settings: String = settings.iter().map(|(key, value)| format!("{key} = {value:?}\n")).collect();
    let text = format!(
        "[node]\nname = \"n\"\nbind = \"127.0.0.1:0\"\n[cluster]\nname = \"c\"\n[secrets]\nkey = {{ file = {:?} }}\n\
         [[handler]]\nname = \"tested\"\nsource = \"file:{}\"\ntimeout = \"60s\"\n[handler.config]\n{settings}\n{grants}",
        folder.join("key"),
        fixture(door).display(),
    );
    Config::parse(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn grant(origin: &str, more: &str) -> String {
    format!("[[handler.http]]\nallow = \"{origin}\"\nallow_private = [\"127.0.0.0/8\"]\n{more}\n")
}

/// The lines of a request's head.
fn head(request: &str) -> Vec<&str> {
    request.split_once("\r\n\r\n").unwrap().0.lines().collect()
}

#[tokio::test]
async fn a_secret_goes_with_the_request_as_its_grant_says() {
    let basic = format!("authorization: Basic {}", STANDARD.encode(format!("web:{KEY}")));
    for (auth, expected) in [
        ("scheme = \"bearer\"", format!("authorization: Bearer {KEY}")),
        ("scheme = \"basic\", user = \"web\"", basic),
        ("header = \"X-API-Key\"", format!("x-api-key: {KEY}")),
    ] {
        let server = Server::start("").await;
        let scene = Scene::new(grant(&server.origin(), &format!("auth = {{ {auth}, secret = \"key\" }}")));
        // Whatever a guest puts in the same place goes, and so does what would give the answer another form.
        let headers = "Authorization: mine\nX-API-Key: mine\nx_api_key: mine\naccept-encoding: gzip\nrange: bytes=0-3\nx-other: 1";
        let url = format!("{}/a", server.origin());
        for said in scene.ask(&[("url", &url), ("headers", headers)]).await {
            assert!(said.starts_with("status 200 "), "{said}");
        }
        let (name, _) = expected.split_once(": ").unwrap();
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        for request in seen {
            let lines = head(&request);
            let same: Vec<_> =
                lines.iter().filter(|line| line.replace('_', "-").starts_with(&format!("{name}: "))).collect();
            assert_eq!(same, [&expected], "{request}");
            assert!(lines.contains(&"x-other: 1"), "{request}");
            assert!(!request.contains("gzip") && !request.contains("bytes="), "{request}");
        }
    }
}

#[tokio::test]
async fn a_secret_in_the_path_stands_where_the_grant_has_it() {
    let server = Server::start("").await;
    let auth = "paths = [\"/bot{secret}\"]\nauth = { scheme = \"path\", secret = \"key\" }";
    let scene = Scene::new(grant(&server.origin(), auth));
    let url = |path: &str| format!("{}{path}", server.origin());
    for said in scene.ask(&[("url", &url("/bot{secret}/send?a={secret}"))]).await {
        assert!(said.starts_with("status 200 "), "{said}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(head(&request)[0], "GET /botk3y%2Fof%2Bthe~door/send?a={secret} HTTP/1.1");
    }
    for path in ["/bot", "/{secret}", "/bot{secret}x", "/x/bot{secret}", "/bot{secret}/../{secret}"] {
        let said = scene.ask(&[("url", &url(path))]).await;
        assert!(said[0].starts_with("error denied: ") && said[1].contains("HttpRequestDenied"), "{path}: {said:?}");
    }
    let said = scene.ask(&[("url", &url("/bot{secret}/{secret}"))]).await;
    assert!(said[0].starts_with("error invalid: ") && said[1].contains("invalid"), "{said:?}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_body_is_signed_with_the_secret_which_is_not_sent() {
    let server = Server::start("").await;
    let auth =
        "methods = [\"POST\"]\nauth = { scheme = \"hmac-sha256-header\", header = \"X-Signature\", secret = \"key\" }";
    let scene = Scene::new(grant(&server.origin(), auth));
    let url = format!("{}/hook", server.origin());
    let settings =
        [("url", url.as_str()), ("method", "POST"), ("body", "{\"a\":1}"), ("headers", "x-signature: sha256=00")];
    for said in scene.ask(&settings).await {
        assert!(said.starts_with("status 200 "), "{said}");
    }
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, KEY.as_bytes());
    let hex: String = ring::hmac::sign(&key, b"{\"a\":1}").as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for request in server.seen() {
        let lines = head(&request);
        let signed: Vec<_> = lines.iter().filter(|line| line.starts_with("x-signature: ")).collect();
        assert_eq!(signed, [&format!("x-signature: sha256={hex}")]);
        assert!(!request.contains(KEY), "{request}");
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_secret_goes_with_the_first_grant_that_allows_and_with_no_other() {
    let (own, other) = (Server::start("").await, Server::start("").await);
    let auth = "auth = { scheme = \"bearer\", secret = \"key\" }";
    let grants = [
        grant(&own.origin(), "paths = [\"/open\"]"),
        grant(&own.origin(), auth),
        grant(&other.origin(), "methods = [\"GET\", \"POST\"]"),
    ];
    let scene = Scene::new(grants.concat());
    for (origin, path) in [(own.origin(), "/open/a"), (own.origin(), "/closed"), (other.origin(), "/closed")] {
        scene.ask(&[("url", &format!("{origin}{path}"))]).await;
    }
    let said = scene.ask(&[("url", &format!("{}/closed", own.origin())), ("method", "POST")]).await;
    assert!(said[0].starts_with("error denied: "), "{said:?}");
    let with = |server: &Server| server.seen().iter().map(|request| request.contains(KEY)).collect::<Vec<_>>();
    assert_eq!((with(&own), with(&other)), (vec![false, false, true, true], vec![false, false]));
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_bad_one_is_not() {
    let server = Server::start("").await;
    let scene = Scene::new(grant(&server.origin(), "auth = { header = \"x-key\", secret = \"key\" }"));
    let url = format!("{}/", server.origin());
    let last = async || {
        scene.ask(&[("url", &url)]).await;
        let seen = server.seen();
        let request = seen.last().unwrap();
        head(request).iter().find_map(|line| line.strip_prefix("x-key: ")).unwrap().to_owned()
    };
    assert_eq!(last().await, KEY);
    scene.rewrite("another-key\n");
    assert_eq!(last().await, "another-key");
    for bad in ["", "short", "two\nlines-of-it", "a\u{1b}[2Jb-and-more", &"x".repeat(5000)] {
        scene.rewrite(bad);
        assert_eq!(last().await, "another-key", "{bad:?}");
    }
    fs::remove_file(scene.folder.path().join("key")).unwrap();
    assert_eq!(last().await, "another-key");
    // The same length in the same moment: only that the file is another one shows it.
    scene.rewrite("one-more-key");
    assert_eq!(last().await, "one-more-key");
    fs::write(scene.folder.path().join("key"), "two-more-key").unwrap();
    assert_eq!(last().await, "two-more-key");
}
