//! The examples that are a config alone: `picored check` takes them as they stand, but for the folder of their files.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn picored(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_picored")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Checks an example whose secret is in the file `secret`.
fn check(name: &str, secret: &str) {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file).display().to_string();
    picored(&["keygen", "--out", &at("key")]);
    fs::write(at(secret), "not to be guessed\n").unwrap();
    fs::set_permissions(at(secret), PermissionsExt::from_mode(0o600)).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let text = fs::read_to_string(example).unwrap().replace("/etc/picored/", &at(""));
    let state = format!("[node]\nstate_dir = \"{}\"\n", at("state"));
    fs::write(at("picored.toml"), text.replace("[node]\n", &state)).unwrap();
    let said = picored(&["check", "--config", &at("picored.toml")]);
    assert_eq!(said, "ok: node web1 of cluster example, 2 seeds, 1 app, 1 handler\n");
}

#[test]
fn cloudflare_is_a_good_config() {
    check("cloudflare.toml", "cloudflare-token");
}

#[test]
fn webhook_is_a_good_config() {
    check("webhook.toml", "webhook-key");
}
