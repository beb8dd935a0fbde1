//! By whom a set is published, and how sets are named.
//!
//! One node runs each scope of a handler: the first by rendezvous hash (Thaler and Ravishankar, 1998), so that a node that
//! comes or goes moves its own share only, and all who see the same members agree without a word.

use std::fmt::Write as _;

use ring::digest;

use crate::name::{HandlerName, NodeName};
use crate::snapshot::Endpoint;

/// Names a set: equal if and only if the endpoints are equal, in order.
pub fn revision(endpoints: &[Endpoint]) -> String {
    let mut text = String::new();
    for Endpoint { member, address, port } in endpoints {
        let _ = writeln!(text, "{member} {address} {port}");
    }
    short_hash(text.as_bytes())
}

/// The first 16 hexadecimal digits of SHA-256.
pub fn short_hash(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref()[..8].iter().fold(String::with_capacity(16), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Who of `eligible` runs `scope` of `handler`: the one with the highest hash.
pub fn runner<'a>(
    handler: &HandlerName,
    scope: &str,
    eligible: impl Iterator<Item = &'a NodeName>,
) -> Option<&'a NodeName> {
    // A zero byte is in no name: the parts cannot run into each other.
    let score = |node: &NodeName| {
        let text = [handler.as_str(), scope, node.as_str()].join("\0");
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        <[u8; 8]>::try_from(&hash.as_ref()[..8]).expect("SHA-256 has more than 8 bytes")
    };
    eligible.max_by_key(|node| (score(node), *node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn nodes(count: usize) -> Vec<NodeName> {
        (0..count).map(|i| NodeName::new(&format!("web{i}")).unwrap()).collect()
    }
    fn dns() -> HandlerName {
        HandlerName::new("dns").unwrap()
    }
    fn endpoint(member: &str, address: &str) -> Endpoint {
        Endpoint { member: NodeName::new(member).unwrap(), address: address.parse().unwrap(), port: 80 }
    }

    #[test]
    fn all_agree_whatever_the_order() {
        let nodes = nodes(5);
        let forward = runner(&dns(), "www", nodes.iter());
        assert_eq!(forward, runner(&dns(), "www", nodes.iter().rev()));
        assert!(runner(&dns(), "www", [].into_iter()).is_none());
    }

    #[test]
    fn a_node_that_goes_moves_its_own_share_only() {
        let all = nodes(7);
        for scope in (0..200).map(|i| format!("app{i}")) {
            let before = runner(&dns(), &scope, all.iter()).unwrap();
            let without: Vec<_> = all.iter().filter(|node| node.as_str() != "web3").collect();
            let after = runner(&dns(), &scope, without.into_iter()).unwrap();
            assert!(before == after || before.as_str() == "web3", "{scope}");
        }
    }

    #[test]
    fn scopes_are_spread_over_the_nodes() {
        let all = nodes(4);
        let mut share = BTreeMap::new();
        for scope in (0..400).map(|i| format!("app{i}")) {
            *share.entry(runner(&dns(), &scope, all.iter()).unwrap()).or_insert(0) += 1;
        }
        assert!(share.len() == 4 && share.values().all(|count| (60..140).contains(count)), "{share:?}");
    }

    #[test]
    fn revisions_are_equal_exactly_for_equal_sets() {
        let a = [endpoint("a", "192.0.2.1"), endpoint("b", "192.0.2.2")];
        assert_eq!(revision(&a), revision(&a.clone()));
        let mut port = a.clone();
        port[0].port = 81;
        let others = [&a[..1], &[], &[endpoint("a", "192.0.2.2"), endpoint("b", "192.0.2.1")], &port];
        for other in others {
            assert_ne!(revision(&a), revision(other));
        }
    }
}
