//! Which connections a filter chain takes, and that no two chains take the same.

use std::collections::HashMap;

use weft_proto::pb::envoy::config::listener::v3 as pb;

use super::address;
use super::ctx::{Ctx, Out};
use crate::config::{Cidr, FilterChain, FilterChainMatch, SourceType};

/// A filter chain match.
pub(super) fn filter_chain_match(c: &Ctx<'_>, m: &pb::FilterChainMatch, chain: &str) -> Out<FilterChainMatch> {
    use pb::filter_chain_match::ConnectionSourceType as T;
    if !m.address_suffix.is_empty() || m.suffix_len.is_some() {
        return c.refuse(format!("filter chain '{chain}' contains unimplemented fields"));
    }
    let prefix_ranges = c.each("prefix_ranges", &m.prefix_ranges, address::cidr);
    let direct_source = c.each("direct_source_prefix_ranges", &m.direct_source_prefix_ranges, address::cidr);
    let source_ranges = c.each("source_prefix_ranges", &m.source_prefix_ranges, address::cidr);
    let server_names = c.each("server_names", &m.server_names, |c, name| server_name(c, name));
    let source_ports = c.each("source_ports", &m.source_ports, |c, port| port_number(c, *port));
    let destination_port = c.opt("destination_port", &m.destination_port, |c, p| port_number(c, p.value));
    Ok(FilterChainMatch {
        destination_port: destination_port?,
        prefix_ranges: prefix_ranges?,
        server_names: server_names?,
        transport_protocol: m.transport_protocol.clone(),
        application_protocols: m.application_protocols.clone(),
        direct_source_prefix_ranges: direct_source?,
        source_type: match c.enumeration::<T>("source_type", m.source_type)? {
            T::Any => SourceType::Any,
            T::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            T::External => SourceType::External,
        },
        source_prefix_ranges: source_ranges?,
        source_ports: source_ports?,
    })
}

/// `*.` in front is a suffix; no other asterisk means anything.
fn server_name(c: &Ctx<'_>, name: &str) -> Out<String> {
    let partial = name.strip_prefix("*.").unwrap_or(name).contains('*');
    c.ensure(!partial, || r#"partial wildcards are not supported in "server_names""#.into())?;
    Ok(name.to_ascii_lowercase())
}

fn port_number(c: &Ctx<'_>, port: u32) -> Out<u16> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => c.refuse("value must be inside range [1, 65535]"),
    }
}

/// One combination of conditions. Two chains overlap where they share one.
type Leaf<'a> =
    (Option<u16>, Option<Cidr>, &'a str, &'a str, &'a str, Option<Cidr>, SourceType, Option<Cidr>, Option<u16>);

/// Refuses chains that take the same connections, in Envoy's words.
pub(super) fn no_overlap(c: &Ctx<'_>, listener: &str, chains: &[FilterChain]) -> Out<()> {
    let mut leaves: HashMap<Leaf<'_>, usize> = HashMap::new();
    let mut all = Ok(());
    for (i, chain) in chains.iter().enumerate() {
        // A value given twice within one chain overlaps with itself: Envoy refuses that too.
        let Some(first) = expand(&chain.matches).into_iter().find_map(|l| leaves.insert(l, i)) else { continue };
        let reason = match chains.get(first) {
            Some(other) if first != i && other.matches == chain.matches => {
                format!("filter chain '{}' has the same matching rules defined as '{}'", chain.name, other.name)
            }
            _ => "multiple filter chains with overlapping matching rules are defined".to_owned(),
        };
        let here = c.index("filter_chains", i);
        all = here.field("filter_chain_match").refuse(format!("error adding listener '{listener}': {reason}"));
    }
    all
}

fn expand(m: &FilterChainMatch) -> Vec<Leaf<'_>> {
    let mut leaves: Vec<Leaf<'_>> =
        vec![(m.destination_port, None, "", &m.transport_protocol, "", None, m.source_type, None, None)];
    multiply(&mut leaves, &m.prefix_ranges, |l, x| l.1 = Some(*x));
    // `*.example.com` and `.example.com` are the same suffix.
    multiply(&mut leaves, &m.server_names, |l, x| l.2 = x.strip_prefix('*').unwrap_or(x));
    multiply(&mut leaves, &m.application_protocols, |l, x| l.4 = x);
    multiply(&mut leaves, &m.direct_source_prefix_ranges, |l, x| l.5 = Some(*x));
    multiply(&mut leaves, &m.source_prefix_ranges, |l, x| l.7 = Some(*x));
    multiply(&mut leaves, &m.source_ports, |l, x| l.8 = Some(*x));
    leaves
}

/// Every leaf once for each value; no values: as it is.
fn multiply<'a, T>(leaves: &mut Vec<Leaf<'a>>, values: &'a [T], set: impl Fn(&mut Leaf<'a>, &'a T)) {
    if values.is_empty() {
        return;
    }
    *leaves = leaves
        .iter()
        .flat_map(|leaf| {
            values.iter().map(|v| {
                let mut leaf = *leaf;
                set(&mut leaf, v);
                leaf
            })
        })
        .collect();
}
