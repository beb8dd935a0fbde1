//! Has the linker put the code that a running node needs into one place (`hot.ld`): the kernel maps a program in pieces of
//! 64 KiB around each access, and with that code spread over all of it a node would hold some 3 MiB more in memory. Only
//! for a release build for Linux, and only where the linker takes such a script; else nothing is lost but that.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    let script = Path::new(&variable("CARGO_MANIFEST_DIR")).join("layout/hot.ld");
    println!("cargo::rerun-if-changed=layout");
    if variable("PROFILE") == "release" && variable("CARGO_CFG_TARGET_OS") == "linux" {
        let argument = format!("-Wl,-T,{}", script.display());
        if is_taken(&argument) {
            println!("cargo::rustc-link-arg-bins={argument}");
        } else {
            println!("cargo::warning=the linker takes no script: picored will hold some 3 MiB more in memory");
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name}"))
}

/// Whether a program can be linked with this argument.
fn is_taken(argument: &str) -> bool {
    let folder = PathBuf::from(variable("OUT_DIR"));
    let source = folder.join("probe.rs");
    std::fs::write(&source, "fn main() {}").expect("OUT_DIR can be written to");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.arg(source).arg("-o").arg(folder.join("probe")).args(["--target", &variable("TARGET")]);
    rustc.args(env::var("RUSTC_LINKER").map(|linker| format!("-Clinker={linker}")).ok());
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    rustc.arg(format!("-Clink-arg={argument}")).stdout(Stdio::null()).stderr(Stdio::null());
    rustc.status().is_ok_and(|status| status.success())
}
