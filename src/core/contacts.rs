//! Whom this node has met, and how it tells a peer from a recording of one.
//!
//! A sealed datagram proves that the cluster's key was there when it was written, not when. Within a boot of the sender
//! the window of [`crate::envelope`] refuses what was seen; but a node that just started has seen nothing. So the first
//! datagram of each (name, boot) is kept aside and answered with a challenge; the answer proves that the sender lives,
//! and what was kept is then taken. Boots only grow: an earlier one than the confirmed is refused for good.

use std::collections::HashMap;
use std::time::Duration;

use rand::RngExt;

use crate::envelope::{BootKey, Cluster, Refusal, Window};
use crate::name::NodeName;
use crate::route::Route;
use crate::time::Instant;

/// So many confirmed contacts are remembered at most.
const MAX_CONTACTS: usize = 4096;
/// So many strangers wait for their answer at once.
const MAX_STRANGERS: usize = 256;
/// So many datagrams of a stranger are kept until it has answered.
const MAX_KEPT: usize = 4;
/// A challenge may have been lost: after this time the next datagram is answered with another.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// A stranger that has not answered by then is forgotten when room is needed.
const FORGET_STRANGER: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Contact {
    boot: u64,
    key: BootKey,
    window: Window,
}

#[derive(Debug)]
struct Stranger {
    boot: u64,
    key: BootKey,
    window: Window,
    nonce: u64,
    asked: Instant,
    kept: Vec<(Route, Vec<u8>)>,
}

/// What became of a datagram that was proven.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// From a contact: take it.
    Confirmed(NodeName, Vec<u8>),
    /// From a stranger: look at it, but take only what answers a question of this node's own.
    Stranger(NodeName, Vec<u8>),
}

/// All whom this node has met since it started.
#[derive(Debug, Default)]
pub struct Contacts {
    known: HashMap<NodeName, Contact>,
    strangers: HashMap<NodeName, Stranger>,
}

impl Contacts {
    /// Proves a datagram or frame of at most `at_most` bytes, and tells whether its sender is known.
    pub fn open(&mut self, cluster: &Cluster, now: Instant, sealed: &[u8], at_most: usize) -> Result<Opened, Refusal> {
        let envelope = cluster.read_within(sealed, at_most)?;
        let (name, boot, counter) = (envelope.sender.clone(), envelope.boot, envelope.counter);
        if let Some(contact) = self.known.get_mut(&name) {
            if boot < contact.boot {
                return Err(Refusal::Stale);
            }
            if boot == contact.boot {
                if !contact.window.is_new(counter) {
                    return Err(Refusal::Replay);
                }
                let payload = envelope.open(&contact.key)?;
                contact.window.mark(counter);
                return Ok(Opened::Confirmed(name, payload));
            }
        }
        if let Some(stranger) = self.strangers.get_mut(&name).filter(|stranger| stranger.boot == boot) {
            if !stranger.window.is_new(counter) {
                return Err(Refusal::Replay);
            }
            let payload = envelope.open(&stranger.key)?;
            stranger.window.mark(counter);
            return Ok(Opened::Stranger(name, payload));
        }
        let key = cluster.boot_key(&name, boot);
        let payload = envelope.open(&key)?;
        // A recording of an earlier life must not take the place of the living that is about to answer.
        let later_is_asked = |stranger: &Stranger| stranger.boot > boot && now.since(stranger.asked) < FORGET_STRANGER;
        if self.strangers.get(&name).is_some_and(later_is_asked) {
            return Err(Refusal::Stale);
        }
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.retain(|_, stranger| now.since(stranger.asked) < FORGET_STRANGER);
        }
        if self.strangers.len() >= MAX_STRANGERS && !self.strangers.contains_key(&name) {
            return Err(Refusal::Crowded);
        }
        let mut window = Window::default();
        window.mark(counter);
        // `asked` lies in the past, so that the first datagram is answered with a challenge.
        let stranger = Stranger { boot, key, window, nonce: 0, asked: Instant::default(), kept: Vec::new() };
        self.strangers.insert(name.clone(), stranger);
        Ok(Opened::Stranger(name, payload))
    }

    /// Keeps a stranger's payload until it has answered. The nonce of the challenge to send now, if one is due.
    pub fn keep(
        &mut self,
        now: Instant,
        name: &NodeName,
        from: Route,
        payload: Vec<u8>,
        rng: &mut impl RngExt,
    ) -> Option<u64> {
        let stranger = self.strangers.get_mut(name)?;
        if stranger.kept.len() < MAX_KEPT {
            stranger.kept.push((from, payload));
        }
        let first = stranger.nonce == 0;
        // A connection has a challenge of its own: it may be the one way that is open.
        if !first && from.connection().is_none() && now.since(stranger.asked) < ASK_AGAIN {
            return None;
        }
        if first {
            stranger.nonce = rng.random_range(1..=u64::MAX);
        }
        stranger.asked = now;
        Some(stranger.nonce)
    }

    /// A stranger has answered a challenge. If it is the right answer it is a contact from now on, and what was kept of
    /// it is returned to be taken.
    pub fn answer(&mut self, name: &NodeName, nonce: u64) -> Option<Vec<(Route, Vec<u8>)>> {
        let asked = self.strangers.get(name).is_some_and(|stranger| stranger.nonce != 0 && stranger.nonce == nonce);
        if asked { self.confirm(name) } else { None }
    }

    /// A stranger has proven by other means that it lives (it answered this node's own nonce).
    pub fn confirm(&mut self, name: &NodeName) -> Option<Vec<(Route, Vec<u8>)>> {
        if self.known.len() >= MAX_CONTACTS && !self.known.contains_key(name) {
            return None;
        }
        let Stranger { boot, key, window, kept, .. } = self.strangers.remove(name)?;
        self.known.insert(name.clone(), Contact { boot, key, window });
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{ClusterKey, MAX_DATAGRAM, Sealer};
    use crate::name::ClusterName;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    struct Scene {
        cluster: Cluster,
        contacts: Contacts,
        rng: StdRng,
        now: Instant,
    }

    fn scene() -> Scene {
        Scene {
            cluster: Cluster::new(ClusterName::new("c").unwrap(), ClusterKey::new([1; 32])),
            contacts: Contacts::default(),
            rng: StdRng::seed_from_u64(1),
            now: Instant::from_origin(Duration::from_secs(9)),
        }
    }

    impl Scene {
        fn sealer(&self, boot: u64) -> Sealer {
            Sealer::new(&self.cluster, &name(), boot)
        }
        fn open(&mut self, datagram: &[u8]) -> Result<Opened, Refusal> {
            self.contacts.open(&self.cluster, self.now, datagram, MAX_DATAGRAM)
        }
        fn keep(&mut self, payload: &[u8]) -> Option<u64> {
            self.contacts.keep(self.now, &name(), from(), payload.to_vec(), &mut self.rng)
        }
        /// Meets `boot` and confirms it.
        fn meet(&mut self, boot: u64) -> Sealer {
            let mut sealer = self.sealer(boot);
            let datagram = sealer.seal(b"first");
            assert_eq!(self.open(&datagram), Ok(Opened::Stranger(name(), b"first".to_vec())));
            let nonce = self.keep(b"first").unwrap();
            assert_eq!(self.contacts.answer(&name(), nonce), Some(vec![(from(), b"first".to_vec())]));
            sealer
        }
    }

    fn name() -> NodeName {
        NodeName::new("web1").unwrap()
    }
    fn from() -> Route {
        Route::Datagram("127.0.0.1:9".parse().unwrap())
    }

    #[test]
    fn a_stranger_becomes_a_contact_by_answering() {
        let mut scene = scene();
        let mut sealer = scene.meet(5);
        let datagram = sealer.seal(b"x");
        assert_eq!(scene.open(&datagram), Ok(Opened::Confirmed(name(), b"x".to_vec())));
        assert_eq!(scene.open(&datagram), Err(Refusal::Replay));
    }

    #[test]
    fn a_wrong_answer_confirms_nobody() {
        let mut scene = scene();
        let datagram = scene.sealer(5).seal(b"x");
        scene.open(&datagram).unwrap();
        assert_eq!(scene.contacts.answer(&name(), 0), None, "before any challenge");
        let nonce = scene.keep(b"x").unwrap();
        assert_eq!(scene.contacts.answer(&name(), nonce.wrapping_add(1)), None);
        assert!(scene.contacts.answer(&name(), nonce).is_some());
        assert_eq!(scene.contacts.answer(&name(), nonce), None, "an answer counts once");
    }

    #[test]
    fn recordings_of_an_earlier_boot_are_refused() {
        let mut scene = scene();
        let recording = scene.sealer(4).seal(b"old");
        scene.meet(5);
        assert_eq!(scene.open(&recording), Err(Refusal::Stale));
    }

    #[test]
    fn a_recording_played_to_a_fresh_node_does_not_displace_the_living() {
        let mut scene = scene();
        let recording = scene.sealer(4).seal(b"old");
        // Nobody can answer for boot 4: it stays a stranger, and the living boot 5 is met beside it.
        assert!(matches!(scene.open(&recording), Ok(Opened::Stranger(..))));
        assert!(scene.keep(b"old").is_some());
        let mut sealer = scene.meet(5);
        let datagram = sealer.seal(b"x");
        assert!(matches!(scene.open(&datagram), Ok(Opened::Confirmed(..))));
    }

    #[test]
    fn a_recording_does_not_disturb_a_challenge() {
        let mut scene = scene();
        let recording = scene.sealer(4).seal(b"old");
        let datagram = scene.sealer(5).seal(b"x");
        scene.open(&datagram).unwrap();
        let nonce = scene.keep(b"x").unwrap();
        assert_eq!(scene.open(&recording), Err(Refusal::Stale));
        assert!(scene.contacts.answer(&name(), nonce).is_some());
    }

    #[test]
    fn a_restart_is_a_stranger_again_and_the_old_boot_goes_on_until_it_has_answered() {
        let mut scene = scene();
        let mut old = scene.meet(5);
        let datagram = scene.sealer(6).seal(b"x");
        assert!(matches!(scene.open(&datagram), Ok(Opened::Stranger(..))));
        let still = old.seal(b"y");
        assert!(matches!(scene.open(&still), Ok(Opened::Confirmed(..))));
        let nonce = scene.keep(b"x").unwrap();
        scene.contacts.answer(&name(), nonce).unwrap();
        let late = old.seal(b"z");
        assert_eq!(scene.open(&late), Err(Refusal::Stale));
    }

    #[test]
    fn challenges_are_few_and_what_is_kept_is_bounded() {
        let mut scene = scene();
        let mut sealer = scene.sealer(5);
        let mut challenges = 0;
        for _ in 0..100 {
            let datagram = sealer.seal(b"x");
            scene.open(&datagram).unwrap();
            challenges += u32::from(scene.keep(b"x").is_some());
        }
        assert_eq!(challenges, 1);
        scene.now = scene.now + ASK_AGAIN;
        let nonce = scene.keep(b"x").expect("the first challenge may be lost");
        assert_eq!(scene.contacts.answer(&name(), nonce).unwrap().len(), MAX_KEPT);
    }

    #[test]
    fn a_crowd_of_strangers_is_bounded_and_forgotten() {
        let mut scene = scene();
        let stranger = |scene: &mut Scene, i: usize| {
            let who = NodeName::new(&format!("n{i}")).unwrap();
            let datagram = Sealer::new(&scene.cluster, &who, 1).seal(b"x");
            let opened = scene.open(&datagram);
            if opened.is_ok() {
                scene.contacts.keep(scene.now, &who, from(), vec![], &mut scene.rng);
            }
            opened
        };
        for i in 0..MAX_STRANGERS {
            stranger(&mut scene, i).unwrap();
        }
        assert_eq!(stranger(&mut scene, 9999), Err(Refusal::Crowded));
        scene.now = scene.now + FORGET_STRANGER;
        assert!(stranger(&mut scene, 9999).is_ok());
    }
}
