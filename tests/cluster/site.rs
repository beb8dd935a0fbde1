//! One test's cluster: its folder, the configs of its nodes, and what they have said when something goes wrong.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::watch;

use crate::node::{Line, Node};
use crate::wait;
use crate::website::Website;

/// So many last lines of each node are shown when something did not happen.
const LAST_LINES: usize = 15;
/// The key of every cluster that has one.
pub(crate) const KEY: [u8; 32] = [7; 32];

/// Where fixture `name` is.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("handlers-wasm/dist/fixtures").join(name).with_extension("wasm")
}

/// A gossip address at `ip` that nobody has now. Each test that needs one has an `ip` of its own, so nobody takes it.
pub(crate) fn free_address(ip: &str) -> SocketAddr {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// A cluster's folder and all that its nodes said.
pub(crate) struct Site {
    folder: TempDir,
    logs: RefCell<Vec<(String, watch::Receiver<Vec<Line>>)>>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        picored::store::create_key_file(&folder.path().join("key"), &KEY).unwrap();
        Self { folder, logs: RefCell::default() }
    }

    /// A file or folder of this cluster.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The config of a node that gossips at `bind`.
    pub(crate) fn setup(&self, name: &str, bind: impl ToString) -> Setup {
        let state_dir = self.path(&format!("{name}.state"));
        let socket = self.path(&format!("{name}.sock"));
        let key = Some(self.path("key"));
        let (node, seeds, rest) = (String::new(), Vec::new(), String::new());
        Setup { name: name.into(), bind: bind.to_string(), advertise: None, state_dir, socket, node, seeds, key, rest }
    }

    /// Writes a node's config, in the place of the one before; who reads meanwhile reads one of them whole.
    pub(crate) fn write(&self, setup: &Setup) -> PathBuf {
        let config = self.path(&format!("{}.toml", setup.name));
        let beside = config.with_extension("new");
        fs::write(&beside, setup.text()).unwrap();
        fs::rename(&beside, &config).unwrap();
        config
    }

    /// Starts a node.
    pub(crate) fn start(&self, setup: &Setup) -> Node<'_> {
        let config = self.write(setup);
        let node = Node::start(self, setup, &config);
        self.logs.borrow_mut().push((setup.name.clone(), node.log()));
        node
    }

    /// Waits for `what`; where it does not happen the test ends with the last lines of all nodes.
    pub(crate) async fn until<T>(&self, what: &str, happens: impl Future<Output = T>) -> T {
        wait::until(what, || self.last_lines(), happens).await
    }

    /// The last lines of each node, in the order of their starts.
    pub(crate) fn last_lines(&self) -> String {
        let mut text = String::new();
        for (name, log) in self.logs.borrow().iter() {
            let lines = log.borrow();
            let _ = write!(text, "\n--- {name}, {} lines", lines.len());
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                let _ = write!(text, "\n{line}");
            }
        }
        text
    }
}

/// What stands in a node's config.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) bind: String,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) key: Option<PathBuf>,
    /// More lines of `[node]`.
    pub(crate) node: String,
    seeds: Vec<String>,
    rest: String,
}

impl Setup {
    /// With another seed.
    pub(crate) fn seed(mut self, seed: impl ToString) -> Self {
        self.seeds.push(seed.to_string());
        self
    }

    /// With the application `www` on `website`, published as `address`; `more` are further keys.
    pub(crate) fn app(self, website: &Website, address: &str, more: &str) -> Self {
        self.app_called("www", website, address, more)
    }

    /// With an application of that name.
    pub(crate) fn app_called(mut self, name: &str, website: &Website, address: &str, more: &str) -> Self {
        let at = website.address();
        let _ = writeln!(self.rest, "[[app]]\nname = \"{name}\"\npublish = [\"{address}\"]");
        let _ = writeln!(self.rest, "check = {{ http = \"http://{at}/health\" }}\n{more}");
        self
    }

    /// With an application that a TCP check asks at `at`; `more` are further keys.
    pub(crate) fn tcp_app(mut self, name: &str, at: SocketAddr, more: &str) -> Self {
        let _ = writeln!(self.rest, "[[app]]\nname = \"{name}\"\npublish = [\"192.0.2.1\"]");
        let _ = writeln!(self.rest, "check = {{ tcp = \"{at}\" }}\n{more}");
        self
    }

    /// With the application `www`, checked as `check` says; `more` are further keys.
    pub(crate) fn app_checked(mut self, check: &str, more: &str) -> Self {
        let _ = writeln!(self.rest, "[[app]]\nname = \"www\"\npublish = [\"192.0.2.1\"]\ncheck = {check}\n{more}");
        self
    }

    /// With a handler from a file; `more` are further keys and tables.
    pub(crate) fn handler(mut self, name: &str, source: &Path, more: &str) -> Self {
        let _ = writeln!(self.rest, "[[handler]]\nname = \"{name}\"\nsource = \"file:{}\"\n{more}", source.display());
        self
    }

    fn text(&self) -> String {
        let Self { name, bind, advertise, state_dir, socket, key, node, seeds, rest } = self;
        let advertise = advertise.map_or_else(String::new, |address| format!("advertise = \"{address}\""));
        let key = key.as_ref().map_or_else(String::new, |path| format!("key_file = {path:?}"));
        format!(
            "[node]\nname = \"{name}\"\nbind = \"{bind}\"\n{advertise}\nstate_dir = {state_dir:?}\n\
             admin_socket = {socket:?}\n{node}\n[cluster]\nname = \"test\"\nseeds = {seeds:?}\n{key}\n{rest}"
        )
    }
}
