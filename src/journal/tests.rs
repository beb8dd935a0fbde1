//! What is accepted is there after any end, and what is damaged is never taken for something else.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const KEY: [u8; 32] = [3; 32];

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    (dir, path)
}

fn change(key: &str, value: Option<&str>) -> Changes {
    Changes::from([(key.to_owned(), value.map(|value| value.as_bytes().to_vec()))])
}

fn read(path: &Path) -> Values {
    Log::open(path, &KEY).unwrap().1
}

fn value(key: &str, value: &str) -> (String, Vec<u8>) {
    (key.to_owned(), value.as_bytes().to_vec())
}

/// Five writes, and what is kept after none, one, two, ... of them.
fn written(path: &Path) -> Vec<Values> {
    let mut log = Log::open(path, &KEY).unwrap().0;
    let mut states = vec![Values::new()];
    let steps = [("a", Some("one")), ("b", Some("rec\nlong enough")), ("a", Some("two")), ("b", None), ("c", Some(""))];
    for (key, to) in steps {
        log.write(&change(key, to)).unwrap();
        states.push(read(path));
    }
    assert_eq!(states[3], Values::from([value("a", "two"), value("b", "rec\nlong enough")]));
    assert_eq!(states[5], Values::from([value("a", "two"), value("c", "")]));
    states
}

#[test]
fn nothing_is_made_before_there_is_something_to_keep() {
    let (_dir, path) = place();
    assert_eq!(read(&path), Values::new());
    assert!(!path.exists());
}

#[test]
fn a_file_cut_at_any_byte_holds_one_of_the_states_and_goes_on() {
    let (_dir, path) = place();
    let states = written(&path);
    let whole = fs::read(&path).unwrap();
    let mut last = 0;
    for end in 0..=whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let found = read(&path);
        let state =
            states.iter().position(|state| *state == found).unwrap_or_else(|| panic!("cut at {end}: {found:?}"));
        assert!(state >= last, "what was there at a shorter length is there at {end}");
        last = state;
        let mut log = Log::open(&path, &KEY).unwrap().0;
        log.write(&change("new", Some("x"))).unwrap();
        let mut wanted = found;
        wanted.extend([value("new", "x")]);
        assert_eq!(read(&path), wanted, "cut at {end}");
    }
    assert_eq!(last, 5);
}

#[test]
fn a_byte_flipped_anywhere_costs_one_record_at_most_and_is_never_believed() {
    let (dir, path) = place();
    let states = written(&path);
    let whole = fs::read(&path).unwrap();
    let known: Vec<_> = states.iter().flatten().collect();
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            fs::write(&path, &bytes).unwrap();
            match Log::open(&path, &KEY) {
                Ok((mut log, found)) => {
                    assert!(found.iter().all(|entry| known.contains(&entry)), "{at}: {found:?}");
                    let lost = [("a", "two"), ("c", "")].iter().filter(|(key, _)| !found.contains_key(*key)).count();
                    assert!(lost <= 1, "{at}: {found:?}");
                    let is_last = at + 1 > whole.len() - (16 + 9);
                    assert_eq!(dir.path().join("journal.damaged").exists(), !is_last, "{at}");
                    log.write(&change("new", Some("x"))).unwrap();
                    assert_eq!(read(&path).len(), found.len() + 1, "{at}");
                    let _ = fs::remove_file(dir.path().join("journal.damaged"));
                }
                // The version's digit: nothing is touched.
                Err(JournalError::Newer { .. }) => assert_eq!(fs::read(&path).unwrap(), bytes, "{at}"),
                Err(error) => panic!("{at}: {error}"),
            }
        }
    }
}

#[test]
fn what_is_kept_cannot_pass_for_a_record() {
    let (_dir, path) = place();
    let (_other, forged) = place();
    // A record by the format, under another key.
    Log::open(&forged, &[4; 32]).unwrap().0.write(&change("delivery/dns/1", Some("forged"))).unwrap();
    let forged = fs::read(&forged).unwrap();
    let mut log = Log::open(&path, &KEY).unwrap().0;
    log.write(&change("a", Some("one"))).unwrap();
    log.write(&Changes::from([("state/dns".to_owned(), Some(forged))])).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(read(&path), Values::from([value("a", "one")]));
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let (_dir, path) = place();
    fs::write(&path, "picored journal 2\nanything").unwrap();
    let error = Log::open(&path, &KEY).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 2, known: 1, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"picored journal 2\nanything");
}

#[test]
fn the_file_stays_small_under_many_changes() {
    let (dir, path) = place();
    let mut log = Log::open(&path, &KEY).unwrap().0;
    let big = "x".repeat(20_000);
    for number in 0..200 {
        log.write(&change(&format!("k{}", number % 3), Some(&format!("{number} {big}")))).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 350_000, "{number}");
    }
    let found = read(&path);
    assert_eq!(found.len(), 3);
    assert!(found["k1"].starts_with(b"199 "));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

/// A file may grow to so many bytes in this process; another test of the process must not write meanwhile, so this runs
/// in a process of its own.
#[test]
fn a_full_disk_loses_nothing_that_was_there_and_catches_up() {
    const CHILD: &str = "PICORED_TEST_FULL_DISK";
    if std::env::var_os(CHILD).is_none() {
        let name = "journal::tests::a_full_disk_loses_nothing_that_was_there_and_catches_up";
        // To write beyond the limit shall fail, and not kill.
        let child = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_dir, path) = place();
        let journal = Journal::open(&path, &KEY).unwrap().0;
        journal.write("a".into(), Some(b"one".to_vec())).wait().await;
        let before = read(&path);
        let limit = getrlimit(Resource::Fsize);
        let full = Rlimit { current: Some(fs::metadata(&path).unwrap().len() + 20), maximum: limit.maximum };
        setrlimit(Resource::Fsize, full).unwrap();
        journal.write("b".into(), Some(vec![b'x'; 1000])).wait().await;
        journal.write("a".into(), Some(vec![b'y'; 1000])).wait().await;
        assert_eq!(read(&path), before);
        setrlimit(Resource::Fsize, limit).unwrap();
        journal.write("c".into(), Some(b"three".to_vec())).wait().await;
        let found = read(&path);
        assert_eq!((found["a"].len(), found["b"].len(), found["c"].as_slice()), (1000, 1000, &b"three"[..]));
    });
}

#[tokio::test]
async fn what_comes_in_meanwhile_is_written_together_and_all_are_told() {
    let (_dir, path) = place();
    let journal = Journal::open(&path, &KEY).unwrap().0;
    let receipts: Vec<_> =
        (0..500).map(|n: u32| journal.write(format!("k{}", n % 50), Some(n.to_be_bytes().to_vec()))).collect();
    for receipt in receipts {
        receipt.wait().await;
    }
    let found = read(&path);
    assert_eq!(found.len(), 50);
    assert!(found.values().all(|value| u32::from_be_bytes(value[..].try_into().unwrap()) >= 450));
    let records = fs::read(&path).unwrap().windows(4).filter(|bytes| *bytes == b"rec\n").count();
    assert!(records < 50, "{records} records for 500 writes");
}
