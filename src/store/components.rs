//! Components that were installed over a handler's source: their files, and the note of which one is in force.
//!
//! The note is replaced whole, after the file that it names is on the disk, so that a crash at any moment leaves the
//! version before or the one after in force. Which one ought to run is not decided here. Used by the driver.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use picored_core::digest::Digest;
use serde::{Deserialize, Serialize};

/// The note's name.
const NOTE: &str = "installed.json";
/// Read no more than this of it. The path of a source has 4095 bytes at most, each of up to six letters in JSON.
const NOTE_LIMIT: u64 = 32 << 10;

/// One handler's folder in the state directory.
#[derive(Clone, Debug)]
pub struct Components {
    folder: PathBuf,
}

/// What was installed over a handler's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The source, as the config names it.
    pub source: String,
    /// The component that the source held then, if it could be read. Where it holds another one, that one is newer.
    pub replaced: Option<Digest>,
    /// What runs.
    pub current: Digest,
    /// What ran before, if it was not the source's.
    pub previous: Option<Digest>,
}

impl Components {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the component with this digest is, if it is kept.
    pub fn path(&self, component: &Digest) -> PathBuf {
        self.folder.join(format!("{component}.wasm"))
    }

    /// What is in force over the source.
    ///
    /// # Errors
    /// If there is a note that cannot be read, or is none.
    pub fn installed(&self) -> io::Result<Option<Installed>> {
        let mut bytes = Vec::new();
        match File::open(self.folder.join(NOTE)) {
            Ok(file) => file.take(NOTE_LIMIT).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Moves the file `from`, which has this digest, into the folder, and waits for the disk. It is not in force yet.
    pub fn keep(&self, from: &Path, component: &Digest) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.path(component);
        File::open(from)?.sync_all()?;
        fs::rename(from, &path)?;
        Ok(path)
    }

    /// Puts `installed` in force, all or nothing, and on the disk before it returns.
    pub fn install(&self, installed: &Installed) -> io::Result<()> {
        super::replace(&self.folder, NOTE, &serde_json::to_vec(installed)?)
    }

    /// Nothing is in force over the source any more.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.folder.join(NOTE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        File::open(&self.folder)?.sync_all()
    }

    /// Removes all components but these. What cannot be removed is left for the next time.
    pub fn tidy(&self, keep: &[Digest]) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_kept = keep.iter().any(|digest| path == self.path(digest));
            if path.extension().is_some_and(|extension| extension == "wasm") && !is_kept {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = Digest::new([0xa; 32]);
    const B: Digest = Digest::new([0xb; 32]);

    fn keep(components: &Components, dir: &Path, digest: Digest) -> PathBuf {
        let sent = dir.join("sent");
        fs::write(&sent, digest.to_string()).unwrap();
        components.keep(&sent, &digest).unwrap()
    }

    fn installed(current: Digest, previous: Option<Digest>) -> Installed {
        // The longest source that a config may name, of what takes the most room in JSON.
        Installed { source: "\u{1}".repeat(4095), replaced: Some(B), current, previous }
    }

    #[test]
    fn what_was_installed_is_found_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let components = Components::new(dir.path().join("handlers/dns"));
        assert_eq!(components.installed().unwrap(), None);
        components.clear().unwrap();

        let path = keep(&components, dir.path(), A);
        assert_eq!(components.installed().unwrap(), None, "kept is not in force");
        components.install(&installed(A, None)).unwrap();
        assert_eq!(components.installed().unwrap(), Some(installed(A, None)));
        assert_eq!(fs::read_to_string(&path).unwrap(), A.to_string());
        keep(&components, dir.path(), B);
        components.install(&installed(B, Some(A))).unwrap();
        assert_eq!(components.installed().unwrap(), Some(installed(B, Some(A))));
        components.clear().unwrap();
        assert_eq!(components.installed().unwrap(), None);
    }

    #[test]
    fn only_what_is_needed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let components = Components::new(dir.path().join("dns"));
        components.tidy(&[]);
        let (a, b) = (keep(&components, dir.path(), A), keep(&components, dir.path(), B));
        components.install(&installed(B, None)).unwrap();
        components.tidy(&[B]);
        assert_eq!((a.exists(), b.exists()), (false, true));
        assert!(components.installed().unwrap().is_some(), "the note is no component");
    }

    #[test]
    fn a_damaged_note_is_an_error_and_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let components = Components::new(dir.path().to_owned());
        let note = serde_json::to_string(&installed(A, None)).unwrap();
        for damage in ["", "{}", &note[..note.len() / 2], &note.replace(&A.to_string(), "../../etc/passwd")] {
            fs::write(dir.path().join(NOTE), damage).unwrap();
            assert!(components.installed().is_err(), "{damage:.80}");
        }
    }
}
