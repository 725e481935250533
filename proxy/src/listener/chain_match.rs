//! Choosing a filter chain for a connection.
//!
//! Envoy's rules, which are peculiar: nine properties in a fixed order, each narrowing the chains that are left to those that
//! match it most specifically. There is no way back: chains that a step has dropped do not return when a later step leaves
//! none. Runs on: workers look up; the control thread builds.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Cidr, ConfigError, FilterChain, FilterChainMatch, SourceType};
use crate::stream_info::PeerAddr;

#[cfg(test)]
mod tests;

/// What is known of a connection when its filter chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnFacts<'a> {
    /// Where it was going, as restored by original destination or PROXY protocol.
    pub destination: &'a PeerAddr,
    /// SNI in lower case; empty: none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: &'a str,
    /// Offered or detected application protocols, in the client's order.
    pub application_protocols: &'a [String],
    /// The client as the socket has it.
    pub direct_source: &'a PeerAddr,
    /// The client as PROXY protocol has it.
    pub source: &'a PeerAddr,
}

/// The filter chains of a listener, arranged for look-up.
#[derive(Debug)]
pub struct FilterChainTable {
    ports: HashMap<u16, Ips<Names>>,
    /// The one chain that takes everything, if that is all there is.
    only: Option<usize>,
}

// One type per step, innermost last: what a step narrows to is the next one. An empty name and port 0 stand for "any".
type Names = HashMap<String, Transports>;
type Transports = HashMap<String, Protocols>;
type Protocols = HashMap<String, Ips<SourceTypes>>;
type SourceTypes = HashMap<SourceType, Ips<SourcePorts>>;
type SourcePorts = HashMap<u16, usize>;

/// The longest prefix that contains an address; `any` where there is none.
#[derive(Debug)]
struct Ips<T> {
    /// Longest first.
    ranges: Vec<(Cidr, T)>,
    any: Option<T>,
}

impl<T> Default for Ips<T> {
    fn default() -> Self {
        Ips { ranges: Vec::new(), any: None }
    }
}

impl<T: Default> Ips<T> {
    fn entry(&mut self, range: Option<Cidr>) -> &mut T {
        let Some(range) = range else { return self.any.get_or_insert_default() };
        let at = match self.ranges.iter().position(|(r, _)| *r == range) {
            Some(at) => at,
            None => {
                let at = self.ranges.partition_point(|(r, _)| r.prefix >= range.prefix);
                self.ranges.insert(at, (range, T::default()));
                at
            }
        };
        &mut self.ranges[at].1
    }

    fn find(&self, address: &PeerAddr) -> Option<&T> {
        // Envoy takes this address for what has none, such as a Unix socket.
        let ip = address.ip().unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST));
        self.ranges.iter().find(|(r, _)| r.contains(ip)).map(|(_, t)| t).or(self.any.as_ref())
    }
}

impl FilterChainTable {
    /// Arranges chains; what is found is an index into `chains`. The default filter chain is not one of them.
    ///
    /// # Errors
    /// Two chains match alike, or a server name is a partial wildcard.
    pub fn build(chains: &[FilterChain]) -> Result<Self, ConfigError> {
        let mut table = FilterChainTable { ports: HashMap::new(), only: None };
        for (i, chain) in chains.iter().enumerate() {
            let at = format!("filter_chains[{i}].filter_chain_match");
            if let Some(same) = chains[..i].iter().find(|c| c.matches == chain.matches) {
                let reason =
                    format!("filter chain '{}' has the same matching rules defined as '{}'", chain.name, same.name);
                return Err(ConfigError::at(at, reason));
            }
            let mut names = Vec::new();
            for name in &chain.matches.server_names {
                if name.contains('*') && !name.starts_with("*.") {
                    let reason = r#"partial wildcards are not supported in "server_names""#;
                    return Err(ConfigError::at(format!("{at}.server_names"), reason));
                }
                // A wildcard is found by the part from its first dot on.
                names.push(name.strip_prefix('*').unwrap_or(name).to_owned());
            }
            table.add(i, &chain.matches, &names).map_err(|()| {
                ConfigError::at(at, "multiple filter chains with overlapping matching rules are defined")
            })?;
        }
        if let [chain] = chains
            && chain.matches == FilterChainMatch::default()
        {
            table.only = Some(0);
        }
        Ok(table)
    }

    /// Enters a chain under every combination of what it matches.
    fn add(&mut self, chain: usize, m: &FilterChainMatch, names: &[String]) -> Result<(), ()> {
        let port = self.ports.entry(m.destination_port.unwrap_or(0)).or_default();
        for range in or_any(&m.prefix_ranges) {
            let by_name = port.entry(range);
            for name in or_empty(names) {
                let by_transport = by_name.entry(name.to_owned()).or_default();
                let by_protocol = by_transport.entry(m.transport_protocol.clone()).or_default();
                for protocol in or_empty(&m.application_protocols) {
                    let by_direct_source = by_protocol.entry(protocol.to_owned()).or_default();
                    for range in or_any(&m.direct_source_prefix_ranges) {
                        let by_type = by_direct_source.entry(range);
                        add_source(by_type.entry(m.source_type).or_default(), chain, m)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The index of the chain for a connection; `None`: the default filter chain, or none.
    ///
    /// ```
    /// use weft_proxy::config::{DownstreamTransport, FilterChain, FilterChainMatch};
    /// use weft_proxy::listener::chain_match::{ConnFacts, FilterChainTable};
    /// use weft_proxy::stream_info::PeerAddr;
    ///
    /// let chain = |names: &[&str]| FilterChain {
    ///     name: String::new(),
    ///     matches: FilterChainMatch {
    ///         server_names: names.iter().map(|n| n.to_string()).collect(),
    ///         ..FilterChainMatch::default()
    ///     },
    ///     filters: Vec::new(),
    ///     transport: DownstreamTransport::Plaintext,
    ///     handshake_timeout: None,
    /// };
    /// let table = FilterChainTable::build(&[chain(&["a.example"]), chain(&["*.example"])]).unwrap();
    /// let (client, own) = (PeerAddr::Pipe("".into()), PeerAddr::Ip("192.0.2.1:443".parse().unwrap()));
    /// let facts = |server_name| ConnFacts {
    ///     destination: &own,
    ///     server_name,
    ///     transport_protocol: "tls",
    ///     application_protocols: &[],
    ///     direct_source: &client,
    ///     source: &client,
    /// };
    /// assert_eq!(table.find(&facts("a.example")), Some(0));
    /// assert_eq!(table.find(&facts("b.example")), Some(1));
    /// assert_eq!(table.find(&facts("example.org")), None);
    /// ```
    pub fn find(&self, c: &ConnFacts<'_>) -> Option<usize> {
        if self.only.is_some() {
            return self.only;
        }
        // A port that is named drops all chains that name none, even for an address of no interest.
        let by_ip = c.destination.port().and_then(|p| self.ports.get(&p)).or_else(|| self.ports.get(&0))?;
        let by_transport = find_name(by_ip.find(c.destination)?, c.server_name)?;
        let by_protocol = by_transport.get(c.transport_protocol).or_else(|| by_transport.get(""))?;
        let offered = c.application_protocols.iter().find_map(|p| by_protocol.get(p));
        let by_type = offered.or_else(|| by_protocol.get(""))?.find(c.direct_source)?;
        let kind = if is_local(c) { SourceType::SameIpOrLoopback } else { SourceType::External };
        let by_port = by_type.get(&kind).or_else(|| by_type.get(&SourceType::Any))?.find(c.source)?;
        by_port.get(&c.source.port().unwrap_or(0)).or_else(|| by_port.get(&0)).copied()
    }
}

fn add_source(by_source: &mut Ips<SourcePorts>, chain: usize, m: &FilterChainMatch) -> Result<(), ()> {
    for range in or_any(&m.source_prefix_ranges) {
        let by_port = by_source.entry(range);
        let ports = if m.source_ports.is_empty() { &[0][..] } else { &m.source_ports };
        for port in ports {
            if by_port.insert(*port, chain).is_some() {
                return Err(());
            }
        }
    }
    Ok(())
}

/// The exact name, the longest wildcard, or the chains without names.
fn find_name<'a>(names: &'a Names, name: &str) -> Option<&'a Transports> {
    if let Some(found) = names.get(name) {
        return Some(found);
    }
    // Neither a leading nor a trailing dot begins a suffix.
    let dots = name.bytes().enumerate().filter(|(i, b)| *b == b'.' && *i > 0 && i + 1 < name.len());
    dots.map(|(i, _)| &name[i..]).find_map(|suffix| names.get(suffix)).or_else(|| names.get(""))
}

/// From this host, as Envoy sees it: of IPv4's loopback network only 127.0.0.1 counts.
fn is_local(c: &ConnFacts<'_>) -> bool {
    match c.source.ip() {
        None => true,
        Some(ip) => {
            ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST || c.destination.ip().is_some_and(|d| d == ip)
        }
    }
}

fn or_any(ranges: &[Cidr]) -> impl Iterator<Item = Option<Cidr>> {
    ranges.iter().copied().map(Some).chain(ranges.is_empty().then_some(None))
}

fn or_empty(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().map(String::as_str).chain(names.is_empty().then_some(""))
}
