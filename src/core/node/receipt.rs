//! Receipts: what this node has published is told to all, and what others have published is where it begins.
//!
//! A run that ended well is told of once, if it says anything new. A node that has just started, or comes back, takes the
//! newest receipt of each application for what stands outside, until it has settled. A run that read what it writes
//! before a receipt of another node did is of no use any more: it may send nothing, and is tried again. Two nodes may
//! write in the same moment, before they have heard of each other, and the older set may be written last: so who runs a
//! scope looks at it again when another has published another set there.

use std::collections::BTreeSet;

use super::{Node, Output};
use crate::config::{Handler, RunOn};
use crate::event::{DeliveryId, RunEnd};
use crate::ledger::{Delivery, ScopeKey};
use crate::message::{Message, Rest, encoded_len};
use crate::name::NodeName;
use crate::plan;
use crate::receipt::{Members, Receipt, Scope};
use crate::record::ShortDigest;
use crate::route::Route;
use crate::status::ReceiptStatus;
use crate::time::{Instant, Now, Wall};

impl Node {
    /// What will be told of a run that begins now, if it ends well. Where each node runs for itself nobody needs to know.
    pub(super) fn draft_receipt(&mut self, now: Now, delivery: &Delivery) {
        let Some(app) = delivery.key.app.clone() else { return };
        if self.handler(&delivery.key).is_none_or(|handler| handler.run_on != RunOn::One) {
            return;
        }
        let mut receipt = Receipt {
            handler: ShortDigest::of_name(&delivery.key.handler),
            app: app.clone(),
            node: self.settings.name.clone(),
            epoch: self.receipts.next_epoch(now.wall),
            revision: plan::revision(self.governor.wanted(&app).unwrap_or_default()),
            published: Members::These(Vec::new()),
            failures: Vec::new(),
        };
        let claims = self.view.claims(&app);
        let published: BTreeSet<_> = self.governor.published(&app).collect();
        let others = claims.keys().filter(|member| !published.contains(member));
        receipt.tell(published.iter().copied(), others, self.governor.failures(&app, now.at));
        self.drafts.insert(delivery.id.clone(), receipt);
    }

    /// A run has ended: if well, all hear of it. What says nothing new is kept here, for when it has to be told.
    pub(super) fn issue_receipt(&mut self, now: Instant, id: &DeliveryId, end: &RunEnd) {
        let draft = self.drafts.remove(id).filter(|_| matches!(end, RunEnd::Done { .. }));
        let Some(receipt) = draft else { return };
        let is_news = self.receipts.get(&receipt.scope()).is_none_or(|held| !receipt.says_the_same(held));
        if self.receipts.take(now, receipt.clone()) && is_news {
            self.membership.broadcast_receipt(now, &receipt);
            self.membership.gossip(now);
        }
    }

    /// A peer has told what was published last.
    pub(super) fn on_receipts(&mut self, now: Instant, sender: &NodeName, told: Vec<Receipt>, rest: Option<Rest>) {
        self.take_receipts(now, told);
        if let Some(rest) = rest.filter(|_| !self.is_joined()) {
            self.exchange.miss(rest.unseen, self.settings.advertise);
            self.exchange.peers.entry(sender.clone()).or_default().receipts = Some(rest.known);
            self.consider_joined(now);
        }
    }

    /// What other nodes have published.
    pub(super) fn take_receipts(&mut self, now: Instant, receipts: Vec<Receipt>) {
        for receipt in receipts.into_iter().filter(Receipt::is_sound) {
            let (scope, epoch, is_own) = (receipt.scope(), receipt.epoch, receipt.node == self.settings.name);
            self.membership.broadcast_receipt(now, &receipt);
            if !is_own {
                self.mend(now, &receipt);
            }
            if self.receipts.take(now, receipt) {
                if !is_own {
                    self.fence_off(&scope, epoch);
                }
            } else if let Some(own) = self.receipts.get(&scope).filter(|held| held.node == self.settings.name) {
                // It may never have been told, as it said nothing new.
                self.membership.broadcast_receipt(now, own);
            }
        }
    }

    /// What another has written in a scope that this node runs may have been written last, though it is not the newest.
    fn mend(&mut self, now: Instant, receipt: &Receipt) {
        let is_it = |key: &&ScopeKey| {
            key.app.as_ref() == Some(&receipt.app) && ShortDigest::of_name(&key.handler) == receipt.handler
        };
        let wanted = self.governor.wanted(&receipt.app).unwrap_or_default();
        let key = self.own_scopes.iter().find(is_it).filter(|_| plan::revision(wanted) != receipt.revision).cloned();
        if let Some(key) = key {
            self.look_again_after(now, key);
        }
    }

    fn fence_off(&mut self, scope: &Scope, epoch: u64) {
        let is_older = |draft: &Receipt| draft.scope() == *scope && draft.epoch <= epoch;
        let late = self.drafts.extract_if(.., |_, draft| is_older(draft));
        let late: Vec<_> = late.map(|(id, _)| id).collect();
        self.outputs.extend(late.into_iter().map(Output::Fence));
    }

    /// Tells a node that looks for its cluster what was published last.
    pub(super) fn send_receipts(&mut self, to: Route) {
        let known = u16::try_from(self.receipts.len()).unwrap_or(u16::MAX);
        let mut rest = Some(Rest { known, unseen: self.missed() });
        let budget = self.budget(to);
        let (mut chunks, mut room) = (vec![Vec::new()], budget.saturating_sub(encoded_len(&rest)));
        for receipt in self.receipts.iter() {
            let size = encoded_len(receipt);
            if size > room {
                chunks.push(Vec::new());
                room = budget;
            }
            room = room.saturating_sub(size);
            chunks.last_mut().expect("there is one").push(receipt.clone());
        }
        for receipts in chunks {
            self.send(to, &Message::Receipts { told: receipts, rest: rest.take() });
        }
    }

    /// As long as this node has not settled, what others have published is what is published.
    pub(super) fn adopt_receipts(&mut self, now: Now) {
        let apps: Vec<_> = self.view.apps().cloned().collect();
        for app in apps {
            let Some(receipt) = self.receipts.of_app(&app) else { continue };
            let (epoch, members) = self.adopted.entry(app.clone()).or_default();
            if *epoch < receipt.epoch {
                (*epoch, *members) = (receipt.epoch, BTreeSet::new());
            }
            // Each once: of some this node may hear later than of what was published.
            let mut claims = self.view.claims(&app);
            claims.retain(|member, _| members.insert(member.clone()));
            if !claims.is_empty() {
                let failed = |member: &_| receipt.failure(now.wall, member);
                self.governor.adopt(now.at, &app, &claims, |member| receipt.has_published(member), failed);
            }
        }
    }

    /// What was published last, of the handlers that this node has.
    pub(super) fn receipt_status(&self) -> Vec<ReceiptStatus> {
        let status = |handler: &Handler, receipt: &Receipt| {
            let members = self.view.claims(&receipt.app);
            ReceiptStatus {
                handler: handler.name.to_string(),
                app: receipt.app.to_string(),
                node: receipt.node.to_string(),
                time: Wall(receipt.epoch).rfc3339(),
                revision: receipt.revision.clone(),
                published: members.keys().filter(|it| receipt.has_published(it)).map(ToString::to_string).collect(),
            }
        };
        let of_handler = |handler: &Handler| {
            let tag = ShortDigest::of_name(&handler.name);
            self.receipts
                .iter()
                .filter(|receipt| receipt.handler == tag)
                .map(|it| status(handler, it))
                .collect::<Vec<_>>()
        };
        self.settings.handlers.iter().flat_map(of_handler).collect()
    }
}
