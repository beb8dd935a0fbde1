//! Reads a config file for the verbs that take one. What stands in it is judged by the core.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use picored_core::config::Config;

/// No config is as large.
const LIMIT: u64 = 1 << 20;

/// The checked config, or everything that is wrong with it.
pub(super) fn read(path: &Path) -> anyhow::Result<Config> {
    let shown = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_string(&mut text))
        .with_context(|| format!("cannot read the config {shown}"))?;
    if text.len() as u64 > LIMIT {
        bail!("the config {shown} is larger than {} KiB: is it the right file?", LIMIT / 1024);
    }
    Config::parse(&text).map_err(|errors| anyhow::anyhow!("the config {shown} cannot be used\n{errors}"))
}
