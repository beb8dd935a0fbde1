//! Finding the cluster, and comparing what is held with one peer at a time.
//!
//! A seed is known by address only, so it is greeted and answers with its name; foca is then asked to join by that
//! name. What a node holds is compared by digests: each side sends what the other lacks. This brings a newcomer up to
//! date, asks a member that has restarted, repairs what gossip lost, and brings two halves of a split cluster together
//! again. Only a node that has taken over a member's view is joined; before that it decides nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IteratorRandom;

use super::missing::MAX_REMEMBERED;
use super::range::{Range, cover_everything};
use super::stream::About;
use super::{Node, Notice, Output, Settings, Tick};
use crate::config::Seed;
use crate::defences::Defence;
use crate::envelope::{self, MAX_DATAGRAM, MAX_FRAME};
use crate::identity::Identity;
use crate::membership::own_standing;
use crate::message::{Digest, DigestLine, Entry, Message, encoded_len};
use crate::name::NodeName;
use crate::route::{Connection, Route};
use crate::stale::Stale;
use crate::time::Instant;

/// How often a node that looks for its cluster asks again.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How often one random member is compared with.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// How often a member looks for those that are missing.
const LOOK_FOR_MISSING: Duration = Duration::from_secs(30);
/// How often a member looks a seed's name up again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(300);
/// So many missing members are greeted at a time.
const MISSING_AT_ONCE: usize = 3;
/// So many addresses of one name are greeted.
const ADDRESSES_OF_A_NAME: usize = 8;
/// A greeting that was not answered by then never will be.
const FORGET_GREETING: Duration = Duration::from_secs(10);
/// When every peer that answers looks for the cluster itself, this one waits so long for one that has it: datagrams get
/// lost, and who goes on without the rest of its cluster publishes a part of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A node without seeds is its own cluster if nobody has spoken to it by then. Members that knew an earlier life of it
/// would: each probes it every few seconds.
const LISTEN: Duration = Duration::from_secs(3);
/// So often the holder of a contested name is asked before it is taken for dead.
const ASK_HOLDER: u32 = 3;

/// What is known of a peer's view while this node joins.
#[derive(Debug, Default)]
pub(super) struct Peer {
    address: Option<SocketAddr>,
    /// When it last said that it has found the cluster.
    joined: Option<Instant>,
    /// The ranges of names in which it holds nothing that this node lacks.
    matched: Vec<Range>,
    /// Of how many scopes it has a receipt, once it has said so.
    pub(super) receipts: Option<u16>,
}

#[derive(Debug)]
struct Contest {
    nonce: u64,
    asked: u32,
    last: Instant,
    answered: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) started: Instant,
    joined_at: Option<Instant>,
    is_seedless: bool,
    /// Seeds that are given as addresses and are not this node.
    seed_addresses: BTreeSet<SocketAddr>,
    /// Where those are that go by a name, as far as was found out: the first few of each.
    named: BTreeMap<(String, u16), BTreeSet<SocketAddr>>,
    /// Where members are, or were when this node last ran, as it was kept for the next start.
    pub(super) remembered: BTreeSet<SocketAddr>,
    /// Those among the ones that were kept, by this node or by one that told it, at which nobody was seen since it started.
    pub(super) unseen: BTreeSet<SocketAddr>,
    resolved: Option<Instant>,
    /// The seeds whose names are being looked up: a resolver that hangs must not be asked again and again.
    looking_up: BTreeSet<(String, u16)>,
    greetings: HashMap<u64, Instant>,
    /// When to look for the cluster, or for what is missing of it.
    next_contact: Instant,
    pub(super) peers: BTreeMap<NodeName, Peer>,
    contests: BTreeMap<NodeName, Contest>,
}

impl State {
    pub(super) fn new(now: Instant, settings: &Settings) -> Self {
        let remembered: BTreeSet<_> = settings.remembered.iter().copied().take(MAX_REMEMBERED).collect();
        let unseen = remembered.iter().copied().filter(|address| *address != settings.advertise).collect();
        let mut state = Self {
            started: now,
            joined_at: None,
            is_seedless: true,
            seed_addresses: BTreeSet::new(),
            named: BTreeMap::new(),
            remembered,
            unseen,
            resolved: None,
            looking_up: BTreeSet::new(),
            greetings: HashMap::new(),
            next_contact: now,
            peers: BTreeMap::new(),
            contests: BTreeMap::new(),
        };
        state.look_among(now, &settings.seeds, settings.advertise);
        state
    }

    /// Looks for the cluster among these from now on, at once.
    pub(super) fn look_among(&mut self, now: Instant, seeds: &[Seed], own: SocketAddr) {
        let addresses = seeds.iter().filter_map(|seed| match seed {
            Seed::Address(address) => Some(*address),
            Seed::Name(..) => None,
        });
        self.seed_addresses = addresses.filter(|address| *address != own).collect();
        self.is_seedless = self.seed_addresses.is_empty() && !seeds.iter().any(|seed| matches!(seed, Seed::Name(..)));
        (self.resolved, self.next_contact) = (None, now);
        let names = seeds.iter().filter_map(|seed| match seed {
            Seed::Address(_) => None,
            Seed::Name(name, port) => Some((name.clone(), *port)),
        });
        self.named = names.map(|name| (name, BTreeSet::new())).collect();
    }

    /// How many nodes the seeds stand for, this one aside and those at an address that `has_left`. A name that was not
    /// found yet stands for one.
    pub(super) fn count_seeds(&self, own: SocketAddr, has_left: impl Fn(SocketAddr) -> bool) -> usize {
        let addresses: BTreeSet<_> = self.seed_addresses.iter().chain(self.named.values().flatten()).copied().collect();
        let others = addresses.into_iter().filter(|address| *address != own && !has_left(*address)).count();
        others + self.named.values().filter(|found| found.is_empty()).count()
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined_at.is_some()
    }

    pub(super) fn joined_at(&self) -> Option<Instant> {
        self.joined_at
    }

    pub(super) fn has_greeted(&self, nonce: u64) -> bool {
        self.greetings.contains_key(&nonce)
    }

    pub(super) fn next_contact(&self) -> Instant {
        self.next_contact
    }

    /// Something is wrong with this node's view: do not wait for the next round.
    pub(super) fn contact_soon(&mut self, now: Instant) {
        self.next_contact = self.next_contact.min(now + RETRY);
    }

    /// To whom this node, which still joins, has made itself known.
    pub(super) fn introduced_to(&self) -> impl Iterator<Item = (&NodeName, SocketAddr)> {
        self.peers.iter().filter_map(|(name, peer)| Some((name, peer.address?)))
    }

    pub(super) fn note_response(&mut self, sender: &NodeName, nonce: u64) {
        if let Some(contest) = self.contests.get_mut(sender).filter(|contest| contest.nonce == nonce) {
            contest.answered = true;
        }
    }
}

impl Node {
    /// Looks for the cluster, or for what is missing of it.
    pub(super) fn contact(&mut self, now: Instant) {
        if self.leaving.is_some() {
            return;
        }
        let joined = self.is_joined();
        self.exchange.greetings.retain(|_, sent| now.since(*sent) < FORGET_GREETING);
        let active: BTreeSet<SocketAddr> = self.membership.active().map(|identity| identity.address).collect();
        let mut addresses: Vec<_> = self.exchange.seed_addresses.difference(&active).copied().collect();
        let missing = self.membership.members().filter(|(identity, standing)| {
            let left = self.records.get(&identity.name).is_some_and(|record| record.leaving.is_some());
            standing.down && !left
        });
        let missing: Vec<_> = missing.map(|(identity, _)| identity.address).collect();
        addresses.extend(missing.into_iter().sample(&mut self.rng, MISSING_AT_ONCE));
        addresses.sort_unstable();
        addresses.dedup();
        // Who was there when this node last ran may come after it, and know nothing of it.
        let unseen = self.exchange.remembered.difference(&active).filter(|address| !addresses.contains(address));
        let unseen = unseen.copied().sample(&mut self.rng, MISSING_AT_ONCE);
        addresses.extend(unseen);
        if !joined || self.defences.has(Defence::Greeting) {
            self.greet(now, addresses);
        }
        let lookup_due = self.exchange.resolved.is_none_or(|last| now.since(last) >= RESOLVE_AGAIN);
        if active.is_empty() || lookup_due {
            self.exchange.resolved = Some(now);
            for seed in &self.settings.seeds {
                if let Seed::Name(name, port) = seed
                    && self.exchange.looking_up.insert((name.clone(), *port))
                {
                    self.outputs.push_back(Output::Resolve { name: name.clone(), port: *port });
                }
            }
        }
        if !joined {
            self.compare_while_joining(now);
            // Each for itself: many that are long gone must not stand before a seed that is there.
            let State { seed_addresses, remembered, .. } = &self.exchange;
            let unseen = remembered.difference(seed_addresses).copied().collect();
            self.greet_by_stream(now, seed_addresses.iter().copied().collect());
            self.greet_by_stream(now, unseen);
        }
        let wait = if joined { self.jittered(LOOK_FOR_MISSING) } else { RETRY };
        let wait = self.heal.look_after(now).map_or(wait, |soon| soon.min(wait));
        self.exchange.next_contact = now + wait;
    }

    pub(super) fn on_resolved(&mut self, now: Instant, name: String, port: u16, addresses: Vec<SocketAddr>) {
        self.exchange.looking_up.remove(&(name.clone(), port));
        if let Some(found) = self.exchange.named.get_mut(&(name, port)) {
            if !addresses.is_empty() {
                *found = addresses.iter().copied().take(ADDRESSES_OF_A_NAME).collect();
            }
            self.greet_by_stream(now, addresses.clone());
            self.greet(now, addresses);
        }
    }

    /// Greets whoever is at `addresses`.
    pub(super) fn greet(&mut self, now: Instant, addresses: Vec<SocketAddr>) {
        if self.leaving.is_some() {
            return;
        }
        let own = self.settings.advertise;
        let limit = ADDRESSES_OF_A_NAME.max(self.exchange.seed_addresses.len() + 2 * MISSING_AT_ONCE);
        for to in addresses.into_iter().filter(|address| *address != own).take(limit) {
            let nonce = self.rng.random();
            self.exchange.greetings.insert(nonce, now);
            let identity = self.membership.identity().clone();
            self.send(to, &Message::Hello { nonce, identity });
        }
    }

    /// Greets a few of these over TCP, if by the second round of looking for the cluster nobody has answered a datagram.
    fn greet_by_stream(&mut self, now: Instant, addresses: Vec<SocketAddr>) {
        if self.is_joined() || now.since(self.exchange.started) < RETRY || !self.exchange.peers.is_empty() {
            return;
        }
        for to in addresses.into_iter().sample(&mut self.rng, MISSING_AT_ONCE) {
            if let Some(route) = self.dial(now, to, About::Greeting) {
                let nonce = self.rng.random();
                self.exchange.greetings.insert(nonce, now);
                let identity = self.membership.identity().clone();
                self.send(route, &Message::Hello { nonce, identity });
            }
        }
    }

    pub(super) fn on_hello(&mut self, from: Route, nonce: u64, identity: &Identity) {
        let own = self.membership.identity().clone();
        if self.leaving.is_some() || *identity == own {
            return;
        }
        if identity.name == own.name {
            // Two nodes with one name: the one that is in stays; of two that look for a way in, the first.
            if self.is_joined() || own.generation < identity.generation {
                self.send(from, &Message::NameTaken { nonce, holder: own.address });
            }
            return;
        }
        self.send(from, &Message::Welcome { nonce, identity: own });
    }

    /// Whether a stranger that greets may go on. One that has the name of an active member at another address may not
    /// while that member still answers: the name is taken, and it is told so. If the member does not answer, it has
    /// moved. The stranger must not be confirmed before, or the member would be refused as its earlier life.
    pub(super) fn may_have_name(&mut self, now: Instant, from: Route, nonce: u64, identity: &Identity) -> bool {
        let holder = self.membership.active().find(|active| active.name == identity.name);
        let Some(holder) = holder.filter(|holder| holder.address != identity.address).cloned() else { return true };
        self.exchange.contests.retain(|_, contest| now.since(contest.last) < FORGET_GREETING);
        let fresh = self.rng.random();
        let new = Contest { nonce: fresh, asked: 0, last: now, answered: false };
        let contest = self.exchange.contests.entry(holder.name.clone()).or_insert(new);
        contest.last = now;
        if contest.answered {
            // Asked anew for the next greeting: the member may go in the meantime.
            *contest = Contest { nonce: fresh, asked: 0, last: now, answered: false };
            self.send(from, &Message::NameTaken { nonce, holder: holder.address });
        } else if contest.asked < ASK_HOLDER {
            contest.asked += 1;
            let question = Message::Challenge { nonce: contest.nonce };
            // Twice, since to lose all of them would cost the holder its name, and to ask for longer the mover its place.
            for _ in 0..2 {
                self.send(holder.address, &question);
            }
        } else {
            return true;
        }
        false
    }

    pub(super) fn on_welcome(&mut self, now: Instant, from: Route, nonce: u64, identity: Identity) {
        let was_greeted = self.exchange.greetings.remove(&nonce).is_some();
        if !was_greeted || identity.name == self.settings.name || self.leaving.is_some() {
            return;
        }
        let to = identity.address;
        self.note_answer(now, &identity);
        self.exchange.peers.entry(identity.name.clone()).or_default().address = Some(to);
        self.membership.announce(now, identity);
        if from.connection().is_some() {
            self.go_on_to_exchange(from);
            return;
        }
        // Who joins asks both ways at once: it matters more that it gets an answer soon than that it gets one.
        if !self.exchange_by_stream(now, to) || !self.is_joined() {
            self.send_digest(to, None, None, true);
        }
    }

    /// Asks a member that came up or restarted for what it says of itself. A newcomer, to whom every member is one that
    /// came up, learns of them all from the one by which it joins; it tells them of itself, sooner than gossip would.
    pub(super) fn meet(&mut self, now: Instant, identity: &Identity) {
        if self.exchange.joined_at.is_none_or(|joined| now.since(joined) < RETRY) {
            let entry = self.own_entry();
            return self.send_entries(identity.address, vec![entry]);
        }
        let range = Some(identity.name.clone());
        if !self.defences.has(Defence::Exchange) {
            return;
        }
        self.send_digest(identity.address, range.clone(), range, true);
    }

    pub(super) fn exchange_with_somebody(&mut self, now: Instant) {
        let peer = self.membership.active().map(|identity| identity.address).choose(&mut self.rng);
        if let Some(peer) = peer.filter(|_| self.leaving.is_none() && self.defences.has(Defence::Exchange))
            && !self.exchange_by_stream(now, peer)
        {
            self.send_summary(peer);
        }
        let wait = self.jittered(PERIOD);
        self.timers.push(now + wait, Tick::Exchange);
    }

    fn compare_while_joining(&mut self, now: Instant) {
        self.consider_joined(now);
        for peer in self.exchange.peers.values_mut() {
            peer.matched.clear();
        }
        let peers: Vec<_> = self.membership.active().map(|identity| identity.address).take(MISSING_AT_ONCE).collect();
        for peer in peers {
            self.send_digest(peer, None, None, true);
        }
    }

    /// The lines for all names from `from` to `to`, both included.
    pub(super) fn digest_lines(
        &self,
        from: Option<&NodeName>,
        to: Option<&NodeName>,
    ) -> BTreeMap<NodeName, DigestLine> {
        let mut lines: BTreeMap<NodeName, DigestLine> = BTreeMap::new();
        let in_range = |name: &NodeName| from.is_none_or(|from| name >= from) && to.is_none_or(|to| name <= to);
        let line = |node: &NodeName| DigestLine { node: node.clone(), standing: None, record: None };
        let own = self.membership.identity();
        let own_standing = own_standing(own);
        let members = self.membership.told().chain([(own, own_standing)]);
        for (identity, standing) in members.filter(|(identity, _)| in_range(&identity.name)) {
            lines.entry(identity.name.clone()).or_insert_with(|| line(&identity.name)).standing = Some(standing);
        }
        for record in self.records.iter().filter(|record| in_range(&record.node)) {
            lines.entry(record.node.clone()).or_insert_with(|| line(&record.node)).record = Some(record.version());
        }
        lines
    }

    /// Sends what this node holds of a range of names, in as many datagrams as it takes. Neighbouring parts share a name,
    /// so that no name of the receiver's falls between them.
    pub(super) fn send_digest(
        &mut self,
        to: impl Into<Route>,
        from_name: Option<NodeName>,
        to_name: Option<NodeName>,
        reply: bool,
    ) {
        let lines = self.digest_lines(from_name.as_ref(), to_name.as_ref());
        let joined = self.is_joined();
        let mut chunks: Vec<Vec<DigestLine>> = vec![Vec::new()];
        let to = to.into();
        let budget = self.budget(to);
        let mut room = budget;
        for line in lines.into_values() {
            let size = encoded_len(&line);
            if size > room {
                let shared = chunks.last().and_then(|chunk| chunk.last()).cloned();
                room = budget.saturating_sub(size);
                chunks.push(shared.into_iter().collect());
            }
            room = room.saturating_sub(size);
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(line);
            }
        }
        let last = chunks.len() - 1;
        for (index, lines) in chunks.into_iter().enumerate() {
            let first_name = lines.first().map(|line| line.node.clone());
            let last_name = lines.last().map(|line| line.node.clone());
            let digest = Digest {
                from: if index == 0 { from_name.clone() } else { first_name },
                to: if index == last { to_name.clone() } else { last_name },
                reply,
                joined,
                lines,
            };
            self.send(to, &Message::Digest(digest));
        }
    }

    /// What one datagram or frame holds of lines or entries, in bytes, beside the names of the range. Who was dialed may
    /// not know this node yet, and reads no more than a datagram's worth; who dialed reads a whole frame.
    pub(super) fn budget(&self, to: Route) -> usize {
        let at_most = match to.connection() {
            Some(Connection::Accepted(_)) => MAX_FRAME,
            Some(Connection::Dialed(_)) | None => MAX_DATAGRAM,
        };
        at_most - envelope::overhead(&self.settings.name) - 160
    }

    pub(super) fn on_digest(&mut self, now: Instant, from: Route, sender: &NodeName, digest: &Digest) {
        let ours = self.digest_lines(digest.from.as_ref(), digest.to.as_ref());
        let theirs: BTreeMap<&NodeName, &DigestLine> = digest.lines.iter().map(|line| (&line.node, line)).collect();
        let own = &self.settings.name;
        let behind = theirs.iter().any(|(name, line)| {
            let held = ours.get(*name);
            // Of itself nobody else knows better.
            *name != own
                && (line.standing > held.and_then(|held| held.standing)
                    || line.record > held.and_then(|held| held.record))
        });
        let mut lacking = Vec::new();
        for (name, line) in &ours {
            let held = theirs.get(name);
            let standing = line.standing > held.and_then(|held| held.standing);
            let record = line.record > held.and_then(|held| held.record);
            if standing || record {
                lacking.push(self.entry(name, standing, record));
            }
        }
        // A newcomer, or one that was away, shall know what stands outside before it decides anything.
        if digest.reply && digest.to.is_none() && (!digest.joined || !lacking.is_empty()) {
            self.send_receipts(from);
        }
        self.send_entries(from, lacking);
        self.note_leave_known(sender, &theirs);
        if digest.reply {
            self.send_digest(from, digest.from.clone(), digest.to.clone(), false);
        } else if !self.is_joined() {
            let peer = self.exchange.peers.entry(sender.clone()).or_default();
            peer.joined = digest.joined.then_some(now);
            peer.address = Some(from.peer());
            if !behind {
                peer.matched.push((digest.from.clone(), digest.to.clone()));
                self.consider_joined(now);
            }
        } else if !behind {
            self.note_match(now, sender, (digest.from.clone(), digest.to.clone()));
        }
        if !digest.reply {
            self.note_range(from, (digest.from.clone(), digest.to.clone()));
        }
    }

    /// Joined is who holds all that a member holds; where nobody is a member yet, all that every seed holds, or after a
    /// while what those hold that answer. Who has no seeds is joined when nobody speaks to it.
    pub(super) fn consider_joined(&mut self, now: Instant) {
        if self.is_joined() {
            return;
        }
        let matched: Vec<_> = self.exchange.peers.values().filter(|peer| cover_everything(&peer.matched)).collect();
        let is_recent = |since: Instant| now.since(since) < PATIENCE;
        let has_receipts = |peer: &Peer| peer.receipts.is_some_and(|known| self.receipts.len() >= known.into());
        // A later version's may not all be understood.
        let is_told = |peer: &Peer| has_receipts(peer) || !is_recent(self.exchange.started);
        let by_member = matched.iter().any(|peer| peer.joined.is_some() && is_told(peer));
        let member_heard = self.exchange.peers.values().any(|peer| peer.joined.is_some_and(is_recent));
        let names = self.settings.seeds.iter().filter(|seed| matches!(seed, Seed::Name(..))).count();
        let matches = |seed: &SocketAddr| matched.iter().any(|peer| peer.address == Some(*seed) && is_told(peer));
        let all_seeds = names == 0 && self.exchange.seed_addresses.iter().all(matches);
        let patience_over = !member_heard && !is_recent(self.exchange.started);
        let found = !matched.is_empty() && (by_member || (all_seeds && !member_heard) || patience_over);
        let unheard = self.exchange.peers.is_empty() && self.membership.active().next().is_none();
        let is_alone = self.exchange.is_seedless && unheard && now.since(self.exchange.started) >= LISTEN;
        if found || is_alone {
            self.exchange.joined_at = Some(now);
            self.exchange.peers.clear();
            self.stale = Stale::All;
            self.notice(Notice::Joined { members: self.membership.active().count() + 1 });
        }
    }

    pub(super) fn entry(&self, name: &NodeName, standing: bool, record: bool) -> Entry {
        let member = if *name == self.settings.name {
            let own = self.membership.identity();
            Some((own.clone(), own_standing(own)))
        } else {
            let found = self.membership.told().find(|(identity, _)| identity.name == *name);
            found.map(|(identity, standing)| (identity.clone(), standing))
        };
        Entry { member: member.filter(|_| standing), record: self.records.get(name).filter(|_| record).cloned() }
    }

    pub(super) fn own_entry(&self) -> Entry {
        self.entry(&self.settings.name, true, true)
    }

    pub(super) fn send_entries(&mut self, to: impl Into<Route>, entries: Vec<Entry>) {
        let to = to.into();
        let budget = self.budget(to);
        let (mut chunk, mut room) = (Vec::new(), budget);
        for entry in entries {
            let size = encoded_len(&entry);
            if size > room {
                self.send(to, &Message::Entries(std::mem::take(&mut chunk)));
                room = budget;
            }
            room = room.saturating_sub(size);
            chunk.push(entry);
        }
        if !chunk.is_empty() {
            self.send(to, &Message::Entries(chunk));
        }
    }

    pub(super) fn on_entries(&mut self, now: Instant, entries: Vec<Entry>) {
        if self.leaving.is_some() {
            return;
        }
        let own = self.membership.identity().clone();
        let mut members = Vec::new();
        for Entry { member, record } in entries {
            // Of this node itself only its own death is news: foca refutes it.
            members.extend(member.filter(|(identity, standing)| {
                let is_other = identity.name != own.name && !(standing.down && self.is_with_me(identity));
                is_other || (*identity == own && (standing.down || standing.suspect))
            }));
            match record {
                Some(record) if record.node == own.name => self.outdo(now, &record),
                Some(record) => {
                    self.membership.broadcast(now, &record);
                    self.take_record(record);
                }
                None => {}
            }
        }
        self.membership.apply(now, members);
    }
}
