//! Endpoints: a row for each address of each cluster.

use serde_json::Value as Json;

use super::super::output::Table;
use super::{address, list, or_dash, text};

pub(super) fn table<'a>(assignments: impl Iterator<Item = &'a Json>) -> String {
    let mut table = Table::new(&["ENDPOINT", "HEALTH", "WEIGHT", "PRIORITY", "LOCALITY", "CLUSTER"]);
    for assignment in assignments {
        for group in list(&assignment["endpoints"]) {
            for endpoint in list(&group["lb_endpoints"]) {
                table.row([
                    address(&endpoint["endpoint"]["address"]),
                    endpoint["health_status"].as_str().unwrap_or("UNKNOWN").to_owned(),
                    endpoint["load_balancing_weight"].as_u64().unwrap_or(1).to_string(),
                    group["priority"].as_u64().unwrap_or_default().to_string(),
                    locality(&group["locality"]),
                    text(&assignment["cluster_name"]).to_owned(),
                ]);
            }
        }
    }
    table.render()
}

fn locality(json: &Json) -> String {
    let parts = ["region", "zone", "sub_zone"].map(|part| text(&json[part]));
    or_dash(parts.join("/").trim_end_matches('/').to_owned())
}
