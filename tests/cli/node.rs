//! A daemon that is none: an admin socket whose status is made by hand. It tells the verbs always the same, so that what
//! they print can be compared whole; what a real daemon answers is tested with clusters.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use picored_core::governor::Hold;
use picored_core::name::{AppName, NodeName};
use picored_core::node::Notice;
use picored_core::status::{
    AccuserStatus, AppStatus, Evidence, FailingStatus, HandlerStatus, HoldStatus, LastRun, LastUpgrade, MemberStatus,
    MismatchStatus, MissingAsk, OperatorHoldStatus, Status,
};
use picored_core::time::Wall;
use tokio::sync::{oneshot, watch};

/// An admin socket that answers with [`status`].
pub(crate) struct Node {
    pub(crate) socket: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn start(socket: PathBuf) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = mpsc::channel();
        let path = socket.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = picored::admin::Server::bind(&path).unwrap();
                let (commands, _taken) = picored::admin::Commands::channel(path.with_extension("uploads"), 0);
                ready.send(()).unwrap();
                let events = picored::events::Events::default();
                for app in ["www", "api"] {
                    let (app, member) = (AppName::new(app).unwrap(), NodeName::new("web1").unwrap());
                    let held = Notice::Held { app, member, reason: Hold::NeverEmpty };
                    events.note(&held, Wall(1_769_860_800_000));
                }
                let publish = watch::Sender::new(Arc::new(status()));
                tokio::select! {
                    () = server.serve(publish.subscribe(), Default::default(), events, commands) => {}
                    _ = stopped => {}
                }
            });
        });
        bound.recv().unwrap();
        Self { socket: socket.to_str().unwrap().to_owned(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// What it always answers.
pub(crate) fn status() -> Status {
    let member = |name: &str, state: &str, generation, apps| MemberStatus {
        name: name.into(),
        address: format!("[2001:db8::{generation}]:7946"),
        state: state.into(),
        generation,
        apps,
        evidence: None,
    };
    let publish = vec!["203.0.113.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    let last = LastRun {
        event: "app-down".into(),
        scope: "www".into(),
        outcome: "done".into(),
        text: "published 1 address\nforged  line".into(),
        time: "2026-01-31T12:00:00.000Z".into(),
        attempt: 2,
        run_ms: 12.34,
    };
    let accuser = |name: &str, probe: &str, asked| AccuserStatus {
        name: name.into(),
        since: "2026-01-31T12:00:00.000Z".into(),
        probe: probe.into(),
        asked,
    };
    let evidence = Evidence {
        suspected_since: Some("2026-01-31T12:00:00.000Z".into()),
        accusers: vec![accuser("web1", "direct", 0), accuser("web3", "indirect", 2)],
        down_since: Some("2026-01-31T12:00:04.120Z".into()),
        suspected_ms: Some(4120),
        verdict: Some("own".into()),
    };
    Status {
        node: "web1".into(),
        cluster: "example".into(),
        state: "joined".into(),
        members: vec![
            member("web1", "alive", 7, vec![AppStatus { name: "www".into(), state: "up".into(), publish }]),
            MemberStatus { evidence: Some(evidence), ..member("web2", "down", 8, Vec::new()) },
        ],
        handlers: vec![HandlerStatus {
            name: "dns".into(),
            source: "builtin:dns-powerdns".into(),
            state: "ready".into(),
            version: Some("0123456789abcdef".repeat(4)),
            watched: true,
            upgrade: Some(LastUpgrade {
                outcome: "rolled-back".into(),
                reason: "trap: unreachable".into(),
                time: "2026-01-31T11:00:00.000Z".into(),
            }),
            run_on: "one".into(),
            mismatches: vec![MismatchStatus { node: "web2".into(), differs: "config".into() }],
            failing: vec![FailingStatus { node: "web2".into(), scope: Some("www".into()) }],
            pending: 1,
            dead: 2,
            dead_dropped: 0,
            outcomes: BTreeMap::from([("done".into(), 3), ("retry".into(), 1)]),
            missing: vec![MissingAsk {
                ask: "http PATCH {api}/zones".into(),
                remedy: "[[handler.http]]\nallow = \"http://127.0.0.1:8081\"".into(),
            }],
            last: Some(last),
        }],
        quorum: true,
        deliveries: Vec::new(),
        dead: Vec::new(),
        known_size: 3,
        receipts: Vec::new(),
        operator_holds: vec![OperatorHoldStatus { name: "www".into(), node: "web1".into(), until: None }],
        holds: vec![HoldStatus { app: "www".into(), member: "web2".into(), reason: "budget".into() }],
        datagrams: BTreeMap::from([("accepted".into(), 10), ("sent".into(), 12)]),
    }
}
