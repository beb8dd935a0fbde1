//! The virtual network: what becomes of each datagram, drawn from the simulation's seed.
//!
//! A datagram's fate is settled when it is sent: lost, cut off, or due at the other end at a later instant, once or twice.
//! Cuts have a direction; a partition is one for each side. Ended cuts are remembered for a while, since a verdict that they
//! caused may come after them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picored_core::time::Instant;
use rand::RngExt;
use rand::rngs::StdRng;

/// A cut, an outage or a pause that was no longer than this excuses no verdict: a cluster has to bear it.
pub(crate) const BEARABLE: Duration = Duration::from_secs(3);
/// What a longer one brought about may be said for so long after its end: by then, everything has to be healed.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// What the network does to every datagram.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Which share is lost, from 0 to 1.
    pub loss: f64,
    /// How long each takes at least.
    pub delay: Duration,
    /// How much longer it takes at most, evenly distributed.
    pub jitter: Duration,
    /// Which share arrives twice, from 0 to 1.
    pub duplicate: f64,
    /// Which share is held back, so that later ones overtake it, from 0 to 1.
    pub reorder: f64,
    /// For how long these are held back at most.
    pub held_back: Duration,
}

impl Default for Conditions {
    /// One site: nothing is lost, and each takes 0.1 to 3 ms.
    fn default() -> Self {
        Self {
            loss: 0.0,
            delay: Duration::from_micros(100),
            jitter: Duration::from_micros(2900),
            duplicate: 0.0,
            reorder: 0.0,
            held_back: Duration::from_millis(50),
        }
    }
}

/// Datagrams by fate. Each that was offered is dropped, delivered, unclaimed, or still on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// How many were sent; one that arrives twice counts twice.
    pub offered: u64,
    /// Lost, cut off, or too many for a machine that stood still.
    pub dropped: u64,
    /// How many a node was given.
    pub delivered: u64,
    /// Nobody was there.
    pub unclaimed: u64,
    /// Bytes of all that were sent, without the headers of UDP and IP.
    pub bytes: u64,
}

/// What a packet belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Datagram,
    Stream,
}

/// Names one cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutId(u64);

struct Cut {
    id: CutId,
    from: Vec<bool>,
    to: Vec<bool>,
    began: Instant,
    ended: Option<Instant>,
}

impl Cut {
    fn blocks(&self, from: usize, to: usize) -> bool {
        let has = |side: &[bool], machine: usize| side.get(machine).copied().unwrap_or(false);
        has(&self.from, from) && has(&self.to, to)
    }

    fn is_excuse(&self, now: Instant) -> bool {
        let until = self.ended.unwrap_or(now);
        until.since(self.began) > BEARABLE && now.since(until) <= GRACE
    }
}

fn side(machines: impl IntoIterator<Item = usize>) -> Vec<bool> {
    let mut side = Vec::new();
    for machine in machines {
        if side.len() <= machine {
            side.resize(machine + 1, false);
        }
        side[machine] = true;
    }
    side
}

/// The network between the machines.
#[derive(Default)]
pub struct Network {
    /// What it does to every datagram from now on.
    pub conditions: Conditions,
    /// Machines whose datagrams take so much longer, each way.
    pub slow: BTreeMap<usize, Duration>,
    /// Machines that no datagram leaves or reaches: TCP alone gets through.
    pub no_datagrams: BTreeSet<usize>,
    /// Whether nothing but datagrams gets through.
    pub no_streams: bool,
    pub(crate) packets: Packets,
    cuts: Vec<Cut>,
    ended: Vec<Cut>,
    next_cut: u64,
}

impl Network {
    /// What became of the datagrams so far.
    pub fn packets(&self) -> Packets {
        self.packets
    }

    /// When a packet of `len` bytes arrives that is sent now; not at all, once or twice.
    pub(crate) fn carry(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        (from, to): (usize, Option<usize>),
        kind: Kind,
        len: usize,
    ) -> [Option<Instant>; 2] {
        // The draws are the same whatever comes of them, so that a small change in one place stays one.
        let (loss, twice, held): (f64, f64, f64) = (rng.random(), rng.random(), rng.random());
        let conditions = &self.conditions;
        let times = if twice < conditions.duplicate { 2 } else { 1 };
        self.packets.offered += times;
        self.packets.bytes += len as u64 * times;
        let is_cut = to.is_some_and(|to| !self.reaches(from, to));
        let is_barred = match kind {
            Kind::Datagram => [Some(from), to].into_iter().flatten().any(|end| self.no_datagrams.contains(&end)),
            Kind::Stream => self.no_streams,
        };
        if is_cut || is_barred || loss < conditions.loss {
            self.packets.dropped += times;
            return [None, None];
        }
        let late = [Some(from), to].into_iter().flatten().filter_map(|machine| self.slow.get(&machine)).sum();
        let held = if held < conditions.reorder { conditions.held_back.mul_f64(rng.random()) } else { Duration::ZERO };
        let mut arrival = || now + conditions.delay + conditions.jitter.mul_f64(rng.random()) + held + late;
        let first = arrival();
        [Some(first), (times == 2).then(arrival)]
    }

    /// Whether datagrams get from one machine to another.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || !self.cuts.iter().any(|cut| cut.blocks(from, to))
    }

    /// Lets nothing through from the one machines to the others, until it is mended.
    pub(crate) fn cut(
        &mut self,
        now: Instant,
        from: impl IntoIterator<Item = usize>,
        to: impl IntoIterator<Item = usize>,
    ) -> CutId {
        let id = CutId(self.next_cut);
        self.next_cut += 1;
        self.cuts.push(Cut { id, from: side(from), to: side(to), began: now, ended: None });
        id
    }

    pub(crate) fn mend(&mut self, now: Instant, ids: &[CutId]) {
        self.ended.retain(|cut| cut.is_excuse(now));
        let mended = self.cuts.extract_if(.., |cut| ids.contains(&cut.id));
        self.ended.extend(mended.map(|cut| Cut { ended: Some(now), ..cut }));
    }

    /// Whether a cut between the two, in either direction, explains that one takes the other for dead.
    pub(crate) fn excuses(&self, now: Instant, a: usize, b: usize) -> bool {
        let mut cuts = self.cuts.iter().chain(&self.ended);
        cuts.any(|cut| (cut.blocks(a, b) || cut.blocks(b, a)) && cut.is_excuse(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn send(network: &mut Network, rng: &mut StdRng, count: u64) -> Vec<Instant> {
        (0..count).flat_map(|_| network.carry(at(0), rng, (0, Some(1)), Kind::Datagram, 100)).flatten().collect()
    }

    #[test]
    fn what_is_asked_for_is_what_happens() {
        let mut rng = StdRng::seed_from_u64(1);
        let conditions = Conditions { loss: 0.2, duplicate: 0.1, ..Conditions::default() };
        let mut network = Network { conditions, ..Network::default() };
        let arrived = send(&mut network, &mut rng, 10_000);
        let packets = network.packets();
        assert!((10_900..11_100).contains(&packets.offered), "{packets:?}");
        assert!((2100..2300).contains(&packets.dropped), "{packets:?}");
        assert_eq!(packets.offered, packets.dropped + arrived.len() as u64);
        assert!(arrived.iter().all(|at| (100..=3000).contains(&at.since_origin().as_micros())));
    }

    #[test]
    fn some_are_overtaken_and_a_slow_machine_is_slow_both_ways() {
        let mut rng = StdRng::seed_from_u64(1);
        let conditions = Conditions { reorder: 0.1, ..Conditions::default() };
        let mut network = Network { conditions, ..Network::default() };
        let late = send(&mut network, &mut rng, 1000).iter().filter(|arrival| **arrival > at(3)).count();
        assert!((70..130).contains(&late), "{late}");
        network.slow.insert(1, Duration::from_secs(3));
        for ends in [(0, Some(1)), (1, Some(0))] {
            let [arrival, _] = network.carry(at(0), &mut rng, ends, Kind::Datagram, 100);
            assert!(arrival.unwrap() >= at(3000));
        }
    }

    #[test]
    fn a_cut_has_a_direction_and_an_end_and_excuses_for_a_while() {
        let mut network = Network::default();
        let cut = network.cut(at(0), [0, 1], [2]);
        assert!(!network.reaches(0, 2) && network.reaches(2, 0) && network.reaches(0, 1));
        assert!(!network.excuses(at(2500), 2, 0), "a cluster bears that");
        assert!(network.excuses(at(3500), 2, 0) && !network.excuses(at(3500), 0, 1));
        network.mend(at(4000), &[cut]);
        assert!(network.reaches(0, 2) && network.excuses(at(60_000), 0, 2) && !network.excuses(at(64_001), 0, 2));
    }
}
