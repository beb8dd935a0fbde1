//! An authoritative DNS server for one [`Zone`], over UDP and TCP on one address.
//!
//! It answers A, AAAA, SOA, NS and ANY, says NXDOMAIN or NODATA with the SOA, and refuses what is not its zone. Each
//! answer has its records in the next order (round robin), as a site that spreads its load over them wants it. It
//! never recurses, transfers or takes an update; changes come through [`super::api`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::zone::{Lookup, Zone};
use crate::accept::each_connection;
use crate::net::bind_both;

/// The largest answer over UDP to one who says that it takes so much: what fits every path without fragments.
const UDP_LIMIT: u16 = 1232;
/// The largest answer over UDP to one who says nothing.
const UDP_LIMIT_PLAIN: u16 = 512;
/// How long a TCP connection may be silent.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// How many TCP connections are served at once; more wait.
const TCP_CONNECTIONS: usize = 32;
/// A DNS header's length; what is shorter cannot even be told off.
const HEADER: usize = 12;

/// How a question came, which limits the answer's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers longer than the asker takes are cut, with TC set.
    Udp,
    /// Answers may be 65535 bytes long.
    Tcp,
}

/// Answers questions about one zone. It has no socket: bytes in, bytes out.
#[derive(Debug)]
pub struct Responder {
    zone: Arc<Zone>,
    /// How many answers were given: the next one's order of records.
    turn: AtomicUsize,
}

impl Responder {
    /// Answers for `zone`.
    pub fn new(zone: Arc<Zone>) -> Self {
        Self { zone, turn: AtomicUsize::new(0) }
    }

    /// The answer to `request`; `None` if it deserves none: it is no question, or too short to be anything.
    pub fn answer(&self, request: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let (id, flags) = (request.get(..2)?, *request.get(2)?);
        // An answer to an answer would go on for ever.
        if request.len() < HEADER || flags & 0x80 != 0 {
            return None;
        }
        let response = match Message::from_vec(request) {
            Ok(message) => self.respond(&message),
            Err(_) => {
                let op_code = OpCode::from_u8(flags >> 3 & 0x0f);
                Message::error_msg(u16::from_be_bytes([id[0], id[1]]), op_code, ResponseCode::FormErr)
            }
        };
        let limit = match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => usize::from(response.edns.as_ref().map_or(UDP_LIMIT_PLAIN, Edns::max_payload)),
        };
        let bytes = response.to_vec().ok()?;
        if bytes.len() <= limit { Some(bytes) } else { response.truncate().to_vec().ok() }
    }

    fn respond(&self, request: &Message) -> Message {
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.add_queries(request.queries.iter().cloned());
        if let Some(asked) = &request.edns {
            // What is said back is how much this answer may hold, so that the limit above has one source.
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(UDP_LIMIT_PLAIN, UDP_LIMIT)).set_version(0);
            response.set_edns(edns);
            if asked.version() > 0 {
                set_code(&mut response, ResponseCode::BADVERS);
                return response;
            }
        }
        if request.metadata.op_code != OpCode::Query {
            set_code(&mut response, ResponseCode::NotImp);
        } else if let [question] = &request.queries[..] {
            self.fill(question, &mut response);
        } else {
            set_code(&mut response, ResponseCode::FormErr);
        }
        response
    }

    fn fill(&self, question: &Query, response: &mut Message) {
        let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
        if transfer || !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
            return set_code(response, ResponseCode::Refused);
        }
        let found = self.zone.lookup(&LowerName::new(question.name()), question.query_type());
        response.metadata.authoritative = found != Lookup::Outside;
        match found {
            Lookup::Found(mut records) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let shift = turn % records.len();
                records.rotate_left(shift);
                response.add_answers(records);
            }
            Lookup::NoData => drop(response.add_authority(self.zone.soa())),
            Lookup::NoName => {
                set_code(response, ResponseCode::NXDomain);
                response.add_authority(self.zone.soa());
            }
            Lookup::Outside => set_code(response, ResponseCode::Refused),
        }
    }
}

/// Sets a code in the header and, for the codes that do not fit there, in the OPT record.
fn set_code(response: &mut Message, code: ResponseCode) {
    response.metadata.response_code = code;
    if let Some(edns) = &mut response.edns {
        edns.set_rcode_high(code.high());
    }
}

/// The server's two sockets.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds UDP and TCP to `address`. For port 0 it finds a port that is free for both.
    ///
    /// # Errors
    /// If the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = bind_both(address).await.map_err(|failed| failed.error)?;
        let address = udp.local_addr()?;
        Ok(Self { udp, tcp, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for `zone` until dropped.
    ///
    /// # Errors
    /// Never returns but with the fault of a socket that can be read no more.
    pub async fn serve(self, zone: Arc<Zone>) -> io::Result<()> {
        let responder = Arc::new(Responder::new(zone));
        tokio::select! {
            result = serve_udp(&self.udp, &responder) => result,
            result = serve_tcp(&self.tcp, &responder) => result,
        }
    }
}

async fn serve_udp(socket: &UdpSocket, responder: &Responder) -> io::Result<()> {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An asker that went away before its answer came: its fault, told to this socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if let Some(answer) = responder.answer(&buffer[..length], Transport::Udp) {
            // A datagram that cannot be sent is a datagram lost, which askers know how to live with.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: &TcpListener, responder: &Arc<Responder>) -> io::Result<()> {
    each_connection(listener, TCP_CONNECTIONS, |stream| {
        let responder = Arc::clone(responder);
        async move {
            // However it ends, it is this connection's end alone.
            let _ = serve_connection(stream, &responder).await;
        }
    })
    .await
}

async fn serve_connection(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    let mut request = Vec::new();
    while let Ok(length) = timeout(TCP_IDLE, stream.read_u16()).await? {
        request.resize(usize::from(length), 0);
        timeout(TCP_IDLE, stream.read_exact(&mut request)).await??;
        let Some(answer) = responder.answer(&request, Transport::Tcp) else { break };
        let Ok(length) = u16::try_from(answer.len()) else { break };
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}
