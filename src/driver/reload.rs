//! Another config for a daemon that runs: read anew, compared, its handlers loaded, and only then taken in.
//!
//! All that can fail, and all that takes time, happens in a task beside the loop, from the file alone: whatever goes wrong
//! there, the config in force stays. What has come through is taken in between two inputs. One reload runs at a time; who
//! asks meanwhile shares the next one, which reads the file after all of them asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::StatusCode;
use picored_core::config::{Config, Handler};
use picored_core::name::HandlerName;
use picored_core::node::Reconfiguration;
use picored_core::reload::{Plan, Subject, diff};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::versions::{self, Found, Standing};
use super::{Driver, config_file};
use crate::admin::{Answer, Refusal, Reloaded};
use crate::check::Prober;
use crate::handler::{self, Host, Secrets};
use crate::notices;

/// So many who wait for the next reload are answered.
const WAITING: usize = 16;

/// Somebody wants a reload.
#[derive(Debug)]
pub(super) struct Request {
    /// Nothing shall be applied.
    pub(super) dry_run: bool,
    /// Where the answer goes; a signal takes none.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
}

/// The config in force, and the one that may come.
pub(super) struct Reload {
    path: PathBuf,
    config: Arc<Config>,
    waiting: Vec<Request>,
    current: Option<Attempt>,
}

/// A reload that is under way, and for whom.
struct Attempt {
    task: JoinHandle<Result<Prepared, Refusal>>,
    requests: Vec<Request>,
}

/// A config that can be taken in, unless its plan forbids it.
pub(super) struct Prepared {
    plan: Plan,
    config: Config,
    prober: Prober,
    secrets: Arc<Secrets>,
    /// Versions of the handlers that are new or have changed.
    found: BTreeMap<HandlerName, Found>,
}

impl Reload {
    /// With `config` in force, which was read from `path`.
    pub(super) fn new(path: PathBuf, config: Config) -> Self {
        Self { path, config: Arc::new(config), waiting: Vec::new(), current: None }
    }

    /// The config in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What has become of the reload that is under way; never if there is none. Nothing is lost if this is dropped.
    pub(super) async fn prepared(&mut self) -> Result<Prepared, Refusal> {
        match &mut self.current {
            Some(attempt) => (&mut attempt.task).await.unwrap_or_else(|fault| Err(internal(&fault.to_string()))),
            None => std::future::pending().await,
        }
    }
}

impl Driver {
    /// Takes a request, and begins if none is under way.
    pub(super) fn reload(&mut self, request: Request) {
        let waiting = &mut self.reload.waiting;
        waiting.retain(|other| other.reply.as_ref().is_none_or(|reply| !reply.is_closed()));
        match request.reply {
            None if waiting.iter().any(|other| other.reply.is_none()) => {}
            Some(reply) if waiting.len() >= WAITING => {
                let reason = format!("{WAITING} others wait for a reload: try again");
                let _ = reply.send(Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)));
            }
            _ => waiting.push(request),
        }
        self.begin_reload();
    }

    fn begin_reload(&mut self) {
        if self.reload.current.is_none() && !self.reload.waiting.is_empty() {
            let (path, config) = (self.reload.path.clone(), self.reload.config.clone());
            let preparing = prepare(self.handlers.host().clone(), path, config, self.handlers.standing());
            let (task, requests) = (tokio::spawn(preparing), std::mem::take(&mut self.reload.waiting));
            self.reload.current = Some(Attempt { task, requests });
        }
    }

    /// Takes the prepared config in if that was asked for, and tells everybody what became of it.
    pub(super) fn take_in(&mut self, prepared: Result<Prepared, Refusal>) {
        let Some(Attempt { requests, .. }) = self.reload.current.take() else { return };
        let (tries, orders): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| request.dry_run);
        let tried = match &prepared {
            Ok(prepared) => Ok(Reloaded { applied: false, plan: prepared.plan.clone() }),
            Err(refusal) => Err(refusal.clone()),
        };
        answer(tries, &tried);
        if !orders.is_empty() {
            let done = prepared.and_then(|prepared| self.apply(prepared));
            notices::reloaded(
                &self.reload.path,
                done.as_ref().map(|done| &done.plan).map_err(|refusal| refusal.reason.as_str()),
            );
            answer(orders, &done);
        }
        // The text and both configs are gone again.
        crate::memory::release();
        self.begin_reload();
    }

    fn apply(&mut self, Prepared { plan, config, prober, secrets, found }: Prepared) -> Result<Reloaded, Refusal> {
        let conflict = |reason: String| Refusal::new(StatusCode::CONFLICT, format!("nothing was changed: {reason}"));
        if plan.needs_restart() {
            let keys = plan.restart.join(", ");
            return Err(conflict(format!(
                "a running node cannot take in another {keys}; restart it, or take that back"
            )));
        }
        if plan.is_empty() {
            return Ok(Reloaded { applied: true, plan });
        }
        let handlers = plan.changes.iter().filter(|change| change.what == Subject::Handler);
        if let Some(name) = self.handlers.changing(handlers.filter_map(|change| change.name.as_deref())) {
            return Err(conflict(format!("an upgrade or rollback of {name} is under way: reload after its end")));
        }
        let new = Reconfiguration {
            apps: config.apps.clone(),
            handlers: config.handlers.clone(),
            seeds: config.cluster.seeds.clone(),
            expect: config.cluster.expect,
            two_node: config.cluster.two_node,
            governor: config.governor,
        };
        self.node.reconfigure(self.clock.now(), new).map_err(|error| conflict(error.to_string()))?;
        // A run that goes on keeps what it runs with; the next one is of the new config.
        self.prober = prober;
        self.handlers.host().replace_secrets(secrets);
        for input in self.handlers.replace(&self.state, &config.handlers, found) {
            self.tell(Some(input));
        }
        self.reload.config = Arc::new(config);
        Ok(Reloaded { applied: true, plan })
    }
}

fn answer(requests: Vec<Request>, done: &Result<Reloaded, Refusal>) {
    for reply in requests.into_iter().filter_map(|request| request.reply) {
        let answer = done
            .clone()
            .and_then(|reloaded| serde_json::to_value(reloaded).map_err(|error| internal(&error.to_string())));
        // Who asked may have gone.
        let _ = reply.send(answer);
    }
}

fn internal(fault: &str) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, fault)
}

/// Reads the file and loads what is new in it. Touches nothing that is in force.
async fn prepare(
    host: Host,
    path: PathBuf,
    old: Arc<Config>,
    standing: BTreeMap<HandlerName, Standing>,
) -> Result<Prepared, Refusal> {
    let unusable = |reason: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason);
    let tls = host.tls();
    let read = tokio::task::spawn_blocking(move || {
        let config = config_file::read(&path).map_err(|error| format!("{error:#}"))?;
        let replaced = replaced(&config, &standing)?;
        let plan = diff(&old, &config, &replaced);
        let prober = Prober::new(&config.apps, tls).map_err(|errors| lines(&errors))?;
        let secrets = Secrets::read(&config.secrets, &config.handlers).map_err(|errors| lines(&errors))?;
        Ok((config, plan, replaced, (prober, secrets), old, standing))
    });
    let read = read.await.map_err(|fault| internal(&fault.to_string()))?.map_err(unusable)?;
    let (config, plan, replaced, (prober, secrets), old, standing) = read;
    let mut found = BTreeMap::new();
    if !plan.needs_restart() {
        let is_new = |handler: &&Handler| replaced.contains(&handler.name) || !old.handlers.contains(handler);
        for handler in config.handlers.iter().filter(is_new) {
            let (name, standing) = (&handler.name, standing.get(&handler.name));
            let version = versions::of_config(&host, handler, standing, replaced.contains(name)).await;
            found.insert(name.clone(), version.map_err(|error| unusable(format!("handler {name}: {error}")))?);
        }
    }
    Ok(Prepared { plan, config, prober, secrets, found })
}

fn lines(errors: &[impl ToString]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The handlers whose source holds other bytes than when it was looked at last.
fn replaced(config: &Config, standing: &BTreeMap<HandlerName, Standing>) -> Result<BTreeSet<HandlerName>, String> {
    let mut replaced = BTreeSet::new();
    for handler in &config.handlers {
        let standing = standing.get(&handler.name).filter(|standing| standing.config.source == handler.source);
        if let Some(known) = standing.and_then(|standing| standing.source) {
            let now = handler::digest(&handler.source).map_err(|error| format!("handler {}: {error}", handler.name))?;
            if now != known {
                replaced.insert(handler.name.clone());
            }
        }
    }
    Ok(replaced)
}
