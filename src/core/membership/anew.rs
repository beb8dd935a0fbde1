//! The way back of a node that was cut off: what it held of others while it was alone is forgotten, before it spreads.
//!
//! Down is final in SWIM. A node whose cable was out holds the living for dead, and who believes it would take them for
//! dead too. So when it hears of one of them again it begins anew: foca is made anew, with those that are active and a
//! new identity, as the others hold the old one for dead. Those of which it hears nothing it then remembers as down, but
//! does not tell.

use foca::{AccumulatingRuntime, Foca, Identity as _, Member, PostcardCodec, State};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Membership;
use super::suspicion::Suspicions;
use crate::broadcast::Broadcasts;
use crate::defences::Defence;
use crate::identity::Identity;
use crate::stale::Stale;
use crate::time::{Instant, TimerQueue};

impl Membership {
    /// Whether this node holds most others for dead, and so may be the one that is wrong.
    pub fn set_cut_off(&mut self, is_cut_off: bool) {
        self.is_cut_off = is_cut_off;
    }

    /// The cluster took this node for dead while it held most others for dead: foca has a new identity, but would spread
    /// its old verdicts under it. Of that nothing is sent.
    pub(super) fn begin_anew_if_needed(&mut self, now: Instant, sent_before: usize) {
        if std::mem::take(&mut self.shall_begin_anew) && self.defences.has(Defence::BeginningAnew) {
            self.sends.truncate(sent_before);
            self.begin_anew(now);
        }
    }

    /// Forgets its own verdicts, and takes a new identity. What was to be spread is forgotten with them: the caller says
    /// anew what it has to say of itself.
    pub fn begin_anew(&mut self, now: Instant) {
        let renewed = self.identity().renew().filter(|_| self.defences.has(Defence::BeginningAnew));
        let Some(identity) = renewed else { return };
        let own = identity.name.clone();
        let rng = StdRng::from_rng(&mut self.rng);
        let (broadcasts, news) = Broadcasts::new(own.clone());
        let config = self.foca_config(self.sized_for);
        let foca = Foca::with_custom_broadcast(identity, config, rng, PostcardCodec, broadcasts);
        let before = std::mem::replace(&mut self.foca, foca);
        (self.runtime, self.timers, self.news) = (AccumulatingRuntime::new(), TimerQueue::default(), news);
        (self.round, self.probe, self.under_way, self.failed) = (None, None, None, None);
        (self.suspicions, self.incarnation) = (Suspicions::default(), 0);
        let is_down = |member: &&Member<Identity>| member.state() == State::Down && member.id().name != own;
        self.unsure.extend(before.iter_membership_state().filter(is_down).map(|member| member.id().clone()));
        let _ = self.foca.apply_many(before.iter_members().cloned(), false, &mut self.runtime);
        // Those that were cut off with it shall not hear first that its old identity is dead.
        let _ = self.foca.gossip(&mut self.runtime);
        (self.changes.members, self.changes.rejoined) = (Stale::All, true);
        self.collect(now);
        // They were known all the time.
        self.changes.returned.clear();
        self.look_at_suspects(now);
    }

    /// Those that this node is not sure of and knows nothing better of.
    pub(super) fn unsure(&self) -> impl Iterator<Item = &Identity> {
        let is_known = |identity: &Identity| self.foca.iter_membership_state().any(|it| it.id().name == identity.name);
        self.unsure.iter().filter(move |identity| !is_known(identity))
    }

    /// Nobody is waited for any longer: those that nothing was heard of are down.
    pub fn end_doubt(&mut self, now: Instant) {
        let down: Vec<_> = self.unsure().cloned().map(|identity| Member::new(identity, 0, State::Down)).collect();
        self.unsure.clear();
        let _ = self.foca.apply_many(down.into_iter(), false, &mut self.runtime);
        self.changes.members = Stale::All;
        self.collect(now);
    }
}
