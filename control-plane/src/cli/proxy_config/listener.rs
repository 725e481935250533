//! Listeners: a row for each filter chain.

use serde_json::Value as Json;

use super::super::output::Table;
use super::{address, list, or_dash, text};

pub(super) fn table<'a>(listeners: impl Iterator<Item = &'a Json>) -> String {
    let mut table = Table::new(&["LISTENER", "ADDRESS", "MATCH", "DESTINATION"]);
    for listener in listeners {
        let name = text(&listener["name"]).to_owned();
        let at = address(&listener["address"]);
        if let Some(api) = listener.get("api_listener") {
            table.row([name.clone(), "api".to_owned(), "ALL".to_owned(), http(&api["api_listener"])]);
        }
        let default = listener.get("default_filter_chain").map(|chain| ("default".to_owned(), chain));
        let chains =
            list(&listener["filter_chains"]).iter().map(|chain| (criteria(&chain["filter_chain_match"]), chain));
        for (criteria, chain) in chains.chain(default) {
            table.row([name.clone(), at.clone(), criteria, destination(chain)]);
        }
    }
    table.render()
}

/// What a filter chain is for.
fn criteria(wanted: &Json) -> String {
    let mut parts = Vec::new();
    if let Some(port) = wanted["destination_port"].as_u64() {
        parts.push(format!("port {port}"));
    }
    for (field, what) in
        [("prefix_ranges", "to"), ("direct_source_prefix_ranges", "from"), ("source_prefix_ranges", "from")]
    {
        for range in list(&wanted[field]) {
            parts.push(format!(
                "{what} {}/{}",
                text(&range["address_prefix"]),
                range["prefix_len"].as_u64().unwrap_or(0)
            ));
        }
    }
    for (field, what) in [("server_names", "SNI"), ("application_protocols", "ALPN")] {
        let names: Vec<&str> = list(&wanted[field]).iter().map(text).collect();
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(",")));
        }
    }
    if let Some(protocol) = wanted["transport_protocol"].as_str() {
        parts.push(format!("transport {protocol}"));
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

/// Where the last filter of a chain sends to.
fn destination(chain: &Json) -> String {
    let Some(last) = list(&chain["filters"]).last() else { return "-".to_owned() };
    let config = &last["typed_config"];
    let kind = text(&config["@type"]);
    if kind.ends_with("HttpConnectionManager") {
        http(config)
    } else if kind.ends_with("TcpProxy") {
        tcp(config)
    } else {
        or_dash(text(&last["name"]).to_owned())
    }
}

fn http(config: &Json) -> String {
    if let Some(name) = config["rds"]["route_config_name"].as_str() {
        return format!("Route: {name}");
    }
    let hosts = list(&config["route_config"]["virtual_hosts"]);
    match hosts.iter().flat_map(|host| list(&host["routes"])).next() {
        Some(route) => format!("Inline route: {}", super::route::destination(route)),
        None => "Inline route: none".to_owned(),
    }
}

fn tcp(config: &Json) -> String {
    let weighted = list(&config["weighted_clusters"]["clusters"]);
    if weighted.is_empty() {
        return format!("Cluster: {}", text(&config["cluster"]));
    }
    format!("Cluster: {}", super::route::shares(weighted))
}
