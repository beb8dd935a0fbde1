//! The checked config: what the rest of the program is built from. Every value here is in range and has its type; no
//! caller checks it again.
//!
//! The text is read in two steps: `raw` is the file's shape, with places; `check` turns it into these types or into
//! errors that name line, column and remedy. Defaults stand in `check` and nowhere else.

mod check;
mod digest;
mod error;
mod pattern;
mod raw;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::event::EventKind;
use crate::name::{AppName, ClusterName, HandlerName, NodeName, SecretName};
use crate::policy::Grant;

pub use check::{DEFAULT_ADMIN_SOCKET, LONGEST_FLAP_HOLD, Spoken, parse_duration};
pub use error::{ConfigError, ConfigErrors};
pub use pattern::{Pattern, matches};

/// Longest text of a config, in bytes.
pub const MAX_TEXT_LEN: usize = 256 * 1024;
/// So many seeds are taken.
pub const MAX_SEEDS: usize = 64;
/// A cluster may be expected to have so many members.
pub const MAX_EXPECT: usize = 4096;
/// So many applications may one node have: what it says of them has to fit on the wire.
pub const MAX_APPS: usize = 64;
/// So many addresses may one application publish on one node.
pub const MAX_PUBLISH_PER_APP: usize = 16;
/// So many handlers may one node have.
pub const MAX_HANDLERS: usize = 32;
/// So many grants may one handler have.
pub const MAX_GRANTS: usize = 32;
/// So many secrets may one node have.
pub const MAX_SECRETS: usize = 64;
/// So many keys may one handler's `[handler.config]` have.
pub const MAX_CONFIG_KEYS: usize = 64;
/// Longest value in `[handler.config]`, in bytes.
pub const MAX_CONFIG_VALUE_LEN: usize = 8 * 1024;

/// One node's whole config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[[app]]`, in the order of the file.
    pub apps: Vec<App>,
    /// `[[handler]]`, in the order of the file.
    pub handlers: Vec<Handler>,
    /// `[governor]`
    pub governor: GovernorRules,
    /// `[metrics]`: where to serve them over TCP, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// `[secrets]`: where each one is read from. The values are nowhere in a config.
    pub secrets: BTreeMap<SecretName, SecretSource>,
}

impl Config {
    /// Reads and checks a config's text. Paths stay as they are written; files are not looked at.
    ///
    /// # Errors
    /// Every mistake in the text, or, if it is no TOML, every place where it is none.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let mut findings = error::Findings::default();
        let config = check::config(text, &mut findings);
        findings.finish(text, config)
    }

    /// What is no mistake, and yet may not be what was meant.
    pub fn advice(&self) -> Option<&'static str> {
        let own = self.node.advertise.unwrap_or(self.node.bind);
        let others = self.cluster.seeds.iter().filter(|seed| **seed != Seed::Address(own)).count();
        let is_two = self.cluster.expect.max(others + 1) == 2;
        (is_two && self.cluster.two_node == TwoNode::Hold).then_some(
            "with two nodes, one that dies stays published, as the other cannot tell whether it is itself cut off: add a \
             third node, or set two_node = \"trust-survivor\" in [cluster]",
        )
    }
}

/// `[node]`: this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique in the cluster.
    pub name: NodeName,
    /// Where the gossip socket listens.
    pub bind: SocketAddr,
    /// What others dial, if it is not the bound address.
    pub advertise: Option<SocketAddr>,
    /// Generation, handler cache, node key. Private to the daemon (0700).
    pub state_dir: PathBuf,
    /// The admin socket's path.
    pub admin_socket: PathBuf,
    /// How it makes ready for a stop.
    pub drain: Drain,
    /// Whether SIGTERM drains as well, instead of leaving at once.
    pub drain_on_term: bool,
}

/// How a node gives its visitors time to go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// So long it waits to hear that it is published nowhere.
    pub timeout: Duration,
    /// So long it waits then: the record's time to live.
    pub wait: Duration,
}

/// `[cluster]`: what all members share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Datagrams of another cluster are refused.
    pub name: ClusterName,
    /// Where to look for members; tried for ever until one answers.
    pub seeds: Vec<Seed>,
    /// The shared key's file. Without one only loopback addresses are taken.
    pub key_file: Option<PathBuf>,
    /// The gossip's tempo.
    pub profile: Profile,
    /// Of so many members the cluster consists at least; quorum counts from this.
    pub expect: usize,
    /// What the survivor does where there are two members and one of them fails.
    pub two_node: TwoNode,
}

/// `[governor]`: how careful removals are. The same on every node, or sets change with the node that runs a handler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GovernorRules {
    /// So large a part of an application's members may be removed within five minutes, and one always; 1: all.
    pub budget_ratio: f64,
    /// Where failed checks alone would leave less than this part of six or more members, they are not believed; 0: they
    /// always are.
    pub panic_ratio: f64,
    /// Who fails for the second time lately has to be up for so long before it is published again, and for twice as long
    /// each further time; zero: nobody has to.
    pub flap_hold: Duration,
}

impl Default for GovernorRules {
    fn default() -> Self {
        Self { budget_ratio: 0.3, panic_ratio: 0.5, flap_hold: Duration::from_secs(30) }
    }
}

/// One of two is no majority: it cannot tell whether the other one has failed or it has itself been cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TwoNode {
    /// The other one stays published.
    #[default]
    Hold,
    /// It takes the other one out. Where both live and cannot reach each other, each takes the other out.
    TrustSurvivor,
}

impl TwoNode {
    /// All of them, as they are written.
    pub const NAMES: [(&str, Self); 2] = [("hold", Self::Hold), ("trust-survivor", Self::TrustSurvivor)];
}

/// A place to look for members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seed {
    /// An address.
    Address(SocketAddr),
    /// A name to be resolved each time, and a port; every address it has is tried.
    Name(String, u16),
}

/// The gossip's tempo: how fast a failure is noticed against how much silence is forgiven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One site: a probe a second, a failure known in about 5.5 s, 4 s of silence forgiven.
    #[default]
    Lan,
    /// Between sites: a probe every 5 s, a failure known in about 40 s, 30 s of silence forgiven.
    Wan,
    /// One machine or one switch: two probes a second, a failure known in about 3 s, 2 s of silence forgiven.
    Local,
    /// One site whose servers are never short of CPU: three probes a second, a failure known in about 2.4 s, and only 1.6 s
    /// of silence forgiven.
    Fast,
}

impl Profile {
    /// All of them, as they are written.
    pub const NAMES: [(&str, Self); 4] =
        [("lan", Self::Lan), ("wan", Self::Wan), ("local", Self::Local), ("fast", Self::Fast)];
}

/// `[[app]]`: an application on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// The same on every node that runs it.
    pub name: AppName,
    /// What handlers publish while it is up.
    pub publish: Vec<IpAddr>,
    /// How it is checked.
    pub check: Check,
    /// From the start of one check to the start of the next, jittered by a tenth. Not for [`Check::Ttl`].
    pub interval: Duration,
    /// A check that takes longer has failed. Not for [`Check::Ttl`].
    pub timeout: Duration,
    /// So many good checks, or beats, in a row make it up.
    pub rise: u32,
    /// So many bad checks in a row make it down. Not for [`Check::Ttl`].
    pub fall: u32,
}

/// How an application is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A request is answered as expected.
    Http(HttpCheck),
    /// A connection is taken.
    Tcp(TcpCheck),
    /// A command succeeds.
    Exec(ExecCheck),
    /// Nothing is asked: the application says that it is well, at least once in this time.
    Ttl(Duration),
}

impl Check {
    /// The port that is asked; 0 where none is.
    pub fn port(&self) -> u16 {
        match self {
            Self::Http(check) => check.url.port_or_known_default().expect("http and https have one"),
            Self::Tcp(check) => check.port,
            Self::Exec(_) | Self::Ttl(_) => 0,
        }
    }
}

/// An HTTP check: one request to a URL on this machine or near it. Redirects are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// `http://host[:port]/path` or `https://...`; no user information and no fragment.
    pub url: url::Url,
    /// What is asked.
    pub method: CheckMethod,
    /// Sent beside the check's own; names and values that HTTP takes, and none that frames the message. A `host` among
    /// them stands in the place of the URL's.
    pub headers: Vec<(String, String)>,
    /// Inclusive ranges of statuses that are good.
    pub expect_status: Vec<(u16, u16)>,
    /// The body must contain this text, if given. The first 64 KiB are looked at.
    pub expect_body: Option<String>,
    /// For https, and only there.
    pub tls: Option<CheckTls>,
}

/// The method of an HTTP check. None has a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckMethod {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`
    Head,
    /// `OPTIONS`
    Options,
    /// `POST`
    Post,
}

impl CheckMethod {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Get, Self::Head, Self::Options, Self::Post];

    /// As HTTP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
        }
    }
}

/// What an https check demands of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTls {
    /// Whose certificate it shall be: the name in the `host` header where one is set, as a visitor's would be, and else
    /// the URL's.
    pub server_name: url::Host,
    /// Who may vouch for it.
    pub trust: Trust,
}

/// Whose word on a server's certificate counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// The platform's roots.
    Platform,
    /// The certificates in this PEM file, and no other.
    CaFile(PathBuf),
    /// Nobody's: any certificate is taken, an expired one and another's as well.
    Anyone,
}

/// A TCP check: a connection is made, nothing is sent, and it is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCheck {
    /// A name to be resolved each time, or an address without brackets.
    pub host: String,
    /// From 1.
    pub port: u16,
}

/// A check by a command of this machine, which is run without a shell. It succeeds by ending with 0 in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCheck {
    /// The program, by an absolute path.
    pub program: PathBuf,
    /// What it is given. No zero bytes.
    pub arguments: Vec<String>,
    /// As whom it is run, if not as the daemon's own user.
    pub user: Option<String>,
    /// What stands in its environment, beside and before `PATH` and `LANG`. Sound names, and no zero bytes.
    pub env: BTreeMap<String, String>,
}

/// `[[handler]]`: a handler, what it is told, and what it may reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// Unique on this node; the same on every node that runs it.
    pub name: HandlerName,
    /// Where its component comes from.
    pub source: Source,
    /// Whether another component in its file takes over by itself. For files alone.
    pub watch: bool,
    /// The events it is told of.
    pub on: Vec<EventKind>,
    /// The applications it may see; empty: all.
    pub apps: Vec<Pattern>,
    /// Which of the nodes that have it run it.
    pub run_on: RunOn,
    /// How often it is told to look again.
    pub reconcile_every: Duration,
    /// A run that takes longer is ended.
    pub timeout: Duration,
    /// What the guest reads through `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// What it may reach over HTTP.
    pub http: Vec<Grant>,
}

impl Handler {
    /// Whether this handler may see `app`.
    pub fn sees(&self, app: &AppName) -> bool {
        self.apps.is_empty() || self.apps.iter().any(|pattern| pattern.matches(app.as_str()))
    }
}

/// Which nodes run a handler, among those that have it, are ready, and agree with most on what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunOn {
    /// One of them for each scope: each event is delivered once in the cluster.
    #[default]
    One,
    /// Each of them: each event is delivered on every node that sees it happen.
    Every,
    /// The node that the event is about. A node sees neither its own coming nor its own going, so that these are the
    /// `app-up` and `app-down` of its own applications while it lives, and a `reconcile` of each application it has.
    Subject,
}

impl RunOn {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::One, Self::Every, Self::Subject];

    /// The one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Every => "every",
            Self::Subject => "subject",
        }
    }
}

/// Where a secret is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file, read again when it has changed.
    File(PathBuf),
    /// A variable of the daemon's environment.
    Env(String),
    /// A file of this name in the directory that systemd makes for the unit's credentials.
    Credential(String),
}

impl std::fmt::Display for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::Credential(name) => write!(f, "the credential {name}"),
        }
    }
}

/// Where a component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One of the handlers inside the binary.
    Builtin(String),
    /// A file.
    File(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}
