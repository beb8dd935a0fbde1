//! From what happened to who shall hear of it: the view is compared with the one before, the wanted sets follow, and
//! each event becomes a delivery on the one node that runs its scope.
//!
//! A scope is an application: an event about a member concerns each application that the member has, and a `reconcile`
//! each that the handler sees, so that everything that writes one record stands in one line. What concerns no
//! application stands in the handler's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::{Invocation, Node, Notice, Output, Tick};
use crate::config::Handler;
use crate::digest::Digest;
use crate::event::{DeliveryId, Event, EventKind, Outcome, RunEnd};
use crate::identity::Identity;
use crate::ledger::{Delivery, ScopeKey};
use crate::name::{AppName, HandlerName};
use crate::plan;
use crate::record::ShortDigest;
use crate::snapshot::{EndpointSet, MemberInfo, MemberState, Snapshot};
use crate::stale::Stale;
use crate::status::LastRun;
use crate::time::{Instant, Now};
use crate::view::Fact;

/// An application whose checks never agree stays unknown for ever; nothing else waits for it longer than this.
const SETTLE_AT_MOST: Duration = Duration::from_secs(30);
/// A record is known to all but a few by then: three rounds of gossip.
const HEAR_OF_EACH_OTHER: Duration = Duration::from_millis(600);

impl Node {
    /// Whether deliveries may start: not before this node has found its cluster, nor once it leaves it.
    pub(super) fn may_run(&self) -> bool {
        self.is_joined() && self.leaving.is_none()
    }

    /// Whether runs may start now.
    pub(super) fn may_start(&self) -> bool {
        self.is_ready() && !self.heal.holds_handlers()
    }

    /// Looks at the cluster anew and draws the consequences of what changed.
    pub(super) fn refresh(&mut self, now: Now, stale: &Stale) {
        // What the view takes in is what the next look compares with.
        self.membership.note_states();
        let own = self.membership.identity().clone();
        let own_state = if self.leaving.is_some() { MemberState::Left } else { MemberState::Alive };
        let own_fact = Fact {
            name: &own.name,
            address: own.address,
            generation: own.generation,
            state: own_state,
            record: self.records.get(&own.name),
        };
        let members = self.membership.members().filter(|(identity, _)| stale.includes(&identity.name));
        let facts = members.map(|(identity, standing)| {
            let record = self.records.get(&identity.name);
            let state = match (self.records.has_left(identity), standing.down, standing.suspect) {
                (true, ..) => MemberState::Left,
                (_, true, _) => MemberState::Down,
                _ if self.streams.is_degraded(identity) => MemberState::Degraded,
                (_, _, true) => MemberState::Suspect,
                _ => MemberState::Alive,
            };
            let Identity { name, generation, address } = identity;
            Fact { name, address: *address, generation: *generation, state, record }
        });
        let runners = self.view.runners();
        let events = self.view.update(now.wall, &own.name, stale, std::iter::once(own_fact).chain(facts));
        let new_runners = self.view.runners().difference(&runners).map(|(_, handler)| *handler).collect();
        if events.iter().any(|event| event.kind == EventKind::MemberDown) {
            self.note_loss(now.at);
        }
        let changed = self.govern(now);
        // What a newcomer sees for the first time is no news to the cluster.
        if self.may_run() {
            self.settle_in(now.at);
            for event in &events {
                let member = event.member.as_ref().filter(|_| event.kind == EventKind::MemberDown);
                if let Some((member, evidence)) = member.and_then(|name| Some((name, self.evidence(now, name)?))) {
                    self.notice(Notice::Verdict { member: member.clone(), evidence: Box::new(evidence) });
                }
                self.notice(Notice::Event(event.clone()));
                self.offer(now, event);
            }
            if self.is_ready() {
                self.tell_mismatches();
            }
            self.take_over(now, &new_runners);
            // An address may move while its application stays up, and a hold may end: nothing happened, and yet another
            // set is wanted.
            let has_event = |app: &AppName| events.iter().any(|event| event.app.as_ref() == Some(app));
            let silent: Vec<_> = changed.into_iter().filter(|app| !has_event(app)).collect();
            self.reconcile_apps(now, &silent);
            self.ask_for_quorum(now.at);
        }
    }

    /// Has the handlers look at these applications, in the scopes that this node runs.
    pub(super) fn reconcile_apps(&mut self, now: Now, apps: &[AppName]) {
        let is_one = |key: &&ScopeKey| key.app.as_ref().is_some_and(|app| apps.contains(app));
        let keys: Vec<_> = self.own_scopes.iter().filter(is_one).cloned().collect();
        for key in keys {
            self.reconcile_scope(now, &key);
        }
    }

    /// Whether this node may be the one that runs a scope.
    pub(super) fn is_ready(&self) -> bool {
        self.runs_from.is_some() && self.may_run()
    }

    /// A node that has just started does not know whether its own applications are up, nor whether those of another that
    /// has just started are. Those that were there before do; they run the scopes until this one knows as well, and says
    /// so in its record. Else its first run would take healthy addresses out. Before it runs anything it lets the others
    /// hear of it, and itself of those that got there in the same moment, so that one of them runs a scope and not each.
    fn settle_in(&mut self, now: Instant) {
        let Some(since) = self.there_since().filter(|_| self.runs_from.is_none()) else { return };
        let waited_enough = now.since(since) >= SETTLE_AT_MOST;
        if self.view.is_complete() || waited_enough {
            let is_alone = self.membership.active().next().is_none();
            self.runs_from = Some(if is_alone { now } else { now + HEAR_OF_EACH_OTHER });
            self.remember(now);
            self.change_own_record(now);
        }
    }

    fn offer(&mut self, now: Now, event: &Event) {
        for index in 0..self.settings.handlers.len() {
            let handler = &self.settings.handlers[index];
            if !handler.on.contains(&event.kind) {
                continue;
            }
            for (key, event) in self.scopes_of(handler, event) {
                if self.runs(&key, event.member.as_ref()) {
                    self.put_in_line(now, key, event);
                }
            }
        }
    }

    fn put_in_line(&mut self, now: Now, key: ScopeKey, event: Event) {
        if let Some(delivery) = self.ledger.offer(now.at, key, event) {
            self.supersede(now, delivery);
        }
    }

    /// In which lines of `handler` an event stands, and as what. A handler for certain applications hears of the members
    /// that have them. An application that was never up has nothing to publish, and so nothing to tell.
    fn scopes_of(&self, handler: &Handler, event: &Event) -> Vec<(ScopeKey, Event)> {
        let apps: Vec<AppName> = match (&event.app, &event.member) {
            (Some(app), _) => vec![app.clone()],
            (None, Some(member)) => {
                self.view.members().get(member).into_iter().flat_map(|member| member.apps.keys().cloned()).collect()
            }
            (None, None) => Vec::new(),
        };
        if apps.is_empty() && handler.apps.is_empty() {
            return vec![(scope(handler, None), event.clone())];
        }
        let told = apps.into_iter().filter(|app| handler.sees(app) && self.governor.wanted(app).is_some());
        told.map(|app| (scope(handler, Some(&app)), Event { app: Some(app), ..event.clone() })).collect()
    }

    /// Who takes a scope over does not know what became of its deliveries: it looks at once, unless something waits there
    /// anyway. A run of its predecessor may still go on, and what that read before may be written last: so it looks once
    /// more when no such run can live any longer. A node that was not seen before may have been such a predecessor;
    /// `new_runners` are the handlers that such nodes have.
    fn take_over(&mut self, now: Now, new_runners: &BTreeSet<ShortDigest>) {
        let handlers = self.settings.handlers.iter();
        let keys: BTreeSet<_> = handlers
            .flat_map(|handler| {
                let apps = self.view.apps().filter(|app| handler.sees(app));
                apps.map(|app| scope(handler, Some(app))).chain([scope(handler, None)])
            })
            .filter(|key| self.runs(key, None))
            .collect();
        let new: Vec<_> = keys.difference(&self.own_scopes).cloned().collect();
        self.own_scopes = keys;
        for key in &new {
            self.reconcile_scope(now, key);
        }
        let has_new_runner = |key: &ScopeKey| new_runners.contains(&ShortDigest::of_name(&key.handler));
        let doubtful: Vec<_> =
            self.own_scopes.iter().filter(|key| new.contains(key) || has_new_runner(key)).cloned().collect();
        for key in doubtful {
            // A predecessor may begin a last run before it has heard of this.
            self.look_again_after(now.at + HEAR_OF_EACH_OTHER, key);
        }
    }

    /// What was asked for before `at` may be done at last as long after it as a run may take: then it is looked at again.
    pub(super) fn look_again_after(&mut self, at: Instant, key: ScopeKey) {
        if let Some(handler) = self.handler(&key) {
            let over = at + handler.timeout;
            if over <= self.seen.at {
                return;
            }
            self.timers.push(over, Tick::LookAgain(key.clone()));
            self.look_again.insert(key, over);
        }
    }

    /// The last one of those that were set for this scope counts.
    pub(super) fn on_look_again(&mut self, now: Now, key: &ScopeKey) {
        if self.look_again.get(key).is_some_and(|over| *over <= now.at) {
            self.look_again.remove(key);
            if self.own_scopes.contains(key) {
                self.reconcile_scope(now, key);
            }
        }
    }

    pub(super) fn handler(&self, key: &ScopeKey) -> Option<&Handler> {
        self.settings.handlers.iter().find(|handler| handler.name == key.handler)
    }

    fn reconcile_scope(&mut self, now: Now, key: &ScopeKey) {
        let Some(handler) = self.handler(key).filter(|handler| handler.on.contains(&EventKind::Reconcile)) else {
            return;
        };
        // An application that was never up has nothing to put in order; a handler's own line only if it sees none.
        let wanted = match &key.app {
            Some(app) => self.governor.wanted(app).is_some(),
            None => !self.view.apps().any(|app| handler.sees(app)),
        };
        if wanted {
            self.next_local_event += 1;
            let id = format!("{}/{}/{}", EventKind::Reconcile, self.settings.name, self.next_local_event);
            let event = Event { id, kind: EventKind::Reconcile, app: key.app.clone(), member: None, time: now.wall };
            self.put_in_line(now, key.clone(), event);
        }
    }

    pub(super) fn schedule_reconcile(&mut self, now: Instant, handler: &Handler) {
        let wait = handler.reconcile_every.mul_f64(self.rng.random_range(0.9..=1.1));
        self.books.entry(handler.name.clone()).or_default().reconcile_at = now + wait;
    }

    /// Has the handlers look again whose time it is.
    pub(super) fn reconcile_due(&mut self, now: Now) {
        let is_due = |handler: &Handler| self.books.get(&handler.name).is_some_and(|book| book.reconcile_at <= now.at);
        let due: Vec<_> = self.settings.handlers.iter().filter(|handler| is_due(handler)).cloned().collect();
        for handler in due {
            self.schedule_reconcile(now.at, &handler);
            if self.books.get(&handler.name).is_some_and(|book| book.versions.current().is_none()) {
                // Others that have it run it, so that no delivery would ever try again.
                self.outputs.push_back(Output::Load(handler.name.clone()));
            }
            self.reconcile(now, &handler.name);
        }
    }

    /// Has a handler look at every scope of its that this node runs.
    pub(super) fn reconcile(&mut self, now: Now, handler: &HandlerName) {
        if self.may_run() {
            let keys: Vec<_> = self.own_scopes.iter().filter(|key| key.handler == *handler).cloned().collect();
            for key in keys {
                self.reconcile_scope(now, &key);
            }
        }
    }

    /// Starts what is due.
    pub(super) fn dispatch(&mut self, now: Now) {
        while self.may_start() && self.has_quorum(now.at) && self.runs_from.is_some_and(|from| from <= now.at) {
            let Some(delivery) = self.ledger.start(now.at) else { return };
            // The members may have changed since it was put in line: its new runner has taken the scope over.
            if !self.runs(&delivery.key, delivery.event.member.as_ref()) {
                self.ledger.hand_over(&delivery);
                self.end(delivery, Outcome::HandedOver, None, Duration::ZERO);
                continue;
            }
            self.draft_receipt(now, &delivery);
            let Some(handler) = self.handler(&delivery.key) else { continue };
            let snapshot = Arc::new(self.snapshot(handler));
            let queued = now.at.since(delivery.since);
            self.outputs.push_back(Output::Invoke(Box::new(Invocation { delivery, snapshot, queued })));
        }
    }

    pub(super) fn snapshot(&self, handler: &Handler) -> Snapshot {
        let sets = self.view.apps().filter(|app| handler.sees(app)).filter_map(|app| {
            let endpoints = self.governor.wanted(app)?.to_vec();
            let revision = plan::revision(&endpoints);
            Some((app.clone(), EndpointSet { revision, endpoints, claimed: self.view.claimed(app) }))
        });
        let apps: BTreeMap<_, _> = sets.collect();
        let members = self.view.infos();
        let mut text = String::new();
        for (app, set) in &apps {
            text.extend([app.as_str(), " ", &set.revision, "\n"]);
        }
        for member in &members {
            text.extend([member.name.as_str(), " ", member.state.as_str(), "\n"]);
        }
        let own = self.membership.identity();
        let node = MemberInfo { name: own.name.clone(), state: MemberState::Alive, address: own.address.ip() };
        Snapshot { node, members, apps, revision: plan::short_hash(text.as_bytes()) }
    }

    pub(super) fn on_run_done(
        &mut self,
        now: Now,
        id: &DeliveryId,
        end: RunEnd,
        took: Duration,
        version: Option<Digest>,
    ) {
        if let Some((delivery, outcome)) = self.ledger.finish(now.at, id, &end, &mut self.rng) {
            self.keep(now, &delivery, outcome, &end);
            self.issue_receipt(now.at, &delivery.id, &end);
            self.note_end(now.at, &delivery.key, &end);
            if !matches!(end, RunEnd::Done { .. }) {
                self.failed_at.insert(delivery.key.clone(), now.at);
            } else if let Some(failed_at) = self.failed_at.remove(&delivery.key) {
                self.look_again_after(failed_at, delivery.key.clone());
            }
            if let Some(book) = self.books.get_mut(&delivery.key.handler) {
                book.last = Some(LastRun {
                    event: delivery.event.kind.to_string(),
                    scope: delivery.key.scope().to_owned(),
                    outcome: end.word().to_owned(),
                    text: end.text().to_owned(),
                    time: now.wall.rfc3339(),
                    attempt: delivery.attempt,
                    run_ms: took.as_secs_f64() * 1000.0,
                });
            }
            self.end(delivery, outcome, Some(end.clone()), took);
            if let Some(version) = version {
                self.judge_version(now, &id.handler, version, &end);
            }
        }
    }

    /// The one place where an outcome is recorded.
    pub(super) fn end(&mut self, delivery: Delivery, outcome: Outcome, end: Option<RunEnd>, took: Duration) {
        if let Some(book) = self.books.get_mut(&delivery.key.handler) {
            *book.outcomes.entry(outcome.as_str()).or_default() += 1;
        }
        self.settle_letter(&delivery, outcome);
        self.notice(Notice::Ended { delivery: Box::new(delivery), outcome, end, took });
    }
}

fn scope(handler: &Handler, app: Option<&AppName>) -> ScopeKey {
    ScopeKey { handler: handler.name.clone(), app: app.cloned() }
}
