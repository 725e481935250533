//! The question about a request. **Source**: `envoy.service.auth.v3.CheckRequest`.

use std::collections::HashMap;

use weft_proto::pb::envoy::config::core::v3::{HeaderMap as PbHeaderMap, HeaderValue as PbHeader};
use weft_proto::pb::envoy::service::auth::v3::CheckRequest;
use weft_proto::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use weft_proto::wkt;

use super::{HeldBody, Settings};
use crate::config::{AuthzBody, AuthzService, ExtAuthz, StringMatcher};
use crate::ext_authz::attributes::{self, text};
use crate::http::stream::StreamCtx;
use crate::stream_info::Protocol;

/// Tells the service that it sees a part of the body only. Nobody else says so.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// The question; `of_route`: the levels of the route, least specific first; `body`: what of the body is told.
pub(super) fn request<'a>(
    config: &ExtAuthz,
    ctx: &StreamCtx,
    of_route: impl Iterator<Item = &'a Settings>,
    body: Option<(AuthzBody, &HeldBody)>,
) -> CheckRequest {
    let conn = &ctx.conn.info;
    let service = ctx.request.headers.get("x-envoy-downstream-service-cluster").map(|v| text(v.as_bytes()));
    let mut attributes = attributes::of_connection(conn, &config.peers, service.unwrap_or_default(), String::new());
    attributes.request =
        Some(Request { time: Some(wkt::to_timestamp(ctx.info.start_wall)), http: Some(http(config, ctx, body)) });
    attributes.context_extensions =
        of_route.flat_map(|s| &s.context).map(|(key, value)| (key.clone(), value.clone())).collect();
    let dynamic = |name: &str| ctx.info.dynamic_metadata(name).or_else(|| conn.dynamic_metadata(name));
    attributes.metadata_context = Some(attributes::metadata(&config.metadata_namespaces, dynamic));
    let route = ctx.route.as_ref().map(|m| &m.entry.metadata);
    let of_route = |name: &str| route.and_then(|metadata| metadata.get(name));
    attributes.route_metadata_context = Some(attributes::metadata(&config.route_metadata_namespaces, of_route));
    CheckRequest { attributes: Some(attributes) }
}

fn http(config: &ExtAuthz, ctx: &StreamCtx, body: Option<(AuthzBody, &HeldBody)>) -> HttpRequest {
    let head = &ctx.request;
    let mut fields = Fields::new(config);
    let host = (":authority", head.authority.as_ref().map(|v| v.as_bytes()));
    let path = (":path", Some(head.path.as_bytes()).filter(|path| !path.is_empty()));
    let method = (":method", Some(head.method.as_str().as_bytes()));
    let scheme = (":scheme", Some(head.scheme.as_str().as_bytes()));
    // As Envoy has them: of HTTP/1 in the order in which it makes them up, of HTTP/2 in that in which most clients send them.
    let parts = match head.protocol {
        Protocol::Http2 => [method, scheme, host, path],
        _ => [host, path, method, scheme],
    };
    parts.into_iter().for_each(|(name, value)| fields.take(name, value));
    if let Some(upgrade) = &head.upgrade {
        if head.protocol == Protocol::Http2 {
            fields.take(":protocol", Some(upgrade.as_bytes()));
        } else {
            fields.take("connection", Some(b"Upgrade"));
            fields.take("upgrade", Some(upgrade.as_bytes()));
        }
    }
    for (name, value) in &head.headers {
        fields.take(name.as_str(), Some(value.as_bytes()));
    }
    let mut http = HttpRequest {
        id: ctx.info.stream_id.to_string(),
        method: head.method.as_str().to_owned(),
        path: text(head.path.as_bytes()),
        host: head.authority.as_ref().map(|v| text(v.as_bytes())).unwrap_or_default(),
        scheme: head.scheme.as_str().to_owned(),
        protocol: head.protocol.as_str().to_owned(),
        // What has come so far, told or not.
        size: i64::try_from(ctx.limits.received()).unwrap_or(i64::MAX),
        ..HttpRequest::default()
    };
    if let Some((wanted, held)) = body {
        let begin = held.beginning(wanted.max_bytes);
        let partial = (begin.len() as u64) < held.bytes();
        // As text, bytes that are none would be lost, and to an HTTP service they need not be.
        if config.body.is_some_and(|b| b.as_bytes) || matches!(config.service, AuthzService::Http(_)) {
            http.raw_body = begin;
        } else {
            http.body = text(&begin);
        }
        fields.put(PARTIAL_BODY, if partial { b"true" } else { b"false" });
    }
    match fields.into() {
        Told::Text(map) => http.headers = map,
        Told::Raw(list) => http.header_map = Some(PbHeaderMap { headers: list }),
    }
    http
}

/// Header fields as they are told.
enum Told {
    /// Repeated ones joined.
    Text(HashMap<String, String>),
    /// One by one.
    Raw(Vec<PbHeader>),
}

struct Fields<'a> {
    allowed: Option<&'a [StringMatcher]>,
    disallowed: &'a [StringMatcher],
    told: Told,
}

impl<'a> Fields<'a> {
    fn new(config: &'a ExtAuthz) -> Self {
        Fields {
            allowed: config.allowed_headers.as_deref(),
            disallowed: &config.disallowed_headers,
            told: if config.raw_headers { Told::Raw(Vec::new()) } else { Told::Text(HashMap::new()) },
        }
    }

    fn take(&mut self, name: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        let is_in = |list: &[StringMatcher]| list.iter().any(|m| m.matches(name));
        if name != PARTIAL_BODY && !is_in(self.disallowed) && self.allowed.is_none_or(is_in) {
            self.put(name, value);
        }
    }

    fn put(&mut self, name: &str, value: &[u8]) {
        match &mut self.told {
            Told::Raw(list) => {
                list.push(PbHeader { key: name.to_owned(), raw_value: value.to_vec(), ..PbHeader::default() });
            }
            Told::Text(map) => match map.get_mut(name) {
                Some(before) => {
                    before.push(',');
                    before.push_str(&text(value));
                }
                None => {
                    map.insert(name.to_owned(), text(value));
                }
            },
        }
    }

    fn into(self) -> Told {
        self.told
    }
}
