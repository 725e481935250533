//! What is known of the discovered virtual hosts of some routes: versions, and who has which domain.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::{ConfigSource, RouteConfig, VirtualHost};
use crate::http::route::Hosts;
use crate::xds::mux::Resource;
use crate::xds::needs;
use crate::xds::state::{Failure, Loaded};

/// Discovered virtual hosts of a route configuration.
pub(in crate::xds) struct Vhds {
    pub(in crate::xds) source: ConfigSource,
    /// By name of the resource.
    pub(in crate::xds) hosts: BTreeMap<String, Host>,
    /// What was refused since, by name.
    pub(in crate::xds) errors: BTreeMap<String, Failure>,
    /// Domains of the routes' own hosts.
    own: BTreeSet<String>,
    /// Which resource has a domain, by the newest versions.
    domains: HashMap<String, String>,
}

/// A discovered virtual host.
#[derive(Default)]
pub(in crate::xds) struct Host {
    /// In force, or to be when its routes are.
    pub(in crate::xds) active: Option<Version>,
    /// Waits for clusters.
    pub(in crate::xds) waiting: Option<Version>,
}

/// A version of a host.
pub(in crate::xds) struct Version {
    pub(in crate::xds) loaded: Loaded,
    pub(in crate::xds) config: Arc<VirtualHost>,
    /// Other names that it answers for.
    pub(in crate::xds) aliases: Vec<String>,
    /// Clusters that it names.
    pub(in crate::xds) clusters: BTreeSet<String>,
}

impl Version {
    pub(super) fn new(config: VirtualHost, loaded: Loaded, aliases: Vec<String>) -> Self {
        let clusters = needs::host_clusters(&config).into_iter().map(str::to_owned).collect();
        Version { loaded, config: Arc::new(config), aliases, clusters }
    }

    fn is(&self, resource: &Resource) -> bool {
        self.loaded.bytes == resource.body.value && self.aliases == resource.aliases
    }
}

impl Host {
    /// The version that was accepted last.
    pub(in crate::xds) fn newest(&self) -> Option<&Version> {
        self.waiting.as_ref().or(self.active.as_ref())
    }
}

impl Vhds {
    /// None yet, of these routes.
    pub(super) fn new(source: ConfigSource, routes: &RouteConfig) -> Self {
        Vhds { source, hosts: BTreeMap::new(), errors: BTreeMap::new(), own: own(routes), domains: HashMap::new() }
    }

    /// The routes are others, and may have these hosts.
    pub(super) fn belongs_to(&mut self, routes: &RouteConfig) {
        self.own = own(routes);
    }

    /// A domain that other routes have of their own, and a discovered host has already.
    pub(in crate::xds) fn conflict_with(&self, routes: &RouteConfig) -> Option<String> {
        own(routes).into_iter().find(|domain| self.domains.contains_key(domain))
    }

    /// A domain of a host that leads elsewhere.
    pub(super) fn conflict<'h>(&self, resource: &str, host: &'h VirtualHost) -> Option<&'h str> {
        let taken = |domain: &String| {
            self.own.contains(domain) || self.domains.get(domain).is_some_and(|owner| owner != resource)
        };
        host.domains.iter().find(|domain| taken(domain)).map(String::as_str)
    }

    /// Whether the newest version is this.
    pub(super) fn has(&self, resource: &Resource) -> bool {
        self.hosts.get(&resource.name).and_then(Host::newest).is_some_and(|version| version.is(resource))
    }

    /// Whether a host in force has exactly this domain.
    pub(super) fn serves(&self, domain: &str) -> bool {
        let host = self.domains.get(domain).and_then(|resource| self.hosts.get(resource));
        host.and_then(|host| host.active.as_ref()).is_some_and(|v| v.config.domains.iter().any(|d| d == domain))
    }

    /// A newer version is accepted: it waits.
    pub(super) fn accept(&mut self, resource: &str, version: Version) {
        self.free(resource);
        let domains = version.config.domains.iter();
        self.domains.extend(domains.map(|domain| (domain.clone(), resource.to_owned())));
        self.hosts.entry(resource.to_owned()).or_default().waiting = Some(version);
    }

    /// What waited is in force; what is.
    pub(super) fn activate(&mut self, resource: &str) -> Option<&Version> {
        let host = self.hosts.get_mut(resource)?;
        host.active = Some(host.waiting.take()?);
        host.active.as_ref()
    }

    /// A host is gone.
    pub(super) fn remove(&mut self, resource: &str) -> Option<Host> {
        self.free(resource);
        self.hosts.remove(resource)
    }

    /// The newest version of a host has no domain any more.
    fn free(&mut self, resource: &str) {
        let Some(version) = self.hosts.get(resource).and_then(Host::newest) else { return };
        for domain in &version.config.domains {
            if self.domains.get(domain).is_some_and(|owner| owner == resource) {
                self.domains.remove(domain);
            }
        }
    }

    /// Hosts in force.
    pub(in crate::xds) fn active(&self) -> Hosts {
        let active = |(name, host): (&String, &Host)| Some((name.clone(), host.active.as_ref()?.config.clone()));
        self.hosts.iter().filter_map(active).collect()
    }
}

fn own(routes: &RouteConfig) -> BTreeSet<String> {
    routes.virtual_hosts.iter().flat_map(|host| host.domains.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn host(domains: &[&str]) -> VirtualHost {
        VirtualHost { domains: domains.iter().map(|d| (*d).into()).collect(), ..VirtualHost::default() }
    }

    fn version(domains: &[&str]) -> Version {
        let loaded = Loaded {
            bytes: bytes::Bytes::new(),
            version: String::new(),
            at: std::time::SystemTime::UNIX_EPOCH,
            ignored: Vec::new(),
            cached: false,
        };
        Version::new(host(domains), loaded, Vec::new())
    }

    #[test]
    fn a_domain_leads_to_one_host() {
        let routes = RouteConfig { virtual_hosts: vec![host(&["own"])], ..RouteConfig::default() };
        let source = ConfigSource { from: Source::Ads, initial_fetch_timeout: None };
        let mut vhds = Vhds::new(source, &routes);
        vhds.accept("a", version(&["a"]));
        assert_eq!(vhds.conflict("b", &host(&["b", "own"])), Some("own"));
        assert_eq!(vhds.conflict("b", &host(&["b", "a"])), Some("a"));
        assert_eq!(vhds.conflict("a", &host(&["a", "b"])), None, "it has it already");
        assert!(!vhds.serves("a"), "it waits");
        assert!(vhds.activate("a").is_some() && vhds.serves("a"));
        // What is on its way has its domains, and what it replaces serves until then.
        vhds.accept("a", version(&["b"]));
        assert_eq!((vhds.conflict("c", &host(&["a"])), vhds.conflict("c", &host(&["b"]))), (None, Some("b")));
        assert_eq!(vhds.active().len(), 1);
        let other = RouteConfig { virtual_hosts: vec![host(&["b"])], ..RouteConfig::default() };
        assert_eq!(vhds.conflict_with(&other).as_deref(), Some("b"));
        assert!(vhds.remove("a").is_some());
        assert_eq!(vhds.conflict("c", &host(&["a", "b"])), None);
    }
}
