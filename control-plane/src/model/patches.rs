//! EnvoyFilters, with their values as the messages they are.
//!
//! A patch that cannot be read is left out and told; the others of its object work on.

use std::sync::Arc;

use weft_proto::convert::convert;
use weft_proto::document::{Data, Document, Entry, Node};
use weft_proto::problem::{Problem, Severity};
use weft_proto::schema::MessageType;

use super::config::Problems;
use super::kinds::destination_rule::WorkloadSelector;
use super::kinds::envoy_filter::{ApplyTo, ConfigPatch, EnvoyFilter as FilterObject, Operation, PatchMatch};
use super::kinds::{Kind, Object, ObjectKey};
use super::objects::Objects;

/// Patches of what is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvoyFilter {
    /// The object.
    pub key: ObjectKey,
    /// Which proxies.
    pub selector: Option<WorkloadSelector>,
    /// The patches, in their order.
    pub patches: Vec<Patch>,
}

/// A patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// What kind of thing it changes.
    pub apply_to: ApplyTo,
    /// Which of them.
    pub of: PatchMatch,
    /// How.
    pub operation: Operation,
    /// The encoded message to add or merge.
    pub value: Vec<u8>,
}

/// Every EnvoyFilter, by priority, then the oldest first.
pub(super) fn all(objects: &Objects, problems: &mut Problems) -> Vec<Arc<EnvoyFilter>> {
    let mut found = objects.by_age::<FilterObject>(Kind::EnvoyFilter);
    found.sort_by_key(|(_, filter)| filter.spec.priority);
    let mut made = Vec::new();
    for (object, filter) in found {
        let mut told = Vec::new();
        let indexed = filter.spec.config_patches.iter().enumerate();
        let patches = indexed.filter_map(|(index, of)| patch(object, index, of, &mut told)).collect();
        if !told.is_empty() {
            problems.entry(object.key.clone()).or_default().extend(told);
        }
        let selector = filter.spec.workload_selector.clone();
        made.push(Arc::new(EnvoyFilter { key: object.key.clone(), selector, patches }));
    }
    made
}

/// The message a patch's value is.
fn message_type(of: ApplyTo) -> Option<&'static str> {
    Some(match of {
        ApplyTo::Listener => "envoy.config.listener.v3.Listener",
        ApplyTo::FilterChain => "envoy.config.listener.v3.FilterChain",
        ApplyTo::NetworkFilter => "envoy.config.listener.v3.Filter",
        ApplyTo::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
        ApplyTo::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        ApplyTo::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
        ApplyTo::VirtualHost => "envoy.config.route.v3.VirtualHost",
        ApplyTo::HttpRoute => "envoy.config.route.v3.Route",
        ApplyTo::Cluster => "envoy.config.cluster.v3.Cluster",
        ApplyTo::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
        ApplyTo::Bootstrap | ApplyTo::Invalid => return None,
    })
}

fn patch(object: &Object, index: usize, of: &ConfigPatch, told: &mut Vec<Problem>) -> Option<Patch> {
    let path = format!("spec.configPatches[{index}]");
    let ty = message_type(of.apply_to).and_then(MessageType::find);
    let Some(ty) = ty else {
        let reason = "BOOTSTRAP and INVALID are not supported: the patch has no effect";
        told.push(object.problem(Severity::Unsupported, of.at.0, format!("{path}.applyTo"), reason));
        return None;
    };
    let needs_value = !matches!(of.patch.operation, Operation::Remove);
    let value = match (&of.patch.value, needs_value) {
        (Some(value), true) => {
            let mut root = value.clone();
            if add_version(&mut root) {
                let reason = "transport_api_version is missing, and Envoy refuses that: V3 is taken, there is no other";
                told.push(object.problem(Severity::Warning, value.at, format!("{path}.patch.value"), reason));
            }
            let document = Document { source: object.source.clone(), root, warnings: Vec::new() };
            let converted = convert(&document, ty);
            let before = told.len();
            told.extend(
                converted
                    .problems
                    .into_iter()
                    .map(|problem| Problem { path: format!("{path}.patch.value.{}", problem.path), ..problem }),
            );
            if told.iter().skip(before).any(|problem| problem.severity == Severity::Invalid) {
                return None;
            }
            converted.message.encode()
        }
        (None, true) => {
            let reason = "missing: there is nothing to add or merge";
            told.push(object.problem(Severity::Invalid, of.patch.at.0, format!("{path}.patch.value"), reason));
            return None;
        }
        (_, false) => Vec::new(),
    };
    Some(Patch { apply_to: of.apply_to, of: of.r#match.clone(), operation: of.patch.operation, value })
}

/// Says V3 where a rate limit service or `ext_authz` does not say which version is spoken. Whether it did.
fn add_version(node: &mut Node) -> bool {
    const FIELD: &str = "transport_api_version";
    let mut added = false;
    match &mut node.data {
        Data::List(items) => items.iter_mut().for_each(|item| added |= add_version(item)),
        Data::Map(entries) => {
            let authz = entries.iter().any(|entry| {
                &*entry.key == "@type" && matches!(&entry.value.data, Data::String(url) if url.ends_with(".ExtAuthz"))
            });
            for entry in entries.iter_mut() {
                added |= add_version(&mut entry.value);
                if &*entry.key == "rate_limit_service"
                    && let Data::Map(of_service) = &mut entry.value.data
                {
                    added |= say(of_service, FIELD);
                }
            }
            if authz {
                added |= say(entries, FIELD);
            }
        }
        Data::Null | Data::Bool(_) | Data::Number(_) | Data::String(_) => {}
    }
    added
}

fn say(entries: &mut Vec<Entry>, field: &str) -> bool {
    let Some(at) = entries.first().map(|entry| entry.at) else { return false };
    let missing = !entries.iter().any(|entry| super::read::is_key(field, &entry.key));
    if missing {
        let value = Node { at, data: Data::String("V3".into()) };
        entries.push(Entry { at, key: field.into(), value });
    }
    missing
}
