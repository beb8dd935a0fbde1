//! What crosses the wall between a node and its shell: what a node starts with, what it is told ([`Input`]), what it
//! wants done ([`Output`]), and what a person may want to know ([`Notice`]).
//!
//! Values only: the node gives them their meaning.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::agreement::Difference;
use crate::config::{App, GovernorRules, Handler, Profile, Seed, TwoNode};
use crate::digest::Digest;
use crate::envelope::{ClusterKey, Refusal};
use crate::event::{DeliveryId, Event, Outcome, RunEnd};
use crate::governor::Hold;
use crate::ledger::Delivery;
use crate::letter::Letter;
use crate::name::{AppName, ClusterName, HandlerName, HoldName, NodeName};
use crate::record::{AppState, MAX_RECORD};
use crate::route::Connection;
use crate::snapshot::Snapshot;
use crate::status::{Evidence, MissingAsk};
use crate::time::Wall;
use crate::versions::Takeover;

use super::hold::Held;
use super::maintain::Maintained;

/// What a node starts with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Unique in the cluster.
    pub name: NodeName,
    /// The cluster.
    pub cluster: ClusterName,
    /// Its key.
    pub key: ClusterKey,
    /// Higher than at any start before, and durable before the first datagram is sent.
    pub boot: u64,
    /// What others dial.
    pub advertise: SocketAddr,
    /// Where to look for members.
    pub seeds: Vec<Seed>,
    /// Where members were when this node last ran: what [`Output::Remember`] said. They are asked as seeds are while it
    /// looks for its cluster, but it does not wait for them.
    pub remembered: Vec<SocketAddr>,
    /// The gossip's tempo.
    pub profile: Profile,
    /// Of so many members the cluster consists at least.
    pub expect: usize,
    /// What the survivor of two does.
    pub two_node: TwoNode,
    /// How careful removals are.
    pub governor: GovernorRules,
    /// This node's applications.
    pub apps: Vec<App>,
    /// Those in maintenance, and when that ends by itself: what [`Output::Maintain`] said.
    pub maintained: BTreeMap<AppName, Option<Wall>>,
    /// What an operator holds there, and when that ends by itself: what [`Output::Hold`] said.
    pub held: BTreeMap<HoldName, Option<Wall>>,
    /// Its handlers.
    pub handlers: Vec<Handler>,
    /// Deliveries that an earlier life has left: what [`Output::Keep`] said, less what [`Output::Settled`] did.
    pub letters: Vec<Letter>,
    /// Where all of its randomness comes from.
    pub random: [u8; 32],
}

/// Why a node cannot start, or cannot take another config in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// What the node would say of itself does not fit into a datagram.
    #[error(
        "the applications and handlers of this node take {0} bytes on the wire, {MAX_RECORD} are possible: use shorter \
         names, fewer of them or fewer publish addresses"
    )]
    RecordTooLarge(usize),
    /// It ends, and nothing else.
    #[error("this node is leaving its cluster")]
    Leaving,
}

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// A datagram came in.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// A frame came in on a TCP connection. Nothing more is read from that until [`Output::Listen`].
    Frame {
        /// Which.
        connection: Connection,
        /// Who is at its other end.
        from: SocketAddr,
        /// What the frame holds, its length aside.
        data: Vec<u8>,
    },
    /// A connection was cut off, or not taken, before its frame could be looked at.
    FrameRefused {
        /// Whose it was.
        from: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// A connection that the node asked for could not be made, or has ended. Frames that came before it were told of.
    Closed {
        /// Which.
        connection: Connection,
    },
    /// A seed's name was looked up; no address if that failed.
    Resolved {
        /// The name.
        name: String,
        /// The port that came with it.
        port: u16,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
    },
    /// A check has ended; if it was bad, with the reason.
    CheckDone {
        /// The check's number. A result that nobody waits for any more is not taken.
        number: u64,
        /// How.
        result: Result<(), String>,
    },
    /// A run has ended.
    RunDone {
        /// Which.
        id: DeliveryId,
        /// How.
        end: RunEnd,
        /// After how long.
        took: Duration,
        /// Of which version; none if none could be loaded.
        version: Option<Digest>,
    },
    /// A handler cannot be loaded.
    HandlerState {
        /// Which.
        handler: HandlerName,
        /// Why, to be shown.
        state: String,
    },
    /// A handler was loaded: what it asks for and is not granted.
    HandlerAsks {
        /// Which.
        handler: HandlerName,
        /// What is missing.
        missing: Vec<MissingAsk>,
    },
    /// A version of a handler takes over: every run that starts from now on is its.
    HandlerReady {
        /// Which handler.
        handler: HandlerName,
        /// Which version.
        version: Digest,
        /// How it comes.
        takeover: Takeover,
    },
    /// A new version of a handler cannot be used; the old one stays.
    UpgradeRefused {
        /// Which handler.
        handler: HandlerName,
        /// Why.
        reason: String,
    },
    /// Leave the cluster. [`Output::Left`] follows when all members know, or at the latest after three seconds.
    Leave,
}

/// What the shell shall do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram. It may be lost; it is never owed.
    Send {
        /// To whom.
        to: SocketAddr,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// Open a TCP connection, and read its first frame, of at most [`MAX_FRAME`](crate::envelope::MAX_FRAME) bytes. Its
    /// frames follow as [`Output::Frame`]; nothing of it is owed, and [`Input::Closed`] tells of its end.
    Dial {
        /// A [`Connection::Dialed`] that was not there before.
        connection: Connection,
        /// To where.
        to: SocketAddr,
    },
    /// Send a frame on a connection, if that is still there.
    Frame {
        /// Which.
        connection: Connection,
        /// What the frame holds, its length aside.
        data: Vec<u8>,
    },
    /// Read the next frame of a connection.
    Listen {
        /// Which.
        connection: Connection,
        /// How many bytes it may have, its length aside.
        at_most: usize,
    },
    /// End a connection when its frames have been sent. [`Input::Closed`] need not follow.
    Close {
        /// Which.
        connection: Connection,
    },
    /// Look up a seed's name, and answer with [`Input::Resolved`].
    Resolve {
        /// The name.
        name: String,
        /// The port that comes with it.
        port: u16,
    },
    /// Check an application, and answer with [`Input::CheckDone`].
    Check {
        /// Unlike that of any other check of this node's.
        number: u64,
        /// The application, as it is configured now.
        app: Box<App>,
    },
    /// End a check: nobody waits for its result any more.
    EndCheck {
        /// The check's number.
        number: u64,
    },
    /// Load a handler that could not be loaded, and answer with [`Input::HandlerReady`] or [`Input::HandlerState`].
    Load(HandlerName),
    /// Run a handler, and answer with [`Input::RunDone`].
    Invoke(Box<Invocation>),
    /// The version of this handler that took over last has failed: the one before runs again, from the next
    /// [`Output::Invoke`] on.
    RollBack {
        /// Which handler.
        handler: HandlerName,
    },
    /// This generation is in use: the next start's boot must be higher.
    RaiseGeneration(u64),
    /// Keep these addresses of members for the next start, which may find every seed gone.
    Remember(Vec<SocketAddr>),
    /// Keep these, and nothing else, as in maintenance for the next start.
    Maintain(Vec<Maintained>),
    /// Keep these, and nothing else, as held by an operator for the next start.
    Hold(Vec<Held>),
    /// Keep this for the next start, in the place of what was kept of the same delivery. It is to be on the disk before
    /// anybody is told of the [`Notice::Ended`] that follows; nothing else waits for that.
    Keep(Arc<Letter>),
    /// Keep nothing of this delivery any more, as with [`Output::Keep`].
    Settled(DeliveryId),
    /// The run of this delivery may send nothing more: another node has published what it read later.
    Fence(DeliveryId),
    /// Something that a person may want to know.
    Notice(Notice),
    /// The cluster knows that this node has left: the process may end.
    Left,
}

/// One run to do.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// For what.
    pub delivery: Delivery,
    /// What the run sees.
    pub snapshot: Arc<Snapshot>,
    /// How long the delivery was due before it started.
    pub queued: Duration,
}

/// What a person may want to know.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A seed has answered and its view was taken over.
    Joined {
        /// How many members are active, this one included.
        members: usize,
    },
    /// Something happened in the cluster.
    Event(Event),
    /// Why the member is down whose `member-down` comes next.
    Verdict {
        /// Who.
        member: NodeName,
        /// By whom it was suspected, and for how long.
        evidence: Box<Evidence>,
    },
    /// This node's own verdict on an application changed.
    Health {
        /// Which.
        app: AppName,
        /// The verdict.
        state: AppState,
        /// What the last bad check said, if it is down.
        reason: String,
    },
    /// A delivery, or one try of it, has ended.
    Ended {
        /// Which.
        delivery: Box<Delivery>,
        /// How it counts.
        outcome: Outcome,
        /// What the run said; none if it did not run.
        end: Option<RunEnd>,
        /// How long the run took.
        took: Duration,
    },
    /// This node, which is to stop, is published nowhere any more; or it has waited for that in vain.
    Drained {
        /// Whether it is not published.
        is_out: bool,
        /// So long it stays.
        wait: Duration,
    },
    /// Another version of a handler runs from now on.
    Takeover {
        /// Which handler.
        handler: HandlerName,
        /// How it comes.
        takeover: Takeover,
        /// Which version.
        version: Digest,
        /// The one until now.
        before: Option<Digest>,
    },
    /// A new version of a handler failed, and the one before runs again.
    RolledBack {
        /// Which handler.
        handler: HandlerName,
        /// The one that runs.
        version: Digest,
        /// The one that failed.
        failed: Digest,
        /// How its last run ended.
        reason: String,
    },
    /// A new version of a handler cannot be used.
    UpgradeRefused {
        /// Which handler.
        handler: HandlerName,
        /// Why.
        reason: String,
    },
    /// A node's handler differs from what most nodes hold it to be, and is not run there; or this is over.
    Mismatch {
        /// Which.
        handler: HandlerName,
        /// The odd node.
        node: NodeName,
        /// In what; `None` when it is over, because they agree or the node is gone.
        differs: Option<Difference>,
    },
    /// An application's set is not as it looks: a member stays published though it does not look up, or the other way
    /// round.
    Held {
        /// The application.
        app: AppName,
        /// The member.
        member: NodeName,
        /// Why.
        reason: Hold,
    },
    /// That is over.
    Released {
        /// The application.
        app: AppName,
        /// The member.
        member: NodeName,
        /// Why it was held until now.
        reason: Hold,
    },
    /// A member answers over TCP alone; or this is over.
    Degraded {
        /// Which.
        member: NodeName,
        /// Whether its datagrams come through again.
        recovered: bool,
    },
    /// Datagrams or frames were refused.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Where the last one came from.
        from: SocketAddr,
        /// How many in all, for this reason.
        count: u64,
    },
    /// Most others were lost at once, as if this node itself were cut off: its handlers wait for a while.
    CutOff {
        /// So many.
        lost: usize,
        /// So many are left, this node among them.
        left: usize,
    },
    /// Enough of those that were lost are back: its handlers go on.
    Reunited {
        /// So many members are active, this node among them.
        members: usize,
    },
    /// The cluster took this node for dead; it has a new identity now.
    Rejoined {
        /// The new one.
        generation: u64,
    },
    /// Another live node has this node's name.
    NameTaken {
        /// Where it is.
        holder: SocketAddr,
        /// Whether this node was a member already; if not, it cannot join.
        joined: bool,
    },
}
