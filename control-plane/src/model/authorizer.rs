//! Who is asked about requests: a provider of the MeshConfig that a policy names, with its service.

use std::sync::Arc;

use super::World;
use super::kinds::extension_provider::{ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider, RequestBody};
use super::policy_check::is_header;
use super::service::{Port, Service};

/// An authorization server that is complete.
#[derive(Debug, Clone, Copy)]
pub struct Authorizer<'w> {
    /// What it speaks, and how it is asked.
    pub speaks: Speaks<'w>,
    /// Where it is.
    pub service: &'w Arc<Service>,
    /// Which port of that.
    pub port: &'w Port,
    /// What requests get if it does not answer, if not 403.
    pub status_on_error: Option<u16>,
}

/// What an authorization server speaks.
#[derive(Debug, Clone, Copy)]
pub enum Speaks<'w> {
    /// Envoy's API.
    Grpc(&'w ExtAuthzGrpc),
    /// It gets requests as they are.
    Http(&'w ExtAuthzHttp),
}

impl<'w> Authorizer<'w> {
    /// The one of this name.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn find(world: &'w World, name: &str) -> Result<Self, String> {
        let all = &world.config().mesh.extension_providers;
        let mut found = all.iter().filter(|provider| provider.name == name);
        let Some(provider) = found.next() else {
            let known: Vec<&str> = all.iter().filter(|of| is_authorizer(of)).map(|of| of.name.as_str()).collect();
            return Err(match known[..] {
                [] => "the MeshConfig has no extensionProviders that can be asked".to_owned(),
                _ => format!("extensionProviders of the MeshConfig has {}", known.join(", ")),
            });
        };
        if found.next().is_some() {
            return Err("extensionProviders of the MeshConfig has it several times".to_owned());
        }
        Self::of(world, provider)
    }

    /// A provider that is an authorization server.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn of(world: &'w World, provider: &'w ExtensionProvider) -> Result<Self, String> {
        let (speaks, service, port, status) = match (&provider.envoy_ext_authz_grpc, &provider.envoy_ext_authz_http) {
            (Some(_), Some(_)) => return Err("it is both envoyExtAuthzGrpc and envoyExtAuthzHttp".to_owned()),
            (None, None) => return Err("it is neither envoyExtAuthzGrpc nor envoyExtAuthzHttp".to_owned()),
            (Some(grpc), None) => {
                check_body(grpc.include_request_body_in_check.as_ref())?;
                (Speaks::Grpc(grpc), &grpc.service, grpc.port, &grpc.status_on_error)
            }
            (None, Some(http)) => {
                check_body(http.include_request_body_in_check.as_ref())?;
                check_http(http)?;
                (Speaks::Http(http), &http.service, http.port, &http.status_on_error)
            }
        };
        let service = service_of(world, service)?;
        let number = u16::try_from(port).ok().filter(|port| *port > 0);
        let number = number.ok_or_else(|| format!("port: {port} is no port: write one from 1 to 65535"))?;
        let found = service.ports.iter().find(|of| of.number == number);
        let port = found.ok_or_else(|| format!("port: {} has no port {number}", service.key.host))?;
        let status = status.as_deref().filter(|text| !text.is_empty()).map(status_code).transpose()?;
        Ok(Self { speaks, service, port, status_on_error: status })
    }
}

fn is_authorizer(provider: &ExtensionProvider) -> bool {
    provider.envoy_ext_authz_grpc.is_some() || provider.envoy_ext_authz_http.is_some()
}

fn check_http(http: &ExtAuthzHttp) -> Result<(), String> {
    if !http.path_prefix.is_empty() && !http.path_prefix.starts_with('/') {
        return Err(format!("pathPrefix: {:?} does not begin with /", http.path_prefix));
    }
    for (field, names) in [
        ("includeRequestHeadersInCheck", &http.include_request_headers_in_check),
        ("includeHeadersInCheck", &http.include_headers_in_check),
        ("headersToUpstreamOnAllow", &http.headers_to_upstream_on_allow),
        ("headersToDownstreamOnDeny", &http.headers_to_downstream_on_deny),
        ("headersToDownstreamOnAllow", &http.headers_to_downstream_on_allow),
    ] {
        if names.iter().any(|name| name == "*" || name.is_empty()) {
            return Err(format!("{field}: \"*\" and \"\" name no headers: write a name, prefix* or *suffix"));
        }
    }
    if let Some(name) = http.include_additional_headers_in_check.keys().find(|name| !is_header(name)) {
        return Err(format!("includeAdditionalHeadersInCheck: {name:?} is no name of a header"));
    }
    Ok(())
}

fn check_body(body: Option<&RequestBody>) -> Result<(), String> {
    match body {
        Some(body) if body.max_request_bytes == 0 => {
            Err("includeRequestBodyInCheck.maxRequestBytes: missing or 0: write how much is sent at most".to_owned())
        }
        _ => Ok(()),
    }
}

/// `host` or `namespace/host`, whoever may see it.
fn service_of<'w>(world: &'w World, name: &str) -> Result<&'w Arc<Service>, String> {
    let (namespace, host) = name.split_once('/').map_or((None, name), |(namespace, host)| (Some(namespace), host));
    let fits = |service: &&Arc<Service>| namespace.is_none_or(|namespace| *service.key.namespace == *namespace);
    let mut found = world.services_at(host).filter(fits);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(format!("service: {host} is in several namespaces: write namespace/{host}")),
        (None, _) => Err(format!("service: there is no service {name:?}")),
    }
}

fn status_code(text: &str) -> Result<u16, String> {
    use weft_proto::pb::envoy::r#type::v3::StatusCode;
    let code = text.parse::<u16>().ok().filter(|code| *code > 0 && StatusCode::try_from(i32::from(*code)).is_ok());
    code.ok_or_else(|| format!("statusOnError: {text:?} is no status"))
}
