//! `picored keygen`: a new cluster key, to standard output or to a new file.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::store;

/// Make a new cluster key
///
/// 32 random bytes as one line of base64. All nodes of a cluster have the same key: make it once and copy it to each.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  picored keygen --out /etc/picored/key\n  picored keygen | ssh web1 'umask 077; cat \
                        > /etc/picored/key'"
)]
pub(super) struct Args {
    /// Write to this new file (mode 0600) instead; one that is there already is never overwritten
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let key = store::new_key();
    let Some(path) = &args.out else {
        super::print(&(store::encode_key(&key) + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    };
    match store::create_key_file(path, &key) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "{} is there already and stays as it is: a key that is lost cuts a cluster's nodes off from each other. \
             Name another file, or move that one away first",
            path.display()
        ),
        Err(error) => bail!("cannot write the key to {}: {error}", path.display()),
    }
}
