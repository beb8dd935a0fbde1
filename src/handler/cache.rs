//! Machine code on disk: one file for each component and engine setting, authenticated with the node's key.
//!
//! The code stands first, so that it can be mapped as it is; a trailer of fixed size follows. An entry is read whole
//! and its MAC checked when it is first opened; after that the daemon maps the same open file, and checks anew only if
//! the file's metadata changed. This guards against rot, cut files and files from elsewhere, not against somebody who
//! can write as the daemon's user. Entries are written beside and renamed.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ring::{digest, hmac};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::handler::limits::compiler;
use crate::stamp::Stamp;

const MAGIC: &[u8; 16] = b"picored code 1\n\0";
const MAC_BYTES: usize = 32;
/// Magic, component, settings, length of the code, MAC.
const TRAILER_BYTES: usize = MAGIC.len() + 32 + 32 + 8 + MAC_BYTES;
/// The newest so many entries stay; older versions of a handler are among them.
const MAX_ENTRIES: usize = 64;

/// The daemon's own directory of code.
pub(crate) struct Cache {
    directory: PathBuf,
    key: hmac::Key,
    settings: [u8; 32],
}

/// Why a file is no entry.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is cut short")]
    Short,
    #[error("it is not a cache entry")]
    Foreign,
    #[error("it belongs to another component or another version of picored")]
    Other,
    #[error("its MAC is wrong: it was altered, or written with another node's key")]
    Mac,
}

impl Cache {
    /// Opens the directory, and makes it if it is not there. It is made the daemon's alone (0700).
    pub(crate) fn open(directory: &Path, node_key: &[u8; 32], settings: [u8; 32]) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, node_key);
        Ok(Self { directory: directory.to_owned(), key, settings })
    }

    /// The entry of `component`, if there is a good one. A bad one is removed. Reads all of it.
    pub(crate) fn find(&self, component: &[u8; 32]) -> Option<Entry> {
        let path = self.path(component);
        // To open a pipe must not wait for its other end.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.discard(&path, &Unfit::Io(error));
                return None;
            }
        };
        match self.verify(&file, component) {
            Ok(stamp) => Some(Entry { file, component: *component, stamp }),
            Err(unfit) => {
                self.discard(&path, &unfit);
                None
            }
        }
    }

    /// Removes the entry of `component`, which turned out to be unusable.
    pub(crate) fn remove(&self, component: &[u8; 32], why: &str) {
        self.discard(&self.path(component), &why);
    }

    /// A file to be filled with code and then [finished](Draft::finish).
    pub(crate) fn draft(&self, component: &[u8; 32]) -> io::Result<Draft> {
        self.tidy();
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("draft-{}-{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Draft { component: *component, path, file })
    }

    fn path(&self, component: &[u8; 32]) -> PathBuf {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.directory.join(format!("{}-{}.code", hex(component), hex(&self.settings[..8])))
    }

    fn discard(&self, path: &Path, why: &dyn std::fmt::Display) {
        tracing::warn!(file = %path.display(), "handler cache entry discarded: {why}");
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(file = %path.display(), "cannot remove it: {error}");
        }
    }

    /// Removes the oldest entries beyond [`MAX_ENTRIES`], and drafts that a killed daemon left.
    fn tidy(&self) {
        let Ok(listing) = fs::read_dir(&self.directory) else { return };
        let mut entries = Vec::new();
        for item in listing.flatten() {
            let Ok(modified) = item.metadata().and_then(|metadata| metadata.modified()) else { continue };
            let is_draft = item.file_name().to_string_lossy().starts_with("draft-");
            if !is_draft {
                entries.push((modified, item.path()));
            } else if modified.elapsed().is_ok_and(|age| age > compiler::WALL) {
                _ = fs::remove_file(item.path());
            }
        }
        entries.sort();
        for (_, path) in entries.iter().take(entries.len().saturating_sub(MAX_ENTRIES - 1)) {
            _ = fs::remove_file(path);
        }
    }

    fn trailer(&self, component: &[u8; 32], length: u64) -> Vec<u8> {
        [&MAGIC[..], component, &self.settings, &length.to_le_bytes()].concat()
    }

    /// What the MAC is over: the code's digest and the trailer.
    fn sealed(&self, file: &File, length: u64, trailer: &[u8]) -> io::Result<Vec<u8>> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut chunk = vec![0; 64 << 10];
        let mut at = 0;
        while at < length {
            let want = chunk.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut chunk[..want], at)?;
            context.update(&chunk[..want]);
            at += want as u64;
        }
        Ok([context.finish().as_ref(), trailer].concat())
    }

    fn verify(&self, file: &File, component: &[u8; 32]) -> Result<Stamp, Unfit> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(Unfit::Foreign);
        }
        let stamp = Stamp::of(&found);
        let length = found.size().checked_sub(TRAILER_BYTES as u64).ok_or(Unfit::Short)?;
        let mut found = [0; TRAILER_BYTES];
        file.read_exact_at(&mut found, length)?;
        let (found, mac) = found.split_at(TRAILER_BYTES - MAC_BYTES);
        if !found.starts_with(MAGIC) {
            return Err(if file_is_code(file) { Unfit::Short } else { Unfit::Foreign });
        }
        let trailer = self.trailer(component, length);
        if found != trailer {
            return Err(Unfit::Other);
        }
        let sealed = self.sealed(file, length, &trailer)?;
        hmac::verify(&self.key, &sealed, mac).map_err(|_| Unfit::Mac)?;
        // What was read is what the stamp names, or it changed meanwhile.
        if Stamp::of(&file.metadata()?) == stamp { Ok(stamp) } else { Err(Unfit::Mac) }
    }
}

/// Whether it begins like an entry does: code is in ELF.
fn file_is_code(file: &File) -> bool {
    let mut head = [0; 4];
    file.read_exact_at(&mut head, 0).is_ok() && head == *b"\x7fELF"
}

/// Code on its way into the cache. Dropped before it is finished, it is gone.
pub(crate) struct Draft {
    component: [u8; 32],
    path: PathBuf,
    file: File,
}

impl Draft {
    /// Where the code goes.
    pub(crate) fn output(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Authenticates what was written, and makes it the component's entry. Reads all of it, and waits for the disk.
    pub(crate) fn finish(mut self, cache: &Cache) -> io::Result<Entry> {
        let length = self.file.metadata()?.len();
        let mut trailer = cache.trailer(&self.component, length);
        let sealed = cache.sealed(&self.file, length, &trailer)?;
        trailer.extend(hmac::sign(&cache.key, &sealed).as_ref());
        self.file.write_all_at(&trailer, length)?;
        self.file.flush()?;
        self.file.sync_all()?;
        fs::rename(&self.path, cache.path(&self.component))?;
        let file = OpenOptions::new().read(true).open(cache.path(&self.component))?;
        let stamp = Stamp::of(&file.metadata()?);
        Ok(Entry { file, component: self.component, stamp })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing of that name.
        _ = fs::remove_file(&self.path);
    }
}

/// An authenticated entry, held open.
pub(crate) struct Entry {
    file: File,
    component: [u8; 32],
    stamp: Stamp,
}

impl Entry {
    /// Maps the code. If the file changed since it was checked it is checked again.
    pub(crate) fn map(&mut self, cache: &Cache, engine: &Engine) -> Result<Component, String> {
        if Stamp::of(&self.file.metadata().map_err(|error| error.to_string())?) != self.stamp {
            self.stamp = cache.verify(&self.file, &self.component).map_err(|unfit| unfit.to_string())?;
        }
        // The open file, whatever its name stands for by now. wasmtime has no way to hand it over as such.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        // SAFETY: the file's MAC, made with the node's key, says that this node's compiler wrote it for an engine of
        // these settings; it lies in a directory that only the daemon's user can write, and the daemon only renames and
        // removes whole entries there.
        #[allow(unsafe_code)]
        unsafe { Component::deserialize_file(engine, path) }.map_err(|error| format!("{error:#}"))
    }
}
