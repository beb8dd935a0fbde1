//! A suspect is asked once more, by another way, before the verdict on it falls.
//!
//! The node asks; here is kept who is to be asked and when, and who was. An answer is a higher incarnation, and that is no
//! suspect any more. So that a death is known as early as without the question, it is asked before the wait is over; a
//! verdict waits for the answer only where that was shortened meanwhile, and only for one round trip.

use std::time::Duration;

use super::Membership;
use crate::identity::Identity;
use crate::name::NodeName;
use crate::time::Instant;

/// A question is asked so many round trips before the verdict: a connection's first packet may get lost once.
const ASK_BEFORE: u32 = 3;

impl Membership {
    fn ask_before(&self) -> Duration {
        self.tempo.probe_rtt * ASK_BEFORE
    }

    /// When the next suspect is to be asked.
    pub fn next_question(&self) -> Option<Instant> {
        let (over, _) = self.suspicions.next_unasked(self.shortest_wait(), self.sized_for)?;
        Some(over - self.ask_before())
    }

    /// Whom to ask now, in which incarnation. The verdict on it waits for one round trip, or for
    /// [`stop_waiting`](Self::stop_waiting).
    pub fn take_question(&mut self, now: Instant) -> Option<(Identity, u16)> {
        let (over, held) = self.suspicions.next_unasked(self.shortest_wait(), self.sized_for)?;
        let (identity, incarnation) = (held.identity.clone(), held.incarnation);
        if over - self.ask_before() > now {
            return None;
        }
        self.suspicions.ask(&identity.name, now + self.tempo.probe_rtt);
        Some((identity, incarnation))
    }

    /// No answer will come to the question.
    pub fn stop_waiting(&mut self, member: &NodeName) {
        self.suspicions.stop_waiting(member);
    }

    /// The answer has come, by another way than gossip's. How long that took says nothing of how slow the member is.
    pub fn answered_otherwise(&mut self, member: &NodeName) {
        self.suspicions.answered_otherwise(member);
    }
}
