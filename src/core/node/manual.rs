//! Runs that an operator asks for: in the scope's line like any other, or beside it to see what would be written.

use std::sync::Arc;

use super::{Node, Output};
use crate::config::Handler;
use crate::event::{DeliveryId, Event, EventKind};
use crate::ledger::ScopeKey;
use crate::name::{AppName, HandlerName, NodeName};
use crate::snapshot::Snapshot;
use crate::time::Now;

/// Why a handler is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManualError {
    /// The config has none of that name.
    #[error("this node has no handler {0}")]
    NoHandler(HandlerName),
    /// It does not know enough yet, or is about to go.
    #[error("this node {0}, so it runs no handler now")]
    NotReady(&'static str),
    /// The handler sees others, if any.
    #[error("the handler sees no application {0}; it sees {1}")]
    NoApp(AppName, String),
    /// One of several has to be named.
    #[error("the handler sees several applications, say which one: {0}")]
    WhichApp(String),
    /// Nothing to write.
    #[error("{0} was never up since this node started, so there is nothing to publish")]
    NeverUp(AppName),
    /// Another node's: two runs that write one record would be a race.
    #[error("{0} is run by {1}: ask there")]
    Elsewhere(String, NodeName),
    /// Nobody's, for now.
    #[error("no node says that it can run {0}")]
    Nowhere(String),
    /// Nothing to deliver again.
    #[error("this node has no dead delivery {0}: see `picored deliveries --dead`")]
    NotDead(DeliveryId),
    /// What is newer goes first.
    #[error("{0} has a newer delivery waiting, {1}, which writes all that is wanted: wait for its end")]
    Newer(String, DeliveryId),
}

impl Node {
    /// Puts an event in the line of `handler` for `app`; where the handler sees one application only, none means that
    /// one. The end comes as [`Notice::Ended`](super::Notice::Ended) of this delivery.
    pub fn run_now(
        &mut self,
        now: Now,
        handler: &HandlerName,
        kind: EventKind,
        app: Option<&AppName>,
    ) -> Result<DeliveryId, ManualError> {
        let key = self.manual_scope(handler, app)?;
        self.may_run_now(now, &key, None)?;
        let event = self.manual_event(now, kind, &key);
        let (id, before) = self.ledger.offer_at_once(now.at, key, event);
        if let Some(before) = before {
            self.supersede(now, before);
        }
        self.settle(now);
        Ok(id)
    }

    /// Puts a delivery that was given up in line again, as on its first try. What it is for comes back.
    pub fn redeliver(&mut self, now: Now, id: &DeliveryId) -> Result<ScopeKey, ManualError> {
        let letter = self.ledger.dead().iter().find(|letter| letter.id() == *id).cloned();
        let letter = letter.ok_or_else(|| ManualError::NotDead(id.clone()))?;
        let key = match &letter.app {
            Some(app) => self.manual_scope(&letter.handler, Some(app))?,
            None => ScopeKey { handler: letter.handler.clone(), app: None },
        };
        if self.handler(&key).is_none() {
            return Err(ManualError::NoHandler(key.handler));
        }
        self.may_run_now(now, &key, letter.member.as_ref())?;
        if let Some(newer) = self.ledger.waiting(&key) {
            return Err(ManualError::Newer(key.scope().to_owned(), newer.id.clone()));
        }
        let key = self.ledger.redeliver(now.at, id).ok_or_else(|| ManualError::NotDead(id.clone()))?;
        let letter = self.ledger.letter(now, &key);
        self.outputs.extend(letter.map(Arc::new).map(Output::Keep));
        self.settle(now);
        Ok(key)
    }

    /// Whether this node would run a delivery of this scope, about `member`, if it had one.
    fn may_run_now(&self, now: Now, key: &ScopeKey, member: Option<&NodeName>) -> Result<(), ManualError> {
        if !self.is_ready() {
            return Err(ManualError::NotReady("does not know yet how the cluster's applications stand"));
        }
        if !self.has_quorum(now.at) {
            return Err(ManualError::NotReady("sees no majority of its cluster"));
        }
        if member.is_some() && self.runs(key, member) {
            return Ok(());
        }
        match self.runner(key).cloned() {
            Some(runner) if runner == self.settings.name => Ok(()),
            Some(runner) => Err(ManualError::Elsewhere(key.scope().to_owned(), runner)),
            None => Err(ManualError::Nowhere(key.scope().to_owned())),
        }
    }

    /// What a run would be told and see. It is no delivery: it may run beside one, as long as it writes nothing.
    pub fn dry_run(
        &mut self,
        now: Now,
        handler: &HandlerName,
        kind: EventKind,
        app: Option<&AppName>,
    ) -> Result<(Event, Arc<Snapshot>), ManualError> {
        let key = self.manual_scope(handler, app)?;
        let event = self.manual_event(now, kind, &key);
        let handler = self.handler(&key).ok_or_else(|| ManualError::NoHandler(handler.clone()))?;
        Ok((event, Arc::new(self.snapshot(handler))))
    }

    fn manual_scope(&self, handler: &HandlerName, app: Option<&AppName>) -> Result<ScopeKey, ManualError> {
        if !self.may_run() {
            let why = if self.leaving.is_some() { "is leaving the cluster" } else { "has not found its cluster yet" };
            return Err(ManualError::NotReady(why));
        }
        let named = |config: &&Handler| config.name == *handler;
        let config = self.settings.handlers.iter().find(named);
        let config = config.ok_or_else(|| ManualError::NoHandler(handler.clone()))?;
        let seen: Vec<&AppName> = self.view.apps().filter(|app| config.sees(app)).collect();
        let listed = || match &seen[..] {
            [] => "none".to_owned(),
            seen => seen.iter().map(|app| app.as_str()).collect::<Vec<_>>().join(", "),
        };
        let app = match (app, &seen[..]) {
            (Some(app), seen) if seen.contains(&app) => Some(app),
            (Some(app), _) => return Err(ManualError::NoApp(app.clone(), listed())),
            (None, []) => None,
            (None, [only]) => Some(*only),
            (None, _) => return Err(ManualError::WhichApp(listed())),
        };
        match app.filter(|app| self.governor.wanted(app).is_none()) {
            Some(app) => Err(ManualError::NeverUp(app.clone())),
            None => Ok(ScopeKey { handler: handler.clone(), app: app.cloned() }),
        }
    }

    fn manual_event(&mut self, now: Now, kind: EventKind, key: &ScopeKey) -> Event {
        self.next_local_event += 1;
        let id = format!("manual/{}/{}", self.settings.name, self.next_local_event);
        Event { id, kind, app: key.app.clone(), member: None, time: now.wall }
    }
}
