//! The proxy as a process: command line, log, configuration, and then the app.
//!
//! Runs on: the main thread, which becomes the control thread.

use std::process::ExitCode;

use crate::cli::{Args, DrainStrategy, Mode};
use crate::config::from_file::{self, LoadOptions};
use crate::config::from_xds::NodeOverrides;
use crate::mesh::Role;
use crate::{app, logging};

/// What has to come before everything else in the process.
pub fn prepare() {
    // A huge page is 2 MiB of memory for the first byte that is written into it: a small proxy would be half empty pages. First of all,
    // since what is touched before stays as it is. Where the
    // kernel has no such switch there is nothing to switch off.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Does what the command line says, and tells on standard error what keeps it from that.
#[must_use]
pub fn main(args: &Args) -> ExitCode {
    if args.version {
        println!("weft-proxy version: {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run(args) {
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
    let base = args.role.as_ref().map(Role::bootstrap).transpose()?;
    let (path, overlay) = (args.config_path.as_deref(), args.config_yaml.as_deref());
    let loaded = from_file::load_over(base.as_deref(), path, overlay, &options).map_err(|e| e.to_string())?;
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
        beside: args.role.as_ref().map(Role::beside).transpose()?.flatten(),
    };
    let built = app::build(loaded.bootstrap, &options).map_err(|e| e.to_string())?;
    match args.mode {
        Mode::Validate => println!("configuration OK"),
        Mode::InitOnly => {}
        Mode::Serve => app::run(built, &options).map_err(|e| format!("{e:#}"))?,
    }
    Ok(())
}
