//! What happened lately, for `picored events`: a short memory of one line of JSON for each thing, and its history on the
//! disk.
//!
//! The driver writes, readers of the admin socket follow. There is no queue for each reader: all read the one memory at
//! their own pace, and who is slower than what happens is told how much was overwritten. So no reader costs memory, and
//! none holds the daemon up. The history is kept by one more such reader.

mod history;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use picored_core::event::{EventKind, RunEnd};
use picored_core::node::Notice;
use picored_core::time::Wall;
use picored_core::versions::Takeover;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::history::History;
use self::history::Past;

/// So many are remembered.
pub const REMEMBERED: usize = 128;
/// What somebody else said is cut to so many characters.
const TEXT: usize = 240;

/// What can happen beside events, in the order of [`Happening::kind`]'s documentation.
const OTHER_KINDS: [&str; 19] = [
    "verdict",
    "joined",
    "checked",
    "ended",
    "upgraded",
    "rolled-back",
    "upgrade-refused",
    "config-mismatch",
    "config-agreed",
    "degraded",
    "recovered",
    "held",
    "released",
    "refused",
    "cut-off",
    "reunited",
    "rejoined",
    "name-taken",
    "drained",
];

/// All kinds of what can happen.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    EventKind::ALL.iter().map(|kind| kind.as_str()).chain(OTHER_KINDS)
}

/// One thing that happened. Fields that say nothing of it are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Happening {
    /// Counts up from 1 with each start of the daemon.
    pub number: u64,
    /// When this node learnt of it: RFC 3339, UTC.
    pub time: String,
    /// An event's kind (`app-down`), or `verdict` (why the member is down whose `member-down` comes next), `joined`, `checked` (this node's own verdict on an application changed), `ended`
    /// (a run of a handler, or what came of a delivery without one), `upgraded`, `rolled-back`, `upgrade-refused` (another
    /// version of a handler), `config-mismatch` (the member's handler differs from most nodes'), `config-agreed` (no longer),
    /// `degraded` (the member answers over TCP alone), `recovered` (its datagrams come through again), `held`, `released`, `refused`,
    /// `cut-off` (most members were lost at once, so handlers wait), `reunited` (they go on), `rejoined`, `name-taken`, `drained` (it
    /// leaves when resolvers have forgotten it).
    pub kind: String,
    /// The event's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The application that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The member that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The application's state: `up`, `down`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The handler that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Its delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// What it was told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The try, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// `done`, `retry`, `dead`, `permanent`, `superseded`, `handed-over`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// How the run itself ended: as the outcome, or the reason why the host stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_as: Option<String>,
    /// Whether it changed the world outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// How long it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<f64>,
    /// What was said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What a reader gets in place of what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// So many are gone: they were overwritten before this reader came to them.
    pub lost: u64,
}

impl Happening {
    fn of(notice: &Notice) -> Self {
        let some = |text: &dyn std::fmt::Display| Some(text.to_string());
        let kind = |kind: &str| Self { kind: kind.to_owned(), ..Self::default() };
        match notice {
            Notice::Joined { members } => Self { text: Some(format!("{members} members")), ..kind("joined") },
            Notice::Event(event) => Self {
                id: Some(event.id.clone()),
                app: event.app.as_ref().map(ToString::to_string),
                member: event.member.as_ref().map(ToString::to_string),
                ..kind(event.kind.as_str())
            },
            Notice::Verdict { member, evidence } => {
                Self { member: some(member), text: Some(evidence.to_string()), ..kind("verdict") }
            }
            Notice::Health { app, state, reason } => Self {
                app: some(app),
                state: some(&state.as_str()),
                text: Some(reason.clone()).filter(|reason| !reason.is_empty()),
                ..kind("checked")
            },
            Notice::Ended { delivery, outcome, end, took } => Self {
                id: Some(delivery.event.id.clone()),
                app: delivery.key.app.as_ref().map(ToString::to_string),
                handler: some(&delivery.key.handler),
                delivery: some(&delivery.id),
                event: some(&delivery.event.kind),
                attempt: Some(delivery.attempt),
                outcome: some(&outcome.as_str()),
                ended_as: end.as_ref().map(|end| end.word().to_owned()),
                changed: end.as_ref().map(|end| matches!(end, RunEnd::Done { changed: true, .. })),
                run_ms: end.as_ref().map(|_| (took.as_secs_f64() * 1e6).round() / 1e3),
                text: end.as_ref().map(|end| end.text().to_owned()),
                ..kind("ended")
            },
            Notice::Takeover { handler, takeover, version, before } => {
                let before = before.map_or_else(|| "nothing".to_owned(), |before| before.short());
                let done = if *takeover == Takeover::Rollback { "rolled-back" } else { "upgraded" };
                let text = format!("runs {}, until now {before}", version.short());
                Self { handler: some(handler), text: Some(text), ..kind(done) }
            }
            Notice::RolledBack { handler, version, failed, reason } => {
                let text = format!("runs {} again: {} failed: {reason}", version.short(), failed.short());
                Self { handler: some(handler), text: Some(text), ..kind("rolled-back") }
            }
            Notice::UpgradeRefused { handler, reason } => {
                let text = format!("the new version cannot be used, the old one stays: {reason}");
                Self { handler: some(handler), text: Some(text), ..kind("upgrade-refused") }
            }
            Notice::Mismatch { handler, node, differs } => {
                let text = differs.map(|differs| format!("its {} differs from most nodes'", differs.as_str()));
                let happened = if differs.is_some() { "config-mismatch" } else { "config-agreed" };
                Self { handler: some(handler), member: some(node), text, ..kind(happened) }
            }
            Notice::Degraded { member, recovered } => {
                let text = (!recovered).then(|| "it answers over TCP alone: no datagram comes through".to_owned());
                Self { member: some(member), text, ..kind(if *recovered { "recovered" } else { "degraded" }) }
            }
            Notice::Drained { is_out, .. } => {
                let text = if *is_out { "published nowhere" } else { "may be published still" };
                Self { text: some(&text), ..kind("drained") }
            }
            Notice::Held { app, member, reason } => Self {
                app: some(app),
                member: some(member),
                state: some(reason),
                text: some(&reason.explanation()),
                ..kind("held")
            },
            Notice::Released { app, member, reason } => {
                Self { app: some(app), member: some(member), state: some(reason), ..kind("released") }
            }
            Notice::Refused { refusal, from, count } => {
                let text = format!("datagrams, the last from {from}, {count} in all: {refusal}");
                Self { state: some(&refusal.as_str()), text: Some(text), ..kind("refused") }
            }
            Notice::CutOff { lost, left } => {
                let text = format!("lost {lost} members at once, {left} are left: handlers wait for a while");
                Self { text: Some(text), ..kind("cut-off") }
            }
            Notice::Reunited { members } => Self { text: Some(format!("{members} members")), ..kind("reunited") },
            Notice::Rejoined { .. } => Self { text: some(&"was taken for dead and joined again"), ..kind("rejoined") },
            Notice::NameTaken { holder, .. } => {
                let text = format!("another live node, at {holder}, has this node's name");
                Self { text: Some(text), ..kind("name-taken") }
            }
        }
    }
}

/// The memory. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    history: Option<History>,
    ring: Mutex<Ring>,
    /// The number of the last one.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Lines of JSON, without their ends.
    lines: VecDeque<Box<str>>,
    /// The number of the last one.
    last: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(None)
    }
}

/// What a reader wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Also what happens from now on, without end.
    pub follow: bool,
    /// What happened since then, on the disk as well: as [`Happening::time`] is written.
    pub since: Option<String>,
    /// These kinds alone; all if there is none.
    pub kinds: Vec<String>,
}

impl Wanted {
    /// Whether a line is wanted. What was lost is told in any case.
    fn includes(&self, line: &str) -> bool {
        #[derive(Deserialize)]
        struct Head<'a> {
            time: &'a str,
            kind: &'a str,
        }
        if self.since.is_none() && self.kinds.is_empty() {
            return true;
        }
        match serde_json::from_str::<Head<'_>>(line) {
            Ok(Head { time, kind }) => {
                let is_kind = self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind);
                // Of one form, so that they are in the order of time.
                is_kind && self.since.as_deref().is_none_or(|since| time >= since)
            }
            Err(_) => true,
        }
    }

    fn of(&self, text: String) -> String {
        text.split_inclusive('\n').filter(|line| self.includes(line)).collect()
    }
}

impl Events {
    /// An empty memory, and where the rest is.
    pub fn new(history: Option<History>) -> Self {
        Self(Arc::new(Shared { history, ring: Mutex::default(), news: watch::Sender::new(0) }))
    }

    /// What is wanted, piece by piece.
    pub fn lines(&self, wanted: Wanted) -> Lines {
        let history = self.0.history.clone().filter(|_| wanted.since.is_some());
        Lines { wanted: Arc::new(wanted), history, past: None, reader: self.reader() }
    }

    /// Remembers it, and wakes who follows.
    pub fn note(&self, notice: &Notice, time: Wall) {
        let mut happening = Happening { time: time.rfc3339(), ..Happening::of(notice) };
        if let Some(text) = &mut happening.text
            && let Some((end, _)) = text.char_indices().nth(TEXT)
        {
            text.truncate(end);
            text.push('…');
        }
        let mut ring = self.ring();
        happening.number = ring.last + 1;
        debug_assert!(kinds().any(|kind| kind == happening.kind), "{} is asked for by its name", happening.kind);
        let line = serde_json::to_string(&happening).expect("plain data has a JSON form");
        if ring.lines.len() == REMEMBERED {
            ring.lines.pop_front();
        }
        ring.lines.push_back(line.into());
        ring.last = happening.number;
        drop(ring);
        self.0.news.send_replace(happening.number);
    }

    /// A reader that begins with the oldest that is remembered.
    pub fn reader(&self) -> Reader {
        let ring = self.ring();
        let next = ring.last + 1 - ring.lines.len() as u64;
        drop(ring);
        Reader { news: self.0.news.subscribe(), events: self.clone(), next }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's place.
#[derive(Debug)]
pub struct Reader {
    events: Events,
    news: watch::Receiver<u64>,
    next: u64,
}

impl Reader {
    /// What has happened since the last call and is still remembered, as lines of JSON; where some is not, a [`Lost`]
    /// comes first. Empty if nothing has.
    pub fn lines(&mut self) -> String {
        // What is read now is no news any more.
        self.news.mark_unchanged();
        let ring = self.events.ring();
        let first = ring.last + 1 - ring.lines.len() as u64;
        let mut text = String::new();
        if first > self.next {
            let lost = Lost { lost: first - self.next };
            text += &serde_json::to_string(&lost).expect("plain data has a JSON form");
            text.push('\n');
            self.next = first;
        }
        let skip = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        for line in ring.lines.iter().skip(skip) {
            text += line;
            text.push('\n');
        }
        self.next = ring.last + 1;
        text
    }

    /// The number of the last one that it came by.
    fn seen(&self) -> u64 {
        self.next - 1
    }

    /// Waits until something has happened, and gives it as [`Self::lines`] does.
    pub async fn wait(&mut self) -> String {
        loop {
            let text = self.lines();
            if !text.is_empty() {
                return text;
            }
            // Never fails: this reader holds the sender.
            let _ = self.news.changed().await;
        }
    }
}

/// What a reader wants, piece by piece: what the disk has, then what the memory has, then what happens.
#[derive(Debug)]
pub struct Lines {
    wanted: Arc<Wanted>,
    /// To be read yet.
    history: Option<History>,
    past: Option<Past>,
    reader: Reader,
}

impl Lines {
    /// The next lines of JSON; none at the end.
    pub async fn next(&mut self) -> Option<String> {
        if let Some(history) = self.history.take()
            && let Ok((past, last)) = tokio::task::spawn_blocking(move || history.read()).await
        {
            // What the disk has not is in the memory, or was lost.
            (self.past, self.reader.next) = (Some(past), last + 1);
        }
        while let Some(mut past) = self.past.take() {
            let wanted = self.wanted.clone();
            let read = tokio::task::spawn_blocking(move || (past.chunk(&wanted), past)).await;
            if let Ok((text, past)) = read
                && !text.is_empty()
            {
                self.past = Some(past);
                return Some(text);
            }
        }
        loop {
            let text = if self.wanted.follow { self.reader.wait().await } else { self.reader.lines() };
            let is_end = text.is_empty();
            let text = self.wanted.of(text);
            if !text.is_empty() || is_end {
                return Some(text).filter(|_| !is_end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picored_core::governor::Hold;
    use picored_core::name::{AppName, NodeName};

    fn held(events: &Events, app: &str) {
        let (app, member) = (AppName::new(app).unwrap(), NodeName::new("web1").unwrap());
        events.note(&Notice::Held { app, member, reason: Hold::NeverEmpty }, Wall(1_700_000_000_000));
    }

    fn apps(text: &str) -> Vec<String> {
        let line = |line: &str| serde_json::from_str::<Happening>(line).unwrap().app.unwrap_or_default();
        text.lines().map(line).collect()
    }

    #[tokio::test]
    async fn a_reader_gets_each_once_and_waits_for_the_next() {
        let events = Events::default();
        held(&events, "a");
        let mut reader = events.reader();
        assert_eq!(apps(&reader.wait().await), ["a"]);
        assert_eq!(reader.lines(), "");
        let mut later = events.reader();
        let (text, ()) = tokio::join!(reader.wait(), async { held(&events, "b") });
        assert_eq!(apps(&text), ["b"]);
        assert_eq!(apps(&later.lines()), ["a", "b"]);
        let first = events.reader().lines();
        assert!(
            first.starts_with("{\"number\":1,\"time\":\"2023-11-14T22:13:20.000Z\",\"kind\":\"held\",\"app\":\"a\",")
        );
    }

    #[test]
    fn a_slow_reader_is_told_how_much_it_lost() {
        let events = Events::default();
        let mut slow = events.reader();
        for number in 0..REMEMBERED + 7 {
            held(&events, &format!("a{number}"));
        }
        let text = slow.lines();
        let mut lines = text.lines();
        assert_eq!(serde_json::from_str::<Lost>(lines.next().unwrap()).unwrap(), Lost { lost: 7 });
        assert_eq!(serde_json::from_str::<Happening>(lines.next().unwrap()).unwrap().number, 8);
        assert_eq!(lines.count(), REMEMBERED - 1);
        assert_eq!(slow.lines(), "");
        assert_eq!(events.reader().lines().lines().count(), REMEMBERED);
    }

    #[test]
    fn what_others_say_is_cut() {
        let events = Events::default();
        let reason = "é".repeat(10 * TEXT);
        let app = AppName::new("www").unwrap();
        events.note(&Notice::Health { app, state: picored_core::record::AppState::Down, reason }, Wall(0));
        let happening: Happening = serde_json::from_str(&events.reader().lines()).unwrap();
        assert_eq!(happening.text.unwrap().chars().count(), TEXT + 1);
        assert_eq!((happening.kind.as_str(), happening.state.as_deref()), ("checked", Some("down")));
    }
}
