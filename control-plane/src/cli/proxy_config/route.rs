//! Routes: a row for each route of each virtual host.

use serde_json::Value as Json;

use super::super::output::Table;
use super::{list, text};

/// How many domains of a virtual host a row shows.
const DOMAINS: usize = 2;

pub(super) fn table<'a>(configurations: impl Iterator<Item = &'a Json>) -> String {
    let mut table = Table::new(&["ROUTES", "VIRTUAL HOST", "DOMAINS", "MATCH", "DESTINATION"]);
    for configuration in configurations {
        for host in list(&configuration["virtual_hosts"]) {
            let name = text(&configuration["name"]).to_owned();
            for route in list(&host["routes"]) {
                let virtual_host = text(&host["name"]).to_owned();
                table.row([name.clone(), virtual_host, domains(host), criteria(&route["match"]), destination(route)]);
            }
        }
    }
    table.render()
}

fn domains(host: &Json) -> String {
    let domains = list(&host["domains"]);
    let shown: Vec<&str> = domains.iter().take(DOMAINS).map(text).collect();
    match domains.len().checked_sub(DOMAINS) {
        Some(more) if more > 0 => format!("{} + {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

fn criteria(wanted: &Json) -> String {
    let path = [("prefix", "*"), ("path", ""), ("path_separated_prefix", "/*")]
        .iter()
        .find_map(|(field, after)| wanted[*field].as_str().map(|path| format!("{path}{after}")));
    let regex = || wanted["safe_regex"]["regex"].as_str().map(|regex| format!("~ {regex}"));
    let mut parts = vec![path.or_else(regex).unwrap_or_else(|| "?".to_owned())];
    for (field, what) in [("headers", "header"), ("query_parameters", "query")] {
        parts.extend(list(&wanted[field]).iter().map(|one| format!("{what} {}", named(one))));
    }
    parts.join("; ")
}

/// A header or parameter with the text it is compared to, as far as that fits a cell.
fn named(wanted: &Json) -> String {
    let name = text(&wanted["name"]);
    let how = &wanted["string_match"];
    let plain = [("exact", "="), ("prefix", "=^"), ("suffix", "=$"), ("contains", "=~")];
    let plain = plain.iter().find_map(|(field, sign)| how[*field].as_str().map(|value| format!("{name}{sign}{value}")));
    plain
        .or_else(|| how["safe_regex"]["regex"].as_str().map(|regex| format!("{name}~{regex}")))
        .unwrap_or_else(|| name.to_owned())
}

/// Where a route sends to.
pub(super) fn destination(route: &Json) -> String {
    let action = &route["route"];
    let weighted = list(&action["weighted_clusters"]["clusters"]);
    if !weighted.is_empty() {
        return shares(weighted);
    }
    if let Some(cluster) = action["cluster"].as_str() {
        return cluster.to_owned();
    }
    if let Some(header) = action["cluster_header"].as_str() {
        return format!("cluster of header {header}");
    }
    if let Some(status) = route["direct_response"]["status"].as_u64() {
        return format!("answer {status}");
    }
    if route.get("redirect").is_some() {
        let redirect = &route["redirect"];
        let (host, path) = (text(&redirect["host_redirect"]), text(&redirect["path_redirect"]));
        return format!("redirect {host}{path}").trim_end().to_owned();
    }
    "-".to_owned()
}

/// Clusters with their weights.
pub(super) fn shares(weighted: &[Json]) -> String {
    let share = |one: &Json| format!("{} ({})", text(&one["name"]), one["weight"].as_u64().unwrap_or_default());
    weighted.iter().map(share).collect::<Vec<_>>().join(", ")
}
