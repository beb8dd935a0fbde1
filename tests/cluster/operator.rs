//! An operator at work on a running daemon: runs by hand, dry runs, what is missing, and what happened.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use picored::admin::HandlerRun;
use picored::admin::client::{self, ClientError};
use picored::events::{Happening, Wanted};
use picored_core::event::EventKind;
use picored_core::name::HandlerName;

use crate::node::is;
use crate::site::{Setup, Site, fixture};
use crate::wait::found;
use crate::website::{Answer, Website};

const APP: &str = "interval = \"100ms\"\nrise = 1";
/// Events that do not come: the handler runs when it is told to.
const QUIET: &str = "on = [\"member-left\"]";

async fn run(setup: &Setup, handler: &str, dry_run: bool) -> Result<HandlerRun, ClientError> {
    let name = HandlerName::new(handler).unwrap();
    client::run(&setup.socket, &name, EventKind::Reconcile, None, dry_run).await
}

/// Waits until the node is ready to run it.
async fn run_when_ready(site: &Site, setup: &Setup, handler: &str, dry_run: bool) -> HandlerRun {
    let ran = async || match run(setup, handler, dry_run).await {
        Ok(ran) => Some(ran),
        Err(ClientError::Refused { status: 404 | 409, .. } | ClientError::Missing(_)) => None,
        Err(error) => panic!("{error}{}", site.last_lines()),
    };
    site.until(&format!("{handler} runs"), found(ran)).await
}

fn fetching(api: &Website, method: &str) -> String {
    let at = api.address();
    format!(
        "{QUIET}\n[handler.config]\nurl = \"http://{at}/zone\"\nmethod = \"{method}\"\nbody = \"wanted\"\n[[handler.http]]\n\
         allow = \"http://{at}\"\nmethods = [\"{method}\"]\nallow_private = [\"127.0.0.1/32\"]"
    )
}

async fn counting() -> (Website, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let answer = move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        Answer::Good
    };
    (Website::start(answer).await, count)
}

#[tokio::test]
async fn a_dry_run_reads_and_shows_what_it_would_write() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let ((read, reads), (written, writes)) = (counting().await, counting().await);
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP);
    let setup = setup.handler("reader", &fixture("fetch"), &fetching(&read, "GET"));
    let setup = setup.handler("writer", &fixture("fetch"), &fetching(&written, "PATCH"));
    let _node = site.start(&setup);

    let dry = run_when_ready(&site, &setup, "writer", true).await;
    assert_eq!((dry.ended_as.as_deref(), &dry.outcome, dry.scope.as_str()), (Some("done"), &None, "www"), "{dry:?}");
    assert!(dry.text.starts_with("status 204"), "{dry:?}");
    let [request] = &dry.requests[..] else { panic!("{dry:?}") };
    assert_eq!((request.method.as_str(), request.sent, request.body.as_str()), ("PATCH", false, "wanted"));
    assert_eq!((request.url.clone(), request.answer.as_str()), (format!("http://{}/zone", written.address()), "204"));
    assert_eq!(writes.load(Ordering::SeqCst), 0, "nothing left");

    let dry = run(&setup, "reader", true).await.unwrap();
    assert_eq!((dry.requests[0].sent, dry.requests[0].answer.as_str()), (true, "200"));
    assert_eq!(reads.load(Ordering::SeqCst), 1);

    let real = run_when_ready(&site, &setup, "writer", false).await;
    assert_eq!((real.outcome.as_deref(), real.requests.len()), (Some("done"), 0), "{real:?}");
    assert_eq!(writes.load(Ordering::SeqCst), 1);

    let unknown = run(&setup, "nobody", false).await.unwrap_err().to_string();
    assert!(unknown.contains("404") && unknown.contains("no handler nobody"), "{unknown}");
}

#[tokio::test]
async fn what_is_not_granted_is_named_before_and_when_it_is_refused() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let ungranted = format!("{QUIET}\n[handler.config]\nurl = \"http://{}/zone\"", website.address());
    let powerdns = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers-wasm/dist/dns-powerdns.wasm");
    let api = "[handler.config]\napi = \"http://127.0.0.1:8081\"\nzone = \"example.org.\"";
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP);
    let setup = setup.handler("fetch", &fixture("fetch"), &ungranted).handler("dns", &powerdns, api);
    let node = site.start(&setup);

    node.shows_handler("dns", "what is missing", |shown| {
        let remedies: Vec<_> = shown.missing.iter().map(|ask| ask.remedy.as_str()).collect();
        shown.state == "ready" && remedies.len() == 2 && remedies[1].contains("allow = \"http://127.0.0.1:8081\"")
    })
    .await;

    let refused = run_when_ready(&site, &setup, "fetch", false).await;
    let line = format!("add [[handler.http]] allow = \"http://{}\"", website.address());
    assert!(refused.text.contains("error denied") && refused.text.contains(&line), "{refused:?}");
    let lines = node.logs("the refusal", 1, |line| is(line, "picored::handler", "a call was refused")).await;
    assert!(lines[0]["reason"].as_str().unwrap().contains(&line), "{}", lines[0]);
    let dry = run(&setup, "fetch", true).await.unwrap();
    assert!(!dry.requests[0].sent && dry.requests[0].answer.contains("no grant allows GET"), "{dry:?}");
}

#[tokio::test]
async fn a_run_by_hand_is_the_runners_alone() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let first = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP).handler("ok", &fixture("ok"), QUIET);
    let one = site.start(&first);
    let second = site.setup("n2", "127.0.0.1:0").seed(one.address().await).app(&website, "192.0.2.2", APP);
    let second = second.handler("ok", &fixture("ok"), QUIET);
    let two = site.start(&second);
    one.sees(&["n1", "n2"]).await;
    two.sees(&["n1", "n2"]).await;
    let settled = async || {
        let ran = [run(&first, "ok", false).await, run(&second, "ok", false).await];
        let ([Ok(done), Err(refused)] | [Err(refused), Ok(done)]) = &ran else { return None };
        let refused = refused.to_string();
        refused.contains("ask there").then(|| (done.clone(), refused, ran[0].is_ok()))
    };
    let (done, refused, is_first) = site.until("one runs it and the other names that one", found(settled)).await;
    assert_eq!(done.outcome.as_deref(), Some("done"));
    let runner = if is_first { "n1" } else { "n2" };
    assert!(refused.contains(&format!("www is run by {runner}")), "{refused}");
}

#[tokio::test]
async fn what_is_held_stays_held_over_a_restart() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP);
    let node = site.start(&setup);
    node.sees(&["n1"]).await;
    let (code, _, error) = node.told(&["hold", "w3"]).await;
    assert!(code == Some(1) && error.contains("no application and no member w3"), "{error}");
    let held = "www is held until `picored release www`\n";
    assert_eq!(node.told(&["hold", "www"]).await, (Some(0), held.into(), String::new()));
    let (code, out, _) = node.told(&["hold", "n1", "--for", "1h"]).await;
    assert!(code == Some(0) && out.starts_with("n1 is held until 2") && out.ends_with(held), "{out}");
    drop(node);
    let node = site.start(&setup);
    node.sees(&["n1"]).await;
    let (_, out, _) = node.told(&["events", "--since", "1h", "--kind", "joined"]).await;
    assert_eq!(out.lines().count(), 2, "of the life before as well: {out}");
    let (_, out, _) = node.told(&["events", "--kind", "joined"]).await;
    assert_eq!(out.lines().count(), 1, "{out}");
    let (code, _, error) = node.told(&["events", "--kind", "join"]).await;
    assert!(code == Some(1) && error.contains("there is no such kind; there are member-up, "), "{error}");
    let (_, out, _) = node.told(&["status"]).await;
    assert!(out.contains("held       www by an operator on n1\n"), "{out}");
    assert!(node.told(&["release", "n1"]).await.1 == held);
    assert_eq!(node.told(&["release", "www"]).await.1, "nothing is held on this node\n");
    let (code, _, error) = node.told(&["release", "www"]).await;
    assert!(code == Some(1) && error.contains("nobody holds www"), "{error}");
}

#[tokio::test]
async fn who_follows_sees_a_run_end() {
    let site = Site::new();
    let website = Website::start(|_| Answer::Good).await;
    let setup = site.setup("n1", "127.0.0.1:0").app(&website, "192.0.2.1", APP).handler("ok", &fixture("ok"), QUIET);
    let node = site.start(&setup);
    node.joined().await;
    let (mut kinds, socket) = (Vec::new(), setup.socket.clone());
    let wanted = Wanted { follow: true, ..Wanted::default() };
    let follow = client::events(&socket, &wanted, |line| {
        let happening: Happening = serde_json::from_str(line).unwrap();
        kinds.push(happening.kind.clone());
        if happening.handler.as_deref() == Some("ok") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let follow = site.until("the end of a run", follow);
    let (followed, ran) = tokio::join!(follow, run_when_ready(&site, &setup, "ok", false));
    followed.unwrap();
    assert_eq!(ran.outcome.as_deref(), Some("done"));
    assert!(kinds.contains(&"joined".to_owned()) && kinds.contains(&"checked".to_owned()), "{kinds:?}");
    assert_eq!(kinds.last().unwrap(), "ended");
}
