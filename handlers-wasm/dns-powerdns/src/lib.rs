//! The handler `dns-powerdns`: keeps the A and AAAA records of one name in PowerDNS equal to the addresses that are up.
//!
//! Every run reads the records, and writes the whole of what differs in one request: which event it was does not
//! matter. `zone` holds what is PowerDNS's own; what a record shall be is computed by `picored_handler::record`.

mod zone;

use picored_handler::http::{Request, encoded};
use picored_handler::{Description, Event, Failure, Handler, Outcome, Want, cluster, config, log};

use crate::zone::{Found, Target};

struct Powerdns;

picored_handler::export!(Powerdns);

impl Handler for Powerdns {
    fn describe() -> Description {
        let zone = "{api}/api/v1/servers/{server}/zones/{zone}";
        let wants = [
            ("event", "member-*", "A member that comes or goes changes what is published"),
            ("event", "app-*", "So does an application that goes up or down"),
            ("event", "reconcile", "Repairs a record that somebody else changed"),
            ("cluster", "endpoints", "The addresses to publish"),
            ("http", &format!("GET {zone}"), "Reads the records"),
            ("http", &format!("PATCH {zone}"), "Replaces those that differ"),
            ("secret", "header", "PowerDNS's API key, as X-API-Key"),
            ("config", "api", "PowerDNS's address, such as http://127.0.0.1:8081"),
            ("config", "zone", "The zone, such as example.org."),
            ("config", "record", "The full name in it, such as www.example.org."),
            ("config", "ttl", "Optional: seconds that resolvers may keep the record, 1 to 86400; default 60"),
            ("config", "server", "Optional: PowerDNS's name for its server; default localhost"),
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
        let target = Target::new(&config::required("zone")?, &config::required("record")?)?;
        let ttl = config::number("ttl", 60, 1..=86_400)?;
        let url = zone_url(&target)?;
        let wanted = cluster::wanted(&cluster::app("app")?)?;

        let query = format!("{url}?rrset_name={}", encoded(target.record()));
        let found = target.read(&request("GET", &query).send()?.body)?;
        let mut update = target.compare(&found, &wanted, ttl)?;
        if update.patch.is_some()
            && let Some(found) = whole(&target, &url)?
        {
            update = target.compare(&found, &wanted, ttl)?;
        }
        let Some(patch) = update.patch else { return Ok(Outcome::unchanged(update.text)) };
        request("PATCH", &url).body("application/json", patch).send()?;
        Ok(Outcome::changed(update.text))
    }
}

/// Reads the zone without a filter. Before 5.0 PowerDNS leaves disabled records out of a filtered answer, and what is
/// written without them would delete them. A zone too large to be read is no reason to leave a dead address in it.
fn whole(target: &Target, url: &str) -> Result<Option<Found>, Failure> {
    match request("GET", url).send() {
        Ok(response) => target.read(&response.body).map(Some),
        Err(failed) if failed.kind == "too-large" => {
            log::warn(
                "the zone is too large to look for disabled records of this name: if there are any they are lost",
            );
            Ok(None)
        }
        Err(failed) => Err(failed.into()),
    }
}

/// Where the API keeps the zone.
fn zone_url(target: &Target) -> Result<String, Failure> {
    let api = config::required("api")?;
    if !api.starts_with("http://") && !api.starts_with("https://") {
        return Err(config::invalid("api", format_args!("`{api}` does not begin with http:// or https://")));
    }
    let server = config::optional("server")?.unwrap_or_else(|| "localhost".to_string());
    let (api, zone) = (api.trim_end_matches('/'), encoded(target.zone()));
    Ok(format!("{api}/api/v1/servers/{}/zones/{zone}", encoded(&server)))
}

/// Without the API key: the host adds it.
fn request(method: &str, url: &str) -> Request {
    Request::new(method, url).header("accept", "application/json")
}
