//! The demo's own folder: made fresh, private, and gone at the end, also if the demo panics.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

/// The longest path of a Unix socket, in bytes; the shortest limit among today's systems.
const SOCKET_PATH_LIMIT: usize = 103;

/// A folder that is removed when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `picored-demo-ID` in the system's folder for temporary files, open to this user alone.
    ///
    /// # Errors
    /// If it cannot be made, or lies so deep that a socket called `longest_socket` could not be opened in it.
    pub fn new(id: &str, longest_socket: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("picored-demo-{id}"));
        ensure!(
            path.join(longest_socket).as_os_str().len() <= SOCKET_PATH_LIMIT,
            "{} is too long a path for sockets: set TMPDIR to a shorter one",
            path.display()
        );
        ensure!(path.to_str().is_some(), "{} is not UTF-8: set TMPDIR to a folder that is", path.display());
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| {
            format!("cannot make the folder {}: set TMPDIR to one that can be written", path.display())
        })?;
        Ok(Self { path })
    }

    /// Where it is. Always UTF-8.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A process that was just killed may still be writing its last file.
        for _ in 0..20 {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => thread::sleep(Duration::from_millis(20)),
                Err(error) if error.kind() != ErrorKind::NotFound => return complain(&self.path, &error),
                _ => return,
            }
        }
        complain(&self.path, &ErrorKind::DirectoryNotEmpty.into());
    }
}

fn complain(path: &Path, error: &io::Error) {
    // Nobody may be listening any more, which is no reason to fail.
    let _ = writeln!(io::stderr(), "picored demo: {} is left behind: {error}", path.display());
}
