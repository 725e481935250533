//! A rule of an AuthorizationPolicy as a policy of the RBAC filter.
//!
//! As in Istio: a value that means nothing, and on connections one that only requests have, takes the whole rule away where it
//! would allow, and else only itself, so that more is denied, marked or asked about.

use weft_proto::any::pack;
use weft_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use weft_proto::pb::envoy::config::rbac::v3::{self as pb, permission, principal};
use weft_proto::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;

use super::super::view::View;
use super::super::wire;
use super::matching;
use crate::model::attribute::Attribute;
use crate::model::kinds::authorization::{Condition, RequestOperation, Rule, Source};
use crate::model::policy_check::path_template;
use crate::model::trust_domains::TrustDomains;

/// For what rules are translated.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    is_http: bool,
    /// What cannot be translated is left out: the rule does not allow.
    lenient: bool,
    /// The policy's.
    namespace: &'a str,
    domains: TrustDomains<'a>,
}

/// What a rule asks of where a request goes and where it is from.
#[derive(Default, Clone)]
struct Needs {
    permissions: Vec<pb::Permission>,
    principals: Vec<pb::Principal>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(view: &View<'a>, is_http: bool, lenient: bool, namespace: &'a str) -> Self {
        Self { is_http, lenient, namespace, domains: TrustDomains::of(&view.world.config().mesh) }
    }

    /// A rule; `None` if it must not count.
    pub(super) fn policy(self, rule: &Rule) -> Option<pb::Policy> {
        let mut when = Needs::default();
        for condition in &rule.when {
            self.condition(condition, &mut when)?;
        }
        let of = |needs: &[pb::Permission]| and_permissions([needs, &when.permissions].concat());
        let mut permissions = Vec::new();
        for to in &rule.to {
            permissions.push(of(&self.operation(&to.operation)?));
        }
        if rule.to.is_empty() {
            permissions.push(of(&[]));
        }
        let of = |needs: &[pb::Principal]| and_principals([needs, &when.principals].concat());
        let mut principals = Vec::new();
        for from in &rule.from {
            principals.push(of(&self.source(&from.source)?));
        }
        if rule.from.is_empty() {
            principals.push(of(&[]));
        }
        Some(pb::Policy { permissions, principals, ..pb::Policy::default() })
    }

    fn operation(self, of: &RequestOperation) -> Option<Vec<pb::Permission>> {
        self.says_something(*of == RequestOperation::default())?;
        let mut needs = Needs::default();
        let header = |name: &'static str, ignore_case: bool| {
            move |text: &str| self.http(|| permission::Rule::Header(matching::header(name, text, ignore_case)))
        };
        self.permissions(&mut needs, [&of.hosts, &of.not_hosts], header(":authority", true))?;
        self.permissions(&mut needs, [&of.methods, &of.not_methods], header(":method", false))?;
        self.permissions(&mut needs, [&of.paths, &of.not_paths], |text| self.http(|| path(text))?)?;
        self.permissions(&mut needs, [&of.ports, &of.not_ports], port)?;
        Some(needs.permissions)
    }

    fn source(self, of: &Source) -> Option<Vec<pb::Principal>> {
        self.says_something(*of == Source::default())?;
        let mut needs = Needs::default();
        self.identities(&mut needs, [&of.principals, &of.not_principals])?;
        self.tokens(&mut needs, [&of.request_principals, &of.not_request_principals])?;
        self.principals(&mut needs, [&of.service_accounts, &of.not_service_accounts], |text| {
            Some(matching::service_account(text, self.namespace))
        })?;
        self.trust_domains(&mut needs, [&of.trust_domains, &of.not_trust_domains])?;
        self.principals(&mut needs, [&of.namespaces, &of.not_namespaces], |text| Some(matching::namespace(text)))?;
        self.principals(&mut needs, [&of.remote_ip_blocks, &of.not_remote_ip_blocks], remote_ip)?;
        self.principals(&mut needs, [&of.ip_blocks, &of.not_ip_blocks], source_ip)?;
        Some(needs.principals)
    }

    fn condition(self, of: &Condition, needs: &mut Needs) -> Option<()> {
        let values = [&of.values, &of.not_values];
        self.says_something(of.values.is_empty() && of.not_values.is_empty())?;
        let Some(attribute) = Attribute::parse(&of.key) else { return self.lenient.then_some(()) };
        match attribute {
            Attribute::DestinationIp => {
                self.permissions(needs, values, |text| wire::cidr(text).map(permission::Rule::DestinationIp))
            }
            Attribute::DestinationPort => self.permissions(needs, values, port),
            Attribute::Sni => self.permissions(needs, values, |text| {
                Some(permission::Rule::RequestedServerName(matching::text(text, false)))
            }),
            Attribute::SourceIp => self.principals(needs, values, source_ip),
            Attribute::RemoteIp => self.principals(needs, values, remote_ip),
            Attribute::SourceNamespace => self.principals(needs, values, |text| Some(matching::namespace(text))),
            Attribute::SourceServiceAccount => {
                self.principals(needs, values, |text| Some(matching::service_account(text, self.namespace)))
            }
            Attribute::SourcePrincipal => self.identities(needs, values),
            Attribute::SourceTrustDomain => self.trust_domains(needs, values),
            Attribute::Header(name) => self.principals(needs, values, |text| {
                self.http(|| principal::Identifier::Header(matching::header(name, text, false)))
            }),
            Attribute::RequestPrincipal => self.tokens(needs, values),
            Attribute::Audiences => self.claims(needs, &["aud".to_owned()], values),
            Attribute::Presenter => self.claims(needs, &["azp".to_owned()], values),
            Attribute::Claims(path) => self.claims(needs, &path, values),
            Attribute::Metadata { filter, key } => {
                let make = |values: &[String]| matching::metadata(filter, key, values);
                let [values, not_values] = values;
                if !values.is_empty() {
                    needs.permissions.push(permit(make(values)));
                }
                if !not_values.is_empty() {
                    needs.permissions.push(not_permit(permit(make(not_values))));
                }
                Some(())
            }
        }
    }

    /// What says nothing is a mistake, and must not let everything in.
    fn says_something(self, is_empty: bool) -> Option<()> {
        (self.lenient || !is_empty).then_some(())
    }

    /// What only requests have.
    fn http<T>(self, make: impl FnOnce() -> T) -> Option<T> {
        self.is_http.then(make)
    }

    /// All that mean something; `None`: the rule must not count.
    fn made<T>(self, values: &[String], make: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let made: Vec<T> = values.iter().filter_map(|text| make(text)).collect();
        (self.lenient || made.len() == values.len()).then_some(made)
    }

    /// One of the values and none of the others.
    fn permissions(
        self,
        needs: &mut Needs,
        [values, not_values]: [&Vec<String>; 2],
        make: impl Fn(&str) -> Option<permission::Rule>,
    ) -> Option<()> {
        let any = |values: &[String]| {
            let rules: Vec<_> = self.made(values, &make)?.into_iter().map(permit).collect();
            Some((!rules.is_empty()).then(|| permit(permission::Rule::OrRules(permission::Set { rules }))))
        };
        needs.permissions.extend(any(values)?);
        needs.permissions.extend(any(not_values)?.map(not_permit));
        Some(())
    }

    /// The same for callers.
    fn principals(
        self,
        needs: &mut Needs,
        [values, not_values]: [&Vec<String>; 2],
        make: impl Fn(&str) -> Option<principal::Identifier>,
    ) -> Option<()> {
        let any = |values: &[String]| {
            let ids: Vec<_> = self.made(values, &make)?.into_iter().map(caller).collect();
            Some((!ids.is_empty()).then(|| caller(principal::Identifier::OrIds(principal::Set { ids }))))
        };
        needs.principals.extend(any(values)?);
        needs.principals.extend(any(not_values)?.map(not_caller));
        Some(())
    }

    fn identities(self, needs: &mut Needs, [values, not_values]: [&Vec<String>; 2]) -> Option<()> {
        let all = |values: &Vec<String>| values.iter().flat_map(|of| self.domains.of_principal(of)).collect();
        self.principals(needs, [&all(values), &all(not_values)], |text| Some(matching::identity(text)))
    }

    fn trust_domains(self, needs: &mut Needs, [values, not_values]: [&Vec<String>; 2]) -> Option<()> {
        let all = |values: &Vec<String>| values.iter().flat_map(|of| self.domains.of_domain(of)).collect();
        self.principals(needs, [&all(values), &all(not_values)], |text| Some(matching::trust_domain(text)))
    }

    fn tokens(self, needs: &mut Needs, values: [&Vec<String>; 2]) -> Option<()> {
        self.principals(needs, values, |text| {
            let ids = self.http(|| matching::token(text))?.map(caller).to_vec();
            Some(principal::Identifier::AndIds(principal::Set { ids }))
        })
    }

    fn claims(self, needs: &mut Needs, path: &[String], [values, not_values]: [&Vec<String>; 2]) -> Option<()> {
        if !self.is_http {
            return self.lenient.then_some(());
        }
        if !values.is_empty() {
            needs.principals.push(caller(matching::claims(path, values)));
        }
        if !not_values.is_empty() {
            needs.principals.push(not_caller(caller(matching::claims(path, not_values))));
        }
        Some(())
    }
}

fn port(text: &str) -> Option<permission::Rule> {
    text.parse::<u16>().ok().map(|port| permission::Rule::DestinationPort(port.into()))
}

fn source_ip(text: &str) -> Option<principal::Identifier> {
    wire::cidr(text).map(principal::Identifier::DirectRemoteIp)
}

fn remote_ip(text: &str) -> Option<principal::Identifier> {
    wire::cidr(text).map(principal::Identifier::RemoteIp)
}

fn path(text: &str) -> Option<permission::Rule> {
    if path_template(text).is_some() {
        return None;
    }
    if text.contains("{*}") || text.contains("{**}") {
        let path_template = text.replace("{*}", "*").replace("{**}", "**");
        return Some(permission::Rule::UriTemplate(TypedExtensionConfig {
            name: "uri-template".to_owned(),
            typed_config: Some(pack(&UriTemplateMatchConfig { path_template })),
        }));
    }
    let path = matcher::path_matcher::Rule::Path(matching::text(text, false));
    Some(permission::Rule::UrlPath(matcher::PathMatcher { rule: Some(path) }))
}

pub(super) fn permit(rule: permission::Rule) -> pb::Permission {
    pb::Permission { rule: Some(rule) }
}

fn not_permit(of: pb::Permission) -> pb::Permission {
    permit(permission::Rule::NotRule(Box::new(of)))
}

pub(super) fn caller(identifier: principal::Identifier) -> pb::Principal {
    pb::Principal { identifier: Some(identifier) }
}

fn not_caller(of: pb::Principal) -> pb::Principal {
    caller(principal::Identifier::NotId(Box::new(of)))
}

fn and_permissions(rules: Vec<pb::Permission>) -> pb::Permission {
    permit(if rules.is_empty() {
        permission::Rule::Any(true)
    } else {
        permission::Rule::AndRules(permission::Set { rules })
    })
}

fn and_principals(ids: Vec<pb::Principal>) -> pb::Principal {
    caller(if ids.is_empty() {
        principal::Identifier::Any(true)
    } else {
        principal::Identifier::AndIds(principal::Set { ids })
    })
}
