//! The state directory: what a node must still know after it died.
//!
//! It holds the generation's high-water mark, where members were, what is in maintenance or held, the node's own key, the journal
//! (retries, dead letters, what handlers keep), the cache of compiled handlers, and
//! the components that were installed over those of the config, and belongs to one daemon at a time. Every file is
//! replaced whole (written beside, synced, renamed), so a reader finds the old or the new one and never half of one. The daemon opens it first of all, before a packet is sent; `picored check` only
//! looks. Nothing here decides anything about the cluster.

mod components;
mod key;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use picored_core::name::HoldName;
use picored_core::name::{AppName, HandlerName};
use picored_core::node::{Held, Maintained};
use picored_core::time::Wall;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::fmt::Display;
use std::str::FromStr;

use crate::journal::{Journal, JournalError, Values};

pub use components::{Components, Installed};
pub use key::{KeyError, create_key_file, encode_key, new_key, read_key};

/// A start may take so many generations beyond its first without writing any of them down.
pub const GENERATIONS_AHEAD: u64 = picored_core::record::RENEWALS;

/// No mark is above this; what claims to be is damage. Milliseconds reach it in some hundred million years.
const HIGHEST_GENERATION: u64 = 1 << 62;

/// Read no more than this from a file of ours.
const FILE_LIMIT: u64 = 4096;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Something else stands in its place.
    #[error("state_dir {} is not a directory: move it away, or name another state_dir", .0.display())]
    NotADirectory(PathBuf),
    /// Another user's, who could change what the daemon will run.
    #[error("state_dir {} belongs to user id {owner}, picored runs as {own}: `chown` it, or name another", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Others could have put machine code into the handler cache, which no later `chmod` undoes.
    #[error(
        "state_dir {} can be written by others (mode {mode:04o}), who could plant code there: make sure of what is in \
         it, then `chmod 700` it", .path.display()
    )]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another daemon lives there.
    #[error(
        "state_dir {} is in use by another picored{}: stop that one, or give this node a state_dir of its own",
        .path.display(), .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id, if it could be read.
        pid: Option<u32>,
    },
    /// A generation that cannot be stored.
    #[error("generation {0} is beyond all reason: some member's clock or state is wrong")]
    GenerationTooHigh(u64),
    /// The node's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system refused.
    #[error("cannot {action} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Turns the system's error into ours, with what was tried on what.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |error| StateError::Io { action, path: path.to_owned(), error }
}

/// An open state directory: this process's alone until it is dropped or dies.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    cache: PathBuf,
    uploads: PathBuf,
    /// Holds the lock; the system lets go of it with the process, whatever its end.
    _lock: File,
}

impl StateDir {
    /// Opens the directory, makes it (0700) where there is none, and locks it.
    ///
    /// One that others may only read is closed to them (`chmod 700`): the secrets within have modes of their own. One
    /// that others may write, or that is another user's, is refused.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => StateError::NotADirectory(path.to_owned()),
            _ => failed("make the state_dir", path)(error),
        })?;
        if judge(path)? & 0o077 != 0 {
            fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(failed("chmod 700 state_dir", path))?;
        }
        let lock = lock(path)?;
        let (cache, uploads) = (path.join("cache"), path.join("uploads"));
        // What an earlier start was sent and did not keep.
        match fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("empty", &uploads)(error)),
            _ => {}
        }
        for dir in [&cache, &uploads] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make the directory", dir))?;
        }
        Ok(Self { path: path.to_owned(), cache, uploads, _lock: lock })
    }

    /// Whether [`Self::open`] would work, but for the lock; changes nothing.
    pub fn check(path: &Path) -> Result<(), StateError> {
        let writable = |dir: &Path| {
            accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
                .map_err(|error| failed("write to the directory", dir)(error.into()))
        };
        if fs::symlink_metadata(path).is_ok() {
            judge(path)?;
            return writable(path);
        }
        // Not there yet: the nearest directory above must take it.
        let above = path.ancestors().skip(1).find(|above| above.exists());
        match above {
            Some(dir) if !dir.as_os_str().is_empty() && !dir.is_dir() => Err(StateError::NotADirectory(dir.to_owned())),
            Some(dir) if !dir.as_os_str().is_empty() => writable(dir),
            _ => writable(Path::new(".")),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory (0700) for compiled handlers. All of it can be lost at any time but for the work of compiling again.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }

    /// A directory (0700) for what is being sent to this process; empty at its start.
    pub fn uploads_dir(&self) -> &Path {
        &self.uploads
    }

    /// What was installed over the source of `handler`. Nothing is made or read by this.
    pub fn components(&self, handler: &HandlerName) -> Components {
        Components::new(self.path.join("handlers").join(handler.as_str()))
    }

    /// The generation for this start, `wall_ms` being the wall clock in milliseconds since 1970: above all that
    /// earlier starts can have used, even where the clock was set back. The [`GENERATIONS_AHEAD`] above it are this
    /// start's as well. It is on the disk before this returns, so it may be sent.
    ///
    /// A damaged file is put aside with a warning and the clock alone decides, as on a first start. That is the safer
    /// end of two: peers refuse a generation below one they know, which takes this node out of the site until they
    /// forget it or [`Self::raise_generation`] is told; to refuse the start would take it out for certain.
    pub fn next_generation(&self, wall_ms: u64) -> Result<u64, StateError> {
        let next = self.stored_generation()?.map_or(wall_ms, |mark| wall_ms.max(mark + 1));
        self.store_generation(next.checked_add(GENERATIONS_AHEAD).ok_or(StateError::GenerationTooHigh(next))?)?;
        Ok(next)
    }

    /// Makes sure that later starts get a generation above `mark`: for when a peer knows us by a higher one than ours.
    pub fn raise_generation(&self, mark: u64) -> Result<(), StateError> {
        if self.stored_generation()?.is_some_and(|stored| stored >= mark) {
            return Ok(());
        }
        self.store_generation(mark)
    }

    fn stored_generation(&self) -> Result<Option<u64>, StateError> {
        let path = self.path.join("generation");
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        // The line's end is part of the value: without it the last digits may be missing.
        let mark = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n')?.parse::<u64>().ok());
        if mark.is_none_or(|mark| mark > HIGHEST_GENERATION) {
            let aside = self.path.join("generation.damaged");
            fs::rename(&path, &aside).map_err(failed("put aside the damaged", &path))?;
            tracing::warn!(
                file = %path.display(),
                "the generation file is damaged and was put aside; the clock decides. If peers refuse this node, its \
                 clock is behind: set it right and start again"
            );
            return Ok(None);
        }
        Ok(mark)
    }

    fn store_generation(&self, mark: u64) -> Result<(), StateError> {
        if mark > HIGHEST_GENERATION {
            return Err(StateError::GenerationTooHigh(mark));
        }
        let path = self.path.join("generation");
        replace(&self.path, "generation", format!("{mark}\n").as_bytes()).map_err(failed("write", &path))
    }

    /// The addresses that [`Self::remember`] kept. A damaged file is no more than forgotten: the seeds are there still.
    pub fn remembered(&self) -> Vec<SocketAddr> {
        let path = self.path.join("members");
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the members of the last run cannot be read; the seeds are asked");
                return Vec::new();
            }
        };
        // Each line's end is part of it: without it the last digits may be missing.
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.is_empty() || text.ends_with('\n'));
        let Some(Ok(addresses)) = text.map(|text| text.lines().map(str::parse).collect()) else {
            tracing::warn!(
                file = %path.display(),
                "the members of the last run are damaged and forgotten; the seeds are asked. Nothing needs to be done: the \
                 file is written anew"
            );
            return Vec::new();
        };
        addresses
    }

    /// Keeps where members are, for a start that finds every seed gone. The disk is not waited for: what a power cut takes
    /// is missed by nobody.
    pub fn remember(&self, members: &[SocketAddr]) -> Result<(), StateError> {
        let text: String = members.iter().map(|address| format!("{address}\n")).collect();
        let path = self.path.join("members");
        let written = write_beside(&self.path, "members", text.as_bytes());
        written.and_then(|(_, beside)| fs::rename(beside, &path)).map_err(failed("write", &path))
    }

    /// What [`Self::keep_maintenance`] kept: applications, and when their maintenance ends by itself. A damaged file is
    /// told of and forgotten: an application that is well is published again.
    pub fn maintenance(&self) -> BTreeMap<AppName, Option<Wall>> {
        self.read_terms("maintenance").unwrap_or_else(|file| {
            tracing::error!(
                %file,
                "cannot read what was in maintenance, so nothing is: see `picored maintenance on`. The file is written anew \
                 with the next one"
            );
            BTreeMap::new()
        })
    }

    /// Keeps which applications are in maintenance, and until when.
    pub fn keep_maintenance(&self, apps: &[Maintained]) -> Result<(), StateError> {
        self.keep_terms("maintenance", apps)
    }

    /// What [`Self::keep_holds`] kept, as with maintenance: what is forgotten is held no longer.
    pub fn holds(&self) -> BTreeMap<HoldName, Option<Wall>> {
        self.read_terms("holds").unwrap_or_else(|file| {
            tracing::error!(
                %file,
                "cannot read what was held by an operator, so nothing is: see `picored hold`. The file is written anew with \
                 the next one"
            );
            BTreeMap::new()
        })
    }

    /// Keeps what an operator holds, and until when.
    pub fn keep_holds(&self, held: &[Held]) -> Result<(), StateError> {
        self.keep_terms("holds", held)
    }

    /// Names, and until when they count. A file that cannot be read is the error.
    fn read_terms<N: FromStr + Ord>(&self, name: &str) -> Result<BTreeMap<N, Option<Wall>>, String> {
        let path = self.path.join(name);
        let line = |line: &str| {
            let (name, until) = line.split_once(' ')?;
            let until = if until == "-" { None } else { Some(Wall(until.parse().ok()?)) };
            Some((name.parse().ok()?, until))
        };
        let text = match read_limited(&path) {
            Ok(bytes) => String::from_utf8(bytes).ok().filter(|text| text.is_empty() || text.ends_with('\n')),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(_) => None,
        };
        text.and_then(|text| text.lines().map(line).collect()).ok_or_else(|| path.display().to_string())
    }

    fn keep_terms(&self, name: &str, terms: &[(impl Display, Option<Wall>)]) -> Result<(), StateError> {
        let until = |until: &Option<Wall>| until.map_or_else(|| "-".to_owned(), |until| until.0.to_string());
        let text: String = terms.iter().map(|(name, end)| format!("{name} {}\n", until(end))).collect();
        replace(&self.path, name, text.as_bytes()).map_err(failed("write", &self.path.join(name)))
    }

    /// The journal and what it keeps: retries, dead letters, and what handlers keep.
    ///
    /// # Errors
    /// If it is there and cannot be used; then it stays as it is.
    pub fn journal(&self) -> Result<(Journal, Values), StateError> {
        Ok(Journal::open(&self.path.join("journal"), &self.node_key()?)?)
    }

    /// This node's own key, made on first use and known to nobody else: what vouches for files that the node left to
    /// itself. It stands outside of [`Self::cache_dir`], so that who can write there cannot vouch.
    pub fn node_key(&self) -> Result<[u8; 32], StateError> {
        let path = self.path.join("node.key");
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(read_key(&path)?);
        }
        let key = new_key();
        let text = encode_key(&key) + "\n";
        replace(&self.path, "node.key", text.as_bytes()).map_err(failed("write", &path))?;
        Ok(key)
    }
}

/// The directory's permission bits, or why it cannot be trusted.
fn judge(path: &Path) -> Result<u32, StateError> {
    let found = fs::metadata(path).map_err(failed("look at state_dir", path))?;
    if !found.is_dir() {
        return Err(StateError::NotADirectory(path.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(StateError::Foreign { path: path.to_owned(), owner: found.uid(), own });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StateError::WritableByOthers { path: path.to_owned(), mode });
    }
    Ok(mode)
}

/// Takes the lock, and leaves our process id for whoever finds it taken.
fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = read_limited(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
            return Err(StateError::InUse { path: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    file.set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .map_err(failed("write", &path))?;
    Ok(file)
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts `bytes` in the place of `dir/name` (0600), all or nothing, and on the disk before it returns.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (file, beside) = write_beside(dir, name, bytes)?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn write_beside(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let beside = dir.join(format!("{name}.new"));
    // One left by a start that died may have another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    Ok((file, beside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use picored_core::node::MAX_REMEMBERED;

    /// A place for a state directory, and what keeps it alive.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib/picored");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn generation_grows_with_each_start_and_follows_the_clock() {
        let (_dir, path) = place();
        let start = |wall| StateDir::open(&path).unwrap().next_generation(wall).unwrap();
        assert_eq!(start(1_000_000), 1_000_000);
        assert_eq!(
            start(1_000_001),
            1_000_000 + GENERATIONS_AHEAD + 1,
            "what the first start may have used is skipped"
        );
        assert_eq!(start(5_000_000), 5_000_000);
    }

    #[test]
    fn members_are_remembered_and_a_damaged_list_is_forgotten() {
        let (_dir, path) = place();
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.remembered(), []);
        let many: Vec<_> = (0..MAX_REMEMBERED as u16).map(|i| SocketAddr::from(([0xffff; 8], 65_000 + i))).collect();
        let few: [SocketAddr; 2] = ["192.0.2.1:7946".parse().unwrap(), "[2001:db8::1]:7946".parse().unwrap()];
        for members in [&many[..], &few, &[]] {
            state.remember(members).unwrap();
            assert_eq!(state.remembered(), members);
        }
        state.remember(&few).unwrap();
        // A port cut short is another port.
        fs::write(path.join("members"), b"192.0.2.1:7946\n192.0.2.2:79").unwrap();
        assert_eq!(state.remembered(), []);
        fs::write(path.join("members"), b"192.0.2.1:7946\nno address\n").unwrap();
        assert_eq!(state.remembered(), []);
    }

    #[test]
    fn generation_survives_a_clock_set_back() {
        let (_dir, path) = place();
        let first = StateDir::open(&path).unwrap().next_generation(9_000_000).unwrap();
        let second = StateDir::open(&path).unwrap().next_generation(0).unwrap();
        assert!(second > first + GENERATIONS_AHEAD, "{first} then {second}");
    }

    #[test]
    fn raised_generation_holds_and_never_sinks() {
        let (_dir, path) = place();
        let state = StateDir::open(&path).unwrap();
        state.raise_generation(7_000).unwrap();
        state.raise_generation(3_000).unwrap();
        assert_eq!(state.next_generation(1).unwrap(), 7_001);
        assert!(matches!(state.raise_generation(u64::MAX), Err(StateError::GenerationTooHigh(_))));
        assert_eq!(state.next_generation(1).unwrap(), 7_001 + GENERATIONS_AHEAD + 1, "a refused mark leaves no trace");
    }

    #[test]
    fn damaged_generation_is_put_aside_and_the_clock_decides() {
        for damage in
            ["", "17", "17x\n", "-3\n", "\u{0}\u{0}\u{0}\n", "18446744073709551615\n", "99999999999999999999\n"]
        {
            let (_dir, path) = place();
            let state = StateDir::open(&path).unwrap();
            fs::write(path.join("generation"), damage).unwrap();
            assert_eq!(state.next_generation(4_000).unwrap(), 4_000, "{damage:?}");
            assert_eq!(fs::read_to_string(path.join("generation.damaged")).unwrap(), damage);
            assert_eq!(fs::read_to_string(path.join("generation")).unwrap(), "5024\n");
        }
    }

    #[test]
    fn a_write_that_died_half_way_is_no_harm() {
        let (_dir, path) = place();
        let first = StateDir::open(&path).unwrap().next_generation(50).unwrap();
        fs::write(path.join("generation.new"), "1").unwrap();
        fs::set_permissions(path.join("generation.new"), PermissionsExt::from_mode(0o666)).unwrap();
        assert!(StateDir::open(&path).unwrap().next_generation(50).unwrap() > first);
        assert_eq!(mode(&path.join("generation")), 0o600);
    }

    #[test]
    fn second_daemon_is_refused_by_name() {
        let (_dir, path) = place();
        let first = StateDir::open(&path).unwrap();
        let error = StateDir::open(&path).unwrap_err();
        assert!(matches!(error, StateError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn node_key_is_made_once_and_kept_private() {
        let (_dir, path) = place();
        let state = StateDir::open(&path).unwrap();
        let key = state.node_key().unwrap();
        assert_ne!(key, [0; 32]);
        assert_eq!(mode(&path.join("node.key")), 0o600);
        assert!(!path.join("node.key").starts_with(state.cache_dir()));
        drop(state);
        assert_eq!(StateDir::open(&path).unwrap().node_key().unwrap(), key);

        fs::write(path.join("node.key"), "short").unwrap();
        let error = StateDir::open(&path).unwrap().node_key().unwrap_err();
        assert!(error.to_string().contains("node.key"), "{error}");
    }

    #[test]
    fn directory_is_private() {
        let (_dir, path) = place();
        let state = StateDir::open(&path).unwrap();
        assert_eq!((mode(&path), mode(state.cache_dir())), (0o700, 0o700));
        drop(state);

        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        drop(StateDir::open(&path).unwrap());
        assert_eq!(mode(&path), 0o700, "one that others may read is closed to them");

        for writable in [0o720, 0o702] {
            fs::set_permissions(&path, PermissionsExt::from_mode(writable)).unwrap();
            let error = StateDir::open(&path).unwrap_err();
            assert!(matches!(error, StateError::WritableByOthers { mode, .. } if mode == writable), "{error}");
            assert!(StateDir::check(&path).is_err());
        }
    }

    #[test]
    fn check_looks_and_leaves_no_trace() {
        let (dir, path) = place();
        StateDir::check(&path).unwrap();
        assert!(!path.exists() && !path.parent().unwrap().exists());

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for bad in [file.clone(), file.join("below")] {
            assert!(matches!(StateDir::check(&bad), Err(StateError::NotADirectory(_))), "{}", bad.display());
            assert!(StateDir::open(&bad).is_err());
        }

        let state = StateDir::open(&path).unwrap();
        StateDir::check(&path).unwrap();
        drop(state);
    }
}
