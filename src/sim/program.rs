//! What a machine runs: a node of picored, or foca as it comes. Both are driven alike and say the same kinds of things.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use picored_core::config::Seed;
use picored_core::identity::Identity;
use picored_core::node::{Input, Node, Output, Settings};
use picored_core::time::{Instant, Now};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::bare::Bare;
use crate::template::node_name;

/// Which program the machines run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum System {
    /// Nodes of picored.
    #[default]
    Picored,
    /// Foca with its own configuration, and nothing of picored's.
    Foca,
}

pub(crate) enum Program {
    Node(Box<Node>),
    Bare(Box<Bare>),
}

impl Program {
    /// Starts it in a cluster that will have `size` members.
    pub(crate) fn start(system: System, now: Now, settings: Settings, size: usize) -> Self {
        if system == System::Picored {
            let node = Node::new(now, settings).expect("what a machine says of itself fits into a datagram");
            return Self::Node(Box::new(node));
        }
        let Settings { name, boot: generation, advertise: address, profile, seeds, random, .. } = settings;
        let seed = |(index, seed): (usize, &Seed)| match seed {
            Seed::Address(address) => Some(Identity { name: node_name(index), generation: 0, address: *address }),
            Seed::Name(..) => None,
        };
        let seeds = seeds.iter().enumerate().filter_map(seed).collect();
        let size = u32::try_from(size).ok().and_then(NonZeroU32::new).expect("from one to four thousand million");
        let identity = Identity { name, generation, address };
        Self::Bare(Box::new(Bare::new(now.at, identity, profile, size, seeds, StdRng::from_seed(random))))
    }

    pub(crate) fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Bare(_) => None,
        }
    }

    pub(crate) fn node_mut(&mut self) -> Option<&mut Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Bare(_) => None,
        }
    }

    pub(crate) fn handle_datagram(&mut self, now: Now, from: SocketAddr, data: Vec<u8>) {
        match self {
            Self::Node(node) => node.handle(now, Input::Datagram { from, data }),
            Self::Bare(bare) => bare.handle_datagram(now, &data),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) {
        match self {
            Self::Node(node) => node.handle_timeout(now),
            Self::Bare(bare) => bare.handle_timeout(now),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Node(node) => node.poll_timeout(),
            Self::Bare(bare) => bare.poll_timeout(),
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Node(node) => node.poll_output(),
            Self::Bare(bare) => bare.poll_output(),
        }
    }

    /// The names of the members that it holds to be there, itself left out.
    pub(crate) fn sees(&self, own: &str) -> Vec<String> {
        match self {
            Self::Node(node) => {
                let there = |state: &str| matches!(state, "alive" | "suspect");
                let members = node.status().members.into_iter();
                members.filter(|it| there(&it.state) && it.name != own).map(|it| it.name).collect()
            }
            Self::Bare(bare) => bare.active().map(|identity| identity.name.to_string()).collect(),
        }
    }
}
