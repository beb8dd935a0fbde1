//! What each node says of its own applications: one record a node, written by its owner alone.
//!
//! A record is whole: a newer one replaces an older one, so that losing any number of them does no harm. Newer is the
//! higher (boot, sequence). Everybody passes on what is news to them (by foca's broadcasts) and compares what they hold
//! with one peer now and then (see [`crate::node`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::identity::Identity;
use crate::name::{AppName, HandlerName, NodeName};

/// An encoded record is at most this long, in bytes, so that it fits into one datagram beside foca's header.
pub const MAX_RECORD: usize = 820;
/// So many scopes and handlers are named in which the owner's runs fail.
pub const MAX_FAILING: usize = 8;
/// So many applications and members a node holds at most.
pub const MAX_HOLDING: usize = 4;
/// What a handler takes of a record at most, in bytes.
const HANDLER_BYTES: usize = 13;
/// A life takes at most so many generations above its boot; the boot of the next lies above them.
pub const RENEWALS: u64 = 1024;
/// So many records are kept at most; a cluster has a few hundred.
pub const MAX_RECORDS: usize = 4096;

/// An application's health, as its owner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppState {
    /// Not yet checked often enough, or not yet heard, since the owner started.
    Unknown,
    /// Healthy.
    Up,
    /// Unhealthy.
    Down,
    /// Taken out by an operator, whatever its checks say.
    Maintenance,
}

impl AppState {
    /// The state's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Maintenance => "maintenance",
        }
    }
}

/// One application of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// Its name.
    pub name: AppName,
    /// Its health.
    pub state: AppState,
    /// The record's sequence when the state last changed: part of the event's id.
    pub changed: u64,
    /// The port of its check; 0 if that asks none.
    pub port: u16,
    /// What to publish while it is up.
    pub publish: Vec<IpAddr>,
}

impl AppRecord {
    /// What an application's record may become at its largest.
    pub fn largest(app: &crate::config::App) -> Self {
        let (changed, port) = (u64::MAX, u16::MAX);
        Self { name: app.name.clone(), state: AppState::Unknown, changed, port, publish: app.publish.clone() }
    }

    /// How many bytes it takes.
    pub fn encoded_len(&self) -> usize {
        crate::message::encoded_len(self)
    }
}

/// What of [`MAX_RECORD`] is left for the applications of a node with so many handlers, if its name is as long as can be.
pub const fn room_for_apps(handlers: usize) -> usize {
    MAX_RECORD - crate::name::MAX_LEN - 41 - 4 * MAX_FAILING - 1 - 4 * MAX_HOLDING - HANDLER_BYTES * handlers
}

const _: () = assert!(room_for_apps(crate::config::MAX_HANDLERS) >= 250, "many handlers leave room for applications");

/// The first four bytes of a SHA-256: a record has no room for more. Two that differ look alike once in four billion
/// times. That is enough against mistakes, and whoever may say anything here holds the cluster's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShortDigest([u8; 4]);

impl ShortDigest {
    /// The short form of `digest`.
    pub const fn new(digest: &[u8; 32]) -> Self {
        let [a, b, c, d, ..] = *digest;
        Self([a, b, c, d])
    }

    /// Stands for a node's name.
    pub(crate) fn of_node(name: &NodeName) -> Self {
        let [a, b, c, d, ..] = name.key().to_be_bytes();
        Self([a, b, c, d])
    }

    /// Stands for a handler's name: equal names have equal ones on every node.
    pub fn of_name(name: &HandlerName) -> Self {
        Self::of_bytes(name.as_str().as_bytes())
    }

    /// Stands for an application or a member that an operator holds.
    pub(crate) fn of_held(name: &str) -> Self {
        Self::of_bytes(name.as_bytes())
    }

    /// Stands for a scope of a handler.
    pub fn of_scope(handler: &HandlerName, scope: &str) -> Self {
        // A zero byte is in no name: the parts cannot run into each other.
        Self::of_bytes([handler.as_str(), scope].join("\0").as_bytes())
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        Self::new(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// One handler of a record: which, and what it would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandlerTag {
    /// Its name.
    pub name: ShortDigest,
    /// [`Handler::digest`](crate::config::Handler::digest).
    pub config: ShortDigest,
    /// SHA-256 of the component; `None` while none is loaded.
    pub component: Option<ShortDigest>,
}

impl HandlerTag {
    /// The tag of `handler`, running the component with this digest.
    pub fn new(handler: &crate::config::Handler, component: Option<Digest>) -> Self {
        let config = ShortDigest::new(handler.digest().bytes());
        Self {
            name: ShortDigest::of_name(&handler.name),
            config,
            component: component.map(|it| ShortDigest::new(it.bytes())),
        }
    }

    /// This tag as large as it may become.
    pub fn largest(self) -> Self {
        Self { component: Some(self.config), ..self }
    }
}

/// All that one node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its owner.
    pub node: NodeName,
    /// The owner's boot.
    pub boot: u64,
    /// Grows with each change within a boot.
    pub sequence: u64,
    /// The owner's generation as it said that it is leaving.
    pub leaving: Option<u64>,
    /// The owner's applications.
    pub apps: Vec<AppRecord>,
    /// Whether the owner can run handlers now: not before it knows how the cluster's applications stand.
    pub ready: bool,
    /// The owner's handlers.
    pub handlers: Vec<HandlerTag>,
    /// In which scopes the owner's runs fail of late, or of which handler in more than one: others run them. At most
    /// [`MAX_FAILING`].
    pub failing: Vec<ShortDigest>,
    /// The applications and members that an operator holds there: they are not taken out because they fail. At most
    /// [`MAX_HOLDING`].
    pub holding: Vec<ShortDigest>,
}

impl Record {
    /// That of a node that never said anything.
    pub(crate) fn nothing(node: NodeName, boot: u64) -> Self {
        Self {
            node,
            boot,
            sequence: 0,
            leaving: None,
            apps: Vec::new(),
            ready: false,
            handlers: Vec::new(),
            failing: Vec::new(),
            holding: Vec::new(),
        }
    }

    /// The record's place in the order of its owner's records.
    pub fn version(&self) -> Version {
        (self.boot, self.sequence)
    }

    /// Whether it was written in the life of its owner that has this generation: the boot, or a renewal of it.
    pub fn is_of_life(&self, generation: u64) -> bool {
        (self.boot..=self.boot.saturating_add(RENEWALS)).contains(&generation)
    }

    /// What it says of the handler with this name.
    pub fn handler(&self, name: ShortDigest) -> Option<&HandlerTag> {
        self.handlers.iter().find(|tag| tag.name == name)
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a record has no type that postcard refuses")
    }
}

/// Boot and sequence: larger is newer.
pub type Version = (u64, u64);

/// The records that this node holds.
#[derive(Debug, Default)]
pub struct Records {
    by_node: BTreeMap<NodeName, Record>,
}

impl Records {
    /// Takes `record` if it is news. A stranger beyond [`MAX_RECORDS`] is not taken.
    pub fn take(&mut self, record: Record) -> bool {
        match self.by_node.get(&record.node) {
            Some(held) if held.version() >= record.version() => return false,
            None if self.by_node.len() >= MAX_RECORDS => return false,
            _ => {}
        }
        self.by_node.insert(record.node.clone(), record);
        true
    }

    /// The record of `node`.
    pub fn get(&self, node: &NodeName) -> Option<&Record> {
        self.by_node.get(node)
    }

    /// Whether the member said that it leaves, in this life of its.
    pub fn has_left(&self, member: &Identity) -> bool {
        self.get(&member.name).and_then(|record| record.leaving).is_some_and(|left| left >= member.generation)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_node.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    /// All records, by node.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.by_node.values()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(node: &str, boot: u64, sequence: u64, state: AppState) -> Record {
        Record {
            node: NodeName::new(node).unwrap(),
            boot,
            sequence,
            leaving: None,
            apps: vec![AppRecord {
                name: AppName::new("www").unwrap(),
                state,
                changed: sequence,
                port: 80,
                publish: vec!["192.0.2.1".parse().unwrap()],
            }],
            ready: false,
            handlers: vec![],
            failing: vec![],
            holding: vec![],
        }
    }

    #[test]
    fn only_news_is_taken() {
        let mut records = Records::default();
        assert!(records.take(record("a", 1, 5, AppState::Up)));
        assert!(!records.take(record("a", 1, 5, AppState::Down)), "same version");
        assert!(!records.take(record("a", 1, 4, AppState::Down)), "older");
        assert!(records.take(record("a", 2, 1, AppState::Down)), "a new boot begins again");
        assert!(!records.take(record("a", 1, 9, AppState::Up)), "an old boot is over");
        assert_eq!(records.iter().count(), 1);
    }

    #[test]
    fn strangers_beyond_the_limit_are_not_taken() {
        let mut records = Records::default();
        for i in 0..MAX_RECORDS {
            assert!(records.take(record(&format!("n{i}"), 1, 1, AppState::Up)));
        }
        assert!(!records.take(record("late", 1, 1, AppState::Up)));
        assert!(records.take(record("n7", 1, 2, AppState::Up)), "known ones still are");
    }
}
