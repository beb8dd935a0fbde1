//! To come.

/// Runs the daemon.
pub async fn run(_: picored_core::config::Config, _: std::path::PathBuf) -> anyhow::Result<()> {
    anyhow::bail!("not in this build")
}
