//! Everything that parses what comes from the network, fed with what is almost right: datagrams as they were overheard
//! and mutated, and messages that a member with the key has mutated before it sealed them, by datagram and by frame.
//!
//! Nothing panics, and what one input allocates is bounded by [`PER_INPUT`], however long it claims to be. Runs on stable:
//! `PICORED_INPUTS` says how many inputs (200 000), `PICORED_SEED` replays one run.

#![allow(clippy::unwrap_used, reason = "a test's own values")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use picored_core::config::{App, Check, GovernorRules, Handler, Profile, RunOn, Seed, Source, TcpCheck, TwoNode};
use picored_core::envelope::{Cluster, ClusterKey, MAX_DATAGRAM, MAX_FRAME, Sealer};
use picored_core::event::EventKind;
use picored_core::identity::Identity;
use picored_core::message::{Digest, DigestLine, Entry, Message, Part, Standing};
use picored_core::name::{AppName, ClusterName, HandlerName, NodeName};
use picored_core::node::{Input, Node, Output, Settings};
use picored_core::record::{AppRecord, AppState, HandlerTag, Record, ShortDigest};
use picored_core::route::Connection;
use picored_core::time::{Instant, Now, Wall};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// One input may have so many bytes allocated at a time beyond what was there before: some copies of the largest frame
/// and the answers to it, and never what a length in it claims.
const PER_INPUT: usize = 8 * MAX_FRAME;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "there is no other way to count")]
// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(clippy::disallowed_methods, reason = "the one way to replay a seed, and to try more")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn settings(text: &str, port: u16) -> Settings {
    let app = App {
        name: AppName::new("www").unwrap(),
        publish: vec![[192, 0, 2, 1].into()],
        check: Check::Tcp(TcpCheck { host: "127.0.0.1".into(), port: 80 }),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: 1,
        fall: 1,
    };
    let handler = Handler {
        name: HandlerName::new("dns").unwrap(),
        source: Source::Builtin("dns-powerdns".into()),
        watch: false,
        on: EventKind::ALL.to_vec(),
        apps: Vec::new(),
        run_on: RunOn::One,
        reconcile_every: Duration::from_secs(300),
        timeout: Duration::from_secs(10),
        config: BTreeMap::new(),
        http: Vec::new(),
    };
    Settings {
        name: name(text),
        cluster: ClusterName::new("fuzzed").unwrap(),
        key: ClusterKey::new([7; 32]),
        boot: 1,
        advertise: address(port),
        seeds: vec![Seed::Address(address(1))],
        remembered: Vec::new(),
        profile: Profile::Lan,
        expect: 1,
        two_node: TwoNode::Hold,
        governor: GovernorRules::default(),
        apps: vec![app],
        maintained: BTreeMap::new(),
        held: BTreeMap::new(),
        letters: Vec::new(),
        handlers: vec![handler],
        random: [port as u8; 32],
    }
}

/// Two nodes that know each other, what they said, and a member that means harm.
struct Fuzz {
    now: Duration,
    nodes: [Node; 2],
    overheard: Vec<Vec<u8>>,
    /// Foca's packets among that.
    gossip: Vec<Vec<u8>>,
    cluster: Cluster,
    evil: Sealer,
    rng: StdRng,
}

impl Fuzz {
    fn now(&self) -> Now {
        Now { at: Instant::from_origin(self.now), wall: Wall(1_700_000_000_000 + self.now.as_millis() as u64) }
    }

    fn new(seed: u64) -> Self {
        let start = Now { at: Instant::from_origin(Duration::ZERO), wall: Wall(1_700_000_000_000) };
        let node = |text, port| Node::new(start, settings(text, port)).unwrap();
        let cluster = Cluster::new(ClusterName::new("fuzzed").unwrap(), ClusterKey::new([7; 32]));
        let evil = Sealer::new(&cluster, &name("evil"), 1);
        let (overheard, gossip) = (Vec::new(), Vec::new());
        let nodes = [node("a", 1), node("b", 2)];
        let rng = StdRng::seed_from_u64(seed);
        let mut fuzz = Self { now: Duration::ZERO, nodes, overheard, gossip, cluster, evil, rng };
        fuzz.live(Duration::from_secs(20));
        assert!(fuzz.nodes.iter().all(Node::is_joined));
        fuzz
    }

    /// Lets both live, and hear each other. Nobody else answers.
    fn live(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let now = self.now();
            for node in 0..2 {
                self.nodes[node].handle_timeout(now);
                self.carry(node);
            }
            self.now += Duration::from_millis(50);
        }
    }

    /// Does what a node wants done.
    fn carry(&mut self, node: usize) {
        let now = self.now();
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Send { to, data } if (1..=2).contains(&to.port()) => {
                    let other = usize::from(to.port()) - 1;
                    self.overhear(&data);
                    self.nodes[other].handle(now, Input::Datagram { from: address(node as u16 + 1), data });
                }
                Output::Send { to, data } if to.port() == 7 => {
                    if let Some(Message::Challenge { nonce }) = self.read(&data) {
                        let answer = self.evil.seal(&Message::Response { nonce }.encode());
                        self.nodes[node].handle(now, Input::Datagram { from: address(7), data: answer });
                    }
                }
                Output::Dial { connection, .. } => self.nodes[node].handle(now, Input::Closed { connection }),
                Output::Check { number, .. } => {
                    self.nodes[node].handle(now, Input::CheckDone { number, result: Ok(()) });
                }
                _ => {}
            }
        }
    }

    fn read(&self, data: &[u8]) -> Option<Message> {
        let envelope = self.cluster.read(data).ok()?;
        let payload = envelope.open(&self.cluster.boot_key(&envelope.sender, envelope.boot)).ok()?;
        Message::decode(&payload)
    }

    fn overhear(&mut self, data: &[u8]) {
        if self.overheard.len() < 200 {
            self.overheard.push(data.to_vec());
        }
        if self.gossip.len() < 200
            && let Some(Message::Gossip(packet)) = self.read(data)
        {
            self.gossip.push(packet);
        }
    }

    fn name(&mut self) -> NodeName {
        let names = ["a", "b", "evil", "nobody", "x.y-z_9"];
        name(names.choose(&mut self.rng).unwrap())
    }

    fn standing(&mut self) -> Standing {
        let (down, suspect) = (self.rng.random(), self.rng.random());
        Standing { generation: self.rng.random_range(0..4), down, incarnation: self.rng.random(), suspect }
    }

    fn identity(&mut self) -> Identity {
        let generation = *[0, 1, 2, u64::MAX].choose(&mut self.rng).unwrap();
        Identity { name: self.name(), generation, address: address(self.rng.random_range(1..9)) }
    }

    fn record(&mut self) -> Record {
        let app = AppRecord {
            name: AppName::new("www").unwrap(),
            state: AppState::Up,
            changed: 1,
            port: 80,
            publish: vec![[192, 0, 2, 9].into(); self.rng.random_range(0..8)],
        };
        let short = ShortDigest::new(&self.rng.random());
        let handlers = vec![HandlerTag { name: short, config: short, component: Some(short) }];
        let (boot, sequence) = (self.rng.random_range(0..3), self.rng.random());
        Record {
            node: self.name(),
            boot,
            sequence,
            leaving: None,
            apps: vec![app],
            ready: true,
            handlers,
            failing: vec![],
            holding: vec![short],
        }
    }

    /// A message of each kind, as it should be.
    fn message(&mut self) -> Message {
        let nonce = self.rng.random();
        match self.rng.random_range(0..13) {
            0 => Message::Hello { nonce, identity: self.identity() },
            1 => Message::Welcome { nonce, identity: self.identity() },
            2 => Message::NameTaken { nonce, holder: address(9) },
            3 => Message::Challenge { nonce },
            4 => Message::Response { nonce },
            5 => Message::Suspected { identity: self.identity(), incarnation: self.rng.random() },
            6 => Message::Summary(vec![Part { to: Some(self.name()), hash: nonce }, Part { to: None, hash: nonce }]),
            7 => Message::Differing(vec![(None, Some(self.name())), (Some(self.name()), None)]),
            8 => {
                let line = DigestLine { node: self.name(), standing: Some(self.standing()), record: Some((1, nonce)) };
                let (from, to) = (Some(self.name()), None);
                Message::Digest(Digest { from, to, reply: true, joined: true, lines: vec![line; 3] })
            }
            9 => {
                let member = Some((self.identity(), self.standing()));
                Message::Entries(vec![Entry { member, record: Some(self.record()) }])
            }
            _ => Message::Gossip(self.gossip.choose(&mut self.rng).cloned().unwrap_or_default()),
        }
    }

    /// Makes a few things wrong with it.
    fn mutate(&mut self, data: &mut Vec<u8>, at_most: usize) {
        for _ in 0..self.rng.random_range(0..4) {
            let at = self.rng.random_range(0..=data.len());
            let end = self.rng.random_range(at..=data.len());
            match self.rng.random_range(0..7) {
                0 if at < data.len() => data[at] ^= 1 << self.rng.random_range(0..8),
                1 if at < data.len() => data[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(&mut self.rng).unwrap(),
                2 => drop(data.drain(at..end)),
                3 => data.truncate(at),
                // A length, or a number, as large as they come.
                4 => drop(data.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])),
                5 => {
                    let part = data[at..end].to_vec();
                    drop(data.splice(at..at, part));
                }
                _ => {
                    let other = self.gossip.choose(&mut self.rng).cloned().unwrap_or_default();
                    drop(data.splice(at..end, other));
                }
            }
        }
        data.truncate(at_most);
    }

    /// Something to be sent to a node, not always right, and whether it is a frame.
    fn input(&mut self) -> Input {
        let from = address(*[1, 2, 7].choose(&mut self.rng).unwrap());
        if self.rng.random_bool(0.3) {
            let mut data = self.overheard.choose(&mut self.rng).cloned().unwrap_or_default();
            self.mutate(&mut data, 2 * MAX_DATAGRAM);
            return Input::Datagram { from, data };
        }
        let mut payload = self.message().encode();
        let is_frame = self.rng.random_bool(0.3);
        self.mutate(&mut payload, if is_frame { MAX_FRAME - 200 } else { MAX_DATAGRAM - 100 });
        let mut data = self.evil.seal(&payload);
        if self.rng.random_bool(0.1) {
            self.mutate(&mut data, 2 * MAX_FRAME);
        }
        match is_frame {
            true => Input::Frame { connection: Connection::Accepted(self.rng.random_range(0..3)), from, data },
            false => Input::Datagram { from: address(7), data },
        }
    }
}

#[test]
fn nothing_that_comes_in_panics_or_allocates_without_bound() {
    let seed = number("PICORED_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let inputs = number("PICORED_INPUTS").unwrap_or(200_000);
    let replay = format!("PICORED_SEED={seed} PICORED_INPUTS={inputs} cargo test -p picored-core --test fuzz");
    let result = std::panic::catch_unwind(|| {
        let mut fuzz = Fuzz::new(seed);
        let mut largest = 0;
        for count in 1..=inputs {
            let input = fuzz.input();
            let shown = format!("{input:?}");
            let now = fuzz.now();
            let before = HELD.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            fuzz.nodes[0].handle(now, input);
            let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before);
            assert!(taken <= PER_INPUT, "{taken} bytes for {shown}");
            largest = largest.max(taken);
            fuzz.carry(0);
            if count % 100 == 0 {
                fuzz.live(Duration::from_millis(500));
            }
        }
        let fates = fuzz.nodes[0].status().datagrams;
        assert!(fates["accepted"] > inputs / 10 && fates["malformed"] > 0 && fates["forged"] > 0, "{fates:?}");
        largest
    });
    let text = match &result {
        Ok(largest) => format!("{inputs} inputs; the most that one had allocated: {largest} bytes\n"),
        Err(_) => format!("replay: {replay}\n"),
    };
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
