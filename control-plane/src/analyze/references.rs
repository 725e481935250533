//! References that lead nowhere: hosts, ports, subsets, gateways, Secrets.

use weft_proto::problem::{Position, Severity};

use super::Lint;
use crate::model::config::GatewayRef;
use crate::model::host;
use crate::model::kinds::Kind;
use crate::model::kinds::destination_rule::DestinationRule;
use crate::model::kinds::gateway::IstioGateway;
use crate::model::kinds::meta::contains_all;
use crate::model::kinds::service_entry::Sidecar;
use crate::model::kinds::virtual_service::{Destination, VirtualService};
use crate::model::service::Service;

pub(super) fn check(lint: &mut Lint<'_>) {
    let object = lint.object;
    if let Some(routes) = object.of::<VirtualService>() {
        virtual_service(lint, routes);
    } else if let Some(rule) = object.of::<DestinationRule>() {
        destination_rule(lint, rule);
    } else if let Some(gateway) = object.of::<IstioGateway>() {
        gateway_secrets(lint, gateway);
    } else if let Some(sidecar) = object.of::<Sidecar>() {
        sidecar_hosts(lint, sidecar);
    }
}

fn virtual_service(lint: &mut Lint<'_>, routes: &VirtualService) {
    let spec = &routes.spec;
    for (index, name) in spec.gateways.iter().enumerate() {
        let reference = GatewayRef::parse(name, &lint.object.key.namespace);
        let known = lint.world.config().gateways.iter().any(|gateway| gateway.reference == reference);
        if reference != GatewayRef::Mesh && !known {
            let reason = format!("Gateway {name:?} does not exist: the routes have no effect there");
            lint.find("missing-gateway", Severity::Invalid, spec.at.0, format!("spec.gateways[{index}]"), reason);
        }
    }
    for (index, rule) in spec.http.iter().enumerate() {
        let path = format!("spec.http[{index}]");
        for (at, to) in rule.route.iter().enumerate() {
            destination(lint, &format!("{path}.route[{at}].destination"), to.at.0, &to.destination);
        }
        for (at, to) in rule.mirrors.iter().enumerate() {
            destination(lint, &format!("{path}.mirrors[{at}].destination"), to.at.0, &to.destination);
        }
        if let Some(to) = &rule.mirror {
            destination(lint, &format!("{path}.mirror"), to.at.0, to);
        }
    }
    let tls =
        spec.tls.iter().map(|rule| &rule.route).enumerate().map(|(index, route)| (format!("spec.tls[{index}]"), route));
    let tcp =
        spec.tcp.iter().map(|rule| &rule.route).enumerate().map(|(index, route)| (format!("spec.tcp[{index}]"), route));
    for (path, route) in tls.chain(tcp) {
        for (at, to) in route.iter().enumerate() {
            destination(lint, &format!("{path}.route[{at}].destination"), to.at.0, &to.destination);
        }
    }
}

fn destination(lint: &mut Lint<'_>, path: &str, at: Position, to: &Destination) {
    let at = if to.at.0.line > 0 { to.at.0 } else { at };
    let namespace = &lint.object.key.namespace;
    let name = host::resolve(&to.host, namespace);
    let world = lint.world;
    let Some(service) = world.service_of_host(&name, namespace) else {
        let reason = format!("there is no service {name}: requests get 503");
        lint.find("missing-host", Severity::Invalid, at, format!("{path}.host"), reason);
        return;
    };
    match (&to.port, &service.ports[..]) {
        (Some(port), _) if service.port(port.number).is_none() => {
            let reason = format!("{name} has no port {}: requests get 503", port.number);
            lint.find("missing-port", Severity::Invalid, at, format!("{path}.port"), reason);
        }
        (None, [_, _, ..]) => {
            let reason = format!("{name} has several ports: name one, or only requests to a port it has find it");
            lint.find("ambiguous-port", Severity::Warning, at, format!("{path}.port"), reason);
        }
        _ => {}
    }
    if let Some(subset) = to.subset.as_deref().filter(|subset| !subset.is_empty()) {
        check_subset(lint, path, at, service, subset);
    }
}

fn check_subset(lint: &mut Lint<'_>, path: &str, at: Position, service: &Service, name: &str) {
    let rules = lint.world.config().destination_rules.iter().filter(|rule| host::covers(&rule.host, &service.key.host));
    let subsets = rules.flat_map(|rule| &rule.spec.subsets).filter(|subset| subset.name == name);
    let labels: Vec<_> = subsets.map(|subset| subset.labels.clone()).collect();
    let endpoints = lint.world.endpoints(&service.key);
    let (code, severity, reason) = if labels.is_empty() {
        let reason = format!("no DestinationRule for {} defines subset {name:?}: requests get 503", service.key.host);
        ("missing-subset", Severity::Invalid, reason)
    } else if !endpoints.is_empty()
        && !labels.iter().any(|labels| endpoints.iter().any(|of| contains_all(&of.labels, labels)))
    {
        let reason = format!("no endpoint of {} has the labels of subset {name:?}: requests get 503", service.key.host);
        ("empty-subset", Severity::Warning, reason)
    } else {
        return;
    };
    lint.find(code, severity, at, format!("{path}.subset"), reason);
}

fn destination_rule(lint: &mut Lint<'_>, rule: &DestinationRule) {
    let name = host::resolve(&rule.spec.host, &lint.object.key.namespace);
    if !lint.world.services().any(|service| host::covers(&name, &service.key.host)) {
        let reason = format!("there is no service {name}: the rule has no effect");
        lint.find("missing-host", Severity::Warning, rule.spec.at.0, "spec.host".to_owned(), reason);
    }
    let tls = rule.spec.traffic_policy.as_ref().and_then(|policy| policy.tls.as_ref());
    if let Some(name) = tls.and_then(|tls| tls.credential_name.as_deref()).filter(|name| !name.is_empty()) {
        let exists = lint.world.objects().of_kind(Kind::Secret).any(|secret| *secret.key.name == *name);
        if !exists {
            let reason = format!("Secret {name} does not exist: connections wait for it");
            lint.find(
                "missing-secret",
                Severity::Invalid,
                rule.spec.at.0,
                "spec.trafficPolicy.tls.credentialName".to_owned(),
                reason,
            );
        }
    }
}

fn gateway_secrets(lint: &mut Lint<'_>, gateway: &IstioGateway) {
    for (index, server) in gateway.spec.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        for name in tls.credential_name.iter().chain(&tls.credential_names).filter(|name| !name.is_empty()) {
            // It is looked for in the namespace of the proxies, which only they know.
            let exists = lint.world.objects().of_kind(Kind::Secret).any(|secret| *secret.key.name == **name);
            if !exists {
                let path = format!("spec.servers[{index}].tls.credentialName");
                let reason = format!("Secret {name} does not exist in any namespace: the port stays closed");
                lint.find("missing-secret", Severity::Invalid, tls.at.0, path, reason);
            }
        }
    }
}

fn sidecar_hosts(lint: &mut Lint<'_>, sidecar: &Sidecar) {
    for (index, egress) in sidecar.spec.egress.iter().enumerate() {
        for entry in egress.hosts.iter().filter(|entry| !entry.contains('/')) {
            let path = format!("spec.egress[{index}].hosts");
            let reason =
                format!("{entry:?} has no namespace: write namespace/host, for example ./{entry} or */{entry}");
            lint.find("bad-host", Severity::Invalid, egress.at.0, path, reason);
        }
    }
}
