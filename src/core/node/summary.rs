//! Comparing views of many members in few bytes: a hash for each part of the names first, lines only for what differs.
//!
//! At rest two views are equal, and this is all that an exchange costs, so that it costs the same in a cluster of a
//! thousand as in one of a hundred. What differs is compared by digests, as everything is in a small cluster and while a
//! node joins. Called by `exchange`, on a connection or by datagrams.

use std::collections::BTreeMap;

use ring::digest;

use super::Node;
use super::range::Range;
use crate::message::{DigestLine, Message, Part, encoded_len};
use crate::name::NodeName;
use crate::route::Route;

/// With fewer names their lines are told at once.
const WORTH_IT: usize = 32;
/// So many names share a hash, or more where the hashes would not fit into a datagram.
const NAMES_IN_A_PART: usize = 16;

impl Node {
    /// Begins to compare all that this node holds.
    pub(super) fn send_summary(&mut self, to: impl Into<Route>) {
        let to = to.into();
        let lines = self.digest_lines(None, None);
        if lines.len() < WORTH_IT || !self.is_joined() {
            return self.send_digest(to, None, None, true);
        }
        let mut size = NAMES_IN_A_PART;
        let mut parts = parts(&lines, size);
        while encoded_len(&parts) > self.budget(to) {
            size *= 2;
            parts = self::parts(&lines, size);
        }
        self.send(to, &Message::Summary(parts));
    }

    /// A peer has told the hashes of what it holds: it hears where this node holds something else.
    pub(super) fn on_summary(&mut self, from: Route, theirs: &[Part]) {
        let is_sound = theirs.is_sorted_by(|a, b| a.to.is_some() && (b.to.is_none() || a.to < b.to));
        if !is_sound || theirs.last().is_none_or(|last| last.to.is_some()) {
            return;
        }
        let lines = self.digest_lines(None, None);
        let mut lines = lines.iter().peekable();
        let mut before: Option<NodeName> = None;
        let mut differing: Vec<Range> = Vec::new();
        for Part { to, hash } in theirs {
            let mut ours = Hash::default();
            while let Some((_, line)) = lines.next_if(|(name, _)| to.as_ref().is_none_or(|to| *name <= to)) {
                ours.add(line);
            }
            if ours.finish() != *hash {
                match differing.last_mut().filter(|range| range.1 == before && before.is_some()) {
                    Some(range) => range.1 = to.clone(),
                    None => differing.push((before.clone(), to.clone())),
                }
            }
            before = to.clone();
        }
        self.send(from, &Message::Differing(differing));
    }

    /// A peer has told where it holds something else: there, lines are compared.
    pub(super) fn on_differing(&mut self, from: Route, ranges: Vec<Range>) {
        // As many as there are, they must not overlap: what is sent is no more than the whole.
        let is_sound = ranges.is_sorted_by(|a, b| a.1.is_some() && a.1 <= b.0)
            && ranges.iter().all(|(from, to)| from.is_none() || to.is_none() || from < to);
        if !is_sound {
            return;
        }
        let mut equal_from = None;
        for (range_from, range_to) in ranges {
            if range_from.is_some() {
                self.note_range(from, (equal_from, range_from.clone()));
            }
            self.send_digest(from, range_from, range_to.clone(), true);
            if range_to.is_none() {
                return;
            }
            equal_from = range_to;
        }
        self.note_range(from, (equal_from, None));
    }
}

fn parts(lines: &BTreeMap<NodeName, DigestLine>, size: usize) -> Vec<Part> {
    let lines: Vec<_> = lines.values().collect();
    let mut parts: Vec<_> = lines
        .chunks(size)
        .map(|lines| {
            let mut hash = Hash::default();
            lines.iter().for_each(|line| hash.add(line));
            Part { to: lines.last().map(|line| line.node.clone()), hash: hash.finish() }
        })
        .collect();
    if let Some(last) = parts.last_mut() {
        last.to = None;
    }
    parts
}

/// Of the lines in a part.
struct Hash(digest::Context);

impl Default for Hash {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash {
    fn add(&mut self, line: &DigestLine) {
        // A line tells its own length.
        self.0.update(&postcard::to_stdvec(line).expect("a line has no type that postcard refuses"));
    }

    fn finish(self) -> u64 {
        let hash = self.0.finish();
        u64::from_be_bytes(hash.as_ref()[..8].try_into().expect("SHA-256 has more than 8 bytes"))
    }
}
