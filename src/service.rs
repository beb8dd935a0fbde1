//! Words to the service manager: systemd's notification protocol, which others speak too (`man sd_notify`).
//!
//! A datagram of `NAME=value` lines to the socket that the environment names; without one nothing is said. The watchdog
//! is fed by the driver's loop and by nothing else, so that a loop that hangs is restarted. Nothing here ever fails a
//! caller or waits.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the manager, if there is one.
#[derive(Debug)]
pub struct Service {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Service {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        Self::new(|name| std::env::var_os(name), std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>, own: u32) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(socket = %name.display(), %error, "the service manager cannot be told anything");
                None
            }
        });
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(own));
        let watchdog = number("WATCHDOG_USEC").filter(|period| *period > 0 && is_ours && socket.is_some());
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// The daemon listens.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The loop has come round.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// How often [`Self::alive`] has to be said at least, with room for being late once; none if nobody listens.
    pub fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|period| period / 2)
    }

    fn say(&self, words: &str) {
        let Some((socket, manager)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), manager) {
            tracing::debug!(%error, words, "the service manager was not told");
        }
    }
}

fn connect(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the loop up.
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn service(name: &str, watchdog: &[(&str, &str)]) -> Service {
        let variable = |asked: &str| match asked {
            "NOTIFY_SOCKET" => Some(OsString::from(name)),
            _ => watchdog.iter().find(|(name, _)| *name == asked).map(|(_, value)| OsString::from(value)),
        };
        Service::new(variable, 77)
    }

    #[test]
    fn the_manager_hears_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("picored-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (name, manager) in [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{abstract_name}"), UnixDatagram::bind_addr(&address).unwrap()),
        ] {
            let service = service(&name, &[]);
            service.ready();
            service.alive();
            service.stopping();
            assert_eq!([heard(&manager), heard(&manager), heard(&manager)], ["READY=1", "WATCHDOG=1", "STOPPING=1"]);
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_does_not_read_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let service = service(path.to_str().unwrap(), &[]);
        for _ in 0..10_000 {
            service.alive();
        }
        drop(manager);
        service.alive();
        Service::new(|_| None, 77).ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_period_and_only_if_it_is_ours() {
        let every = |watchdog: &[(&str, &str)]| service("@nobody", watchdog).alive_every();
        assert_eq!(every(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(15)));
        assert_eq!(every(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "77")]), Some(Duration::from_secs(15)));
        assert_eq!(every(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "78")]), None);
        for none in ["", "0", "-1", "soon"] {
            assert_eq!(every(&[("WATCHDOG_USEC", none)]), None, "{none}");
        }
        assert_eq!(every(&[]), None);
    }
}
