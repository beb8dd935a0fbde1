//! `wasi:keyvalue/store`: what a handler remembers from run to run, in memory and, where there is a journal, on the disk.
//!
//! A cache by contract: a run sees what earlier runs left, and what it writes is kept only if it succeeds. Then it is on
//! the disk before the run counts as ended, all of it or nothing: a handler's state is one value of the journal. Bounded;
//! a run that wants to keep more is ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use picored_core::name::HandlerName;
use wasmtime::component::Resource;

use crate::handler::bindings::wasi::keyvalue::store::{self, Error, KeyResponse};
use crate::handler::store::{Overrun, State};
use crate::journal::{self, Journal, Receipt, Values};

/// Each key costs this much beside its bytes, so that empty values are not free.
const ENTRY_BYTES: usize = 64;

type Entries = BTreeMap<String, Arc<[u8]>>;

/// The one bucket that a handler has. It goes by the names `` and `default`.
// As public as the generated code that names it.
#[allow(unreachable_pub)]
#[derive(Debug)]
pub struct Bucket;

/// What a handler's runs have left.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    entries: Mutex<Arc<Entries>>,
    /// Where it outlives the process, and by which key.
    durable: Option<(Journal, String)>,
}

/// What all handlers' runs have left, by handler: also of one that a reload has taken out of the config for a while.
#[derive(Debug)]
pub(crate) struct Shelf {
    journal: Journal,
    kept: BTreeMap<HandlerName, Arc<Kept>>,
}

impl Shelf {
    /// What `values` holds of `handlers`; of others, which are no longer configured, the journal keeps nothing from now on.
    pub(crate) fn new<'h>(
        journal: Journal,
        values: &Values,
        handlers: impl IntoIterator<Item = &'h HandlerName>,
    ) -> Self {
        let mut shelf = Self { journal, kept: BTreeMap::new() };
        for handler in handlers {
            let entries = values.get(&key(handler)).map(|bytes| read(handler, bytes)).unwrap_or_default();
            *shelf.of(handler).entries.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
        }
        for key in values.keys().filter(|key| key.starts_with(PREFIX)) {
            if !shelf.kept.values().any(|kept| kept.durable.as_ref().is_some_and(|(_, known)| known == key)) {
                drop(shelf.journal.write(key.clone(), None));
            }
        }
        shelf
    }

    /// What the runs of `handler` have left.
    pub(crate) fn of(&mut self, handler: &HandlerName) -> Arc<Kept> {
        let durable = || Some((self.journal.clone(), key(handler)));
        let new = || Arc::new(Kept { entries: Mutex::default(), durable: durable() });
        self.kept.entry(handler.clone()).or_insert_with(new).clone()
    }
}

const PREFIX: &str = "state/";

fn key(handler: &HandlerName) -> String {
    format!("{PREFIX}{handler}")
}

fn read(handler: &HandlerName, bytes: &[u8]) -> Entries {
    let Some(entries) = journal::decode(bytes) else {
        tracing::error!(target: "picored::handler", %handler, "what it kept cannot be read and is forgotten");
        return Entries::new();
    };
    entries.into_iter().filter_map(|(key, value)| Some((key, value?.into()))).collect()
}

impl Kept {
    /// A view for one run.
    pub(crate) fn view(&self, limit: usize) -> View {
        let base = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let used = base.iter().map(|(key, value)| cost(key, value)).sum();
        View { base, writes: BTreeMap::new(), used, limit }
    }

    /// Keeps what a successful run wrote, and returns when the disk has it. Writes of another run that ended meanwhile
    /// stay, except for the same keys.
    pub(crate) async fn commit(&self, view: View) {
        if let Some(receipt) = self.take(view) {
            receipt.wait().await;
        }
    }

    fn take(&self, view: View) -> Option<Receipt> {
        if view.writes.is_empty() {
            return None;
        }
        let mut kept = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used: usize = kept.iter().map(|(key, value)| cost(key, value)).sum();
        let entries = Arc::make_mut(&mut kept);
        for (key, value) in view.writes {
            used -= entries.remove(&key).map_or(0, |old| cost(&key, &old));
            if let Some(value) = value {
                let more = cost(&key, &value);
                // Only runs that overlap can come here with too much; what a cache forgets is no loss.
                if used + more <= view.limit {
                    used += more;
                    entries.insert(key, value);
                }
            }
        }
        // Handed over under the lock, so that the newest state is the last one written.
        let (journal, key) = self.durable.as_ref()?;
        let state = journal::encode(entries.iter().map(|(key, value)| (key.as_str(), Some(&**value))));
        Some(journal.write(key.clone(), Some(state)))
    }
}

fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

/// What one run sees: what was kept when it began, and its own writes over it.
#[derive(Debug, Default)]
pub(crate) struct View {
    base: Arc<Entries>,
    writes: BTreeMap<String, Option<Arc<[u8]>>>,
    used: usize,
    limit: usize,
}

impl View {
    fn get(&self, key: &str) -> Option<&Arc<[u8]>> {
        match self.writes.get(key) {
            Some(written) => written.as_ref(),
            None => self.base.get(key),
        }
    }

    fn set(&mut self, key: String, value: &[u8]) -> Result<(), Overrun> {
        let old = self.get(&key).map_or(0, |old| cost(&key, old));
        let used = self.used - old + cost(&key, value);
        if used > self.limit {
            return Err(Overrun::new("key-value bytes", self.limit));
        }
        self.used = used;
        self.writes.insert(key, Some(value.into()));
        Ok(())
    }

    fn delete(&mut self, key: String) {
        self.used -= self.get(&key).map_or(0, |old| cost(&key, old));
        // Only a key that was kept needs a mark; marks are thereby bounded too.
        if self.base.contains_key(&key) {
            self.writes.insert(key, None);
        } else {
            self.writes.remove(&key);
        }
    }

    fn keys(&self) -> Vec<String> {
        let base = self.base.keys().filter(|key| !self.writes.contains_key(*key));
        let written = self.writes.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        base.chain(written).cloned().collect()
    }
}

impl store::Host for State {
    fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        if identifier.is_empty() || identifier == "default" {
            Ok(Ok(self.table.push(Bucket)?))
        } else {
            Ok(Err(Error::NoSuchStore))
        }
    }
}

impl store::HostBucket for State {
    fn get(&mut self, _: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(Ok(self.authority.keyvalue.get(&key).map(|value| value.to_vec())))
    }

    fn set(&mut self, _: Resource<Bucket>, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), Error>> {
        self.authority.keyvalue.set(key, &value)?;
        Ok(Ok(()))
    }

    fn delete(&mut self, _: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        self.authority.keyvalue.delete(key);
        Ok(Ok(()))
    }

    fn exists(&mut self, _: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, Error>> {
        Ok(Ok(self.authority.keyvalue.get(&key).is_some()))
    }

    fn list_keys(&mut self, _: Resource<Bucket>, _: Option<u64>) -> wasmtime::Result<Result<KeyResponse, Error>> {
        Ok(Ok(KeyResponse { keys: self.authority.keyvalue.keys(), cursor: None }))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_are_seen_by_their_run_and_kept_only_when_committed() {
        let kept = Kept::default();
        let mut failed = kept.view(1000);
        failed.set("a".into(), b"1").unwrap();
        assert_eq!(failed.get("a").unwrap().as_ref(), b"1");
        drop(failed);
        assert!(kept.view(1000).get("a").is_none());

        let mut good = kept.view(1000);
        good.set("a".into(), b"1").unwrap();
        good.set("b".into(), b"2").unwrap();
        good.delete("b".into());
        kept.commit(good).await;
        assert_eq!(kept.view(1000).keys(), ["a"]);

        let mut last = kept.view(1000);
        last.delete("a".into());
        assert!(last.get("a").is_none() && last.keys().is_empty());
        kept.commit(last).await;
        assert!(kept.view(1000).keys().is_empty());
    }

    #[tokio::test]
    async fn the_limit_holds_over_runs_and_for_marks_of_deletion() {
        let kept = Kept::default();
        let mut view = kept.view(2 * (ENTRY_BYTES + 2));
        view.set("a".into(), b"1").unwrap();
        view.set("a".into(), b"2").unwrap();
        view.set("b".into(), b"1").unwrap();
        assert!(view.set("c".into(), b"").is_err());
        kept.commit(view).await;

        let mut next = kept.view(2 * (ENTRY_BYTES + 2));
        assert!(next.set("c".into(), b"").is_err());
        for number in 0..1000 {
            next.delete(format!("none{number}"));
        }
        assert!(next.writes.is_empty());
        next.delete("a".into());
        next.set("c".into(), b"1").unwrap();
    }

    #[tokio::test]
    async fn what_a_run_left_is_there_after_a_restart_and_goes_with_its_handler() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let names = ["dns", "dns.old"].map(|name| HandlerName::new(name).unwrap());
        let open = |names: &[HandlerName]| {
            let (journal, values) = Journal::open(&path, &[1; 32]).unwrap();
            (Shelf::new(journal.clone(), &values, names), journal)
        };
        let (mut shelf, _) = open(&names);
        for name in &names {
            let kept = shelf.of(name);
            let mut view = kept.view(1000);
            view.set("a".into(), name.as_str().as_bytes()).unwrap();
            view.set("b".into(), &[0, 0xff]).unwrap();
            kept.commit(view).await;
            let mut view = kept.view(1000);
            view.delete("b".into());
            kept.commit(view).await;
        }
        let (mut shelf, _) = open(&names);
        for name in &names {
            let view = shelf.of(name).view(1000);
            assert_eq!((view.keys(), &**view.get("a").unwrap()), (vec!["a".to_owned()], name.as_str().as_bytes()));
        }
        let (_, journal) = open(&names[..1]);
        journal.write("after".into(), None).wait().await;
        let (mut shelf, _) = open(&names);
        assert_eq!(names.each_ref().map(|name| shelf.of(name).view(1000).keys().len()), [1, 0]);
    }
}
