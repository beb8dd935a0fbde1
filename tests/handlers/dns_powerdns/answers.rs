//! What either component makes of an answer: of each zone one change and one line, of a bad answer the right failure.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

use picored_core::event::RunEnd;
use serde_json::{Value, json};

use super::Component::{self, JavaScript, Rust};
use super::{cluster, permanent, run};
use crate::powerdns::{NAME, Scripted, ZONES, answer};
use crate::support::snapshot;

tests!([rust: Rust, javascript: JavaScript] [
    each_zone_is_answered_by_one_change_and_one_line,
    addresses_are_compared_and_shown_as_addresses,
    what_is_no_address_is_told,
    a_config_that_lacks_something_names_it,
    the_application_must_be_known_and_have_an_address,
    bad_answers_end_with_the_right_word,
    an_answer_of_another_shape_is_not_written_over,
    a_zone_too_large_to_be_read_is_written_all_the_same,
]);

/// The zone as PowerDNS shows it.
fn zone(rrsets: &Value) -> String {
    json!({ "id": "example.org.", "name": "example.org.", "kind": "Native", "rrsets": rrsets }).to_string()
}

fn rrset(name: &str, kind: &str, ttl: u32, records: &[Value]) -> Value {
    json!({ "name": name, "type": kind, "ttl": ttl, "records": records, "comments": [] })
}

fn live(content: &str) -> Value {
    json!({ "content": content, "disabled": false })
}

fn disabled(content: &str) -> Value {
    json!({ "content": content, "disabled": true })
}

fn answers(get: String) -> impl Fn(&str) -> String {
    move |request| if request.starts_with("GET ") { get.clone() } else { answer("204 No Content", "") }
}

/// Runs it once at a server that answers GET so, and PATCH with 204; how that ends, and the requests in full.
async fn run_at(component: Component, get: String, wanted: &[&str], claimed: &[&str]) -> (RunEnd, Vec<String>) {
    let server = Scripted::start(answers(get)).await;
    let loaded = component.load(&server.origin(), &[]).await;
    (run(&loaded, cluster(wanted, claimed)).await, server.seen())
}

/// A zone as it stands, what is wanted of it, and what must come of that.
struct Case {
    name: &'static str,
    there: Value,
    wanted: &'static [&'static str],
    claimed: &'static [&'static str],
    /// The sets of the PATCH; null if there is none to be.
    change: Value,
    words: &'static str,
}

fn cases() -> Vec<Case> {
    let change = |kind: &str, ttl: u32, records: &[Value]| json!({ "name": NAME, "type": kind, "changetype": "REPLACE", "ttl": ttl, "records": records });
    vec![
        Case {
            name: "a dead address is replaced and nothing else is looked at",
            there: json!([
                rrset("example.org.", "A", 300, &[live("203.0.113.1")]),
                rrset(NAME, "TXT", 300, &[live("\"no address: \u{e4}\u{20ac}\u{1f600}\"")]),
                rrset("www2.example.org.", "A", 300, &[live("192.0.2.3")]),
                rrset("WWW.example.org.", "A", 30, &[live("192.0.2.1"), live("192.0.2.3"), live("198.51.100.9")]),
                rrset(NAME, "AAAA", 300, &[live("2001:db8::9")]),
            ]),
            wanted: &["192.0.2.1"],
            claimed: &["192.0.2.1", "192.0.2.3"],
            change: json!([change("A", 30, &[live("192.0.2.1"), live("198.51.100.9")])]),
            words: "A: 192.0.2.1 (removed 192.0.2.3; kept foreign 198.51.100.9)",
        },
        Case {
            name: "what is right takes no change",
            there: json!([rrset(NAME, "A", 30, &[live("192.0.2.1")]), rrset(NAME, "AAAA", 30, &[live("2001:db8::1")])]),
            wanted: &["192.0.2.1", "2001:db8::1"],
            claimed: &[],
            change: Value::Null,
            words: "A: 192.0.2.1 (unchanged), AAAA: 2001:db8::1 (unchanged)",
        },
        Case {
            name: "the last address of one family is deleted",
            there: json!([rrset(NAME, "A", 30, &[live("192.0.2.1")]), rrset(NAME, "AAAA", 30, &[live("2001:db8::1")])]),
            wanted: &["192.0.2.1"],
            claimed: &["192.0.2.1", "2001:db8::1"],
            change: json!([{ "name": NAME, "type": "AAAA", "changetype": "DELETE", "records": [] }]),
            words: "A: 192.0.2.1 (unchanged), AAAA: none (removed 2001:db8::1)",
        },
        Case {
            name: "somebody else's time to live stays",
            there: json!([rrset(NAME, "AAAA", 300, &[live("2001:db8::1"), live("2001:db8::9")])]),
            wanted: &["192.0.2.1"],
            claimed: &["2001:db8::1"],
            change: json!([change("A", 30, &[live("192.0.2.1")]), change("AAAA", 300, &[live("2001:db8::9")])]),
            words: "A: 192.0.2.1 (added 192.0.2.1), AAAA: none (removed 2001:db8::1; kept foreign 2001:db8::9)",
        },
        Case {
            name: "disabled records are written back as they were",
            there: json!([
                rrset(NAME, "A", 30, &[live("192.0.2.1"), disabled("192.0.2.2"), disabled("192.0.2.99")]),
                rrset(NAME, "AAAA", 40, &[live("2001:db8::1"), disabled("2001:db8::2")]),
            ]),
            wanted: &["192.0.2.2", "192.0.2.3"],
            claimed: &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"],
            change: json!([
                change("A", 30, &[live("192.0.2.3"), disabled("192.0.2.2"), disabled("192.0.2.99")]),
                change("AAAA", 40, &[disabled("2001:db8::2")]),
            ]),
            words: "A: 192.0.2.3 (added 192.0.2.3; removed 192.0.2.1), left disabled 192.0.2.2, \
         AAAA: none (removed 2001:db8::1)",
        },
        Case {
            name: "a record is not emptied because all that is up is disabled",
            there: json!([rrset(NAME, "A", 30, &[live("192.0.2.1"), disabled("192.0.2.2")])]),
            wanted: &["192.0.2.2"],
            claimed: &["192.0.2.1", "192.0.2.2"],
            change: Value::Null,
            words: "A: left as it is, since all that is up is disabled there",
        },
        Case {
            name: "a record may lack the word for being disabled",
            there: json!([rrset(NAME, "A", 30, &[json!({ "content": "192.0.2.2" })])]),
            wanted: &["192.0.2.1"],
            claimed: &["192.0.2.2"],
            change: json!([change("A", 30, &[live("192.0.2.1")])]),
            words: "A: 192.0.2.1 (added 192.0.2.1; removed 192.0.2.2)",
        },
    ]
}

async fn each_zone_is_answered_by_one_change_and_one_line(component: Component) {
    for Case { name, there, wanted, claimed, change, words } in cases() {
        let (end, seen) = run_at(component, answer("200 OK", &zone(&there)), wanted, claimed).await;
        let changed = !change.is_null();
        assert_eq!(end, RunEnd::Done { changed, text: format!("{NAME} {words}") }, "{name}");
        let (read, path) = ("accept: application/json\r\n", format!("{ZONES}/example.org."));
        assert!(seen[0].starts_with(&format!("GET {path}?rrset_name=www.example.org. HTTP/1.1\r\n")), "{}", seen[0]);
        assert!(seen.iter().all(|request| request.contains(read)), "{seen:?}");
        if !changed {
            // Only a change is worth the second look, at the whole zone.
            assert_eq!(seen.len(), 1, "{name}: {seen:?}");
            continue;
        }
        assert!(seen[1].starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{}", seen[1]);
        assert!(seen[2].starts_with(&format!("PATCH {path} HTTP/1.1\r\n")), "{}", seen[2]);
        assert!(seen[2].contains("content-type: application/json\r\n"), "{}", seen[2]);
        let (_, body) = seen[2].split_once("\r\n\r\n").unwrap();
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), json!({ "rrsets": change }), "{name}");
        assert_eq!(seen.len(), 3, "{name}: {seen:?}");
    }
}

async fn addresses_are_compared_and_shown_as_addresses(component: Component) {
    let spelled = [
        "::",
        "::1",
        "1::",
        "2001:DB8:0:0::1",
        "2001:0db8:0000::0002",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "1:0:0:2:0:0:0:3",
        "1:0:0:2:0:0:3:4",
        "1:0:2:3:4:5:6:7",
        "10:0:0:10:0:1:0:0",
        "100:0:0:0:0:0:0:0",
        "0:0:0:0:0:0:0:0a",
        "::ffff:192.0.2.1",
        "::1.2.3.4",
        "64:ff9b::192.0.2.33",
        "FE80::AbCd",
    ];
    let there: BTreeSet<Ipv6Addr> = spelled.iter().map(|text| text.parse().unwrap()).collect();
    let shown = there.iter().map(Ipv6Addr::to_string).collect::<Vec<_>>().join(" ");
    let records: Vec<_> = spelled.iter().map(|text| live(text)).collect();
    let get = answer("200 OK", &zone(&json!([rrset(NAME, "AAAA", 30, &records)])));
    let (end, _) = run_at(component, get, &["2001:db8::1"], &[]).await;
    let shown = shown.replace("2001:db8::1 ", "");
    let text = format!("{NAME} AAAA: 2001:db8::1 (unchanged; kept foreign {shown})");
    assert_eq!(end, RunEnd::Done { changed: false, text });
}

async fn what_is_no_address_is_told(component: Component) {
    for (kind, value) in [
        ("A", "nonsense"),
        ("A", "2001:db8::1"),
        ("A", "192.0.2.01"),
        ("A", "192.0.2.256"),
        ("A", "192.0.2"),
        ("A", ""),
        ("A", " 192.0.2.1"),
        ("A", "192.0.2.1."),
        ("AAAA", "192.0.2.1"),
        ("AAAA", ":"),
        ("AAAA", ":::"),
        ("AAAA", "1:::2"),
        ("AAAA", "1::2::3"),
        ("AAAA", "1:2:3:4:5:6:7"),
        ("AAAA", "1:2:3:4:5:6:7:8:9"),
        ("AAAA", "1:2:3:4:5:6:7:8::"),
        ("AAAA", "12345::"),
        ("AAAA", "g::"),
        ("AAAA", "[::1]"),
        ("AAAA", "fe80::1%eth0"),
        ("AAAA", "::1.2.3"),
        ("AAAA", "::1.2.3.4:5"),
        ("AAAA", "1:2:3:4:5:6:7:1.2.3.4"),
    ] {
        let get = answer("200 OK", &zone(&json!([rrset(NAME, kind, 30, &[live(value)])])));
        let (end, seen) = run_at(component, get, &["192.0.2.1"], &[]).await;
        assert_eq!(permanent(end), format!("`{value}` stands in a record of type {kind}: mend that first"));
        assert_eq!(seen.len(), 1, "nothing is written over it: {seen:?}");
    }
}

async fn a_config_that_lacks_something_names_it(component: Component) {
    let server = Scripted::start(|_| String::new()).await;
    let missing = |key: &str| format!("config key `{key}` is missing: set it in the handler's config");
    let number = |value: &str| format!("config key `ttl`: `{value}` is not a number from 1 to 86400");
    let outside = |record: &str, zone: &str| {
        format!("config key `record`: `{record}` does not lie in zone `{zone}`: write the full name")
    };
    for (config, words) in [
        (&[("api", "")][..], missing("api")),
        (&[("zone", "")], missing("zone")),
        (&[("record", "")], missing("record")),
        (&[("api", "ftp://a")], "config key `api`: `ftp://a` does not begin with http:// or https://".to_owned()),
        (&[("ttl", "soon")], number("soon")),
        (&[("ttl", "0")], number("0")),
        (&[("ttl", "86401")], number("86401")),
        (&[("ttl", "-1")], number("-1")),
        (&[("ttl", "1.5")], number("1.5")),
        (&[("record", "www")], outside("www.", "example.org.")),
        (&[("record", "www.notexample.org")], outside("www.notexample.org.", "example.org.")),
        (&[("zone", "."), ("record", "a.")], outside("a.", ".")),
        (&[("app", "db")], "config key `app`: this handler does not see application `db`; it sees `www`".to_owned()),
    ] {
        let loaded = component.load(&server.origin(), config).await;
        assert_eq!(permanent(run(&loaded, cluster(&["192.0.2.1"], &[])).await), words);
    }
    let right = answer("200 OK", &zone(&json!([rrset(NAME, "A", 30, &[live("192.0.2.1")])])));
    let server = Scripted::start(answers(right)).await;
    let api = format!("{}//", server.origin());
    let config =
        [("api", &*api), ("zone", " Example.ORG "), ("record", "WWW.example.org"), ("ttl", " 30 "), ("app", "www")];
    let loaded = component.load(&server.origin(), &config).await;
    let end = run(&loaded, cluster(&["192.0.2.1"], &[])).await;
    assert_eq!(end, RunEnd::Done { changed: false, text: format!("{NAME} A: 192.0.2.1 (unchanged)") });
}

async fn the_application_must_be_known_and_have_an_address(component: Component) {
    let server = Scripted::start(|_| String::new()).await;
    // Two applications, of which one has nothing to publish.
    let loaded = component.load(&server.origin(), &[]).await;
    let text = "config key `app`: is needed, since this handler sees `none`, `web`";
    assert_eq!(permanent(run(&loaded, snapshot()).await), text);
    let loaded = component.load(&server.origin(), &[("app", "none")]).await;
    let end = run(&loaded, snapshot()).await;
    assert!(matches!(&end, RunEnd::Retry(text) if text.starts_with("application `none`: ")), "{end:?}");
    assert!(server.seen().is_empty(), "nothing is asked for nothing");
}

async fn bad_answers_end_with_the_right_word(component: Component) {
    let request = format!("GET SERVER{ZONES}/example.org.");
    let run = async |get: String| {
        let server = Scripted::start(answers(get)).await;
        let loaded = component.load(&server.origin(), &[]).await;
        let end = run(&loaded, cluster(&["192.0.2.1"], &["192.0.2.1"])).await;
        assert_eq!(server.seen().iter().filter(|request| !request.starts_with("GET ")).count(), 0);
        let named = |text: String| text.replace(&server.origin(), "SERVER");
        match end {
            RunEnd::Retry(text) => RunEnd::Retry(named(text)),
            RunEnd::RetryAfter(wait, text) => RunEnd::RetryAfter(wait, named(text)),
            RunEnd::Permanent(text) => RunEnd::Permanent(named(text)),
            other => other,
        }
    };
    for status in ["408 Late", "429 Slow", "500 Oh", "502 Oh", "503 Busy", "504 Late"] {
        let text = format!("{request}: status {}: be\u{e4}r with me", &status[..3]);
        assert_eq!(run(answer(status, "be\u{e4}r\r\n with\tme")).await, RunEnd::Retry(text));
    }
    for status in ["400 No", "401 No", "403 No", "404 No", "409 No", "422 No"] {
        let text = format!("{request}: status {}: {{\"error\":\"this\"}}", &status[..3]);
        assert_eq!(run(answer(status, "{\"error\":\"this\"}")).await, RunEnd::Permanent(text));
    }
    for (status, after, seconds) in [("429 Slow", "7", 7), ("503 Busy", " 0 ", 0), ("429 Slow", "2000000", 2_000_000)] {
        let get = format!("HTTP/1.1 {status}\r\nretry-after: {after}\r\ncontent-length: 0\r\n\r\n");
        let (wait, text) = (Duration::from_secs(seconds), format!("{request}: status {}", &status[..3]));
        assert_eq!(run(get).await, RunEnd::RetryAfter(wait, text));
    }
    // More than a component can say is as long as it can say.
    let end = run("HTTP/1.1 503 Busy\r\nretry-after: 99999999999\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    let longest = Duration::from_millis(i32::MAX as u64);
    assert!(matches!(&end, RunEnd::RetryAfter(wait, _) if *wait >= longest), "{end:?}");
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://b/\r\ncontent-length: 6\r\n\r\n<html>".to_owned();
    let text = format!("{request}: status 302: redirects are not followed, and it points to http://b/");
    assert_eq!(run(moved).await, RunEnd::Permanent(text));
    // What is no text does no harm, and a long answer is cut.
    let end = run(answer("404 No", &format!("\0\u{1b}[31m{}", "\u{e4}".repeat(100_000)))).await;
    assert!(matches!(&end, RunEnd::Permanent(text) if text.starts_with(&format!("{request}: status 404: [31m\u{e4}"))));
    // No answer at all.
    let end = run(String::new()).await;
    assert!(matches!(&end, RunEnd::Retry(text) if text.starts_with(&format!("{request}: protocol: "))), "{end:?}");
}

async fn an_answer_of_another_shape_is_not_written_over(component: Component) {
    let unfit = "the answer is not a zone as PowerDNS shows it: ";
    for body in ["", "hello", "<html>", "{\"name\": \"example.org.\", \"rrsets\": ["] {
        let (end, _) = run_at(component, answer("200 OK", body), &["192.0.2.1"], &[]).await;
        assert!(matches!(&end, RunEnd::Retry(text) if text.starts_with(unfit)), "{body}: {end:?}");
    }
    // A field renamed or of another type: what this handler does not understand it must not write over.
    let with = |rrset: Value| json!({ "name": "example.org.", "rrsets": [rrset] });
    for (body, word) in [
        (json!({ "name": "example.org.", "rr": [] }), "missing field `rrsets`"),
        (json!({ "rrsets": [] }), "missing field `name`"),
        (with(json!({ "type": "A", "ttl": 1, "records": [] })), "missing field `name`"),
        (with(json!({ "name": "a.", "ttl": 1, "records": [] })), "missing field `type`"),
        (with(json!({ "name": "a.", "type": "A", "records": [] })), "missing field `ttl`"),
        (with(json!({ "name": "a.", "type": "A", "ttl": 1 })), "missing field `records`"),
        (with(json!({ "name": "a.", "type": "A", "ttl": 1, "records": [{}] })), "missing field `content`"),
        (with(json!({ "name": "a.", "type": "A", "ttl": "1", "records": [] })), ""),
        (with(json!({ "name": "a.", "type": "A", "ttl": -1, "records": [] })), ""),
        (with(json!({ "name": "a.", "type": "A", "ttl": 1, "records": [{ "content": 1 }] })), ""),
        (with(json!({ "name": "a.", "type": "A", "ttl": 1, "records": [{ "content": "b", "disabled": 1 }] })), ""),
        (json!({ "name": "example.org.", "rrsets": {} }), ""),
        (json!(null), ""),
        (json!(7), ""),
    ] {
        let (end, seen) = run_at(component, answer("200 OK", &body.to_string()), &["192.0.2.1"], &[]).await;
        let text = permanent(end);
        assert!(text.starts_with(unfit) && text.contains(word), "{body}: {text}");
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
    let other = json!({ "name": "example.com.", "rrsets": [] }).to_string();
    let (end, _) = run_at(component, answer("200 OK", &other), &["192.0.2.1"], &[]).await;
    assert_eq!(permanent(end), "asked for zone `example.org.`, the answer is about `example.com.`");
}

async fn a_zone_too_large_to_be_read_is_written_all_the_same(component: Component) {
    let others = |count: usize| {
        let other = |number| rrset(&format!("host{number}.example.org."), "TXT", 300, &[live("\"stra\u{df}e\"")]);
        let name = rrset(NAME, "A", 30, &[live("192.0.2.2"), disabled("192.0.2.9")]);
        answer("200 OK", &zone(&json!((0..count).map(other).chain([name]).collect::<Vec<_>>())))
    };
    let filtered = answer("200 OK", &zone(&json!([rrset(NAME, "A", 30, &[live("192.0.2.2")])])));
    // Within the host's limit of 1 MiB the disabled record is seen, beyond it is not.
    for (count, records) in
        [(6_000, json!([live("192.0.2.1"), disabled("192.0.2.9")])), (9_000, json!([live("192.0.2.1")]))]
    {
        let (whole, filtered) = (others(count), filtered.clone());
        let server = Scripted::start(move |request| match request.split(' ').next() {
            Some("GET") if request.contains("?rrset_name=") => filtered.clone(),
            Some("GET") => whole.clone(),
            _ => answer("204 No Content", ""),
        });
        let server = server.await;
        let loaded = component.load(&server.origin(), &[]).await;
        let end = run(&loaded, cluster(&["192.0.2.1"], &["192.0.2.2"])).await;
        let text = format!("{NAME} A: 192.0.2.1 (added 192.0.2.1; removed 192.0.2.2)");
        assert_eq!(end, RunEnd::Done { changed: true, text });
        let patch = server.seen().pop().unwrap();
        let body: Value = serde_json::from_str(patch.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["rrsets"][0]["records"], records);
    }
}
