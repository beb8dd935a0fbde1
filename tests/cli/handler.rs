//! `picored handler`: the list of a daemon's handlers, and what `inspect` says of a component, be it hostile, and of the
//! grants that it lacks.

use std::fs;

use picored_core::status::HandlerStatus;

use crate::check::Site;
use crate::node::{Node, status};
use crate::{command, complaint, names, said};

#[test]
fn handlers_are_listed_with_what_they_are_not_granted() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path().join("picored.sock"));
    assert_eq!(
        said(&["handler", "list", "--socket", &node.socket]),
        "\
HANDLER  SOURCE                STATE  MISSING  LAST RUN
dns      builtin:dns-powerdns  ready  1        done: published 1 address\\nforged  line

dns asks for what it is not granted:
  http PATCH {api}/zones
      [[handler.http]]
      allow = \"http://127.0.0.1:8081\"
"
    );
    let json = said(&["handler", "list", "--socket", &node.socket, "--json"]);
    assert_eq!(serde_json::from_str::<Vec<HandlerStatus>>(&json).unwrap(), status().handlers);
}

fn dist(name: &str) -> String {
    format!("{}/handlers-wasm/dist/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn inspect_shows_what_a_component_is_and_asks_for() {
    let component = dist("dns-powerdns");
    let text = said(&["handler", "inspect", &component]);
    for part in
        ["exports     picored:handler/guest@0.1.0", "  picored:handler/http@0.1.0", "wit-component", "dns-powerdns"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&said(&["handler", "inspect", &component, "--json"])).unwrap();
    let bytes = fs::read(&component).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(json["size"], bytes.len());
    assert_eq!(json["sha256"], digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert!(json["asks"].as_array().unwrap().iter().any(|ask| ask["kind"] == "http" && ask.get("standing").is_none()));
    let same: serde_json::Value =
        serde_json::from_str(&said(&["handler", "inspect", "builtin:dns-powerdns", "--json"])).unwrap();
    assert_eq!((&same["sha256"], &same["asks"]), (&json["sha256"], &json["asks"]));
}

#[test]
fn inspect_holds_asks_against_a_handlers_grants() {
    let site = Site::new();
    let grant = "[handler.config]\napi = \"http://127.0.0.1:8081\"\nzone = \"example.org.\"\n[[handler.http]]\nallow = \
                 \"http://127.0.0.1:8081\"\nallow_private = [\"127.0.0.1/32\"]\n";
    let section = site.good().replace(&format!("file:{}/dns.wasm", site.dir.path().display()), "builtin:dns-powerdns");
    let config = site.config(&(section + grant));
    let text = said(&["handler", "inspect", "--config", &config, "--handler", "dns"]);
    for part in [
        "  granted event app-* ",
        "  missing event member-* ",
        "      on = [\"app-up\", \"app-down\", \"member-*\"]\n",
        "  granted http GET {api}/",
        "  missing http PATCH {api}/",
        "      methods = [\"PATCH\"]\n      paths = [\"/api/v1/servers/{server}/zones/example.org.\"]\n",
        "  unset   config record ",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let error = complaint(1, &["handler", "inspect", "--config", &config, "--handler", "nobody"]);
    assert!(error.contains("has no handler nobody; it has: dns"), "{error}");
}

#[test]
fn inspect_says_why_a_hostile_component_would_not_load() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.wasm");
    fs::write(&broken, [b"\0asm\x0d\0\x01\0".as_slice(), &[0xff; 300]].concat()).unwrap();
    for (component, reason) in [
        (dist("fixtures/describe-lies"), "cannot describe itself (trap)"),
        (broken.to_str().unwrap().to_owned(), "the compiler refused it"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let output = command(&["handler", "inspect", &component]).env("TMPDIR", temp.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("sha256 "), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{output:?}");
        assert_eq!(names(temp.path()), Vec::<std::ffi::OsString>::new(), "nothing is left");
    }
    assert!(complaint(1, &["handler", "inspect", "/no/such.wasm"]).contains("cannot read file:/no/such.wasm"));
    assert!(complaint(1, &["handler", "inspect", "builtin:nobody"]).contains("there are: "));
}
