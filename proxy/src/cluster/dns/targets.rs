//! The names of a cluster, what they resolved to last, and the assignment that follows. No input or output.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, LookupError, Schedule};
use crate::config::{self, Address, Discovery, DnsOptions, Endpoint, LoadAssignment};

/// The state of a DNS cluster. A name that several endpoints share is asked for once.
pub struct Targets {
    config: Arc<config::Cluster>,
    options: DnsOptions,
    logical: bool,
    targets: Vec<Target>,
    index: HashMap<Arc<str>, usize>,
    /// What [`assignment_if_new`](Self::assignment_if_new) said last; at first a cluster has no hosts.
    assigned: LoadAssignment,
}

struct Target {
    name: Arc<str>,
    /// Sorted, each once; for a logical cluster the one in use.
    addresses: Vec<IpAddr>,
    answered: bool,
    schedule: Schedule,
}

/// What follows from an answer.
pub struct Next {
    /// The hosts, where they are others than before.
    pub assignment: Option<LoadAssignment>,
    /// After which to ask for the name again.
    pub wait: Duration,
    /// Whether it was no answer; what was known stays.
    pub failed: bool,
}

impl Targets {
    /// The names of `config`; `None` where it is not a DNS cluster.
    pub fn new(config: &Arc<config::Cluster>) -> Option<Targets> {
        let (options, logical) = match &config.discovery {
            Discovery::StrictDns(o) => (o.clone(), false),
            Discovery::LogicalDns(o) => (o.clone(), true),
            _ => return None,
        };
        let (mut targets, mut index) = (Vec::new(), HashMap::new());
        for endpoint in config.assignment.localities.iter().flat_map(|l| &l.endpoints) {
            let Some((Named::Name(name), _)) = named(&endpoint.address) else { continue };
            if !index.contains_key(name) {
                let name: Arc<str> = name.into();
                index.insert(name.clone(), targets.len());
                let schedule = Schedule::default();
                targets.push(Target { name, addresses: Vec::new(), answered: false, schedule });
            }
        }
        let mut assigned = config.assignment.clone();
        assigned.localities.iter_mut().for_each(|l| l.endpoints.clear());
        Some(Targets { config: config.clone(), options, logical, targets, index, assigned })
    }

    /// How names are to be resolved.
    pub fn options(&self) -> &DnsOptions {
        &self.options
    }

    /// The names, in the order of the indices that [`answered`](Self::answered) takes.
    pub fn names(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        self.targets.iter().map(|t| t.name.clone())
    }

    /// Whether each name was answered or failed at least once.
    pub fn all_answered(&self) -> bool {
        self.targets.iter().all(|t| t.answered)
    }

    /// Takes the answer for name `index`. A name without addresses leaves a strict cluster without its hosts, as in Envoy; a
    /// failure, and for a logical cluster no address, leaves what there is.
    pub fn answered(&mut self, index: usize, answer: Result<Answer, LookupError>, random: u64) -> Next {
        let Some(target) = self.targets.get_mut(index) else {
            return Next { assignment: None, wait: self.options.refresh, failed: true };
        };
        target.answered = true;
        let Ok(answer) = answer else {
            let wait = target.schedule.after_failure(&self.options, random);
            return Next { assignment: None, wait, failed: true };
        };
        let wait = target.schedule.after_success(&self.options, answer.ttl, random);
        if self.logical {
            // Names often list their addresses in another order each time. The address in use stays while it is listed, so
            // that its connections do too. (Envoy takes the first for new connections and keeps the old ones.)
            let stays = target.addresses.first().copied().filter(|a| answer.addresses.contains(a));
            if let Some(first) = stays.or(answer.addresses.first().copied()) {
                // The others are for connections that the first one does not take; in order, so that the same ones are equal.
                let mut others: Vec<IpAddr> = answer.addresses.into_iter().filter(|a| *a != first).collect();
                others.sort_unstable();
                others.dedup();
                target.addresses = std::iter::once(first).chain(others).collect();
            }
        } else {
            target.addresses = answer.addresses;
            target.addresses.sort_unstable();
            target.addresses.dedup();
        }
        Next { assignment: self.assignment_if_new(), wait, failed: false }
    }

    /// The assignment of what is known, if it is not the one returned last.
    pub fn assignment_if_new(&mut self) -> Option<LoadAssignment> {
        let now = self.assignment();
        if self.assigned == now {
            return None;
        }
        self.assigned = now.clone();
        Some(now)
    }

    fn assignment(&self) -> LoadAssignment {
        let mut assignment = self.config.assignment.clone();
        for locality in &mut assignment.localities {
            let endpoints = std::mem::take(&mut locality.endpoints);
            locality.endpoints = endpoints.iter().flat_map(|e| self.resolved(e)).collect();
        }
        assignment
    }

    /// An endpoint for each address of `endpoint`.
    fn resolved(&self, endpoint: &Endpoint) -> Vec<Endpoint> {
        let Some((named, port)) = named(&endpoint.address) else { return Vec::new() };
        let (name, addresses) = match named {
            Named::Literal(ip) => (ip.to_string(), vec![ip]),
            Named::Name(name) => {
                let target = self.index.get(name).and_then(|i| self.targets.get(*i));
                (name.to_owned(), target.map(|t| t.addresses.clone()).unwrap_or_default())
            }
        };
        let hostname = if endpoint.hostname.is_empty() { name } else { endpoint.hostname.clone() };
        let at = |ip: &IpAddr| Address::Ip(SocketAddr::new(*ip, port));
        let one = |ip: &IpAddr, more: &[IpAddr]| Endpoint {
            address: at(ip),
            additional_addresses: more.iter().map(at).collect(),
            hostname: hostname.clone(),
            ..endpoint.clone()
        };
        match addresses.split_first() {
            Some((first, more)) if self.logical => vec![one(first, more)],
            _ => addresses.iter().map(|ip| one(ip, &[])).collect(),
        }
    }
}

enum Named<'a> {
    Literal(IpAddr),
    Name(&'a str),
}

/// What an address names; `None` of what DNS has nothing to do with.
fn named(address: &Address) -> Option<(Named<'_>, u16)> {
    match address {
        Address::Ip(a) => Some((Named::Literal(a.ip()), a.port())),
        Address::Host { name, port } => Some((name.parse().map_or(Named::Name(name), Named::Literal), *port)),
        Address::Pipe { .. } => None,
    }
}
