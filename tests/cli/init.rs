//! `picored init`: its questions, the config and the key that it writes, and the answers that it refuses.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::{command, names};

/// Runs `init` in `dir` with these lines on its standard input.
fn init(dir: &Path, answers: &str, args: &[&str]) -> Output {
    let mut child = command(&[&["init", "--out", "p.toml", "--key", "etc/key"], args].concat())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn init_asks_four_questions_and_what_it_writes_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let output = init(dir.path(), "web9\n203.0.113.9 2001:db8::9\n\nhttp://127.0.0.1:8080/health\n", &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("made the cluster's key etc/key"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.ends_with(": ")).count(), 4);
    assert_eq!(fs::metadata(dir.path().join("etc/key")).unwrap().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(dir.path().join("p.toml")).unwrap();
    for line in
        ["name = \"web9\"", "bind = \"0.0.0.0:7946\"", "advertise = \"203.0.113.9:7946\"", "# Unique in the cluster."]
    {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    // The state directory's default is not for every user to write.
    let text = text.replace("# state_dir = \"/var/lib/picored\"", "state_dir = \"state\"");
    fs::write(dir.path().join("q.toml"), text).unwrap();
    let checked = command(&["check", "--config", "q.toml"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "ok: node web9 of cluster site, 0 seeds, 1 app, 0 handlers\n");

    let again = init(dir.path(), "", &["--yes"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("p.toml is there already and stays as it is"), "{again:?}");
}

#[test]
fn init_takes_flags_for_answers_and_makes_no_key_beside_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--yes", "--name", "web1", "--publish", "2001:db8::5", "--seed", "2001:db8::6", "--seed", "web3"];
    let output = init(dir.path(), "", &flags);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("copy that of another node"), "{output:?}");
    assert!(!dir.path().join("etc").exists());
    let text = fs::read_to_string(dir.path().join("p.toml")).unwrap();
    for line in ["bind = \"[::]:7946\"", "seeds = [\"[2001:db8::6]:7946\", \"web3:7946\"]"] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn init_refuses_bad_answers_and_writes_nothing() {
    for (answers, args, reason) in [
        ("-bad-\n", &[][..], "a name has"),
        ("web1\nnowhere\n", &[], "is no IP address"),
        ("web1\n", &[], "standard input has ended: answer with --publish"),
        ("", &["--yes", "--publish", "x"], "--publish: `x` is no IP address"),
        ("", &["--yes", "--publish", "203.0.113.5", "--seed", "a b:c"], "no good config"),
        ("", &["--yes", "--publish", "203.0.113.5", "--check", "ping"], "neither a URL"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = init(dir.path(), answers, args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{reason} in {output:?}");
        assert_eq!(names(dir.path()), Vec::<std::ffi::OsString>::new(), "{reason}");
    }
}
