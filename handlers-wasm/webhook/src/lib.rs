//! The handler `webhook`: posts each event to a URL as JSON, with the whole wanted set of the application that it is about.
//!
//! A receiver can act on the event, or leave it aside and write what `endpoints` lists. Whoever signs or authorizes the
//! request is the host; no secret comes in here.

use picored_handler::http::Request;
use picored_handler::{Description, Event, Failure, Handler, Outcome, Want, cluster, config};
use serde::Serialize;

struct Webhook;

picored_handler::export!(Webhook);

impl Handler for Webhook {
    fn describe() -> Description {
        let wants = [
            ("event", "member-*", "Those that are to be told"),
            ("event", "app-*", "Those that are to be told"),
            ("cluster", "endpoints", "Sent with each event: the addresses that are up"),
            ("http", "POST {url}", "The receiver"),
            ("secret", "hmac-sha256-header", "Optional: what the receiver knows the sender by"),
            ("config", "url", "The receiver, such as https://ops.example.org/picored"),
        ];
        Description {
            name: env!("CARGO_PKG_NAME").to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            summary: env!("CARGO_PKG_DESCRIPTION").to_string(),
            wants: wants.map(|(kind, value, reason)| Want::new(kind, value, reason)).to_vec(),
            attributes: Vec::new(),
        }
    }

    fn handle(event: Event) -> Result<Outcome, Failure> {
        let url = config::required("url")?;
        let set = event.app.as_deref().map(cluster::endpoints);
        let set = set.transpose().map_err(Failure::Retry)?;
        let body = Body::new(&event, cluster::node().name, set).to_json()?;
        let request = Request::new("POST", &url).header("idempotency-key", &idempotency_key(&event));
        let response = request.body("application/json", body).send()?;
        Ok(Outcome::changed(format!("{} told: status {}", event.kind, response.status)))
    }
}

/// What is sent; README.md describes it.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    kind: &'a str,
    app: Option<&'a str>,
    member: Option<&'a str>,
    time: &'a str,
    attempt: u32,
    node: String,
    revision: Option<String>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Serialize)]
struct Endpoint {
    member: String,
    address: String,
    port: u16,
}

impl<'a> Body<'a> {
    fn new(event: &'a Event, node: String, set: Option<cluster::EndpointSet>) -> Self {
        let Event { id, kind, app, member, time, attempt, .. } = event;
        let (revision, endpoints) = set.map(|set| (set.revision, set.endpoints)).unzip();
        let endpoint = |cluster::Endpoint { member, address, port, .. }| Endpoint { member, address, port };
        Self {
            id,
            kind,
            app: app.as_deref(),
            member: member.as_deref(),
            time,
            attempt: *attempt,
            node,
            revision,
            endpoints: endpoints.map(|endpoints| endpoints.into_iter().map(endpoint).collect()),
        }
    }

    fn to_json(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec(self).map_err(|error| Failure::Permanent(format!("the event could not be written: {error}")))
    }
}

/// The same for each try of one delivery, and for no other: an event about a member is delivered once for each of its
/// applications, under one id. Quoted, as the header's standard has it.
fn idempotency_key(event: &Event) -> String {
    let app = event.app.as_deref().unwrap_or_default();
    format!("\"{}:{app}:{}\"", event.kind, event.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(app: Option<&str>) -> Event {
        Event {
            id: "member-down/web2/3".to_string(),
            kind: "member-down".to_string(),
            app: app.map(str::to_string),
            member: Some("web2".to_string()),
            time: "2026-01-31T12:00:00.000Z".to_string(),
            attempt: 2,
            payload: Vec::new(),
            attributes: Vec::new(),
        }
    }

    #[test]
    fn the_body_is_the_event_and_the_whole_wanted_set() {
        let endpoint = cluster::Endpoint {
            member: "web1".to_string(),
            address: "2001:db8::1".to_string(),
            port: 443,
            attributes: Vec::new(),
        };
        let set =
            cluster::EndpointSet { revision: "r7".to_string(), endpoints: vec![endpoint], attributes: Vec::new() };
        let body = Body::new(&event(Some("www")), "web3".to_string(), Some(set)).to_json().unwrap();
        let expected = concat!(
            r#"{"id":"member-down/web2/3","kind":"member-down","app":"www","member":"web2","#,
            r#""time":"2026-01-31T12:00:00.000Z","attempt":2,"node":"web3","revision":"r7","#,
            r#""endpoints":[{"member":"web1","address":"2001:db8::1","port":443}]}"#,
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn an_event_of_no_application_has_no_set_rather_than_an_empty_one() {
        let body = Body::new(&event(None), "web3".to_string(), None).to_json().unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(r#""app":null,"#) && body.ends_with(r#""revision":null,"endpoints":null}"#), "{body}");
    }

    #[test]
    fn a_members_event_has_a_key_for_each_application() {
        assert_eq!(idempotency_key(&event(Some("www"))), "\"member-down:www:member-down/web2/3\"");
        assert_eq!(idempotency_key(&event(None)), "\"member-down::member-down/web2/3\"");
    }
}
