//! What nodes say to each other inside the envelope. The order of the variants is the wire format: add at the end only.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::name::NodeName;
use crate::receipt::Receipt;
use crate::record::{Record, Version};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A packet of foca's.
    Gossip(Vec<u8>),
    /// To a seed that is known by address only: who are you? This is who I am.
    Hello {
        /// Comes back with the answer.
        nonce: u64,
        /// The sender.
        identity: Identity,
    },
    /// The answer to a hello.
    Welcome {
        /// The hello's.
        nonce: u64,
        /// Who answers.
        identity: Identity,
    },
    /// The answer to a hello from a node whose name another live node has.
    NameTaken {
        /// The hello's.
        nonce: u64,
        /// Where the other node is.
        holder: SocketAddr,
    },
    /// To a sender that was not known before: answer this, so that I know that you are not a recording.
    Challenge {
        /// Comes back with the answer.
        nonce: u64,
    },
    /// The answer to a challenge.
    Response {
        /// The challenge's.
        nonce: u64,
    },
    /// What the sender holds, as versions.
    Digest(Digest),
    /// What the receiver's digest lacked.
    Entries(Vec<Entry>),
    /// To a member that the sender suspects: say that you are there.
    Suspected {
        /// Whom.
        identity: Identity,
        /// The incarnation that is suspected.
        incarnation: u16,
    },
    /// What the sender holds, in hashes of parts; by name, without a gap.
    Summary(Vec<Part>),
    /// Where the receiver's summary differs from what the sender holds: ranges from and to a name, both included; `None`
    /// is the end of all names.
    Differing(Vec<(Option<NodeName>, Option<NodeName>)>),
    /// To a node that looks for its cluster: what was published last.
    Receipts {
        /// In some scopes.
        told: Vec<Receipt>,
        /// In the first message.
        rest: Option<Rest>,
    },
}

/// What a node that looks for its cluster has to know besides receipts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Of so many scopes the sender knows what was published last.
    pub known: u16,
    /// Where members were whom the sender has not seen since it started, if it sees no majority.
    pub unseen: Vec<SocketAddr>,
}

impl Message {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a message has no type that postcard refuses")
    }

    /// Reads a message; all of the bytes must belong to it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Some(message),
            _ => None,
        }
    }
}

/// How many bytes a part of a message takes.
pub fn encoded_len(part: &impl Serialize) -> usize {
    postcard::to_stdvec(part).map_or(usize::MAX, |bytes| bytes.len())
}

/// The versions of all that the sender holds about the nodes in a range of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// From this name on; `None`: from the first.
    pub from: Option<NodeName>,
    /// Up to this name, itself included; `None`: to the last.
    pub to: Option<NodeName>,
    /// Whether the receiver shall answer with its own digest of the range.
    pub reply: bool,
    /// Whether the sender has found its cluster.
    pub joined: bool,
    /// By name.
    pub lines: Vec<DigestLine>,
}

/// What the sender holds about one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestLine {
    /// The node.
    pub node: NodeName,
    /// What foca knows of it.
    pub standing: Option<Standing>,
    /// The version of its record.
    pub record: Option<Version>,
}

/// All that the sender holds of the names behind those of the part before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Up to this name, itself included; `None`: to the last.
    pub to: Option<NodeName>,
    /// The beginning of the SHA-256 of its lines.
    pub hash: u64,
}

/// What foca knows of a member, in the order in which knowledge overrides knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    /// A later life overrides an earlier one.
    pub generation: u64,
    /// Down is final within a life.
    pub down: bool,
    /// The member's own counter of refutals.
    pub incarnation: u16,
    /// Suspicion overrides life in the same incarnation.
    pub suspect: bool,
}

/// All that the sender holds about one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who it is and how it stands.
    pub member: Option<(Identity, Standing)>,
    /// Its record.
    pub record: Option<Record>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standings_are_ordered_as_swim_overrides() {
        let standing = |generation, down, incarnation, suspect| Standing { generation, down, incarnation, suspect };
        // SWIM (Das et al. 2002), section 4.2: alive < suspect within an incarnation, a higher incarnation overrides
        // both, and down overrides every incarnation. A later life overrides even that.
        let order = [
            standing(1, false, 0, false),
            standing(1, false, 0, true),
            standing(1, false, 1, false),
            standing(1, false, 1, true),
            standing(1, true, 0, false),
            standing(2, false, 0, false),
        ];
        assert!(order.is_sorted() && order.windows(2).all(|w| w[0] != w[1]));
    }

    /// One message of each kind, in the order of the format.
    fn one_of_each() -> Vec<Message> {
        let name = |text: &str| NodeName::new(text).unwrap();
        let address = "203.0.113.5:7946".parse().unwrap();
        let identity = Identity { name: name("web1"), generation: 1_700_000_000_000, address };
        let standing = Standing { generation: 1_700_000_000_000, down: false, incarnation: 3, suspect: true };
        let line = DigestLine { node: name("web1"), standing: Some(standing), record: Some((1_700_000_000_000, 7)) };
        let (from, to) = (Some(name("web1")), None);
        let record = crate::record::tests::record("web1", 1_700_000_000_000, 7, crate::record::AppState::Up);
        vec![
            Message::Gossip(vec![1, 2, 3]),
            Message::Hello { nonce: 7, identity: identity.clone() },
            Message::Welcome { nonce: 7, identity: identity.clone() },
            Message::NameTaken { nonce: 7, holder: "[2001:db8::1]:7946".parse().unwrap() },
            Message::Challenge { nonce: u64::MAX },
            Message::Response { nonce: 0 },
            Message::Digest(Digest { from, to, reply: true, joined: false, lines: vec![line] }),
            Message::Entries(vec![Entry { member: Some((identity.clone(), standing)), record: Some(record) }]),
            Message::Suspected { identity, incarnation: 3 },
            Message::Summary(vec![Part { to: Some(name("web1")), hash: 1 }, Part { to: None, hash: u64::MAX }]),
            Message::Differing(vec![(None, Some(name("web1"))), (Some(name("web2")), None)]),
            Message::Receipts {
                told: vec![crate::receipt::tests::receipt("web1", 1_700_000_000_000)],
                rest: Some(Rest { known: 1, unseen: vec![address] }),
            },
        ]
    }

    #[test]
    fn a_later_version_still_reads_these() {
        let hex = |message: &Message| message.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let messages = one_of_each();
        assert!(messages.iter().all(|message| Message::decode(&message.encode()).as_ref() == Some(message)));
        let lines: Vec<_> = messages.iter().map(hex).collect();
        // If this changes, the envelope's version byte must.
        assert_eq!(lines.join("\n"), include_str!("golden/messages-3.hex").trim());
    }

    #[test]
    fn messages_survive_the_wire_and_trailing_bytes_do_not() {
        let message = Message::Hello {
            nonce: 7,
            identity: Identity {
                name: NodeName::new("web1").unwrap(),
                generation: 9,
                address: "[2001:db8::1]:7946".parse().unwrap(),
            },
        };
        let mut bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Some(message));
        for len in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..len]), None, "cut to {len}");
        }
        bytes.push(0);
        assert_eq!(Message::decode(&bytes), None);
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // Variant 0 (Gossip) that claims 2^60 bytes.
        assert_eq!(Message::decode(&[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]), None);
    }
}
