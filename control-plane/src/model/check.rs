//! What is wrong with objects beyond their form: told to their authors, and left out of what is generated.
//!
//! Owns the checks of one object at a time, and of objects that conflict. Must not know: files.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_proto::problem::{Position, Problem, Severity};

use super::attribute::{is_claims, routing_claims};
use super::config::{Config, GatewayRef, Problems, VirtualService as Routes};
use super::host;
use super::kinds::authorization::AuthorizationPolicy;
use super::kinds::destination_rule::{ClientTls, ClientTlsMode, DestinationRule, TrafficPolicy, Tunnel};
use super::kinds::gateway::{IstioGateway, ServerTls, ServerTlsMode};
use super::kinds::request_authentication::RequestAuthentication;
use super::kinds::service_entry::{CaptureMode, Sidecar};
use super::kinds::telemetry::{TagOperation, Telemetry};
use super::kinds::virtual_service::{HttpRoute, Percent, VirtualService};
use super::kinds::{Kind, Object, ObjectKey};
use super::objects::Objects;
use super::peer_authentication::has_identity;
use super::policy_check;
use super::service::Protocol;
use super::world::World;

/// Collects what is wrong with one object.
pub(super) struct Teller<'o> {
    object: &'o Object,
    told: Vec<Problem>,
}

impl<'o> Teller<'o> {
    /// The object.
    pub(super) fn object(&self) -> &'o Object {
        self.object
    }

    pub(super) fn warn(&mut self, at: Position, path: impl Into<String>, reason: impl Into<String>) {
        self.told.push(self.object.problem(Severity::Warning, at, path, reason));
    }

    pub(super) fn invalid(&mut self, at: Position, path: impl Into<String>, reason: impl Into<String>) {
        self.told.push(self.object.problem(Severity::Invalid, at, path, reason));
    }

    pub(super) fn unsupported(&mut self, at: Position, path: impl Into<String>, reason: impl Into<String>) {
        self.told.push(self.object.problem(Severity::Unsupported, at, path, reason));
    }
}

/// Checks every object.
pub(super) fn all(objects: &Objects, config: &Config, problems: &mut Problems) {
    for object in objects.iter() {
        let mut teller = Teller { object, told: Vec::new() };
        if let Some(routes) = object.of::<VirtualService>() {
            virtual_service(&mut teller, routes);
        } else if let Some(rule) = object.of::<DestinationRule>() {
            destination_rule(&mut teller, rule);
        } else if let Some(gateway) = object.of::<IstioGateway>() {
            gateway_object(&mut teller, gateway);
        } else if let Some(scope) = object.of::<Sidecar>() {
            sidecar(&mut teller, scope);
        }
        if let Some(policy) = object.of::<AuthorizationPolicy>() {
            policy_check::authorization(&mut teller, policy);
        } else if let Some(policy) = object.of::<RequestAuthentication>() {
            policy_check::request_authentication(&mut teller, policy);
        }
        if let Some(of) = object.of::<Telemetry>() {
            telemetry(&mut teller, of);
        }
        if !teller.told.is_empty() {
            problems.entry(object.key.clone()).or_default().extend(teller.told);
        }
    }
    conflicts(objects, config, problems);
}

fn virtual_service(teller: &mut Teller<'_>, routes: &VirtualService) {
    let spec = &routes.spec;
    let only_mesh = spec.gateways.iter().all(|name| name == "mesh");
    for (index, route) in spec.http.iter().enumerate() {
        http_route(teller, &format!("spec.http[{index}]"), route);
        claims(teller, &format!("spec.http[{index}]"), route, only_mesh);
    }
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        teller.invalid(spec.at.0, "spec", "has no http, tls or tcp rules: it routes nothing");
    }
}

fn http_route(teller: &mut Teller<'_>, path: &str, route: &HttpRoute) {
    let at = route.at.0;
    let actions =
        [!route.route.is_empty(), route.redirect.is_some(), route.direct_response.is_some(), route.delegate.is_some()];
    match actions.into_iter().filter(|set| *set).count() {
        0 => teller.invalid(at, path, "does nothing: write one of route, redirect, directResponse, delegate"),
        1 => {}
        _ => {
            teller.invalid(at, path, "does several things: write only one of route, redirect, directResponse, delegate")
        }
    }
    if route.route.len() > 1 {
        let total: u64 = route.route.iter().map(|to| u64::from(to.weight.unwrap_or(0))).sum();
        if total == 0 {
            teller.invalid(at, format!("{path}.route"), "all weights are 0: give at least one destination a weight");
        }
        for (index, to) in route.route.iter().enumerate().filter(|(_, to)| to.weight.is_none()) {
            let path = format!("{path}.route[{index}].weight");
            teller.invalid(
                to.at.0,
                path,
                "missing: of several destinations each needs a weight, and this one gets nothing",
            );
        }
    }
    let fault = route.fault.as_ref();
    let shares: [(&str, Option<&Percent>); 3] = [
        ("fault.delay.percentage", fault.and_then(|of| of.delay.as_ref()).and_then(|of| of.percentage.as_ref())),
        ("fault.abort.percentage", fault.and_then(|of| of.abort.as_ref()).and_then(|of| of.percentage.as_ref())),
        ("mirrorPercentage", route.mirror_percentage.as_ref()),
    ];
    for (name, share) in shares {
        if let Some(share) = share.filter(|share| !(0.0..=100.0).contains(&share.value)) {
            teller.invalid(share.at.0, format!("{path}.{name}"), format!("{} is not between 0 and 100", share.value));
        }
    }
    if let Some(abort) = fault.and_then(|of| of.abort.as_ref()) {
        let status = abort.http_status.is_some_and(|status| (200..600).contains(&status));
        if !status && abort.grpc_status.is_none() {
            let path = format!("{path}.fault.abort");
            teller.invalid(abort.at.0, path, "has no httpStatus from 200 to 599 and no grpcStatus: it does nothing");
        }
    }
    if let Some(answer) = route.direct_response.as_ref().filter(|answer| !(200..600).contains(&answer.status)) {
        let reason = format!("{} is no status that can be answered with: write one from 200 to 599", answer.status);
        teller.invalid(answer.at.0, format!("{path}.directResponse.status"), reason);
    }
}

/// Matches by claims of tokens.
fn claims(teller: &mut Teller<'_>, path: &str, route: &HttpRoute, only_mesh: bool) {
    for (index, of) in route.r#match.iter().enumerate() {
        let names = of.headers.keys().chain(of.without_headers.keys());
        for name in names.filter(|name| is_claims(name)) {
            let path = format!("{path}.match[{index}].headers");
            if routing_claims(name).is_none() {
                let reason = format!("{name:?} is no header and no claim: write @request.auth.claims[name]");
                teller.invalid(of.at.0, path, reason);
            } else if only_mesh {
                let reason = format!("{name:?} is known in gateways only: sidecars verify no tokens on the way out");
                teller.unsupported(of.at.0, path, reason);
            }
        }
    }
}

fn destination_rule(teller: &mut Teller<'_>, rule: &DestinationRule) {
    let spec = &rule.spec;
    if spec.host.is_empty() {
        teller.invalid(spec.at.0, "spec.host", "missing: it is for no host");
    }
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(teller, "spec.trafficPolicy", policy);
    }
    let mut names: Vec<&str> = Vec::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if names.contains(&subset.name.as_str()) {
            let reason = format!("{:?} is there already: the first one counts", subset.name);
            teller.invalid(subset.at.0, format!("{path}.name"), reason);
        }
        names.push(&subset.name);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(teller, &format!("{path}.trafficPolicy"), policy);
        }
    }
}

fn traffic_policy(teller: &mut Teller<'_>, path: &str, policy: &TrafficPolicy) {
    let own = (path.to_owned(), &policy.tls, &policy.load_balancer, &policy.connection_pool);
    let of_ports = policy.port_level_settings.iter().enumerate().map(|(index, of)| {
        (format!("{path}.portLevelSettings[{index}]"), &of.tls, &of.load_balancer, &of.connection_pool)
    });
    for (path, tls, load_balancer, pool) in std::iter::once(own).chain(of_ports) {
        if let Some(of) = tls {
            client_tls(teller, &format!("{path}.tls"), of);
        }
        let localities = load_balancer.as_ref().and_then(|of| of.locality_lb_setting.as_ref());
        if let Some(of) =
            localities.filter(|_| load_balancer.as_ref().is_some_and(|of| of.zone_aware_lb_setting.is_some()))
        {
            let reason = "has no effect beside zoneAwareLbSetting: write one of the two";
            teller.invalid(of.at.0, format!("{path}.loadBalancer.localityLbSetting"), reason);
        }
        let pings = pool.as_ref().and_then(|of| of.http.as_ref()).and_then(|of| of.http2_keep_alive.as_ref());
        if let Some(of) = pings.filter(|of| of.timeout.is_none() || of.interval.is_none()) {
            let path = format!("{path}.connectionPool.http.http2KeepAlive");
            teller.invalid(of.at.0, path, "has no effect without both interval and timeout");
        }
    }
    if let Some(of) = &policy.tunnel {
        tunnel(teller, &format!("{path}.tunnel"), of);
    }
}

fn tunnel(teller: &mut Teller<'_>, path: &str, of: &Tunnel) {
    if let Some(other) = of.protocol.as_deref().filter(|name| !["", "CONNECT", "POST"].contains(name)) {
        let reason = format!("{other:?} is neither CONNECT nor POST: CONNECT is used");
        teller.invalid(of.at.0, format!("{path}.protocol"), reason);
    }
    if of.target_host.is_empty() {
        teller.invalid(of.at.0, format!("{path}.targetHost"), "missing: there is no tunnel without");
    }
    if of.target_port == 0 || of.target_port > 65535 {
        teller.invalid(
            of.at.0,
            format!("{path}.targetPort"),
            "is no port: there is no tunnel without (write 1 to 65535)",
        );
    }
}

fn client_tls(teller: &mut Teller<'_>, path: &str, of: &ClientTls) {
    let file_missing = of.credential_name.is_none() && (of.client_certificate.is_none() || of.private_key.is_none());
    match of.mode {
        ClientTlsMode::Mutual if file_missing => {
            let reason = "MUTUAL needs credentialName, or clientCertificate and privateKey";
            teller.invalid(of.at.0, path, reason);
        }
        _ => {}
    }
}

/// Rules that want mutual TLS to endpoints that have no identity: what depends on endpoints.
pub(super) fn identities(world: &World) -> Vec<(ObjectKey, Problem)> {
    let mut told = Vec::new();
    for rule in &world.config().destination_rules {
        let Some(object) = world.objects().by_key(&rule.key) else { continue };
        let Some((at, path)) = object.of::<DestinationRule>().and_then(mutual) else { continue };
        let of_rule = world.services().filter(|service| host::covers(&rule.host, &service.key.host));
        let without = of_rule.flat_map(|service| world.endpoints(&service.key));
        let mut without = without.filter(|endpoint| !has_identity(&endpoint.labels));
        if let Some(endpoint) = without.next() {
            let name = endpoint.workload.as_ref().map_or(&*endpoint.address, |workload| &*workload.name);
            let reason = format!(
                "ISTIO_MUTUAL, but {name} has no identity (label security.istio.io/tlsMode: istio): callers that have one do not \
                 reach it, callers that have none use plaintext"
            );
            told.push((rule.key.clone(), object.problem(Severity::Warning, at, path, reason)));
        }
    }
    told
}

/// Where a rule says ISTIO_MUTUAL first.
fn mutual(rule: &DestinationRule) -> Option<(Position, String)> {
    let subsets = rule.spec.subsets.iter().enumerate();
    let subsets =
        subsets.map(|(index, of)| (format!("spec.subsets[{index}].trafficPolicy"), of.traffic_policy.as_ref()));
    let all = std::iter::once(("spec.trafficPolicy".to_owned(), rule.spec.traffic_policy.as_ref())).chain(subsets);
    all.filter_map(|(path, policy)| Some((path, policy?))).find_map(|(path, policy)| {
        let ports = policy.port_level_settings.iter().enumerate();
        let ports = ports.map(|(index, of)| (format!("{path}.portLevelSettings[{index}].tls.mode"), of.tls.as_ref()));
        let all = std::iter::once((format!("{path}.tls.mode"), policy.tls.as_ref())).chain(ports);
        let mut all = all.filter_map(|(path, tls)| Some((path, tls?)));
        all.find(|(_, tls)| tls.mode == ClientTlsMode::IstioMutual).map(|(path, tls)| (tls.at.0, path))
    })
}

fn sidecar(teller: &mut Teller<'_>, scope: &Sidecar) {
    let is_ip = |bind: &&str| bind.parse::<std::net::IpAddr>().is_ok();
    let named = |bind: &Option<String>| bind.clone().filter(|bind| !bind.is_empty());
    for (index, of) in scope.spec.ingress.iter().enumerate() {
        if let Some(tls) = &of.tls {
            ingress_tls(teller, &format!("spec.ingress[{index}].tls"), tls);
        }
        let path = format!("spec.ingress[{index}].bind");
        match named(&of.bind) {
            Some(bind) if !is_ip(&bind.as_str()) => {
                teller.invalid(of.at.0, path, format!("{bind:?} is no IP address: the pod's own is taken"));
            }
            Some(_) if of.capture_mode == CaptureMode::Iptables => {
                teller.unsupported(of.at.0, path, "has no effect: connections to the port are redirected");
            }
            _ => {}
        }
    }
    for (index, of) in scope.spec.egress.iter().enumerate() {
        let path = format!("spec.egress[{index}]");
        match named(&of.bind) {
            Some(bind) if !is_ip(&bind.as_str()) && !bind.starts_with("unix:///") => {
                let reason = format!("{bind:?} is neither an IP address nor unix:///path: it has no effect");
                teller.invalid(of.at.0, format!("{path}.bind"), reason);
            }
            Some(_) if of.port.is_none() => {
                teller.invalid(of.at.0, format!("{path}.bind"), "has no effect without a port: say which");
            }
            None if of.port.is_none() && of.capture_mode == CaptureMode::None => {
                teller.unsupported(
                    of.at.0,
                    format!("{path}.captureMode"),
                    "NONE has no effect without a port: say which",
                );
            }
            _ => {}
        }
    }
}

fn ingress_tls(teller: &mut Teller<'_>, path: &str, tls: &ServerTls) {
    let ends = matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let files = tls.server_certificate.is_some() && tls.private_key.is_some() || !tls.tls_certificates.is_empty();
    let secrets = tls.credential_name.is_some() || !tls.credential_names.is_empty();
    if !ends {
        let reason = "ends no TLS at a workload: nobody is let in (write SIMPLE, MUTUAL or OPTIONAL_MUTUAL)";
        teller.invalid(tls.at.0, format!("{path}.mode"), reason);
    } else if secrets || !files {
        let reason = "workloads have certificates in files only: write serverCertificate and privateKey";
        teller.invalid(tls.at.0, path, reason);
    }
}

fn gateway_object(teller: &mut Teller<'_>, gateway: &IstioGateway) {
    for (index, server) in gateway.spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        let protocol = Protocol::parse(&server.port.protocol).filter(|protocol| *protocol != Protocol::Udp);
        if protocol.is_none() {
            let reason = format!(
                "{:?} is not supported: the server is not opened (write HTTP, HTTP2, GRPC, HTTPS, TLS or TCP)",
                server.port.protocol
            );
            teller.invalid(server.port.at.0, format!("{path}.port.protocol"), reason);
        }
        if server.port.number == 0 || server.port.number > 65535 {
            teller.invalid(server.port.at.0, format!("{path}.port.number"), "is no port: write one from 1 to 65535");
        }
        let tls = server.tls.as_ref();
        if protocol.is_some_and(Protocol::is_tls) && tls.is_none() {
            teller.invalid(server.at.0, format!("{path}.tls"), "missing: the server is not opened without");
        }
    }
}

fn telemetry(teller: &mut Teller<'_>, of: &Telemetry) {
    for (index, metrics) in of.spec.metrics.iter().enumerate() {
        for (number, override_) in metrics.overrides.iter().enumerate() {
            for (tag, of) in &override_.tag_overrides {
                let text = of.value.as_deref().unwrap_or_default();
                let is_known = weft_proto::own::stats::expression(text).is_some();
                if of.operation == TagOperation::Upsert && !is_known {
                    let path = format!("spec.metrics[{index}].overrides[{number}].tagOverrides[{tag:?}].value");
                    let reason = format!(
                        "the expression {text:?} is not supported: the label is not changed; a text ('blue'), request.headers['name'] \
                         and {} are",
                        weft_proto::own::stats::ATTRIBUTES.join(", ")
                    );
                    teller.unsupported(of.at.0, path, reason);
                }
            }
        }
    }
}

/// Of two VirtualServices for a host in the mesh the older one counts; the other is told.
fn conflicts(objects: &Objects, config: &Config, problems: &mut Problems) {
    let mut first: BTreeMap<(&str, bool), &Arc<Routes>> = BTreeMap::new();
    let in_mesh = config.virtual_services.iter().filter(|routes| routes.gateways.contains(&GatewayRef::Mesh));
    for routes in in_mesh {
        for name in &routes.hosts {
            let key = (&**name, routes.http.is_empty());
            match first.get(&key) {
                Some(other) if other.key != routes.key && other.visibility == routes.visibility => {
                    tell_conflict(objects, &routes.key, &other.key, name, problems);
                }
                Some(_) => {}
                None => {
                    first.insert(key, routes);
                }
            }
        }
    }
    let mut rules: BTreeMap<(&str, &str, bool), &ObjectKey> = BTreeMap::new();
    for rule in &config.destination_rules {
        let key = (&*rule.key.namespace, &*rule.host, rule.spec.workload_selector.is_some());
        let other = *rules.entry(key).or_insert(&rule.key);
        if *other != rule.key && rule.spec.traffic_policy.is_some() {
            tell_conflict(objects, &rule.key, other, &rule.host, problems);
        }
    }
}

fn tell_conflict(objects: &Objects, of: &ObjectKey, other: &ObjectKey, name: &str, problems: &mut Problems) {
    let Some(object) = objects.by_key(of) else { return };
    let path = if of.kind == Kind::DestinationRule { "spec.trafficPolicy" } else { "spec.hosts" };
    let reason =
        format!("{other} is for {name}, too, and is older: it counts, and this has no effect there; merge the two");
    problems.entry(of.clone()).or_default().push(object.problem(Severity::Invalid, object.at, path, reason));
}
