//! Components that are none, code that is not to be trusted, compilers that fail: a clear error, and nothing half done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use picored::handler::{Limits, LoadError};
use picored_core::config::{Handler, Source};
use picored_core::event::{RunEnd, StopReason};
use tempfile::TempDir;

use crate::support::{done, fixture, handler, host, host_in, host_with, run};
use crate::wait;

/// The error of loading a file of these bytes.
async fn error_of(bytes: &[u8]) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("given.wasm");
    fs::write(&path, bytes).unwrap();
    match host(Limits::default()).load(&handler(path)).await {
        Ok(_) => panic!("this is no handler"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn what_is_no_component_is_named() {
    assert!(error_of(b"").await.ends_with("given.wasm is no component: it is empty"));
    assert!(error_of(&[7; 5000]).await.ends_with("is no component: it is not WebAssembly"));
    let module = b"\0asm\x01\0\0\0";
    assert!(error_of(module).await.contains("it is a core module; wrap it with `wasm-tools component new`"));
    let garbage = [b"\0asm\x0d\0\x01\0".as_slice(), &[0xff; 300]].concat();
    assert!(error_of(&garbage).await.contains("the compiler refused it: "));
    let cut = fs::read(fixture("ok")).unwrap();
    assert!(error_of(&cut[..cut.len() / 2]).await.contains("the compiler refused it: "));
}

#[tokio::test]
async fn a_component_that_is_no_handler_is_told_what_it_lacks() {
    let nothing = error_of(b"\0asm\x0d\0\x01\0").await;
    assert!(nothing.ends_with("does not export picored:handler/guest@0.1.0; it exports nothing"), "{nothing}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let host = host(Limits::default());
    let error = host.load(&handler("/no/such/file.wasm".into())).await.err().unwrap().to_string();
    assert!(error.starts_with("cannot read file:/no/such/file.wasm: "), "{error}");
    let error = host.load(&handler("/".into())).await.err().unwrap().to_string();
    assert!(error.contains("cannot read file:/: not a regular file"), "{error}");
    let unknown = Handler { source: Source::Builtin("dns-nobody".into()), ..handler(PathBuf::new()) };
    let error = host.load(&unknown).await.err().unwrap().to_string();
    assert!(
        error.starts_with("there is no builtin handler \"dns-nobody\"; there are: ") && error.contains("dns-powerdns")
    );
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_not_read_to_its_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("huge.wasm");
    fs::write(&path, b"\0asm\x0d\0\x01\0").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let error = host(Limits::default()).load(&handler(path)).await.err().unwrap().to_string();
    assert!(error.ends_with("is larger than 64 MiB"), "{error}");
}

#[tokio::test]
async fn a_describe_that_asks_for_the_cluster_is_refused() {
    match host(Limits::default()).load(&handler(fixture("describe-lies"))).await {
        Err(LoadError::Describe { reason: StopReason::Trap, why, .. }) => assert!(why.contains("describe"), "{why}"),
        other => panic!("it lies: {:?}", other.map(|loaded| loaded.description().clone())),
    }
}

#[tokio::test]
async fn the_builtin_handlers_load() {
    for name in ["dns-cloudflare", "dns-powerdns", "webhook"] {
        let builtin = Handler { source: Source::Builtin(name.into()), ..handler(PathBuf::new()) };
        let loaded = host(Limits::default()).load(&builtin).await.unwrap();
        assert_eq!(loaded.description().name, name);
        assert!(loaded.description().wants.iter().any(|want| want.kind == "http"));
    }
}

/// A compiler that counts its calls, then does `then`.
struct Compiler {
    program: PathBuf,
    log: PathBuf,
}

impl Compiler {
    fn new(directory: &Path, then: &str) -> Self {
        let (program, log) = (directory.join("compiler"), directory.join("calls"));
        fs::write(&program, format!("#!/bin/sh\necho call >> '{}'\n{then}\n", log.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { program, log }
    }

    fn real(directory: &Path) -> Self {
        Self::new(directory, &format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_picored")))
    }

    fn calls(&self) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().lines().count()
    }
}

/// The entries and drafts in the cache.
fn files(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache).unwrap().map(|item| item.unwrap().path()).collect()
}

#[tokio::test]
async fn code_is_made_once_and_found_by_the_next_process() {
    let directory = TempDir::new().unwrap();
    let (compiler, cache) = (Compiler::real(directory.path()), directory.path().join("cache"));
    for _ in 0..2 {
        let host = host_with(&cache, &compiler.program, [1; 32], Limits::default());
        assert_eq!(done(run(&host.load(&handler(fixture("ok"))).await.unwrap()).await), "done");
    }
    assert_eq!(compiler.calls(), 1);
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let entries = files(&cache);
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(fs::metadata(&entries[0]).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn code_that_is_cut_altered_or_foreign_is_made_anew() {
    let directory = TempDir::new().unwrap();
    let (compiler, cache) = (Compiler::real(directory.path()), directory.path().join("cache"));
    let load = async |key: u8| {
        let host = host_with(&cache, &compiler.program, [key; 32], Limits::default());
        assert_eq!(done(run(&host.load(&handler(fixture("ok"))).await.unwrap()).await), "done");
    };
    load(1).await;
    let entry = files(&cache).remove(0);
    let good = fs::read(&entry).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let (half, last) = (good.len() / 2, good.len() - 1);
    let foreign = vec![b'#'; good.len()];
    let bad = [
        good[..half].to_vec(),
        good[..last].to_vec(),
        vec![],
        foreign,
        flipped(half),
        flipped(last),
        flipped(last - 40),
    ];
    for (number, bytes) in bad.into_iter().enumerate() {
        fs::write(&entry, bytes).unwrap();
        load(1).await;
        assert_eq!(compiler.calls(), 2 + number, "case {number} is noticed");
        assert_eq!(files(&cache), std::slice::from_ref(&entry));
    }
    let before = compiler.calls();
    load(2).await;
    assert_eq!(compiler.calls(), before + 1, "another node's key is noticed");
    load(2).await;
    assert_eq!(compiler.calls(), before + 1, "and what was made with it is good");
}

#[tokio::test]
async fn what_is_no_file_is_no_code() {
    let directory = TempDir::new().unwrap();
    let (cache, elsewhere) = (directory.path().join("cache"), directory.path().join("elsewhere"));
    let load = async || {
        let host = host_in(&cache, Limits::default());
        let loaded = wait::until("nobody waits", String::new, host.load(&handler(fixture("ok")))).await;
        assert_eq!(done(run(&loaded.unwrap()).await), "done");
    };
    load().await;
    let entry = files(&cache).remove(0);
    fs::rename(&entry, &elsewhere).unwrap();
    let good = fs::read(&elsewhere).unwrap();

    std::os::unix::fs::symlink(&elsewhere, &entry).unwrap();
    load().await;
    assert!(fs::symlink_metadata(&entry).unwrap().is_file());
    assert_eq!(fs::read(&elsewhere).unwrap(), good, "what a link names is left alone");

    fs::remove_file(&entry).unwrap();
    // Nobody ever writes into it.
    assert!(std::process::Command::new("mkfifo").arg(&entry).status().unwrap().success());
    load().await;
    assert!(fs::symlink_metadata(&entry).unwrap().is_file());
}

#[tokio::test]
async fn code_that_is_altered_while_the_daemon_runs_is_made_anew() {
    let directory = TempDir::new().unwrap();
    let (compiler, cache) = (Compiler::real(directory.path()), directory.path().join("cache"));
    let host = host_with(&cache, &compiler.program, [1; 32], Limits::default());
    let loaded = host.load(&handler(fixture("ok"))).await.unwrap();
    let entry = files(&cache).remove(0);
    let mut bytes = fs::read(&entry).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(&entry, bytes).unwrap();
    assert_eq!(done(run(&loaded).await), "done");
    assert_eq!(compiler.calls(), 2);

    // A name that is gone is no matter: the file is open.
    let next = host.load(&handler(fixture("ok"))).await.unwrap();
    fs::remove_file(&entry).unwrap();
    assert_eq!(done(run(&next).await), "done");
    assert_eq!(compiler.calls(), 2);
}

#[tokio::test]
async fn a_component_that_changed_is_not_compiled_in_the_old_ones_name() {
    let directory = TempDir::new().unwrap();
    let (cache, path) = (directory.path().join("cache"), directory.path().join("given.wasm"));
    fs::copy(fixture("ok"), &path).unwrap();
    let loaded = host_in(&cache, Limits::default()).load(&handler(path.clone())).await.unwrap();
    fs::copy(fixture("trap"), &path).unwrap();
    for entry in files(&cache) {
        fs::write(entry, b"rot").unwrap();
    }
    match run(&loaded).await {
        RunEnd::Stopped(StopReason::Load, why) => assert!(why.contains("changed after it was first read"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(files(&cache), Vec::<PathBuf>::new(), "nothing half done is left");
}

#[tokio::test]
async fn a_compiler_that_fails_is_reported_and_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    for (then, wanted) in [
        ("kill -9 $$", "the compiler was ended by signal 9"),
        ("kill -XCPU $$", "the compiler used more than 120 s of CPU time"),
        (
            "echo 'memory allocation of 99 bytes failed' >&2; kill -ABRT $$",
            "the compiler ran out of memory: it has 1024 MiB",
        ),
        ("cat > /dev/null; echo 'not today' >&2; exit 3", "the compiler refused it: not today"),
        ("head -c 100000 /dev/zero >&2; exit 3", "the compiler refused it: "),
        // As when the name of an export is repeated.
        (r"cat > /dev/null; printf 'x\033[2J\r\302\233y' >&2; exit 3", r"refused it: x\u{1b}[2J\u{d}\u{9b}y"),
    ] {
        let (compiler, cache) = (Compiler::new(directory.path(), then), directory.path().join("cache"));
        let host = host_with(&cache, &compiler.program, [1; 32], Limits::default());
        let error = host.load(&handler(fixture("ok"))).await.err().unwrap().to_string();
        assert!(error.contains("cannot be compiled: ") && error.contains(wanted), "{error}");
        assert_eq!(files(&cache), Vec::<PathBuf>::new(), "after {then:?}");
    }
    let host = host_with(directory.path(), Path::new("/no/such/program"), [1; 32], Limits::default());
    let error = host.load(&handler(fixture("ok"))).await.err().unwrap().to_string();
    assert!(error.contains("cannot start the compiler /no/such/program: "), "{error}");
}

#[tokio::test]
async fn a_compiler_that_writes_nonsense_is_not_believed() {
    let directory = TempDir::new().unwrap();
    let (compiler, cache) =
        (Compiler::new(directory.path(), "cat > /dev/null; echo nonsense"), directory.path().join("cache"));
    let host = host_with(&cache, &compiler.program, [1; 32], Limits::default());
    let error = host.load(&handler(fixture("ok"))).await.err().unwrap().to_string();
    assert!(error.contains("cannot use the compiled code"), "{error}");
}

#[tokio::test]
async fn a_compiler_without_memory_says_so() {
    let directory = TempDir::new().unwrap();
    let mut ends = Vec::new();
    // Somewhere between too little to start, which grows with the program, and enough to finish.
    for kib in (16_000..400_000).step_by(4_000) {
        let then = format!("ulimit -v {kib}; exec '{}' \"$@\"", env!("CARGO_BIN_EXE_picored"));
        let compiler = Compiler::new(directory.path(), &then);
        let host = host_with(&directory.path().join(kib.to_string()), &compiler.program, [1; 32], Limits::default());
        let builtin = Handler { source: Source::Builtin("dns-powerdns".into()), ..handler(PathBuf::new()) };
        let Err(error) = host.load(&builtin).await else { break };
        ends.push(error.to_string());
    }
    assert!(ends.iter().any(|end| end.contains("the compiler ran out of memory")), "{ends:#?}");
}
