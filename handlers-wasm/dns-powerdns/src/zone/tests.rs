//! Answers as PowerDNS gives them, and the change that must follow.

use picored_handler::bindings::picored::handler::cluster::{Endpoint, EndpointSet};
use serde_json::{Value, json};

use super::*;

fn target() -> Target {
    Target::new("example.org", "WWW.Example.org").unwrap()
}

fn wanted(published: &[&str], claimed: &[&str]) -> Wanted {
    let endpoint = |address: &&str| Endpoint {
        member: "web".to_string(),
        address: address.to_string(),
        port: 80,
        attributes: Vec::new(),
    };
    Wanted::from_endpoints(&EndpointSet {
        revision: "1".to_string(),
        endpoints: published.iter().map(endpoint).collect(),
        attributes: claimed.iter().map(|address| ("claimed".to_string(), address.to_string())).collect(),
    })
    .unwrap()
}

fn zone(rrsets: Value) -> Vec<u8> {
    json!({ "id": "example.org.", "name": "example.org.", "kind": "Native", "rrsets": rrsets }).to_string().into_bytes()
}

fn rrset(name: &str, kind: &str, ttl: u32, records: Value) -> Value {
    json!({ "name": name, "type": kind, "ttl": ttl, "records": records, "comments": [] })
}

fn live(content: &str) -> Value {
    json!({ "content": content, "disabled": false })
}

fn disabled(content: &str) -> Value {
    json!({ "content": content, "disabled": true })
}

/// The change (null if there is none) and the words.
fn update(rrsets: Value, wanted: &Wanted) -> (Value, String) {
    let found = target().read(&zone(rrsets)).unwrap();
    let update = target().compare(&found, wanted, 60).unwrap();
    (update.patch.map_or(Value::Null, |patch| serde_json::from_slice(&patch).unwrap()), update.text)
}

fn refusal(answer: &[u8]) -> Failure {
    target().read(answer).expect_err("the answer was taken")
}

#[test]
fn a_dead_address_is_replaced_and_nothing_else_is_looked_at() {
    let rrsets = json!([
        rrset("example.org.", "A", 300, json!([live("203.0.113.1")])),
        rrset("www.example.org.", "TXT", 300, json!([live("\"not an address\"")])),
        rrset("www2.example.org.", "A", 300, json!([live("192.0.2.3")])),
        rrset("WWW.example.org.", "A", 60, json!([live("192.0.2.1"), live("192.0.2.3"), live("198.51.100.9")])),
        rrset("www.example.org.", "AAAA", 300, json!([live("2001:db8::9")])),
    ]);
    let (patch, text) = update(rrsets, &wanted(&["192.0.2.1"], &["192.0.2.1", "192.0.2.3"]));
    let records = json!([live("192.0.2.1"), live("198.51.100.9")]);
    let replace =
        json!({ "name": "www.example.org.", "type": "A", "changetype": "REPLACE", "ttl": 60, "records": records });
    assert_eq!(patch, json!({ "rrsets": [replace] }));
    assert_eq!(text, "www.example.org. A: 192.0.2.1 (removed 192.0.2.3; kept foreign 198.51.100.9)");
}

#[test]
fn what_is_right_takes_no_request() {
    let rrsets = json!([
        rrset("www.example.org.", "A", 60, json!([live("192.0.2.1")])),
        rrset("www.example.org.", "AAAA", 60, json!([live("2001:DB8:0::1")])),
    ]);
    let (patch, text) = update(rrsets, &wanted(&["192.0.2.1", "2001:db8::1"], &[]));
    assert_eq!(patch, Value::Null);
    assert_eq!(text, "www.example.org. A: 192.0.2.1 (unchanged), AAAA: 2001:db8::1 (unchanged)");
}

#[test]
fn a_name_that_is_not_there_yet_is_made() {
    let (patch, text) = update(json!([]), &wanted(&["192.0.2.1", "2001:db8::1"], &[]));
    let made = |kind: &str, address: &str| {
        let records = json!([live(address)]);
        json!({ "name": "www.example.org.", "type": kind, "changetype": "REPLACE", "ttl": 60, "records": records })
    };
    assert_eq!(patch, json!({ "rrsets": [made("A", "192.0.2.1"), made("AAAA", "2001:db8::1")] }));
    assert_eq!(text, "www.example.org. A: 192.0.2.1 (added 192.0.2.1), AAAA: 2001:db8::1 (added 2001:db8::1)");
}

#[test]
fn the_last_address_of_one_family_is_deleted() {
    let rrsets = json!([
        rrset("www.example.org.", "A", 60, json!([live("192.0.2.1")])),
        rrset("www.example.org.", "AAAA", 60, json!([live("2001:db8::1")])),
    ]);
    let (patch, text) = update(rrsets, &wanted(&["192.0.2.1"], &["192.0.2.1", "2001:db8::1"]));
    let delete = json!({ "name": "www.example.org.", "type": "AAAA", "changetype": "DELETE", "records": [] });
    assert_eq!(patch, json!({ "rrsets": [delete] }));
    assert_eq!(text, "www.example.org. A: 192.0.2.1 (unchanged), AAAA: none (removed 2001:db8::1)");
}

#[test]
fn disabled_records_are_written_back_as_they_were() {
    let rrsets = json!([
        rrset("www.example.org.", "A", 60, json!([live("192.0.2.1"), disabled("192.0.2.2"), disabled("192.0.2.99")])),
        rrset("www.example.org.", "AAAA", 60, json!([live("2001:db8::1"), disabled("2001:db8::2")])),
    ]);
    let wanted = wanted(&["192.0.2.2", "192.0.2.3"], &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]);
    let (patch, text) = update(rrsets, &wanted);
    let replace = |kind: &str, records: Value| json!({ "name": "www.example.org.", "type": kind, "changetype": "REPLACE", "ttl": 60, "records": records });
    let a = json!([live("192.0.2.3"), disabled("192.0.2.2"), disabled("192.0.2.99")]);
    let aaaa = json!([disabled("2001:db8::2")]);
    assert_eq!(patch, json!({ "rrsets": [replace("A", a), replace("AAAA", aaaa)] }));
    let words =
        "A: 192.0.2.3 (added 192.0.2.3; removed 192.0.2.1), left disabled 192.0.2.2, AAAA: none (removed 2001:db8::1)";
    assert_eq!(text, format!("www.example.org. {words}"));
}

#[test]
fn a_record_is_not_emptied_because_all_that_is_up_is_disabled() {
    let rrsets = json!([rrset("www.example.org.", "A", 60, json!([live("192.0.2.1"), disabled("192.0.2.2")]))]);
    let (patch, text) = update(rrsets, &wanted(&["192.0.2.2"], &["192.0.2.1", "192.0.2.2"]));
    assert_eq!(patch, Value::Null);
    assert_eq!(text, "www.example.org. A: left as it is, since all that is up is disabled there");
}

#[test]
fn a_bad_answer_fails_and_says_what_is_wrong() {
    for answer in ["", "<html>", "{\"name\": \"example.org.\", \"rrsets\": ["] {
        let Failure::Retry(reason) = refusal(answer.as_bytes()) else { panic!("{answer}: failed for good") };
        assert!(reason.starts_with("the answer is not a zone as PowerDNS shows it: "), "{reason}");
    }
    for (answer, missing) in [
        (json!({ "name": "example.org." }), "rrsets"),
        (json!({ "rrsets": [] }), "name"),
        (json!({ "name": "example.org.", "rrsets": [{ "name": "a.", "type": "A", "records": [] }] }), "ttl"),
        (json!({ "name": "example.org.", "rrsets": [{ "name": "a.", "type": "A", "ttl": 1 }] }), "records"),
    ] {
        let Failure::Permanent(reason) = refusal(answer.to_string().as_bytes()) else { panic!("{answer}: retried") };
        assert!(reason.contains(&format!("missing field `{missing}`")), "{reason}");
    }
    let other = json!({ "name": "example.com.", "rrsets": [] }).to_string();
    let Failure::Permanent(reason) = refusal(other.as_bytes()) else { panic!("retried") };
    assert_eq!(reason, "asked for zone `example.org.`, the answer is about `example.com.`");

    let rrsets = json!([rrset("www.example.org.", "A", 60, json!([live("nonsense")]))]);
    let Failure::Permanent(reason) = refusal(&zone(rrsets)) else { panic!("retried") };
    assert_eq!(reason, "`nonsense` stands in a record of type A: mend that first");
}
