//! The one engine: its settings, the name of those settings, and the clock that makes guests yield.
//!
//! The daemon and the compiler's process both build their engine with [`engine`]; every setting that shapes code stands
//! there, so that they cannot disagree. Nothing here runs a guest.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use ring::digest;
use wasmtime::{Config, Engine};

/// A guest that computes gives way to the daemon's other work this often.
const TICK: Duration = Duration::from_millis(2);

/// The stack of a run: the guest's part, and beyond it room for the host functions that it calls.
const RUN_STACK_BYTES: usize = 256 << 10;
const GUEST_STACK_BYTES: usize = 128 << 10;

/// The engine of the daemon and of the compiler.
pub(crate) fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .async_stack_size(RUN_STACK_BYTES)
        .max_wasm_stack(GUEST_STACK_BYTES)
        // Nobody reads them, and they are a fifth of the mapped code.
        .debug_symbols(false)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(None);
    Engine::new(&config)
}

/// Names the engine's settings, wasmtime's version and the processor's features: code compiled under one name must not
/// be loaded under another.
pub(crate) fn settings_digest(engine: &Engine) -> [u8; 32] {
    struct Digester(digest::Context);
    impl Hasher for Digester {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut digester = Digester(digest::Context::new(&digest::SHA256));
    engine.precompile_compatibility_hash().hash(&mut digester);
    as_array(digester.0.finish())
}

pub(crate) fn as_array(digest: digest::Digest) -> [u8; 32] {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Advances the engine's epoch while a guest runs; its thread is parked while none does.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    running: AtomicUsize,
    stop: AtomicBool,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { running: AtomicUsize::new(0), stop: AtomicBool::new(false) });
        let (seen, engine) = (shared.clone(), engine.weak());
        let thread = std::thread::Builder::new().name("ticker".into()).stack_size(64 << 10).spawn(move || {
            while !seen.stop.load(Ordering::Acquire) {
                if seen.running.load(Ordering::Acquire) == 0 {
                    std::thread::park();
                    continue;
                }
                std::thread::sleep(TICK);
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Ticks until the guard is dropped.
    pub(crate) fn run(&self) -> Ticking {
        if self.shared.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = &self.thread
        {
            Thread::unpark(thread.thread());
        }
        Ticking(self.shared.clone())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends by itself, within a tick, and holds nothing that matters: nobody waits for it.
            drop(thread);
        }
    }
}

/// Keeps the epoch advancing.
pub(crate) struct Ticking(Arc<Shared>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_engines_agree_on_their_settings() {
        assert_eq!(settings_digest(&engine().unwrap()), settings_digest(&engine().unwrap()));
    }

    #[test]
    fn other_settings_have_another_name() {
        let mut config = Config::new();
        config.epoch_interruption(false);
        let other = Engine::new(&config).unwrap();
        assert_ne!(settings_digest(&engine().unwrap()), settings_digest(&other));
    }
}
