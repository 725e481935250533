//! The `weft` binary.

use std::process::ExitCode;

use clap::Parser;

/// Weft's control plane and its tools.
#[derive(Parser)]
#[command(name = "weft", version)]
struct Cli {}

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    ExitCode::SUCCESS
}
