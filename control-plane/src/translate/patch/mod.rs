//! EnvoyFilters: patches of what was generated, in their order.
//!
//! What a patch does not find it leaves alone; what does not decode any more after a patch stays as it was.

mod filters;
mod routes;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::transport_socket::ConfigType as SocketConfig;
use weft_proto::pb::envoy::config::core::v3::{TrafficDirection, TypedExtensionConfig};
use weft_proto::pb::envoy::config::listener::v3::Listener;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;

use super::view::View;
use crate::model::kinds::ObjectKey;
use crate::model::kinds::envoy_filter::{ApplyTo, ClusterMatch, Operation, PatchContext};
use crate::model::patches::{EnvoyFilter, Patch};
use crate::node::ProxyKind;
use crate::resource::ResourceType;

/// What can be patched.
#[derive(Default)]
pub(super) struct Generated {
    pub(super) clusters: Vec<Cluster>,
    pub(super) listeners: Vec<Listener>,
    pub(super) tables: Vec<RouteConfiguration>,
    pub(super) extensions: Vec<TypedExtensionConfig>,
    /// Which EnvoyFilters have changed what.
    pub(super) patched: BTreeMap<(ResourceType, String), BTreeSet<ObjectKey>>,
}

impl Generated {
    fn note<S: Into<String>>(&mut self, ty: ResourceType, names: impl IntoIterator<Item = S>, by: &ObjectKey) {
        for name in names {
            self.patched.entry((ty, name.into())).or_default().insert(by.clone());
        }
    }
}

/// Applies every EnvoyFilter that is for this proxy: those of the root namespace first.
pub(super) fn apply(view: &View<'_>, generated: &mut Generated) {
    for (by, patch) in patches(view) {
        one(view.proxy.kind, by, patch, generated);
    }
}

/// The same for clusters of some services, where nothing else is made with them.
pub(super) fn apply_to_clusters(view: &View<'_>, generated: &mut Generated) {
    for (by, patch) in patches(view).filter(|(_, patch)| patch.apply_to == ApplyTo::Cluster) {
        one(view.proxy.kind, by, patch, generated);
    }
}

/// The same for what the workload accepts. What is added beside nothing in particular is not: it is where the rest is.
pub(super) fn apply_to_own(view: &View<'_>, generated: &mut Generated) {
    let beside = |(_, patch): &(&ObjectKey, &Patch)| {
        let whole = matches!(patch.apply_to, ApplyTo::Cluster | ApplyTo::Listener | ApplyTo::ExtensionConfig);
        !(whole && matches!(patch.operation, Operation::Add | Operation::InsertFirst))
    };
    for (by, patch) in patches(view).filter(beside) {
        one(view.proxy.kind, by, patch, generated);
    }
}

fn patches<'w>(view: &View<'w>) -> impl Iterator<Item = (&'w ObjectKey, &'w Patch)> {
    let config = view.world.config();
    let root = config.mesh.root_namespace();
    let own = &view.proxy.namespace;
    let selects = |of: &EnvoyFilter| of.selector.as_ref().is_none_or(|selector| selector.matches(view.labels));
    let all = || config.envoy_filters.iter().filter(|of| selects(of));
    let in_root = all().filter(|of| &*of.key.namespace == root);
    let in_own = all().filter(|of| *of.key.namespace == **own && &*of.key.namespace != root);
    let found = in_root.chain(in_own).flat_map(|of| of.patches.iter().map(|patch| (&of.key, patch)));
    found.collect::<Vec<_>>().into_iter()
}

fn one(kind: ProxyKind, by: &ObjectKey, patch: &Patch, generated: &mut Generated) {
    let context = patch.of.context;
    match patch.apply_to {
        ApplyTo::Cluster => {
            let named = clusters(kind, patch, &mut generated.clusters);
            generated.note(ResourceType::Cluster, named, by);
        }
        ApplyTo::Listener => {
            // What is added says by itself which traffic it is for.
            let fits = |listener: &Listener| {
                in_context(kind, context, is_inbound(listener)) && filters::names(patch, listener)
            };
            if patch.operation != Operation::Add || added_here(kind, context) {
                let named = touched(&generated.listeners, patch, fits, |listener| &listener.name);
                in_list(&mut generated.listeners, patch, fits, merged);
                generated.note(ResourceType::Listener, named, by);
            }
        }
        ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter | ApplyTo::ListenerFilter => {
            let fits = |listener: &Listener| {
                in_context(kind, context, is_inbound(listener)) && filters::names(patch, listener)
            };
            let named = changed(&mut generated.listeners, fits, |of| &of.name, |of| filters::apply(patch, of));
            generated.note(ResourceType::Listener, named, by);
        }
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
            let here = in_context(kind, context, false);
            let named = changed(&mut generated.tables, |_| here, |of| &of.name, |of| routes::apply(patch, of));
            generated.note(ResourceType::Route, named, by);
            let fits = |listener: &Listener| in_context(kind, context, is_inbound(listener));
            let inline = |of: &mut Listener| filters::for_inline_tables(of, |table| routes::apply(patch, table));
            let named = changed(&mut generated.listeners, fits, |of| &of.name, inline);
            generated.note(ResourceType::Listener, named, by);
        }
        ApplyTo::ExtensionConfig => {
            if patch.operation == Operation::Add && added_here(kind, context) {
                let added = TypedExtensionConfig::decode(patch.value.as_slice()).ok();
                generated.note(ResourceType::Extension, added.iter().map(|of| of.name.clone()), by);
                generated.extensions.extend(added);
            }
        }
        ApplyTo::Bootstrap | ApplyTo::Invalid => {}
    }
}

/// Changes those of a list that fit; the names of those that are others now.
fn changed<M: Clone + PartialEq>(
    list: &mut [M],
    fits: impl Fn(&M) -> bool,
    name: impl Fn(&M) -> &String,
    mut change: impl FnMut(&mut M),
) -> Vec<String> {
    let mut names = Vec::new();
    for item in list.iter_mut().filter(|item| fits(item)) {
        let before = item.clone();
        change(item);
        if *item != before {
            names.push(name(item).clone());
        }
    }
    names
}

/// The names of those that an operation on a list is about: what it adds, else what fits.
fn touched<M: Message + Default>(
    list: &[M],
    patch: &Patch,
    fits: impl Fn(&M) -> bool,
    name: impl Fn(&M) -> &String,
) -> Vec<String> {
    match patch.operation {
        Operation::Add | Operation::InsertFirst | Operation::InsertBefore | Operation::InsertAfter => {
            M::decode(patch.value.as_slice()).iter().map(|of| name(of).clone()).collect()
        }
        _ => list.iter().filter(|item| fits(item)).map(|item| name(item).clone()).collect(),
    }
}

fn is_inbound(listener: &Listener) -> bool {
    listener.traffic_direction == TrafficDirection::Inbound as i32
}

/// Whether traffic of this proxy and direction is meant.
fn in_context(kind: ProxyKind, context: PatchContext, inbound: bool) -> bool {
    match (context, kind) {
        (PatchContext::Any, _) => true,
        (PatchContext::Gateway, ProxyKind::Gateway) => true,
        (PatchContext::SidecarInbound, ProxyKind::Sidecar) => inbound,
        (PatchContext::SidecarOutbound, ProxyKind::Sidecar | ProxyKind::Grpc) => !inbound,
        _ => false,
    }
}

/// Whether something without a direction is added at this proxy.
fn added_here(kind: ProxyKind, context: PatchContext) -> bool {
    in_context(kind, context, true) || in_context(kind, context, false)
}

/// Patches clusters; the names of those it is about.
fn clusters(kind: ProxyKind, patch: &Patch, all: &mut Vec<Cluster>) -> Vec<String> {
    let context = patch.of.context;
    if patch.operation == Operation::Add {
        let added = Cluster::decode(patch.value.as_slice()).ok().filter(|_| added_here(kind, context));
        let names = added.iter().map(|cluster| cluster.name.clone()).collect();
        all.extend(added);
        return names;
    }
    let fits = |cluster: &Cluster| {
        let inbound = cluster.name.starts_with("inbound|") || cluster.name.starts_with("Inbound");
        in_context(kind, context, inbound) && patch.of.cluster.as_ref().is_none_or(|of| cluster_fits(of, &cluster.name))
    };
    let names = touched(all, patch, fits, |cluster| &cluster.name);
    in_list(all, patch, fits, merge_cluster);
    names
}

/// A transport socket of the same name keeps what the patch does not say.
fn merge_cluster(base: &Cluster, over: &[u8]) -> Option<Cluster> {
    let mut made = merged(base, over)?;
    let before = base.transport_socket.as_ref();
    if let (Some(before), Some(after)) = (before, made.transport_socket.as_mut())
        && before.name == after.name
        && let (Some(SocketConfig::TypedConfig(before)), Some(SocketConfig::TypedConfig(after))) =
            (&before.config_type, &mut after.config_type)
    {
        *after = filters::merge_any(before, after);
    }
    Some(made)
}

fn cluster_fits(of: &ClusterMatch, name: &str) -> bool {
    let mut parts = name.split('|').skip(1);
    let (port, subset, host) = (parts.next(), parts.next(), parts.next());
    of.name.as_deref().is_none_or(|wanted| wanted == name)
        && of.port_number.is_none_or(|wanted| port.and_then(|port| port.parse().ok()) == Some(wanted))
        && of.subset.as_deref().is_none_or(|wanted| subset == Some(wanted))
        && of.service.as_deref().is_none_or(|wanted| host == Some(wanted))
}

/// A message with another one merged over it: what both set is the other's, lists are joined.
fn merged<M: Message + Default>(base: &M, over: &[u8]) -> Option<M> {
    let mut bytes = base.encode_to_vec();
    bytes.extend_from_slice(over);
    M::decode(bytes.as_slice()).ok()
}

/// One operation on a list.
fn in_list<M: Message + Default>(
    list: &mut Vec<M>,
    patch: &Patch,
    fits: impl Fn(&M) -> bool,
    merge: impl Fn(&M, &[u8]) -> Option<M>,
) {
    let value = || M::decode(patch.value.as_slice()).ok();
    let first = list.iter().position(&fits);
    match patch.operation {
        Operation::Invalid => {}
        Operation::Merge => {
            for item in list.iter_mut().filter(|item| fits(item)) {
                if let Some(made) = merge(item, &patch.value) {
                    *item = made;
                }
            }
        }
        Operation::Remove => list.retain(|item| !fits(item)),
        Operation::Replace => {
            for item in list.iter_mut().filter(|item| fits(item)) {
                if let Some(made) = value() {
                    *item = made;
                }
            }
        }
        Operation::Add => list.extend(value()),
        Operation::InsertFirst => insert(list, 0, value()),
        Operation::InsertBefore => {
            if let Some(at) = first {
                insert(list, at, value());
            }
        }
        Operation::InsertAfter => {
            if let Some(at) = first {
                insert(list, at + 1, value());
            }
        }
    }
}

fn insert<M>(list: &mut Vec<M>, at: usize, value: Option<M>) {
    if let Some(value) = value {
        list.insert(at, value);
    }
}
