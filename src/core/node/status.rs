//! What a node says of itself when asked.

use super::Node;
use crate::ledger::Pending;
use crate::snapshot::MemberState;
use crate::status::{AppStatus, DeliveryStatus, HandlerStatus, HoldStatus, MemberStatus, MismatchStatus, Status};
use crate::time::Now;

/// The state of a handler that is ready, but not what most nodes hold it to be.
const CONFIG_MISMATCH: &str = "config-mismatch";

impl Node {
    /// A snapshot of what this node holds and does.
    pub fn status(&self) -> Status {
        let state = match (&self.leaving, &self.draining, self.is_joined()) {
            (Some(_), ..) => "leaving",
            (None, Some(_), _) => "draining",
            (None, None, true) => "joined",
            (None, None, false) => "joining",
        };
        let members = self.view.members().iter().map(|(name, member)| MemberStatus {
            name: name.to_string(),
            address: member.address.to_string(),
            state: member.state.to_string(),
            generation: member.generation,
            evidence: self.evidence(self.seen, name).filter(|_| member.state != MemberState::Left),
            apps: member
                .apps
                .iter()
                .map(|(name, app)| AppStatus {
                    name: name.to_string(),
                    state: app.state.as_str().into(),
                    publish: app.publish.clone(),
                })
                .collect(),
        });
        let handlers = self.settings.handlers.iter().map(|handler| {
            let book = self.books.get(&handler.name);
            HandlerStatus {
                name: handler.name.to_string(),
                source: handler.source.to_string(),
                state: book.map_or_else(String::new, |book| {
                    // Why it cannot be loaded matters more.
                    let is_odd = book.versions.current().is_some() && book.mismatches.contains_key(&self.settings.name);
                    if is_odd { CONFIG_MISMATCH.into() } else { book.state.clone() }
                }),
                run_on: handler.run_on.as_str().into(),
                mismatches: book
                    .into_iter()
                    .flat_map(|book| &book.mismatches)
                    .map(|(node, differs)| MismatchStatus { node: node.to_string(), differs: differs.as_str().into() })
                    .collect(),
                failing: self.failing_status(handler),
                missing: book.map_or_else(Vec::new, |book| book.missing.clone()),
                version: book.and_then(|book| book.versions.current()).map(|version| version.to_string()),
                watched: handler.watch,
                upgrade: book.and_then(|book| book.upgrade.clone()),
                pending: self.ledger.pending(&handler.name),
                dead: self.ledger.dead().iter().filter(|letter| letter.handler == handler.name).count(),
                dead_dropped: book.map_or(0, |book| book.dead_dropped),
                outcomes: book
                    .into_iter()
                    .flat_map(|book| &book.outcomes)
                    .map(|(outcome, count)| ((*outcome).to_owned(), *count))
                    .collect(),
                last: book.and_then(|book| book.last.clone()),
            }
        });
        let holds = self.view.apps().flat_map(|app| {
            self.governor.holds(app).map(move |(member, hold)| HoldStatus {
                app: app.to_string(),
                member: member.to_string(),
                reason: hold.to_string(),
            })
        });
        Status {
            node: self.settings.name.to_string(),
            cluster: self.settings.cluster.to_string(),
            state: state.into(),
            members: members.collect(),
            quorum: self.has_quorum(self.seen.at),
            known_size: self.known_size(),
            holds: holds.collect(),
            operator_holds: self.operator_holds(),
            receipts: self.receipt_status(),
            handlers: handlers.collect(),
            datagrams: self.datagrams.iter().map(|(fate, count)| ((*fate).to_owned(), *count)).collect(),
            deliveries: self.ledger.all_pending().map(|pending| self.delivery_status(&pending)).collect(),
            dead: self.ledger.dead().to_vec(),
        }
    }

    fn delivery_status(&self, pending: &Pending<'_>) -> DeliveryStatus {
        let Now { at, wall } = self.seen;
        let (delivery, state, time) = match *pending {
            Pending::Running(delivery) => (delivery, "running", wall.before(at.since(delivery.since))),
            Pending::Waiting(delivery, due) => (delivery, "waiting", wall.after(due.since(at)).before(at.since(due))),
        };
        DeliveryStatus {
            delivery: delivery.id.to_string(),
            handler: delivery.key.handler.to_string(),
            scope: delivery.key.scope().to_owned(),
            event: delivery.event.kind.to_string(),
            event_id: delivery.event.id.clone(),
            member: delivery.event.member.as_ref().map(ToString::to_string),
            state: state.to_owned(),
            attempt: delivery.attempt,
            time: time.rfc3339(),
            last: delivery.last.as_deref().cloned(),
        }
    }
}
