//! What a name's A and AAAA records shall hold, computed from what they hold now: pure, without a provider in it, and
//! shared by all handlers that keep a record.
//!
//! The wanted addresses replace every address that a member of the cluster ever claimed; all others are somebody
//! else's and stay. Addresses are compared as addresses, records as sets. A type that the application never had an
//! address of is not touched at all.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::IpAddr;

use crate::Failure;
use crate::bindings::picored::handler::cluster::EndpointSet;

/// The two record types that hold addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::Aaaa];

    /// The record type's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }

    /// Reads a record's value of this type.
    pub fn parse(self, value: &str) -> Result<IpAddr, Failure> {
        value.parse().ok().filter(|address| self.holds(address)).ok_or_else(|| {
            Failure::Permanent(format!("`{value}` stands in a record of type {}: mend that first", self.name()))
        })
    }

    fn holds(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::A)
    }

    fn among(self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        addresses.iter().filter(|address| self.holds(address)).copied().collect()
    }
}

/// The addresses of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    published: BTreeSet<IpAddr>,
    claimed: BTreeSet<IpAddr>,
}

impl Wanted {
    /// Takes the addresses out of the host's answer. One without endpoints is refused, whatever the host promises:
    /// to publish nothing is never right.
    pub fn from_endpoints(set: &EndpointSet) -> Result<Self, Failure> {
        let address = |text: &str| {
            text.parse::<IpAddr>().map_err(|_| Failure::Permanent(format!("the endpoint `{text}` is no IP address")))
        };
        let published = set.endpoints.iter().map(|endpoint| address(&endpoint.address)).collect::<Result<_, _>>()?;
        if set.endpoints.is_empty() {
            return Err(Failure::Retry("there is no endpoint to publish: the record stays as it is".to_string()));
        }
        let claims = set.attributes.iter().filter(|(key, _)| key == "claimed");
        let claimed = claims.map(|(_, value)| address(value)).collect::<Result<_, _>>()?;
        Ok(Self { published, claimed })
    }

    /// The addresses of one family to be published.
    pub fn published(&self, family: Family) -> BTreeSet<IpAddr> {
        family.among(&self.published)
    }

    /// The same without some addresses: neither published, nor ours where a record holds them.
    pub fn without(&self, addresses: &BTreeSet<IpAddr>) -> Self {
        Self { published: &self.published - addresses, claimed: &self.claimed - addresses }
    }

    /// What becomes of the record of one family: `current` is what it is now, `ttl` what it shall have, in seconds.
    /// Nothing, if the application never had an address of that family.
    pub fn plan(&self, family: Family, current: &Record, ttl: u32) -> Option<Plan> {
        let published = self.published(family);
        let ours = &published | &family.among(&self.claimed);
        if ours.is_empty() {
            return None;
        }
        let foreign = &current.values - &ours;
        let values = &published | &foreign;
        // A record that holds nothing of ours is not ours to set the time of.
        let ttl = if published.is_empty() { current.ttl } else { ttl };
        let change = if values == current.values && (ttl == current.ttl || values.is_empty()) {
            Change::None
        } else if values.is_empty() {
            Change::Delete
        } else {
            Change::Replace
        };
        let added = &values - &current.values;
        let removed = &current.values - &values;
        let old_ttl = (ttl != current.ttl && !current.values.is_empty()).then_some(current.ttl);
        let notes = Vec::new();
        Some(Plan { family, change, values, ttl, published, added, removed, foreign, old_ttl, notes })
    }
}

/// A record of one type as it stands. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its addresses.
    pub values: BTreeSet<IpAddr>,
    /// How long resolvers may keep it, in seconds.
    pub ttl: u32,
}

/// What is to be done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as it shall be.
    None,
    /// All its values and its time to live are to be written.
    Replace,
    /// Nothing is left to stand in it.
    Delete,
}

/// What a record shall be. Shown, it says in words what is published and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The record's type.
    pub family: Family,
    /// What is to be done.
    pub change: Change,
    /// All that it shall hold. Empty only if nothing of this family is published.
    pub values: BTreeSet<IpAddr>,
    /// In seconds.
    pub ttl: u32,
    /// What of them is ours.
    pub published: BTreeSet<IpAddr>,
    /// What it lacks now.
    pub added: BTreeSet<IpAddr>,
    /// What it shall no longer hold.
    pub removed: BTreeSet<IpAddr>,
    foreign: BTreeSet<IpAddr>,
    old_ttl: Option<u32>,
    notes: Vec<String>,
}

impl Plan {
    /// Adds to the words what else of the record changes.
    pub fn note(&mut self, words: String) {
        self.notes.push(words);
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.family.name(), if self.published.is_empty() { "none" } else { "" })?;
        f.write_str(&list(&self.published))?;
        let mut notes = Vec::new();
        if self.change == Change::None && self.notes.is_empty() {
            notes.push("unchanged".to_string());
        }
        for (word, addresses) in [("added", &self.added), ("removed", &self.removed), ("kept foreign", &self.foreign)] {
            if !addresses.is_empty() {
                notes.push(format!("{word} {}", list(addresses)));
            }
        }
        if let (Change::Replace, Some(old)) = (self.change, self.old_ttl) {
            notes.push(format!("ttl {old} to {}", self.ttl));
        }
        notes.extend_from_slice(&self.notes);
        write!(f, " ({})", notes.join("; "))
    }
}

/// Addresses as words.
pub fn list<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    addresses.into_iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::picored::handler::cluster::Endpoint;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn wanted(published: &[&str], claimed: &[&str]) -> Wanted {
        Wanted { published: addresses(published), claimed: addresses(claimed) }
    }

    fn record(values: &[&str], ttl: u32) -> Record {
        Record { values: addresses(values), ttl }
    }

    /// The plan for a record, as change, values, and words.
    fn planned(wanted: &Wanted, family: Family, current: &Record) -> (Change, BTreeSet<IpAddr>, String) {
        let plan = wanted.plan(family, current, 60).expect("this family is ours");
        (plan.change, plan.values.clone(), plan.to_string())
    }

    #[test]
    fn a_dead_address_goes_and_a_foreign_one_stays() {
        let wanted = wanted(&["192.0.2.1", "192.0.2.2"], &["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let current = record(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.9"], 60);
        let words = "A: 192.0.2.1 192.0.2.2 (removed 192.0.2.3; kept foreign 198.51.100.9)";
        let values = addresses(&["192.0.2.1", "192.0.2.2", "198.51.100.9"]);
        assert_eq!(planned(&wanted, Family::A, &current), (Change::Replace, values, words.to_string()));
    }

    #[test]
    fn a_record_that_is_right_is_left_alone() {
        let wanted = wanted(&["192.0.2.2", "192.0.2.1"], &["192.0.2.1", "192.0.2.2"]);
        let current = record(&["192.0.2.1", "192.0.2.2"], 60);
        let words = "A: 192.0.2.1 192.0.2.2 (unchanged)".to_string();
        assert_eq!(planned(&wanted, Family::A, &current), (Change::None, current.values.clone(), words));
        let current = record(&["192.0.2.1", "192.0.2.2", "198.51.100.9"], 60);
        let words = "A: 192.0.2.1 192.0.2.2 (unchanged; kept foreign 198.51.100.9)".to_string();
        assert_eq!(planned(&wanted, Family::A, &current), (Change::None, current.values.clone(), words));
    }

    #[test]
    fn a_record_that_is_missing_is_made() {
        let wanted = wanted(&["192.0.2.1"], &[]);
        let words = "A: 192.0.2.1 (added 192.0.2.1)".to_string();
        let expected = (Change::Replace, addresses(&["192.0.2.1"]), words);
        assert_eq!(planned(&wanted, Family::A, &Record::default()), expected);
    }

    #[test]
    fn another_time_to_live_is_a_difference() {
        let wanted = wanted(&["192.0.2.1"], &["192.0.2.1"]);
        let words = "A: 192.0.2.1 (ttl 300 to 60)".to_string();
        let expected = (Change::Replace, addresses(&["192.0.2.1"]), words);
        assert_eq!(planned(&wanted, Family::A, &record(&["192.0.2.1"], 300)), expected);
    }

    #[test]
    fn what_a_provider_changes_besides_is_told() {
        let wanted = wanted(&["192.0.2.1"], &["192.0.2.1"]);
        let mut plan = wanted.plan(Family::A, &record(&["192.0.2.1"], 60), 60).unwrap();
        plan.note("no longer proxied".to_string());
        assert_eq!(plan.to_string(), "A: 192.0.2.1 (no longer proxied)");
    }

    #[test]
    fn a_family_that_was_never_claimed_is_not_touched() {
        let wanted = wanted(&["192.0.2.1"], &["192.0.2.1"]);
        assert_eq!(wanted.plan(Family::Aaaa, &record(&["2001:db8::1"], 300), 60), None);
        assert_eq!(wanted.plan(Family::Aaaa, &Record::default(), 60), None);
    }

    #[test]
    fn a_family_with_nothing_left_to_publish_loses_our_values_only() {
        let wanted = wanted(&["192.0.2.1"], &["192.0.2.1", "2001:db8::1"]);
        let words = "AAAA: none (removed 2001:db8::1)".to_string();
        let gone = (Change::Delete, BTreeSet::new(), words);
        assert_eq!(planned(&wanted, Family::Aaaa, &record(&["2001:db8::1"], 60)), gone);

        let words = "AAAA: none (removed 2001:db8::1; kept foreign 2001:db8::9)".to_string();
        let shared = record(&["2001:db8::1", "2001:db8::9"], 300);
        let kept = (Change::Replace, addresses(&["2001:db8::9"]), words);
        assert_eq!(planned(&wanted, Family::Aaaa, &shared), kept);
        assert_eq!(wanted.plan(Family::Aaaa, &shared, 60).unwrap().ttl, 300, "somebody else's time to live stays");

        let words = "AAAA: none (unchanged; kept foreign 2001:db8::9)".to_string();
        let foreign = record(&["2001:db8::9"], 300);
        assert_eq!(planned(&wanted, Family::Aaaa, &foreign), (Change::None, foreign.values.clone(), words));
        let absent = (Change::None, BTreeSet::new(), "AAAA: none (unchanged)".to_string());
        assert_eq!(planned(&wanted, Family::Aaaa, &Record::default()), absent);
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let wanted = wanted(&["2001:db8::1"], &["2001:DB8:0:0::2"]);
        let current = record(&["2001:0db8:0000::0001", "2001:db8::2"], 60);
        let words = "AAAA: 2001:db8::1 (removed 2001:db8::2)".to_string();
        assert_eq!(planned(&wanted, Family::Aaaa, &current), (Change::Replace, addresses(&["2001:db8::1"]), words));
    }

    #[test]
    fn the_hosts_answer_is_read_and_a_bad_one_refused() {
        let endpoint = |address: &str| Endpoint {
            member: "web1".to_string(),
            address: address.to_string(),
            port: 80,
            attributes: Vec::new(),
        };
        let attribute = |key: &str, value: &str| (key.to_string(), value.to_string());
        let mut set = EndpointSet {
            revision: "r".to_string(),
            endpoints: vec![endpoint("192.0.2.1"), endpoint("2001:db8::1")],
            attributes: vec![
                attribute("claimed", "192.0.2.1"),
                attribute("claimed", "192.0.2.2"),
                attribute("new", "?"),
            ],
        };
        let expected = wanted(&["192.0.2.1", "2001:db8::1"], &["192.0.2.1", "192.0.2.2"]);
        assert_eq!(Wanted::from_endpoints(&set).unwrap(), expected);

        set.endpoints.push(endpoint("[2001:db8::1]:80"));
        let Err(Failure::Permanent(reason)) = Wanted::from_endpoints(&set) else { panic!("taken") };
        assert_eq!(reason, "the endpoint `[2001:db8::1]:80` is no IP address");

        set.endpoints.clear();
        assert!(matches!(Wanted::from_endpoints(&set), Err(Failure::Retry(_))), "nothing is never published");
    }

    #[test]
    fn a_value_of_the_wrong_family_is_refused() {
        assert_eq!(Family::A.parse("192.0.2.1").unwrap(), addresses(&["192.0.2.1"]).pop_first().unwrap());
        for (family, value) in [(Family::A, "2001:db8::1"), (Family::Aaaa, "192.0.2.1"), (Family::A, "192.0.2.01")] {
            let Err(Failure::Permanent(reason)) = family.parse(value) else { panic!("{value} taken") };
            assert_eq!(reason, format!("`{value}` stands in a record of type {}: mend that first", family.name()));
        }
    }
}
