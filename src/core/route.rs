//! The ways a message may come, so that its answer goes back the same way.
//!
//! Gossip travels as datagrams. What must not get lost, and what asks whether a member lives although no datagram gets
//! through, travels as frames on a short-lived TCP connection to the same address. Values only: the node uses them.

use std::net::SocketAddr;

/// A TCP connection, by a number that whoever opened it gave it. It is never given twice in one life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Connection {
    /// The node asked for it.
    Dialed(u64),
    /// A peer opened it; the number is the shell's.
    Accepted(u64),
}

/// How a message came, or is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// As a datagram, from or to this address.
    Datagram(SocketAddr),
    /// As a frame on a connection.
    Stream {
        /// Which.
        connection: Connection,
        /// Who is at its other end. For a connection that a peer opened, this is not where it gossips.
        peer: SocketAddr,
    },
}

impl Route {
    /// Who is at the other end.
    pub const fn peer(self) -> SocketAddr {
        match self {
            Self::Datagram(peer) | Self::Stream { peer, .. } => peer,
        }
    }

    /// Where the other end may be asked something new, if this route tells.
    pub const fn dialable(self) -> Option<SocketAddr> {
        match self {
            Self::Datagram(peer) | Self::Stream { connection: Connection::Dialed(_), peer } => Some(peer),
            Self::Stream { connection: Connection::Accepted(_), .. } => None,
        }
    }

    /// The connection, if there is one.
    pub const fn connection(self) -> Option<Connection> {
        match self {
            Self::Datagram(_) => None,
            Self::Stream { connection, .. } => Some(connection),
        }
    }
}

impl From<SocketAddr> for Route {
    fn from(address: SocketAddr) -> Self {
        Self::Datagram(address)
    }
}
