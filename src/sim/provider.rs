//! The DNS provider of a simulated site: it does what a run of a handler asks for, as a rule; else slowly, late, in part,
//! or not at all. What is in its records is what the world sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picored_core::event::{RunEnd, StopReason};
use picored_core::name::{AppName, NodeName};
use picored_core::node::Invocation;
use rand::RngExt;
use rand::seq::IndexedRandom;

/// How long the handlers of a simulation may run.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(10);
/// What was asked for before a run's time was up is done at most so long after that.
pub const LATE_AT_MOST: Duration = Duration::from_secs(5);

/// What a provider may do with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// All of it, within seconds.
    Slow,
    /// Nothing: an error.
    Failing,
    /// All of it, when the run has long been given up.
    Late,
    /// A part of it, and an error then.
    Partial,
}

impl Mood {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Slow, Self::Failing, Self::Late, Self::Partial];
}

/// The members in the records of the applications.
pub(crate) type Sets = BTreeMap<AppName, BTreeSet<NodeName>>;

/// What becomes of one run.
pub(crate) struct Answer {
    /// How long the run takes.
    pub(crate) takes: Duration,
    pub(crate) end: RunEnd,
    /// How long after its start all is written whatever becomes of the run; none if it is, in time, or nothing is.
    pub(crate) late: Option<Duration>,
    /// What share of the removals is carried out; all that is new is there first.
    pub(crate) share: f64,
}

/// What a run wants in the records.
pub(crate) fn wanted(run: &Invocation) -> Sets {
    let sets = run.snapshot.apps.iter();
    sets.map(|(app, set)| (app.clone(), set.endpoints.iter().map(|it| it.member.clone()).collect())).collect()
}

/// What the provider does with the next run, given what it may be like.
pub(crate) fn answer(moods: &[Mood], rng: &mut impl RngExt, prompt: Duration) -> Answer {
    let done = RunEnd::Done { changed: true, text: String::new() };
    let good = Answer { takes: prompt, end: done, late: None, share: 1.0 };
    // Half of the time it is well.
    let Some(mood) = moods.choose(rng).filter(|_| rng.random_bool(0.5)) else { return good };
    let some_time = Duration::from_millis(rng.random_range(20..9500));
    match mood {
        Mood::Slow => Answer { takes: some_time, ..good },
        Mood::Failing => Answer { takes: some_time, end: RunEnd::Retry("503".into()), share: 0.0, ..good },
        Mood::Late => Answer {
            takes: RUN_TIMEOUT,
            end: RunEnd::Stopped(StopReason::Timeout, "no answer".into()),
            late: Some(RUN_TIMEOUT + LATE_AT_MOST.mul_f64(rng.random())),
            share: 0.0,
        },
        Mood::Partial => {
            Answer { takes: some_time, end: RunEnd::Retry("502".into()), late: None, share: rng.random_range(0.0..1.0) }
        }
    }
}
