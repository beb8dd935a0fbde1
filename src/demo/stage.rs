//! Everything the demo sets up: a folder, a key, the DNS zone with its two servers, and three sites, each a node and a
//! web server on a loopback address of its own.
//!
//! It starts, stops and kills what [`super::story`] asks for, and waits on the record and the journal. Ports are the
//! system's choice, so that two demos do not meet.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use hickory_proto::rr::LowerName;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::journal::{Journal, Run};
use super::process::Process;
use super::scratch::Scratch;
use super::zone::{Contents, Zone, absolute};
use super::{api, dns};
use crate::store;

/// The zone.
pub const ZONE: &str = "demo.example.";
/// The site's name.
pub const RECORD: &str = "www.demo.example.";
/// The nodes' names; their folder's, socket's and config's names are made of them.
const NAMES: [&str; 3] = ["web1", "web2", "web3"];
/// The last part of the first node's address, 127.0.0.x; the others follow.
const FIRST_HOST: u8 = 11;
/// The file with what the API wants to see, which the nodes' configs name as a secret.
const API_KEY_FILE: &str = "api.key";
/// How often a port that is free where it has to be is looked for. Ports are many and nearly all free.
const PORT_TRIES: usize = 64;

/// A node and its web server.
#[derive(Debug)]
pub struct Site {
    /// The node's name.
    pub name: &'static str,
    /// The loopback address it has for itself.
    pub address: Ipv4Addr,
    /// Where its node gossips.
    gossip: SocketAddr,
    /// The node, if it runs.
    pub node: Option<Process>,
    /// The web server, if it runs.
    pub web: Option<Process>,
}

/// All that is set up. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Stage {
    /// The sites.
    pub sites: [Site; 3],
    /// The port that all three web servers have.
    pub web_port: u16,
    /// Where the DNS server listens.
    pub dns: SocketAddr,
    record: LowerName,
    zone: Arc<Zone>,
    journal: watch::Sender<Journal>,
    _servers: JoinSet<()>,
    // The last field, so that it is dropped when no process writes to it any more.
    scratch: Scratch,
}

impl Stage {
    /// Sets everything up; starts no process yet.
    ///
    /// # Errors
    /// If a folder, file or socket cannot be made.
    pub async fn set_up() -> anyhow::Result<Self> {
        let scratch = Scratch::new(&random_hex::<6>()?, "web1.sock")?;
        let journal = watch::Sender::new(Journal::default());
        let web_port = free_web_port()?;
        let mut sites = Vec::new();
        for (index, name) in (0..).zip(NAMES) {
            let address = host(index);
            sites.push(Site { name, address, gossip: free_gossip_address(address)?, node: None, web: None });
        }
        let sites = <[Site; 3]>::try_from(sites).expect("as many sites as names");

        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let dns_server = dns::Server::bind(local).await.context("the DNS server cannot listen")?;
        let dns = dns_server.address();
        let zone = Arc::new(Zone::new(ZONE, dns.ip())?);
        let api_listener = tokio::net::TcpListener::bind(local).await.context("the DNS server's API cannot listen")?;
        let api = api_listener.local_addr()?;
        let api_key = random_hex::<16>()?;

        let key_file = scratch.path().join("cluster.key");
        store::create_key_file(&key_file, &store::new_key()).context("the cluster's key cannot be written")?;
        write_private(&scratch.path().join(API_KEY_FILE), api_key.as_bytes())?;
        for site in &sites {
            let config = config(site, &sites, web_port, &scratch, api);
            write_private(&scratch.path().join(format!("{}.toml", site.name)), config.as_bytes())?;
        }

        let mut servers = JoinSet::new();
        let (for_dns, for_api) = (Arc::clone(&zone), Arc::clone(&zone));
        spawn_server(&mut servers, "dns", &journal, async move { dns_server.serve(for_dns).await });
        spawn_server(&mut servers, "api", &journal, async move { api::serve(api_listener, for_api, &api_key).await });
        let record = absolute(RECORD)?;
        Ok(Self { sites, web_port, dns, record, zone, journal, _servers: servers, scratch })
    }

    /// Starts the node of `site`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_node(&mut self, site: usize) -> anyhow::Result<()> {
        let config = self.config_path(site);
        let arguments = ["run", "--log-format", "json", "--config"].map(Into::into).into_iter();
        let site = &mut self.sites[site];
        site.node = Some(Process::start(site.name, arguments.chain([config.into_os_string()]), &self.journal)?);
        Ok(())
    }

    /// Starts the web server of `site`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_web(&mut self, site: usize) -> anyhow::Result<()> {
        let listen = SocketAddr::from((self.sites[site].address, self.web_port)).to_string();
        let site = &mut self.sites[site];
        let name = format!("{} web server", site.name);
        site.web =
            Some(Process::start(&name, ["demo", "web", "--listen", &listen, "--name", site.name], &self.journal)?);
        Ok(())
    }

    /// The config file of the node of `site`.
    pub fn config_path(&self, site: usize) -> PathBuf {
        self.scratch.path().join(format!("{}.toml", self.sites[site].name))
    }

    /// The admin socket of the node of `site`.
    pub fn socket_path(&self, site: usize) -> PathBuf {
        self.scratch.path().join(format!("{}.sock", self.sites[site].name))
    }

    /// The zone's contents, and word of every change.
    pub fn contents(&self) -> watch::Receiver<Contents> {
        self.zone.subscribe()
    }

    /// What the record says in `contents`.
    pub fn addresses(&self, contents: &Contents) -> BTreeSet<IpAddr> {
        contents.addresses(&self.record)
    }

    /// What was said so far, and word of more.
    pub fn journal(&self) -> watch::Receiver<Journal> {
        self.journal.subscribe()
    }

    /// Waits until the record says exactly `wanted`, because of something done at `begin`: when that was, and the run
    /// that did it.
    ///
    /// # Errors
    /// If a process ends by itself meanwhile. It sets no limit of time.
    pub async fn record_becomes(
        &self,
        begin: SystemTime,
        wanted: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<(SystemTime, Run)> {
        let mut contents = self.contents();
        let right = contents.wait_for(|contents| self.addresses(contents) == *wanted);
        let since = self.undisturbed(async { Ok(right.await?.since) }).await?;
        let run = self.undisturbed(self.journal_says(|journal| journal.run_around(begin, since))).await;
        Ok((since, run?))
    }

    /// Waits until every node said that it joined since `begin`: when the last one did.
    ///
    /// # Errors
    /// If a process ends by itself meanwhile. It sets no limit of time.
    pub async fn all_join(&self, begin: SystemTime) -> anyhow::Result<SystemTime> {
        let last = |journal: &Journal| {
            let joined: Option<Vec<_>> = self.sites.iter().map(|site| journal.joined(site.name, begin)).collect();
            joined?.into_iter().max()
        };
        self.undisturbed(self.journal_says(last)).await
    }

    async fn journal_says<T>(&self, look: impl Fn(&Journal) -> Option<T>) -> anyhow::Result<T> {
        let mut journal = self.journal();
        let found = journal.wait_for(|journal| look(journal).is_some()).await?;
        look(&found).context("the journal forgot what it said")
    }

    async fn undisturbed<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let disturbed = self.journal_says(|journal| journal.ended_by_itself().map(str::to_owned));
        tokio::select! {
            biased;
            result = work => result,
            process = disturbed => bail!("{} ended by itself", process?),
        }
    }

    /// Ends every process and waits until all are gone; then removes the folder.
    pub async fn tear_down(mut self) {
        for site in &mut self.sites {
            for process in [site.node.take(), site.web.take()].into_iter().flatten() {
                process.kill().await;
            }
        }
    }
}

fn spawn_server(
    servers: &mut JoinSet<()>,
    name: &'static str,
    journal: &watch::Sender<Journal>,
    work: impl Future<Output = std::io::Result<()>> + Send + 'static,
) {
    journal.send_modify(|journal| journal.begin(name));
    let journal = journal.clone();
    servers.spawn(async move {
        let result = work.await;
        journal.send_modify(|journal| {
            journal.line(name, &format!("{result:?}"));
            journal.end(name);
        });
    });
}

/// The address of the site at `index`.
fn host(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, FIRST_HOST + index)
}

/// A port that is free at all three addresses: a site has one port, wherever its name leads.
fn free_web_port() -> anyhow::Result<u16> {
    for _ in 0..PORT_TRIES {
        let first = TcpListener::bind((host(0), 0)).with_context(|| format!("{} cannot be used", host(0)))?;
        let port = first.local_addr()?.port();
        if (1..).zip(&NAMES[1..]).all(|(index, _)| TcpListener::bind((host(index), port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no port is free at {}, {} and {}", host(0), host(1), host(2))
}

/// A port of `address` that is free for UDP and TCP.
fn free_gossip_address(address: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    for _ in 0..PORT_TRIES {
        let udp = UdpSocket::bind((address, 0)).with_context(|| format!("{address} cannot be used"))?;
        let bound = udp.local_addr()?;
        if TcpListener::bind(bound).is_ok() {
            return Ok(bound);
        }
    }
    bail!("no port is free at {address}")
}

fn random_hex<const BYTES: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_private(path: &std::path::Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, bytes));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The config of a node: what a person would write, with short times for the check.
fn config(site: &Site, sites: &[Site; 3], web_port: u16, scratch: &Scratch, api: SocketAddr) -> String {
    let Site { name, address, gossip, .. } = site;
    let file = |file: String| quoted(&scratch.path().join(file).to_string_lossy());
    let others = sites.iter().filter(|other| other.name != *name);
    let seeds: Vec<_> = others.map(|other| quoted(&other.gossip.to_string())).collect();
    format!(
        r#"[node]
name = "{name}"
bind = "{gossip}"
state_dir = {state_dir}
admin_socket = {socket}

[cluster]
name = "demo"
seeds = [{seeds}]
key_file = {key_file}

[secrets]
api = {{ file = {api_key_file} }}

[[app]]
name = "www"
publish = ["{address}"]
check = {{ http = "http://{address}:{web_port}/health" }}
interval = "1s"
timeout = "500ms"
rise = 2
fall = 2

[[handler]]
name = "dns"
source = "builtin:dns-powerdns"
on = ["member-*", "app-*", "reconcile"]
apps = ["www"]
reconcile_every = "30s"

[handler.config]
api = "http://{api}"
zone = "{ZONE}"
record = "{RECORD}"
ttl = 5

[[handler.http]]
allow = "http://{api}"
methods = ["GET", "PATCH"]
paths = ["/api/v1/servers/localhost/zones/{ZONE}"]
allow_private = ["{api_host}/32"]
auth = {{ header = "X-API-Key", secret = "api" }}
"#,
        state_dir = file(format!("{name}.state")),
        socket = file(format!("{name}.sock")),
        key_file = file("cluster.key".into()),
        api_key_file = file(API_KEY_FILE.into()),
        seeds = seeds.join(", "),
        api_host = api.ip(),
    )
}

/// `text` as a TOML string. TOML's basic strings know all of JSON's escapes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
