//! What picored adds to foca so that membership does not lie, each by a name, so that the simulator can take one out and
//! show what it is good for.
//!
//! In a daemon all of them stand, and this is nothing at all: only the feature `controls`, which the simulator's tests
//! alone ask for, lets one be missing.

/// One thing that keeps this node's view true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defence {
    /// Foca's own verdicts, and its word of death to who has refuted in time, are dropped.
    ObituaryFilter,
    /// Suspects are told once a second, so that they can refute.
    BuddyNotice,
    /// A node that does badly itself waits longer for others.
    LocalHealth,
    /// A suspect is asked over TCP before the verdict.
    Question,
    /// Who was cut off forgets what it held of others.
    BeginningAnew,
    /// Every update is sent ten times at least.
    Transmissions,
    /// No verdict right after this process stood still.
    StallPostponement,
    /// Members and seeds that are missing are greeted now and then.
    Greeting,
    /// Views are compared with one member now and then, and with each that returns.
    Exchange,
}

impl Defence {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ObituaryFilter,
        Self::BuddyNotice,
        Self::LocalHealth,
        Self::Question,
        Self::BeginningAnew,
        Self::Transmissions,
        Self::StallPostponement,
        Self::Greeting,
        Self::Exchange,
    ];
}

/// Those that stand: all of them, unless the simulator took one out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defences {
    #[cfg(feature = "controls")]
    missing: Option<Defence>,
}

impl Defences {
    /// Whether it stands.
    pub(crate) fn has(self, defence: Defence) -> bool {
        #[cfg(feature = "controls")]
        return self.missing != Some(defence);
        #[cfg(not(feature = "controls"))]
        {
            let _ = defence;
            true
        }
    }

    /// All but one.
    #[cfg(feature = "controls")]
    pub const fn without(defence: Defence) -> Self {
        Self { missing: Some(defence) }
    }
}
