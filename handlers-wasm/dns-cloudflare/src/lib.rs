//! The handler `dns-cloudflare`: keeps the A and AAAA records of one name at Cloudflare equal to the addresses that are
//! up.
//!
//! Every run lists the records of that name, and writes all that differs in one batch, which Cloudflare carries out
//! whole or not at all: which event it was does not matter. `api` speaks with the server, `records` decides what
//! changes; what a record shall hold is computed by `picored_handler::record`. The token is the host's to add.

mod api;
mod records;

use picored_handler::{Description, Event, Failure, Handler, Outcome, Want, cluster, config, name};

use crate::api::Api;
use crate::records::Settings;

struct Cloudflare;

picored_handler::export!(Cloudflare);

impl Handler for Cloudflare {
    fn describe() -> Description {
        let records = "https://api.cloudflare.com/client/v4/zones/{zone_id}/dns_records";
        let wants = [
            ("event", "member-*", "A member that comes or goes changes what is published"),
            ("event", "app-*", "So does an application that goes up or down"),
            ("event", "reconcile", "Repairs records that somebody else changed"),
            ("cluster", "endpoints", "The addresses to publish"),
            ("http", &format!("GET {records}"), "Lists the records of the name"),
            ("http", &format!("POST {records}/batch"), "Writes those that differ, all at once"),
            ("secret", "bearer", "An API token that may edit the DNS of this zone alone"),
            ("config", "zone", "The zone, such as example.org"),
            ("config", "record", "The full name in it, such as www.example.org"),
            ("config", "zone_id", "Optional: the zone's id, from its overview page; else it is looked up by name"),
            ("config", "ttl", "Optional: seconds that resolvers may keep a record, 30 to 86400, or 1; default 60"),
            ("config", "proxied", "Optional: true or false; without it records stay as they are"),
            ("config", "api", "Optional: another address of the API than https://api.cloudflare.com/client/v4"),
            ("config", "app", "Needed if the handler sees several applications: the one to publish"),
        ];
        Description {
            name: env!("CARGO_PKG_NAME").to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            summary: env!("CARGO_PKG_DESCRIPTION").to_string(),
            wants: wants.map(|(kind, value, reason)| Want::new(kind, value, reason)).to_vec(),
            attributes: Vec::new(),
        }
    }

    fn handle(_event: Event) -> Result<Outcome, Failure> {
        let (zone, record) = name::in_zone(&config::required("zone")?, &config::required("record")?)?;
        let settings = Settings { ttl: ttl()?, proxied: config::boolean("proxied")? };
        let wanted = cluster::wanted(&cluster::app("app")?)?;

        let api = Api::new(&zone)?;
        let found = api.list(&record)?;
        let update = records::compare(&record, &found, &wanted, settings)?;
        let Some(batch) = update.batch else { return Ok(Outcome::unchanged(update.text)) };
        api.write(&record, &batch)?;
        Ok(Outcome::changed(update.text))
    }
}

/// Cloudflare takes 1 for a time of its own choice, and else no less than 60 s; 30 s in zones of the Enterprise plan.
fn ttl() -> Result<u32, Failure> {
    match config::number("ttl", 60, 1..=86_400)? {
        short @ 2..30 => Err(config::invalid("ttl", format_args!("`{short}` is neither 1 (automatic) nor 30 or more"))),
        ttl => Ok(ttl),
    }
}
