//! PowerDNS's part of the work, without a network in it: reads a zone as its API shows it, and writes the change that
//! its API takes.
//!
//! Other names and types are never looked at: old servers ignore the query's filter and send the whole zone. A record
//! that the operator has disabled is written back as it was, since PowerDNS replaces all records of a type at once.

use std::collections::BTreeSet;
use std::net::IpAddr;

use picored_handler::Failure;
use picored_handler::name::{canonical, in_zone};
use picored_handler::record::{Change, Family, Plan, Record, Wanted, list};
use serde::{Deserialize, Serialize};

/// The name whose records are kept, and its zone: lower case and with the final dot, as PowerDNS writes them.
#[derive(Debug)]
pub(crate) struct Target {
    zone: String,
    record: String,
}

/// What stands in the zone for the record's name.
#[derive(Debug, Default)]
pub(crate) struct Found {
    sets: Vec<(Family, Set)>,
}

/// The records of one type.
#[derive(Debug, Default)]
struct Set {
    live: Record,
    disabled: Vec<Entry>,
}

/// What is to be sent, if anything, and what is published with it.
#[derive(Debug)]
pub(crate) struct Update {
    /// The body of the PATCH.
    pub(crate) patch: Option<Vec<u8>>,
    /// For the event log.
    pub(crate) text: String,
}

#[derive(Deserialize)]
struct Zone {
    name: String,
    rrsets: Vec<Rrset>,
}

#[derive(Deserialize)]
struct Rrset {
    name: String,
    r#type: String,
    ttl: u32,
    records: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Entry {
    content: String,
    #[serde(default)]
    disabled: bool,
}

#[derive(Serialize)]
struct Patch<'a> {
    rrsets: Vec<RrsetChange<'a>>,
}

#[derive(Serialize)]
struct RrsetChange<'a> {
    name: &'a str,
    r#type: &'a str,
    changetype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    records: Vec<Entry>,
}

impl Set {
    fn disabled_addresses(&self) -> BTreeSet<IpAddr> {
        self.disabled.iter().filter_map(|entry| entry.content.parse().ok()).collect()
    }
}

impl Target {
    /// Checks that the record's name lies in the zone.
    pub(crate) fn new(zone: &str, record: &str) -> Result<Self, Failure> {
        let (zone, record) = in_zone(zone, record)?;
        Ok(Self { zone, record })
    }

    pub(crate) fn zone(&self) -> &str {
        &self.zone
    }

    pub(crate) fn record(&self) -> &str {
        &self.record
    }

    /// Reads the API's answer.
    pub(crate) fn read(&self, answer: &[u8]) -> Result<Found, Failure> {
        // What is no JSON may come from a proxy before a server that is just starting; the rest stays as it is.
        let zone: Zone = serde_json::from_slice(answer).map_err(|error| {
            let reason = format!("the answer is not a zone as PowerDNS shows it: {error}");
            if error.is_data() { Failure::Permanent(reason) } else { Failure::Retry(reason) }
        })?;
        if canonical(&zone.name) != self.zone {
            let reason = format!("asked for zone `{}`, the answer is about `{}`", self.zone, zone.name);
            return Err(Failure::Permanent(reason));
        }
        let mut found = Found::default();
        for rrset in zone.rrsets.into_iter().filter(|rrset| canonical(&rrset.name) == self.record) {
            let Some(family) = Family::ALL.into_iter().find(|family| family.name() == rrset.r#type) else { continue };
            let (disabled, live): (Vec<_>, Vec<_>) = rrset.records.into_iter().partition(|entry| entry.disabled);
            let values = live.iter().map(|entry| family.parse(&entry.content)).collect::<Result<_, _>>()?;
            found.sets.push((family, Set { live: Record { values, ttl: rrset.ttl }, disabled }));
        }
        Ok(found)
    }

    /// Compares what stands with what is wanted.
    pub(crate) fn compare(&self, found: &Found, wanted: &Wanted, ttl: u32) -> Result<Update, Failure> {
        let none = Set::default();
        let (mut rrsets, mut words) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let set = found.sets.iter().find(|(of, _)| *of == family).map_or(&none, |(_, set)| set);
            let published = wanted.published(family);
            let withheld = &published & &set.disabled_addresses();
            if !withheld.is_empty() && withheld == published {
                // To write the rest would empty the record.
                words.push(format!("{}: left as it is, since all that is up is disabled there", family.name()));
                continue;
            }
            let Some(plan) = wanted.without(&withheld).plan(family, &set.live, ttl) else { continue };
            rrsets.extend(self.change(&plan, set));
            words.push(plan.to_string());
            if !withheld.is_empty() {
                words.push(format!("left disabled {}", list(&withheld)));
            }
        }
        let patch = (!rrsets.is_empty()).then(|| serde_json::to_vec(&Patch { rrsets })).transpose();
        let patch = patch.map_err(|error| Failure::Permanent(format!("the change could not be written: {error}")))?;
        Ok(Update { patch, text: format!("{} {}", self.record, words.join(", ")) })
    }

    fn change<'a>(&'a self, plan: &Plan, set: &Set) -> Option<RrsetChange<'a>> {
        let live = plan.values.iter().map(|address| Entry { content: address.to_string(), disabled: false });
        let records: Vec<_> = live.chain(set.disabled.iter().cloned()).collect();
        let (changetype, ttl) = match plan.change {
            Change::None => return None,
            Change::Delete if records.is_empty() => ("DELETE", None),
            Change::Delete | Change::Replace => ("REPLACE", Some(plan.ttl)),
        };
        Some(RrsetChange { name: &self.record, r#type: plan.family.name(), changetype, ttl, records })
    }
}

#[cfg(test)]
mod tests;
