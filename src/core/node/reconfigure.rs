//! Another config for a node that runs, taken in at one moment: applications, handlers and seeds.
//!
//! What stays is found by its name, never by its place: an application keeps its verdict, a handler keeps what waits for
//! it. What goes leaves by the operator's intent: the node's record no longer has it, and everybody draws from that what
//! they draw from any record, so that no set becomes empty here either. Called by the driver with what it has loaded;
//! what a reload means for people is [`crate::reload`]'s to say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Node, Output, SettingsError, record_fits};
use crate::config::{App, GovernorRules, Handler, Seed, TwoNode};
use crate::event::Outcome;
use crate::health::Health;
use crate::ledger::ScopeKey;
use crate::record::{AppRecord, HandlerTag, Record};
use crate::stale::Stale;
use crate::time::{Instant, Now};

/// What a node can take in while it runs.
#[derive(Clone, Debug)]
pub struct Reconfiguration {
    /// All of this node's applications.
    pub apps: Vec<App>,
    /// All of its handlers.
    pub handlers: Vec<Handler>,
    /// Where to look for members.
    pub seeds: Vec<Seed>,
    /// Of so many members the cluster consists at least.
    pub expect: usize,
    /// What the survivor of two does.
    pub two_node: TwoNode,
    /// How careful removals are.
    pub governor: GovernorRules,
}

impl Node {
    /// Takes another config in, whole or not at all. What has changed is looked at at once: an application whose check
    /// is another is checked, a handler that is another looks at its scopes.
    ///
    /// # Errors
    /// If the node could not have started with it, or leaves; then nothing has changed.
    pub fn reconfigure(&mut self, now: Now, new: Reconfiguration) -> Result<(), SettingsError> {
        if self.leaving.is_some() {
            return Err(SettingsError::Leaving);
        }
        let Reconfiguration { apps, handlers, seeds, expect, two_node, governor } = new;
        let largest = Record { apps: apps.iter().map(AppRecord::largest).collect(), ..self.own_record(u64::MAX) };
        record_fits(&largest, handlers.iter().map(|handler| HandlerTag::new(handler, None)).collect())?;
        self.replace_apps(now.at, apps);
        self.replace_handlers(now, handlers);
        // What made runs fail may be mended.
        self.failing.clear();
        if seeds != self.settings.seeds {
            self.exchange.look_among(now.at, &seeds, self.settings.advertise);
            self.settings.seeds = seeds;
        }
        (self.settings.expect, self.settings.two_node, self.settings.governor) = (expect, two_node, governor);
        let said = self.records.get(&self.settings.name);
        if said != Some(&self.own_record(said.map_or(0, |record| record.sequence))) {
            self.change_own_record(now.at);
        }
        self.stale = Stale::All;
        self.settle(now);
        Ok(())
    }

    fn replace_apps(&mut self, now: Instant, apps: Vec<App>) {
        let old = std::mem::take(&mut self.settings.apps).into_iter().zip(std::mem::take(&mut self.health));
        let mut old: BTreeMap<_, _> = old.map(|(app, health)| (app.name.clone(), (app, health))).collect();
        let mut unwanted = Vec::new();
        let health = apps.iter().map(|app| match old.remove(&app.name) {
            Some((before, mut health)) => {
                if is_checked_otherwise(&before, app) {
                    unwanted.extend(health.running());
                    health.begin_anew(now, &app.check);
                }
                health
            }
            None => Health::new(now, &app.check),
        });
        self.health = health.collect();
        unwanted.extend(old.values().filter_map(|(_, health)| health.running()));
        self.outputs.extend(unwanted.into_iter().map(|number| Output::EndCheck { number }));
        self.settings.maintained.retain(|name, _| apps.iter().any(|app| app.name == *name));
        self.settings.apps = apps;
    }

    fn replace_handlers(&mut self, now: Now, handlers: Vec<Handler>) {
        self.own_scopes.retain(|key| has_place(&handlers, key));
        self.failed_at.retain(|key, _| has_place(&handlers, key));
        for delivery in self.ledger.cancel(|key| !has_place(&handlers, key)) {
            self.end(delivery, Outcome::Cancelled, None, Duration::ZERO);
        }
        self.books.retain(|name, _| handlers.iter().any(|handler| handler.name == *name));
        let old = std::mem::replace(&mut self.settings.handlers, handlers.clone());
        for handler in &handlers {
            let before = old.iter().find(|before| before.name == handler.name);
            // A new one is taken over like any scope that comes to this node.
            if before.is_none_or(|before| before.reconcile_every != handler.reconcile_every) {
                self.schedule_reconcile(now.at, handler);
            }
            if before.is_some_and(|before| before != handler) {
                self.ledger.hurry(now.at, &handler.name);
                self.reconcile(now, &handler.name);
            }
        }
    }
}

/// Whether deliveries of this scope have somebody to go to.
pub(super) fn has_place(handlers: &[Handler], key: &ScopeKey) -> bool {
    let handler = handlers.iter().find(|handler| handler.name == key.handler);
    handler.is_some_and(|handler| key.app.as_ref().is_none_or(|app| handler.sees(app)))
}

/// Whether what was found out about the application before says nothing of how its checks will go.
fn is_checked_otherwise(before: &App, after: &App) -> bool {
    App { publish: before.publish.clone(), ..after.clone() } != *before
}
