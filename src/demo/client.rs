//! A visitor of the site: asks the DNS server for its address and fetches a page, again and again, and keeps count.
//!
//! It asks anew for each request and takes one of the addresses at random, so that it sees what many visitors without a
//! memory see between them. It never retries: what fails is counted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// From the start of one request to the start of the next.
const EVERY: Duration = Duration::from_millis(50);
/// What a visitor waits for an answer from DNS, and then for the page.
const PATIENCE: Duration = Duration::from_millis(500);
/// The largest page read, in bytes.
const PAGE_LIMIT: usize = 4096;

/// What a visitor saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many requests ended, well or not.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
    /// The longest time without a page, among those in which a request failed: from the success before the failures to
    /// the one after.
    pub longest_outage: Duration,
    last_success: Duration,
    failing: bool,
}

impl Tally {
    /// Counts a request that ended at `at`, on a clock that began when the visitor did.
    pub fn count(&mut self, at: Duration, success: bool) {
        self.requests += 1;
        if success {
            self.end_outage(at);
            self.last_success = at;
        } else {
            self.failures += 1;
            self.failing = true;
        }
    }

    /// The figures as of `at`; an outage that goes on then counts up to there.
    pub fn closed(mut self, at: Duration) -> Self {
        self.end_outage(at);
        self
    }

    /// Whether the last request failed.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    fn end_outage(&mut self, at: Duration) {
        if self.failing {
            self.longest_outage = self.longest_outage.max(at.saturating_sub(self.last_success));
            self.failing = false;
        }
    }
}

/// Where a visitor goes.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The DNS server to ask.
    pub dns: SocketAddr,
    /// The site's name, absolute.
    pub name: Name,
    /// The port that the site answers at.
    pub port: u16,
}

/// Visits until dropped, telling `tally` after each request how things stand.
pub async fn visit_all_along(visit: Visit, tally: watch::Sender<Tally>) {
    let start = Instant::now();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let success = visit_once(&visit).await.is_ok();
        tally.send_modify(|tally| tally.count(start.elapsed(), success));
    }
}

/// One visit: the page's text.
///
/// # Errors
/// If DNS or the site does not answer in time, or not well.
pub async fn visit_once(visit: &Visit) -> anyhow::Result<String> {
    let addresses = timeout(PATIENCE, resolve(visit.dns, &visit.name)).await.context("DNS did not answer")??;
    ensure!(!addresses.is_empty(), "{} has no address", visit.name);
    let choice = usize::from(random_u16()?) % addresses.len();
    let address = SocketAddr::new(addresses[choice], visit.port);
    timeout(PATIENCE, fetch(address, &visit.name)).await.with_context(|| format!("{address} did not answer"))?
}

/// Asks the server at `dns` for the IPv4 addresses of `name`, in the order of the answer.
///
/// # Errors
/// If the server says no, or something that is no answer to the question. It waits for ever: set a limit.
pub async fn resolve(dns: SocketAddr, name: &Name) -> anyhow::Result<Vec<IpAddr>> {
    let query = Query::query(name.clone(), RecordType::A);
    let mut question = Message::query();
    question.metadata.id = random_u16()?;
    question.add_query(query.clone());
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(dns).await?;
    socket.send(&question.to_vec()?).await?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await?;
    let answer = Message::from_vec(&buffer[..length])?;
    ensure!(answer.metadata.id == question.metadata.id && answer.queries == [query], "an answer to another question");
    if answer.metadata.response_code != ResponseCode::NoError {
        bail!("{name}: {}", answer.metadata.response_code);
    }
    Ok(answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect())
}

async fn fetch(address: SocketAddr, name: &Name) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let name = name.to_string();
    let host = format!("{}:{}", name.trim_end_matches('.'), address.port());
    let request = Request::get("/").header(HOST, host).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{address} answered {}", response.status());
        let body = Limited::new(response.into_body(), PAGE_LIMIT).collect().await.map_err(io::Error::other)?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    // The connection must be driven for the exchange to go on; it may well end first, with all bytes handed over.
    tokio::select! {
        page = exchange => page,
        Err(error) = connection => Err(error.into()),
    }
}

fn random_u16() -> anyhow::Result<u16> {
    let mut bytes = [0; 2];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(ends: &[(u64, bool)]) -> Tally {
        let mut tally = Tally::default();
        for (at, success) in ends {
            tally.count(Duration::from_millis(*at), *success);
        }
        tally
    }

    #[test]
    fn an_outage_runs_from_success_to_success_over_failures() {
        for (ends, requests, failures, longest) in [
            (&[][..], 0, 0, 0),
            (&[(50, true), (100, true)], 2, 0, 0),
            // Slow is not down.
            (&[(50, true), (900, true)], 2, 0, 0),
            (&[(50, true), (100, false), (150, true)], 3, 1, 100),
            // Two runs of failures: the longer counts, and success between them parts them.
            (&[(50, true), (100, false), (150, true), (200, false), (250, false), (300, true)], 6, 3, 150),
            (&[(50, true), (100, false), (400, true), (450, false), (500, true)], 5, 2, 350),
            // Failing from the start: since the start.
            (&[(50, false), (100, true)], 2, 1, 100),
        ] {
            let tally = tally(ends);
            assert_eq!((tally.requests, tally.failures), (requests, failures), "{ends:?}");
            assert_eq!(tally.longest_outage, Duration::from_millis(longest), "{ends:?}");
        }
    }

    #[test]
    fn an_outage_that_goes_on_counts_when_the_book_is_closed() {
        let open = tally(&[(50, true), (100, false), (150, false)]);
        assert!(open.is_failing());
        assert_eq!(open.longest_outage, Duration::ZERO);
        let closed = open.closed(Duration::from_millis(250));
        assert_eq!(closed.longest_outage, Duration::from_millis(200));
        assert!(!tally(&[(50, false), (100, true)]).is_failing());
    }
}
