//! The proxy binary: command line, log, configuration, and then the app.

mod allocator;

use std::process::ExitCode;

use clap::Parser;
use weft_proxy::cli::{Args, DrainStrategy, Mode};
use weft_proxy::config::from_file::{self, LoadOptions};
use weft_proxy::config::from_xds::NodeOverrides;
use weft_proxy::{app, logging};

// Measured against the system's allocator: less time in small allocations, and idle pages go back.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    // A huge page is 2 MiB of memory for the first byte that is written into it: a small proxy would be half empty pages. First of all,
    // since what is touched before stays as it is. Where the
    // kernel has no such switch there is nothing to switch off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let args = Args::parse();
    if args.version {
        println!("weft-proxy version: {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let apply_levels = logging::init(args)?;
    let options = LoadOptions {
        node: NodeOverrides {
            id: args.service_node.clone(),
            cluster: args.service_cluster.clone(),
            zone: args.service_zone.clone(),
        },
        allow_unknown_fields: args.allow_unknown_static_fields,
    };
    let loaded = from_file::load(args.config_path.as_deref(), args.config_yaml.as_deref(), &options)
        .map_err(|e| e.to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let options = app::Options {
        concurrency: args.workers(),
        drain_time: args.drain_time(),
        drain_gradual: args.drain_strategy == DrainStrategy::Gradual,
        admin_address_path: args.admin_address_path.clone(),
        xds_cache: args.xds_cache.clone(),
        command_line: args.describe(),
        flush: args.flush(),
        apply_levels,
        load_secrets: from_file::load_secrets,
    };
    let built = app::build(loaded.bootstrap, &options).map_err(|e| e.to_string())?;
    match args.mode {
        Mode::Validate => println!("configuration OK"),
        Mode::InitOnly => {}
        Mode::Serve => app::run(built, &options).map_err(|e| format!("{e:#}"))?,
    }
    Ok(())
}
