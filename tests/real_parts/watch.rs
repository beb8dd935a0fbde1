//! The world outside, as it sees the site: a visitor who resolves and fetches all along, and an eye on the record. Both
//! are on the network's bridge, in a thread of their own; neither knows what the test is doing, save which addresses it
//! leaves alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hickory_proto::rr::Name;
use picored::demo::client::{Tally, Visit, resolve, visit_all_along};
use tokio::sync::watch;

use crate::cluster::CEILING;
use crate::network::Network;
use crate::powerdns::RECORD;

/// How often the record is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An authoritative server that is one hop away has answered by then.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen up to now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The record at the last look.
    pub(crate) record: BTreeSet<IpAddr>,
    /// Since when it is as it is.
    pub(crate) since: Option<Instant>,
    /// Looks at which there was nothing in it, after there had been something.
    pub(crate) empty: u32,
    /// Addresses that were in it and are no machine's, ever.
    pub(crate) strange: BTreeSet<IpAddr>,
    /// Addresses that should have stayed: how long each was missing, together.
    pub(crate) missing: Duration,
    /// How often one of them went missing.
    pub(crate) removals: u32,
    gone: BTreeSet<IpAddr>,
    /// Whose machine nobody touches, and which was in the record when that began.
    steady: BTreeSet<IpAddr>,
    looked: Option<Instant>,
}

impl Seen {
    fn look(&mut self, now: Instant, record: BTreeSet<IpAddr>, known: &BTreeSet<IpAddr>) {
        if self.record != record || self.since.is_none() {
            self.since = Some(now);
        }
        self.empty += u32::from(record.is_empty() && !self.record.is_empty());
        self.strange.extend(record.difference(known));
        let gone: BTreeSet<IpAddr> = self.steady.difference(&record).copied().collect();
        let passed = self.looked.map_or(Duration::ZERO, |looked| now - looked);
        self.missing += passed * u32::try_from(self.gone.len()).unwrap_or(u32::MAX);
        self.removals += u32::try_from(gone.difference(&self.gone).count()).unwrap_or(u32::MAX);
        self.gone = gone;
        self.looked = Some(now);
        self.record = record;
    }
}

/// The watching thread's findings.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    visits: watch::Receiver<Tally>,
    started: Instant,
}

impl Watch {
    /// Begins to watch the record at the DNS server `dns`, and to visit the site at port 80 of what is in it. `known` are
    /// all addresses that may ever be there.
    pub(crate) fn start(network: &Network, dns: SocketAddr, known: BTreeSet<IpAddr>) -> anyhow::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tally, visits) = watch::channel(Tally::default());
        let name: Name = RECORD.parse()?;
        let (namespace, found) = (network.bridge()?, Arc::clone(&seen));
        let (ready, entered) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match namespace.enter().and_then(|()| Ok(runtime?)) {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    let visit = Visit { dns, name: name.clone(), port: 80 };
                    let looks = look_all_along(dns, &name, &found, &known);
                    runtime.block_on(async { tokio::join!(visit_all_along(visit, tally), looks) });
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        entered.recv().context("the watching thread has ended")??;
        Ok(Self { seen, visits, started: Instant::now() })
    }

    /// From now on no address but these may leave the record, until it is said anew.
    pub(crate) fn expect_to_stay(&self, addresses: &BTreeSet<IpAddr>) {
        let mut seen = self.seen();
        seen.steady = addresses.intersection(&seen.record).copied().collect();
        seen.gone.clear();
    }

    /// Waits until the record is `expected` and has been for the time `hold`, calling `meanwhile` again and again. How
    /// long it took to become so.
    pub(crate) fn wait_for(
        &self,
        expected: &BTreeSet<IpAddr>,
        hold: Duration,
        mut meanwhile: impl FnMut(),
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            meanwhile();
            let seen = self.seen().clone();
            let since = seen.since.unwrap_or(begun).max(begun);
            if seen.record == *expected && since.elapsed() >= hold {
                return Ok(since - begun);
            }
            ensure!(begun.elapsed() < CEILING, "the record is {:?}, not {expected:?}, after {CEILING:?}", seen.record);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What was seen of the record.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the visitor saw.
    pub(crate) fn visits(&self) -> Tally {
        self.visits.borrow().closed(self.started.elapsed())
    }
}

async fn look_all_along(dns: SocketAddr, name: &Name, seen: &Mutex<Seen>, known: &BTreeSet<IpAddr>) {
    loop {
        // A question that is lost says nothing of the record.
        if let Ok(Ok(record)) = tokio::time::timeout(PATIENCE, resolve(dns, name)).await {
            let record = record.into_iter().collect();
            seen.lock().unwrap_or_else(PoisonError::into_inner).look(Instant::now(), record, known);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
