//! Who a member is, to foca: its name, its generation, and where it gossips.
//!
//! The name alone is foca's address of a member, so that a node that returns with another IP address is the same member.
//! Of two identities with one name the higher generation wins: a restart replaces what was there before.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::name::NodeName;

/// One life of a member.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Unique in the cluster.
    pub name: NodeName,
    /// Grows with each start of the process and each time the member has to refute its own death.
    pub generation: u64,
    /// Where it gossips.
    pub address: SocketAddr,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}@{}", self.name, self.generation, self.address)
    }
}

impl foca::Identity for Identity {
    /// The name's key: foca compares it with that of each member whenever it hears of one.
    type Addr = u64;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> u64 {
        self.name.key()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.address) > (adversary.generation, adversary.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    fn identity(generation: u64, address: &str) -> Identity {
        Identity { name: NodeName::new("web1").unwrap(), generation, address: address.parse().unwrap() }
    }

    #[test]
    fn the_later_life_wins_wherever_it_is() {
        let (old, new) = (identity(1, "127.0.0.1:9"), identity(2, "127.0.0.1:1"));
        assert!(new.win_addr_conflict(&old));
        assert!(!old.win_addr_conflict(&new));
        assert_eq!(old.addr(), new.addr());
    }

    #[test]
    fn exactly_one_side_wins_a_tie() {
        let (a, b) = (identity(1, "127.0.0.1:1"), identity(1, "127.0.0.2:1"));
        assert_ne!(a.win_addr_conflict(&b), b.win_addr_conflict(&a));
    }

    #[test]
    fn renewal_wins_and_never_wraps() {
        let a = identity(1, "127.0.0.1:1");
        assert!(a.renew().unwrap().win_addr_conflict(&a));
        assert_eq!(identity(u64::MAX, "127.0.0.1:1").renew(), None);
    }
}
