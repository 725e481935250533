//! The command line: Envoy's own.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::access_log::FlushOptions;
use crate::admin::CommandLineOptions;
use crate::mesh::Role;

/// A small and fast L4/L7 proxy that takes Envoy's configuration.
#[derive(Debug, Parser)]
#[command(
    name = "weft-proxy",
    disable_version_flag = true,
    after_help = "Examples:\n  weft-proxy -c envoy.yaml                     run an Envoy v3 bootstrap\n  weft-proxy -c envoy.yaml --mode validate     check it and start nothing\n  weft-proxy -c envoy.yaml --config-yaml 'admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}'"
)]
pub struct Args {
    /// Bootstrap file: YAML, or JSON if its name ends in .json
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,
    /// Bootstrap as a YAML text, merged over --config-path
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,
    /// What to do with the configuration
    #[arg(long, value_enum, default_value = "serve")]
    pub mode: Mode,
    /// Worker threads [default: the CPU limit of the cgroup, else the CPUs]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Log level: trace, debug, info, warning, error, critical, off
    #[arg(short = 'l', long, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Levels of single components, as name:level,name:level
    #[arg(long, value_name = "LEVELS")]
    pub component_log_level: Option<String>,
    /// Log format: `json`, or anything else for text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log to a file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// Node id
    #[arg(long, value_name = "ID")]
    pub service_node: Option<String>,
    /// Cluster this node belongs to
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Zone this node runs in
    #[arg(long, value_name = "ZONE")]
    pub service_zone: Option<String>,
    /// Longest drain, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub drain_time_s: u64,
    /// How connections are asked to leave while draining
    #[arg(long, value_enum, default_value = "gradual")]
    pub drain_strategy: DrainStrategy,
    /// Accepted for compatibility: there is no hot restart
    #[arg(long, value_name = "SECONDS")]
    pub parent_shutdown_time_s: Option<u64>,
    /// Write the admin address to this file
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,
    /// Warn about unknown and unsupported fields of static configuration instead of refusing them
    #[arg(long)]
    pub allow_unknown_static_fields: bool,
    /// Refuse unknown fields of dynamic configuration
    #[arg(long)]
    pub reject_unknown_dynamic_fields: bool,
    /// Write access logs at least this often, in milliseconds [default: 1000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub file_flush_interval_msec: Option<u64>,
    /// Write an access log as soon as this much of it waits, in KiB [default: 64]
    #[arg(long, value_name = "KB")]
    pub file_flush_min_size_kb: Option<u32>,
    /// Accepted for compatibility
    #[arg(long, value_name = "N")]
    pub base_id: Option<u32>,
    /// Accepted for compatibility
    #[arg(long)]
    pub use_dynamic_base_id: bool,
    /// Keep the last good discovered configuration, secrets included, in this directory of this proxy alone, and start from it
    /// where the management server is away
    #[arg(long, value_name = "DIR")]
    pub xds_cache: Option<PathBuf>,
    /// Print the version
    #[arg(long)]
    pub version: bool,
    /// What the proxy is in a mesh: its bootstrap follows from that, and -c and --config-yaml are merged over it
    #[command(subcommand)]
    pub role: Option<Role>,
    /// Options of Envoy's that have no meaning here and are accepted
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Envoy's options about hot restart and its own internals: accepted, so that a command line need not be rewritten.
#[derive(Debug, clap::Args)]
#[allow(missing_docs, reason = "each is Envoy's option of that name")]
pub struct Accepted {
    #[arg(long, hide = true)]
    pub disable_hot_restart: bool,
    #[arg(long, hide = true)]
    pub skip_hot_restart_on_no_parent: bool,
    #[arg(long, hide = true)]
    pub skip_hot_restart_parent_stats: bool,
    #[arg(long, hide = true, value_name = "N")]
    pub restart_epoch: Option<u32>,
    #[arg(long, hide = true, value_name = "PATH")]
    pub base_id_path: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    pub socket_path: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    pub socket_mode: Option<String>,
    #[arg(long, hide = true)]
    pub cpuset_threads: bool,
    #[arg(long, hide = true)]
    pub enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    pub enable_core_dump: bool,
    #[arg(long, hide = true)]
    pub log_format_escaped: bool,
    #[arg(long, hide = true)]
    pub ignore_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    pub skip_deprecated_logs: bool,
    #[arg(long, hide = true, value_name = "V")]
    pub local_address_ip_version: Option<String>,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mode {
    /// Check it and run
    Serve,
    /// Check it, start nothing
    Validate,
    /// Check it and build everything, then exit
    InitOnly,
}

/// How connections are asked to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// An increasing share of answers asks
    Gradual,
    /// Every answer asks at once
    Immediate,
}

impl Args {
    /// Longest drain.
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s)
    }

    /// When access logs are written.
    pub fn flush(&self) -> FlushOptions {
        let defaults = FlushOptions::default();
        FlushOptions {
            bytes: self.file_flush_min_size_kb.map_or(defaults.bytes, |kb| (kb as usize).saturating_mul(1024)),
            interval: self.file_flush_interval_msec.map_or(defaults.interval, Duration::from_millis),
        }
    }

    /// The level filter of the log: Envoy's words as this program's.
    ///
    /// # Errors
    /// A word that is no level.
    pub fn level_filter(&self) -> Result<String, String> {
        let mut filter = level(&self.log_level)?.to_owned();
        for part in self.component_log_level.iter().flat_map(|l| l.split(',')).filter(|p| !p.is_empty()) {
            let (name, word) = part
                .split_once(':')
                .ok_or_else(|| format!("--component-log-level: {part:?} is not of the form component:level"))?;
            filter.push_str(&format!(",weft_proxy::{name}={}", level(word)?));
        }
        Ok(filter)
    }

    /// The command line as `/server_info` shows it.
    pub fn describe(&self) -> CommandLineOptions {
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let path = |o: &Option<PathBuf>| o.as_ref().map_or_else(String::new, |p| p.display().to_string());
        let defaults = CommandLineOptions::default();
        CommandLineOptions {
            concurrency: u32::try_from(self.workers()).unwrap_or(u32::MAX),
            config_path: path(&self.config_path),
            config_yaml: text(&self.config_yaml),
            allow_unknown_static_fields: self.allow_unknown_static_fields,
            reject_unknown_dynamic_fields: self.reject_unknown_dynamic_fields,
            admin_address_path: path(&self.admin_address_path),
            log_level: self.log_level.clone(),
            component_log_level: text(&self.component_log_level),
            log_format: self.log_format.clone().unwrap_or_else(|| defaults.log_format.clone()),
            log_path: path(&self.log_path),
            service_cluster: text(&self.service_cluster),
            service_node: text(&self.service_node),
            service_zone: text(&self.service_zone),
            drain_time: self.drain_time(),
            drain_strategy: if self.drain_strategy == DrainStrategy::Gradual { "Gradual" } else { "Immediate" },
            file_flush_interval: self.flush().interval,
            file_flush_min_size_kb: self.file_flush_min_size_kb.unwrap_or(defaults.file_flush_min_size_kb),
            parent_shutdown_time: self
                .parent_shutdown_time_s
                .map_or(defaults.parent_shutdown_time, Duration::from_secs),
            mode: match self.mode {
                Mode::Serve => "Serve",
                Mode::Validate => "Validate",
                Mode::InitOnly => "InitOnly",
            },
            ..defaults
        }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.concurrency.filter(|n| *n > 0).unwrap_or_else(cpus)
    }
}

fn level(word: &str) -> Result<&'static str, String> {
    Ok(match word {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return Err(format!("{word:?} is no log level; use trace, debug, info, warning, error, critical or off")),
    })
}

/// CPUs this process may use: the cgroup's quota (v2, v1) rounded up, bounded by the CPUs of its affinity mask.
fn cpus() -> usize {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    quota().map_or(available, |q| q.clamp(1, available))
}

fn quota() -> Option<usize> {
    let read = |p: &str| std::fs::read_to_string(p).ok();
    let (quota, period) = if let Some(text) = read("/sys/fs/cgroup/cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
    } else {
        let quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")?.trim().parse::<i64>().ok()?;
        let period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")?.trim().parse::<u64>().ok()?;
        (u64::try_from(quota).ok()?, period)
    };
    (period > 0).then(|| usize::try_from(quota.div_ceil(period)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_flags_are_taken() {
        let a = Args::try_parse_from([
            "weft-proxy",
            "-c",
            "x.yaml",
            "--concurrency",
            "2",
            "-l",
            "warning",
            "--component-log-level",
            "http:debug,upstream:off",
            "--mode",
            "init_only",
            "--drain-strategy",
            "immediate",
            "--use-dynamic-base-id",
            "--base-id",
            "3",
            "--parent-shutdown-time-s",
            "5",
            "--file-flush-interval-msec",
            "20",
        ])
        .unwrap();
        assert_eq!((a.workers(), a.mode, a.drain_strategy), (2, Mode::InitOnly, DrainStrategy::Immediate));
        assert_eq!(a.level_filter().unwrap(), "warn,weft_proxy::http=debug,weft_proxy::upstream=off");
        assert_eq!((a.flush().interval, a.flush().bytes), (Duration::from_millis(20), 64 << 10));
        let bad = Args::try_parse_from(["weft-proxy", "-l", "loud"]).unwrap();
        assert!(bad.level_filter().unwrap_err().contains("loud"));
    }
}
