//! The `weft` binary.

use std::process::ExitCode;

use clap::Parser;
use weft::cli::Cli;
use weft_proxy::allocator::Allocator;

// As in weft-proxy, which this program is, too.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    weft_proxy::process::prepare();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
