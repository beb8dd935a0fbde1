//! The gossip port: UDP and TCP, IPv4 and IPv6. It moves bytes and judges nothing.
//!
//! Datagrams go through [`Socket`], frames through [`Streams`]. A socket bound to an IPv6 address sees IPv4 peers as mapped addresses; here, and only here, they are turned into what
//! they are and back. Used by the driver.

mod frame;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use picored_core::envelope::MAX_DATAGRAM;
use tokio::net::{TcpListener, UdpSocket};

pub use self::stream::Streams;

/// Ports are many and nearly all free: a few tries find one that is free for both.
const TRIES: usize = 16;

/// One of the two cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{transport}: {error}")]
pub struct BindError {
    /// `UDP` or `TCP`.
    pub transport: &'static str,
    /// Why.
    pub error: io::Error,
}

/// Binds UDP and TCP to one port of `address`; port 0 takes one that is free for both.
///
/// # Errors
/// If one of them is taken, or the address is not this machine's.
pub async fn bind_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener), BindError> {
    let failed = |transport| move |error| BindError { transport, error };
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).await.map_err(failed("UDP"))?;
        let bound = udp.local_addr().map_err(failed("UDP"))?;
        tries -= 1;
        match TcpListener::bind(bound).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse || tries == 0 => return Err(failed("TCP")(error)),
            Err(_) => {}
        }
    }
}

/// A bound gossip socket.
#[derive(Debug)]
pub struct Socket {
    udp: UdpSocket,
    is_v6: bool,
}

impl Socket {
    /// Gossips through `udp`.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub async fn new(udp: UdpSocket) -> io::Result<Self> {
        // Until this was waited for once, nothing would be sent.
        udp.writable().await?;
        let is_v6 = udp.local_addr()?.is_ipv6();
        Ok(Self { udp, is_v6 })
    }

    /// Where it is bound.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Sends a datagram, or drops it: the network may drop it as well, and nothing is owed.
    pub fn send(&self, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        let to = match to.ip() {
            IpAddr::V4(ip) if self.is_v6 => SocketAddrV6::new(ip.to_ipv6_mapped(), to.port(), 0, 0).into(),
            _ => to,
        };
        self.udp.try_send_to(data, to).map(drop)
    }

    /// Waits until there may be something to take.
    pub async fn readable(&self) -> io::Result<()> {
        self.udp.readable().await
    }

    /// Takes a datagram that is there: where it came from and its bytes. A longer one than any picored sends comes cut,
    /// one byte longer than allowed, so that it is refused for its length.
    pub fn take(&self) -> io::Result<(SocketAddr, Vec<u8>)> {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        let (len, from) = self.udp.try_recv_from(&mut buffer)?;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        Ok((from, buffer[..len].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(address: &str) -> Socket {
        Socket::new(UdpSocket::bind(address).await.unwrap()).await.unwrap()
    }

    async fn pass(from: &Socket, to: SocketAddr, at: &Socket, data: &[u8]) -> (SocketAddr, Vec<u8>) {
        from.send(to, data).unwrap();
        loop {
            at.readable().await.unwrap();
            match at.take() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return taken.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_v6_socket_talks_to_both_families_under_their_own_names() {
        let both = bind("[::]:0").await;
        let port = both.local_address().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            let peer = Socket::new(UdpSocket::bind((ip, 0)).await.unwrap()).await.unwrap();
            let address = peer.local_address().unwrap();
            let (from, data) = pass(&peer, SocketAddr::new(ip.parse().unwrap(), port), &both, b"there").await;
            assert_eq!((from, data.as_slice()), (address, &b"there"[..]));
            let (_, data) = pass(&both, from, &peer, b"and back").await;
            assert_eq!(data, b"and back");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_stays_too_long() {
        let socket = bind("127.0.0.1:0").await;
        let address = socket.local_address().unwrap();
        let (_, data) = pass(&socket, address, &socket, &[7; 9000]).await;
        assert_eq!(data.len(), MAX_DATAGRAM + 1);
    }
}
