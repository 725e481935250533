//! Clusters, their names taken apart where they have Istio's form.

use serde_json::Value as Json;

use super::super::output::Table;
use super::{or_dash, text};

pub(super) fn table<'a>(clusters: impl Iterator<Item = &'a Json>) -> String {
    let mut table = Table::new(&["SERVICE", "PORT", "SUBSET", "DIRECTION", "TYPE", "BALANCING", "TLS"]);
    for cluster in clusters {
        let name = Name::of(text(&cluster["name"]));
        let tls = cluster.get("transport_socket").or_else(|| cluster.get("transport_socket_matches"));
        table.row([
            name.service.to_owned(),
            or_dash(name.port.to_owned()),
            or_dash(name.subset.to_owned()),
            or_dash(name.direction.to_owned()),
            kind(cluster).to_owned(),
            balancing(cluster).to_owned(),
            if tls.is_some() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.sorted().render()
}

/// `outbound|9080|v1|reviews.default.svc.cluster.local`.
struct Name<'a> {
    direction: &'a str,
    port: &'a str,
    subset: &'a str,
    service: &'a str,
}

impl<'a> Name<'a> {
    fn of(name: &'a str) -> Self {
        let mut parts = name.splitn(4, '|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(direction), Some(port), Some(subset), Some("")) => Self { direction, port, subset, service: name },
            (Some(direction), Some(port), Some(subset), Some(service)) => Self { direction, port, subset, service },
            _ => Self { direction: "", port: "", subset: "", service: name },
        }
    }
}

fn kind(cluster: &Json) -> &str {
    match text(&cluster["type"]) {
        "" => cluster["cluster_type"]["name"].as_str().unwrap_or("STATIC"),
        kind => kind,
    }
}

fn balancing(cluster: &Json) -> &str {
    match text(&cluster["lb_policy"]) {
        "" => "ROUND_ROBIN",
        policy => policy,
    }
}
