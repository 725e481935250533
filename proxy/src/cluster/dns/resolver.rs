//! Who answers for names: `/etc/hosts`, then the system's or the cluster's name servers.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use crate::config::{DnsFamily, DnsOptions};

/// Answers for names.
pub trait Resolver {
    /// The addresses of `name`. That it has none is an answer.
    fn lookup(&self, name: &str) -> impl Future<Output = Result<Answer, LookupError>> + Send;
}

/// What a name resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// In the order they came in.
    pub addresses: Vec<IpAddr>,
    /// The lowest of the records; `None` where they have none.
    pub ttl: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupError {
    /// Not a name.
    #[error("'{name}' is not a DNS name: {reason}")]
    Name {
        /// As configured.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name servers did not answer, or not usefully.
    #[error("{0}")]
    Servers(#[source] Box<NetError>),
}

/// The real resolver of one cluster. It keeps no answers: the refresh rate says how old they may become.
pub struct Names {
    family: DnsFamily,
    resolver: TokioResolver,
}

impl Names {
    /// A resolver as `options` has it. Without name servers, neither there nor in `/etc/resolv.conf`, one on this machine is
    /// asked, as the C library does.
    ///
    /// # Errors
    /// The resolver cannot be built.
    pub fn new(options: &DnsOptions) -> Result<Names, LookupError> {
        let (mut config, mut opts) = system_conf::read_system_conf().unwrap_or_else(|e| {
            tracing::debug!(error = %e, "no name servers of the system");
            let local = NameServerConfig::udp_and_tcp(std::net::Ipv4Addr::LOCALHOST.into());
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        });
        if !options.resolvers.is_empty() {
            let on = |mut c: ConnectionConfig, port| {
                c.port = port;
                c
            };
            config.name_servers = options
                .resolvers
                .iter()
                .map(|a| {
                    let both = vec![on(ConnectionConfig::udp(), a.port()), on(ConnectionConfig::tcp(), a.port())];
                    NameServerConfig::new(a.ip(), true, both)
                })
                .collect();
        }
        opts.cache_size = 0;
        opts.ip_strategy = match options.family {
            DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
            DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
            DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
            DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
            DnsFamily::All => LookupIpStrategy::Ipv6AndIpv4,
        };
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(opts);
        let resolver = builder.build().map_err(|e| LookupError::Servers(Box::new(e)))?;
        Ok(Names { family: options.family, resolver })
    }
}

impl Resolver for Names {
    async fn lookup(&self, name: &str) -> Result<Answer, LookupError> {
        let parsed =
            Name::from_utf8(name).map_err(|e| LookupError::Name { name: name.to_owned(), reason: e.to_string() })?;
        // Read anew each time, as a container's changes while it runs; a name it has in one family is not asked for in another.
        let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        let listed = from_hosts(&hosts, &parsed, self.family);
        if !listed.is_empty() {
            return Ok(Answer { addresses: listed, ttl: None });
        }
        match self.resolver.lookup_ip(parsed).await {
            Ok(found) => {
                let records = found.as_lookup().answers();
                let ttl = records.iter().filter(|r| r.data.ip_addr().is_some()).map(|r| r.ttl).min();
                let ttl = ttl.map(|s| Duration::from_secs(s.into()));
                Ok(Answer { addresses: found.iter().collect(), ttl })
            }
            Err(e) if is_empty(&e) => Ok(Answer::default()),
            Err(e) => Err(LookupError::Servers(Box::new(e))),
        }
    }
}

/// Whether a server said that there are no such records, in contrast to saying nothing.
fn is_empty(e: &NetError) -> bool {
    match e {
        NetError::Dns(DnsError::NoRecordsFound(n)) => {
            matches!(n.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
        }
        _ => false,
    }
}

/// The addresses of a name in a hosts file, by family.
fn from_hosts(hosts: &Hosts, name: &Name, family: DnsFamily) -> Vec<IpAddr> {
    let of = |kind| -> Vec<IpAddr> {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        found.map(|l| l.answers().iter().filter_map(|r| r.data.ip_addr()).collect()).unwrap_or_default()
    };
    choose(family, || of(RecordType::A), || of(RecordType::AAAA))
}

/// Which addresses a family stands for.
fn choose(family: DnsFamily, v4: impl Fn() -> Vec<IpAddr>, v6: impl Fn() -> Vec<IpAddr>) -> Vec<IpAddr> {
    let or = |first: Vec<IpAddr>, second: &dyn Fn() -> Vec<IpAddr>| if first.is_empty() { second() } else { first };
    match family {
        DnsFamily::Auto => or(v6(), &v4),
        DnsFamily::V4Only => v4(),
        DnsFamily::V6Only => v6(),
        DnsFamily::V4Preferred => or(v4(), &v6),
        DnsFamily::All => [v6(), v4()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::dns::tests::options;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn families_of_a_hosts_file() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf("127.0.0.1 both four\n::1 both\n".as_bytes()).unwrap();
        let of = |name: &str, family| from_hosts(&hosts, &Name::from_utf8(name).unwrap(), family);
        assert_eq!(of("both", DnsFamily::Auto), ips(&["::1"]));
        assert_eq!(of("Four", DnsFamily::Auto), ips(&["127.0.0.1"]));
        assert_eq!(of("both", DnsFamily::V4Only), ips(&["127.0.0.1"]));
        assert_eq!(of("both", DnsFamily::V4Preferred), ips(&["127.0.0.1"]));
        assert_eq!(of("both", DnsFamily::All), ips(&["::1", "127.0.0.1"]));
        assert_eq!(of("four", DnsFamily::V6Only), ips(&[]));
        assert_eq!(of("other", DnsFamily::All), ips(&[]));
    }

    #[tokio::test]
    async fn localhost_needs_no_server() {
        let names = Names::new(&DnsOptions { family: DnsFamily::V4Only, ..options() }).unwrap();
        assert_eq!(names.lookup("localhost").await.unwrap().addresses, ips(&["127.0.0.1"]));
    }
}
