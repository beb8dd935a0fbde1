//! A suspect is asked once more, by another way, before the verdict on it falls.
//!
//! The node asks; here is kept who is to be asked and when, and who was. An answer is a higher incarnation, and that is no
//! suspect any more. So that a death is known as early as without the question, it is asked before the shortest wait is
//! over. Where this node came too late for that, the verdict waits for the answer, and only for one round trip.

use super::Membership;
use crate::identity::Identity;
use crate::name::NodeName;
use crate::time::Instant;

/// A question is asked so many round trips before the verdict: a connection's first packet may get lost once.
const ASK_BEFORE: u32 = 3;

impl Membership {
    /// When the next suspect is to be asked.
    pub(super) fn next_question(&self) -> Option<Instant> {
        let (confirmed, _) = self.suspicions.next_unasked(self.shortest_wait())?;
        Some(confirmed - self.tempo.probe_rtt * ASK_BEFORE)
    }

    /// Notes whom to ask now. The verdict on it waits for one round trip, or for [`stop_waiting`](Self::stop_waiting).
    pub(super) fn ask_suspects(&mut self, now: Instant) {
        while let Some((_, held)) = self.suspicions.next_unasked(self.shortest_wait())
            && self.next_question().is_some_and(|ask_at| ask_at <= now)
        {
            let (identity, incarnation) = (held.identity.clone(), held.incarnation);
            self.suspicions.ask(&identity.name, now + self.tempo.probe_rtt);
            self.questions.push((identity, incarnation));
        }
    }

    /// Whom to ask, in which incarnation.
    pub fn take_questions(&mut self) -> Vec<(Identity, u16)> {
        std::mem::take(&mut self.questions)
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
