//! `picored keygen`: the cluster's key, on standard output or in a file that is its user's alone and never written over.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::{complaint, said};

#[test]
fn keygen_makes_another_key_each_time() {
    let (first, second) = (said(&["keygen"]), said(&["keygen"]));
    assert_ne!(first, second);
    for key in [first, second] {
        // 32 bytes are 43 characters of base64 and one of padding.
        assert!(key.len() == 45 && key.ends_with("=\n"), "{key:?}");
        assert!(key[..43].chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '/'), "{key:?}");
    }
}

#[test]
fn keygen_writes_a_private_file_and_never_over_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let shown = path.to_str().unwrap();
    assert_eq!(said(&["keygen", "--out", shown]), "");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let written = fs::read(&path).unwrap();
    picored::store::read_key(&path).unwrap();

    let error = complaint(1, &["keygen", "--out", shown]);
    assert!(error.contains(shown) && error.contains("stays as it is"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), written);

    let nowhere = dir.path().join("none/key");
    assert!(complaint(1, &["keygen", "--out", nowhere.to_str().unwrap()]).contains(nowhere.to_str().unwrap()));
}
