//! `picored check`: what is wrong with a config and around it, all at once, and the same as the daemon says. Here is also
//! the [`Site`], a directory with all that a good config needs, for the verbs that take a config.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::{command, complaint, names, said};

/// A directory with all that a good config needs.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        picored::store::create_key_file(&site.at("key"), &[7; 32]).unwrap();
        // The preamble of a component, and nothing in it.
        fs::write(site.at("dns.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        site
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn good(&self) -> String {
        format!(
            r#"
[node]
name = "web1"
bind = "127.0.0.1:7946"
state_dir = "{0}/state"
admin_socket = "{0}/picored.sock"

[cluster]
name = "example"
seeds = ["127.0.0.2:7946", "127.0.0.3:7946"]
key_file = "{0}/key"

[[app]]
name = "www"
publish = ["127.0.0.1"]
check = {{ http = "http://127.0.0.1:8080/health" }}

[[handler]]
name = "dns"
source = "file:{0}/dns.wasm"
on = ["app-*"]
"#,
            self.dir.path().display()
        )
    }

    pub(crate) fn config(&self, text: &str) -> String {
        let path = self.at("picored.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn check_tells_two_nodes_what_they_are_in_for() {
    let site = Site::new();
    let two = site.good().replace(", \"127.0.0.3:7946\"", "");
    let output = command(&["check", "--config", &site.config(&two)]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("warning: with two nodes, one that dies stays"));
    let decided = two.replace("[cluster]", "[cluster]\ntwo_node = \"trust-survivor\"");
    assert!(said(&["check", "--config", &site.config(&decided)]).starts_with("ok: "));
}

#[test]
fn check_says_ok_and_what_it_saw() {
    let site = Site::new();
    let config = site.config(&site.good());
    let before = names(site.dir.path());
    assert_eq!(said(&["check", "--config", &config]), "ok: node web1 of cluster example, 2 seeds, 1 app, 1 handler\n");
    assert_eq!(names(site.dir.path()), before, "it leaves no trace");
}

#[test]
fn check_takes_relative_paths_from_the_current_directory() {
    let site = Site::new();
    let relative = site.good().replace(&format!("{}/", site.dir.path().display()), "");
    site.config(&relative);
    let output = command(&["check", "--config", "picored.toml"]).current_dir(site.dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let elsewhere = command(&["check", "--config", &site.config(&relative)]).current_dir("/").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
}

#[test]
fn check_tells_all_that_is_wrong_with_the_text() {
    let site = Site::new();
    let bad = site.good().replace("publish =", "pubish =").replace("[\"app-*\"]", "[\"app-upp\"]");
    let config = site.config(&bad);
    let error = complaint(1, &["check", "--config", &config]);
    for part in [config.as_str(), "pubish", "publish", "app-upp", "line 15", "line 21"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    // The daemon itself says the same and does not start.
    assert_eq!(complaint(1, &["run", "--config", &config]), error);
}

#[test]
fn check_tells_all_that_is_wrong_around_the_text() {
    let site = Site::new();
    let config = site.config(&site.good());
    fs::write(site.at("state"), "a file").unwrap();
    fs::set_permissions(site.at("key"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::remove_file(site.at("dns.wasm")).unwrap();
    let error = complaint(1, &["check", "--config", &config]);
    for part in ["state is not a directory", "key is open to every user", "handler dns", "dns.wasm"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}

#[test]
fn a_ca_file_that_is_none_is_told_by_check_and_ends_the_start() {
    let site = Site::new();
    let check = format!("http = \"https://127.0.0.1/\", ca_file = \"{}\"", site.at("ca.pem").display());
    let config = site.config(&site.good().replace("http = \"http://127.0.0.1:8080/health\"", &check));
    let said = |error: &str| {
        for verb in ["check", "run"] {
            let complaint = complaint(1, &[verb, "--config", &config]);
            assert!(complaint.contains(&format!("ca.pem of app www {error}")), "{verb}: {complaint}");
        }
    };
    said("cannot be read: No such file");
    fs::write(site.at("ca.pem"), "hello").unwrap();
    said("has no certificate");
}

#[test]
fn a_command_that_cannot_be_run_is_told_by_check_and_ends_the_start() {
    let site = Site::new();
    let check = format!("exec = [\"{}\"], user = \"no-such-user\"", site.at("program").display());
    let config = site.config(&site.good().replace("http = \"http://127.0.0.1:8080/health\"", &check));
    let said = |error: &str| {
        for verb in ["check", "run"] {
            let complaint = complaint(1, &[verb, "--config", &config]);
            assert!(complaint.contains(&format!("the exec check of app www {error}")), "{verb}: {complaint}");
        }
    };
    said(&format!("has a program that cannot be run: {}: No such file", site.at("program").display()));
    std::os::unix::fs::symlink("/bin/true", site.at("program")).unwrap();
    said("cannot be made as the user no-such-user: /etc/passwd has no such user");
}

#[test]
fn configs_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let error = complaint(1, &["check", "--config", missing.to_str().unwrap()]);
    assert!(error.contains("none.toml") && error.contains("No such file"), "{error}");

    let huge = dir.path().join("huge.toml");
    fs::write(&huge, "#".repeat(2 << 20)).unwrap();
    assert!(complaint(1, &["check", "--config", huge.to_str().unwrap()]).contains("larger than"));

    let binary = dir.path().join("binary.toml");
    fs::write(&binary, b"\xff\xfe").unwrap();
    assert!(complaint(1, &["check", "--config", binary.to_str().unwrap()]).contains("binary.toml is not UTF-8"));
}
