//! A handler that is ready: its code in the cache, mapped while it is busy and dropped after a while of quiet.
//!
//! Idle, a handler costs its config, an open file and what it keeps in `wasi:keyvalue`; any number can be installed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use picored_core::ask::{self, Standing};
use picored_core::config::Handler;
use picored_core::digest::Digest;
use picored_core::event::{Event, RunEnd, StopReason};
use picored_core::policy::Grant;
use picored_core::snapshot::Snapshot;
use picored_core::status::{MissingAsk, RecordedRequest};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Level;
use wasmtime::component::Component;

use crate::handler::bindings::exports::picored::handler::guest;
use crate::handler::bindings::{Sandbox, SandboxPre};
use crate::handler::cache::Entry;
use crate::handler::dry::DryRun;
use crate::handler::fence::Fence;
use crate::handler::http::{Gate, Reach};
use crate::handler::keyvalue::Kept;
use crate::handler::run::{Bounds, Stop, call, contained};
use crate::handler::source::Wasm;
use crate::handler::store::{Authority, State, new_store};
use crate::handler::text::{SHORT, clean};
use crate::handler::{LoadError, Shared};

/// What a handler exports.
const GUEST: &str = "picored:handler/guest@0.1.0";

/// What a component says of itself. Its own words: nothing of it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line.
    pub summary: String,
    /// What it asks to be granted.
    pub wants: Vec<Want>,
}

/// Something that a component asks to be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// `event`, `http`, `config`, ...
    pub kind: String,
    /// In the notation of that kind.
    pub value: String,
    /// Why.
    pub reason: String,
}

/// A handler that can be run.
pub struct Loaded {
    host: Arc<Shared>,
    handler: Handler,
    wasm: Wasm,
    config: Arc<BTreeMap<String, String>>,
    grants: Arc<[Grant]>,
    lookups: Arc<Semaphore>,
    keyvalue: Arc<Kept>,
    code: Mutex<Code>,
    description: Description,
}

/// The handler's code, and who uses it.
struct Code {
    entry: Entry,
    mapped: Option<SandboxPre<State>>,
    running: usize,
    /// How often it was used.
    uses: u64,
    /// A task waits for it to be quiet.
    watched: bool,
}

impl Loaded {
    pub(super) async fn load(
        host: Arc<Shared>,
        handler: &Handler,
        before: Option<Arc<Self>>,
    ) -> Result<Arc<Self>, LoadError> {
        let source = handler.source.clone();
        let wasm = apart(move || Wasm::look(&source)).await.unwrap_or_else(|fault| {
            Err(LoadError::Read { source_text: handler.source.to_string(), error: std::io::Error::other(fault) })
        })?;
        let mut entry = entry(&host, handler, &wasm).await?;
        let mapped = match entry.map(&host.cache, &host.engine) {
            Ok(component) => component,
            // Good by its MAC, and yet of no use to this engine: made anew, once.
            Err(why) => {
                host.cache.remove(&wasm.digest, &why);
                entry = compiled(&host, handler, &wasm).await?;
                entry.map(&host.cache, &host.engine).map_err(|why| code_error(handler, why))?
            }
        };
        check_exports(&host, handler, &mapped)?;
        let pre = link(&host, handler, &mapped)?;
        let description = describe(&host, handler, &pre).await?;
        drop((pre, mapped));
        trim(&host);
        // They are the handler's, whatever its version: runs of the one before may still use them.
        let (keyvalue, lookups) = match before {
            Some(before) => (before.keyvalue.clone(), before.lookups.clone()),
            None => (host.kept(&handler.name), Arc::new(Semaphore::new(host.limits.http.lookups))),
        };
        Ok(Arc::new(Self {
            host,
            lookups,
            handler: handler.clone(),
            wasm,
            config: Arc::new(handler.config.clone()),
            grants: handler.http.clone().into(),
            keyvalue,
            code: Mutex::new(Code { entry, mapped: None, running: 0, uses: 0, watched: false }),
            description,
        }))
    }

    /// What the component says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The handler's config.
    pub fn handler(&self) -> &Handler {
        &self.handler
    }

    /// The component's SHA-256.
    pub fn digest(&self) -> Digest {
        Digest::new(self.wasm.digest)
    }

    /// Whether its code is mapped right now.
    pub fn is_mapped(&self) -> bool {
        self.code().mapped.is_some()
    }

    /// Unmaps the code, unless a run uses it. It happens by itself after a while of quiet; the next run maps it again.
    pub fn unmap(&self) {
        let mut code = self.code();
        if code.running == 0 && code.mapped.take().is_some() {
            self.host.mapped.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Runs the handler once: one event in, one end out, whatever the guest does. `attempt` counts from 1. Dropped, the
    /// run is over and nothing of it is kept.
    pub async fn run(self: &Arc<Self>, event: Event, attempt: u32, snapshot: Arc<Snapshot>) -> RunEnd {
        self.run_while(event, attempt, snapshot, Arc::new(AtomicBool::new(true))).await
    }

    /// As [`Self::run`]; it may send something while this is so.
    pub async fn run_while(
        self: &Arc<Self>,
        event: Event,
        attempt: u32,
        snapshot: Arc<Snapshot>,
        is_newest: Arc<AtomicBool>,
    ) -> RunEnd {
        let this = self.clone();
        let run = contained(async move { this.deliver(&event, attempt, snapshot, is_newest, None).await });
        run.await.unwrap_or_else(|Stop { reason, text }| RunEnd::Stopped(reason, text))
    }

    /// Runs the handler to see what it would write: what reads is sent, what writes is recorded in its stead, and nothing
    /// is kept. It may be done beside a run.
    pub async fn dry_run(self: &Arc<Self>, event: Event, snapshot: Arc<Snapshot>) -> (RunEnd, Vec<RecordedRequest>) {
        let (this, dry) = (self.clone(), Arc::new(DryRun::default()));
        let record = dry.clone();
        let is_newest = Arc::new(AtomicBool::new(true));
        let run = contained(async move { this.deliver(&event, 1, snapshot, is_newest, Some(record)).await });
        let end = run.await.unwrap_or_else(|Stop { reason, text }| RunEnd::Stopped(reason, text));
        (end, dry.take())
    }

    /// What the component asks for and its section of the config does not grant.
    pub fn missing(&self) -> Vec<MissingAsk> {
        let missing = |want: &Want| match ask::standing(&want.kind, &want.value, &self.handler) {
            Standing::Missing(remedy) => Some(MissingAsk { ask: format!("{} {}", want.kind, want.value), remedy }),
            _ => None,
        };
        self.description.wants.iter().filter_map(missing).collect()
    }

    async fn deliver(
        self: &Arc<Self>,
        event: &Event,
        attempt: u32,
        snapshot: Arc<Snapshot>,
        is_newest: Arc<AtomicBool>,
        dry: Option<Arc<DryRun>>,
    ) -> Result<RunEnd, Stop> {
        let is_dry = dry.is_some();
        let using = self.using().await.map_err(|why| Stop::new(StopReason::Load, why))?;
        let (limits, secrets) = (&self.host.limits, self.host.secrets());
        let authority = Authority {
            handler: self.handler.name.clone(),
            snapshot: Some(snapshot),
            config: self.config.clone(),
            keyvalue: self.keyvalue.view(limits.keyvalue_bytes),
            secrets: secrets.clone(),
            gate: Gate::new(
                self.host.metrics.of_handler(self.handler.name.as_str()),
                Reach { grants: self.grants.clone(), secrets: secrets.clone() },
                limits.http.clone(),
                self.host.tls.clone(),
                self.lookups.clone(),
                Fence::new(self.handler.timeout, self.host.may_act.clone(), is_newest),
                dry,
            ),
        };
        let mut store = new_store(&self.host.engine, limits, authority);
        let event = guest::Event {
            id: event.id.clone(),
            kind: event.kind.to_string(),
            app: event.app.as_ref().map(ToString::to_string),
            member: event.member.as_ref().map(ToString::to_string),
            time: event.time.rfc3339(),
            attempt,
            payload: Vec::new(),
            attributes: Vec::new(),
        };
        let bounds = Bounds { wall: self.handler.timeout, cpu: limits.cpu };
        let handle = async |store: &mut wasmtime::Store<State>, instance: &Sandbox| {
            instance.picored_handler_guest().call_handle(store, &event).await
        };
        let ended = call(&using.pre, &mut store, &self.host.ticker, bounds, handle).await;
        let state = store.into_data();
        write_output(&state);
        if let Some(reason) = state.authority.gate.denied() {
            tracing::warn!(target: "picored::handler", handler = %self.handler.name, reason, "a call was refused");
        }
        let fence = state.authority.gate.fence();
        let is_late = matches!(&ended, Err(stop) if stop.reason == StopReason::Timeout);
        let stood_still = fence.stood_still().filter(|_| is_late);
        if let Some(reason) = fence.struck().or(stood_still) {
            return Err(Stop::new(StopReason::Fenced, reason));
        }
        let line = |text: &str| clean(&secrets.scrub(text), SHORT);
        Ok(match ended? {
            Ok(outcome) => {
                if !is_dry {
                    self.keyvalue.commit(state.authority.keyvalue).await;
                }
                RunEnd::Done { changed: outcome.changed, text: line(&outcome.text) }
            }
            Err(guest::Failure::Retry(reason)) => RunEnd::Retry(line(&reason)),
            Err(guest::Failure::RetryAfter(delay)) => {
                RunEnd::RetryAfter(Duration::from_millis(delay.milliseconds.into()), line(&delay.reason))
            }
            Err(guest::Failure::Permanent(reason)) => RunEnd::Permanent(line(&reason)),
        })
    }

    /// The mapped code, kept while the answer lives. If the cache's file went bad it is made anew, once.
    async fn using(self: &Arc<Self>) -> Result<Using, String> {
        let why = match self.map() {
            Ok(using) => return Ok(using),
            Err(why) => why,
        };
        self.host.cache.remove(&self.wasm.digest, &why);
        let entry = compiled(&self.host, &self.handler, &self.wasm).await.map_err(|error| error.to_string())?;
        self.code().entry = entry;
        self.map()
    }

    fn map(self: &Arc<Self>) -> Result<Using, String> {
        let mut code = self.code();
        let pre = match code.mapped.clone() {
            Some(pre) => pre,
            None => {
                let component = code.entry.map(&self.host.cache, &self.host.engine)?;
                let pre = link(&self.host, &self.handler, &component).map_err(|error| error.to_string())?;
                self.host.mapped.fetch_add(1, Ordering::Relaxed);
                code.mapped.insert(pre).clone()
            }
        };
        code.running += 1;
        code.uses += 1;
        Ok(Using { pre, loaded: self.clone() })
    }

    fn code(&self) -> MutexGuard<'_, Code> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unmaps the code once it is quiet. One such task a handler at most.
    async fn watch(this: Weak<Self>, quiet: Duration) {
        let mut seen = None;
        loop {
            tokio::time::sleep(quiet).await;
            let Some(this) = this.upgrade() else { return };
            let mut code = this.code();
            if code.running == 0 && seen == Some(code.uses) {
                code.watched = false;
                drop(code);
                this.unmap();
                trim(&this.host);
                return;
            }
            seen = Some(code.uses);
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.code().mapped.is_some() {
            self.host.mapped.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A run's hold on the code.
struct Using {
    pre: SandboxPre<State>,
    loaded: Arc<Loaded>,
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut code = self.loaded.code();
        code.running -= 1;
        crate::memory::release_if_high();
        if !std::mem::replace(&mut code.watched, true) {
            let quiet = self.loaded.host.limits.quiet;
            tokio::spawn(Loaded::watch(Arc::downgrade(&self.loaded), quiet));
        }
    }
}

/// The component's code from the cache, or made now.
async fn entry(host: &Arc<Shared>, handler: &Handler, wasm: &Wasm) -> Result<Entry, LoadError> {
    let (shared, digest) = (host.clone(), wasm.digest);
    let found = apart(move || shared.cache.find(&digest)).await.map_err(|fault| code_error(handler, fault))?;
    match found {
        Some(entry) => Ok(entry),
        None => compiled(host, handler, wasm).await,
    }
}

/// Compiles the component into the cache.
async fn compiled(host: &Arc<Shared>, handler: &Handler, wasm: &Wasm) -> Result<Entry, LoadError> {
    let _turn = host.compiling.lock().await;
    let failed = |error| code_error(handler, error);
    let draft = host.cache.draft(&wasm.digest).map_err(|error| failed(error.to_string()))?;
    let output = draft.output().map_err(|error| failed(error.to_string()))?;
    let started = Instant::now();
    super::compile::compile(&host.compiler, wasm, output)
        .await
        .map_err(|error| LoadError::Compile { source_text: handler.source.to_string(), error })?;
    tracing::info!(handler = handler.name.as_str(), seconds = started.elapsed().as_secs_f64(), "handler compiled");
    let shared = host.clone();
    let finished = apart(move || draft.finish(&shared.cache)).await.map_err(failed)?;
    finished.map_err(|error| failed(error.to_string()))
}

fn code_error(handler: &Handler, why: String) -> LoadError {
    LoadError::Code { source_text: handler.source.to_string(), why }
}

/// Sees that it is a handler at all.
fn check_exports(host: &Shared, handler: &Handler, component: &Component) -> Result<(), LoadError> {
    let kind = component.component_type();
    let exports: Vec<_> = kind.exports(&host.engine).map(|(name, _)| name.to_owned()).collect();
    if exports.iter().any(|name| name == GUEST) {
        return Ok(());
    }
    let exports = if exports.is_empty() { "nothing".into() } else { clean(&exports.join(", "), SHORT) };
    Err(LoadError::NotAHandler { source_text: handler.source.to_string(), wanted: GUEST, exports })
}

/// Finds all that it imports and exports.
fn link(host: &Shared, handler: &Handler, component: &Component) -> Result<SandboxPre<State>, LoadError> {
    let misfit = |error: wasmtime::Error| LoadError::Misfit {
        source_text: handler.source.to_string(),
        why: clean(&format!("{error:#}"), SHORT),
    };
    SandboxPre::new(host.linker.instantiate_pre(component).map_err(misfit)?).map_err(misfit)
}

/// Calls `describe` with nothing granted, otherwise within the limits of a run.
async fn describe(host: &Shared, handler: &Handler, pre: &SandboxPre<State>) -> Result<Description, LoadError> {
    let (limits, secrets) = (&host.limits, host.secrets());
    let authority = Authority {
        handler: handler.name.clone(),
        snapshot: None,
        config: Arc::default(),
        keyvalue: Kept::default().view(limits.keyvalue_bytes),
        secrets: secrets.clone(),
        gate: Gate::new(
            host.metrics.of_handler(handler.name.as_str()),
            Reach { grants: Arc::new([]), secrets: secrets.clone() },
            limits.http.clone(),
            host.tls.clone(),
            Arc::new(Semaphore::new(0)),
            Fence::new(limits.describe, host.may_act.clone(), Arc::new(AtomicBool::new(true))),
            None,
        ),
    };
    let mut store = new_store(&host.engine, limits, authority);
    let bounds = Bounds { wall: limits.describe, cpu: limits.cpu };
    let ask = async |store: &mut wasmtime::Store<State>, instance: &Sandbox| {
        instance.picored_handler_guest().call_describe(store).await
    };
    let said = call(pre, &mut store, &host.ticker, bounds, ask).await.map_err(|Stop { reason, text }| {
        LoadError::Describe { source_text: handler.source.to_string(), reason, why: text }
    })?;
    let line = |text: &str| clean(&secrets.scrub(text), SHORT);
    let want =
        |want: &guest::Want| Want { kind: line(&want.kind), value: line(&want.value), reason: line(&want.reason) };
    Ok(Description {
        name: line(&said.name),
        version: line(&said.version),
        summary: line(&said.summary),
        wants: said.wants.iter().take(256).map(want).collect(),
    })
}

/// What the guest wrote to stdout and stderr: for its author, who asks for debug lines.
fn write_output(state: &State) {
    for (stream, tail) in [("stdout", &state.stdout), ("stderr", &state.stderr)] {
        let text = tail.text(&state.authority.secrets);
        if !text.is_empty() {
            state.write_line(Level::DEBUG, stream, &text);
        }
    }
}

/// Runs `work`, which reads files, beside the daemon's thread.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|fault| fault.to_string())
}

/// Gives back what is not needed, once no handler's code is mapped: after a burst that is most of what is left.
fn trim(host: &Shared) {
    if host.mapped.load(Ordering::Relaxed) == 0 {
        crate::memory::release();
    }
}
