//! What a changed config means for a node that runs: the difference between two configs, and nothing else.
//!
//! [`diff`] is pure, so a plan can be shown without being carried out. Where a key changes that only a start can take in,
//! the plan says which, and [`Plan::needs_restart`] forbids to apply any of it: a config is in force whole or not at all.
//! Values never stand in a plan, for some are secret. The driver asks for it, the node carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{App, Cluster, Config, GovernorRules, Handler, Node, SecretSource};
use crate::name::{HandlerName, SecretName};

/// What a reload would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The keys that only a start can take in, as `section.key`, in the order of the documentation.
    pub restart: Vec<String>,
    /// What can change while the node runs: applications, handlers, secrets, then the cluster; each by name.
    pub changes: Vec<Change>,
}

/// One thing that a reload changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about.
    pub what: Subject,
    /// Its name; none for the cluster and the governor, of which there is one.
    pub name: Option<String>,
    /// What becomes of it.
    pub change: Kind,
    /// The keys that differ, sorted, if it stays and changes. A key of `[handler.config]` is `config.KEY`; `component`
    /// stands for other bytes at an unchanged source.
    pub keys: Vec<String>,
}

/// What can change while a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// An `[[app]]`.
    App,
    /// A `[[handler]]`.
    Handler,
    /// A line of `[secrets]`: where it is read from. What is read there may change without a reload.
    Secret,
    /// `[cluster]`.
    Cluster,
    /// `[governor]`.
    Governor,
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It comes.
    Added,
    /// It goes.
    Removed,
    /// It stays, and is another.
    Changed,
}

impl Subject {
    /// The subject's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Handler => "handler",
            Self::Secret => "secret",
            Self::Cluster => "cluster",
            Self::Governor => "governor",
        }
    }
}

impl Kind {
    /// The kind's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl Plan {
    /// Whether both configs mean the same.
    pub fn is_empty(&self) -> bool {
        self.restart.is_empty() && self.changes.is_empty()
    }

    /// Whether nothing of it may be applied to a node that runs.
    pub fn needs_restart(&self) -> bool {
        !self.restart.is_empty()
    }
}

/// For people: first what needs a restart, then a line for each change.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing has changed");
        }
        let mut lines = Vec::new();
        if self.needs_restart() {
            lines.push(format!("needs a restart: {}", self.restart.join(", ")));
        }
        lines.extend(self.changes.iter().map(ToString::to_string));
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.as_str())?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, ": {}", self.change.as_str())?;
        if self.keys.is_empty() { Ok(()) } else { write!(f, " {}", self.keys.join(", ")) }
    }
}

/// What it takes to get from `old` to `new`. The sources of the handlers in `replaced` hold other bytes than those that
/// run.
pub fn diff(old: &Config, new: &Config, replaced: &BTreeSet<HandlerName>) -> Plan {
    // Taken apart without `..`, here and below, so that a new key cannot be forgotten.
    let Config { node, cluster, apps, handlers, governor, metrics, secrets } = old;
    let mut restart = node_keys(node, &new.node);
    let (fixed, live) = cluster_keys(cluster, &new.cluster);
    restart.extend(fixed);
    restart.extend(differing([("metrics.listen", *metrics != new.metrics)]));

    let mut changes = Vec::new();
    let by_name = |apps: &[App]| apps.iter().map(|app| (app.name.clone(), app.clone())).collect();
    each(Subject::App, &by_name(apps), &by_name(&new.apps), |_, old, new| app_keys(old, new), &mut changes);
    let by_name = |all: &[Handler]| all.iter().map(|handler| (handler.name.clone(), handler.clone())).collect();
    let keys = |name: &HandlerName, old: &Handler, new: &Handler| handler_keys(old, new, replaced.contains(name));
    each(Subject::Handler, &by_name(handlers), &by_name(&new.handlers), keys, &mut changes);
    let source = |_: &SecretName, old: &SecretSource, new: &SecretSource| differing([("source", old != new)]);
    each(Subject::Secret, secrets, &new.secrets, source, &mut changes);
    if !live.is_empty() {
        changes.push(Change { what: Subject::Cluster, name: None, change: Kind::Changed, keys: live });
    }
    let rules = governor_keys(governor, &new.governor);
    if !rules.is_empty() {
        changes.push(Change { what: Subject::Governor, name: None, change: Kind::Changed, keys: rules });
    }
    Plan { restart, changes }
}

/// The changes among things that have names.
fn each<N: Ord + ToString, T>(
    what: Subject,
    old: &BTreeMap<N, T>,
    new: &BTreeMap<N, T>,
    keys: impl Fn(&N, &T, &T) -> Vec<String>,
    changes: &mut Vec<Change>,
) {
    let names: BTreeSet<&N> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (change, keys) = match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => (Kind::Changed, keys(name, old, new)),
            (None, _) => (Kind::Added, Vec::new()),
            (_, None) => (Kind::Removed, Vec::new()),
        };
        if change != Kind::Changed || !keys.is_empty() {
            changes.push(Change { what, name: Some(name.to_string()), change, keys });
        }
    }
}

/// The names of those that differ.
fn differing<const N: usize>(keys: [(&str, bool); N]) -> Vec<String> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

/// Who this node is and where it is found: its peers, its socket and its state hang on each of these.
fn node_keys(old: &Node, new: &Node) -> Vec<String> {
    let Node { name, bind, advertise, state_dir, admin_socket, drain, drain_on_term } = old;
    differing([
        ("node.name", *name != new.name),
        ("node.bind", *bind != new.bind),
        ("node.advertise", *advertise != new.advertise),
        ("node.state_dir", *state_dir != new.state_dir),
        ("node.admin_socket", *admin_socket != new.admin_socket),
        ("node.drain_timeout", drain.timeout != new.drain.timeout),
        ("node.drain_wait", drain.wait != new.drain.wait),
        ("node.drain_on_term", *drain_on_term != new.drain_on_term),
    ])
}

/// What needs a restart, and what does not.
fn cluster_keys(old: &Cluster, new: &Cluster) -> (Vec<String>, Vec<String>) {
    let Cluster { name, seeds, key_file, profile, expect, two_node } = old;
    let fixed = differing([
        ("cluster.name", *name != new.name),
        ("cluster.key_file", *key_file != new.key_file),
        ("cluster.profile", *profile != new.profile),
    ]);
    let live = differing([
        ("expect", *expect != new.expect),
        ("seeds", *seeds != new.seeds),
        ("two_node", *two_node != new.two_node),
    ]);
    (fixed, live)
}

fn governor_keys(old: &GovernorRules, new: &GovernorRules) -> Vec<String> {
    let GovernorRules { budget_ratio, panic_ratio, flap_hold } = old;
    differing([
        ("budget_ratio", *budget_ratio != new.budget_ratio),
        ("flap_hold", *flap_hold != new.flap_hold),
        ("panic_ratio", *panic_ratio != new.panic_ratio),
    ])
}

fn app_keys(old: &App, new: &App) -> Vec<String> {
    let App { name: _, publish, check, interval, timeout, rise, fall } = old;
    differing([
        ("check", *check != new.check),
        ("fall", *fall != new.fall),
        ("interval", *interval != new.interval),
        ("publish", *publish != new.publish),
        ("rise", *rise != new.rise),
        ("timeout", *timeout != new.timeout),
    ])
}

fn handler_keys(old: &Handler, new: &Handler, has_other_bytes: bool) -> Vec<String> {
    let Handler { name: _, source, watch, on, apps, run_on, reconcile_every, timeout, config, http } = old;
    let names: BTreeSet<&String> = config.keys().chain(new.config.keys()).collect();
    let settings = names.into_iter().filter(|name| config.get(*name) != new.config.get(*name));
    let mut keys: Vec<String> = settings.map(|name| format!("config.{name}")).collect();
    keys.extend(differing([
        ("apps", *apps != new.apps),
        ("component", *source == new.source && has_other_bytes),
        ("http", *http != new.http),
        ("on", *on != new.on),
        ("reconcile_every", *reconcile_every != new.reconcile_every),
        ("run_on", *run_on != new.run_on),
        ("source", *source != new.source),
        ("timeout", *timeout != new.timeout),
        ("watch", *watch != new.watch),
    ]));
    keys.sort();
    keys
}
