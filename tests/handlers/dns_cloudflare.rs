//! The built `dns-cloudflare` in the real host, against Cloudflare's API as it is documented.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use picored::handler::Loaded;
use picored_core::config::Handler;
use picored_core::event::RunEnd;
use picored_core::policy::AuthScheme;

use crate::cloudflare::{Cloudflare, Record, TOKEN, ZONE_ID, complaint};
use crate::support::{addresses, cluster, grant, guest, handler, host_with_secret, run_in};

const NAME: &str = "www.example.org";
const OURS: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"];

/// The API with a zone, and the handler that writes it.
struct Scene {
    cloudflare: Cloudflare,
    loaded: Arc<Loaded>,
}

async fn scene(config: &[(&str, &str)]) -> Scene {
    scene_of(TOKEN, AuthScheme::Bearer, config).await
}

/// The same, with the host sending that token so.
async fn scene_of(token: &str, scheme: AuthScheme, config: &[(&str, &str)]) -> Scene {
    let cloudflare = Cloudflare::start().await;
    let origin = cloudflare.origin();
    let api = format!("{origin}/client/v4");
    let least = [("api", api.as_str()), ("zone", "example.org"), ("record", NAME)];
    let config = least.iter().chain(config).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let http = vec![grant(&origin, &["GET", "POST"], &["/client/v4/zones"], &["127.0.0.1/32"])];
    let configured = Handler { config, http, ..handler(guest("dns-cloudflare")) };
    let (host, configured) = host_with_secret(token, scheme, configured);
    Scene { cloudflare, loaded: host.load(&configured).await.unwrap() }
}

impl Scene {
    fn put(&self, kind: &str, content: &str) -> String {
        self.cloudflare.put(NAME, kind, content, 60, false)
    }

    async fn run(&self, wanted: &[&str]) -> RunEnd {
        run_in(&self.loaded, cluster(wanted, &OURS)).await
    }

    /// Runs once; whether it says that it changed something, and what it says.
    async fn publish(&self, wanted: &[&str]) -> (bool, String) {
        match self.run(wanted).await {
            RunEnd::Done { changed, text } => (changed, text),
            other => panic!("{other:?}"),
        }
    }

    /// Runs once; what it says is wrong for good.
    async fn refused(&self, wanted: &[&str]) -> String {
        match self.run(wanted).await {
            RunEnd::Permanent(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Runs once; why it is to be tried again.
    async fn put_off(&self, wanted: &[&str]) -> String {
        match self.run(wanted).await {
            RunEnd::Retry(text) => text,
            other => panic!("{other:?}"),
        }
    }

    fn published(&self) -> BTreeSet<IpAddr> {
        self.cloudflare.addresses(NAME)
    }

    fn record(&self, content: &str) -> Record {
        self.cloudflare.records().into_iter().find(|record| record.content == content).unwrap()
    }

    fn batches(&self) -> usize {
        self.cloudflare.seen().iter().filter(|request| request.starts_with("POST ")).count()
    }
}

fn set(list: &[&str]) -> BTreeSet<IpAddr> {
    addresses(list).into_iter().collect()
}

#[tokio::test]
async fn it_makes_the_records_and_then_leaves_them_alone() {
    let scene = scene(&[]).await;
    let (changed, text) = scene.publish(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    let words = "A: 192.0.2.1 192.0.2.2 (added 192.0.2.1 192.0.2.2), AAAA: 2001:db8::1 (added 2001:db8::1)";
    assert_eq!((changed, text), (true, format!("{NAME} {words}")));
    assert_eq!(scene.published(), set(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
    assert_eq!(scene.record("192.0.2.1").ttl, 60);
    let list = format!("GET /client/v4/zones/{ZONE_ID}/dns_records?name.exact={NAME}&page=1&per_page=100");
    let batch = format!("POST /client/v4/zones/{ZONE_ID}/dns_records/batch");
    let first = ["GET /client/v4/zones?name=example.org".to_owned(), list, batch];
    assert_eq!(scene.cloudflare.seen(), first);

    let (changed, text) = scene.publish(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    assert!(!changed && text.contains("(unchanged)"), "{text}");
    assert_eq!(scene.cloudflare.seen()[3..], first[..2], "nothing was written");
}

#[tokio::test]
async fn it_takes_out_what_is_the_clusters_and_keeps_what_is_not() {
    let scene = scene(&[]).await;
    for (kind, content) in [
        ("A", "192.0.2.1"),
        ("A", "192.0.2.2"),
        ("A", "198.51.100.9"),
        ("AAAA", "2001:db8::9"),
        ("TXT", "\"192.0.2.2\""),
    ] {
        scene.put(kind, content);
    }
    scene.cloudflare.put("example.org", "A", "192.0.2.2", 60, false);
    scene.cloudflare.put("a.www.example.org", "A", "192.0.2.2", 60, false);
    let before = scene.cloudflare.records();
    let (changed, text) = scene.publish(&["192.0.2.1"]).await;
    assert!(changed && text.contains("removed 192.0.2.2; kept foreign 198.51.100.9"), "{text}");
    let gone = Record { name: NAME.to_owned(), ..before[1].clone() };
    let kept: Vec<_> = before.into_iter().filter(|record| *record != gone).collect();
    assert_eq!(scene.cloudflare.records(), kept, "with their comments and tags");
    assert_eq!(scene.batches(), 1);
}

#[tokio::test]
async fn a_family_that_nobody_has_any_more_goes() {
    let scene = scene(&[]).await;
    scene.put("A", "192.0.2.1");
    scene.put("AAAA", "2001:db8::1");
    scene.publish(&["192.0.2.1"]).await;
    assert_eq!(scene.published(), set(&["192.0.2.1"]));
}

#[tokio::test]
async fn the_name_has_an_address_at_every_moment() {
    let scene = scene(&[]).await;
    let id = scene.put("A", "192.0.2.1");
    scene.publish(&["192.0.2.2", "192.0.2.3"]).await;
    assert_eq!(scene.published(), set(&["192.0.2.2", "192.0.2.3"]));
    assert_eq!(scene.cloudflare.fewest(), Some(1), "a batch reaches Cloudflare's servers record by record");
    assert_eq!(scene.record("192.0.2.2").id, id);
}

#[tokio::test]
async fn all_pages_are_read() {
    let scene = scene(&[]).await;
    for number in 0..250 {
        scene.put("A", &format!("198.51.100.{number}"));
    }
    scene.put("A", "192.0.2.2");
    let (_, text) = scene.publish(&["192.0.2.1"]).await;
    assert!(text.contains("removed 192.0.2.2; kept foreign 198.51.100.0 "), "{text}");
    let published = scene.published();
    assert_eq!(published.len(), 251);
    assert!(published.is_superset(&set(&["192.0.2.1", "198.51.100.0", "198.51.100.249"])));
    let pages = scene.cloudflare.seen().iter().filter(|request| request.contains("&page=")).count();
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn ttl_and_proxying_follow_the_config() {
    let scene = scene(&[("ttl", "300"), ("proxied", "true")]).await;
    scene.put("A", "192.0.2.1");
    scene.put("A", "198.51.100.9");
    let (changed, text) = scene.publish(&["192.0.2.1", "192.0.2.2"]).await;
    assert!(changed && text.contains("set ttl or proxying of 192.0.2.1"), "{text}");
    for (content, expected) in [("192.0.2.1", (1, true)), ("192.0.2.2", (1, true)), ("198.51.100.9", (60, false))] {
        let record = scene.record(content);
        assert_eq!((record.ttl, record.proxied), expected, "{content}");
    }
    assert!(!scene.publish(&["192.0.2.1", "192.0.2.2"]).await.0, "a proxied record's time is Cloudflare's own");
}

#[tokio::test]
async fn without_a_word_on_proxying_it_stays_as_it_is() {
    let scene = scene(&[("ttl", "300")]).await;
    scene.cloudflare.put(NAME, "A", "192.0.2.1", 1, true);
    scene.publish(&["192.0.2.1", "192.0.2.2"]).await;
    let made = scene.record("192.0.2.2");
    assert_eq!((made.ttl, made.proxied), (1, true), "as the one beside it: the name is proxied");
    assert_eq!(scene.record("192.0.2.1").comment.as_deref(), Some("by hand"));
}

#[tokio::test]
async fn with_the_zones_id_no_zone_is_looked_up() {
    let scene = scene(&[("zone_id", ZONE_ID)]).await;
    scene.publish(&["192.0.2.1"]).await;
    let list = format!("GET /client/v4/zones/{ZONE_ID}/dns_records?name.exact={NAME}&page=1&per_page=100");
    assert_eq!(scene.cloudflare.seen()[0], list);
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_that_it_asks_for() {
    let scene = scene(&[("zone_id", ZONE_ID)]).await;
    let busy = || complaint(971, "Please wait and consider throttling your request speed");
    for is_reading in [true, false] {
        if !is_reading {
            // The list is answered as usual, and then the batch is not.
            let list = r#"{"result":[],"success":true,"errors":[],"messages":[],"result_info":{"total_count":0}}"#;
            scene.cloudflare.answer_next(200, "", list);
        }
        scene.cloudflare.answer_next(429, "retry-after: 117", busy());
        match scene.run(&["192.0.2.1"]).await {
            RunEnd::RetryAfter(wait, text) => {
                assert_eq!(wait, Duration::from_secs(117));
                assert!(text.contains("status 429: Please wait and") && text.contains("(code 971)"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((scene.batches(), scene.published()), (1, set(&[])), "the one that was turned away");
    scene.cloudflare.answer_next(429, "", busy());
    scene.put_off(&["192.0.2.1"]).await;
}

#[tokio::test]
async fn faults_of_the_server_and_in_between_are_tried_again() {
    let scene = scene(&[]).await;
    for (status, body) in [(500, complaint(1000, "Internal error")), (502, "<html>Bad gateway</html>".to_owned())] {
        scene.cloudflare.answer_next(status, "", body);
        assert!(scene.put_off(&["192.0.2.1"]).await.contains(&format!("status {status}")));
    }
    scene.cloudflare.answer_next(200, "content-encoding: identity", "<html>Just a moment</html>");
    assert!(scene.put_off(&["192.0.2.1"]).await.starts_with("the answer is no JSON"));
    scene.publish(&["192.0.2.1"]).await;
    assert_eq!(scene.published(), set(&["192.0.2.1"]));
}

#[tokio::test]
async fn an_answer_that_is_not_understood_leads_to_no_write() {
    let scene = scene(&[("zone_id", ZONE_ID)]).await;
    scene.put("A", "192.0.2.2");
    for (answer, problem) in [
        (r#"{"result":[],"success":true,"errors":[],"messages":[]}"#, "missing field `result_info`"),
        (r#"{"result":[{"id":"a","name":"b"}],"success":true,"errors":[]}"#, "missing field `type`"),
    ] {
        scene.cloudflare.answer_next(200, "", answer);
        let text = scene.refused(&["192.0.2.1"]).await;
        assert!(text.contains(problem), "{text}");
    }
    // Records that are being changed while they are listed.
    let short = r#"{"result":[],"success":true,"errors":[],"messages":[],"result_info":{"total_count":1}}"#;
    scene.cloudflare.answer_next(200, "", short);
    let text = scene.put_off(&["192.0.2.1"]).await;
    assert!(text.contains("listed 0 records of 1"), "{text}");
    assert_eq!((scene.batches(), scene.published()), (0, set(&["192.0.2.2"])));
}

#[tokio::test]
async fn what_somebody_else_wrote_meanwhile_is_looked_at_again() {
    let scene = scene(&[]).await;
    scene.put("A", "192.0.2.2");
    scene.cloudflare.put_meanwhile(NAME, "AAAA", "2001:db8::1");
    let text = scene.put_off(&["192.0.2.1", "2001:db8::1"]).await;
    assert!(text.contains("An identical record already exists. (code 81058)"), "{text}");
    assert_eq!(scene.published(), set(&["192.0.2.2", "2001:db8::1"]), "nothing of the batch was carried out");
    let (_, text) = scene.publish(&["192.0.2.1", "2001:db8::1"]).await;
    assert!(text.ends_with("AAAA: 2001:db8::1 (unchanged)"), "{text}");
    assert_eq!(scene.published(), set(&["192.0.2.1", "2001:db8::1"]));
}

#[tokio::test]
async fn a_batch_that_was_not_carried_out_is_tried_again() {
    let scene = scene(&[]).await;
    scene.put("A", "192.0.2.2");
    for is_late in [false, true] {
        if is_late {
            let zones = format!(r#"{{"result":[{{"id":"{ZONE_ID}","name":"example.org"}}],"success":true}}"#);
            scene.cloudflare.answer_next(200, "", zones);
            let list = r#"{"result":[],"success":true,"errors":[],"messages":[],"result_info":{"total_count":0}}"#;
            scene.cloudflare.answer_next(200, "", list);
        }
        scene.cloudflare.answer_next(200, "", complaint(1000, "not now"));
        let text = scene.put_off(&["192.0.2.1"]).await;
        assert!(text.contains("carried nothing out: not now (code 1000)"), "{text}");
    }
    assert_eq!((scene.batches(), scene.published()), (1, set(&["192.0.2.2"])));
}

#[tokio::test]
async fn what_the_answer_to_a_batch_lacks_is_missed() {
    let list = r#"{"result":[],"success":true,"errors":[],"messages":[],"result_info":{"total_count":0}}"#;
    let scene = scene(&[("zone_id", ZONE_ID)]).await;
    scene.cloudflare.answer_next(200, "", list);
    scene.cloudflare.answer_next(200, "", r#"{"result":{"posts":[]},"success":true,"errors":[],"messages":[]}"#);
    let text = scene.put_off(&["192.0.2.1"]).await;
    assert!(text.contains("a batch with 192.0.2.1 is without it"), "{text}");
}

#[tokio::test]
async fn a_batch_with_one_fault_changes_nothing() {
    // What only zones of the Enterprise plan may have.
    let scene = scene(&[("ttl", "30")]).await;
    scene.put("A", "198.51.100.9");
    let text = scene.refused(&["192.0.2.1", "2001:db8::1"]).await;
    assert!(text.contains("status 400: Invalid TTL.") && text.contains("(code 9021)"), "{text}");
    assert_eq!(scene.published(), set(&["198.51.100.9"]));
}

#[tokio::test]
async fn a_cname_of_that_name_is_told_and_left() {
    let scene = scene(&[]).await;
    scene.put("CNAME", "site.example.net");
    let text = scene.refused(&["192.0.2.1"]).await;
    assert!(text.contains("`www.example.org` is a CNAME for `site.example.net`"), "{text}");
    assert_eq!(scene.batches(), 0);
}

#[tokio::test]
async fn what_the_token_does_not_open_is_told_and_not_tried_again() {
    let other = "f".repeat(32);
    let header = |name: &str| AuthScheme::Header { header: name.into() };
    for (token, scheme, zone, answer) in [
        (TOKEN, header("x-token"), ZONE_ID, "X-Auth-Email or Authorization headers (code 9106)"),
        (TOKEN, header("authorization"), ZONE_ID, "status 400: Invalid request headers (code 6003)"),
        ("of-yesterday", AuthScheme::Bearer, ZONE_ID, "status 403: Invalid access token (code 9109)"),
        (TOKEN, AuthScheme::Bearer, &other, "status 403: Authentication error (code 10000)"),
    ] {
        let scene = scene_of(token, scheme, &[("zone_id", zone)]).await;
        let text = scene.refused(&["192.0.2.1"]).await;
        assert!(text.ends_with(answer), "{text}");
        assert_eq!(scene.batches(), 0);
    }
}

#[tokio::test]
async fn a_config_that_cannot_be_meant_is_told_before_anything_is_sent() {
    for (key, value, word) in [
        ("zone_id", "example.org", "config key `zone_id`: `example.org` is not 32 hexadecimal digits"),
        ("record", "www", "config key `record`: `www.` does not lie in zone `example.org.`"),
        ("ttl", "29", "config key `ttl`: `29` is neither 1 (automatic) nor 30 or more"),
        ("ttl", "86401", "config key `ttl`: `86401` is not a number from 1 to 86400"),
        ("proxied", "maybe", "config key `proxied`: `maybe` is neither true nor false"),
        ("zone", "", "config key `zone` is missing"),
    ] {
        let scene = scene(&[(key, value)]).await;
        let text = scene.refused(&["192.0.2.1"]).await;
        assert!(text.starts_with(word), "{text}");
        assert_eq!(scene.cloudflare.seen(), Vec::<String>::new());
    }
    let scene = scene(&[("zone", "example.com"), ("record", "www.example.com")]).await;
    let text = scene.refused(&["192.0.2.1"]).await;
    assert_eq!(text, "config key `zone`: the API token sees no zone `example.com.`");
}

#[tokio::test]
async fn an_id_of_another_zone_than_the_records_is_noticed() {
    let scene = scene(&[("zone_id", ZONE_ID), ("zone", "example.com"), ("record", "www.example.com")]).await;
    let text = scene.refused(&["192.0.2.1"]).await;
    let problem = "config key `zone_id`: is not the id of this record's zone";
    assert!(text.starts_with(problem) && text.contains("`www.example.com.example.org`"), "{text}");
}
