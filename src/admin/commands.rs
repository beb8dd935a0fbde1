//! The changing verbs: a request becomes a command to the driver, and the driver's answer becomes the response.
//!
//! Few commands wait at a time, each with a way back for its one answer. Who may give them is decided here: root, and
//! the user that the daemon runs as; being let in by the socket's group is for reading. Called by the routes.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use picored_core::event::{DeliveryId, EventKind, NoDeliveryId};
use picored_core::name::{AppName, HandlerName, HoldName, NodeName};
use picored_core::reload::Plan;
use picored_core::time::Wall;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::upload::Upload;
use crate::events::{self, Wanted};
use crate::log;

/// So many commands wait for the driver.
const WAITING: usize = 4;
/// So much is kept of why an application says that it fails, in characters.
pub(super) const MAX_REASON: usize = 200;
/// What is told to the daemon is answered within this time: the longest compilation, and then some.
pub(super) const CHANGE_TIME: Duration = Duration::from_secs(600);

/// Something to do.
#[derive(Debug)]
pub enum Change {
    /// Let another component take a handler over.
    Upgrade {
        /// Which handler.
        handler: HandlerName,
        /// The component.
        component: Upload,
    },
    /// Go back to the version before.
    Rollback {
        /// Which handler.
        handler: HandlerName,
    },
    /// Run a handler once. The answer is a [`HandlerRun`](super::HandlerRun).
    Run {
        /// Which handler.
        handler: HandlerName,
        /// What it is told of.
        event: EventKind,
        /// About which application; where there is one only, none means that one.
        app: Option<AppName>,
        /// Whether to record what would be written, and write nothing.
        dry_run: bool,
    },
    /// Put a delivery that was given up in line again. The answer is a [`Redelivered`].
    Redeliver {
        /// Which.
        delivery: DeliveryId,
    },
    /// Leave the cluster and end. The answer is a [`Leaving`], and comes before that.
    Leave {
        /// Without waiting for visitors to go elsewhere.
        now: bool,
    },
    /// Forget a member that is down. The answer is a [`Forgotten`].
    Forget {
        /// Which.
        member: NodeName,
    },
    /// Put applications of this node into maintenance, or take them out of it. The answer is a list of [`Maintained`].
    Maintenance {
        /// Which; none means all.
        app: Option<AppName>,
        /// Whether it begins.
        on: bool,
        /// After how long it ends by itself, if it does.
        limit: Option<Duration>,
    },
    /// Keep an application or a member in what is published. The answer is a list of [`Held`].
    Hold {
        /// Which.
        name: HoldName,
        /// After how long it ends by itself, if it does.
        limit: Option<Duration>,
    },
    /// Do so no longer. The answer is a list of [`Held`].
    Release {
        /// Which.
        name: HoldName,
    },
    /// An application says how it is. The answer is a [`Beaten`].
    Beat {
        /// Which.
        app: AppName,
        /// Well, or why not.
        result: Result<(), String>,
    },
    /// Read the config anew and take it in.
    Reload {
        /// Only say what that would change.
        dry_run: bool,
    },
}

/// The answer to `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the config of the file is in force now.
    pub applied: bool,
    /// What has changed with it, or would.
    #[serde(flatten)]
    pub plan: Plan,
}

/// The answer to `POST /v1/members/NAME/forget`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Who.
    pub member: String,
}

/// The answer to `POST /v1/leave`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Who.
    pub node: String,
    /// How long it stays once it is published nowhere, in milliseconds; none if it leaves at once.
    pub drain_wait_ms: Option<u64>,
    /// The applications that stay published, as they are up nowhere else.
    pub kept: Vec<String>,
}

/// The answer to `POST /v1/deliveries/HANDLER/NUMBER/redeliver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redelivered {
    /// What is in line again.
    pub delivery: String,
    /// The scope's name: the application's, else the handler's.
    pub scope: String,
}

/// An application in maintenance, as `POST /v1/maintenance` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintained {
    /// Its name.
    pub app: String,
    /// When it ends by itself: RFC 3339, UTC.
    pub until: Option<String>,
    /// Whether it stays published all the same, as it is up nowhere else.
    pub kept: bool,
}

/// What an operator holds on this node, as `POST /v1/hold/NAME` and `POST /v1/release/NAME` answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The application's or the member's name.
    pub name: String,
    /// When it ends by itself: RFC 3339, UTC.
    pub until: Option<String>,
}

impl Held {
    /// So called, and until then.
    pub fn new(name: &HoldName, until: Option<Wall>) -> Self {
        Self { name: name.to_string(), until: until.map(|until| until.rfc3339()) }
    }
}

/// The answer to `POST /v1/apps/NAME/beat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beaten {
    /// Its name.
    pub app: String,
    /// Its state from now on: `unknown`, `up`, `down` or `maintenance`.
    pub state: String,
}

/// What came of a command: something to tell, in JSON, or why it was not done.
pub type Answer = Result<serde_json::Value, Refusal>;

/// A change, and where its answer goes.
#[derive(Debug)]
pub struct Command {
    /// What to do.
    pub change: Change,
    /// Takes one answer. Who asked may have gone.
    pub reply: oneshot::Sender<Answer>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub code: StatusCode,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Refusal {
    /// Says no.
    pub fn new(code: StatusCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// The way to the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    sender: mpsc::Sender<Command>,
    uploads: PathBuf,
    largest_upload: u64,
}

impl Commands {
    /// Both ends. What is sent along with a command, `largest_upload` bytes at most, is kept in the folder `uploads`
    /// until the command is over.
    pub fn channel(uploads: PathBuf, largest_upload: u64) -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, uploads, largest_upload }, receiver)
    }

    /// Takes in what comes along with a command.
    pub(super) async fn receive(&self, body: Incoming) -> Result<Upload, Refusal> {
        Upload::receive(&self.uploads, self.largest_upload, body).await
    }

    /// Reads what comes along with a command that is refused: who still sends would not hear why.
    pub(super) async fn pass_over(&self, body: Incoming) {
        let limit = usize::try_from(self.largest_upload).unwrap_or(usize::MAX);
        let mut body = Limited::new(body, limit);
        while let Some(Ok(_)) = body.frame().await {}
    }

    /// Has it done.
    pub(super) async fn run(&self, change: Change) -> Answer {
        let gone = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is being stopped");
        let (reply, answer) = oneshot::channel();
        self.sender.send(Command { change, reply }).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// The handler of that name, if there can be one.
pub(super) fn handler(name: &str) -> Result<HandlerName, Refusal> {
    HandlerName::new(name).map_err(|error| Refusal::new(StatusCode::NOT_FOUND, format!("no such handler: {error}")))
}

/// The member of that name, if there can be one.
pub(super) fn member(name: &str) -> Result<NodeName, Refusal> {
    NodeName::new(name).map_err(|error| Refusal::new(StatusCode::NOT_FOUND, format!("no such member: {error}")))
}

/// The delivery of that name, if there can be one.
pub(super) fn delivery(handler: &str, number: &str) -> Result<DeliveryId, Refusal> {
    let id = format!("{handler}/{number}").parse();
    id.map_err(|error: NoDeliveryId| Refusal::new(StatusCode::NOT_FOUND, error.to_string()))
}

/// The application of that name, if there can be one.
pub(super) fn app(name: &str) -> Result<AppName, Refusal> {
    AppName::new(name).map_err(|error| Refusal::new(StatusCode::NOT_FOUND, format!("no such application: {error}")))
}

/// The application or member of that name, if there can be one.
pub(super) fn hold_name(name: &str) -> Result<HoldName, Refusal> {
    let no = |error| Refusal::new(StatusCode::NOT_FOUND, format!("no such application or member: {error}"));
    HoldName::new(name).map_err(no)
}

/// `follow`, `since=TIME` and any number of `kind=KIND`, each of which may be left out.
pub(super) fn events(query: &str) -> Result<Wanted, Refusal> {
    let wrong = |reason: &str| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let mut wanted = Wanted::default();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "follow" => wanted.follow = true,
            "since" => {
                let form = "0000-00-00T00:00:00.000Z";
                let fits = |(found, form): (char, char)| found == form || (form == '0' && found.is_ascii_digit());
                if value.len() != form.len() || !value.chars().zip(form.chars()).all(fits) {
                    return Err(wrong("`since` is a time such as 2026-01-31T12:00:00.000Z"));
                }
                wanted.since = Some(value.into_owned());
            }
            "kind" if events::kinds().all(|kind| kind != value) => {
                let kinds = events::kinds().collect::<Vec<_>>().join(", ");
                return Err(wrong(&format!("there is no such kind; there are {kinds}")));
            }
            "kind" => wanted.kinds.push(value.into_owned()),
            _ => return Err(wrong("this takes `follow`, `since` and `kind`")),
        }
    }
    Ok(wanted)
}

/// `event=KIND&app=NAME&dry-run`, each of which may be left out.
pub(super) fn run(handler: HandlerName, query: &str) -> Result<Change, Refusal> {
    let wrong = |reason: String| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let (mut event, mut app, mut dry_run) = (EventKind::Reconcile, None, false);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "event" => event = value.parse().map_err(|error| wrong(format!("`event`: {error}")))?,
            "app" => app = Some(value.parse().map_err(|error| wrong(format!("`app`: {error}")))?),
            "dry-run" => dry_run = true,
            _ => return Err(wrong("this takes `event`, `app` and `dry-run`".into())),
        }
    }
    Ok(Change::Run { handler, event, app, dry_run })
}

/// `now`, or nothing.
pub(super) fn leave(query: &str) -> Result<Change, Refusal> {
    match query {
        "" => Ok(Change::Leave { now: false }),
        "now" => Ok(Change::Leave { now: true }),
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "this takes `now` or nothing".to_owned())),
    }
}

/// `on` or `off`, and `app=NAME&for=SECONDS`, each of which may be left out.
pub(super) fn maintenance(query: &str) -> Result<Change, Refusal> {
    let wrong = |reason: String| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let (mut app, mut on, mut limit) = (None, None, None);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "on" => on = Some(true),
            "off" => on = Some(false),
            "app" => app = Some(value.parse().map_err(|error| wrong(format!("`app`: {error}")))?),
            "for" => limit = Some(seconds(&value)?),
            _ => return Err(wrong("this takes `on` or `off`, `app` and `for`".into())),
        }
    }
    let on = on.ok_or_else(|| wrong("say `on` or `off`".into()))?;
    Ok(Change::Maintenance { app, on, limit })
}

/// `for=SECONDS`, or nothing.
pub(super) fn hold(name: HoldName, query: &str) -> Result<Change, Refusal> {
    let mut limit = None;
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "for" => limit = Some(seconds(&value)?),
            _ => return Err(Refusal::new(StatusCode::BAD_REQUEST, "this takes `for` or nothing")),
        }
    }
    Ok(Change::Hold { name, limit })
}

fn seconds(value: &str) -> Result<Duration, Refusal> {
    let seconds = value.parse().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "`for` is a number of seconds"))?;
    Ok(Duration::from_secs(seconds))
}

/// `fail` and `reason=TEXT`, each of which may be left out.
pub(super) fn beat(app: AppName, query: &str) -> Result<Change, Refusal> {
    let wrong = |reason: &str| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let (mut fails, mut reason) = (false, None);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "fail" => fails = true,
            "reason" => reason = Some(value.chars().take(MAX_REASON).collect::<String>()),
            _ => return Err(wrong("this takes `fail` and `reason`")),
        }
    }
    let result = match (fails, reason) {
        (true, reason) => Err(reason.map_or_else(|| "it says so itself".into(), |text| log::printable(&text).into())),
        (false, None) => Ok(()),
        (false, Some(_)) => return Err(wrong("`reason` is why it fails: say `fail` as well")),
    };
    Ok(Change::Beat { app, result })
}

/// Whether a reload shall only be tried. What is not understood here must not be done for real.
pub(super) fn dry_run(query: &str) -> Result<bool, Refusal> {
    match query {
        "" => Ok(false),
        "dry-run" => Ok(true),
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "after ? there may be dry-run and nothing else")),
    }
}

/// Sees that nothing comes along with a command that takes nothing.
pub(super) async fn no_body(body: Incoming) -> Result<(), Refusal> {
    let said = || Refusal::new(StatusCode::BAD_REQUEST, "this takes no body");
    if body.is_end_stream() {
        return Ok(());
    }
    let read = Limited::new(body, 0).collect().await;
    read.map_err(|_| said()).map(drop)
}

/// Whether the process at the other end may change anything.
pub(super) fn may_change(stream: &UnixStream) -> Result<(), Refusal> {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let peer = peer.map_err(|error| Refusal::new(StatusCode::FORBIDDEN, format!("cannot tell who asks: {error}")))?;
    judge(peer, rustix::process::geteuid().as_raw())
}

fn judge(peer: u32, own: u32) -> Result<(), Refusal> {
    if peer == 0 || peer == own {
        return Ok(());
    }
    let reason = format!(
        "user id {peer} may ask this daemon, not change it: do this as root or as the user it runs as (id {own})"
    );
    Err(Refusal::new(StatusCode::FORBIDDEN, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_user_may_change_it_and_nobody_else() {
        for (peer, own, may) in [(0, 0, true), (0, 7, true), (7, 7, true), (7, 0, false), (8, 7, false)] {
            assert_eq!(judge(peer, own).is_ok(), may, "{peer} at {own}");
        }
        let refusal = judge(8, 7).unwrap_err();
        assert_eq!(refusal.code, StatusCode::FORBIDDEN);
        assert!(refusal.reason.contains("user id 8") && refusal.reason.contains("id 7"), "{}", refusal.reason);
    }
}
