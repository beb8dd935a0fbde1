//! What one run of a handler sees: a view of the cluster, frozen when the run begins.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::name::{AppName, NodeName};

/// A member's state, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Answers over TCP alone: no datagram comes through. As good as alive.
    Degraded,
    /// Does not answer; still counted as alive until the suspicion time is over.
    Suspect,
    /// Failed.
    Down,
    /// Left of its own will.
    Left,
}

impl MemberState {
    /// The state's one spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Degraded => "degraded",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        }
    }

    /// Whether the member counts as being there: alive, or not yet given up.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Alive | Self::Degraded | Self::Suspect)
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One member, as handlers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name.
    pub name: NodeName,
    /// Its state.
    pub state: MemberState,
    /// The address it gossips from.
    pub address: IpAddr,
}

/// One place where an application answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// The member it is on.
    pub member: NodeName,
    /// What to publish.
    pub address: IpAddr,
    /// The port of the application's check.
    pub port: u16,
}

/// The wanted set of one application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// Equal if and only if the endpoints are equal.
    pub revision: String,
    /// In order of member and address.
    pub endpoints: Vec<Endpoint>,
    /// Every address that a known member ever claimed for this application, sorted, so that a handler can tell a value
    /// that is the cluster's own from one that somebody else published.
    pub claimed: Vec<IpAddr>,
}

/// Everything a run may ask of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The node it runs on.
    pub node: MemberInfo,
    /// All known members, this node among them, by name.
    pub members: Vec<MemberInfo>,
    /// The applications that the handler may see.
    pub apps: BTreeMap<AppName, EndpointSet>,
    /// Names the whole snapshot.
    pub revision: String,
}
