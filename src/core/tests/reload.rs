//! The difference between two configs, change by change: each row is an edit of one text and the plan it makes.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeSet;

use picored_core::config::Config;
use picored_core::name::HandlerName;
use picored_core::reload::{Plan, diff};

const TEXT: &str = r#"
[node]
name = "web1"
bind = "127.0.0.1:7946"
state_dir = "/var/lib/picored"
admin_socket = "/run/picored.sock"

[cluster]
name = "example"
seeds = ["127.0.0.2:7946"]
key_file = "/etc/picored/key"
profile = "lan"

[secrets]
key = { env = "KEY" }

[[app]]
name = "www"
publish = ["203.0.113.5"]
check = { http = "http://127.0.0.1:8080/health" }
interval = "5s"
timeout = "2s"
rise = 2
fall = 3

[[handler]]
name = "dns"
source = "builtin:dns-powerdns"
on = ["member-*", "reconcile"]
apps = ["www"]
reconcile_every = "5m"
timeout = "10s"

[handler.config]
ttl = 30
zone = "example.org."

[[handler.http]]
allow = "https://dns.example.org"
methods = ["GET", "PATCH"]

[[handler]]
name = "log"
source = "file:/srv/log.wasm"
"#;

const SHOP: &str =
    "[[app]]\nname = \"shop\"\npublish = [\"203.0.113.5\"]\ncheck = { http = \"http://127.0.0.1:81/\" }\n";
const HOOK: &str = "[[handler]]\nname = \"hook\"\nsource = \"file:/srv/hook.wasm\"\n";

fn plan_of(old: &str, new: &str, replaced: &[&str]) -> Plan {
    let replaced: BTreeSet<_> = replaced.iter().map(|name| HandlerName::new(name).unwrap()).collect();
    diff(&Config::parse(old).unwrap(), &Config::parse(new).unwrap(), &replaced)
}

/// The plan of replacing `from`, which stands in [`TEXT`] once, by `to`.
fn edited(from: &str, to: &str) -> Plan {
    assert_eq!(TEXT.matches(from).count(), 1, "{from}");
    plan_of(TEXT, &TEXT.replace(from, to), &[])
}

#[test]
fn each_edit_makes_its_plan() {
    let other_url = "http://127.0.0.1:8081/health";
    let rows = [
        // What is said otherwise and means the same.
        ("interval = \"5s\"", "interval = \"5000ms\"", "nothing has changed"),
        ("rise = 2\n", "", "nothing has changed"),
        // What only a start can take in.
        ("name = \"web1\"", "name = \"web2\"", "needs a restart: node.name"),
        ("bind = \"127.0.0.1:7946\"", "bind = \"127.0.0.1:7947\"", "needs a restart: node.bind"),
        ("[cluster]", "advertise = \"127.0.0.1:1\"\n[cluster]", "needs a restart: node.advertise"),
        ("/var/lib/picored", "/var/lib/other", "needs a restart: node.state_dir"),
        ("/run/picored.sock", "/run/other.sock", "needs a restart: node.admin_socket"),
        ("name = \"example\"", "name = \"other\"", "needs a restart: cluster.name"),
        ("/etc/picored/key", "/etc/picored/other", "needs a restart: cluster.key_file"),
        ("profile = \"lan\"", "profile = \"wan\"", "needs a restart: cluster.profile"),
        ("profile = \"lan\"", "[metrics]\nlisten = \"127.0.0.1:9946\"", "needs a restart: metrics.listen"),
        // What a running node takes in.
        ("seeds = [\"127.0.0.2:7946\"]", "seeds = [\"127.0.0.3:7946\"]", "cluster: changed seeds"),
        ("203.0.113.5", "203.0.113.6", "app www: changed publish"),
        ("http://127.0.0.1:8080/health", other_url, "app www: changed check"),
        ("interval = \"5s\"", "interval = \"9s\"", "app www: changed interval"),
        ("timeout = \"2s\"", "timeout = \"1s\"", "app www: changed timeout"),
        ("rise = 2\nfall = 3", "rise = 3\nfall = 2", "app www: changed fall, rise"),
        ("name = \"www\"\npublish", "name = \"web\"\npublish", "app web: added\napp www: removed"),
        ("builtin:dns-powerdns", "file:/srv/dns.wasm", "handler dns: changed source"),
        ("on = [\"member-*\", \"reconcile\"]", "on = [\"app-*\"]", "handler dns: changed on"),
        ("apps = [\"www\"]", "", "handler dns: changed apps"),
        ("reconcile_every = \"5m\"", "reconcile_every = \"1m\"", "handler dns: changed reconcile_every"),
        ("reconcile_every = \"5m\"", "reconcile_every = \"5m\"\nrun_on = \"every\"", "handler dns: changed run_on"),
        ("timeout = \"10s\"", "timeout = \"20s\"", "handler dns: changed timeout"),
        ("log.wasm\"", "log.wasm\"\nwatch = true", "handler log: changed watch"),
        ("key = { env = \"KEY\" }", "key = { file = \"/etc/key\" }", "secret key: changed source"),
        ("key = { env = \"KEY\" }", "other = { env = \"KEY\" }", "secret key: removed\nsecret other: added"),
        ("ttl = 30", "ttl = 60", "handler dns: changed config.ttl"),
        ("ttl = 30", "record = \"www\"", "handler dns: changed config.record, config.ttl"),
        ("\"GET\", \"PATCH\"", "\"GET\"", "handler dns: changed http"),
        ("name = \"log\"", "name = \"hook\"", "handler hook: added\nhandler log: removed"),
    ];
    for (from, to, expected) in rows {
        assert_eq!(edited(from, to).to_string(), expected, "{from} -> {to}");
    }
}

#[test]
fn what_needs_a_restart_stands_first_and_forbids_the_rest() {
    let new = TEXT.replace("profile = \"lan\"", "profile = \"wan\"").replace("ttl = 30", "ttl = 60");
    let plan = plan_of(TEXT, &(new.replace("name = \"web1\"", "name = \"web9\"") + SHOP), &[]);
    assert!(plan.needs_restart());
    let expected = "needs a restart: node.name, cluster.profile\napp shop: added\nhandler dns: changed config.ttl";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn the_order_of_sections_means_nothing() {
    let (front, back) = (format!("{TEXT}{SHOP}{HOOK}"), format!("{HOOK}{SHOP}{TEXT}"));
    assert!(plan_of(&front, &back, &[]).is_empty());
}

#[test]
fn other_bytes_at_the_same_source_are_a_change() {
    assert_eq!(plan_of(TEXT, TEXT, &["log"]).to_string(), "handler log: changed component");
    // Another source says so by itself.
    let moved = TEXT.replace("/srv/log.wasm", "/srv/log2.wasm");
    assert_eq!(plan_of(TEXT, &moved, &["log"]).to_string(), "handler log: changed source");
    // What is not there any more is gone, whatever its file holds.
    let gone = TEXT.replace("[[handler]]\nname = \"log\"\nsource = \"file:/srv/log.wasm\"\n", "");
    assert_eq!(plan_of(TEXT, &gone, &["log"]).to_string(), "handler log: removed");
}

#[test]
fn a_plan_names_keys_and_never_shows_a_value() {
    let plan = edited("zone = \"example.org.\"", "zone = \"example.org.\"\napi_key = \"hunter2\"");
    assert_eq!(plan.to_string(), "handler dns: changed config.api_key");
    assert!(!format!("{plan:?}").contains("hunter2"));
}
