//! `wasi:keyvalue/store`: what a handler remembers from run to run, in this process's memory.
//!
//! A cache by contract: a run sees what earlier runs left, and what it writes is kept only if it succeeds. Bounded; a
//! run that wants to keep more is ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::Resource;

use crate::handler::bindings::wasi::keyvalue::store::{self, Error, KeyResponse};
use crate::handler::store::{Overrun, State};

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
pub(crate) struct Kept(Mutex<Arc<Entries>>);

impl Kept {
    /// A view for one run.
    pub(crate) fn view(&self, limit: usize) -> View {
        let base = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let used = base.iter().map(|(key, value)| cost(key, value)).sum();
        View { base, writes: BTreeMap::new(), used, limit }
    }

    /// Keeps what a successful run wrote. Writes of another run that ended meanwhile stay, except for the same keys.
    pub(crate) fn commit(&self, view: View) {
        if view.writes.is_empty() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

    #[test]
    fn writes_are_seen_by_their_run_and_kept_only_when_committed() {
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
        kept.commit(good);
        assert_eq!(kept.view(1000).keys(), ["a"]);

        let mut last = kept.view(1000);
        last.delete("a".into());
        assert!(last.get("a").is_none() && last.keys().is_empty());
        kept.commit(last);
        assert!(kept.view(1000).keys().is_empty());
    }

    #[test]
    fn the_limit_holds_over_runs_and_for_marks_of_deletion() {
        let kept = Kept::default();
        let mut view = kept.view(2 * (ENTRY_BYTES + 2));
        view.set("a".into(), b"1").unwrap();
        view.set("a".into(), b"2").unwrap();
        view.set("b".into(), b"1").unwrap();
        assert!(view.set("c".into(), b"").is_err());
        kept.commit(view);

        let mut next = kept.view(2 * (ENTRY_BYTES + 2));
        assert!(next.set("c".into(), b"").is_err());
        for number in 0..1000 {
            next.delete(format!("none{number}"));
        }
        assert!(next.writes.is_empty());
        next.delete("a".into());
        next.set("c".into(), b"1").unwrap();
    }
}
