//! Cloudflare's API: where a zone is, its pages, its envelope around every answer, its errors.
//!
//! Decides nothing about records. What an answer lacks is never guessed, since a write follows from it.

use std::collections::BTreeMap;

use picored_handler::http::{Explained, Request, encoded};
use picored_handler::name::canonical;
use picored_handler::{Failure, config};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::records::{Batch, Entry};

const DEFAULT: &str = "https://api.cloudflare.com/client/v4";
/// Records asked for at once: what Cloudflare sends by itself, and far below what a run may read.
const PER_PAGE: usize = 100;
/// No name has that many pages of records.
const MAX_PAGES: usize = 20;

/// Errors of a write that only say that the records have changed since they were read: one does not exist (any more), or
/// one like it does by now.
const CHANGED_MEANWHILE: [i64; 5] = [81_044, 81_053, 81_054, 81_057, 81_058];

/// The records of one zone.
pub(crate) struct Api {
    records: String,
}

/// What is around each answer.
#[derive(Deserialize)]
struct Envelope<T> {
    success: bool,
    errors: Option<Vec<Complaint>>,
    result: Option<T>,
    result_info: Option<Pages>,
}

#[derive(Deserialize)]
struct Complaint {
    code: i64,
    message: String,
    #[serde(default)]
    error_chain: Vec<Complaint>,
}

#[derive(Clone, Copy, Deserialize)]
struct Pages {
    total_count: usize,
}

#[derive(Deserialize)]
struct Zone {
    id: String,
    name: String,
}

/// The records as a batch has left them.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    patches: Option<Vec<Entry>>,
    #[serde(default)]
    posts: Option<Vec<Entry>>,
}

impl Api {
    /// Finds the zone, of which the config may have the id.
    pub(crate) fn new(zone: &str) -> Result<Self, Failure> {
        let api = config::optional("api")?.unwrap_or_else(|| DEFAULT.to_string());
        let api = api.trim_end_matches('/');
        let id = match config::optional("zone_id")? {
            Some(id) => checked(id)?,
            None => {
                let url = format!("{api}/zones?name={}", encoded(zone.trim_end_matches('.')));
                let found: Vec<Zone> = call(Request::new("GET", &url))?.0;
                only(zone, found)?
            }
        };
        Ok(Self { records: format!("{api}/zones/{}/dns_records", encoded(&id)) })
    }

    /// All records of that name, of any type.
    pub(crate) fn list(&self, record: &str) -> Result<Vec<Entry>, Failure> {
        let name = encoded(record.trim_end_matches('.'));
        let mut found = BTreeMap::new();
        for page in 1..=MAX_PAGES {
            let url = format!("{}?name.exact={name}&page={page}&per_page={PER_PAGE}", self.records);
            let (entries, pages) = call::<Vec<Entry>>(Request::new("GET", &url))?;
            let total = pages.ok_or_else(|| unlike("missing field `result_info`"))?.total_count;
            let is_over = entries.is_empty();
            found.extend(entries.into_iter().map(|entry| (entry.id.clone(), entry)));
            if found.len() >= total {
                return Ok(found.into_values().filter(|entry| canonical(&entry.name) == record).collect());
            }
            if is_over {
                let count = found.len();
                return Err(Failure::Retry(format!("Cloudflare listed {count} records of {total}: they are changing")));
            }
        }
        Err(Failure::Permanent(format!("`{record}` has more than {} records", MAX_PAGES * PER_PAGE)))
    }

    /// Has a batch carried out, and looks whether the records stand as they were sent.
    pub(crate) fn write(&self, record: &str, batch: &Batch) -> Result<(), Failure> {
        let body = serde_json::to_vec(batch)
            .map_err(|error| Failure::Permanent(format!("the change could not be written: {error}")))?;
        let request = Request::new("POST", &format!("{}/batch", self.records)).body("application/json", body);
        let (written, _) = call::<Written>(request)?;
        let written: Vec<_> = written.patches.into_iter().chain(written.posts).flatten().collect();
        if let Some(astray) = written.iter().find(|entry| canonical(&entry.name) != record) {
            let problem = format!("is not the id of this record's zone: Cloudflare wrote `{}` into it", astray.name);
            return Err(config::invalid("zone_id", problem));
        }
        let mut sent = batch.addresses();
        match sent.find(|address| !written.iter().any(|entry| entry.content.parse() == Ok(*address))) {
            Some(lost) => Err(Failure::Retry(format!("Cloudflare's answer to a batch with {lost} is without it"))),
            None => Ok(()),
        }
    }
}

/// A zone's id: what is none would be sent to another place of the API.
fn checked(id: String) -> Result<String, Failure> {
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(config::invalid("zone_id", format_args!("`{id}` is not 32 hexadecimal digits: leave it out to use `zone`")))
}

/// The id of the only zone of that name.
fn only(zone: &str, found: Vec<Zone>) -> Result<String, Failure> {
    let mut found = found.into_iter().filter(|found| canonical(&found.name) == zone);
    match (found.next(), found.next()) {
        (Some(zone), None) => checked(zone.id),
        (None, _) => Err(config::invalid("zone", format_args!("the API token sees no zone `{zone}`"))),
        (Some(_), Some(_)) => {
            Err(config::invalid("zone", format_args!("the API token sees several zones `{zone}`: set `zone_id`")))
        }
    }
}

fn call<T: DeserializeOwned>(request: Request) -> Result<(T, Option<Pages>), Failure> {
    read(&request.header("accept", "application/json").explained_by(explain).send()?.body)
}

/// Takes an answer out of its envelope.
fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<(T, Option<Pages>), Failure> {
    // What is no JSON may come from a proxy before the API; the rest stays as it is.
    let envelope: Envelope<T> = serde_json::from_slice(answer).map_err(|error| {
        if error.is_data() { unlike(error) } else { Failure::Retry(format!("the answer is no JSON: {error}")) }
    })?;
    if !envelope.success {
        let complaints = in_words(&envelope.errors.unwrap_or_default());
        return Err(Failure::Retry(format!("Cloudflare carried nothing out: {complaints}")));
    }
    let result = envelope.result.ok_or_else(|| unlike("missing field `result`"))?;
    Ok((result, envelope.result_info))
}

fn unlike(problem: impl std::fmt::Display) -> Failure {
    Failure::Permanent(format!("the answer is not as Cloudflare gives it: {problem}"))
}

fn explain(answer: &[u8]) -> Option<Explained> {
    let envelope: Envelope<IgnoredAny> = serde_json::from_slice(answer).ok()?;
    let complaints = envelope.errors.filter(|complaints| !complaints.is_empty())?;
    let passing = complaints.iter().all(|complaint| CHANGED_MEANWHILE.contains(&complaint.code));
    Some(Explained { text: in_words(&complaints), passing })
}

fn in_words(complaints: &[Complaint]) -> String {
    let words = complaints.iter().map(|Complaint { code, message, error_chain }| match error_chain.as_slice() {
        [] => format!("{message} (code {code})"),
        chain => format!("{message} (code {code}): {}", in_words(chain)),
    });
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
