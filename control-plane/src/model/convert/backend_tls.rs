//! BackendTLSPolicies as DestinationRules.

use std::sync::Arc;

use super::rules::told;
use crate::model::config::{Config, DestinationRule, Problems};
use crate::model::host;
use crate::model::kinds::destination_rule::{
    ClientTls, ClientTlsMode, DestinationRuleSpec, PortTrafficPolicy, TrafficPolicy,
};
use crate::model::kinds::gateway_api::{BackendTlsPolicy, PolicyTarget};
use crate::model::kinds::service::Service;
use crate::model::kinds::virtual_service::PortSelector;
use crate::model::kinds::{Kind, Object};
use crate::model::objects::Objects;
use crate::model::visibility::Visibility;

/// Adds what BackendTLSPolicies say. A DestinationRule for the same host wins.
pub(super) fn convert(objects: &Objects, config: &mut Config, problems: &mut Problems) {
    for (object, policy) in objects.by_age::<BackendTlsPolicy>(Kind::BackendTlsPolicy) {
        let Some(tls) = client_tls(object, policy, objects, problems) else { continue };
        for target in &policy.spec.target_refs {
            let traffic_policy = match port_of(object, target, objects, problems) {
                None => continue,
                Some(None) => TrafficPolicy { tls: Some(tls.clone()), ..TrafficPolicy::default() },
                Some(Some(number)) => {
                    let port = Some(PortSelector { number, ..PortSelector::default() });
                    let of_port = PortTrafficPolicy { port, tls: Some(tls.clone()), ..PortTrafficPolicy::default() };
                    TrafficPolicy { port_level_settings: vec![of_port], ..TrafficPolicy::default() }
                }
            };
            let name = host::service_host(&target.name, &object.key.namespace);
            config.destination_rules.push(Arc::new(DestinationRule {
                key: object.key.clone(),
                host: name.as_str().into(),
                visibility: Visibility::Everywhere,
                spec: DestinationRuleSpec { host: name, traffic_policy: Some(traffic_policy), ..Default::default() },
            }));
        }
    }
}

/// The port a target names (`Some(None)`: all); `None` if the target does not exist.
fn port_of(object: &Object, target: &PolicyTarget, objects: &Objects, problems: &mut Problems) -> Option<Option<u32>> {
    let found = objects.get(Kind::Service, &object.key.namespace, &target.name).and_then(|of| of.of::<Service>());
    let is_service = target.kind.as_deref().is_none_or(|kind| kind == "Service");
    let port = |name: &String| {
        found
            .and_then(|of| of.spec.ports.iter().find(|port| port.name.as_ref() == Some(name)))
            .map(|port| port.port.into())
    };
    let refused = match (&target.section_name, found) {
        (_, found) if found.is_none() || !is_service => format!("Service {} does not exist", target.name),
        (None, _) => return Some(None),
        (Some(section), _) => match port(section) {
            Some(number) => return Some(Some(number)),
            None => format!("Service {} has no port {section:?}", target.name),
        },
    };
    told(object, target.at.0, "spec.targetRefs", refused, problems);
    None
}

fn client_tls(
    object: &Object,
    policy: &BackendTlsPolicy,
    objects: &Objects,
    problems: &mut Problems,
) -> Option<ClientTls> {
    let of = &policy.spec.validation;
    let names = of.subject_alt_names.iter().filter_map(|name| name.hostname.clone().or_else(|| name.uri.clone()));
    let mut subject_alt_names: Vec<String> = names.collect();
    if subject_alt_names.is_empty() {
        subject_alt_names.push(of.hostname.clone());
    }
    let mut tls = ClientTls {
        mode: ClientTlsMode::Simple,
        sni: Some(of.hostname.clone()),
        subject_alt_names,
        ..ClientTls::default()
    };
    match of.ca_certificate_refs.first() {
        None if of.well_known_ca_certificates.as_deref() == Some("System") => {}
        Some(reference) if objects.get(Kind::ConfigMap, &object.key.namespace, &reference.name).is_some() => {
            tls.credential_name = Some(format!("configmap://{}/{}", object.key.namespace, reference.name));
        }
        other => {
            let reason = match other {
                Some(reference) => format!("ConfigMap {} does not exist: the policy has no effect", reference.name),
                None => "names neither caCertificateRefs nor wellKnownCACertificates: System".to_owned(),
            };
            told(object, of.at.0, "spec.validation.caCertificateRefs", reason, problems);
            return None;
        }
    }
    Some(tls)
}
