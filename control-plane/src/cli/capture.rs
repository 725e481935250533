//! `weft capture`.

use anyhow::Result;
use clap::Args;

use crate::capture::iptables::{self, Family};
use crate::capture::{
    Backend, INBOUND, Mode, Network, Networks, OUTBOUND, OWN_PORTS, PROXY_ID, Rules, apply, nft, remove,
};

#[derive(Debug, Args)]
#[command(
    after_help = "It works on the network namespace it runs in: a pod's init container, or nsenter -n. Doing it twice is
doing it once; --remove takes back all of it and nothing else.

Examples:
  weft capture --dry-run
  weft capture --exclude-outbound-ports 3306 --exclude-outbound-ranges 169.254.169.254
  weft capture --remove"
)]
pub(super) struct Options {
    /// Print the rules and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take the rules away
    #[arg(long, conflicts_with = "dry_run")]
    remove: bool,
    /// What programs the kernel [default: nft where it is there, else iptables]
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// How connections into the workload reach the proxy
    #[arg(long, value_enum, default_value_t, env = "ISTIO_META_INTERCEPTION_MODE")]
    mode: Mode,
    /// The proxy's port for connections out
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = OUTBOUND)]
    outbound_port: u16,
    /// The proxy's port for connections in
    #[arg(short = 'z', long, value_name = "PORT", default_value_t = INBOUND)]
    inbound_port: u16,
    /// The proxy's user: its connections are left alone
    #[arg(short = 'u', long, value_name = "UID", default_value_t = PROXY_ID)]
    proxy_uid: u32,
    /// The proxy's group
    #[arg(short = 'g', long, value_name = "GID", default_value_t = PROXY_ID)]
    proxy_gid: u32,
    /// Networks to which connections are captured; * for all
    #[arg(short = 'i', long, value_name = "CIDR,…", default_value = "*")]
    include_outbound_ranges: Networks,
    /// Networks to which they are not
    #[arg(short = 'x', long, value_name = "CIDR,…", value_delimiter = ',')]
    exclude_outbound_ranges: Vec<Network>,
    /// Ports to which connections are captured wherever they go
    #[arg(short = 'q', long, value_name = "PORT,…", value_delimiter = ',')]
    include_outbound_ports: Vec<u16>,
    /// Ports to which they are not
    #[arg(short = 'o', long, value_name = "PORT,…", value_delimiter = ',')]
    exclude_outbound_ports: Vec<u16>,
    /// Ports on which connections in are captured; * for all
    #[arg(short = 'b', long, value_name = "PORT,…", default_value = "*")]
    include_inbound_ports: String,
    /// Ports on which they are not, beside the proxy's own
    #[arg(short = 'd', long, value_name = "PORT,…", value_delimiter = ',')]
    exclude_inbound_ports: Vec<u16>,
    /// Lead queries for names to this port of the proxy
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "15053")]
    dns: Option<u16>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let rules = rules(options)?;
    if options.dry_run {
        let backend = options.backend.unwrap_or_else(|| Backend::find().unwrap_or(Backend::Nft));
        match backend {
            Backend::Nft => print!("{}", nft::script(&rules)),
            Backend::Iptables => {
                print!("# iptables-restore --noflush\n{}", iptables::script(&rules, Family::V4));
                print!("# ip6tables-restore --noflush\n{}", iptables::script(&rules, Family::V6));
            }
        }
        return Ok(());
    }
    let backend = options.backend.map_or_else(Backend::find, Ok)?;
    if options.remove { remove(backend) } else { apply(&rules, backend) }
}

fn rules(options: &Options) -> Result<Rules> {
    let include_inbound_ports = match options.include_inbound_ports.trim() {
        "*" => None,
        list => {
            let ports = list.split(',').map(str::trim).filter(|port| !port.is_empty()).map(str::parse);
            Some(ports.collect::<Result<_, _>>().map_err(|_| {
                anyhow::anyhow!("--include-inbound-ports {list:?}: ports with commas between them, or *")
            })?)
        }
    };
    Ok(Rules {
        mode: options.mode,
        outbound_port: options.outbound_port,
        inbound_port: options.inbound_port,
        proxy_uid: options.proxy_uid,
        proxy_gid: options.proxy_gid,
        include_outbound: options.include_outbound_ranges.clone(),
        exclude_outbound: options.exclude_outbound_ranges.clone(),
        include_outbound_ports: options.include_outbound_ports.clone(),
        exclude_outbound_ports: options.exclude_outbound_ports.clone(),
        include_inbound_ports,
        exclude_inbound_ports: OWN_PORTS.iter().chain(&options.exclude_inbound_ports).copied().collect(),
        dns_port: options.dns,
    })
}
