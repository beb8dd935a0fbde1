//! The daemon's secrets: read where `[secrets]` says, read again when a file changes, wiped when they go.
//!
//! A value is asked for by the one that puts it into a request (`auth`) and by nobody else; all others only have it
//! taken out of what they show (`scrub`). Nothing here logs or returns a value, and none has a `Debug` that shows it.
//! A file that cannot be used for a moment changes nothing: the value that was good stays.

pub(crate) mod auth;
mod scrub;
mod value;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use picored_core::config::{Handler, SecretSource};
use picored_core::name::SecretName;
use tokio::time::Instant;

pub use self::value::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, SecretError};

use self::scrub::Needles;
use self::value::Value;
use crate::stamp::Stamp;

/// Between two log lines about a secret that cannot be read again.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
/// So many values of a secret are scrubbed: the present one, and those that it had before.
const REMEMBERED: usize = 3;

/// The secrets that a config's handlers use.
pub struct Secrets {
    entries: BTreeMap<SecretName, Mutex<Entry>>,
}

/// One secret.
struct Entry {
    place: Place,
    value: Arc<Value>,
    /// The file that `value` was read from, if it was one and is older than the reading by so much that a change would
    /// show.
    stamp: Option<Stamp>,
    /// What is scrubbed: of the present value first.
    needles: Vec<Arc<Needles>>,
    complained: Option<Instant>,
}

/// Where a secret is, with the environment looked up.
#[derive(Clone)]
enum Place {
    File(PathBuf),
    Env(String),
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Secrets {
    /// No secrets.
    pub fn none() -> Arc<Self> {
        Arc::new(Self { entries: BTreeMap::new() })
    }

    /// Reads each secret of `sources` that one of `handlers` uses.
    ///
    /// # Errors
    /// Every secret that cannot be used, each with its remedy; never empty.
    pub fn read(
        sources: &BTreeMap<SecretName, SecretSource>,
        handlers: &[Handler],
    ) -> Result<Arc<Self>, Vec<SecretError>> {
        let used: BTreeSet<&SecretName> = handlers
            .iter()
            .flat_map(|handler| &handler.http)
            .filter_map(|grant| grant.auth.as_ref().map(|auth| &auth.secret))
            .collect();
        let (mut entries, mut errors) = (BTreeMap::new(), Vec::new());
        for name in used {
            // The config names no secret that it does not have.
            let Some(source) = sources.get(name) else { continue };
            match Entry::read(name, source) {
                Ok(entry) => drop(entries.insert(name.clone(), Mutex::new(entry))),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Arc::new(Self { entries })) } else { Err(errors) }
    }

    /// Those whose file every user of this machine may read, each as a line for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let warning = |(name, entry): (&SecretName, &Mutex<Entry>)| {
            let Place::File(path) = &lock(entry).place else { return None };
            let mode = value::open_to_others(path)?;
            let path = path.display();
            Some(format!(
                "every user of this machine can read the secret {name} (mode {mode:04o} of {path}): `chmod o= {path}`"
            ))
        };
        self.entries.iter().filter_map(warning).collect()
    }

    /// The secret's value now. Looks whether its file has changed, which costs one system call.
    fn value(&self, name: &SecretName) -> Option<Arc<Value>> {
        let mut entry = lock(self.entries.get(name)?);
        entry.refresh(name);
        Some(entry.value.clone())
    }

    /// `text` without any secret in any form that is looked for.
    pub(crate) fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.scrub_bytes(text.as_bytes()) {
            None => Cow::Borrowed(text),
            Some(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// `bytes` without any secret, if there is one in them.
    pub(crate) fn scrub_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.entries.is_empty() || bytes.len() < MIN_SECRET_BYTES {
            return None;
        }
        scrub::without(bytes, &self.needles())
    }

    /// `bytes`, the end of a longer text, without any secret, nor the end of one whose beginning was cut off.
    pub(crate) fn scrub_end(&self, bytes: &[u8]) -> Vec<u8> {
        let needles = self.needles();
        let rest = &bytes[scrub::cut_at_start(bytes, &needles)..];
        scrub::without(rest, &needles).unwrap_or_else(|| rest.to_vec())
    }

    fn needles(&self) -> Vec<Arc<Needles>> {
        self.entries.values().flat_map(|entry| lock(entry).needles.clone()).collect()
    }
}

fn lock(entry: &Mutex<Entry>) -> MutexGuard<'_, Entry> {
    entry.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn read(name: &SecretName, source: &SecretSource) -> Result<Self, SecretError> {
        let place = match source {
            SecretSource::File(path) => Place::File(path.clone()),
            SecretSource::Env(variable) => Place::Env(variable.clone()),
            SecretSource::Credential(credential) => Place::File(credential_path(name, credential)?),
        };
        let (value, stamp) = match &place {
            Place::File(path) => value::from_file(name, path)?,
            Place::Env(variable) => (value::from_environment(name, variable)?, None),
        };
        let needles = vec![Arc::new(Needles::new(value.bytes()))];
        Ok(Self { place, value: Arc::new(value), stamp, needles, complained: None })
    }

    /// Takes the new value if the file has changed and is good.
    fn refresh(&mut self, name: &SecretName) {
        let Place::File(path) = &self.place else { return };
        if self.stamp.is_some() && self.stamp == Stamp::at(path) {
            return;
        }
        match value::from_file(name, path) {
            Ok((value, stamp)) => {
                self.stamp = stamp;
                self.complained = None;
                if value.bytes() != self.value.bytes() {
                    self.needles.insert(0, Arc::new(Needles::new(value.bytes())));
                    self.needles.truncate(REMEMBERED);
                    self.value = Arc::new(value);
                    tracing::info!(secret = %name, "a secret was read anew: its file has changed");
                }
            }
            Err(reason) if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_EVERY) => {
                self.complained = Some(Instant::now());
                tracing::warn!(secret = %name, %reason, "a secret cannot be read again: the value it had stays in use");
            }
            Err(_) => {}
        }
    }
}

/// Where systemd put the credential.
fn credential_path(name: &SecretName, credential: &str) -> Result<PathBuf, SecretError> {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) if !directory.is_empty() => Ok(Path::new(&directory).join(credential)),
        _ => Err(SecretError::NoCredentials { name: name.clone(), credential: credential.to_owned() }),
    }
}
