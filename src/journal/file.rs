//! The journal's file: a first line that says its version, then records, each a group of changes under one checksum.
//!
//! ```text
//! "picored journal 1\n"  record*        record: "rec\n" | length u32 | HMAC-SHA-256 of what follows, 8 bytes | change*
//! change: key's length u32 | key | value's length u32, all ones for none | value        numbers: big-endian
//! ```
//! Records are appended and synced. When most of the file is of no use any more it is written anew beside and renamed. A
//! record counts whole or not at all; where one is damaged, reading goes on at the next mark. Waits for the disk: called
//! on a thread that may.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::hmac;

use super::JournalError;

/// What the journal keeps.
pub type Values = BTreeMap<String, Vec<u8>>;
/// A value for each key, or that there is none any more.
pub type Changes = BTreeMap<String, Option<Vec<u8>>>;

const VERSION: u32 = 1;
const TITLE: &[u8] = b"picored journal ";
const MARK: [u8; 4] = *b"rec\n";
/// Mark, length and checksum.
const HEAD: usize = 16;
/// No record is longer: all that all handlers may keep, and then some.
const MAX_RECORD: usize = 8 << 20;
/// The file is not written anew before it is so long.
const SMALL: u64 = 256 << 10;
/// When it is written anew a record takes in so much, so that damage costs little.
const GROUP: usize = 4096;
const NONE: u32 = u32::MAX;
/// So many bytes are read where a record may begin and none does; what a handler keeps may look like many beginnings.
const SEARCH: u64 = 16 << 20;

/// What vouches for a record.
struct Key(hmac::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &[TITLE, secret].concat()))
    }

    fn sum(&self, body: &[u8]) -> [u8; 8] {
        hmac::sign(&self.0, body).as_ref()[..8].try_into().expect("SHA-256 has more than 8 bytes")
    }

    fn record(&self, body: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_RECORD);
        let length = length.ok_or_else(|| io::Error::other("more to keep at once than a journal takes"))?;
        Ok([&MARK, &length.to_be_bytes()[..], &self.sum(body), body].concat())
    }
}

/// An open journal file.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    key: Key,
    /// None until there is something to keep.
    file: Option<File>,
    /// So much of the file is good and synced.
    length: u64,
    /// From this length on it is written anew.
    rewrite_at: u64,
    /// What the system said last leaves in doubt what the file holds, so it is written anew.
    is_suspect: bool,
}

impl Log {
    /// Opens the file, if there is one, and reads it.
    pub(super) fn open(path: &Path, key: &[u8; 32]) -> Result<(Self, Values), JournalError> {
        let failed = |error| JournalError::Io { path: path.to_owned(), error };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let key = Key::new(key);
        let mut log = Self { path: path.to_owned(), key, file, length: 0, rewrite_at: SMALL, is_suspect: false };
        let Some(file) = &log.file else { return Ok((log, Values::new())) };
        let end = file.metadata().map_err(failed)?.len();
        if let Some(found) = version(file, end).map_err(failed)?.filter(|found| *found > VERSION) {
            return Err(JournalError::Newer { path: path.to_owned(), found, known: VERSION });
        }
        let Replayed { values, length, damaged } = replay(file, end, &log.key).map_err(failed)?;
        if length < end {
            tracing::warn!(
                target: "picored::store", file = %path.display(), bytes = end - length,
                "the end of the journal is torn, as a write was cut off; what was accepted is there"
            );
        }
        log.length = length;
        log.rewrite_at = SMALL.max(length.saturating_mul(2));
        log.is_suspect = length < end || damaged > 0;
        if damaged > 0 {
            log.put_aside(damaged);
        }
        Ok((log, values))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a copy of what is damaged, for whoever wants to look; the file itself is written anew with the next change.
    fn put_aside(&self, damaged: u64) {
        let aside = self.path.with_extension("damaged");
        let kept = fs::remove_file(&aside).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        let kept = kept.and_then(|()| fs::hard_link(&self.path, &aside));
        tracing::error!(
            target: "picored::store", file = %self.path.display(), bytes = damaged,
            copy = kept.is_ok().then(|| aside.display().to_string()),
            "the journal is damaged: some retries, dead letters or handler state may be lost or old. See to the disk"
        );
    }

    /// Makes these changes, and returns when they are on the disk. After an error all that was there before still is.
    pub(super) fn write(&mut self, changes: &Changes) -> io::Result<()> {
        let written = match &self.file {
            Some(file) if !self.is_suspect && self.length < self.rewrite_at => {
                append(file, self.length, changes, &self.key).map(|length| self.length = length)
            }
            _ => self.rewrite(changes),
        };
        self.is_suspect = written.is_err();
        written
    }

    fn rewrite(&mut self, changes: &Changes) -> io::Result<()> {
        let mut values = match &self.file {
            Some(file) => replay(file, self.length, &self.key)?.values,
            None => Values::new(),
        };
        apply(&mut values, changes.iter().map(|(key, value)| (key.clone(), value.clone())));
        let beside = self.path.with_extension("new");
        let written = write_new(&beside, &values, &self.key).and_then(|new| {
            fs::rename(&beside, &self.path)?;
            Ok(new)
        });
        let (file, length) = written.inspect_err(|_| {
            // On a full disk what is left of it would be in the way.
            let _ = fs::remove_file(&beside);
        })?;
        (self.file, self.length) = (Some(file), length);
        self.rewrite_at = SMALL.max(length.saturating_mul(4));
        // The new file is good, but the old one may be back after a power cut before this.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn append(file: &File, length: u64, changes: &Changes, key: &Key) -> io::Result<u64> {
    let record = key.record(&encode(changes.iter().map(|(key, value)| (key.as_str(), value.as_deref()))))?;
    file.write_all_at(&record, length)?;
    file.sync_data()?;
    Ok(length + record.len() as u64)
}

/// A file with all `values`, synced.
fn write_new(path: &Path, values: &Values, key: &Key) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let title = [TITLE, VERSION.to_string().as_bytes(), b"\n"].concat();
    file.write_all(&title)?;
    let (mut length, mut group) = (title.len() as u64, Vec::new());
    let mut left = values.iter().peekable();
    while let Some((name, value)) = left.next() {
        group.extend(encode([(name.as_str(), Some(value.as_slice()))]));
        if group.len() >= GROUP || left.peek().is_none() {
            let record = key.record(&std::mem::take(&mut group))?;
            file.write_all(&record)?;
            length += record.len() as u64;
        }
    }
    file.sync_all()?;
    Ok((file, length))
}

/// What stands in the first line; none where that is no such line.
fn version(file: &File, end: u64) -> io::Result<Option<u32>> {
    let mut line = [0; TITLE.len() + 11];
    let some = line.len().min(usize::try_from(end).unwrap_or(usize::MAX));
    file.read_exact_at(&mut line[..some], 0)?;
    let rest = line[..some].strip_prefix(TITLE).and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    Ok(rest.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()))
}

struct Replayed {
    values: Values,
    /// Where the last good record ends.
    length: u64,
    /// So many bytes before that are no good.
    damaged: u64,
}

fn replay(file: &File, end: u64, key: &Key) -> io::Result<Replayed> {
    let title = (TITLE.len() + VERSION.to_string().len() + 1) as u64;
    let begin = if version(file, end)? == Some(VERSION) { title.min(end) } else { 0 };
    let mut found = Replayed { values: Values::new(), length: begin, damaged: 0 };
    let (mut at, mut searched) = (begin, 0);
    while let Some(mark) = find_mark(file, at, end)?.filter(|_| searched <= SEARCH) {
        let Some(body) = read_body(file, mark, end)? else {
            at = mark + 1;
            continue;
        };
        match decode(&body.bytes).filter(|_| key.sum(&body.bytes) == body.sum) {
            Some(changes) => {
                found.damaged += mark - found.length;
                apply(&mut found.values, changes);
                (found.length, at) = (body.next, body.next);
            }
            None => (at, searched) = (mark + 1, searched + body.bytes.len() as u64),
        }
    }
    Ok(found)
}

fn apply(values: &mut Values, changes: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(values.insert(key, value)),
            None => drop(values.remove(&key)),
        }
    }
}

/// Where the next record may begin.
fn find_mark(file: &File, from: u64, end: u64) -> io::Result<Option<u64>> {
    let (mut window, mut at) = ([0; 4096], from);
    while at + HEAD as u64 <= end {
        let some = window.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        file.read_exact_at(&mut window[..some], at)?;
        if let Some(place) = window[..some].windows(MARK.len()).position(|bytes| bytes == MARK) {
            return Ok(Some(at + place as u64));
        }
        at += (some - MARK.len() + 1) as u64;
    }
    Ok(None)
}

struct Body {
    bytes: Vec<u8>,
    sum: [u8; 8],
    /// Where it ends.
    next: u64,
}

/// What may be a record at `at`, if there is room for it.
fn read_body(file: &File, at: u64, end: u64) -> io::Result<Option<Body>> {
    if at + HEAD as u64 > end {
        return Ok(None);
    }
    let (mut length, mut sum) = ([0; 4], [0; 8]);
    file.read_exact_at(&mut length, at + 4)?;
    file.read_exact_at(&mut sum, at + 8)?;
    let (length, begin) = (u32::from_be_bytes(length), at + HEAD as u64);
    let next = begin + u64::from(length);
    if next > end || length as usize > MAX_RECORD {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, begin)?;
    Ok(Some(Body { bytes, sum, next }))
}

/// Keys and values as bytes. Each is shorter than 4 GiB.
pub fn encode<'a>(changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in changes {
        let length = u32::try_from(key.len()).expect("keys are short");
        bytes.extend(length.to_be_bytes());
        bytes.extend(key.as_bytes());
        let length = value.map_or(NONE, |value| u32::try_from(value.len()).expect("values are small"));
        bytes.extend(length.to_be_bytes());
        bytes.extend(value.unwrap_or_default());
    }
    bytes
}

/// What [`encode`] was given; none if the bytes are not from there.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = match u32::from_be_bytes(*length) {
            NONE => (None, rest),
            length => rest.split_at_checked(length as usize).map(|(value, rest)| (Some(value.to_vec()), rest))?,
        };
        changes.push((String::from_utf8(key.to_vec()).ok()?, value));
        bytes = rest;
    }
    Some(changes)
}
