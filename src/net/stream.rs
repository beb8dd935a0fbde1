//! The connections beside the gossip socket: accepted ones, and those that the node asks for. Frames in, frames out, in
//! order; what they mean is the node's affair.
//!
//! A stranger costs little: so many connections in all and from one address, each with a time for its first frame and one
//! for everything, and not a byte is read that the node has not asked for after it saw the frame before. While nobody is
//! connected there is one task, which waits. Used by the driver.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picored_core::envelope::{MAX_DATAGRAM, MAX_FRAME, Refusal};
use picored_core::node::Input;
use picored_core::route::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::frame::{self, Broken, Reader};
use crate::accept::each_connection;

/// So many connections are served at once; more wait.
const CONNECTIONS: usize = 128;
/// So many of them from one address; more are cut off. For IPv6 an address is what one subnet has: its first 64 bits.
const FROM_ONE_ADDRESS: usize = 64;
/// A connection that was opened by a peer has sent its first frame by then.
const FIRST_FRAME: Duration = Duration::from_secs(3);
/// A connection that was asked for is made by then.
const CONNECT: Duration = Duration::from_secs(3);
/// No connection lasts longer.
const AT_MOST: Duration = Duration::from_secs(10);
/// Who was sent something last is given so long to take it.
const LINGER: Duration = Duration::from_secs(1);
/// So many frames and wishes wait for one connection; a peer that takes nothing loses it.
const ORDERS: usize = 64;
/// So many events of all connections wait for the driver.
const EVENTS: usize = 16;
/// Rest after the system could not give us a connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a connection shall do. It ends when there are no more.
#[derive(Debug)]
enum Order {
    Send(Vec<u8>),
    /// Read the next frame, of at most so many bytes.
    Listen(usize),
}

#[derive(Debug)]
enum Event {
    /// A connection that was accepted has sent its first frame.
    Begun(Connection, mpsc::Sender<Order>),
    Ended(Connection),
    Input(Input),
}

/// All connections.
#[derive(Debug)]
pub struct Streams {
    /// Where the node listens.
    local: SocketAddr,
    open: HashMap<Connection, mpsc::Sender<Order>>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    dialed: JoinSet<()>,
    accepting: AbortHandle,
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Streams {
    /// Begins to take connections.
    ///
    /// # Errors
    /// If the listener cannot say where it is.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        let (sender, events) = mpsc::channel(EVENTS);
        let local = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, sender.clone())).abort_handle();
        Ok(Self { local, open: HashMap::new(), events, sender, dialed: JoinSet::new(), accepting })
    }

    /// Waits for what the node has to know.
    pub async fn next(&mut self) -> Input {
        loop {
            let event = self.events.recv().await.expect("this struct has a sender itself");
            if let Some(input) = self.take(event) {
                return input;
            }
        }
    }

    /// What the node has to know already.
    pub fn ready(&mut self) -> Option<Input> {
        loop {
            let event = self.events.try_recv().ok()?;
            if let Some(input) = self.take(event) {
                return Some(input);
            }
        }
    }

    fn take(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Begun(connection, orders) => {
                self.open.insert(connection, orders);
                None
            }
            Event::Ended(connection) => {
                self.open.remove(&connection);
                matches!(connection, Connection::Dialed(_)).then_some(Input::Closed { connection })
            }
            Event::Input(input) => Some(input),
        }
    }

    /// Opens a connection.
    pub fn dial(&mut self, connection: Connection, to: SocketAddr) {
        while self.dialed.try_join_next().is_some() {}
        let (orders, wanted) = mpsc::channel(ORDERS);
        self.open.insert(connection, orders);
        let (local, events) = (self.local, self.sender.clone());
        self.dialed.spawn(async move {
            match timeout(CONNECT, connect(local, to)).await {
                Ok(Ok(stream)) => {
                    let talk = Talk { connection, peer: to, events: events.clone(), at_most: Some(MAX_FRAME) };
                    // However it ends, the node is told that it did.
                    let _ = timeout(AT_MOST, talk.run(stream, Reader::default(), wanted)).await;
                }
                Ok(Err(error)) => tracing::debug!(%to, %error, "connecting"),
                Err(_) => tracing::debug!(%to, "connecting takes too long"),
            }
            let _ = events.send(Event::Ended(connection)).await;
        });
    }

    /// Sends a frame, if the connection is there and takes it.
    pub fn send(&mut self, connection: Connection, data: Vec<u8>) {
        self.order(connection, Order::Send(data));
    }

    /// Reads the next frame, of at most `at_most` bytes.
    pub fn listen(&mut self, connection: Connection, at_most: usize) {
        self.order(connection, Order::Listen(at_most));
    }

    /// Ends a connection when all its frames are sent.
    pub fn close(&mut self, connection: Connection) {
        self.open.remove(&connection);
    }

    fn order(&mut self, connection: Connection, order: Order) {
        if self.open.get(&connection).is_some_and(|orders| orders.try_send(order).is_err()) {
            self.open.remove(&connection);
        }
    }
}

async fn connect(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As its datagrams do, a node's connections come from its own address.
    if !local.ip().is_unspecified() && local.is_ipv4() == to.is_ipv4() {
        socket.bind(SocketAddr::new(local.ip(), 0))?;
    }
    socket.connect(to).await
}

/// How many connections there are from each address.
#[derive(Clone, Debug, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
struct Seat {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    fn seat(&self, peer: IpAddr) -> Option<Seat> {
        let address = match peer {
            IpAddr::V4(_) => peer,
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        };
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(address).or_default();
        if *count >= FROM_ONE_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Seat { guests: self.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guests = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.address);
            }
        }
    }
}

async fn accept(listener: TcpListener, events: mpsc::Sender<Event>) {
    let (guests, numbers) = (Guests::default(), AtomicU64::new(0));
    let serve = |stream: TcpStream| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let (guests, events) = (guests.clone(), events.clone());
        async move {
            // Who is gone already has no address.
            let Ok(peer) = stream.peer_addr() else { return };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let refusal = match guests.seat(peer.ip()) {
                None => Some(Refusal::Crowded),
                Some(_seat) => receive(stream, Connection::Accepted(number), peer, &events).await,
            };
            if let Some(refusal) = refusal {
                let _ = events.send(Event::Input(Input::FrameRefused { from: peer, refusal })).await;
            }
        }
    };
    loop {
        if let Err(error) = each_connection(&listener, CONNECTIONS, serve).await {
            tracing::warn!(%error, "the gossip port cannot take a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Hears a connection that a peer opened. Why it was cut off, if it was and the node does not know.
async fn receive(
    mut stream: TcpStream,
    connection: Connection,
    peer: SocketAddr,
    events: &mpsc::Sender<Event>,
) -> Option<Refusal> {
    let mut reader = Reader::default();
    let data = match timeout(FIRST_FRAME, reader.next(&mut stream, MAX_DATAGRAM)).await {
        Ok(Ok(Some(data))) => data,
        Ok(Err(Broken::Length)) => return Some(Refusal::Length),
        Ok(Ok(None) | Err(Broken::Failed)) | Err(_) => return Some(Refusal::Silent),
    };
    let (orders, wanted) = mpsc::channel(ORDERS);
    // The driver is there as long as this task is.
    let _ = events.send(Event::Begun(connection, orders)).await;
    let _ = events.send(Event::Input(Input::Frame { connection, from: peer, data })).await;
    let talk = Talk { connection, peer, events: events.clone(), at_most: None };
    let refusal = timeout(AT_MOST, talk.run(stream, reader, wanted)).await.unwrap_or_default();
    let _ = events.send(Event::Ended(connection)).await;
    refusal
}

/// A connection that is served.
struct Talk {
    connection: Connection,
    peer: SocketAddr,
    events: mpsc::Sender<Event>,
    /// What the next frame may have, if one is to be read.
    at_most: Option<usize>,
}

impl Talk {
    /// Does what is ordered until there are no more orders. Why it was cut off, if it was.
    async fn run(
        mut self,
        mut stream: TcpStream,
        mut reader: Reader,
        mut wanted: mpsc::Receiver<Order>,
    ) -> Option<Refusal> {
        // Each frame waits for an answer.
        let _ = stream.set_nodelay(true);
        let (mut from, mut to) = stream.split();
        let mut has_sent = false;
        loop {
            let listen = async {
                match self.at_most {
                    Some(at_most) => reader.next(&mut from, at_most).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = wanted.recv() => match order {
                    Some(Order::Send(data)) => {
                        has_sent = true;
                        if to.write_all(&frame::encode(&data)).await.is_err() {
                            return None;
                        }
                    }
                    Some(Order::Listen(at_most)) => self.at_most = Some(at_most),
                    None => break,
                },
                frame = listen => {
                    self.at_most = None;
                    match frame {
                        Ok(Some(data)) => {
                            let input = Input::Frame { connection: self.connection, from: self.peer, data };
                            let _ = self.events.send(Event::Input(input)).await;
                        }
                        Err(Broken::Length) => return Some(Refusal::Length),
                        Ok(None) | Err(Broken::Failed) => return None,
                    }
                }
            }
        }
        if has_sent && to.shutdown().await.is_ok() {
            // Closing with something unread would take back what the peer has not read yet.
            let mut rest = [0; 512];
            let drained = async { while matches!(from.read(&mut rest).await, Ok(length) if length > 0) {} };
            let _ = timeout(LINGER, drained).await;
        }
        None
    }
}
