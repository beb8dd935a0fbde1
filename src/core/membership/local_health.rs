//! How well this node itself does: who answers late itself must not take others for dead.
//!
//! The local health multiplier of Lifeguard (Dadgar, Phillips, Currey: "Lifeguard: Local Health Awareness for More
//! Accurate Failure Detection", 2018). Probes that nobody answered, suspicions that this node had to refute and a loop
//! that comes late count up, answered probes count down. Kept by [`Membership`](super::Membership), which waits longer by
//! the multiplier for answers to its probes and for the refutals of those that it suspects.

/// The score goes no higher, so that the multiplier does not either.
const WORST: u8 = 8;

/// The score of this node.
#[derive(Debug, Default)]
pub(super) struct LocalHealth {
    score: u8,
}

impl LocalHealth {
    /// Something went wrong that is this node's own fault, perhaps.
    pub(super) fn worse(&mut self) {
        self.score = WORST.min(self.score + 1);
    }

    /// A probe was answered: the way out and back is open, and this node looked in time.
    pub(super) fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// By how much to wait longer, from 1 to `WORST`. One probe that was not answered speaks of the one that was probed;
    /// only more of them, of several members and with no answer between, speak of this node.
    pub(super) fn multiplier(&self) -> u32 {
        u32::from(self.score.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_the_others_and_more_are_this_nodes() {
        let mut health = LocalHealth::default();
        let mut multipliers = vec![health.multiplier()];
        for _ in 0..10 {
            health.worse();
            multipliers.push(health.multiplier());
        }
        assert_eq!(multipliers, [1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]);
        (0..7).for_each(|_| health.better());
        assert_eq!(health.multiplier(), 1);
        (0..9).for_each(|_| health.better());
        health.worse();
        health.worse();
        assert_eq!(health.multiplier(), 2, "better than well there is nothing");
    }
}
