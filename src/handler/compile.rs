//! Compilation in a process of its own: `picored compile-component` reads a component on stdin and writes machine code
//! to stdout.
//!
//! Cranelift never runs in the daemon: it takes hundreds of megabytes for large guests, and a component may be built to
//! take more. [`child_main`] confines itself before it reads a byte; `compile` is the daemon's side.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, Command};

use crate::handler::engine;
use crate::handler::limits::{MAX_COMPONENT_BYTES, compiler};
use crate::handler::source::Wasm;
use crate::handler::text::clean;
use crate::handler::weigh;

/// So much of the compiler's stderr is read, in bytes.
const MESSAGE_BYTES: usize = 4 << 10;

/// Why a component has no code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The program did not start.
    #[error("cannot start the compiler {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Could not be read to the end, or talk to the compiler failed.
    #[error("while compiling: {0}")]
    Io(#[from] std::io::Error),
    /// The file is not what it was when it was hashed.
    #[error("the component changed after it was first read; load it again")]
    Changed,
    /// The compiler says why.
    #[error("the compiler refused it: {0}")]
    Refused(String),
    /// Past its limit of memory.
    #[error("the compiler ran out of memory: it has {} MiB, or what is left", compiler::MEMORY_BYTES >> 20)]
    Memory,
    /// Past its limit of CPU time.
    #[error("the compiler used more than {} s of CPU time", compiler::CPU_SECONDS)]
    Cpu,
    /// Past its limit of output.
    #[error("the compiler wrote more than {} MiB", compiler::OUTPUT_BYTES >> 20)]
    Output,
    /// Past its limit of time.
    #[error("the compiler took longer than {} s", compiler::WALL.as_secs())]
    Wall,
    /// Ended by a signal from elsewhere.
    #[error("the compiler was ended by signal {0}")]
    Killed(i32),
}

/// Compiles `component` with `program` into `output`.
pub(crate) async fn compile(program: &Path, component: &Wasm, output: File) -> Result<(), CompileError> {
    let mut child = Command::new(program)
        .arg("compile-component")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CompileError::Start { program: program.to_owned(), source })?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let work = async { tokio::try_join!(feed(component, stdin), message(stderr), async { Ok(child.wait().await?) }) };
    let ((), message, status) = tokio::time::timeout(compiler::WALL, work).await.map_err(|_| CompileError::Wall)??;
    verdict(status, &message)
}

/// Hands the component over. A compiler that ends early is not an error here: its status says why.
async fn feed(component: &Wasm, stdin: Option<ChildStdin>) -> Result<(), CompileError> {
    let mut stdin = stdin.expect("stdin is piped");
    let mut reader = component.reader()?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        if stdin.write_all(&chunk[..count]).await.is_err() {
            return Ok(());
        }
    }
    if reader.digest() == component.digest { Ok(()) } else { Err(CompileError::Changed) }
}

async fn message(stderr: Option<ChildStderr>) -> Result<String, CompileError> {
    let mut bytes = Vec::new();
    stderr.expect("stderr is piped").take(MESSAGE_BYTES as u64).read_to_end(&mut bytes).await?;
    // It may repeat names out of the component.
    Ok(clean(&String::from_utf8_lossy(&bytes).trim().replace('\n', "; "), MESSAGE_BYTES))
}

fn verdict(status: ExitStatus, message: &str) -> Result<(), CompileError> {
    // What the allocator and wasmtime say when memory is refused.
    let out_of_memory =
        ["memory allocation of", "annot allocate memory", "out of memory"].iter().any(|words| message.contains(words));
    match status.signal().and_then(Signal::from_named_raw) {
        None if status.success() => Ok(()),
        _ if out_of_memory => Err(CompileError::Memory),
        Some(Signal::XCPU) => Err(CompileError::Cpu),
        Some(Signal::XFSZ) => Err(CompileError::Output),
        Some(signal) => Err(CompileError::Killed(signal.as_raw())),
        None if message.is_empty() => Err(CompileError::Refused(status.to_string())),
        None => Err(CompileError::Refused(message.to_owned())),
    }
}

/// The compiler: `picored compile-component`. Errors go to stderr as one line.
pub fn child_main() -> ExitCode {
    match confine().map_err(|error| format!("cannot limit itself: {error}")).and_then(|()| precompile()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

/// Gives up what a compiler does not need. Limits that are lower already stay.
fn confine() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::nice(10)?;
    for (resource, limit) in [
        (Resource::As, compiler::MEMORY_BYTES),
        (Resource::Cpu, compiler::CPU_SECONDS),
        (Resource::Fsize, compiler::OUTPUT_BYTES),
        (Resource::Core, 0),
    ] {
        // A second of grace for CPU time: at the hard limit the signal would be one that tells nothing.
        let hard = if resource == Resource::Cpu { limit + 1 } else { limit };
        let maximum = getrlimit(resource).maximum.map_or(hard, |present| present.min(hard));
        setrlimit(resource, Rlimit { current: Some(limit.min(maximum)), maximum: Some(maximum) })?;
    }
    Ok(())
}

fn precompile() -> Result<(), String> {
    let mut component = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_COMPONENT_BYTES + 1)
        .read_to_end(&mut component)
        .map_err(|error| format!("cannot read the component: {error}"))?;
    if component.len() as u64 > MAX_COMPONENT_BYTES {
        return Err(format!("the component is larger than {} MiB", MAX_COMPONENT_BYTES >> 20));
    }
    weigh::check(&component)?;
    let code = engine::engine().and_then(|engine| engine.precompile_component(&component));
    let code = code.map_err(|error| format!("{error:#}"))?;
    std::io::stdout().lock().write_all(&code).map_err(|error| format!("cannot write the code: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended_by(signal: Signal) -> ExitStatus {
        ExitStatus::from_raw(signal.as_raw())
    }

    #[test]
    fn a_compiler_that_failed_is_named_by_what_it_ran_into() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(verdict(exit(0), "").is_ok());
        let refused = verdict(exit(1), "bad magic number").unwrap_err();
        assert_eq!(refused.to_string(), "the compiler refused it: bad magic number");
        assert!(verdict(exit(3), "").unwrap_err().to_string().contains("exit status: 3"));
        let memory = verdict(ended_by(Signal::ABORT), "memory allocation of 7 bytes failed").unwrap_err();
        assert_eq!(memory.to_string(), "the compiler ran out of memory: it has 1024 MiB, or what is left");
        assert!(matches!(verdict(ended_by(Signal::XCPU), ""), Err(CompileError::Cpu)));
        assert!(matches!(verdict(ended_by(Signal::XFSZ), ""), Err(CompileError::Output)));
        assert!(matches!(verdict(ended_by(Signal::KILL), ""), Err(CompileError::Killed(9))));
    }
}
