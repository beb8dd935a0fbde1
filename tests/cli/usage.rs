//! What the program says of itself: help, version, complaints of a wrong command line, completions, the manual page.
//! No daemon is asked and no config read.

use std::fs;
use std::process::Command;

use crate::{complaint, said};

#[test]
fn help_names_the_verbs_and_each_has_an_example() {
    let help = said(&["--help"]);
    for verb in [
        "run",
        "demo",
        "init",
        "check",
        "keygen",
        "members",
        "reload",
        "status",
        "events",
        "why",
        "deliveries",
        "redeliver",
        "forget",
        "leave",
        "maintenance",
        "hold",
        "release",
        "beat",
        "handler",
        "sim",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} in {help}");
    }
    assert!(help.contains("Exit codes:"), "{help}");
    assert!(!help.contains("compile-component"), "an inner matter: {help}");
    for verb in
        ["run", "init", "check", "keygen", "members", "reload", "status", "events", "beat", "sim", "completions", "man"]
    {
        let help = said(&[verb, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("  picored {verb}")), "{help}");
    }
    for verb in ["list", "inspect", "run"] {
        let help = said(&["handler", verb, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("  picored handler {verb}")), "{help}");
    }
}

#[test]
fn version_is_the_packages() {
    assert_eq!(said(&["--version"]), format!("picored {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_command_lines_end_with_2_and_the_right_usage() {
    for args in [
        &[][..],
        &["walk"],
        &["run"],
        &["check"],
        &["run", "--config", "x", "--log-format", "xml"],
        &["run", "--config", "x", "--log-level", "loud"],
        &["members", "--socket", "x", "--config", "y"],
        &["keygen", "extra"],
        &["beat"],
        &["beat", "www", "--reason", "why"],
        &["handler"],
        &["handler", "inspect"],
        &["handler", "inspect", "x.wasm", "--config", "y"],
        &["handler", "inspect", "--handler", "dns"],
        &["handler", "run"],
        &["handler", "run", "dns", "--event", "app-*"],
        &["completions", "tcsh"],
    ] {
        assert!(complaint(2, args).contains("Usage:") || complaint(2, args).contains("--help"), "{args:?}");
    }
    assert!(complaint(2, &["mebmers"]).contains("members"), "it suggests what was meant");
}

#[test]
fn completions_are_scripts_that_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&["completions", shell]);
        for word in ["inspect", "beat", "--dry-run", "--follow"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(script.contains(word), "{word} in {shell}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("picored"), said(&["completions", "bash"])).unwrap();
    let parsed = Command::new("bash").arg("-n").arg(dir.path().join("picored")).output();
    // Where there is no bash, nobody needs its completions.
    assert!(parsed.is_err() || parsed.as_ref().is_ok_and(|parsed| parsed.status.success()), "{parsed:?}");
}

#[test]
fn the_manual_page_has_every_verb_and_renders() {
    let page = said(&["man"]);
    for section in ["PICORED RUN", "PICORED HANDLER INSPECT", "PICORED EVENTS", "PICORED BEAT"] {
        assert!(page.contains(section), "{section} in {page}");
    }
    assert!(!page.contains("COMPILE"), "an inner matter");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("picored.1"), page).unwrap();
    let Ok(shown) = Command::new("man").args(["--warnings", "-l"]).arg(dir.path().join("picored.1")).output() else {
        return;
    };
    assert!(shown.status.success() && shown.stderr.is_empty(), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("--dry-run"));
}
