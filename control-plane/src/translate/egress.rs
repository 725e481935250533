//! Where a Sidecar puts the listeners of its `egress`, and which of them share a port.
//!
//! As in Istio, an `egress` that names an address listens there, and its routes are named by the port. Where several of a Sidecar
//! are on one port in several places, each has routes of its own, named as its listener, or what one imports would be served at
//! the other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::view::View;
use crate::model::kinds::service_entry::EgressListener;

/// All addresses.
pub(super) const ANY: &str = "0.0.0.0";

/// A place that is not that of all services of a port.
pub(super) struct Place<'w> {
    /// An address, or `unix:///path`.
    pub(super) host: &'w str,
    /// Redirected connections are handed to it.
    pub(super) captured: bool,
}

impl Place<'_> {
    /// The name of a listener there.
    pub(super) fn listener(&self, port: u32) -> String {
        if self.host.starts_with("unix:") { self.host.to_owned() } else { format!("{}_{port}", self.host) }
    }
}

/// Where an `egress` listens, if it says so. `captured`: connections are redirected.
pub(super) fn place(of: &EgressListener, captured: bool) -> Option<Place<'_>> {
    let is_captured = of.capture_mode.is_captured(captured);
    let told = of.bind.as_deref().filter(|bind| bind.parse::<IpAddr>().is_ok() || bind.starts_with("unix:///"));
    if told.is_none() && is_captured == captured {
        return None;
    }
    let host = told.unwrap_or(if is_captured { ANY } else { "127.0.0.1" });
    Some(Place { host, captured: is_captured })
}

/// The `egress` of a Sidecar that are on one port and in one place.
pub(super) struct Group<'w> {
    /// Where; absent: where the services of a port are.
    pub(super) place: Option<Place<'w>>,
    /// Those it is of.
    pub(super) egress: Vec<&'w EgressListener>,
}

impl Group<'_> {
    /// The name of its route configuration.
    pub(super) fn table(&self, port: u32) -> String {
        self.place.as_ref().map_or_else(|| port.to_string(), |place| place.listener(port))
    }
}

/// The ports on which a Sidecar has several places, with these.
pub(super) fn shared_ports<'w>(view: &View<'w>, captured: bool) -> BTreeMap<u32, Vec<Group<'w>>> {
    let mut ports: BTreeMap<u32, Vec<Group<'w>>> = BTreeMap::new();
    for of in view.sidecar.into_iter().flat_map(|sidecar| &sidecar.spec.egress) {
        let Some(port) = of.port.as_ref().map(|port| u32::from(port.number)) else { continue };
        let place = place(of, captured);
        let groups = ports.entry(port).or_default();
        let host = |place: &Option<Place<'w>>| place.as_ref().map(|place| place.host);
        match groups.iter_mut().find(|group| host(&group.place) == host(&place)) {
            Some(group) => group.egress.push(of),
            None => groups.push(Group { place, egress: vec![of] }),
        }
    }
    ports.retain(|_, groups| groups.len() > 1);
    ports
}
