//! How fast membership goes: what a profile sets, and the config of foca that follows from it.
//!
//! Numbers only; [`Membership`](super::Membership) asks for them anew when the cluster's size has changed.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::PeriodicParams;

use crate::config::Profile;

/// Every update is sent this often at least. Foca's own formula gives 1 for two nodes: one lost datagram and the news is
/// gone.
pub(super) const MIN_TRANSMISSIONS: u8 = 10;
/// A member that is down is forgotten after this time.
pub const FORGET_AFTER: Duration = Duration::from_secs(72 * 3600);
/// What one profile sets.
pub(super) struct Tempo {
    pub(super) probe_period: Duration,
    pub(super) probe_rtt: Duration,
    pub(super) suspicion_multiplier: f64,
    pub(super) gossip_period: Duration,
    pub(super) gossip_members: usize,
}

pub(super) const fn tempo(profile: Profile) -> Tempo {
    match profile {
        Profile::Lan => Tempo {
            probe_period: Duration::from_secs(1),
            probe_rtt: Duration::from_millis(500),
            suspicion_multiplier: 3.5,
            gossip_period: Duration::from_millis(200),
            gossip_members: 3,
        },
        Profile::Wan => Tempo {
            probe_period: Duration::from_secs(5),
            probe_rtt: Duration::from_secs(3),
            suspicion_multiplier: 6.0,
            gossip_period: Duration::from_millis(500),
            gossip_members: 4,
        },
        Profile::Local => Tempo {
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(200),
            suspicion_multiplier: 4.0,
            gossip_period: Duration::from_millis(100),
            gossip_members: 3,
        },
        Profile::Fast => Tempo {
            probe_period: Duration::from_millis(350),
            probe_rtt: Duration::from_millis(150),
            suspicion_multiplier: 4.5,
            gossip_period: Duration::from_millis(100),
            gossip_members: 3,
        },
    }
}

/// How long a suspect has to refute that others suspect as well, in a cluster of `nodes`: `multiplier` probe periods up to
/// ten nodes, then a quarter of what memberlist adds (`log10 n`), as a suspect is told directly and answers directly.
pub(super) fn suspicion(tempo: &Tempo, nodes: usize) -> Duration {
    let size = f64::max(1.0, (nodes.max(1) as f64).log10());
    tempo.probe_period.mul_f64(tempo.suspicion_multiplier * (3.0 + size) / 4.0)
}

pub(super) fn config(tempo: &Tempo, nodes: usize, max_packet: usize) -> foca::Config {
    let log = 4.0 * ((nodes + 1) as f64).log10();
    let transmissions = (log as u8).max(MIN_TRANSMISSIONS);
    foca::Config {
        probe_period: tempo.probe_period,
        probe_rtt: tempo.probe_rtt,
        num_indirect_probes: NonZeroUsize::new(3).expect("not zero"),
        max_transmissions: NonZeroU8::new(transmissions).expect("not zero"),
        suspect_to_down_after: suspicion(tempo, nodes),
        remove_down_after: Some(FORGET_AFTER),
        max_packet_size: NonZeroUsize::new(max_packet).expect("an envelope leaves room"),
        notify_down_members: true,
        // Foca answers each announce with all that it knows; the node itself asks, and only where it helps.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: tempo.gossip_period,
            num_members: NonZeroUsize::new(tempo.gossip_members).expect("not zero"),
        }),
    }
}
