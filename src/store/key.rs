//! Key files: 32 bytes as one line of standard base64, made by `picored keygen` or by the state directory.
//!
//! A key is never logged and never part of an error's text. The daemon reads them at its start, `picored check` to see
//! whether it could.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};

use super::FILE_LIMIT;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refused.
    #[error("cannot read the key file {}: {error}{}", .path.display(), remedy(.error))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("the key file {} is not a regular file: name the file that `picored keygen --out` wrote", .0.display())]
    NotAFile(PathBuf),
    /// Whoever can read it can speak for the cluster, so this is no mere warning.
    #[error(
        "the key file {} is open to every user of this machine (mode {mode:04o}): `chmod o= {}`, and make a new key if \
         others were on it", .path.display(), .path.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not one line of base64 of 32 bytes.
    #[error(
        "the key file {} holds no key ({reason}): it must be one line, 32 bytes in base64; `picored keygen` makes one",
        .path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        reason: String,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": make one with `picored keygen --out FILE` and copy it to every node",
        io::ErrorKind::PermissionDenied => ": give the user that picored runs as the right to read it",
        _ => "",
    }
}

/// A new key from the system's randomness.
pub fn new_key() -> [u8; 32] {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).expect("the system gives randomness");
    key
}

/// The key as it stands in a file, without the line's end.
pub fn encode_key(key: &[u8; 32]) -> String {
    STANDARD.encode(key)
}

/// Writes the key to a new file (0600). A file that is there already stays as it is, and is an error.
pub fn create_key_file(path: &Path, key: &[u8; 32]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all((encode_key(key) + "\n").as_bytes())
        .and_then(|()| file.sync_all())
        .inspect_err(|_| drop(fs::remove_file(path)))
}

/// Reads a key file. One that every user of the machine may read or write is refused; its group may read it.
pub fn read_key(path: &Path) -> Result<[u8; 32], KeyError> {
    let read = |error| KeyError::Read { path: path.to_owned(), error };
    let content = |reason: String| KeyError::Content { path: path.to_owned(), reason };
    // Looked at before it is opened: to open a pipe would wait for its other end.
    let found = fs::metadata(path).map_err(read)?;
    if !found.is_file() {
        return Err(KeyError::NotAFile(path.to_owned()));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(KeyError::OpenToOthers { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes)).map_err(read)?;
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err(content("it is empty".into()));
    }
    if text.contains(&b'\n') {
        return Err(content("it has more than one line".into()));
    }
    let decoded = STANDARD.decode(text).map_err(|_| content("it is not base64".into()))?;
    <[u8; 32]>::try_from(decoded).map_err(|decoded| content(format!("it has {} bytes", decoded.len())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn written_key_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = new_key();
        create_key_file(&path, &key).unwrap();
        assert_eq!(read_key(&path).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(create_key_file(&path, &new_key()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read_key(&path).unwrap(), key);
    }

    #[test]
    fn bad_files_are_refused_with_file_and_reason_but_without_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let good = encode_key(&[7; 32]);
        for (text, reason) in [
            (String::new(), "empty"),
            (" \n\n".into(), "empty"),
            (format!("{good}\n{good}\n"), "more than one line"),
            ("correct horse battery staple".into(), "not base64"),
            (good.trim_end_matches('=').into(), "not base64"),
            (STANDARD.encode([7; 31]), "31 bytes"),
            (STANDARD.encode([7; 64]), "64 bytes"),
        ] {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            let error = read_key(&path).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(&path.display().to_string()), "{error}");
            assert!(text.trim().is_empty() || !error.contains(text.trim()), "{error}");
        }
    }

    #[test]
    fn spaces_and_line_ends_around_the_key_are_forgiven() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in [encode_key(&[7; 32]), format!(" {}\r\n\n", encode_key(&[7; 32]))] {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
            assert_eq!(read_key(&path).unwrap(), [7; 32]);
        }
    }

    #[test]
    fn a_key_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_key_file(&path, &new_key()).unwrap();
        for mode in [0o644, 0o602, 0o604] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(matches!(read_key(&path), Err(KeyError::OpenToOthers { mode: found, .. }) if found == mode));
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_key(dir.path()), Err(KeyError::NotAFile(_))));
        let error = read_key(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none") && error.contains("picored keygen"), "{error}");
    }
}
