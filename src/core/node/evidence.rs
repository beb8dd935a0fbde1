//! Why a member is suspected or down, in words that people read: what membership keeps, with the wall clock's times.

use super::Node;
use crate::membership::{Accuser, Suspicion};
use crate::name::NodeName;
use crate::status::{AccuserStatus, Evidence};
use crate::time::{Instant, Now, Wall};

/// The wall clock's time of `at`, as it was `now`.
fn rfc3339(now: Now, at: Instant) -> String {
    let ms = |at: Instant| u64::try_from(at.since_origin().as_millis()).unwrap_or(u64::MAX);
    Wall(now.wall.0.saturating_sub(ms(now.at).saturating_sub(ms(at)))).rfc3339()
}

impl Node {
    /// What is held against a member. Nothing if it is neither suspected nor down.
    pub(super) fn evidence(&self, now: Now, name: &NodeName) -> Option<Evidence> {
        if let Some(verdict) = self.membership.verdict(name) {
            let said = if verdict.is_own { "own" } else { "heard" };
            let waited = verdict.suspicion.as_ref().map(|held| verdict.since.since(held.since).as_millis());
            return Some(Evidence {
                down_since: Some(rfc3339(now, verdict.since)),
                suspected_ms: waited.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
                verdict: Some(said.into()),
                ..verdict.suspicion.as_ref().map_or_else(Evidence::default, |held| suspected(now, held))
            });
        }
        self.membership.suspicion(name).map(|held| suspected(now, held))
    }
}

fn suspected(now: Now, held: &Suspicion) -> Evidence {
    let accuser = |Accuser { name, since, probe }: &Accuser| AccuserStatus {
        name: name.to_string(),
        since: rfc3339(now, *since),
        probe: if probe.asked == 0 { "direct" } else { "indirect" }.into(),
        asked: probe.asked,
    };
    Evidence {
        suspected_since: Some(rfc3339(now, held.since)),
        accusers: held.accusers.iter().map(accuser).collect(),
        ..Evidence::default()
    }
}
