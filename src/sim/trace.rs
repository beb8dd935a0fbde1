//! What was done to a cluster and what it said, as lines for people: the last ones, and those around the first mistake.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use picored_core::name::AppName;
use picored_core::node::{Invocation, Notice};
use picored_core::snapshot::EndpointSet;
use picored_core::time::Instant;

use crate::template::node_name;

/// So many lines are kept.
const KEPT: usize = 2000;
/// So many lines before the first mistake are kept for good, and printed of the last ones.
const AROUND: usize = 40;

/// One thing that was done, or said.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub at: Instant,
    /// On which machine, if on one.
    pub machine: Option<usize>,
    /// What.
    pub what: What,
}

/// What a line tells of.
#[derive(Clone, Debug)]
pub enum What {
    /// The simulation did something to a machine or the network.
    Fault(String),
    /// A node said something.
    Notice(Box<Notice>),
    /// A run of a handler began; the members in the wanted set, by application.
    Run(String),
    /// Something was said or done that is not right.
    Wrong(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.machine.map(|machine| node_name(machine).to_string()).unwrap_or_default();
        write!(f, "{:>11.3} s  {machine:<8} ", self.at.since_origin().as_secs_f64())?;
        match &self.what {
            What::Fault(text) => write!(f, "-- {text}"),
            What::Run(text) => write!(f, "runs a handler: {text}"),
            What::Wrong(text) => write!(f, "!! {text}"),
            What::Notice(notice) => match &**notice {
                Notice::Event(event) => f.write_str(&event.id),
                Notice::Joined { members } => write!(f, "joined: {members} members"),
                Notice::Health { app, state, reason } => write!(f, "{app} is {} {reason}", state.as_str()),
                Notice::Rejoined { generation } => write!(f, "was taken for dead: goes on as #{generation}"),
                Notice::Refused { refusal, from, count } => write!(f, "refused {count} from {from}: {refusal}"),
                Notice::Held { app, member, reason } => write!(f, "holds {app} on {member}: {reason}"),
                Notice::Released { app, member, reason } => write!(f, "holds {app} on {member} no longer: {reason}"),
                other => write!(f, "{other:?}"),
            },
        }
    }
}

#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) lines: VecDeque<Line>,
    /// What led to it, line by line; empty before there is one.
    pub(crate) first_mistake: Vec<String>,
}

impl Trace {
    pub(crate) fn push(&mut self, line: Line) {
        let is_wrong = matches!(line.what, What::Wrong(_));
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        if is_wrong && self.first_mistake.is_empty() {
            self.first_mistake = self.last();
        }
    }

    fn last(&self) -> Vec<String> {
        let skipped = self.lines.len().saturating_sub(AROUND);
        self.lines.iter().skip(skipped).map(ToString::to_string).collect()
    }

    /// What led to the first mistake, if there was one, and the last that happened.
    pub(crate) fn text(&self) -> String {
        let last = self.last().join("\n");
        if self.first_mistake.is_empty() {
            return last;
        }
        format!("until the first mistake:\n{}\nat the end:\n{last}", self.first_mistake.join("\n"))
    }
}

/// What a run sees as wanted, in a line.
pub(crate) fn wanted(run: &Invocation) -> String {
    let set = |(app, set): (&AppName, &EndpointSet)| {
        let members: BTreeSet<_> = set.endpoints.iter().map(|endpoint| endpoint.member.as_str()).collect();
        format!("{app} on {}", members.into_iter().collect::<Vec<_>>().join(" "))
    };
    run.snapshot.apps.iter().map(set).collect::<Vec<_>>().join("; ")
}
