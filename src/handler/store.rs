//! The store of one run: the one place where a guest is given anything.
//!
//! [`new_store`] grants what [`Authority`] names and nothing else: no files, environment, arguments, stdin or sockets;
//! clocks and randomness; HTTP through the gate. Every limit is set here too.

use std::collections::BTreeMap;
use std::sync::Arc;

use picored_core::name::HandlerName;
use picored_core::snapshot::Snapshot;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::handler::bindings::{self, wasi};
use crate::handler::door::{self, WasiDoor};
use crate::handler::http::Gate;
use crate::handler::keyvalue::View;
use crate::handler::limits::{Limiter, Limits};
use crate::handler::output::{Budget, Tail};
use crate::handler::secrets::Secrets;

/// All that a run may see and reach.
pub(crate) struct Authority {
    /// For log lines.
    pub(crate) handler: HandlerName,
    /// `None` while a component only describes itself.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// What `wasi:config` answers.
    pub(crate) config: Arc<BTreeMap<String, String>>,
    /// What `wasi:keyvalue` answers, and where writes go.
    pub(crate) keyvalue: View,
    /// What is taken out of all that it says.
    pub(crate) secrets: Arc<Secrets>,
    /// The way out.
    pub(crate) gate: Arc<Gate>,
}

/// What a store holds.
pub(crate) struct State {
    pub(crate) authority: Authority,
    pub(crate) log: Arc<Budget>,
    pub(crate) log_line_bytes: usize,
    pub(crate) stdout: Tail,
    pub(crate) stderr: Tail,
    pub(crate) limiter: Limiter,
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    door: WasiDoor,
}

/// A guest went past a limit that the host counts itself. As a wasmtime error it ends the run.
#[derive(Debug, thiserror::Error)]
#[error("wants more {what} than the {limit} of its limit")]
pub(crate) struct Overrun {
    what: &'static str,
    limit: usize,
}

impl Overrun {
    pub(crate) fn new(what: &'static str, limit: usize) -> Self {
        Self { what, limit }
    }
}

/// A store with this authority, within these limits.
pub(crate) fn new_store(engine: &Engine, limits: &Limits, authority: Authority) -> Store<State> {
    let log = Budget::new(limits.log_bytes);
    let (stdout, stderr) = (Tail::new(log.clone()), Tail::new(log.clone()));
    let wasi = WasiCtx::builder()
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .max_random_size(limits.random_bytes)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.resources);
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(limits.http.request_header_bytes);
    let door = WasiDoor::new(authority.gate.clone());
    let log_line_bytes = limits.log_line_bytes;
    let limiter = Limiter::new(limits);
    let mut store =
        Store::new(engine, State { authority, log, log_line_bytes, stdout, stderr, limiter, table, wasi, http, door });
    store.limiter(|state| &mut state.limiter);
    // To yield, not to trap: a guest that computes gives way at every tick, and `run` counts its CPU time. By tokio's
    // own yield: with wasmtime's, which wakes at once, timers and sockets would be looked at every 61st tick only.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
    store.set_hostcall_fuel(limits.hostcall_bytes);
    store.set_max_component_handles(limits.component_handles);
    store
}

/// Everything that a component may import. What it imports says nothing about what it may do.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    door::bound_texts(&mut linker)?;
    bindings::picored::handler::cluster::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    bindings::picored::handler::http::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    wasi::config::store::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    wasi::keyvalue::store::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    wasi::logging::logging::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.door, table: &mut self.table, ctx: &mut self.http }
    }
}
