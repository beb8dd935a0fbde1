//! What a node says of itself: the answers of the admin socket, and of `picored members` and `picored status`.
//!
//! Plain data with stable names; programs read it as JSON.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::letter::{LastEnd, Letter};

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// `joining` until a seed has answered and its view has been taken over, then `joined`; `leaving` at the end.
    pub state: String,
    /// All known members, this node among them, by name.
    pub members: Vec<MemberStatus>,
    /// Whether a majority of the cluster is seen: without it nobody is taken out of any set, and no handler runs.
    #[serde(default)]
    pub quorum: bool,
    /// How many members the cluster has, dead or alive, as the majority counts them.
    #[serde(default)]
    pub known_size: usize,
    /// What is published, or not, against how it looks; by application and member.
    #[serde(default)]
    pub holds: Vec<HoldStatus>,
    /// What operators hold.
    #[serde(default)]
    pub operator_holds: Vec<OperatorHoldStatus>,
    /// What was published last, by handler and application.
    #[serde(default)]
    pub receipts: Vec<ReceiptStatus>,
    /// The handlers, in the order of the config.
    pub handlers: Vec<HandlerStatus>,
    /// Datagrams and frames by fate: `sent`, `accepted`, and a name for each reason of refusal.
    pub datagrams: std::collections::BTreeMap<String, u64>,
    /// What runs or waits, by handler and scope; an answer of its own.
    #[serde(skip)]
    pub deliveries: Vec<DeliveryStatus>,
    /// What was given up, the oldest first; an answer of its own.
    #[serde(skip)]
    pub dead: Vec<Arc<Letter>>,
}

/// What was published last in one scope, as far as this node has heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptStatus {
    /// The handler.
    pub handler: String,
    /// The application.
    pub app: String,
    /// Who ran it.
    pub node: String,
    /// When the run read what it wrote: RFC 3339, UTC, by the runner's clock.
    pub time: String,
    /// The set's name.
    pub revision: String,
    /// Whose endpoints are in it.
    pub published: Vec<String>,
}

/// One delivery that runs, waits or was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStatus {
    /// Its name.
    pub delivery: String,
    /// For which handler.
    pub handler: String,
    /// The scope's name: the application's, else the handler's.
    pub scope: String,
    /// The event's kind.
    pub event: String,
    /// The event's id.
    pub event_id: String,
    /// The member that it is about.
    pub member: Option<String>,
    /// `running` or `waiting`; of one that was given up, `dead` or `permanent`.
    pub state: String,
    /// The try that runs or comes next; of one that was given up, the last that was made. From 1.
    pub attempt: u32,
    /// Since when it runs or when it is due, or when it was given up: RFC 3339, UTC.
    pub time: String,
    /// How the try before ended.
    pub last: Option<LastEnd>,
}

impl From<&Letter> for DeliveryStatus {
    fn from(letter: &Letter) -> Self {
        Self {
            delivery: letter.id().to_string(),
            handler: letter.handler.to_string(),
            scope: letter.app.as_ref().map_or_else(|| letter.handler.to_string(), ToString::to_string),
            event: letter.event.to_string(),
            event_id: letter.event_id.clone(),
            member: letter.member.as_ref().map(ToString::to_string),
            state: letter.outcome.as_str().to_owned(),
            attempt: letter.attempt,
            time: letter.time.rfc3339(),
            last: Some(letter.last.clone()),
        }
    }
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Where it gossips: address and port.
    pub address: String,
    /// `alive`, `degraded` (answers over TCP alone), `suspect`, `down` or `left`.
    pub state: String,
    /// Grows with each start of the member.
    pub generation: u64,
    /// Its applications, by name.
    pub apps: Vec<AppStatus>,
    /// Why it is suspected or down, as far as this node knows; none while it is alive or has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// What is held against a member that is suspected or down. What this node cannot know is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Since when this node knows that it is suspected: RFC 3339, UTC. None if this node only heard that it is down.
    pub suspected_since: Option<String>,
    /// The members whose own probes it did not answer, in the order in which this node learnt of it; the first four at
    /// most. None of them: somebody suspects it, and this node has not heard who.
    pub accusers: Vec<AccuserStatus>,
    /// Since when this node holds it for down: RFC 3339, UTC. None while it is only suspected.
    pub down_since: Option<String>,
    /// How long it was suspected before, in milliseconds.
    pub suspected_ms: Option<u64>,
    /// `own` if this node waited for a refutal until the end; `heard` if another did, which is not known. None while it is
    /// only suspected.
    pub verdict: Option<String>,
}

/// A member whose own probe of another was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccuserStatus {
    /// Its name.
    pub name: String,
    /// When this node learnt of it: RFC 3339, UTC.
    pub since: String,
    /// `direct`, or `indirect` if others were asked to reach the suspect as well.
    pub probe: String,
    /// How many others were asked.
    pub asked: u8,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.suspected_since {
            Some(since) => write!(f, "suspected since {since}")?,
            None => f.write_str("never suspected here")?,
        }
        for (index, AccuserStatus { name, probe, asked, .. }) in self.accusers.iter().enumerate() {
            f.write_str(if index == 0 { " by " } else { ", " })?;
            match asked {
                0 => write!(f, "{name} ({probe})")?,
                _ => write!(f, "{name} ({probe}, {asked} asked)")?,
            }
        }
        if let Some(ms) = self.suspected_ms {
            write!(f, ", for {}.{} s", ms / 1000, ms % 1000 / 100)?;
        }
        match self.verdict.as_deref() {
            Some("own") => f.write_str("; this node gave up waiting"),
            Some(_) => f.write_str("; another member said that it is down"),
            None => Ok(()),
        }
    }
}

/// One member that stays in an application's set, or out of it, for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// The application.
    pub app: String,
    /// The member.
    pub member: String,
    /// `never-empty`, `operator`, `quorum`, `settle`, `flap`, `budget` or `panic`.
    pub reason: String,
}

/// An application or a member that an operator holds, on one node that was told so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorHoldStatus {
    /// Its name.
    pub name: String,
    /// The node.
    pub node: String,
    /// When it ends by itself: RFC 3339, UTC; known on that node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// One application on a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its name.
    pub name: String,
    /// `up`, `down` or `unknown`, as its owner says.
    pub state: String,
    /// What it publishes while it is up.
    pub publish: Vec<IpAddr>,
}

/// One handler on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandlerStatus {
    /// Its name.
    pub name: String,
    /// Where its component comes from.
    pub source: String,
    /// `ready`, or why it is not; `config-mismatch` if it is not what most nodes hold it to be, and so is not run here.
    pub state: String,
    /// The component that it runs: its SHA-256 in hexadecimal digits; none before it could be loaded.
    pub version: Option<String>,
    /// Whether a change of its file is enough to replace it: `watch = true`.
    pub watched: bool,
    /// How the last upgrade or rollback since the start went.
    pub upgrade: Option<LastUpgrade>,
    /// What it asks for and is not granted: calls that need it are refused.
    #[serde(default)]
    pub missing: Vec<MissingAsk>,
    /// `one`, `every` or `subject`.
    #[serde(default)]
    pub run_on: String,
    /// The live nodes that differ from most in it, by name.
    #[serde(default)]
    pub mismatches: Vec<MismatchStatus>,
    /// The nodes whose runs of it failed of late, by name.
    #[serde(default)]
    pub failing: Vec<FailingStatus>,
    /// Deliveries that wait or run.
    pub pending: usize,
    /// Deliveries that were given up and are kept; see `picored deliveries --dead`.
    #[serde(default)]
    pub dead: usize,
    /// How many of those went since the start, as there were more than are kept, or they were too old.
    #[serde(default)]
    pub dead_dropped: u64,
    /// Deliveries that ended, by outcome.
    pub outcomes: std::collections::BTreeMap<String, u64>,
    /// How the last run ended.
    pub last: Option<LastRun>,
}

/// Something that a handler asks for and is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingAsk {
    /// The ask's kind and value, as `describe` has them: `http GET {api}/zones`.
    pub ask: String,
    /// The lines of the handler's section that would grant it.
    pub remedy: String,
}

/// How an upgrade or a rollback went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUpgrade {
    /// `upgraded`; `refused`, the old version having stayed; or `rolled-back`, by command or because the new one failed.
    pub outcome: String,
    /// Why it was refused or failed; else empty.
    pub reason: String,
    /// When: RFC 3339, UTC.
    pub time: String,
}

/// A node whose handler is another than most nodes have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MismatchStatus {
    /// The node's name.
    pub node: String,
    /// `config`, `component`, or `config and component`.
    pub differs: String,
}

/// A node whose runs of a handler fail, so that another runs it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingStatus {
    /// The node's name.
    pub node: String,
    /// The scope, as a rule an application; none if it fails in more than one and is asked in none.
    pub scope: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// The event's kind.
    pub event: String,
    /// The scope's name.
    pub scope: String,
    /// `done`, `retry`, `retry-after`, `permanent`, or the reason why the host stopped it.
    pub outcome: String,
    /// What it said.
    pub text: String,
    /// When it ended: RFC 3339, UTC.
    pub time: String,
    /// The try, from 1.
    pub attempt: u32,
    /// How long it ran.
    pub run_ms: f64,
}

/// One request of a handler's dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// The method, as the handler wrote it. As in all texts here, `[secret]` stands where a secret was.
    pub method: String,
    /// The URL, as the handler wrote it.
    pub url: String,
    /// The body, or its beginning.
    pub body: String,
    /// The body's whole length, in bytes.
    pub body_bytes: usize,
    /// Whether it was sent.
    pub sent: bool,
    /// The status that the handler was given, or why it was given none.
    pub answer: String,
}
