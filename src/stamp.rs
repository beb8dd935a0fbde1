//! What tells one state of a file from another without reading it. Asked by all that look at a file again later: a
//! watched handler, a secret, an entry of the cache.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where a file is, how long, and when it was written and changed last. The change time is the kernel's alone to set: one
/// who puts back the time of writing does not hide that there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that is there, if one is.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|found| Self::of(&found))
    }

    /// Of the file that was found.
    pub(crate) fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Of a file of which nothing but its size matters.
    #[cfg(test)]
    pub(crate) fn of_size(size: u64) -> Self {
        Self { device: 1, inode: 1, size, modified: (0, 0), changed: (0, 0) }
    }
}
