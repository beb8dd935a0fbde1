//! What can happen, and what a run of a handler can end as. The words here are the ones of the WIT, the config, the
//! CLI and the logs; nothing spells them a second time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::name::{AppName, HandlerName, NodeName};
use crate::time::Wall;

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A member joined or came back.
    MemberUp,
    /// A member failed.
    MemberDown,
    /// A member left of its own will.
    MemberLeft,
    /// An application on a member became healthy.
    AppUp,
    /// An application on a member became unhealthy, or its member went.
    AppDown,
    /// Nothing happened: a reason to look again.
    Reconcile,
}

impl EventKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::MemberUp, Self::MemberDown, Self::MemberLeft, Self::AppUp, Self::AppDown, Self::Reconcile];

    /// The kind's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemberUp => "member-up",
            Self::MemberDown => "member-down",
            Self::MemberLeft => "member-left",
            Self::AppUp => "app-up",
            Self::AppDown => "app-down",
            Self::Reconcile => "reconcile",
        }
    }

    /// Whether `pattern` means it: its name, or the beginning of it and `*`.
    pub fn fits(self, pattern: &str) -> bool {
        crate::config::matches(pattern, self.as_str())
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownEvent)
    }
}

/// A text that names no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such event; there are: {}", EventKind::ALL.map(EventKind::as_str).join(", "))]
pub struct UnknownEvent;

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The same on every node for the same occurrence, except for `reconcile`, whose ids are the node's own.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// The application it is about, if any.
    pub app: Option<AppName>,
    /// The member it is about, if any.
    pub member: Option<NodeName>,
    /// When this node learnt of it.
    #[serde(serialize_with = "rfc3339")]
    pub time: Wall,
}

fn rfc3339<S: Serializer>(wall: &Wall, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&wall.rfc3339())
}

/// Names one delivery on this node: the handler and a number. Numbers only grow while the process lives, and begin above
/// those of all deliveries that an earlier process has left.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    /// Who it is for.
    pub handler: HandlerName,
    /// Unique on this node.
    pub number: u64,
}

impl FromStr for DeliveryId {
    type Err = NoDeliveryId;

    fn from_str(text: &str) -> Result<Self, NoDeliveryId> {
        let (handler, number) = text.split_once('/').ok_or(NoDeliveryId)?;
        // One spelling: no sign, no leading zeros.
        let number = number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number).ok_or(NoDeliveryId)?;
        Ok(Self { handler: HandlerName::new(handler).map_err(|_| NoDeliveryId)?, number })
    }
}

/// A text that names no delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delivery is named by its handler and a number, such as dns/12: see `picored deliveries`")]
pub struct NoDeliveryId;

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.handler, self.number)
    }
}

/// How one run of a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// It worked.
    Done {
        /// Whether the world outside was changed.
        changed: bool,
        /// One line for the event log.
        text: String,
    },
    /// The handler asked for another try, after the usual backoff.
    Retry(String),
    /// The handler asked for another try, no sooner than this.
    RetryAfter(Duration, String),
    /// The handler says that it would fail the same way again.
    Permanent(String),
    /// The host ended it.
    Stopped(StopReason, String),
}

impl RunEnd {
    /// How it ended, in a word: `done`, `retry`, `retry-after`, `permanent`, or the reason why the host stopped it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Retry(_) => "retry",
            Self::RetryAfter(..) => "retry-after",
            Self::Permanent(_) => "permanent",
            Self::Stopped(reason, _) => reason.as_str(),
        }
    }

    /// What was said.
    pub fn text(&self) -> &str {
        match self {
            Self::Done { text, .. } => text,
            Self::Retry(text) | Self::RetryAfter(_, text) | Self::Permanent(text) | Self::Stopped(_, text) => text,
        }
    }
}

/// How a delivery, or one try of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The handler did it.
    Done,
    /// It will be tried again.
    Retry,
    /// Given up after [`MAX_ATTEMPTS`](crate::ledger::MAX_ATTEMPTS) tries.
    Dead,
    /// The handler says that it cannot be done.
    Permanent,
    /// A newer event took its place before it ran.
    Superseded,
    /// Another node runs it now.
    HandedOver,
    /// A new config has no handler for it: it did not run, or failed and is not tried again.
    Cancelled,
}

impl Outcome {
    /// The outcome's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Permanent => "permanent",
            Self::Superseded => "superseded",
            Self::HandedOver => "handed-over",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why the host ended a run. Each is a limit or a fault of that run alone; the delivery is tried again with backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// Past its wall-clock deadline.
    Timeout,
    /// Used more CPU time than it may.
    Cpu,
    /// Asked for more memory, tables or instances than it may have.
    Memory,
    /// Ran out of stack.
    Stack,
    /// Handed the host more data, handles or log text than it may.
    Limit,
    /// Trapped: its own fault, such as a panic or `unreachable`.
    Trap,
    /// Wanted to send something when it could no longer be sure to act on the newest that is known: past its deadline, or
    /// on a node that no longer sees a majority.
    Fenced,
    /// Could not be loaded or instantiated.
    Load,
    /// A fault in the host while running it.
    Host,
}

impl StopReason {
    /// The reason's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Limit => "limit",
            Self::Trap => "trap",
            Self::Fenced => "fenced",
            Self::Load => "load",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_spelled_once_and_apart() {
        let mut words: Vec<_> = EventKind::ALL.iter().map(|k| k.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), EventKind::ALL.len());
        assert!(EventKind::ALL.iter().all(|kind| kind.as_str().parse() == Ok(*kind)));
        for wrong in ["dns", "dns/", "/1", "dns/01", "dns/+1", "dns/1/2", "d s/1"] {
            assert_eq!(wrong.parse::<DeliveryId>(), Err(NoDeliveryId), "{wrong}");
        }
        assert_eq!("dns/12".parse::<DeliveryId>().unwrap().to_string(), "dns/12");
        assert!("app-*".parse::<EventKind>().unwrap_err().to_string().contains("app-down"));
    }
}
