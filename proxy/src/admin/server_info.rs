//! `/server_info`, `/ready`, `/memory` and `/init_dump`.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{Params, Reply};
use super::sources::{ServerState, Sources};
use crate::config::Node;

/// The options the process was started with. **Source**: `envoy.admin.v3.CommandLineOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the command line's option of that name")]
pub struct CommandLineOptions {
    pub concurrency: u32,
    pub config_path: String,
    pub config_yaml: String,
    pub allow_unknown_static_fields: bool,
    pub reject_unknown_dynamic_fields: bool,
    pub ignore_unknown_dynamic_fields: bool,
    pub admin_address_path: String,
    pub local_address_ip_version: &'static str,
    pub log_level: String,
    pub component_log_level: String,
    pub log_format: String,
    pub log_path: String,
    pub service_cluster: String,
    pub service_node: String,
    pub service_zone: String,
    pub file_flush_interval: Duration,
    pub file_flush_min_size_kb: u32,
    pub drain_time: Duration,
    pub drain_strategy: &'static str,
    pub parent_shutdown_time: Duration,
    pub mode: &'static str,
}

impl Default for CommandLineOptions {
    /// Envoy's defaults, but for the flush interval, which is ours.
    fn default() -> Self {
        CommandLineOptions {
            concurrency: 1,
            config_path: String::new(),
            config_yaml: String::new(),
            allow_unknown_static_fields: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            admin_address_path: String::new(),
            local_address_ip_version: "v4",
            log_level: "info".to_owned(),
            component_log_level: String::new(),
            log_format: "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v".to_owned(),
            log_path: String::new(),
            service_cluster: String::new(),
            service_node: String::new(),
            service_zone: String::new(),
            file_flush_interval: Duration::from_secs(1),
            file_flush_min_size_kb: 64,
            drain_time: Duration::from_secs(600),
            drain_strategy: "Gradual",
            parent_shutdown_time: Duration::from_secs(900),
            mode: "Serve",
        }
    }
}

impl CommandLineOptions {
    fn json(&self) -> Value {
        json!({
            "base_id": "0",
            "concurrency": self.concurrency,
            "config_path": self.config_path,
            "config_yaml": self.config_yaml,
            "allow_unknown_static_fields": self.allow_unknown_static_fields,
            "reject_unknown_dynamic_fields": self.reject_unknown_dynamic_fields,
            "ignore_unknown_dynamic_fields": self.ignore_unknown_dynamic_fields,
            "admin_address_path": self.admin_address_path,
            "local_address_ip_version": self.local_address_ip_version,
            "log_level": self.log_level,
            "component_log_level": self.component_log_level,
            "log_format": self.log_format,
            "log_path": self.log_path,
            "service_cluster": self.service_cluster,
            "service_node": self.service_node,
            "service_zone": self.service_zone,
            "file_flush_interval": seconds(self.file_flush_interval),
            "drain_time": seconds(self.drain_time),
            "drain_strategy": self.drain_strategy,
            "parent_shutdown_time": seconds(self.parent_shutdown_time),
            "mode": self.mode,
            "disable_hot_restart": true,
            "restart_epoch": 0,
            "file_flush_min_size": self.file_flush_min_size_kb,
            // What has no meaning here, as Envoy has it where it is not set.
            "base_id_path": "",
            "use_dynamic_base_id": false,
            "skip_hot_restart_on_no_parent": false,
            "skip_hot_restart_parent_stats": false,
            "socket_path": "@envoy_domain_socket",
            "socket_mode": 0,
            "cpuset_threads": false,
            "disabled_extensions": [],
            "enable_core_dump": false,
            "enable_fine_grain_logging": false,
            "enable_mutex_tracing": false,
            "log_format_escaped": false,
            "log_stacktrace_single_entry": false,
            "skip_deprecated_logs": false,
            "stats_tag": [],
        })
    }
}

/// As protobuf's JSON has durations.
fn seconds(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        millis => format!("{}.{millis:03}s", duration.as_secs()),
    }
}

#[derive(Serialize)]
struct ServerInfoJson {
    version: String,
    state: &'static str,
    uptime_current_epoch: String,
    uptime_all_epochs: String,
    hot_restart_version: &'static str,
    command_line_options: Value,
    node: Value,
    hot_restart_initializing: bool,
}

fn node(node: &Node, version: &str) -> Value {
    let mut json = serde_json::Map::new();
    let mut set = |key: &str, value: Value| {
        let empty =
            matches!(&value, Value::String(s) if s.is_empty()) || matches!(&value, Value::Object(o) if o.is_empty());
        if !empty && !value.is_null() {
            json.insert(key.to_owned(), value);
        }
    };
    set("metadata", node.metadata.clone());
    let parts =
        [("region", &node.locality.region), ("zone", &node.locality.zone), ("sub_zone", &node.locality.sub_zone)];
    let locality = parts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), json!(v)));
    set("locality", Value::Object(locality.collect()));
    set("user_agent_name", json!("weft"));
    let version = version.split('/').nth(1).unwrap_or(version);
    let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let [major, minor, patch] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    let numbers = json!({"major_number": major, "minor_number": minor, "patch": patch});
    set("user_agent_build_version", json!({"version": numbers, "metadata": {}}));
    // There even where they are empty.
    for (key, value) in [
        ("id", json!(node.id)),
        ("cluster", json!(node.cluster)),
        ("client_features", json!([])),
        ("dynamic_parameters", json!({})),
        ("extensions", json!([])),
        ("listening_addresses", json!([])),
    ] {
        json.insert(key.to_owned(), value);
    }
    Value::Object(json)
}

pub(super) fn server_info(sources: &Sources, _: &Params) -> Reply {
    let info = (sources.server)();
    let uptime = format!("{}s", info.uptime.as_secs());
    Reply::json(&ServerInfoJson {
        node: node(&info.node, &info.version),
        version: info.version,
        state: info.state.as_str(),
        uptime_current_epoch: uptime.clone(),
        uptime_all_epochs: uptime,
        hot_restart_version: "disabled",
        command_line_options: info.options.json(),
        hot_restart_initializing: false,
    })
}

pub(super) fn ready(sources: &Sources, _: &Params) -> Reply {
    let info = (sources.server)();
    let state = info.state;
    let status = if state == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let waits = info.waits.map(|waits| format!("{waits}\n")).unwrap_or_default();
    Reply::error(status, format!("{}\n{waits}", state.as_str()))
}

#[derive(Serialize)]
struct MemoryJson {
    allocated: String,
    heap_size: String,
    pageheap_unmapped: String,
    pageheap_free: String,
    total_thread_cache: String,
    total_physical_bytes: String,
}

/// Envoy asks its allocator; here the kernel is asked: what is resident stands for what is allocated.
pub(super) fn memory(_: &Sources, _: &Params) -> Reply {
    let (resident, anonymous, data) = memory_of_process();
    Reply::json(&MemoryJson {
        allocated: anonymous.to_string(),
        heap_size: data.to_string(),
        pageheap_unmapped: "0".to_owned(),
        pageheap_free: "0".to_owned(),
        total_thread_cache: "0".to_owned(),
        total_physical_bytes: resident.to_string(),
    })
}

/// Bytes resident, resident and not of a file, and of data segments.
fn memory_of_process() -> (u64, u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    (kib("VmRSS"), kib("RssAnon"), kib("VmData"))
}

#[derive(Serialize)]
struct InitJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unready_targets_dumps: Vec<TargetsJson>,
}

#[derive(Serialize)]
struct TargetsJson {
    name: String,
    target_names: Vec<String>,
}

pub(super) fn init_dump(sources: &Sources, _: &Params) -> Reply {
    let dumps = (sources.unready)().into_iter().filter(|unready| !unready.targets.is_empty());
    let dumps = dumps.map(|unready| TargetsJson { name: unready.name, target_names: unready.targets });
    Reply::json(&InitJson { unready_targets_dumps: dumps.collect() })
}
