//! Records as Cloudflare lists them, and the batch that must follow.

use picored_handler::bindings::picored::handler::cluster::{Endpoint, EndpointSet};
use serde_json::{Value, json};

use super::*;

const AUTOMATIC: u32 = 1;

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

fn entry(id: &str, kind: &str, content: &str, ttl: u32, proxied: bool) -> Entry {
    let comment = "of the operator";
    serde_json::from_value(json!({
        "id": id, "name": "www.example.org", "type": kind, "content": content, "ttl": ttl, "proxied": proxied,
        "proxiable": true, "comment": comment, "tags": ["owner:ops"], "meta": {}, "settings": {},
    }))
    .unwrap()
}

/// The batch (null if there is none) and the words.
fn update(found: &[Entry], wanted: &Wanted, proxied: Option<bool>) -> (Value, String) {
    let update = compare("www.example.org.", found, wanted, Settings { ttl: 60, proxied }).unwrap();
    (update.batch.map_or(Value::Null, |batch| serde_json::to_value(batch).unwrap()), update.text)
}

fn post(kind: &str, content: &str, ttl: u32, proxied: bool) -> Value {
    json!({ "name": "www.example.org", "type": kind, "content": content, "ttl": ttl, "proxied": proxied })
}

#[test]
fn a_name_that_is_not_there_yet_is_made() {
    let (batch, text) = update(&[], &wanted(&["192.0.2.1", "2001:db8::1"], &[]), None);
    let posts = json!([post("A", "192.0.2.1", 60, false), post("AAAA", "2001:db8::1", 60, false)]);
    assert_eq!(batch, json!({ "posts": posts }));
    assert_eq!(text, "www.example.org A: 192.0.2.1 (added 192.0.2.1), AAAA: 2001:db8::1 (added 2001:db8::1)");
}

#[test]
fn what_is_right_takes_no_request() {
    let found = [entry("a", "A", "192.0.2.1", 60, false), entry("b", "AAAA", "2001:DB8:0::1", 60, false)];
    let (batch, text) = update(&found, &wanted(&["192.0.2.1", "2001:db8::1"], &[]), None);
    assert_eq!(batch, Value::Null);
    assert_eq!(text, "www.example.org A: 192.0.2.1 (unchanged), AAAA: 2001:db8::1 (unchanged)");
}

#[test]
fn a_dead_address_goes_and_what_is_not_ours_stays() {
    let found = [
        entry("a", "A", "192.0.2.1", 60, false),
        entry("b", "A", "192.0.2.3", 60, false),
        entry("c", "A", "198.51.100.9", 300, false),
        entry("d", "AAAA", "2001:db8::9", 300, false),
        entry("e", "TXT", "\"192.0.2.3\"", 300, false),
    ];
    let (batch, text) = update(&found, &wanted(&["192.0.2.1"], &["192.0.2.1", "192.0.2.3"]), None);
    assert_eq!(batch, json!({ "deletes": [{ "id": "b" }] }));
    assert_eq!(text, "www.example.org A: 192.0.2.1 (removed 192.0.2.3; kept foreign 198.51.100.9)");
}

#[test]
fn one_that_goes_becomes_one_that_comes() {
    let found = [entry("a", "A", "192.0.2.1", 60, false), entry("b", "A", "192.0.2.2", 60, false)];
    let claimed = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let (batch, text) = update(&found, &wanted(&["192.0.2.3"], &claimed), None);
    let patch = json!({ "id": "a", "content": "192.0.2.3", "ttl": 60, "proxied": false });
    assert_eq!(batch, json!({ "deletes": [{ "id": "b" }], "patches": [patch] }));
    assert_eq!(text, "www.example.org A: 192.0.2.3 (added 192.0.2.3; removed 192.0.2.1 192.0.2.2)");

    let (batch, _) = update(&found[..1], &wanted(&["192.0.2.2", "192.0.2.3"], &claimed), None);
    let patch = json!({ "id": "a", "content": "192.0.2.2", "ttl": 60, "proxied": false });
    assert_eq!(batch, json!({ "patches": [patch], "posts": [post("A", "192.0.2.3", 60, false)] }));
}

#[test]
fn the_last_address_of_one_family_goes_and_the_other_stays() {
    let found = [entry("a", "A", "192.0.2.1", 60, false), entry("b", "AAAA", "2001:db8::1", 60, false)];
    let (batch, text) = update(&found, &wanted(&["192.0.2.1"], &["192.0.2.1", "2001:db8::1"]), None);
    assert_eq!(batch, json!({ "deletes": [{ "id": "b" }] }));
    assert_eq!(text, "www.example.org A: 192.0.2.1 (unchanged), AAAA: none (removed 2001:db8::1)");
}

#[test]
fn ttl_and_proxying_of_ours_are_set_and_of_others_left() {
    let found = [entry("a", "A", "192.0.2.1", 300, false), entry("b", "A", "198.51.100.9", 300, false)];
    let ours = wanted(&["192.0.2.1"], &["192.0.2.1"]);
    let (batch, text) = update(&found, &ours, None);
    assert_eq!(batch, json!({ "patches": [{ "id": "a", "ttl": 60, "proxied": false }] }));
    let words = "A: 192.0.2.1 (kept foreign 198.51.100.9; set ttl or proxying of 192.0.2.1)";
    assert_eq!(text, format!("www.example.org {words}"));
    let (batch, _) = update(&found, &ours, Some(true));
    assert_eq!(batch, json!({ "patches": [{ "id": "a", "ttl": AUTOMATIC, "proxied": true }] }));
}

#[test]
fn a_proxied_record_stays_so_and_new_ones_go_by_it() {
    let found = [entry("a", "A", "192.0.2.1", AUTOMATIC, true), entry("b", "A", "192.0.2.2", AUTOMATIC, true)];
    let claimed = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"];
    assert_eq!(update(&found, &wanted(&["192.0.2.1", "192.0.2.2"], &claimed), None).0, Value::Null);
    let (batch, _) = update(&found, &wanted(&["192.0.2.1", "192.0.2.3", "2001:db8::1"], &claimed), None);
    let patch = json!({ "id": "b", "content": "192.0.2.3", "ttl": AUTOMATIC, "proxied": true });
    assert_eq!(batch, json!({ "patches": [patch], "posts": [post("AAAA", "2001:db8::1", AUTOMATIC, true)] }));
    let (batch, _) = update(&found[..1], &wanted(&["192.0.2.1"], &claimed), Some(false));
    assert_eq!(batch, json!({ "patches": [{ "id": "a", "ttl": 60, "proxied": false }] }));
}

#[test]
fn beside_a_cname_nothing_is_written() {
    let found = [entry("a", "CNAME", "site.example.net", 300, true)];
    let settings = Settings { ttl: 60, proxied: None };
    let failure = compare("www.example.org.", &found, &wanted(&["192.0.2.1"], &[]), settings).unwrap_err();
    let Failure::Permanent(reason) = failure else { panic!("retried") };
    let words = "`www.example.org` is a CNAME for `site.example.net`, beside which no address can stand";
    assert_eq!(reason, format!("{words}: delete it at Cloudflare first"));
}

#[test]
fn what_cannot_be_read_is_not_written_over() {
    let found = [entry("a", "A", "nonsense", 300, true)];
    let settings = Settings { ttl: 60, proxied: None };
    let failure = compare("www.example.org.", &found, &wanted(&["192.0.2.1"], &[]), settings).unwrap_err();
    let Failure::Permanent(reason) = failure else { panic!("retried") };
    assert_eq!(reason, "`nonsense` stands in a record of type A: mend that first");
}

#[test]
fn a_batch_knows_the_addresses_that_it_writes() {
    let found = [entry("a", "A", "192.0.2.1", 60, false), entry("b", "A", "192.0.2.9", 300, false)];
    let wanted = wanted(&["192.0.2.2", "192.0.2.9", "2001:db8::1"], &["192.0.2.1"]);
    let batch = compare("www.example.org.", &found, &wanted, Settings { ttl: 60, proxied: None }).unwrap().batch;
    let addresses: Vec<_> = batch.unwrap().addresses().map(|address| address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.2", "2001:db8::1"]);
}
