//! `weft wait`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use tokio::time::Instant;

use super::{Server, client};

/// The pause between two questions.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// How many streams there must be at least
    #[arg(long, value_name = "N", default_value_t = 1)]
    proxies: u64,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::duration)]
    timeout: Duration,
    #[command(flatten)]
    server: Server,
}

pub(super) async fn run(options: &Options) -> Result<String> {
    let end = Instant::now() + options.timeout;
    loop {
        let status = client::get(&options.server.control_plane, "/debug/push_status").await?;
        let streams = status["streams"].as_u64().unwrap_or_default();
        let synced = status["byState"]["synced"].as_u64().unwrap_or_default();
        let sequence = &status["sequence"];
        if streams >= options.proxies && synced == streams {
            return Ok(format!("{synced} of {streams} run configuration {sequence}"));
        }
        if Instant::now() >= end {
            bail!(
                "{synced} of {streams} run configuration {sequence} after {:?} ({} refused it, {} wanted at least); \
                 weft proxy-status shows which",
                options.timeout,
                status["byState"]["nacked"],
                options.proxies
            );
        }
        tokio::time::sleep(POLL).await;
    }
}
