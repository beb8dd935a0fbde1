//! What travels along with foca's packets: records, receipts, and accusations of members that do not answer.
//!
//! Foca asks [`Broadcasts`] what of it is news and shall be passed on, and hands nothing back; what came in reaches
//! [`crate::membership`] through a channel, as foca owns its handler and nothing is shared.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::name::NodeName;
use crate::receipt::{MAX_SCOPES, Receipt, Scope};
use crate::record::{MAX_RECORD, MAX_RECORDS, Record, Version};

/// So many accusers of one member are passed on, and remembered: more would hasten nothing.
pub const MAX_ACCUSERS: usize = 4;
/// What an accusation begins with. A record begins with the length of a name, which is never zero.
const ACCUSATION: u8 = 0;
/// What a receipt begins with: longer than any name.
const RECEIPT: u8 = u8::MAX;

/// By what a member was found not to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// So many others were asked to reach it as well, after it had not answered; 0: there was nobody to ask.
    pub asked: u8,
}

/// What a node says whose own probe of a member was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    /// Of whom.
    pub suspect: Identity,
    /// In which incarnation. A higher one refutes it.
    pub incarnation: u16,
    /// Who says so.
    pub accuser: NodeName,
    /// How it found out.
    pub probe: Probe,
}

impl Accusation {
    /// The accusation as bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![ACCUSATION]).expect("an accusation has no type that postcard refuses")
    }

    /// What is accused: a refutal, or a later life, is another.
    fn charge(&self) -> (u64, u16) {
        (self.suspect.generation, self.incarnation)
    }
}

impl Receipt {
    /// The receipt as it travels.
    pub fn to_broadcast(&self) -> Vec<u8> {
        [vec![RECEIPT], self.encode()].concat()
    }
}

/// Something that came in.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// What a node has published.
    Receipt(Receipt),
    /// What a node says of itself.
    Record(Record),
    /// What a node says of another.
    Accusation(Accusation),
}

/// The key of what is passed on: newer word of the same takes the older one's place.
#[derive(Debug)]
pub enum BroadcastKey {
    /// A record.
    Record {
        /// Whose.
        node: NodeName,
        /// Which.
        version: Version,
    },
    /// A receipt.
    Receipt {
        /// Of which scope.
        scope: Scope,
        /// When.
        epoch: u64,
    },
    /// An accusation.
    Accusation {
        /// Of whom.
        suspect: NodeName,
        /// Its life, and the incarnation.
        charge: (u64, u16),
        /// By whom.
        accuser: NodeName,
    },
}

impl foca::Invalidates for BroadcastKey {
    fn invalidates(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Record { node, version }, Self::Record { node: other, version: older }) => {
                node == other && version >= older
            }
            (Self::Receipt { scope, epoch }, Self::Receipt { scope: other, epoch: older }) => {
                scope == other && epoch >= older
            }
            (
                Self::Accusation { suspect, charge, accuser },
                Self::Accusation { suspect: other, charge: older, accuser: earlier },
            ) => suspect == other && (charge > older || (charge == older && accuser == earlier)),
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Accusers {
    charge: (u64, u16),
    names: Vec<NodeName>,
}

/// Foca's side: decides what is passed on.
#[derive(Debug)]
pub struct Broadcasts {
    own: NodeName,
    versions: BTreeMap<NodeName, Version>,
    /// The newest receipt of each scope: when, and whose.
    receipts: BTreeMap<Scope, (u64, NodeName)>,
    accused: BTreeMap<NodeName, Accusers>,
    news: mpsc::Sender<News>,
}

impl Broadcasts {
    /// For the node `own`. What comes in is sent to the receiver.
    pub fn new(own: NodeName) -> (Self, mpsc::Receiver<News>) {
        let (news, receiver) = mpsc::channel();
        (Self { own, versions: BTreeMap::new(), receipts: BTreeMap::new(), accused: BTreeMap::new(), news }, receiver)
    }

    fn receive_record(&mut self, record: Record, is_own_doing: bool) -> Option<BroadcastKey> {
        let known = self.versions.get(&record.node);
        let (is_new, version) = (known.is_none_or(|known| *known < record.version()), record.version());
        let crowded = known.is_none() && self.versions.len() >= MAX_RECORDS;
        if !is_new || crowded {
            return None;
        }
        self.versions.insert(record.node.clone(), version);
        let node = record.node.clone();
        // From a peer: everybody's news. From here: only the own record is news to others; what was learnt by an
        // exchange is noted, so that its broadcast is not taken for news a second time. A leave goes on in any case: foca
        // passes on that the member is gone, and who hears that alone takes it for a failure.
        let pass_on = !is_own_doing || node == self.own || record.leaving.is_some();
        if !is_own_doing {
            // The receiver lives as long as foca does; without it there is nobody to tell.
            let _ = self.news.send(News::Record(record));
        }
        pass_on.then_some(BroadcastKey::Record { node, version })
    }

    /// As with records: what was learnt by an exchange is noted alone. What comes late is not passed on, but that somebody
    /// wrote at about the same time is worth to be known here.
    fn receive_receipt(&mut self, receipt: Receipt, is_own_doing: bool) -> Option<BroadcastKey> {
        let (scope, epoch, node) = (receipt.scope(), receipt.epoch, receipt.node.clone());
        let known = self.receipts.get(&scope);
        let is_new = known.is_none_or(|known| *known < (epoch, node.clone()));
        let crowded = known.is_none() && self.receipts.len() >= MAX_SCOPES;
        if crowded || !receipt.is_sound() {
            return None;
        }
        if !is_new {
            if !is_own_doing && known.is_some_and(|(_, other)| *other != node) {
                let _ = self.news.send(News::Receipt(receipt));
            }
            return None;
        }
        let pass_on = !is_own_doing || node == self.own;
        self.receipts.insert(scope.clone(), (epoch, node));
        if !is_own_doing {
            let _ = self.news.send(News::Receipt(receipt));
        }
        pass_on.then_some(BroadcastKey::Receipt { scope, epoch })
    }

    /// Each accuser is news once, and of those only the first few.
    fn receive_accusation(&mut self, accusation: Accusation, is_own_doing: bool) -> Option<BroadcastKey> {
        let (suspect, charge) = (accusation.suspect.name.clone(), accusation.charge());
        if !self.accused.contains_key(&suspect) && self.accused.len() >= MAX_RECORDS {
            return None;
        }
        let none = Accusers { charge, names: Vec::new() };
        let known = self.accused.entry(suspect.clone()).or_insert(none);
        if known.charge < charge {
            *known = Accusers { charge, names: Vec::new() };
        }
        let accuser = accusation.accuser.clone();
        let is_news = known.charge == charge && !known.names.contains(&accuser) && known.names.len() < MAX_ACCUSERS;
        if !is_news {
            return None;
        }
        known.names.push(accuser.clone());
        if !is_own_doing {
            let _ = self.news.send(News::Accusation(accusation));
        }
        Some(BroadcastKey::Accusation { suspect, charge, accuser })
    }
}

impl foca::BroadcastHandler<Identity> for Broadcasts {
    type Key = BroadcastKey;
    type Error = Infallible;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Identity>) -> Result<Option<BroadcastKey>, Infallible> {
        let is_own_doing = sender.is_none();
        if data.len() > MAX_RECORD {
            return Ok(None);
        }
        // What does not decode is something that a later version sends: not ours to read, nor to pass on.
        Ok(match data {
            [ACCUSATION, data @ ..] => match postcard::take_from_bytes(data) {
                Ok((accusation, [])) => self.receive_accusation(accusation, is_own_doing),
                _ => None,
            },
            [RECEIPT, data @ ..] => match postcard::take_from_bytes(data) {
                Ok((receipt, [])) => self.receive_receipt(receipt, is_own_doing),
                _ => None,
            },
            _ => postcard::from_bytes(data).ok().and_then(|record| self.receive_record(record, is_own_doing)),
        })
    }
}

#[cfg(test)]
mod tests {
    use foca::{BroadcastHandler as _, Invalidates as _};

    use super::*;
    use crate::record::AppState;
    use crate::record::tests::record;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn identity(text: &str, generation: u64) -> Identity {
        Identity { name: name(text), generation, address: "127.0.0.1:1".parse().unwrap() }
    }

    fn accusation(accuser: &str, generation: u64, incarnation: u16) -> Accusation {
        let (suspect, accuser) = (identity("a", generation), name(accuser));
        Accusation { suspect, incarnation, accuser, probe: Probe { asked: 3 } }
    }

    #[test]
    fn broadcasts_pass_on_news_once() {
        let peer = identity("b", 1);
        let (mut broadcasts, news) = Broadcasts::new(name("me"));
        let bytes = record("a", 1, 1, AppState::Up).encode();
        assert!(broadcasts.receive_item(&bytes, Some(&peer)).unwrap().is_some());
        assert!(broadcasts.receive_item(&bytes, Some(&peer)).unwrap().is_none(), "no longer news");
        assert_eq!(news.try_iter().count(), 1);
        // Learnt by an exchange: noted, not passed on, nor handed back.
        assert!(broadcasts.receive_item(&record("c", 1, 1, AppState::Up).encode(), None).unwrap().is_none());
        assert!(broadcasts.receive_item(&record("c", 1, 1, AppState::Up).encode(), Some(&peer)).unwrap().is_none());
        // That a member leaves is passed on however it was learnt.
        let leaving = Record { leaving: Some(1), ..record("d", 1, 2, AppState::Up) };
        assert!(broadcasts.receive_item(&leaving.encode(), None).unwrap().is_some());
        // The own one is broadcast.
        assert!(broadcasts.receive_item(&record("me", 1, 1, AppState::Up).encode(), None).unwrap().is_some());
        assert_eq!(news.try_iter().count(), 0);
    }

    #[test]
    fn receipts_are_passed_on_while_they_are_the_newest() {
        let (mut broadcasts, news) = Broadcasts::new(name("me"));
        let mut take = |node: &str, epoch, from: Option<&Identity>| {
            let data = crate::receipt::tests::receipt(node, epoch).to_broadcast();
            broadcasts.receive_item(&data, from).unwrap().is_some()
        };
        let peer = identity("b", 1);
        assert!(take("a", 5, Some(&peer)) && !take("a", 5, Some(&peer)) && !take("a", 4, Some(&peer)));
        assert!(!take("c", 6, None), "learnt by an exchange");
        assert!(!take("c", 6, Some(&peer)) && take("me", 7, None));
        assert!(!take("d", u64::MAX, Some(&peer)), "no time");
        assert_eq!(news.try_iter().count(), 1);
    }

    #[test]
    fn the_first_few_accusers_are_news_and_a_refutal_begins_anew() {
        let peer = identity("b", 1);
        let (mut broadcasts, news) = Broadcasts::new(name("me"));
        let mut take = |accusation: Accusation| broadcasts.receive_item(&accusation.encode(), Some(&peer)).unwrap();
        assert!(take(accusation("b", 1, 0)).is_some());
        assert!(take(accusation("b", 1, 0)).is_none(), "the same again");
        for accuser in ["c", "d", "e"] {
            assert!(take(accusation(accuser, 1, 0)).is_some());
        }
        assert!(take(accusation("f", 1, 0)).is_none(), "enough is enough");
        assert!(take(accusation("f", 1, 1)).is_some(), "what was refuted may be said anew");
        assert!(take(accusation("g", 1, 0)).is_none(), "and the old charge is over");
        assert_eq!(news.try_iter().last(), Some(News::Accusation(accusation("f", 1, 1))));
    }

    #[test]
    fn garbage_is_neither_taken_nor_passed_on() {
        let (mut broadcasts, news) = Broadcasts::new(name("me"));
        let mut trailing = accusation("b", 1, 0).encode();
        trailing.push(0);
        for data in [&b"\xff\xff\xff\xff"[..], b"x", &[0; 40], &[0], &trailing, &vec![1; MAX_RECORD + 1]] {
            assert!(broadcasts.receive_item(data, Some(&identity("b", 1))).unwrap().is_none());
        }
        assert_eq!(news.try_iter().count(), 0);
    }

    #[test]
    fn newer_word_takes_the_older_ones_place() {
        let key = |node: &str, version| BroadcastKey::Record { node: name(node), version };
        assert!(key("a", (1, 2)).invalidates(&key("a", (1, 1))));
        assert!(!key("a", (1, 1)).invalidates(&key("a", (1, 2))));
        assert!(!key("b", (1, 2)).invalidates(&key("a", (1, 1))));
        let said =
            |accuser: &str, charge| BroadcastKey::Accusation { suspect: name("a"), charge, accuser: name(accuser) };
        assert!(said("b", (1, 1)).invalidates(&said("c", (1, 0))));
        assert!(!said("b", (1, 0)).invalidates(&said("c", (1, 0))), "both count");
        assert!(!said("b", (1, 1)).invalidates(&key("a", (1, 1))));
    }
}
