//! One daemon, put together: from a checked config to a running driver. Decides nothing.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use picored_core::config::{Config, DEFAULT_ADMIN_SOCKET};
use picored_core::envelope::ClusterKey;
use picored_core::node::{Node, Settings};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, Commands};
use crate::check::Prober;
use crate::driver::{self, Clock, Driver, Parts, wall};
use crate::events::{Events, History};
use crate::handler::{Host, HostConfig, Limits, MAX_COMPONENT_BYTES, Secrets};
use crate::metrics::{self, Metrics};
use crate::net::{BindError, Socket, Streams, bind_both};
use crate::service::Service;
use crate::signals::Signals;
use crate::store::{self, StateDir};

/// So long the end of the process waits for the disk to have what happened last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a node until it is told to stop. `config_path` is where the config was read from, for the log.
///
/// # Errors
/// If something that the config names cannot be used, or the cluster refuses the node.
pub async fn run(config: Config, config_path: PathBuf) -> anyhow::Result<()> {
    // What the start goes through is gone when it is over, from the stack as well: it is a call of its own for sure.
    let starting: Pin<Box<dyn Future<Output = _>>> = Box::pin(start(config, config_path));
    let Started { mut driver, serving, keeping, end_history } = starting.await?;
    let ended = driver.run().await;
    serving.abort();
    // Waiting lets the socket's file go before the process does.
    let _ = serving.await;
    // The last things that happened; a disk that hangs is not waited for.
    drop(end_history);
    let _ = tokio::time::timeout(LAST_WORDS, keeping).await;
    tracing::info!(target: "picored::node", "stopped");
    ended
}

/// A daemon that is ready to run.
struct Started {
    driver: Box<Driver>,
    /// The admin socket's task.
    serving: JoinHandle<()>,
    /// The history's, and what ends it when it goes.
    keeping: JoinHandle<()>,
    end_history: oneshot::Sender<()>,
}

async fn start(config: Config, config_path: PathBuf) -> anyhow::Result<Started> {
    // From here on a signal is kept until the driver looks for it.
    let signals = Signals::new()?;
    let secrets = read_secrets(&config)?;
    let Config { node, cluster, apps, handlers, governor, metrics: metrics_address, secrets: _ } = &config;
    let key = match &cluster.key_file {
        Some(path) => ClusterKey::new(store::read_key(path)?),
        None => ClusterKey::none(),
    };
    let state = StateDir::open(&node.state_dir)?;
    let boot = state.next_generation(wall().0)?;
    let metrics = Metrics::default();
    let host = Host::new(HostConfig {
        cache_dir: state.cache_dir().to_owned(),
        compiler: std::env::current_exe().context("cannot find this program's own file")?,
        node_key: state.node_key()?,
        limits: Limits::default(),
        metrics: metrics.clone(),
        secrets,
    })?;
    // Without it the node still does its work: what is derived from the view needs no disk.
    let (journal, letters) = match state.journal() {
        Ok((journal, values)) => {
            host.keep_state(journal.clone(), &values, handlers);
            let letters = driver::letters(&journal, &values);
            (Some(journal), letters)
        }
        Err(error) => {
            let text = "retries, dead letters and what handlers keep last no longer than this process";
            tracing::error!(target: "picored::store", %error, text, "the journal cannot be used");
            (None, Vec::new())
        }
    };
    let prober = Prober::new(apps, host.tls()).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", errors.join("\n"))
    })?;
    let (udp, tcp) = bind_both(node.bind).await.map_err(|BindError { transport, error }| {
        let remedy = match error.kind() {
            ErrorKind::AddrInUse => {
                ": stop what listens there, or choose another port; gossip needs UDP and TCP of one"
            }
            ErrorKind::AddrNotAvailable => ": choose an address that this machine has",
            _ => "",
        };
        anyhow::anyhow!("cannot listen on node.bind {} ({transport}): {error}{remedy}", node.bind)
    })?;
    let (socket, streams) = (Socket::new(udp).await?, Streams::new(tcp)?);
    let local = socket.local_address()?;
    let advertise = node.advertise.unwrap_or(local);
    let metrics_listener = match metrics_address {
        Some(address) => Some(metrics::listen(*address).await?),
        None => None,
    };
    if node.admin_socket == Path::new(DEFAULT_ADMIN_SOCKET) {
        make_own_folder(&node.admin_socket);
    }
    let server = admin::Server::bind(&node.admin_socket)?;
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow::anyhow!("the system has no randomness to give"))?;
    let clock = Clock::new();
    let settings = Settings {
        name: node.name.clone(),
        cluster: cluster.name.clone(),
        key,
        boot,
        advertise,
        seeds: cluster.seeds.clone(),
        remembered: state.remembered(),
        profile: cluster.profile,
        expect: cluster.expect,
        two_node: cluster.two_node,
        governor: *governor,
        apps: apps.clone(),
        maintained: state.maintenance(),
        held: state.holds(),
        handlers: handlers.clone(),
        letters,
        random,
    };
    let core = Node::new(clock.now(), settings)?;
    tracing::info!(
        target: "picored::node",
        node = %node.name,
        address = %advertise,
        generation = boot,
        config = %config_path.display(),
        "listening"
    );
    if let Some(advice) = config.advice() {
        tracing::warn!(target: "picored::governor", advice, "two nodes");
    }
    let (status, readers) = watch::channel(Arc::new(core.status()));
    let (sender, commands) = Commands::channel(state.uploads_dir().to_owned(), MAX_COMPONENT_BYTES);
    let history = History::new(&node.state_dir);
    let events = Events::new(Some(history.clone()));
    let (end_history, history_ended) = oneshot::channel();
    let keeping = tokio::spawn(history.keep(events.reader(), history_ended));
    let service = Service::from_environment();
    service.ready();
    if let Some(listener) = metrics_listener {
        tokio::spawn(metrics::serve(listener, metrics.clone(), readers.clone()));
    }
    let serving = tokio::spawn(server.serve(readers, metrics.clone(), events.clone(), sender));
    let parts = Parts {
        socket,
        streams,
        host,
        state,
        journal,
        config,
        config_path,
        prober,
        signals,
        status,
        metrics,
        commands,
        events,
        service,
    };
    Ok(Started { driver: Box::new(Driver::new(core, clock, parts)), serving, keeping, end_history })
}

/// The secrets that handlers use, with a warning for each that is not kept as one.
fn read_secrets(config: &Config) -> anyhow::Result<Arc<Secrets>> {
    let secrets = Secrets::read(&config.secrets, &config.handlers).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", errors.join("\n"))
    })?;
    for warning in secrets.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(secrets)
}

/// The default socket's folder is picored's own and goes with each boot. Any other is the operator's to make; where this
/// one cannot be made, binding says so.
fn make_own_folder(socket: &Path) {
    if let Some(folder) = socket.parent() {
        let _ = DirBuilder::new().mode(0o755).create(folder);
    }
}
