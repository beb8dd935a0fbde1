//! A delivery as the disk keeps it: one that is owed another try, or one that was given up.
//!
//! What was not tried yet is not kept: it is drawn from the view, and would be drawn from it again. Written by the node
//! through its outputs, and given back to the next one at its start.

use serde::{Deserialize, Serialize};

use crate::event::{DeliveryId, Event, EventKind, Outcome, RunEnd};
use crate::name::{AppName, HandlerName, NodeName};
use crate::time::Wall;

/// A text is cut to so many bytes, or a little less.
const MAX_TEXT: usize = 240;

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// `retry`, `retry-after`, `permanent`, or why the host stopped it.
    pub ended_as: String,
    /// What was said, or the beginning of it.
    pub text: String,
}

impl LastEnd {
    /// What is kept of `end`.
    pub fn new(end: &RunEnd) -> Self {
        let text = end.text();
        Self { ended_as: end.word().to_owned(), text: text[..text.floor_char_boundary(MAX_TEXT)].to_owned() }
    }
}

/// One such delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// For whom it is.
    pub handler: HandlerName,
    /// Its number.
    pub number: u64,
    /// What happened.
    pub event: EventKind,
    /// The event's id.
    pub event_id: String,
    /// The application that it is about: the delivery's scope.
    pub app: Option<AppName>,
    /// The member that it is about.
    pub member: Option<NodeName>,
    /// When it happened.
    pub happened: Wall,
    /// The try that comes next; of one that was given up, the last that was made. From 1.
    pub attempt: u32,
    /// When that is due, or when it was given up.
    pub time: Wall,
    /// Whether nothing of its scope runs before, as the provider asked for a pause.
    pub paused: bool,
    /// `retry`, or as what it was given up: `dead` or `permanent`.
    pub outcome: Outcome,
    /// How the last try ended.
    pub last: LastEnd,
}

impl Letter {
    /// The delivery's name.
    pub fn id(&self) -> DeliveryId {
        DeliveryId { handler: self.handler.clone(), number: self.number }
    }

    /// The event that it tells of.
    pub fn to_event(&self) -> Event {
        let (app, member) = (self.app.clone(), self.member.clone());
        Event { id: self.event_id.clone(), kind: self.event, app, member, time: self.happened }
    }
}
