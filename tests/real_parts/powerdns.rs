//! Debian's PowerDNS with its SQLite backend, on a machine of the test's network: an authoritative server with one zone,
//! and the API that the handler writes it by. Its database can be looked at from outside.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::debian_powerdns::{NEEDED, PROGRAM, arguments, create_database, sql};
use crate::network::{Held, Machine};
use crate::site::signal;

pub(crate) const ZONE: &str = "site.example.";
pub(crate) const RECORD: &str = "www.site.example.";
pub(crate) const API_KEY: &str = "what-the-api-wants-to-see";
pub(crate) const API_PORT: u16 = 8081;
/// What is in the zone from the start, and nobody's to touch: name, type, content.
const OTHERS: [(&str, &str, &str); 4] = [
    (ZONE, "SOA", "ns.site.example. hostmaster.site.example. 1 3600 600 86400 30"),
    (ZONE, "NS", "ns.site.example."),
    (RECORD, "TXT", "\"not an address\""),
    ("mail.site.example.", "A", "192.0.2.25"),
];

/// A running server; it ends with its owner.
pub(crate) struct PowerDns {
    process: Held,
    database: PathBuf,
}

impl PowerDns {
    /// Starts it on `machine`, whose address is `address`: DNS on port 53, the API on [`API_PORT`].
    pub(crate) fn start(machine: &Machine, address: Ipv4Addr, folder: &Path) -> anyhow::Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "PowerDNS is not installed: {NEEDED}");
        let folder = folder.join("powerdns");
        fs::create_dir(&folder)?;
        let database = create_database(&folder)?;
        let name = ZONE.trim_end_matches('.');
        sql(&database, &format!("INSERT INTO domains (name, type) VALUES ('{name}', 'NATIVE');"))?;
        for (name, kind, content) in OTHERS {
            let name = name.trim_end_matches('.');
            sql(
                &database,
                &format!(
                    "INSERT INTO records (domain_id, name, type, content, ttl, disabled, auth)
                     VALUES (1, '{name}', '{kind}', '{content}', 30, 0, 1);"
                ),
            )?;
        }
        let log = fs::File::create(folder.join("log"))?;
        let mut command = machine.command(PROGRAM);
        let (dns, api) = ((address, 53).into(), (address, API_PORT).into());
        command.args(arguments(&database, dns, api, "0.0.0.0/0", API_KEY));
        // Each visitor sees the record as it is.
        command.args(["--cache-ttl=0", "--query-cache-ttl=0", "--negquery-cache-ttl=0"]);
        let process = command.stdout(Stdio::null()).stderr(log).spawn().context("pdns_server")?;
        Ok(Self { process: Held(process), database })
    }

    /// Stands still for a while: whoever asks waits, or gives up.
    pub(crate) fn hang(&self, time: Duration) -> anyhow::Result<()> {
        signal(self.process.0.id(), Signal::STOP)?;
        std::thread::sleep(time);
        signal(self.process.0.id(), Signal::CONT)
    }

    /// What it has besides the site's addresses, against what was there at the start.
    pub(crate) fn others_are_untouched(&self) -> anyhow::Result<()> {
        let query = format!(
            "SELECT name || '. ' || type || ' ' || content FROM records WHERE NOT (name = '{}' AND type = 'A');",
            RECORD.trim_end_matches('.')
        );
        let text = sql(&self.database, &query)?;
        let mut found: Vec<_> = text.lines().collect();
        let others = OTHERS.map(|(name, kind, content)| format!("{name} {kind} {content}"));
        let mut others: Vec<_> = others.iter().map(String::as_str).collect();
        // PowerDNS raises the zone's serial with every change.
        found.retain(|line| !line.contains(" SOA "));
        others.retain(|line| !line.contains(" SOA "));
        found.sort_unstable();
        others.sort_unstable();
        ensure!(found == others, "the zone has {found:?}, not {others:?}");
        Ok(())
    }
}
