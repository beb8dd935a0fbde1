//! The site: five machines with a web server and a picored node each, PowerDNS on a sixth, and what may happen to them.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{CEILING, Cluster, name};
use crate::network::{Held, Machine, Namespace, Network, address};
use crate::powerdns::{API_KEY, API_PORT, PowerDns, RECORD, ZONE};
use crate::watch::Watch;

pub(crate) const SERVERS: usize = 5;
/// PowerDNS's number on the network.
const DNS: u8 = 53;
/// Where each node serves its metrics.
pub(crate) const METRICS_PORT: u16 = 9946;

/// So many lines of the nodes' logs are shown when a round fails.
const LAST_LINES: usize = 200;
/// How often a node is asked why.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What may befall a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// All its processes are gone at once.
    Crashes,
    /// Its cable is pulled out.
    CutOff,
    /// Nothing that it sends arrives.
    Mute,
    /// Nothing that is sent to it arrives.
    Deaf,
    /// Its web server is gone, picored is not.
    SiteStops,
    /// Its web server takes connections and answers nothing.
    SiteHangs,
    /// picored is gone, its web server is not.
    NodeKilled,
    /// picored stands still, and goes on later where it was.
    NodePaused,
    /// picored is told to stop.
    NodeLeaves,
    /// picored is gone and started again at once: no trouble to the site, nor are the following.
    NodeRestarts,
    /// Its clock is set back an hour, or forward again.
    ClockIsSet,
    /// Nothing that it sends to the provider's API arrives there, or it does again.
    ApiHangs,
}

impl Trouble {
    pub(crate) const ALL: [Self; 12] = [
        Self::Crashes,
        Self::CutOff,
        Self::Mute,
        Self::Deaf,
        Self::SiteStops,
        Self::SiteHangs,
        Self::NodeKilled,
        Self::NodePaused,
        Self::NodeLeaves,
        Self::NodeRestarts,
        Self::ClockIsSet,
        Self::ApiHangs,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Crashes => "crashes",
            Self::CutOff => "is cut off",
            Self::Mute => "can send nothing",
            Self::Deaf => "hears nothing",
            Self::SiteStops => "loses its web server",
            Self::SiteHangs => "has a web server that hangs",
            Self::NodeKilled => "loses picored",
            Self::NodePaused => "has picored paused",
            Self::NodeLeaves => "leaves",
            Self::NodeRestarts => "has picored killed and started",
            Self::ClockIsSet => "has its clock set",
            Self::ApiHangs => "loses the API or regains it",
        }
    }
}

struct Server {
    machine: Machine,
    web: Option<Held>,
    trouble: Option<Trouble>,
    /// What it sends to the API is lost.
    has_no_api: bool,
    is_an_hour_back: bool,
}

impl Server {
    fn new(machine: Machine) -> Self {
        Self { machine, web: None, trouble: None, has_no_api: false, is_an_hour_back: false }
    }

    /// Lets those packets be lost that are to be.
    fn filter(&self) -> anyhow::Result<()> {
        let chain =
            |hook: &str, what: &str| format!("chain {hook} {{ type filter hook {hook} priority 0; {what} drop; }}\n");
        let mut chains = String::new();
        match self.trouble {
            Some(Trouble::Mute) => chains += &chain("output", "oifname eth0"),
            Some(Trouble::Deaf) => chains += &chain("input", "iifname eth0"),
            _ if self.has_no_api => chains += &chain("output", &format!("tcp dport {API_PORT}")),
            _ => {}
        }
        self.machine.filter(&chains)
    }
}

/// All of it. Fields end in their order: the processes before the network that they are on.
pub(crate) struct Site {
    picored: PathBuf,
    cluster: Cluster,
    watch: Watch,
    powerdns: PowerDns,
    servers: Vec<Server>,
    _dns: Machine,
    network: Network,
    folder: tempfile::TempDir,
    lines: VecDeque<String>,
}

impl Site {
    /// Starts everything.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let picored = std::env::var_os("PICORED").map_or_else(|| env!("CARGO_BIN_EXE_picored").into(), PathBuf::from);
        ensure!(faketime().exists(), "libfaketime is not installed: .ci/install does it");
        let network = Network::new()?;
        let folder = tempfile::tempdir()?;
        let dns = network.machine(DNS, &[])?;
        let powerdns = PowerDns::start(&dns, address(DNS), folder.path())?;
        let machines = (0..SERVERS).map(|server| network.machine(number(server), &[]));
        let machines = machines.collect::<anyhow::Result<Vec<_>>>()?;
        let gossip: Vec<SocketAddr> = (0..SERVERS).map(|server| (address(number(server)), 7946).into()).collect();
        let known = gossip.iter().map(SocketAddr::ip).collect();
        let watch = Watch::start(&network, (address(DNS), 53).into(), known)?;
        let cluster = Cluster::new(&picored, &gossip, config)?;
        let servers = machines.into_iter().map(Server::new).collect();
        let lines = VecDeque::new();
        let mut site = Self { picored, cluster, watch, powerdns, servers, _dns: dns, network, folder, lines };
        for server in 0..SERVERS {
            site.set_clock(server, false)?;
            site.start_web(server)?;
            site.start_node(server)?;
        }
        Ok(site)
    }

    /// Lets something befall a server that is well.
    pub(crate) fn trouble(&mut self, server: usize, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::Crashes => {
                self.servers[server].web = None;
                self.kill_node(server)?;
            }
            Trouble::CutOff => self.network.plug(number(server), false)?,
            Trouble::SiteStops => self.servers[server].web = None,
            Trouble::SiteHangs => self.signal_web(server, Signal::STOP)?,
            Trouble::NodeKilled => self.kill_node(server)?,
            Trouble::NodePaused => signal(self.cluster.process(server)?.id(), Signal::STOP)?,
            Trouble::NodeLeaves => {
                let process = self.cluster.process(server)?;
                signal(process.id(), Signal::TERM)?;
                let ended = process.wait()?;
                ensure!(ended.success(), "{} was told to stop and ended with {ended}", name(server));
            }
            Trouble::Mute | Trouble::Deaf => {}
            Trouble::NodeRestarts => {
                self.kill_node(server)?;
                return self.start_node(server);
            }
            Trouble::ClockIsSet => return self.set_clock(server, !self.servers[server].is_an_hour_back),
            Trouble::ApiHangs => {
                // Where three nodes cannot reach it, it is nobody's turn.
                let without = self.servers.iter().filter(|server| server.has_no_api).count();
                let affected = &mut self.servers[server];
                affected.has_no_api = !affected.has_no_api && without < 2;
                return affected.filter();
            }
        }
        self.servers[server].trouble = Some(trouble);
        self.servers[server].filter()
    }

    /// Sets the clock of a server's picored: an hour back, or right.
    fn set_clock(&mut self, server: usize, is_an_hour_back: bool) -> anyhow::Result<()> {
        self.servers[server].is_an_hour_back = is_an_hour_back;
        let shift = if is_an_hour_back { "-1h" } else { "+0" };
        // Whoever reads it meanwhile reads the old or the new.
        let (clock, new) = (self.clock(server), self.folder.path().join("clock.new"));
        std::fs::write(&new, shift)?;
        Ok(std::fs::rename(new, clock)?)
    }

    fn clock(&self, server: usize) -> PathBuf {
        self.folder.path().join(format!("{}.clock", name(server)))
    }

    /// Ends what ails a server.
    pub(crate) fn repair(&mut self, server: usize) -> anyhow::Result<()> {
        let trouble = self.servers[server].trouble.take();
        self.servers[server].filter()?;
        match trouble {
            Some(Trouble::Crashes) => {
                self.start_web(server)?;
                self.start_node(server)
            }
            Some(Trouble::CutOff) => self.network.plug(number(server), true),
            Some(Trouble::SiteStops) => self.start_web(server),
            Some(Trouble::SiteHangs) => self.signal_web(server, Signal::CONT),
            Some(Trouble::NodePaused) => signal(self.cluster.process(server)?.id(), Signal::CONT),
            Some(Trouble::NodeKilled | Trouble::NodeLeaves) => self.start_node(server),
            Some(Trouble::Mute | Trouble::Deaf | Trouble::NodeRestarts | Trouble::ClockIsSet | Trouble::ApiHangs)
            | None => Ok(()),
        }
    }

    /// Ends what ails any server.
    pub(crate) fn repair_all(&mut self) -> anyhow::Result<()> {
        self.leave_alone_all_but(&[]);
        self.servers.iter_mut().for_each(|server| server.has_no_api = false);
        (0..SERVERS).try_for_each(|server| self.repair(server))
    }

    pub(crate) fn is_well(&self, server: usize) -> bool {
        self.servers[server].trouble.is_none()
    }

    /// Whether most of those that have not left are still seen when this befalls one more: else nothing is removed.
    pub(crate) fn keeps_quorum(&self, more: Trouble) -> bool {
        let troubles = || self.servers.iter().filter_map(|server| server.trouble).chain([more]);
        let is_silent = |trouble: &Trouble| {
            use Trouble::{Crashes, CutOff, Deaf, Mute, NodeKilled, NodePaused};
            matches!(trouble, Crashes | CutOff | Mute | Deaf | NodeKilled | NodePaused)
        };
        let silent = troubles().filter(is_silent).count();
        let left = troubles().filter(|trouble| *trouble == Trouble::NodeLeaves).count();
        silent * 2 < SERVERS - left
    }

    /// The servers that are well.
    pub(crate) fn well(&self) -> Vec<usize> {
        (0..SERVERS).filter(|server| self.is_well(*server)).collect()
    }

    /// Tells the watch which addresses nothing happens to from now on.
    pub(crate) fn leave_alone_all_but(&self, touched: &[usize]) {
        let alone = self.well().into_iter().filter(|server| !touched.contains(server));
        self.watch.expect_to_stay(&alone.map(public).collect());
    }

    /// Waits until the record is what it should be, and stays so for `hold`; how long it took to become so.
    pub(crate) fn wait_until_right(&mut self, hold: Duration) -> anyhow::Result<Duration> {
        let expected: BTreeSet<IpAddr> = self.well().into_iter().map(public).collect();
        let (cluster, lines) = (&self.cluster, &mut self.lines);
        self.watch.wait_for(&expected, hold, || {
            while let Some(line) = cluster.next_line() {
                lines.push_back(line.shown());
            }
            lines.drain(..lines.len().saturating_sub(LAST_LINES));
        })
    }

    /// Waits until every node that is well can tell why the record is as it is: who wrote it, with whom, and what keeps each
    /// of the others out.
    pub(crate) fn wait_until_explained(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + CEILING;
        for server in self.well() {
            loop {
                let mut command = Command::new(&self.picored);
                let why = command.args(["why", "www", "--json", "--socket"]).arg(self.cluster.admin_socket(server));
                let said = why.output()?;
                if serde_json::from_slice(&said.stdout).is_ok_and(|why| self.is_explained(&why)) {
                    break;
                }
                let said = String::from_utf8_lossy(&said.stdout);
                ensure!(Instant::now() < deadline, "{} cannot tell why, after {CEILING:?}: {said}", name(server));
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn is_explained(&self, why: &Value) -> bool {
        let members: Vec<_> = why["members"].as_array().into_iter().flatten().collect();
        let is_right = |server: usize| {
            let Some(told) = members.iter().find(|it| it["member"] == name(server)) else { return false };
            let keeps_out =
                ["down", "left"].map(|state| told["state"] == state) != [false; 2] || told["app_state"] == "down";
            told["published"] == self.is_well(server) && self.is_well(server) != keeps_out
        };
        let receipt = &why["receipts"][0];
        let wrote = receipt["node"].is_string() && receipt["handler"] == "dns" && receipt["revision"].is_string();
        wrote && (0..SERVERS).all(is_right)
    }

    /// The servers in the record, in short.
    pub(crate) fn shown(&self) -> String {
        self.well().into_iter().map(name).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(crate) fn powerdns(&self) -> &PowerDns {
        &self.powerdns
    }

    /// The last lines of the nodes' logs.
    pub(crate) fn print_log(&self) {
        self.lines.iter().for_each(|line| eprintln!("{line}"));
    }

    /// Where node `server` serves its metrics: over TCP, on the network whose bridge this is, and at its admin socket.
    pub(crate) fn metrics_of(&self, server: usize) -> anyhow::Result<(Namespace, SocketAddr, PathBuf)> {
        let address = (address(number(server)), METRICS_PORT).into();
        Ok((self.network.bridge()?, address, self.cluster.admin_socket(server)))
    }

    fn start_node(&mut self, server: usize) -> anyhow::Result<()> {
        let mut command = self.servers[server].machine.command(&self.picored);
        command.env("API_KEY", API_KEY);
        command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", self.clock(server));
        // The time of day alone, and looked up each time.
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
        self.cluster.start_by(server, command)
    }

    fn kill_node(&mut self, server: usize) -> anyhow::Result<()> {
        let process = self.cluster.process(server)?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    fn start_web(&mut self, server: usize) -> anyhow::Result<()> {
        let mut command = self.servers[server].machine.command(std::env::current_exe()?);
        let process = command.args(["web", &name(server)]).stdout(Stdio::null()).spawn().context("nsenter")?;
        self.servers[server].web = Some(Held(process));
        Ok(())
    }

    fn signal_web(&self, server: usize, what: Signal) -> anyhow::Result<()> {
        let web = self.servers[server].web.as_ref().context("it has a web server")?;
        signal(web.0.id(), what)
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, what: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, what)?)
}

/// What sets the clock of one process.
fn faketime() -> PathBuf {
    format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH).into()
}

/// A server's number on the network.
fn number(server: usize) -> u8 {
    u8::try_from(server + 1).expect("there are few")
}

/// What a server publishes.
fn public(server: usize) -> IpAddr {
    address(number(server)).into()
}

/// The application and the handler of a node. Rounds follow each other too fast for the governor's budget and flap hold.
fn config(server: usize) -> String {
    let api = format!("http://{}:{API_PORT}", address(DNS));
    format!(
        "[governor]\nbudget_ratio = 1\nflap_hold = \"0s\"\n\n[secrets]\napi = {{ env = \"API_KEY\" }}\n\n[[app]]\nname = \"www\"\npublish = [\"{}\"]\n\
         check = {{ http = \"http://127.0.0.1/health\", expect_body = \"OK\" }}\ninterval = \"1s\"\ntimeout = \"1s\"\n\n\
         [[handler]]\nname = \"dns\"\nsource = \"builtin:dns-powerdns\"\ntimeout = \"3s\"\n\n\
         [handler.config]\napi = \"{api}\"\nzone = \"{ZONE}\"\nrecord = \"{RECORD}\"\nttl = 30\n\n\
         [[handler.http]]\nallow = \"{api}\"\nmethods = [\"GET\", \"PATCH\"]\n\
         paths = [\"/api/v1/servers/localhost/zones/{ZONE}\"]\nallow_private = [\"{}/32\"]\n\
         auth = {{ header = \"X-API-Key\", secret = \"api\", allow_plaintext = true }}\n\n\
         [metrics]\nlisten = \"0.0.0.0:{METRICS_PORT}\"\n",
        public(server),
        address(DNS)
    )
}

/// The web server of `name`, until it is killed.
pub(crate) fn web(name: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).await?;
        Ok(picored::demo::web::serve(listener, name).await?)
    })
}
