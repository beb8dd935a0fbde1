//! The probe of a local application: one connection, with one request where it is an HTTP check, or one run of a command;
//! and one verdict.
//!
//! All is fresh each time, one clock is over all of it, and never more of an answer is taken than is needed, so that an
//! application that hangs, drips or floods costs a bounded amount and fails like any other. The driver calls this when
//! the core says that a check is due; what a verdict means is the core's to say.

mod account;
mod exec;
mod http;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use picored_core::config::{App, Check, ExecCheck, HttpCheck, Trust};
use picored_core::name::AppName;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use self::exec::Runs;
use crate::tls::{self, Tls};

/// Longest file that is read, in bytes. All CA certificates of the web take a fifth of it.
const FILE_LIMIT: u64 = 1 << 20;

/// Why the checks of a config cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be read.
    #[error("the ca_file {} of app {app} cannot be read: {error}", path.display())]
    CaFile {
        /// Whose check it is.
        app: String,
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// The file is not what it should be.
    #[error("the ca_file {} of app {app} {why}", path.display())]
    Certificates {
        /// Whose check it is.
        app: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, or with the machine.
        why: String,
    },
    /// TLS does not work at all.
    #[error("the check of app {app} cannot speak TLS: {why}")]
    Tls {
        /// Whose check it is.
        app: String,
        /// The library's word.
        why: String,
    },
    /// There is no such program, or it is none.
    #[error("the exec check of app {app} has a program that cannot be run: {}: {why}", path.display())]
    Program {
        /// Whose check it is.
        app: String,
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It cannot be run as this user.
    #[error("the exec check of app {app} cannot be made as the user {user}: {why}")]
    User {
        /// Whose check it is.
        app: String,
        /// The user.
        user: String,
        /// What is missing.
        why: String,
    },
}

/// Makes probes: holds what they trust. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    platform: Arc<Tls>,
    /// For all trust but that in the platform.
    trusted: Arc<BTreeMap<Trust, Arc<ClientConfig>>>,
    /// For all checks that are commands.
    commands: Arc<BTreeMap<AppName, Runs>>,
}

impl Prober {
    /// Reads the files that the checks of `apps` name; each is held once. The `platform`'s roots are read when a check
    /// needs them. Programs and users are looked for.
    ///
    /// # Errors
    /// One for each app whose check could never be good.
    pub fn new(apps: &[App], platform: Arc<Tls>) -> Result<Self, Vec<CheckError>> {
        let mut trusted = BTreeMap::new();
        let mut commands = BTreeMap::new();
        let mut errors = Vec::new();
        for app in apps {
            let check = match &app.check {
                Check::Http(check) => check,
                Check::Exec(check) => {
                    match runs(app, check) {
                        Ok(runs) => drop(commands.insert(app.name.clone(), runs)),
                        Err(error) => errors.push(error),
                    }
                    continue;
                }
                Check::Tcp(_) | Check::Ttl(_) => continue,
            };
            let Some(tls) = check.tls.as_ref().filter(|tls| !trusted.contains_key(&tls.trust)) else { continue };
            let name = || app.name.to_string();
            let config = match &tls.trust {
                Trust::Platform => continue,
                Trust::Anyone => tls::trusting_anyone().map_err(|why| CheckError::Tls { app: name(), why }),
                Trust::CaFile(path) => match read(path) {
                    Ok(pem) => tls::trusting(&pem).map_err(|why| CheckError::Certificates {
                        app: name(),
                        path: path.clone(),
                        why,
                    }),
                    Err(error) => Err(CheckError::CaFile { app: name(), path: path.clone(), error }),
                },
            };
            match config {
                Ok(config) => drop(trusted.insert(tls.trust.clone(), tls::without_resumption(&config))),
                Err(error) => errors.push(error),
            }
        }
        match errors.is_empty() {
            true => Ok(Self { platform, trusted: Arc::new(trusted), commands: Arc::new(commands) }),
            false => Err(errors),
        }
    }

    /// Asks the application, which is one of those that this was made for, once. `Err` is a short reason for people; the
    /// whole probe ends within the application's `timeout`. When this is dropped, it ends as well.
    pub async fn probe(&self, app: &App) -> Result<(), String> {
        // To read the platform's roots may take longer than a check may, and is not the application's fault.
        let config = match &app.check {
            Check::Http(HttpCheck { tls: Some(tls), .. }) => Some(self.config(&tls.trust).await?),
            _ => None,
        };
        let deadline = Instant::now() + app.timeout;
        let mut doing = "resolving the name";
        let work = async {
            match &app.check {
                Check::Http(check) => http::ask(check, config, deadline, &mut doing).await,
                Check::Tcp(check) => connect(&check.host, check.port, deadline, &mut doing).await.map(drop),
                Check::Exec(check) => match self.commands.get(&app.name) {
                    Some(runs) => runs.ask(check, &mut doing).await,
                    None => Err("its command was not looked at".into()),
                },
                Check::Ttl(_) => Err("it is not asked, it says itself how it is".into()),
            }
        };
        let verdict = timeout_at(deadline, work).await;
        verdict.unwrap_or_else(|_| Err(format!("timed out after {:?} {doing}", app.timeout)))
    }

    async fn config(&self, trust: &Trust) -> Result<Arc<ClientConfig>, String> {
        match self.trusted.get(trust) {
            Some(config) => Ok(config.clone()),
            None => Ok(tls::without_resumption(&*self.platform.platform().await?)),
        }
    }
}

/// What is needed to run the command of `app`, which is `check`.
fn runs(app: &App, check: &ExecCheck) -> Result<Runs, CheckError> {
    let why = match check.program.metadata() {
        Err(error) => Some(error.to_string()),
        Ok(found) if !found.is_file() => Some("it is no file".to_owned()),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some("it is not executable (see chmod)".to_owned()),
        Ok(_) => None,
    };
    if let Some(why) = why {
        return Err(CheckError::Program { app: app.name.to_string(), path: check.program.clone(), why });
    }
    let Some(user) = &check.user else { return Ok(Runs::new(None)) };
    let account = account::find(user);
    account.map(Runs::new).map_err(|why| CheckError::User { app: app.name.to_string(), user: user.clone(), why })
}

/// The whole file, if it is not longer than any such file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"));
    }
    Ok(content)
}

/// Connects to the host, whatever address of it takes it.
async fn connect(host: &str, port: u16, deadline: Instant, doing: &mut &'static str) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|_| format!("cannot resolve {host}"))?;
    let addresses: Vec<_> = found.collect();
    *doing = "connecting";
    match dial(&addresses, deadline).await {
        Ok(stream) => Ok(stream),
        Err(Some(error)) => Err(io_reason(&error)),
        Err(None) => Err(format!("{host} has no address")),
    }
}

/// Connects to the first address that takes it. One that does not answer leaves the others their share of the time.
async fn dial(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Option<io::Error>> {
    let mut refusal = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let connecting = TcpStream::connect(address);
        // The last one has all that is left, which is the caller's to measure.
        let connected = if left == 1 { Ok(connecting.await) } else { timeout(share, connecting).await };
        match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => refusal = Some(error),
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// The system's error without its number, where it has a plain name.
fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed before the response was complete".into(),
        kind @ (io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::BrokenPipe) => kind.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
