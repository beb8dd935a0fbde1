//! The handler host: loads components, runs them one event at a time, and lets none do what it was not granted.
//!
//! ```text
//! source -> compile (a process of its own) -> cache (authenticated code) -> Loaded -> run (a fresh store each time)
//! ```
//! A guest's way out is one: `http`, where `secrets` are added. Its authority is granted in one place: `store`. Its bounds stand in one: `limits`.
//! The driver calls [`Host::load`] for each handler of the config and [`Loaded::run`] for each delivery. Nothing here
//! decides what is delivered when, and nothing of a guest can end or block the daemon.

mod bindings;
mod cache;
pub mod compile;
mod door;
mod dry;
mod engine;
mod fence;
mod http;
mod inspect;
mod keyvalue;
mod limits;
mod loaded;
mod output;
mod run;
mod secrets;
mod serve;
mod source;
mod store;
mod text;
mod weigh;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use picored_core::config::{Handler, Source};
use picored_core::digest::Digest;
use picored_core::name::HandlerName;
use wasmtime::Engine;
use wasmtime::component::Linker;

pub use self::compile::CompileError;
pub use self::inspect::{Anatomy, anatomy};
pub use self::limits::{HttpLimits, Limits, MAX_COMPONENT_BYTES};
pub use self::loaded::{Description, Loaded, Want};
pub use self::secrets::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, SecretError, Secrets};

use self::cache::Cache;
use self::engine::Ticker;
use self::keyvalue::{Kept, Shelf};
use self::store::State;
use crate::journal::{Journal, Values};
use crate::metrics::Metrics;
use crate::tls::Tls;

/// Looks at a source without compiling or running anything: whether it is there, can be read, and is a component by its
/// first bytes and size. For `picored check`; [`Host::load`] does all of it again.
pub fn look(source: &Source) -> Result<(), LoadError> {
    source::Wasm::look(source).map(drop)
}

/// The SHA-256 of the component that a source holds. Reads all of it.
pub fn digest(source: &Source) -> Result<Digest, LoadError> {
    source::Wasm::look(source).map(|wasm| Digest::new(wasm.digest))
}

/// What a host is made from.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The cache of compiled code: a directory of this daemon alone. Made if it is not there.
    pub cache_dir: PathBuf,
    /// The program that compiles: run as `PROGRAM compile-component`, it must do [`compile::child_main`]. Normally this
    /// very program.
    pub compiler: PathBuf,
    /// Authenticates the cache. Secret, kept elsewhere; another key makes all entries void.
    pub node_key: [u8; 32],
    /// What a run may use.
    pub limits: Limits,
    /// Where what is refused is counted.
    pub metrics: Metrics,
    /// What the gate adds to requests, and everything shown is rid of.
    pub secrets: Arc<Secrets>,
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The directory cannot be used.
    #[error("cannot use the handler cache {}: {error}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The engine did not start.
    #[error("cannot start the Wasm engine: {0}")]
    Engine(String),
}

/// Why a handler is not ready. The texts name the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No handler of that name is in the binary.
    #[error("there is no builtin handler {name:?}; there are: {known}")]
    UnknownBuiltin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read {source_text}: {error}")]
    Read {
        /// Where from.
        source_text: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is larger than [`MAX_COMPONENT_BYTES`].
    #[error("{source_text} is larger than {} MiB", MAX_COMPONENT_BYTES >> 20)]
    TooLarge {
        /// Where from.
        source_text: String,
    },
    /// The file's first bytes are those of something else.
    #[error("{source_text} is no component: {why}")]
    NotAComponent {
        /// Where from.
        source_text: String,
        /// What it is.
        why: &'static str,
    },
    /// It cannot be compiled.
    #[error("{source_text} cannot be compiled: {error}")]
    Compile {
        /// Where from.
        source_text: String,
        /// Why.
        error: CompileError,
    },
    /// The compiled code cannot be kept or mapped.
    #[error("cannot use the compiled code of {source_text}: {why}")]
    Code {
        /// Where from.
        source_text: String,
        /// Why.
        why: String,
    },
    /// A component, but no handler.
    #[error("{source_text} is no handler: it does not export {wanted}; it exports {exports}")]
    NotAHandler {
        /// Where from.
        source_text: String,
        /// The interface that a handler exports.
        wanted: &'static str,
        /// What it exports.
        exports: String,
    },
    /// It wants something that is not served here, or its types differ.
    #[error("{source_text} does not fit this host: {why}")]
    Misfit {
        /// Where from.
        source_text: String,
        /// What.
        why: String,
    },
    /// It does not get through `describe`.
    #[error("{source_text} cannot describe itself ({reason}): {why}")]
    Describe {
        /// Where from.
        source_text: String,
        /// How that ended.
        reason: picored_core::event::StopReason,
        /// Why.
        why: String,
    },
}

/// Runs handlers. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

/// What all handlers of a host share.
struct Shared {
    engine: Engine,
    linker: Linker<State>,
    ticker: Ticker,
    cache: Cache,
    compiler: PathBuf,
    /// One compilation at a time: each may take all the memory that compiling may take.
    compiling: tokio::sync::Mutex<()>,
    limits: Limits,
    metrics: Metrics,
    /// Those of the config in force; a run keeps those that it began with.
    secrets: Mutex<Arc<Secrets>>,
    tls: Arc<Tls>,
    /// How many handlers have their code mapped.
    mapped: AtomicUsize,
    /// Whether runs may send anything.
    may_act: Arc<AtomicBool>,
    /// What handlers keep, where that outlives the process.
    shelf: Mutex<Option<Shelf>>,
}

impl Shared {
    /// What the runs of this handler have left; where nothing outlives the process, nothing.
    fn kept(&self, handler: &HandlerName) -> Arc<Kept> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.as_mut().map(|shelf| shelf.of(handler)).unwrap_or_default()
    }

    fn secrets(&self) -> Arc<Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Host {
    /// Starts the engine and opens the cache.
    pub fn new(config: HostConfig) -> Result<Self, HostError> {
        let wrong = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        let engine = engine::engine().map_err(wrong)?;
        let linker = store::linker(&engine).map_err(wrong)?;
        let ticker = Ticker::start(&engine).map_err(|error| HostError::Engine(error.to_string()))?;
        let HostConfig { cache_dir, compiler, node_key, limits, metrics, secrets } = config;
        let cache = Cache::open(&cache_dir, &node_key, engine::settings_digest(&engine));
        let cache = cache.map_err(|error| HostError::Cache { path: cache_dir, error })?;
        let compiling = tokio::sync::Mutex::new(());
        let (tls, mapped) = (Arc::new(Tls::default()), AtomicUsize::new(0));
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                linker,
                ticker,
                cache,
                compiler,
                compiling,
                limits,
                metrics,
                secrets: Mutex::new(secrets),
                tls,
                mapped,
                may_act: Arc::new(AtomicBool::new(true)),
                shelf: Mutex::default(),
            }),
        })
    }

    /// Has what handlers keep outlive the process: `values` is what `journal` held when it was opened. To be called before
    /// any handler is loaded, in a tokio runtime. What it holds of handlers other than `handlers` is forgotten.
    pub fn keep_state(&self, journal: Journal, values: &Values, handlers: &[Handler]) {
        let shelf = Shelf::new(journal, values, handlers.iter().map(|handler| &handler.name));
        *self.shared.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(shelf);
    }

    /// The TLS that its handlers use, for who speaks it beside them.
    pub fn tls(&self) -> Arc<Tls> {
        self.shared.tls.clone()
    }

    /// Has every run that starts from now on use these.
    pub fn replace_secrets(&self, secrets: Arc<Secrets>) {
        *self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

    /// Whether runs, also those under way, may send anything. True until something else is said.
    pub fn may_act(&self, may_act: bool) {
        self.shared.may_act.store(may_act, Ordering::Relaxed);
    }

    /// Makes a handler ready: reads, compiles if the cache has no code of it, maps, links, and lets it describe itself
    /// with nothing granted. Takes milliseconds with a cache entry, seconds without; needs a tokio runtime with I/O and
    /// time.
    pub async fn load(&self, handler: &Handler) -> Result<Arc<Loaded>, LoadError> {
        Loaded::load(self.shared.clone(), handler, None).await
    }

    /// As [`Host::load`], for a handler that takes over from `before`: what that one keeps in `wasi:keyvalue` is its too.
    pub async fn load_after(&self, handler: &Handler, before: Option<Arc<Loaded>>) -> Result<Arc<Loaded>, LoadError> {
        Loaded::load(self.shared.clone(), handler, before).await
    }
}
