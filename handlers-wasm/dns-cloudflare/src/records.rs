//! What changes at Cloudflare, without a network in it: the records as they are listed, and the batch that makes of them
//! what is wanted.
//!
//! Other names and types are never looked at, but for a CNAME, which excludes every address. Records of other people
//! stay as they are, and so do comments and tags of all. The token is not here either.

use std::collections::BTreeSet;
use std::net::IpAddr;

use picored_handler::Failure;
use picored_handler::record::{Family, Record, Wanted, list};
use serde::{Deserialize, Serialize};

/// A record as Cloudflare lists it. Others than A, AAAA and CNAME may lack some of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) name: String,
    r#type: String,
    #[serde(default)]
    pub(crate) content: String,
    #[serde(default)]
    ttl: u32,
    #[serde(default)]
    proxied: bool,
}

/// How a record of ours shall be beside its address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// In seconds; 1 leaves it to Cloudflare.
    pub(crate) ttl: u32,
    /// Whether visitors go through Cloudflare's proxy. Without it each record stays as it is.
    pub(crate) proxied: Option<bool>,
}

/// What is to be sent, if anything, and what is published with it.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) batch: Option<Batch>,
    /// For the event log.
    pub(crate) text: String,
}

/// Changes that are made together or not at all, in this order.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Batch {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deletes: Vec<Delete>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    patches: Vec<Patch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    posts: Vec<Post>,
}

#[derive(Debug, Serialize)]
struct Delete {
    id: String,
}

/// What it does not name stays as it is.
#[derive(Debug, Serialize)]
struct Patch {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<IpAddr>,
    ttl: u32,
    proxied: bool,
}

#[derive(Debug, Serialize)]
struct Post {
    name: String,
    r#type: &'static str,
    content: IpAddr,
    ttl: u32,
    proxied: bool,
}

impl Settings {
    /// What a record that is proxied now or not shall have: its time to live, and whether it is proxied.
    fn of(self, proxied: bool) -> (u32, bool) {
        match self.proxied.unwrap_or(proxied) {
            // Cloudflare answers with addresses of its own, for a time of its own.
            true => (1, true),
            false => (self.ttl, false),
        }
    }
}

impl Batch {
    /// The addresses that it writes.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let patched = self.patches.iter().filter_map(|patch| patch.content);
        patched.chain(self.posts.iter().map(|post| post.content))
    }

    fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.patches.is_empty() && self.posts.is_empty()
    }
}

/// Compares the records of the name `record` with what is wanted.
pub(crate) fn compare(record: &str, found: &[Entry], wanted: &Wanted, settings: Settings) -> Result<Update, Failure> {
    let name = record.trim_end_matches('.');
    if let Some(alias) = found.iter().find(|entry| entry.r#type == "CNAME") {
        let problem = format!("`{name}` is a CNAME for `{}`, beside which no address can stand", alias.content);
        return Err(Failure::Permanent(format!("{problem}: delete it at Cloudflare first")));
    }
    let (mut batch, mut words) = (Batch::default(), Vec::new());
    // A name is proxied if one of its records is, so a new one goes by those that are there.
    let proxied = found.iter().any(|entry| entry.proxied);
    for family in Family::ALL {
        let current = found.iter().filter(|entry| entry.r#type == family.name());
        let current = current.map(|entry| Ok((entry, family.parse(&entry.content)?)));
        let current: Vec<(&Entry, IpAddr)> = current.collect::<Result<_, Failure>>()?;
        // Each record has a time of its own here, so that the set's is as it shall be.
        let (values, ttl) = (current.iter().map(|(_, address)| *address).collect(), settings.ttl);
        let Some(mut plan) = wanted.plan(family, &Record { values, ttl }, ttl) else { continue };

        let mut added = plan.added.iter().copied();
        for (entry, _) in current.iter().filter(|(_, address)| plan.removed.contains(address)) {
            // One that goes becomes one that comes: batches are whole, but reach Cloudflare's servers record by record.
            let id = entry.id.clone();
            match added.next() {
                Some(address) => {
                    let (ttl, proxied) = settings.of(entry.proxied);
                    batch.patches.push(Patch { id, content: Some(address), ttl, proxied });
                }
                None => batch.deletes.push(Delete { id }),
            }
        }
        batch.posts.extend(added.map(|content| {
            let (ttl, proxied) = settings.of(proxied);
            Post { name: name.to_string(), r#type: family.name(), content, ttl, proxied }
        }));
        let mut altered = BTreeSet::new();
        for (entry, address) in current.iter().filter(|(_, address)| plan.published.contains(address)) {
            let (ttl, proxied) = settings.of(entry.proxied);
            if (entry.ttl, entry.proxied) != (ttl, proxied) {
                batch.patches.push(Patch { id: entry.id.clone(), content: None, ttl, proxied });
                altered.insert(*address);
            }
        }
        if !altered.is_empty() {
            plan.note(format!("set ttl or proxying of {}", list(&altered)));
        }
        words.push(plan.to_string());
    }
    let batch = (!batch.is_empty()).then_some(batch);
    Ok(Update { batch, text: format!("{name} {}", words.join(", ")) })
}

#[cfg(test)]
mod tests;
