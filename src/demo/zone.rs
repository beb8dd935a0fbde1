//! The demo's one zone, in memory: what the DNS server answers from and what the HTTP API changes.
//!
//! A zone keeps A and AAAA sets beside its own SOA and NS. Its contents live in a watch channel, so that a reader
//! always sees one whole state and an observer can wait for the next. It never touches a socket; [`super::dns`] and
//! [`super::api`] do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use tokio::sync::watch;

/// How long anybody may remember the zone's own SOA and NS, and that something is not there; in seconds.
const ZONE_TTL: u32 = 60;
/// How many sets the zone holds at most.
const MAX_SETS: usize = 256;
/// How many records one set holds at most. All of them fit one answer over TCP.
const MAX_RECORDS: usize = 256;
/// The largest TTL there is (RFC 2181, 8), in seconds.
const MAX_TTL: u32 = i32::MAX as u32;

/// What is wrong with a name, a record or a set of edits. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No name, one that is not written out to its final dot, or one with characters that a host's name has not.
    #[error("DNS Name '{0}' is not canonical: letters, digits, '-' and '_', in full, with a dot at its end")]
    Name(String),
    /// A name that belongs to another zone.
    #[error("RRset {name} IN {kind}: Name is out of zone {zone}")]
    OutOfZone {
        /// The set's name.
        name: String,
        /// The set's type.
        kind: String,
        /// The zone.
        zone: String,
    },
    /// A type that this server does not keep.
    #[error("RRset {name} IN {kind}: unknown type given: this server keeps A and AAAA")]
    Kind {
        /// The set's name.
        name: String,
        /// The set's type, as given.
        kind: String,
    },
    /// The same set twice among the edits.
    #[error("Duplicate RRset {name} IN {kind}: give each set once")]
    Twice {
        /// The set's name.
        name: String,
        /// The set's type.
        kind: String,
    },
    /// A TTL out of range.
    #[error("RRset {name} IN {kind}: a TTL is at most {MAX_TTL} seconds")]
    Ttl {
        /// The set's name.
        name: String,
        /// The set's type.
        kind: String,
    },
    /// A content that is no address of the set's type.
    #[error("Record {name}/{kind} '{content}': not an address of that type")]
    Content {
        /// The set's name.
        name: String,
        /// The set's type.
        kind: String,
        /// What was given.
        content: String,
    },
    /// The same record twice in a set.
    #[error("Duplicate record in RRset {name} IN {kind} with content '{content}'")]
    Record {
        /// The set's name.
        name: String,
        /// The set's type.
        kind: String,
        /// What was given.
        content: String,
    },
    /// More sets or records than this server keeps.
    #[error("too much: this server keeps {MAX_SETS} sets of {MAX_RECORDS} records each")]
    Full,
}

/// One record of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub address: IpAddr,
    /// Kept, but not served.
    pub disabled: bool,
}

/// The records of one name and type, in the order they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// In seconds.
    pub ttl: u32,
    /// Never empty.
    pub entries: Vec<Entry>,
}

/// A wish to change one set. Names and contents are as they came, to be checked by [`Zone::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Absolute, in the zone.
    pub name: String,
    /// `A` or `AAAA`.
    pub kind: String,
    /// The new set; `None`, or one without records, deletes it.
    pub set: Option<NewSet>,
}

/// What shall stand in a set's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSet {
    /// In seconds.
    pub ttl: u32,
    /// Content and whether it is disabled.
    pub records: Vec<(String, bool)>,
}

/// One state of the zone.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Grows with each change.
    pub serial: u32,
    /// When this state began, on the clock that the nodes' logs use as well.
    pub since: SystemTime,
    /// The A and AAAA sets.
    pub sets: BTreeMap<(LowerName, RecordType), Set>,
}

impl Contents {
    /// The addresses that `name` answers with.
    pub fn addresses(&self, name: &LowerName) -> BTreeSet<IpAddr> {
        let sets = self.sets.iter().filter(|((owner, _), _)| owner == name);
        sets.flat_map(|(_, set)| &set.entries).filter(|entry| !entry.disabled).map(|entry| entry.address).collect()
    }
}

/// The sets, one a line, as people write them.
impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serial {}", self.serial)?;
        for ((name, kind), set) in &self.sets {
            write!(f, "\n  {name} {} {kind}", set.ttl)?;
            for entry in set.entries.iter().filter(|entry| !entry.disabled) {
                write!(f, " {}", entry.address)?;
            }
        }
        Ok(())
    }
}

/// What the zone has to say to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// These records.
    Found(Vec<Record>),
    /// The name is there, the type is not.
    NoData,
    /// The name is not there.
    NoName,
    /// Another zone's name.
    Outside,
}

/// The zone.
#[derive(Debug)]
pub struct Zone {
    origin: LowerName,
    server: LowerName,
    contents: watch::Sender<Contents>,
}

impl Zone {
    /// A zone named `origin` (absolute), served by `ns.ORIGIN` at `server`, and empty but for that.
    ///
    /// # Errors
    /// If `origin` is no absolute name of letters, digits, `-` and `_`, or leaves no room for a label before it.
    pub fn new(origin: &str, server: IpAddr) -> Result<Self, ZoneError> {
        let origin = absolute(origin)?;
        let name = origin.prepend_label("ns").map_err(|_| ZoneError::Name(format!("ns.{origin}")))?;
        let kind = match server {
            IpAddr::V4(_) => RecordType::A,
            IpAddr::V6(_) => RecordType::AAAA,
        };
        let glue = Set { ttl: ZONE_TTL, entries: vec![Entry { address: server, disabled: false }] };
        let server = LowerName::new(&name);
        let sets = BTreeMap::from([((server.clone(), kind), glue)]);
        let contents = Contents { serial: 1, since: SystemTime::now(), sets };
        Ok(Self { origin, server, contents: watch::Sender::new(contents) })
    }

    /// The zone's name.
    pub fn origin(&self) -> &LowerName {
        &self.origin
    }

    /// The contents now, and word of every change.
    pub fn subscribe(&self) -> watch::Receiver<Contents> {
        self.contents.subscribe()
    }

    /// Makes all of `edits`, or none of them. Edits that change nothing leave the serial as it is and wake nobody.
    ///
    /// # Errors
    /// The first fault found; the zone is as it was.
    pub fn apply(&self, edits: &[Edit]) -> Result<(), ZoneError> {
        let mut result = Ok(());
        self.contents.send_if_modified(|contents| match self.edited(&contents.sets, edits) {
            Ok(sets) if sets == contents.sets => false,
            Ok(sets) => {
                *contents = Contents { serial: contents.serial.wrapping_add(1), since: SystemTime::now(), sets };
                true
            }
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result
    }

    fn edited(
        &self,
        sets: &BTreeMap<(LowerName, RecordType), Set>,
        edits: &[Edit],
    ) -> Result<BTreeMap<(LowerName, RecordType), Set>, ZoneError> {
        let mut sets = sets.clone();
        let mut seen = BTreeSet::new();
        for edit in edits {
            let key = self.key(&edit.name, &edit.kind)?;
            if !seen.insert(key.clone()) {
                return Err(ZoneError::Twice { name: edit.name.clone(), kind: edit.kind.clone() });
            }
            match &edit.set {
                Some(new) if !new.records.is_empty() => sets.insert(key, checked(edit, new)?),
                _ => sets.remove(&key),
            };
        }
        if sets.len() > MAX_SETS { Err(ZoneError::Full) } else { Ok(sets) }
    }

    fn key(&self, name: &str, kind: &str) -> Result<(LowerName, RecordType), ZoneError> {
        let owner = absolute(name)?;
        let record_type = match kind {
            "A" => RecordType::A,
            "AAAA" => RecordType::AAAA,
            _ => return Err(ZoneError::Kind { name: name.into(), kind: kind.into() }),
        };
        if self.origin.zone_of(&owner) {
            Ok((owner, record_type))
        } else {
            Err(ZoneError::OutOfZone { name: name.into(), kind: kind.into(), zone: self.origin.to_string() })
        }
    }

    /// What the zone has of `kind` at `name`; [`RecordType::ANY`] asks for all.
    pub fn lookup(&self, name: &LowerName, kind: RecordType) -> Lookup {
        if !self.origin.zone_of(name) {
            return Lookup::Outside;
        }
        let contents = self.contents.borrow();
        let wanted = |have: RecordType| kind == have || kind == RecordType::ANY;
        let mut found = Vec::new();
        if *name == self.origin {
            found.extend(wanted(RecordType::SOA).then(|| self.soa_record(contents.serial)));
            found.extend(wanted(RecordType::NS).then(|| self.ns_record()));
        }
        for have in [RecordType::A, RecordType::AAAA].into_iter().filter(|have| wanted(*have)) {
            let Some(set) = contents.sets.get(&(name.clone(), have)) else { continue };
            let served = set.entries.iter().filter(|entry| !entry.disabled);
            found.extend(served.map(|entry| Record::from_rdata(Name::from(name), set.ttl, RData::from(entry.address))));
        }
        if !found.is_empty() {
            return Lookup::Found(found);
        }
        // A name that only has names below it is there all the same (RFC 8020).
        let there = *name == self.origin || contents.sets.keys().any(|(owner, _)| name.zone_of(owner));
        if there { Lookup::NoData } else { Lookup::NoName }
    }

    /// The SOA, as an answer that finds nothing carries it.
    pub fn soa(&self) -> Record {
        self.soa_record(self.contents.borrow().serial)
    }

    /// The records that are the zone's own, SOA and NS: nobody can change them.
    pub fn own_records(&self) -> [Record; 2] {
        [self.soa(), self.ns_record()]
    }

    fn soa_record(&self, serial: u32) -> Record {
        let server = Name::from(&self.server);
        // The mailbox of whoever answers for the zone: nobody reads it here.
        let soa = SOA::new(server.clone(), server, serial, 3600, 600, 86_400, ZONE_TTL);
        Record::from_rdata(Name::from(&self.origin), ZONE_TTL, RData::SOA(soa))
    }

    fn ns_record(&self) -> Record {
        Record::from_rdata(Name::from(&self.origin), ZONE_TTL, RData::NS(NS(Name::from(&self.server))))
    }
}

/// Takes `text` as an absolute name of letters, digits, `-`, `_` and, as a whole label, `*`.
///
/// # Errors
/// Anything else.
pub fn absolute(text: &str) -> Result<LowerName, ZoneError> {
    let plain = |label: &[u8]| label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    match Name::from_ascii(text) {
        Ok(name) if name.is_fqdn() && name.iter().all(|label| plain(label) || label == b"*") => {
            Ok(LowerName::new(&name))
        }
        _ => Err(ZoneError::Name(text.into())),
    }
}

fn checked(edit: &Edit, new: &NewSet) -> Result<Set, ZoneError> {
    let (name, kind) = (&edit.name, &edit.kind);
    if new.ttl > MAX_TTL {
        return Err(ZoneError::Ttl { name: name.clone(), kind: kind.clone() });
    }
    if new.records.len() > MAX_RECORDS {
        return Err(ZoneError::Full);
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(new.records.len());
    for (content, disabled) in &new.records {
        let address = content.parse().ok().filter(|address: &IpAddr| address.is_ipv4() == (kind == "A"));
        let Some(address) = address else {
            return Err(ZoneError::Content { name: name.clone(), kind: kind.clone(), content: content.clone() });
        };
        if entries.iter().any(|entry| entry.address == address) {
            return Err(ZoneError::Record { name: name.clone(), kind: kind.clone(), content: content.clone() });
        }
        entries.push(Entry { address, disabled: *disabled });
    }
    Ok(Set { ttl: new.ttl, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone::new("Example.ORG.", "127.0.0.1".parse().unwrap()).unwrap()
    }

    fn edit(name: &str, kind: &str, records: &[&str]) -> Edit {
        let records = records.iter().map(|text| (text.to_string(), false)).collect();
        Edit { name: name.into(), kind: kind.into(), set: Some(NewSet { ttl: 30, records }) }
    }

    fn name(text: &str) -> LowerName {
        absolute(text).unwrap()
    }

    #[test]
    fn bad_edits_change_nothing_and_say_why() {
        let many: Vec<String> = (0..=MAX_RECORDS).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (bad, word) in [
            (edit("www.example.org", "A", &["10.0.0.1"]), "dot at its end"),
            (edit("", "A", &["10.0.0.1"]), "not canonical"),
            (edit("a..example.org.", "A", &["10.0.0.1"]), "not canonical"),
            (edit("a b.example.org.", "A", &["10.0.0.1"]), "letters"),
            (edit("a\\.b.example.org.", "A", &["10.0.0.1"]), "letters"),
            (edit("a*.example.org.", "A", &["10.0.0.1"]), "letters"),
            (edit("www.example.net.", "A", &["10.0.0.1"]), "out of zone"),
            (edit("wwwexample.org.", "A", &["10.0.0.1"]), "out of zone"),
            (edit("www.example.org.", "MX", &["10 a."]), "unknown type"),
            (edit("www.example.org.", "a", &["10.0.0.1"]), "unknown type"),
            (edit("www.example.org.", "A", &["::1"]), "not an address"),
            (edit("www.example.org.", "AAAA", &["10.0.0.1"]), "not an address"),
            (edit("www.example.org.", "A", &["10.0.0.256"]), "not an address"),
            (edit("www.example.org.", "A", &["10.0.0.1", "10.0.0.1"]), "Duplicate record"),
            (edit("www.example.org.", "A", &many), "too much"),
            (edit("good.example.org.", "AAAA", &["::1"]), "Duplicate RRset"),
        ] {
            let zone = zone();
            let before = zone.subscribe();
            let good = edit("good.example.org.", "AAAA", &["::2"]);
            let error = zone.apply(&[good, bad.clone()]).expect_err(&format!("{bad:?}"));
            assert!(error.to_string().contains(word), "{bad:?}: {error}");
            assert!(!before.has_changed().unwrap(), "{bad:?} changed the zone");
        }
    }

    #[test]
    fn a_change_is_seen_once_and_an_equal_edit_not_at_all() {
        let zone = zone();
        let mut seen = zone.subscribe();
        zone.apply(&[edit("WWW.example.org.", "A", &["10.0.0.1", "10.0.0.2"])]).unwrap();
        assert!(seen.has_changed().unwrap());
        let contents = seen.borrow_and_update().clone();
        assert_eq!(contents.serial, 2);
        assert_eq!(contents.addresses(&name("www.example.org.")).len(), 2);

        zone.apply(&[edit("www.example.org.", "A", &["10.0.0.1", "10.0.0.2"])]).unwrap();
        assert!(!seen.has_changed().unwrap(), "an equal set is no change");

        zone.apply(&[edit("www.example.org.", "A", &[])]).unwrap();
        assert!(seen.borrow_and_update().addresses(&name("www.example.org.")).is_empty());
        assert_eq!(zone.lookup(&name("www.example.org."), RecordType::A), Lookup::NoName);
    }

    #[test]
    fn a_disabled_record_is_kept_and_not_served() {
        let zone = zone();
        let records = vec![("10.0.0.1".into(), true), ("10.0.0.2".into(), false)];
        let set = Some(NewSet { ttl: 5, records });
        zone.apply(&[Edit { name: "www.example.org.".into(), kind: "A".into(), set }]).unwrap();
        let Lookup::Found(records) = zone.lookup(&name("www.example.org."), RecordType::A) else { panic!("no answer") };
        assert_eq!(records.len(), 1);
        assert_eq!(zone.subscribe().borrow().sets.len(), 2, "ns and www");
        assert_eq!(zone.subscribe().borrow().addresses(&name("www.example.org.")).len(), 1);
    }

    #[test]
    fn lookups_tell_no_data_from_no_name_and_from_outside() {
        let zone = zone();
        zone.apply(&[edit("a.b.example.org.", "A", &["10.0.0.1"])]).unwrap();
        for (asked, kind, want) in [
            ("a.b.example.org.", RecordType::AAAA, Lookup::NoData),
            ("b.example.org.", RecordType::A, Lookup::NoData),
            ("example.org.", RecordType::A, Lookup::NoData),
            ("x.a.b.example.org.", RecordType::A, Lookup::NoName),
            ("ab.example.org.", RecordType::A, Lookup::NoName),
            ("org.", RecordType::A, Lookup::Outside),
            ("example.net.", RecordType::SOA, Lookup::Outside),
        ] {
            assert_eq!(zone.lookup(&name(asked), kind), want, "{asked} {kind}");
        }
        let Lookup::Found(all) = zone.lookup(&name("example.org."), RecordType::ANY) else { panic!("no apex") };
        assert_eq!(all.iter().map(Record::record_type).collect::<Vec<_>>(), [RecordType::SOA, RecordType::NS]);
    }

    #[test]
    fn a_full_zone_takes_no_more() {
        let zone = zone();
        let edits: Vec<_> = (0..MAX_SETS).map(|i| edit(&format!("n{i}.example.org."), "A", &["10.0.0.1"])).collect();
        assert_eq!(zone.apply(&edits), Err(ZoneError::Full), "ns is there already");
        assert_eq!(zone.apply(&edits[1..]), Ok(()));
    }
}
