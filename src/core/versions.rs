//! Which version of a handler runs here, and when a new one has failed.
//!
//! A version that takes over from another is on trial until one of its runs works. If its first three fail where the
//! last run of the one before worked, that one takes over again. Nothing is loaded or run here: the node tells how runs
//! ended, and has the shell do what follows.

use crate::digest::Digest;
use crate::event::{RunEnd, StopReason};

/// So many first runs may fail before the version before takes over again.
pub const TRIAL_RUNS: u32 = 3;

/// How a version comes to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Takeover {
    /// The handler was loaded for the first time in this process.
    Load,
    /// Another component was given for it: by command, or because its watched file changed.
    Upgrade,
    /// The operator wants the version before.
    Rollback,
}

/// The versions of one handler.
#[derive(Debug, Default)]
pub struct Versions {
    current: Option<Digest>,
    /// Whether the current one's last run worked.
    works: bool,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    before: Digest,
    before_works: bool,
    failures: u32,
}

impl Versions {
    /// The one that new runs are of; none before the first was loaded.
    pub fn current(&self) -> Option<Digest> {
        self.current
    }

    /// `version` takes over. What the operator goes back to is not on trial: what it would fail to is what he left.
    pub fn take_over(&mut self, version: Digest, takeover: Takeover) {
        let before = self.current.replace(version).filter(|before| *before != version);
        self.trial = before.filter(|_| takeover == Takeover::Upgrade).map(|before| Trial {
            before,
            before_works: self.works,
            failures: 0,
        });
        self.works &= before.is_none();
    }

    /// A run of `version` has ended. If the current version has failed with it: the one before, which has taken over.
    ///
    /// A pause that a provider asked for says nothing of the version.
    pub fn ended(&mut self, version: Digest, end: &RunEnd) -> Option<Digest> {
        let works = match end {
            RunEnd::Done { .. } => true,
            // Neither the provider's pause nor the node's own doubts say anything of the version.
            RunEnd::RetryAfter(..) | RunEnd::Stopped(StopReason::Fenced, _) => return None,
            RunEnd::Retry(_) | RunEnd::Permanent(_) | RunEnd::Stopped(..) => false,
        };
        if self.current != Some(version) {
            // It began before another took over.
            if let Some(trial) = self.trial.as_mut().filter(|trial| trial.before == version) {
                trial.before_works = works;
            }
            return None;
        }
        self.works = works;
        if works {
            self.trial = None;
        }
        let trial = self.trial.as_mut()?;
        trial.failures += 1;
        if trial.failures < TRIAL_RUNS || !trial.before_works {
            return None;
        }
        let before = trial.before;
        *self = Self { current: Some(before), works: true, trial: None };
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: Digest = Digest::new([0xa; 32]);
    const B: Digest = Digest::new([0xb; 32]);
    const C: Digest = Digest::new([0xc; 32]);

    /// What happens: somebody takes over, or a run ends.
    enum Step {
        Load(Digest),
        Upgrade(Digest),
        Rollback(Digest),
        Good(Digest),
        Bad(Digest),
        Pause(Digest),
        Fenced(Digest),
    }
    use Step::{Bad, Fenced, Good, Load, Pause, Rollback, Upgrade};

    /// After which steps, from 1, which version came back.
    fn comebacks(steps: &[Step]) -> Vec<(usize, Digest)> {
        let mut versions = Versions::default();
        let mut comebacks = Vec::new();
        let mut bad_ends = [
            RunEnd::Stopped(StopReason::Trap, String::new()),
            RunEnd::Retry(String::new()),
            RunEnd::Permanent(String::new()),
        ]
        .into_iter()
        .cycle();
        for (index, step) in steps.iter().enumerate() {
            let (version, end) = match *step {
                Load(version) => {
                    versions.take_over(version, Takeover::Load);
                    continue;
                }
                Upgrade(version) => {
                    versions.take_over(version, Takeover::Upgrade);
                    continue;
                }
                Rollback(version) => {
                    versions.take_over(version, Takeover::Rollback);
                    continue;
                }
                Good(version) => (version, RunEnd::Done { changed: false, text: String::new() }),
                Bad(version) => (version, bad_ends.next().expect("it cycles")),
                Pause(version) => (version, RunEnd::RetryAfter(Duration::ZERO, String::new())),
                Fenced(version) => (version, RunEnd::Stopped(StopReason::Fenced, String::new())),
            };
            if let Some(before) = versions.ended(version, &end) {
                assert_eq!(versions.current(), Some(before));
                comebacks.push((index + 1, before));
            }
        }
        comebacks
    }

    #[test]
    fn three_failures_of_a_new_version_bring_back_one_that_worked() {
        assert_eq!(comebacks(&[Load(A), Good(A), Upgrade(B), Bad(B), Bad(B), Bad(B)]), [(6, A)]);
        // Once: then the old one is on no trial of its own.
        let more = [Load(A), Good(A), Upgrade(B), Bad(B), Bad(B), Bad(B), Bad(B), Bad(A), Bad(A), Bad(A), Bad(B)];
        assert_eq!(comebacks(&more), [(6, A)]);
        // The one that came back counts as one that worked.
        let again = [Load(A), Good(A), Upgrade(B), Bad(B), Bad(B), Bad(B), Upgrade(C), Bad(C), Bad(C), Bad(C)];
        assert_eq!(comebacks(&again), [(6, A), (10, A)]);
    }

    #[test]
    fn a_version_that_worked_once_stays() {
        assert_eq!(comebacks(&[Load(A), Good(A), Upgrade(B), Bad(B), Bad(B), Good(B), Bad(B), Bad(B), Bad(B)]), []);
    }

    #[test]
    fn nothing_brings_back_what_did_not_work_itself() {
        assert_eq!(comebacks(&[Load(A), Good(A), Bad(A), Upgrade(B), Bad(B), Bad(B), Bad(B), Bad(B)]), []);
        assert_eq!(comebacks(&[Load(A), Upgrade(B), Bad(B), Bad(B), Bad(B)]), [], "it never ran");
        assert_eq!(comebacks(&[Upgrade(B), Bad(B), Bad(B), Bad(B)]), [], "there is none");
        // B never worked, so C's trial ends with C.
        let steps = [Load(A), Good(A), Upgrade(B), Bad(B), Upgrade(C), Bad(C), Bad(C), Bad(C)];
        assert_eq!(comebacks(&steps), []);
    }

    #[test]
    fn runs_that_began_before_the_takeover_count_for_their_own_version() {
        assert_eq!(comebacks(&[Load(A), Good(A), Upgrade(B), Bad(B), Bad(A), Bad(B), Bad(B)]), []);
        assert_eq!(comebacks(&[Load(A), Upgrade(B), Good(A), Bad(B), Bad(B), Bad(B)]), [(6, A)]);
        assert_eq!(comebacks(&[Load(A), Good(A), Upgrade(B), Upgrade(C), Bad(B), Bad(B), Bad(B), Bad(C)]), []);
    }

    #[test]
    fn a_providers_pause_counts_for_nothing() {
        let steps = [Load(A), Good(A), Pause(A), Upgrade(B), Bad(B), Pause(B), Pause(B), Bad(B), Bad(B)];
        assert_eq!(comebacks(&steps), [(9, A)]);
    }

    #[test]
    fn that_the_node_had_doubts_counts_for_nothing() {
        let steps = [Load(A), Good(A), Fenced(A), Upgrade(B), Fenced(B), Fenced(B), Fenced(B), Bad(B), Bad(B), Bad(B)];
        assert_eq!(comebacks(&steps), [(10, A)]);
    }

    #[test]
    fn what_the_operator_goes_back_to_stays() {
        let steps = [Load(A), Good(A), Upgrade(B), Good(B), Rollback(A), Bad(A), Bad(A), Bad(A), Bad(A)];
        assert_eq!(comebacks(&steps), []);
    }

    #[test]
    fn the_same_version_again_is_no_trial() {
        assert_eq!(comebacks(&[Load(A), Good(A), Upgrade(A), Bad(A), Bad(A), Bad(A)]), []);
    }
}
