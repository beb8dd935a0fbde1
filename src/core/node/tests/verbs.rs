//! What operators ask of the nodes of the virtual cluster.

use std::time::Duration;

use super::super::{ForgetError, Maintenance, ManualError, NoSuchApp};
use super::net::{Net, node_name};
use crate::event::{DeliveryId, EventKind};
use crate::ledger::ScopeKey;
use crate::name::HandlerName;

impl Net {
    /// Has `slot` forget another.
    pub(super) fn forget(&mut self, slot: usize, other: usize) -> Result<(), ForgetError> {
        let now = self.now();
        let node = self.slots[slot].node.as_mut().expect("it runs");
        let done = node.forget(now, &node_name(other));
        self.drain(slot);
        done
    }

    /// Puts the applications of `slot` into maintenance, or takes them out of it.
    pub(super) fn maintain(
        &mut self,
        slot: usize,
        on: bool,
        limit: Option<Duration>,
    ) -> Result<Maintenance, NoSuchApp> {
        let now = self.now();
        let done = self.slots[slot].node.as_mut().expect("it runs").maintain(now, None, on, limit);
        self.drain(slot);
        done
    }

    /// Has `slot` run a handler once.
    pub(super) fn run_now(
        &mut self,
        slot: usize,
        handler: &HandlerName,
        kind: EventKind,
    ) -> Result<DeliveryId, ManualError> {
        let now = self.now();
        let done = self.slots[slot].node.as_mut().expect("it runs").run_now(now, handler, kind, None);
        self.drain(slot);
        done
    }

    /// Has `slot` put a delivery in line again.
    pub(super) fn redeliver(&mut self, slot: usize, id: &DeliveryId) -> Result<ScopeKey, ManualError> {
        let now = self.now();
        let done = self.slots[slot].node.as_mut().expect("it runs").redeliver(now, id);
        self.drain(slot);
        done
    }
}
