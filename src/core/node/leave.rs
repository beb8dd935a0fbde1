//! Leaving: every member is told directly, and asked whether it knows, until all do or time is up.
//!
//! A process that ends right after it said so leaves its peers ignorant for seconds, and its death looks like a failure.
//! That it goes stands in its record alone. Foca's own word for it is the one for a failure, and travels apart from the
//! record: who heard it first would tell of a failure. So foca goes on until the process ends, and finds it gone later.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Node, Output, Tick};
use crate::message::DigestLine;
use crate::name::NodeName;
use crate::time::Instant;

/// How often those that do not know yet are told again.
const TELL_AGAIN: Duration = Duration::from_millis(250);
/// After this time the process may end, whoever knows.
const AT_MOST: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Leaving {
    until: Instant,
    told: bool,
    ignorant: BTreeMap<NodeName, SocketAddr>,
}

impl Node {
    pub(super) fn leave(&mut self, now: Instant) {
        if self.leaving.is_some() {
            return;
        }
        let introduced = self.exchange.introduced_to().map(|(name, address)| (name.clone(), address));
        let active = self.membership.active().map(|identity| (identity.name.clone(), identity.address));
        let ignorant = introduced.chain(active).collect();
        self.leaving = Some(Leaving { until: now + AT_MOST, told: false, ignorant });
        self.change_own_record(now);
        self.spread_leave(now);
    }

    pub(super) fn spread_leave(&mut self, now: Instant) {
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.told {
            return;
        }
        if leaving.ignorant.is_empty() || now >= leaving.until {
            leaving.told = true;
            self.outputs.push_back(Output::Left);
            return;
        }
        let peers: Vec<_> = leaving.ignorant.values().copied().collect();
        let entry = self.own_entry();
        for to in peers {
            self.send_entries(to, vec![entry.clone()]);
            let own = Some(self.settings.name.clone());
            self.send_digest(to, own.clone(), own, true);
        }
        self.timers.push(now + TELL_AGAIN, Tick::SpreadLeave);
    }

    /// A peer has told what it holds: does it know that this node leaves?
    pub(super) fn note_leave_known(&mut self, sender: &NodeName, theirs: &BTreeMap<&NodeName, &DigestLine>) {
        let own = self.records.get(&self.settings.name).map(|record| record.version());
        let knows = theirs.get(&self.settings.name).is_some_and(|line| line.record >= own);
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| knows && !leaving.told) else { return };
        leaving.ignorant.remove(sender);
        if leaving.ignorant.is_empty() {
            leaving.told = true;
            self.outputs.push_back(Output::Left);
        }
    }
}
