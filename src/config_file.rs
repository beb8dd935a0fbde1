//! Reads a config file, for the verbs that take one and for a daemon that shall take in another. What stands in it is
//! judged by the core; relative paths are relative to the current directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use picored_core::config::{Config, MAX_TEXT_LEN};

/// The checked config, or everything that is wrong with it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Config> {
    let shown = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TEXT_LEN as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the config {shown}"))?;
    if bytes.len() > MAX_TEXT_LEN {
        bail!("the config {shown} is larger than {} KiB: is it the right file?", MAX_TEXT_LEN / 1024);
    }
    let text = String::from_utf8(bytes).with_context(|| format!("the config {shown} is not UTF-8 text"))?;
    Config::parse(&text).map_err(|errors| anyhow::anyhow!("the config {shown} cannot be used\n{errors}"))
}
