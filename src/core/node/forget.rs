//! Members that an operator has given up, and words on this node that are not its own.
//!
//! A member that is down counts for the quorum until it is forgotten (after 72 h by itself). To forget it is to say in its
//! stead that it has left, in that life of its: the word spreads as the member's own would, and when the member returns
//! it has a newer one.

use super::Node;
use crate::name::NodeName;
use crate::record::Record;
use crate::snapshot::MemberState;
use crate::time::{Instant, Now};

/// Why a member is not forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// Nobody of that name is known.
    #[error("no member {0} is known here")]
    Unknown(NodeName),
    /// It answers.
    #[error("{0} is {1}: only a member that is down can be forgotten; stop picored there")]
    NotDown(NodeName, MemberState),
}

impl Node {
    /// Has the cluster forget a member that is down: it counts for no quorum any more, and what it had goes from every
    /// set. Should it return, it is a member again.
    ///
    /// # Errors
    /// If it is not down, or not known.
    pub fn forget(&mut self, now: Now, name: &NodeName) -> Result<(), ForgetError> {
        let member = self.view.members().get(name).ok_or_else(|| ForgetError::Unknown(name.clone()))?;
        if member.state != MemberState::Down {
            return Err(ForgetError::NotDown(name.clone(), member.state));
        }
        let generation = member.generation;
        let said = self.records.get(name).cloned();
        let mut record = said.unwrap_or_else(|| Record::nothing(name.clone(), generation));
        record.sequence = record.sequence.saturating_add(1);
        record.leaving = Some(generation);
        self.membership.broadcast(now.at, &record);
        self.take_record(record);
        self.membership.gossip(now.at);
        self.settle(now);
        Ok(())
    }

    /// Somebody has said something newer of this node than it has itself: that it was forgotten, which is over. It speaks
    /// last.
    pub(super) fn outdo(&mut self, now: Instant, said: &Record) {
        let own = self.records.get(&self.settings.name).map(Record::version);
        let is_newer = own.is_some_and(|(boot, sequence)| said.boot == boot && said.sequence >= sequence);
        let Some(sequence) = said.sequence.checked_add(1).filter(|_| is_newer) else { return };
        let record = self.own_record(sequence);
        if Some(said) != self.records.get(&self.settings.name) {
            self.membership.broadcast(now, &record);
            self.take_record(record);
            self.membership.gossip(now);
        }
    }
}
