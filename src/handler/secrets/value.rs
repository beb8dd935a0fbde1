//! One secret's value: how it is read and what it has to be like.
//!
//! White space around it is no part of it, so that a file may end in a line end. It is wiped when it is dropped. Errors
//! name the secret and the place, never what is there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use picored_core::name::SecretName;
use zeroize::Zeroizing;

use crate::stamp::Stamp;

/// The shortest secret that is taken, in bytes. What is shorter can be guessed, and to take it out of every text would
/// leave holes in texts that never had it.
pub const MIN_SECRET_BYTES: usize = 8;
/// The longest secret that is taken, in bytes: it has to fit a header.
pub const MAX_SECRET_BYTES: usize = 4096;

/// A file that changed less than this before it was read may change again without its times showing it.
const SETTLED: Duration = Duration::from_secs(2);

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The system refused.
    #[error("cannot read the secret {name} from {}: {error}{}", .path.display(), remedy(.error))]
    Read {
        /// The secret.
        name: SecretName,
        /// Its file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("the secret {name} is not in a regular file: {}", .path.display())]
    NotAFile {
        /// The secret.
        name: SecretName,
        /// What is there.
        path: PathBuf,
    },
    /// The daemon was started without it.
    #[error("the secret {name} is not in the environment: set {variable} where picored is started")]
    NoVariable {
        /// The secret.
        name: SecretName,
        /// The variable.
        variable: String,
    },
    /// Nobody passed credentials.
    #[error(
        "the secret {name} is a credential, but there is no CREDENTIALS_DIRECTORY: start picored by systemd with \
         LoadCredential={credential}:/path in its unit"
    )]
    NoCredentials {
        /// The secret.
        name: SecretName,
        /// The credential.
        credential: String,
    },
    /// No value that can be sent and found again.
    #[error(
        "the secret {name} in {place} cannot be used, {reason}: it must be one line of {MIN_SECRET_BYTES} to \
         {MAX_SECRET_BYTES} bytes of text"
    )]
    Content {
        /// The secret.
        name: SecretName,
        /// Where it is.
        place: String,
        /// What is wrong, without the value.
        reason: String,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": write it there, in a file that picored's user can read and no other",
        io::ErrorKind::PermissionDenied => ": give the user that picored runs as the right to read it",
        _ => "",
    }
}

/// A secret's bytes.
pub(super) struct Value(Zeroizing<Vec<u8>>);

impl Value {
    fn new(name: &SecretName, place: String, bytes: &[u8]) -> Result<Self, SecretError> {
        let value = bytes.trim_ascii();
        let reason = match std::str::from_utf8(value) {
            Ok("") => "it is empty".to_owned(),
            Ok(text) if text.contains(char::is_control) => "it has more than one line, or a control character".into(),
            Ok(_) if value.len() < MIN_SECRET_BYTES => format!("it has only {} bytes", value.len()),
            Ok(_) if value.len() > MAX_SECRET_BYTES => "it is too long".into(),
            Ok(_) => return Ok(Self(Zeroizing::new(value.to_vec()))),
            Err(_) => "it is not UTF-8".into(),
        };
        Err(SecretError::Content { name: name.clone(), place, reason })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The value in a file, and the file's stamp if it can be relied on.
pub(super) fn from_file(name: &SecretName, path: &Path) -> Result<(Value, Option<Stamp>), SecretError> {
    let read = |error| SecretError::Read { name: name.clone(), path: path.to_owned(), error };
    // Looked at before it is opened: to open a pipe would wait for its other end.
    if !fs::metadata(path).map_err(read)?.is_file() {
        return Err(SecretError::NotAFile { name: name.clone(), path: path.to_owned() });
    }
    let file = File::open(path).map_err(read)?;
    let found = file.metadata().map_err(read)?;
    // Large enough from the start: one that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_SECRET_BYTES));
    file.take(2 * MAX_SECRET_BYTES as u64 - 1).read_to_end(&mut bytes).map_err(read)?;
    let value = Value::new(name, path.display().to_string(), &bytes)?;
    let age = found.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    Ok((value, age.filter(|age| *age > SETTLED).map(|_| Stamp::of(&found))))
}

/// The value of an environment variable.
pub(super) fn from_environment(name: &SecretName, variable: &str) -> Result<Value, SecretError> {
    use std::os::unix::ffi::OsStringExt;
    let found = std::env::var_os(variable)
        .ok_or_else(|| SecretError::NoVariable { name: name.clone(), variable: variable.to_owned() })?;
    Value::new(name, format!("the environment variable {variable}"), &Zeroizing::new(found.into_vec()))
}

/// The permission bits of the file, if every user of the machine may read or write it.
pub(super) fn open_to_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    (mode & 0o006 != 0).then_some(mode)
}
