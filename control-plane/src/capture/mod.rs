//! Capture: rules of the kernel that lead a workload's connections to the proxy beside it.
//!
//! Owns the rules and how they come into the kernel. [`Rules`] is plain data; [`nft`] writes it as a table of nftables, which is
//! replaced as a whole, so that doing it twice is doing it once. It must run in the pod's network namespace.

mod apply;
pub mod iptables;
pub mod nft;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use apply::{Backend, apply, remove};

/// Istio's port for connections out of the workload.
pub const OUTBOUND: u16 = 15001;
/// Istio's port for connections into the workload.
pub const INBOUND: u16 = 15006;
/// Istio's user and group of the proxy.
pub const PROXY_ID: u32 = 1337;
/// The source of the proxy's connections to its workload (Istio's addresses): those are not captured again.
pub const INBOUND_SOURCE: [&str; 2] = ["127.0.0.6", "::6"];
/// Ports of the proxy itself, which lead to it anyway: admin, metrics, health.
pub const OWN_PORTS: [u16; 5] = [15000, 15008, 15020, 15021, 15090];

/// How connections into the workload reach the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Mode {
    /// By a changed destination; the proxy asks the kernel for the one that was meant.
    #[default]
    Redirect,
    /// With both addresses as they were, so that the workload sees its caller's; needs `CAP_NET_ADMIN` in the proxy.
    Tproxy,
}

/// What is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How connections into the workload reach the proxy.
    pub mode: Mode,
    /// The proxy's port for connections out.
    pub outbound_port: u16,
    /// The proxy's port for connections in.
    pub inbound_port: u16,
    /// Whose connections are left alone: the proxy's.
    pub proxy_uid: u32,
    /// Its group.
    pub proxy_gid: u32,
    /// Destinations of connections out that are captured.
    pub include_outbound: Networks,
    /// Those that are not.
    pub exclude_outbound: Vec<Network>,
    /// Ports of connections out that are captured wherever they go, beside those networks.
    pub include_outbound_ports: Vec<u16>,
    /// Ports of connections out that are not captured.
    pub exclude_outbound_ports: Vec<u16>,
    /// Ports of connections in that are captured; `None`: all.
    pub include_inbound_ports: Option<Vec<u16>>,
    /// Ports of connections in that are not.
    pub exclude_inbound_ports: Vec<u16>,
    /// Where queries for names are led, if they are.
    pub dns_port: Option<u16>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mode: Mode::Redirect,
            outbound_port: OUTBOUND,
            inbound_port: INBOUND,
            proxy_uid: PROXY_ID,
            proxy_gid: PROXY_ID,
            include_outbound: Networks::All,
            exclude_outbound: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_inbound_ports: None,
            exclude_inbound_ports: OWN_PORTS.to_vec(),
            dns_port: None,
        }
    }
}

/// Some networks, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Networks {
    /// `*`.
    All,
    /// These.
    Only(Vec<Network>),
}

/// A network: `10.0.0.0/8`; an address is one of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its address.
    pub address: std::net::IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let bad = || format!("{text:?} is no network; write it as 10.0.0.0/8 or fd00::/8");
        let address: std::net::IpAddr = address.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| bad()))?;
        if prefix > longest { Err(bad()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Networks {
    type Err = String;

    /// `*`, or networks with commas between them; empty: none.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self::Only)
    }
}
