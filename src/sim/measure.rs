//! Holds what nodes say against what is true, at the moment when they say it. Nothing is gone through twice: each event
//! costs the same in a cluster of a thousand.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use picored_core::event::{Event, EventKind};
use picored_core::name::{AppName, NodeName};
use picored_core::node::Invocation;
use picored_core::record::AppState;
use picored_core::time::Instant;

use crate::machine::Machine;
use crate::network::{GRACE, Network};
use crate::provider::Sets;
use crate::report::Report;
use crate::trace::What;

/// Something that all shall hear of.
struct News {
    since: Instant,
    /// Who has not heard yet.
    waiting: BTreeSet<usize>,
}

struct Change {
    news: News,
    kind: EventKind,
}

/// A cluster that grows together.
struct Healing {
    since: Instant,
    /// Who holds whom for dead, among those that live.
    apart: HashSet<(usize, usize)>,
    /// When there was nothing left apart.
    healed: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct Measures {
    false_downs_of: BTreeMap<(usize, usize), u64>,
    renewals: u64,
    crashes: BTreeMap<usize, News>,
    detections: Vec<Duration>,
    detected_by_all: Vec<Duration>,
    /// Who said last of whom that it is down.
    holds_down: HashSet<(usize, usize)>,
    healing: Option<Healing>,
    heals: Vec<Duration>,
    unhealed: u64,
    changes: BTreeMap<(usize, AppName), Change>,
    app_changes: Vec<Duration>,
    unknown_app_changes: u64,
    /// The members in the record of each application, at the provider.
    records: Sets,
    /// Since when who is not there is in the record of an application.
    dead: BTreeMap<(AppName, usize), Instant>,
    dead_published: Duration,
    empty_records: u64,
    double_outcomes: u64,
    wrong_removals: u64,
    runs: u64,
    writes: u64,
}

/// What is true at one moment.
pub(crate) struct Truth<'a> {
    pub(crate) now: Instant,
    pub(crate) machines: &'a [Machine],
    pub(crate) network: &'a Network,
}

impl Truth<'_> {
    fn is_up(&self, machine: usize) -> bool {
        self.machines[machine].is_up()
    }

    /// Whether `observer` has no reason to call `subject` down.
    fn is_false(&self, observer: usize, subject: usize) -> bool {
        self.is_up(subject)
            && !self.machines[subject].was_away(self.now)
            && !self.network.excuses(self.now, observer, subject)
    }

    /// Whether `machine` and more than half of the cluster reach each other, if need be by way of others: each way by
    /// another way, where a way is open in one direction only.
    fn has_majority(&self, machine: usize) -> bool {
        let known = self.machines.iter().filter(|machine| !machine.leaves).count();
        let told = self.spread(machine, |a, b| self.network.reaches(a, b));
        let heard = self.spread(machine, |a, b| self.network.reaches(b, a));
        told.intersection(&heard).count() * 2 > known
    }

    /// All that run and are met from `machine` on, itself included.
    fn spread(&self, machine: usize, meets: impl Fn(usize, usize) -> bool) -> BTreeSet<usize> {
        let mut missing: Vec<usize> =
            (0..self.machines.len()).filter(|other| *other != machine && self.machines[*other].runs()).collect();
        let mut found = vec![machine];
        let mut next = 0;
        while let Some(&at) = found.get(next) {
            let (met, rest) = missing.into_iter().partition(|other| meets(at, *other));
            missing = rest;
            found.extend::<Vec<_>>(met);
            next += 1;
        }
        found.into_iter().collect()
    }
}

impl Measures {
    /// A node said that something happened to `subject`. A mistake is told.
    pub(crate) fn on_event(
        &mut self,
        truth: &Truth<'_>,
        observer: usize,
        subject: usize,
        event: &Event,
    ) -> Option<What> {
        let now = truth.now;
        let pair = (observer, subject);
        match event.kind {
            EventKind::MemberDown => {
                self.holds_down.insert(pair);
                if let Some(crash) = self.crashes.get_mut(&subject)
                    && crash.waiting.remove(&observer)
                {
                    self.detections.push(now - crash.since);
                    if crash.waiting.is_empty() {
                        self.detected_by_all.push(now - crash.since);
                    }
                }
                if let Some(healing) = &mut self.healing
                    && now.since(healing.since) <= GRACE
                    && truth.is_up(subject)
                {
                    healing.apart.insert(pair);
                    healing.healed = None;
                }
                if truth.is_false(observer, subject) {
                    *self.false_downs_of.entry(pair).or_default() += 1;
                    return Some(What::Wrong(format!("{} is up", truth.machines[subject].name)));
                }
            }
            EventKind::MemberUp | EventKind::MemberLeft => {
                self.holds_down.remove(&pair);
                self.together(now, pair);
            }
            EventKind::AppUp | EventKind::AppDown => {
                if let Some(app) = &event.app
                    && let Some(change) = self.changes.get_mut(&(subject, app.clone()))
                    && change.kind == event.kind
                    && change.news.waiting.remove(&observer)
                    && change.news.waiting.is_empty()
                {
                    self.app_changes.push(now - change.news.since);
                }
            }
            EventKind::Reconcile => {}
        }
        None
    }

    fn together(&mut self, now: Instant, pair: (usize, usize)) {
        if let Some(healing) = &mut self.healing
            && healing.apart.remove(&pair)
            && healing.apart.is_empty()
        {
            healing.healed = Some(now);
        }
    }

    pub(crate) fn false_downs(&self) -> u64 {
        self.false_downs_of.values().sum()
    }

    pub(crate) fn on_renewal(&mut self) {
        self.renewals += 1;
    }

    /// An owner has another verdict on its application.
    pub(crate) fn on_verdict(&mut self, truth: &Truth<'_>, owner: usize, app: &AppName, state: AppState) {
        let kind = match state {
            AppState::Up => EventKind::AppUp,
            AppState::Down => EventKind::AppDown,
            AppState::Unknown | AppState::Maintenance => return,
        };
        let waiting = (0..truth.machines.len()).filter(|other| *other != owner && truth.is_up(*other)).collect();
        let change = Change { news: News { since: truth.now, waiting }, kind };
        if let Some(before) = self.changes.insert((owner, app.clone()), change) {
            self.unknown_app_changes += u64::from(!before.news.waiting.is_empty());
        }
    }

    /// A machine crashed, or its program stands still: all others shall notice.
    pub(crate) fn on_gone(&mut self, truth: &Truth<'_>, machine: usize, crashed: bool) {
        self.forget(truth.now, machine);
        if crashed && !truth.machines[machine].leaves {
            let sees = |other: &usize| {
                *other != machine && truth.is_up(*other) && !self.holds_down.contains(&(*other, machine))
            };
            let waiting: BTreeSet<_> = (0..truth.machines.len()).filter(sees).collect();
            self.crashes.insert(machine, News { since: truth.now, waiting });
        }
    }

    /// A program begins anew: nothing that was said of or by its earlier life is waited for any more.
    pub(crate) fn on_start(&mut self, now: Instant, machine: usize) {
        self.crashes.remove(&machine);
        self.holds_down.retain(|(observer, _)| *observer != machine);
        self.forget(now, machine);
    }

    /// Nobody waits for what this machine has to say, nor for who is to say something of it.
    fn forget(&mut self, now: Instant, machine: usize) {
        for crash in self.crashes.values_mut() {
            crash.waiting.remove(&machine);
        }
        for change in self.changes.values_mut() {
            change.news.waiting.remove(&machine);
        }
        self.changes.retain(|(owner, _), _| *owner != machine);
        if let Some(healing) = &mut self.healing {
            healing.apart.retain(|(a, b)| *a != machine && *b != machine);
            if healing.apart.is_empty() && healing.healed.is_none() {
                healing.healed = Some(now);
            }
        }
    }

    /// A cut has ended: all that live shall hold each other to be up again.
    pub(crate) fn on_mended(&mut self, truth: &Truth<'_>) {
        self.end_healing();
        let live = |pair: &&(usize, usize)| truth.is_up(pair.0) && truth.is_up(pair.1);
        let apart: HashSet<_> = self.holds_down.iter().filter(live).copied().collect();
        let healed = apart.is_empty().then_some(truth.now);
        self.healing = Some(Healing { since: truth.now, apart, healed });
    }

    fn end_healing(&mut self) {
        match self.healing.take() {
            Some(Healing { since, healed: Some(healed), .. }) => self.heals.push(healed - since),
            Some(_) => self.unhealed += 1,
            None => {}
        }
    }

    /// A run of a handler begins. A mistake is told.
    pub(crate) fn on_run(&mut self, truth: &Truth<'_>, runner: usize, run: &Invocation) -> Option<What> {
        self.runs += 1;
        let mut wrong = Vec::new();
        for (app, set) in &run.snapshot.apps {
            let wanted: BTreeSet<_> = set.endpoints.iter().map(|endpoint| &endpoint.member).collect();
            let record = self.records.get(app);
            let missing = truth.machines.iter().enumerate().filter(|(_, machine)| {
                let is_there = machine.is_up() && machine.app_answers && !machine.calls_app_down;
                is_there && !wanted.contains(&machine.name)
            });
            for (subject, machine) in missing {
                // One that has only just come may not be in yet; one that stands in the record may not be taken out.
                let is_owed = record.is_some_and(|record| record.contains(&machine.name));
                let is_excused = !truth.is_false(runner, subject) && truth.has_majority(runner);
                if is_owed && !is_excused {
                    wrong.push(format!("{app} on {}", machine.name));
                }
            }
        }
        self.wrong_removals += u64::from(!wrong.is_empty());
        (!wrong.is_empty()).then(|| What::Wrong(format!("takes out what is up: {}", wrong.join(", "))))
    }

    /// The provider has changed its records to these. A mistake is told.
    pub(crate) fn on_written(&mut self, truth: &Truth<'_>, sets: Sets) -> Option<What> {
        let mut empty = None;
        for (app, members) in sets {
            if self.records.get(&app) == Some(&members) {
                continue;
            }
            self.writes += 1;
            if members.is_empty() {
                self.empty_records += 1;
                empty = Some(What::Wrong(format!("the record of {app} is empty")));
            }
            self.records.insert(app.clone(), members);
        }
        self.note_dead(truth);
        empty
    }

    /// A machine comes or goes, or a record changes: who is in one and is not there.
    pub(crate) fn note_dead(&mut self, truth: &Truth<'_>) {
        let now = truth.now;
        let mut before = std::mem::take(&mut self.dead);
        for (app, members) in &self.records {
            let gone = truth.machines.iter().enumerate().filter(|(_, it)| !it.is_up() && members.contains(&it.name));
            for (machine, _) in gone {
                let key = (app.clone(), machine);
                let since = before.remove(&key).unwrap_or(now);
                self.dead.insert(key, since);
            }
        }
        let ended = before.into_values().map(|since| now - since).max();
        self.dead_published = self.dead_published.max(ended.unwrap_or_default());
    }

    /// A delivery has ended that had ended before.
    pub(crate) fn on_double_outcome(&mut self) {
        self.double_outcomes += 1;
    }

    /// The members in the record of an application.
    pub(crate) fn record(&self, app: &AppName) -> Option<&BTreeSet<NodeName>> {
        self.records.get(app)
    }

    /// Whether nothing is outstanding of what everybody shall hear of.
    pub(crate) fn all_detected(&self) -> bool {
        self.crashes.values().all(|crash| crash.waiting.is_empty())
    }

    /// Whether the last cut has healed.
    pub(crate) fn is_healed(&self) -> bool {
        self.healing.as_ref().is_none_or(|healing| healing.healed.is_some())
    }

    /// Whether all have heard of every change of an application.
    pub(crate) fn all_told(&self) -> bool {
        self.changes.values().all(|change| change.news.waiting.is_empty())
    }

    pub(crate) fn report(&self, seed: u64, truth: &Truth<'_>) -> Report {
        let sorted = |figures: &[Duration]| {
            let mut sorted = figures.to_vec();
            sorted.sort_unstable();
            sorted
        };
        let mut heals = self.heals.clone();
        let last = self.healing.as_ref().map(|healing| healing.healed.map(|healed| healed - healing.since));
        heals.extend(last.flatten());
        let outstanding = self.crashes.values().map(|crash| crash.waiting.len() as u64).sum::<u64>();
        let untold = self.changes.values().filter(|change| !change.news.waiting.is_empty()).count() as u64;
        Report {
            seed,
            nodes: truth.machines.len(),
            node_time: truth.machines.iter().map(|machine| machine.up_in_all(truth.now)).sum(),
            false_downs_of: self.false_downs_of.clone(),
            renewals: self.renewals,
            detections: sorted(&self.detections),
            detected_by_all: sorted(&self.detected_by_all),
            undetected: outstanding,
            heals: sorted(&heals),
            unhealed: self.unhealed + u64::from(last == Some(None)),
            app_changes: sorted(&self.app_changes),
            unknown_app_changes: self.unknown_app_changes + untold,
            wrong_removals: self.wrong_removals,
            empty_records: self.empty_records,
            double_outcomes: self.double_outcomes,
            runs: self.runs,
            writes: self.writes,
            dead_published: self.dead.values().map(|since| truth.now - *since).fold(self.dead_published, Duration::max),
            packets: truth.network.packets(),
        }
    }
}
