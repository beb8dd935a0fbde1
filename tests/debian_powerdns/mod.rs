//! What all tests need to run Debian's PowerDNS with its SQLite backend: where it is, an empty database, and the
//! arguments of a server that reads no config file. Who starts it, on which network, is the test's affair.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The server.
pub(crate) const PROGRAM: &str = "/usr/sbin/pdns_server";
/// What brings all of it.
pub(crate) const NEEDED: &str = "apt-get install pdns-server pdns-backend-sqlite3 sqlite3";
/// The tables' definition.
const SCHEMA: &str = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";

/// Makes a database without zones in `folder`.
pub(crate) fn create_database(folder: &Path) -> anyhow::Result<PathBuf> {
    let database = folder.join("zones.sqlite3");
    sql(&database, &fs::read_to_string(SCHEMA).context(NEEDED)?)?;
    // PowerDNS may run as another user.
    fs::set_permissions(&database, Permissions::from_mode(0o666))?;
    Ok(database)
}

/// Has SQLite do something in the database; what it prints.
pub(crate) fn sql(database: &Path, statements: &str) -> anyhow::Result<String> {
    let done = Command::new("sqlite3").arg("-bail").arg(database).arg(statements).output().context(NEEDED)?;
    ensure!(done.status.success(), "sqlite3: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// The arguments of a server in the foreground that answers at `dns`, and at `api` those of `clients` that know `key`.
pub(crate) fn arguments(database: &Path, dns: SocketAddr, api: SocketAddr, clients: &str, key: &str) -> Vec<String> {
    let folder = database.parent().expect("it is in a folder").display();
    vec![
        // No config file but what is said here.
        format!("--config-dir={folder}"),
        format!("--socket-dir={folder}"),
        "--daemon=no".into(),
        "--guardian=no".into(),
        "--disable-syslog=yes".into(),
        "--launch=gsqlite3".into(),
        format!("--gsqlite3-database={}", database.display()),
        format!("--local-address={}", dns.ip()),
        format!("--local-port={}", dns.port()),
        "--api=yes".into(),
        format!("--api-key={key}"),
        format!("--webserver-address={}", api.ip()),
        format!("--webserver-port={}", api.port()),
        format!("--webserver-allow-from={clients}"),
        // A zone that was just made is known at once.
        "--zone-cache-refresh-interval=0".into(),
    ]
}
