//! Commands that are right, wrong, loud, stubborn or not there, as real processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use picored_core::config::ExecCheck;
use rustix::process::{Pid, Signal, kill_process};

use super::*;

fn check(command: &[&str]) -> ExecCheck {
    let [program, arguments @ ..] = command else { panic!("no program") };
    let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    ExecCheck { program: program.into(), arguments, user: None, env: BTreeMap::new() }
}

fn prober(check: ExecCheck, limit: Duration) -> (Prober, App) {
    let app = app(Check::Exec(check), limit);
    (Prober::new(std::slice::from_ref(&app), Arc::default()).unwrap(), app)
}

async fn run(check: ExecCheck, limit: Duration) -> Result<(), String> {
    let (prober, app) = prober(check, limit);
    prober.probe(&app).await
}

async fn shell(script: &str) -> Result<(), String> {
    run(check(&["/bin/sh", "-c", script]), PATIENT).await
}

/// What a script writes that fails on purpose: one line.
async fn line(check: ExecCheck) -> String {
    let said = run(check, PATIENT).await.unwrap_err();
    said.strip_prefix("exited with 1: ").expect("it fails as it is told to").to_owned()
}

/// Waits until `happens`.
async fn until(what: &str, happens: impl Fn() -> bool) {
    let waiting = async {
        while !happens() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENT, waiting).await.expect(what);
}

/// The state of a process as the kernel has it, `Z` for a zombie; none if there is no such process.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The numbers in a file that a script writes in one go.
fn pids(file: &Path) -> Option<Vec<i32>> {
    let text = fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'))?;
    Some(text.split_whitespace().map(|pid| pid.parse().unwrap()).collect())
}

/// A script that does not mind SIGTERM, has a child, and never ends; and the file in which both leave their ids.
fn stubborn(dir: &Path) -> (ExecCheck, PathBuf) {
    let file = dir.join("pids");
    let script = format!("trap '' TERM; sleep 1000 & echo $$ $! > {}; while :; do wait; done", file.display());
    (check(&["/bin/sh", "-c", &script]), file)
}

/// Waits until the command is reaped, and its child killed: that one is its next parent's to reap.
async fn gone(pids: &[i32]) {
    let &[leader, child] = pids else { panic!("{pids:?}") };
    until("the command is gone", || state(leader).is_none()).await;
    until("its child is gone", || matches!(state(child), None | Some('Z'))).await;
}

#[tokio::test]
async fn the_exit_status_decides_and_the_first_line_is_the_reason() {
    for good in ["exit 0", "echo WARNING; exit 0", "echo oh >&2"] {
        assert_eq!(shell(good).await, Ok(()), "{good}");
    }
    let long = format!("printf '%s' {}; exit 1", "x".repeat(5000));
    let cut = format!("exited with 1: {}", "x".repeat(200));
    let cases = [
        ("exit 2", "exited with 2"),
        ("echo; echo '  DISK CRITICAL '; echo more; exit 2", "exited with 2: DISK CRITICAL"),
        ("echo no table >&2; exit 255", "exited with 255: no table"),
        ("kill -KILL $$", "ended by signal 9"),
        ("echo dying; kill -SEGV $$", "ended by signal 11: dying"),
        (r"printf 'a\033[2J\007b\n'; exit 1", r"exited with 1: a\u{1b}[2J\u{7}b"),
        (r"printf 'a\377b'; exit 1", "exited with 1: a\u{fffd}b"),
        (&long, &cut),
    ];
    for (script, reason) in cases {
        assert_eq!(shell(script).await, Err(reason.to_owned()), "{script}");
    }
    let arguments = check(&["/bin/sh", "-c", "echo \"$#:$1:$2\"; exit 1", "sh", "a b", "$HOME;"]);
    assert_eq!(line(arguments).await, "2:a b:$HOME;", "no shell has seen them");
}

#[tokio::test]
async fn a_command_has_nothing_of_the_daemons() {
    let mut check = check(&["/bin/sh", "-c", "tr '\\0' '|' < /proc/$$/environ; exit 1"]);
    check.env = [("A", "1 2"), ("LANG", "de_DE")].map(|(name, value)| (name.into(), value.into())).into();
    let said = line(check.clone()).await;
    let path = format!("PATH={}", std::env::var("PATH").unwrap());
    // The path may be longer than what is told.
    let expected: String = format!("A=1 2|LANG=de_DE|{path}|").chars().take(200).collect();
    assert_eq!(said, expected);
    check.env = [("PATH".into(), "/bin:/usr/bin".into())].into();
    assert_eq!(line(check.clone()).await, "LANG=C|PATH=/bin:/usr/bin|");

    check.arguments[1] = "echo $(readlink /proc/$$/cwd) $(readlink /proc/$$/fd/0); exit 1".into();
    assert_eq!(line(check.clone()).await, "/ /dev/null");

    // What whoever started this process left open is not the daemon's.
    let flags = |number: u32| fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let is_passed_on = |number: u32| {
        let flags = flags(number).lines().find_map(|line| Some(line.strip_prefix("flags:")?.trim().to_owned()));
        flags.is_some_and(|flags| u32::from_str_radix(&flags, 8).unwrap() & 0o2_000_000 == 0)
    };
    check.arguments[1] =
        "n=0; while [ $n -lt 300 ]; do [ -e /proc/$$/fd/$n ] && printf ' %s' $n; n=$((n+1)); done; exit 1".into();
    let found: Vec<u32> = line(check).await.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(found[..3], [0, 1, 2]);
    assert!(found[3..].iter().all(|number| is_passed_on(*number)), "{found:?}");

    shell("read -r pid _ _ _ group _ < /proc/$$/stat; [ $pid = $group ]").await.expect("a group of its own");
}

#[tokio::test]
async fn what_takes_too_long_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let (check, file) = stubborn(dir.path());
    let (prober, mut app) = prober(check, SHORT);
    // On a machine that is busy it may not even have begun.
    while pids(&file).is_none() {
        let reason = format!("timed out after {:?} running the command", app.timeout);
        assert_eq!(prober.probe(&app).await, Err(reason));
        app.timeout *= 2;
    }
    gone(&pids(&file).unwrap()).await;
}

#[tokio::test]
async fn nobody_waits_for_a_command_whose_check_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (check, file) = stubborn(dir.path());
    let (prober, mut app) = prober(check, PATIENT);
    let asked = (prober.clone(), app.clone());
    let probe = tokio::spawn(async move { asked.0.probe(&asked.1).await });
    until("it runs", || pids(&file).is_some()).await;
    // The next one waits until the first is gone: there is one at a time.
    let first = pids(&file).unwrap();
    app.timeout = SHORT;
    let waiting = format!("timed out after {SHORT:?} waiting for the end of the run before, which was killed");
    assert_eq!(prober.probe(&app).await, Err(waiting));
    assert_eq!(pids(&file), Some(first.clone()), "none has begun");
    probe.abort();
    gone(&first).await;
    let Check::Exec(check) = &mut app.check else { panic!("{app:?}") };
    (check.arguments[1], app.timeout) = ("exit 0".into(), PATIENT);
    assert_eq!(prober.probe(&app).await, Ok(()));
}

#[test]
fn the_end_of_the_runtime_is_that_of_its_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (check, file) = stubborn(dir.path());
    let (prober, app) = prober(check, PATIENT);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let daemon = runtime();
    daemon.block_on(async {
        tokio::spawn(async move { prober.probe(&app).await });
        until("it runs", || pids(&file).is_some()).await;
    });
    daemon.shutdown_background();
    let pids = pids(&file).unwrap();
    runtime().block_on(async {
        for pid in pids {
            until("it is killed", || matches!(state(pid), None | Some('Z'))).await;
        }
    });
}

#[tokio::test]
async fn much_output_is_read_and_dropped() {
    let much = "head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 3";
    assert_eq!(shell(much).await, Err(format!("exited with 3: {}", "x".repeat(200))));
    let endless = run(check(&["/bin/sh", "-c", "while :; do echo y; done"]), SHORT).await;
    assert_eq!(endless, Err(format!("timed out after {SHORT:?} running the command")));
    assert_eq!(shell("exec >&- 2>&-; sleep 0.1; exit 4").await, Err("exited with 4".into()), "none is fine too");
}

#[tokio::test]
async fn whoever_holds_the_output_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let at = file.display();
    // In its group: it goes with the command.
    assert_eq!(shell(&format!("sleep 1000 & echo $$ $! > {at}; exit 0")).await, Ok(()));
    gone(&pids(&file).unwrap()).await;
    fs::remove_file(&file).unwrap();

    // In a group of its own, as daemons are: it is let be.
    let daemon = format!("setsid sh -c 'echo $$ > {at}; exec sleep 1000' & while [ ! -s {at} ]; do :; done; echo ok");
    assert_eq!(shell(&daemon).await, Ok(()));
    let pid = pids(&file).unwrap()[0];
    assert!(state(pid).is_some_and(|state| state != 'Z'));
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_told_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("program");
    let of_config = |check: ExecCheck| {
        let app = app(Check::Exec(check), PATIENT);
        let errors = Prober::new(&[app], Arc::default()).err().expect("it cannot be made");
        errors.iter().map(ToString::to_string).collect::<String>()
    };
    let program = check(&[link.to_str().unwrap()]);
    let before =
        |why: &str| format!("the exec check of app www has a program that cannot be run: {}: {why}", link.display());
    assert_eq!(of_config(program.clone()), before("No such file or directory (os error 2)"));
    symlink("/", &link).unwrap();
    assert_eq!(of_config(program.clone()), before("it is no file"));
    fs::remove_file(&link).unwrap();
    fs::write(&link, "echo").unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(of_config(program.clone()), before("it is not executable (see chmod)"));
    fs::remove_file(&link).unwrap();
    symlink("/bin/true", &link).unwrap();

    let (prober, app) = prober(program, PATIENT);
    assert_eq!(prober.probe(&app).await, Ok(()));
    let after = |why: &str| Err(format!("cannot run {}: {why}", link.display()));
    fs::remove_file(&link).unwrap();
    assert_eq!(prober.probe(&app).await, after("No such file or directory (os error 2)"));
    symlink(dir.path().join("plain"), &link).unwrap();
    fs::write(dir.path().join("plain"), "echo").unwrap();
    assert_eq!(prober.probe(&app).await, after("Permission denied (os error 13)"));
    // Written by another process: what this one has open for writing, every child of another test has for a moment.
    let script = dir.path().join("script");
    let write = format!("printf '#!/nowhere/sh\\n' > {0}; chmod 755 {0}", script.display());
    assert!(Command::new("/bin/sh").args(["-c", &write]).status().unwrap().success());
    fs::remove_file(&link).unwrap();
    symlink(&script, &link).unwrap();
    let interpreter = "what its first line or its header names as interpreter is not there";
    assert_eq!(prober.probe(&app).await, after(interpreter));
}

#[tokio::test]
async fn a_command_is_run_as_another_user_by_root_alone() {
    let mut check = check(&["/bin/sh", "-c", "echo $(id -u) $(id -g) $(id -G); exit 1"]);
    check.user = Some("nobody".into());
    if rustix::process::geteuid().is_root() {
        let nobody = account::find("nobody").unwrap().expect("it is somebody else");
        assert_eq!(line(check).await, format!("{} {1} {1}", nobody.user, nobody.group));
    } else {
        let errors = Prober::new(&[app(Check::Exec(check.clone()), PATIENT)], Arc::default()).err().unwrap();
        let error = errors[0].to_string();
        assert!(error.starts_with("the exec check of app www cannot be made as the user nobody: "), "{error}");
    }
}
