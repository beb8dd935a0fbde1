//! The envelope of every datagram and frame: who sent it, sealed so that only the cluster can read or write it.
//!
//! ```text
//! version 1 | cluster 4 | key id 4 | boot 8 | counter 8 | name length 1 | name | ciphertext | tag 16
//! ```
//!
//! Integers are big-endian. All before the ciphertext is authenticated with it. The key is derived for each boot of each
//! node (HKDF-SHA256 of the cluster's key over cluster, name and boot), so that a plain counter is a sound nonce for
//! ChaCha20-Poly1305: one shared key with random nonces would run out at a few hundred nodes within weeks (NIST SP
//! 800-38D's limit of 2^32 random nonces a key). A boot is never used twice, since it is made durable before the first
//! datagram. A sliding window refuses replays (RFC 4303, section 3.4.3), a lower boot than known is refused, and there is
//! no check of wall clocks.
//!
//! This module proves who wrote a datagram. It does not prove that it is new when the writer was not known before: that
//! is the challenge's part, see [`crate::contacts`].

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{digest, hkdf};

use crate::name::{ClusterName, MAX_LEN, NodeName};

/// The first byte of every datagram, and of every frame after its length.
pub const VERSION: u8 = 3;
/// No datagram is larger: what IPv6's smallest MTU (1280) leaves after IP and UDP headers.
pub const MAX_DATAGRAM: usize = 1232;
/// No frame on a TCP connection is larger, its length's four bytes aside; and none larger than [`MAX_DATAGRAM`] before
/// its sender is confirmed.
pub const MAX_FRAME: usize = 16 << 10;
const FIXED: usize = 26;
const TAG: usize = 16;

/// How many bytes the envelope adds to a payload sent by `name`.
pub fn overhead(name: &NodeName) -> usize {
    FIXED + name.as_str().len() + TAG
}

/// The cluster's shared secret.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A key of 32 random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of a cluster without one. Everybody knows it: it keeps the format one, not the secret. Only for loopback.
    pub fn none() -> Self {
        let digest = digest::digest(&digest::SHA256, b"picored: no key");
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn derive(&self, parts: &[&[u8]]) -> hkdf::Prk {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"picored envelope 1");
        let mut out = [0; 32];
        salt.extract(&self.0)
            .expand(parts, hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("one block of HKDF is within its limit");
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &out)
    }

    fn id(&self) -> [u8; 4] {
        let mut id = [0; 4];
        self.derive(&[b"key id"])
            .expand(&[b""], Four)
            .and_then(|okm| okm.fill(&mut id))
            .expect("four bytes are within HKDF's limit");
        id
    }

    fn boot_key(&self, cluster: &ClusterName, name: &NodeName, boot: u64) -> LessSafeKey {
        let (cluster, name) = (cluster.as_str().as_bytes(), name.as_str().as_bytes());
        // Lengths keep (ab, c) and (a, bc) apart.
        let lengths = [cluster.len() as u8, name.len() as u8];
        let prk = self.derive(&[b"boot", &lengths, cluster, name, &boot.to_be_bytes()]);
        let okm = prk.expand(&[b""], &CHACHA20_POLY1305).expect("a key is within HKDF's limit");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

struct Four;
impl hkdf::KeyType for Four {
    fn len(&self) -> usize {
        4
    }
}

/// Why a datagram was not taken. Each reason is counted under its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Shorter than an envelope, or larger than [`MAX_DATAGRAM`] or what a frame may have.
    #[error("length: no datagram or frame of a picored has this length")]
    Length,
    /// Another version of the format, or no picored at all.
    #[error("version: not a datagram of a picored, or of another version of the protocol")]
    Version,
    /// Another cluster's.
    #[error("cluster: from a node with another cluster.name; check it on both sides")]
    Cluster,
    /// Sealed with another key.
    #[error("key: sealed with another key; compare the cluster.key_file of both sides")]
    Key,
    /// The sender's name is none.
    #[error("name: the sender's name is not a valid one")]
    Name,
    /// Altered, or forged without the key.
    #[error("forged: the seal is broken; altered on the way, or written without the key")]
    Forged,
    /// Seen before, or too old to tell.
    #[error("replay: seen before, or older than the window")]
    Replay,
    /// From an earlier life of the sender.
    #[error("stale: from an earlier start of the sender")]
    Stale,
    /// Opened, but not understood.
    #[error("malformed: sealed with the right key, but not a message of this version")]
    Malformed,
    /// More strangers at once than are remembered, or more connections than are served.
    #[error("crowded: too many unknown senders or connections at once")]
    Crowded,
    /// A connection on which no whole frame came in time.
    #[error("silent: connected over TCP and sent no whole frame in time")]
    Silent,
}

impl Refusal {
    /// The word it is counted under.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Version => "version",
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Name => "name",
            Self::Forged => "forged",
            Self::Replay => "replay",
            Self::Stale => "stale",
            Self::Malformed => "malformed",
            Self::Crowded => "crowded",
            Self::Silent => "silent",
        }
    }
}

/// What all datagrams of one cluster share.
#[derive(Debug)]
pub struct Cluster {
    name: ClusterName,
    key: ClusterKey,
    tag: [u8; 4],
    key_id: [u8; 4],
}

impl Cluster {
    /// The cluster `name` with its `key`.
    pub fn new(name: ClusterName, key: ClusterKey) -> Self {
        let hash = digest::digest(&digest::SHA256, name.as_str().as_bytes());
        let tag = hash.as_ref()[..4].try_into().expect("SHA-256 has more than 4 bytes");
        let key_id = key.id();
        Self { name, key, tag, key_id }
    }

    /// The key that `name` seals with since `boot`.
    pub fn boot_key(&self, name: &NodeName, boot: u64) -> BootKey {
        BootKey(self.key.boot_key(&self.name, name, boot))
    }

    /// Reads the part of a datagram that is not sealed. Nothing of it is proven yet.
    pub fn read<'a>(&self, datagram: &'a [u8]) -> Result<Envelope<'a>, Refusal> {
        self.read_within(datagram, MAX_DATAGRAM)
    }

    /// The same for a datagram or frame of at most `at_most` bytes.
    pub fn read_within<'a>(&self, datagram: &'a [u8], at_most: usize) -> Result<Envelope<'a>, Refusal> {
        if datagram.first().is_some_and(|&version| version != VERSION) {
            return Err(Refusal::Version);
        }
        let name_len = usize::from(*datagram.get(FIXED - 1).ok_or(Refusal::Length)?);
        if name_len == 0 || name_len > MAX_LEN {
            return Err(Refusal::Name);
        }
        let header_len = FIXED + name_len;
        if datagram.len() < header_len + TAG || datagram.len() > at_most {
            return Err(Refusal::Length);
        }
        let (header, sealed) = datagram.split_at(header_len);
        if header[1..5] != self.tag {
            return Err(Refusal::Cluster);
        }
        if header[5..9] != self.key_id {
            return Err(Refusal::Key);
        }
        let sender = std::str::from_utf8(&header[FIXED..]).ok().and_then(|name| NodeName::new(name).ok());
        Ok(Envelope {
            sender: sender.ok_or(Refusal::Name)?,
            boot: u64::from_be_bytes(header[9..17].try_into().expect("eight bytes")),
            counter: u64::from_be_bytes(header[17..25].try_into().expect("eight bytes")),
            header,
            sealed,
        })
    }
}

/// A datagram whose header was read, but not proven.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Who claims to have sent it.
    pub sender: NodeName,
    /// The sender's boot.
    pub boot: u64,
    /// The sender's counter.
    pub counter: u64,
    header: &'a [u8],
    sealed: &'a [u8],
}

impl Envelope<'_> {
    /// Proves the envelope with the sender's key and gives what was in it.
    pub fn open(&self, key: &BootKey) -> Result<Vec<u8>, Refusal> {
        let mut buffer = self.sealed.to_vec();
        let plain = key
            .0
            .open_in_place(nonce(self.counter), Aad::from(self.header), &mut buffer)
            .map_err(|_| Refusal::Forged)?
            .len();
        buffer.truncate(plain);
        Ok(buffer)
    }
}

/// One boot's key.
pub struct BootKey(LessSafeKey);

impl std::fmt::Debug for BootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BootKey(..)")
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The sending side: one boot of one node.
#[derive(Debug)]
pub struct Sealer {
    header: Vec<u8>,
    key: BootKey,
    counter: u64,
}

impl Sealer {
    /// For the node `name`, started as `boot`. A (name, boot) pair must never be used by two sealers.
    pub fn new(cluster: &Cluster, name: &NodeName, boot: u64) -> Self {
        let mut header = Vec::with_capacity(FIXED + name.as_str().len());
        header.push(VERSION);
        header.extend(cluster.tag);
        header.extend(cluster.key_id);
        header.extend(boot.to_be_bytes());
        header.extend([0; 8]);
        header.push(name.as_str().len() as u8);
        header.extend(name.as_str().as_bytes());
        Self { header, key: cluster.boot_key(name, boot), counter: 0 }
    }

    /// Seals one payload.
    pub fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let mut out = Vec::with_capacity(self.header.len() + payload.len() + TAG);
        out.extend(&self.header);
        out[17..25].copy_from_slice(&self.counter.to_be_bytes());
        let mut sealed = payload.to_vec();
        self.key
            .0
            .seal_in_place_append_tag(nonce(self.counter), Aad::from(&out), &mut sealed)
            .expect("a datagram is far below the cipher's limit");
        out.append(&mut sealed);
        out
    }
}

/// Which counters of one boot were seen: the newest, and a bit for each of the 128 up to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    newest: u64,
    seen: u128,
}

impl Window {
    /// Whether `counter` would be new.
    pub fn is_new(&self, counter: u64) -> bool {
        counter > self.newest
            || (self.newest - counter < 128 && counter != 0 && self.seen & (1 << (self.newest - counter)) == 0)
    }

    /// Remembers `counter`, whose datagram was proven.
    pub fn mark(&mut self, counter: u64) {
        if counter > self.newest {
            let shift = u32::try_from(counter - self.newest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.newest = counter;
        } else if self.newest - counter < 128 {
            self.seen |= 1 << (self.newest - counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, key: u8) -> Cluster {
        Cluster::new(ClusterName::new(name).unwrap(), ClusterKey::new([key; 32]))
    }

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        let ours = cluster("example", 1);
        let mut sealer = Sealer::new(&ours, &name("web1"), 7);
        let datagram = sealer.seal(b"hello");
        assert_eq!(datagram.len(), b"hello".len() + overhead(&name("web1")));
        let envelope = ours.read(&datagram).unwrap();
        assert_eq!((envelope.sender.as_str(), envelope.boot, envelope.counter), ("web1", 7, 1));
        assert_eq!(envelope.open(&ours.boot_key(&name("web1"), 7)).unwrap(), b"hello");
        // One bit changed, anywhere: refused with some reason.
        for at in 0..datagram.len() * 8 {
            let mut bent = datagram.clone();
            bent[at / 8] ^= 1 << (at % 8);
            let opened = ours.read(&bent).and_then(|e| e.open(&ours.boot_key(&e.sender, e.boot)));
            assert!(opened.is_err(), "bit {at}");
        }
        // Cut anywhere.
        for len in 0..datagram.len() {
            let cut = &datagram[..len];
            assert!(ours.read(cut).and_then(|e| e.open(&ours.boot_key(&e.sender, e.boot))).is_err(), "length {len}");
        }
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        let ours = cluster("example", 1);
        let from = |cluster: &Cluster| Sealer::new(cluster, &name("web1"), 7).seal(b"x");
        assert_eq!(ours.read(&from(&cluster("other", 1))).unwrap_err(), Refusal::Cluster);
        assert_eq!(ours.read(&from(&cluster("example", 2))).unwrap_err(), Refusal::Key);
        assert_eq!(ours.read(b"").unwrap_err(), Refusal::Length);
        assert_eq!(ours.read(b"GET / HTTP/1.1").unwrap_err(), Refusal::Version);
        assert_eq!(ours.read(&[VERSION; 20]).unwrap_err(), Refusal::Length);
        let mut long = from(&ours);
        long.resize(MAX_DATAGRAM + 1, 0);
        assert_eq!(ours.read(&long).unwrap_err(), Refusal::Length);
    }

    #[test]
    fn each_boot_and_each_name_has_its_own_key() {
        let ours = cluster("example", 1);
        let datagram = Sealer::new(&ours, &name("web1"), 7).seal(b"x");
        let envelope = ours.read(&datagram).unwrap();
        assert_eq!(envelope.open(&ours.boot_key(&name("web1"), 8)).unwrap_err(), Refusal::Forged);
        assert_eq!(envelope.open(&ours.boot_key(&name("web2"), 7)).unwrap_err(), Refusal::Forged);
    }

    #[test]
    fn two_datagrams_never_look_alike() {
        let mut sealer = Sealer::new(&cluster("example", 1), &name("web1"), 7);
        assert_ne!(sealer.seal(b"same")[FIXED..], sealer.seal(b"same")[FIXED..]);
    }

    #[test]
    fn the_window_takes_each_counter_once() {
        let mut window = Window::default();
        assert!(!window.is_new(0), "counters begin at 1");
        for counter in [1, 3, 2, 130, 5, 129, 131] {
            assert!(window.is_new(counter), "{counter}");
            window.mark(counter);
            assert!(!window.is_new(counter), "{counter}");
        }
        assert!(window.is_new(4), "inside of the window and not seen");
        assert!(!window.is_new(1) && !window.is_new(3), "seen or too old");
        window.mark(u64::MAX);
        assert!(!window.is_new(131) && window.is_new(u64::MAX - 1));
    }

    #[test]
    fn the_format_stays() {
        // A golden datagram: if this changes, the version byte must.
        let datagram = Sealer::new(&cluster("example", 1), &name("web1"), 0x0102_0304_0506_0708).seal(b"picored");
        let hex: String = datagram.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden/envelope-3.hex").trim());
    }
}
