//! What only a compiler that can be held up shows: what happens while a version is being prepared.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use picored_core::config::Config;

use super::*;
use crate::admin::Upload;
use crate::handler::{HostConfig, Limits, Secrets};

/// A component that exports nothing: good enough to be compiled.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Handlers `a` and `b`, whose compiler waits until somebody writes to the pipe, and then fails.
fn handlers(dir: &Path) -> (Handlers, mpsc::Receiver<Report>) {
    let (compiler, pipe) = (dir.join("compiler"), dir.join("pipe"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::write(&compiler, format!("#!/bin/sh\nread line < '{}'\necho no >&2\nexit 1\n", pipe.display())).unwrap();
    fs::set_permissions(&compiler, PermissionsExt::from_mode(0o755)).unwrap();
    let text = "[node]\nname = \"n\"\nbind = \"127.0.0.1:7946\"\n[cluster]\nname = \"c\"\n\
                [[handler]]\nname = \"a\"\nsource = \"file:/none\"\n[[handler]]\nname = \"b\"\nsource = \"file:/none\"\n";
    let config = Config::parse(text).unwrap();
    let (cache_dir, limits) = (dir.join("cache"), Limits::default());
    let host = Host::new(HostConfig {
        cache_dir,
        compiler,
        node_key: [1; 32],
        limits,
        metrics: Metrics::default(),
        secrets: Secrets::none(),
    })
    .unwrap();
    let state = StateDir::open(&dir.join("state")).unwrap();
    let (reports, ended) = mpsc::channel(8);
    (Handlers::new(host, &state, config.handlers, Metrics::default(), reports), ended)
}

/// Which handler, and by what: nothing for the version before.
type Change = (&'static str, Option<Upload>);

fn tell(handlers: &mut Handlers, (name, component): Change) -> (Option<Input>, oneshot::Receiver<Answer>) {
    let (reply, answer) = oneshot::channel();
    (handlers.change(HandlerName::new(name).unwrap(), component, reply), answer)
}

fn upgrade(dir: &Path, handler: &'static str, number: u8) -> Change {
    let path = dir.join(format!("sent-{number}"));
    fs::write(&path, [COMPONENT, &[0, 3, 1, b'n', number]].concat()).unwrap();
    (handler, Some(Upload::of(path)))
}

#[tokio::test]
async fn a_handler_is_changed_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut handlers, mut ended) = handlers(dir.path());
    let rollback = || ("a", None);

    let (_, first) = tell(&mut handlers, upgrade(dir.path(), "a", 1));
    for change in [upgrade(dir.path(), "a", 2), rollback()] {
        let (news, answer) = tell(&mut handlers, change);
        assert!(news.is_none());
        assert_eq!(answer.await.unwrap().unwrap_err().code, StatusCode::CONFLICT);
    }
    // Another handler may be changed meanwhile, and a run finds nothing to wait for but a version.
    let (_, mut other) = tell(&mut handlers, ("b", None));
    let report = ended.recv().await.unwrap();
    assert!(handlers.take(report).is_none());
    assert!(other.try_recv().unwrap().unwrap_err().reason.starts_with("there is nothing to go back to"));

    let pipe = dir.path().join("pipe");
    tokio::task::spawn_blocking(move || fs::write(pipe, "go\n")).await.unwrap().unwrap();
    let report = ended.recv().await.unwrap();
    let Some(Input::UpgradeRefused { handler, reason }) = handlers.take(report) else { panic!("it was refused") };
    assert_eq!(
        (handler.as_str(), reason.as_str()),
        ("a", "the component cannot be compiled: the compiler refused it: no")
    );
    assert_eq!(first.await.unwrap().unwrap_err().code, StatusCode::UNPROCESSABLE_ENTITY);

    let (_, again) = tell(&mut handlers, rollback());
    let report = ended.recv().await.unwrap();
    handlers.take(report);
    assert!(again.await.unwrap().unwrap_err().reason.starts_with("there is nothing to go back to"));
    let left = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("sent-"));
    assert_eq!(left.count(), 0, "what was sent is gone");
}
