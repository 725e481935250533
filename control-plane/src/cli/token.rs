//! `weft token`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::ca::{AUDIENCE, Ca, Options as CaOptions};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft token create --namespace default --service-account web > token
  weft token create -n default -s web --ttl 1h --ca-dir /var/lib/weft/ca")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a token that proves a service account to the control plane on the same --ca-dir
    Create(CreateOptions),
}

#[derive(Debug, Args)]
struct CreateOptions {
    /// The namespace
    #[arg(short, long)]
    namespace: String,
    /// The service account
    #[arg(short, long)]
    service_account: String,
    /// For how long it is good
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = super::duration)]
    ttl: Duration,
    /// For whom it is
    #[arg(long, value_name = "AUDIENCE", default_value = AUDIENCE)]
    audience: String,
    /// Where the authority keeps its keys
    #[arg(long, value_name = "DIR", env = "WEFT_CA_DIR")]
    ca_dir: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> Result<String> {
    let Command::Create(of) = &options.command;
    let place = super::ca::directory(of.ca_dir.as_ref())?;
    let authority = CaOptions { audience: of.audience.clone(), ..CaOptions::new(place) };
    Ok(Ca::token_of(&authority, &of.namespace, &of.service_account, of.ttl)?)
}
