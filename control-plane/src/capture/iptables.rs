//! The rules for `iptables-restore` and `ip6tables-restore`, where there is no nftables.

use std::net::IpAddr;

use super::{INBOUND_SOURCE, Mode, Network, Networks, Rules};

/// The chains of the rules; nothing else is touched but the jumps to them.
pub const CHAINS: [(&str, &str, &str); 3] = [
    ("nat", "OUTPUT", "WEFT_OUTBOUND"),
    ("nat", "PREROUTING", "WEFT_INBOUND"),
    ("mangle", "PREROUTING", "WEFT_TPROXY"),
];

/// A family of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// For `iptables-restore`.
    V4,
    /// For `ip6tables-restore`.
    V6,
}

/// What makes the chains and fills them; jumps are added, so what was there has to be removed before.
#[must_use]
pub fn script(rules: &Rules, family: Family) -> String {
    let mut nat = vec!["*nat".to_owned(), ":WEFT_OUTBOUND - [0:0]".to_owned()];
    let mut after = vec!["-A OUTPUT -j WEFT_OUTBOUND".to_owned()];
    outbound(rules, family, &mut after);
    let mut mangle = Vec::new();
    if rules.mode == Mode::Redirect {
        nat.push(":WEFT_INBOUND - [0:0]".to_owned());
        after.push("-A PREROUTING -p tcp -j WEFT_INBOUND".to_owned());
        selected(rules, "WEFT_INBOUND", &format!("REDIRECT --to-ports {}", rules.inbound_port), &mut after);
    } else {
        mangle.extend(["*mangle", ":WEFT_TPROXY - [0:0]", "-A PREROUTING -p tcp -j WEFT_TPROXY"].map(str::to_owned));
        mangle.push("-A WEFT_TPROXY -i lo -j RETURN".to_owned());
        let mark = super::nft::MARK;
        mangle.push(format!("-A WEFT_TPROXY -p tcp -m socket --transparent -j MARK --set-mark {mark}"));
        mangle.push(format!("-A WEFT_TPROXY -p tcp -m mark --mark {mark} -j ACCEPT"));
        let verdict = format!("TPROXY --on-port {} --tproxy-mark {mark}", rules.inbound_port);
        selected(rules, "WEFT_TPROXY", &verdict, &mut mangle);
        mangle.push("COMMIT".to_owned());
    }
    nat.append(&mut after);
    nat.push("COMMIT".to_owned());
    nat.append(&mut mangle);
    nat.join("\n") + "\n"
}

fn outbound(rules: &Rules, family: Family, lines: &mut Vec<String>) {
    let chain = "-A WEFT_OUTBOUND";
    let (source, loopback, host) = match family {
        Family::V4 => (INBOUND_SOURCE[0], "127.0.0.0/8", "127.0.0.1/32"),
        Family::V6 => (INBOUND_SOURCE[1], "::1/128", "::1/128"),
    };
    let (uid, gid, port) = (rules.proxy_uid, rules.proxy_gid, rules.outbound_port);
    lines.push(format!("{chain} -o lo -s {source} -j RETURN"));
    for owner in [format!("--uid-owner {uid}"), format!("--gid-owner {gid}")] {
        lines.push(format!(
            "{chain} -o lo ! -d {host} -p tcp -m multiport ! --dports 53,15008 -m owner {owner} -j REDIRECT --to-ports {}",
            rules.inbound_port
        ));
        lines.push(format!("{chain} -m owner {owner} -j RETURN"));
    }
    if let Some(port) = rules.dns_port {
        lines.extend(["udp", "tcp"].map(|of| format!("{chain} -p {of} --dport 53 -j REDIRECT --to-ports {port}")));
    }
    lines.push(format!("{chain} ! -p tcp -j RETURN"));
    lines.push(format!("{chain} -o lo -j RETURN"));
    lines.push(format!("{chain} -d {loopback} -j RETURN"));
    lines.push(format!("{chain} -p tcp --dport {port} -j RETURN"));
    lines.extend(rules.exclude_outbound_ports.iter().map(|of| format!("{chain} -p tcp --dport {of} -j RETURN")));
    let of_family = |network: &&Network| matches!(network.address, IpAddr::V4(_)) == (family == Family::V4);
    lines.extend(
        rules.exclude_outbound.iter().filter(of_family).map(|network| format!("{chain} -d {network} -j RETURN")),
    );
    let redirect = format!("-j REDIRECT --to-ports {port}");
    lines.extend(rules.include_outbound_ports.iter().map(|of| format!("{chain} -p tcp --dport {of} {redirect}")));
    match &rules.include_outbound {
        Networks::All => lines.push(format!("{chain} -p tcp {redirect}")),
        Networks::Only(networks) => {
            let of_family = networks.iter().filter(of_family);
            lines.extend(of_family.map(|network| format!("{chain} -d {network} -p tcp {redirect}")));
        }
    }
}

fn selected(rules: &Rules, chain: &str, verdict: &str, lines: &mut Vec<String>) {
    lines.push(format!("-A {chain} -p tcp --dport {} -j RETURN", rules.inbound_port));
    lines.extend(rules.exclude_inbound_ports.iter().map(|port| format!("-A {chain} -p tcp --dport {port} -j RETURN")));
    match &rules.include_inbound_ports {
        None => lines.push(format!("-A {chain} -p tcp -j {verdict}")),
        Some(ports) => lines.extend(ports.iter().map(|port| format!("-A {chain} -p tcp --dport {port} -j {verdict}"))),
    }
}
