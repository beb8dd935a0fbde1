//! What a run of a handler costs beside a hook script: a fresh instance of the `ok` fixture, with its code mapped and
//! with loading counted, against spawning `sh -c :`, all in turns in one process.
//!
//! `cargo bench --bench handler_run` prints the medians and fails below 7x mapped or 2x loaded. Without optimisation it
//! only prints.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picored::handler::{Host, HostConfig, Limits, Loaded, Secrets};
use picored_core::config::{Handler, RunOn, Source};
use picored_core::event::{Event, EventKind, RunEnd};
use picored_core::name::{HandlerName, NodeName};
use picored_core::snapshot::{MemberInfo, MemberState, Snapshot};
use picored_core::time::Wall;

const ROUNDS: usize = 30;
const MAPPED_WANTED: f64 = 7.0;
const LOADED_WANTED: f64 = 2.0;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let [mapped, loaded, shell] = runtime.block_on(measure());
    let ratio = |time: Duration| shell.as_secs_f64() / time.as_secs_f64();
    println!("{:<28}{:>12}{:>18}", "", "p50", "against sh -c :");
    for (name, time) in [("run, code mapped", mapped), ("run, loading counted", loaded), ("sh -c :", shell)] {
        println!("{name:<28}{:>9} us{:>17.1}x", time.as_micros(), ratio(time));
    }
    if cfg!(debug_assertions) || ratio(mapped) >= MAPPED_WANTED && ratio(loaded) >= LOADED_WANTED {
        return ExitCode::SUCCESS;
    }
    eprintln!("below {MAPPED_WANTED}x mapped or {LOADED_WANTED}x loaded");
    ExitCode::FAILURE
}

/// The medians, the three taking turns so that whatever else the machine does falls on all of them.
async fn measure() -> [Duration; 3] {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let config = HostConfig {
        cache_dir: cache.path().to_owned(),
        compiler: env!("CARGO_BIN_EXE_picored").into(),
        node_key: [0; 32],
        limits: Limits::default(),
        metrics: Default::default(),
        secrets: Secrets::none(),
    };
    let host = Host::new(config).expect("a host starts");
    let handler = host.load(&handler()).await.expect("the fixture loads");
    let snapshot = snapshot();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        run(&handler, &snapshot).await;
        for _ in 0..100 {
            times[0].push(run(&handler, &snapshot).await);
        }
        for _ in 0..20 {
            let start = Instant::now();
            handler.unmap();
            run(&handler, &snapshot).await;
            times[1].push(start.elapsed());
        }
        for _ in 0..20 {
            let start = Instant::now();
            let status = Command::new("sh").args(["-c", ":"]).status().expect("sh runs");
            times[2].push(start.elapsed());
            assert!(status.success());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

async fn run(handler: &Arc<Loaded>, snapshot: &Arc<Snapshot>) -> Duration {
    let start = Instant::now();
    let event = Event { id: "1".into(), kind: EventKind::Reconcile, app: None, member: None, time: Wall(0) };
    let end = handler.run(event, 1, snapshot.clone()).await;
    assert!(matches!(end, RunEnd::Done { .. }), "{end:?}");
    start.elapsed()
}

fn handler() -> Handler {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers-wasm/dist/fixtures/ok.wasm");
    Handler {
        name: HandlerName::new("ok").expect("a name"),
        source: Source::File(fixture),
        on: vec![EventKind::Reconcile],
        apps: Vec::new(),
        watch: false,
        run_on: RunOn::default(),
        reconcile_every: Duration::from_secs(60),
        timeout: Duration::from_secs(30),
        config: BTreeMap::new(),
        http: Vec::new(),
    }
}

fn snapshot() -> Arc<Snapshot> {
    let node = MemberInfo {
        name: NodeName::new("a").expect("a name"),
        state: MemberState::Alive,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    Arc::new(Snapshot { members: vec![node.clone()], node, apps: BTreeMap::new(), revision: "1".into() })
}
