//! The rules as a table of nftables, for both families of IP at once.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{INBOUND_SOURCE, Mode, Network, Networks, Rules};

/// The table's name; nothing else is touched.
pub const TABLE: &str = "weft";
/// The mark of connections that are handed over with TPROXY (Istio's).
pub const MARK: u32 = 1337;

/// What removes the table, whether it is there or not.
#[must_use]
pub fn removal() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// What replaces the table by these rules, in one step.
#[must_use]
pub fn script(rules: &Rules) -> String {
    let mut text = removal();
    let _ = writeln!(text, "table inet {TABLE} {{");
    outbound(rules, &mut text);
    match rules.mode {
        Mode::Redirect => inbound(rules, &mut text),
        Mode::Tproxy => inbound_tproxy(rules, &mut text),
    }
    text.push_str("}\n");
    text
}

fn outbound(rules: &Rules, text: &mut String) {
    let Rules { outbound_port, inbound_port, proxy_uid: uid, proxy_gid: gid, .. } = rules;
    let mut lines = vec!["type nat hook output priority -100; policy accept;".to_owned()];
    for source in INBOUND_SOURCE {
        lines.push(format!("oifname \"lo\" {} saddr {source} return", family(source)));
    }
    // The workload calls itself by a service: what the proxy sends to the pod's own address comes in as anybody's would. With
    // TPROXY it would not be the kernel's to hand over.
    for (owner, id) in [("skuid", uid), ("skgid", gid)] {
        for own in ["ip daddr != 127.0.0.1", "ip6 daddr != ::1"] {
            lines.push(format!(
                "oifname \"lo\" meta {owner} {id} {own} tcp dport != {{ 53, 15008 }} redirect to :{inbound_port}"
            ));
        }
        lines.push(format!("meta {owner} {id} return"));
    }
    if let Some(port) = rules.dns_port {
        lines.push(format!("udp dport 53 redirect to :{port}"));
        lines.push(format!("tcp dport 53 redirect to :{port}"));
    }
    lines.push("meta l4proto != tcp return".to_owned());
    lines.push("oifname \"lo\" return".to_owned());
    lines.extend(["ip daddr 127.0.0.0/8 return".to_owned(), "ip6 daddr ::1 return".to_owned()]);
    let own = "of the proxy itself";
    lines.push(format!("tcp dport {outbound_port} return comment \"{own}\""));
    if let Some(ports) = set(&rules.exclude_outbound_ports) {
        lines.push(format!("tcp dport {ports} return"));
    }
    lines.extend(rules.exclude_outbound.iter().map(|network| format!("{} return", to(network))));
    if let Some(ports) = set(&rules.include_outbound_ports) {
        lines.push(format!("tcp dport {ports} redirect to :{outbound_port}"));
    }
    match &rules.include_outbound {
        Networks::All => lines.push(format!("meta l4proto tcp redirect to :{outbound_port}")),
        Networks::Only(networks) => lines.extend(
            networks.iter().map(|network| format!("{} meta l4proto tcp redirect to :{outbound_port}", to(network))),
        ),
    }
    chain("outbound", &lines, text);
}

fn inbound(rules: &Rules, text: &mut String) {
    let port = rules.inbound_port;
    let mut lines = vec!["type nat hook prerouting priority -100; policy accept;".to_owned()];
    selected(rules, &mut lines, &format!("redirect to :{port}"));
    chain("inbound", &lines, text);
}

fn inbound_tproxy(rules: &Rules, text: &mut String) {
    let port = rules.inbound_port;
    let mut lines = vec!["type filter hook prerouting priority -150; policy accept;".to_owned()];
    // What belongs to a connection that was handed over before.
    lines.push(format!("meta l4proto tcp socket transparent 1 meta mark set {MARK} accept"));
    lines.push("iifname \"lo\" return".to_owned());
    selected(rules, &mut lines, &format!("tproxy to :{port} meta mark set {MARK} accept"));
    chain("inbound", &lines, text);
}

/// What comes in on the ports that are captured.
fn selected(rules: &Rules, lines: &mut Vec<String>, verdict: &str) {
    lines.push("meta l4proto != tcp return".to_owned());
    lines.push(format!("tcp dport {} return comment \"of the proxy itself\"", rules.inbound_port));
    if let Some(ports) = set(&rules.exclude_inbound_ports) {
        lines.push(format!("tcp dport {ports} return"));
    }
    match &rules.include_inbound_ports {
        None => lines.push(format!("meta l4proto tcp {verdict}")),
        Some(ports) => lines.extend(set(ports).map(|ports| format!("tcp dport {ports} {verdict}"))),
    }
}

fn chain(name: &str, lines: &[String], text: &mut String) {
    let _ = writeln!(text, "  chain {name} {{");
    lines.iter().for_each(|line| {
        let _ = writeln!(text, "    {line}");
    });
    text.push_str("  }\n");
}

fn set(ports: &[u16]) -> Option<String> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    let list: Vec<_> = ports.iter().map(u16::to_string).collect();
    (!list.is_empty()).then(|| format!("{{ {} }}", list.join(", ")))
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "ip6" } else { "ip" }
}

fn to(network: &Network) -> String {
    let family = if matches!(network.address, IpAddr::V4(_)) { "ip" } else { "ip6" };
    format!("{family} daddr {network}")
}
