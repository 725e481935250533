//! Labels as Istio has them. **Source**: Istio's "Standard Metrics".

use std::borrow::Cow;
use std::sync::LazyLock;

use super::{Edge, Kind, Outcome, Protocol, Reporter, Security, Workload};

/// A label and its value.
pub(super) type Label<'a> = (&'static str, Cow<'a, str>);

/// What stands for what is not known.
const UNKNOWN: &str = "unknown";

/// A peer of whom nothing is known.
static NOBODY: LazyLock<Workload> = LazyLock::new(Workload::default);

fn or<'a>(text: &'a str, word: &'a str) -> Cow<'a, str> {
    Cow::Borrowed(if text.is_empty() { word } else { text })
}

/// Labels of a series, in Istio's order.
pub(super) fn of<'a>(kind: Kind, edge: &Edge<'a>, outcome: &Outcome, own: &'a Workload) -> Vec<Label<'a>> {
    let mut labels = Vec::with_capacity(25);
    let mut push = |name, value| labels.push((name, value));
    let peer = edge.peer.unwrap_or(&NOBODY);
    let namespace = edge.peer_namespace();
    let here = (own, &*own.namespace, edge.own_principal);
    let there = (peer, namespace, edge.peer_principal);
    let ((from, from_ns, from_id), (to, to_ns, to_id)) = match edge.reporter {
        Reporter::Source => (here, there),
        Reporter::Destination => (there, here),
    };
    push("reporter", Cow::Borrowed(if edge.reporter == Reporter::Source { "source" } else { "destination" }));
    push("source_workload", or(&from.name, UNKNOWN));
    push("source_canonical_service", or(&from.canonical_name, UNKNOWN));
    push("source_canonical_revision", or(&from.canonical_revision, "latest"));
    push("source_workload_namespace", or(from_ns, UNKNOWN));
    push("source_principal", or(from_id, UNKNOWN));
    push("source_app", or(&from.app, UNKNOWN));
    push("source_version", or(&from.version, UNKNOWN));
    push("source_cluster", or(&from.cluster, UNKNOWN));
    push("destination_workload", or(&to.name, UNKNOWN));
    push("destination_workload_namespace", or(to_ns, UNKNOWN));
    push("destination_principal", or(to_id, UNKNOWN));
    push("destination_app", or(&to.app, UNKNOWN));
    push("destination_version", or(&to.version, UNKNOWN));
    // Who is called knows its own name where a caller knows none.
    let itself = if edge.reporter == Reporter::Destination { &*own.canonical_name } else { UNKNOWN };
    push("destination_service", or(edge.service.host, itself));
    push("destination_canonical_service", or(&to.canonical_name, UNKNOWN));
    push("destination_canonical_revision", or(&to.canonical_revision, "latest"));
    push("destination_service_name", or(edge.service.name, itself));
    let of_service = if edge.service.namespace.is_empty() { to_ns } else { edge.service.namespace };
    push("destination_service_namespace", or(of_service, UNKNOWN));
    push("destination_cluster", or(&to.cluster, UNKNOWN));
    if kind != Kind::Messages {
        ending(&mut push, edge, outcome);
    }
    labels
}

fn ending<'a>(push: &mut impl FnMut(&'static str, Cow<'a, str>), edge: &Edge<'a>, outcome: &Outcome) {
    let protocol = match outcome.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    };
    push("request_protocol", Cow::Borrowed(protocol));
    if outcome.protocol != Protocol::Tcp {
        push("response_code", Cow::Owned(outcome.code.to_string()));
        let status = outcome.grpc.filter(|_| outcome.protocol == Protocol::Grpc);
        push("grpc_response_status", Cow::Owned(status.map(|status| status.to_string()).unwrap_or_default()));
    }
    let flags: Vec<&str> = outcome.flags.names().map(|(short, _)| short).collect();
    push("response_flags", Cow::Owned(if flags.is_empty() { "-".to_owned() } else { flags.join(",") }));
    let security = match edge.security {
        Security::Unknown => UNKNOWN,
        Security::MutualTls => "mutual_tls",
        Security::None => "none",
    };
    push("connection_security_policy", Cow::Borrowed(security));
}
