//! Route configurations.
//!
//! Owns virtual hosts and their routes. VirtualServices, the Gateway API's routes and Ingresses come here in one form.

mod action;
mod gateway;
mod matching;
mod outbound;
pub(super) mod per_route;
mod retry;

pub(super) use self::gateway::gateway_table;
pub(super) use self::outbound::{default_route, port_table};

use std::collections::HashMap;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::route::v3 as pb;

use super::names;
use super::view::View;
use super::wire::{object, text};
use crate::model::config::{GatewayRef, VirtualService};
use crate::model::kinds::virtual_service::HttpRoute;

/// The HTTP rules of one VirtualService, for one port and place.
pub(super) struct Rules<'v, 'w> {
    pub(super) view: &'v View<'w>,
    pub(super) routes: &'w VirtualService,
    /// The port requests come to.
    pub(super) port: u32,
    /// The gateways that are served, or the mesh.
    pub(super) gateways: &'v [GatewayRef],
    /// Whether a proxyless gRPC client reads them.
    pub(super) is_grpc: bool,
}

impl Rules<'_, '_> {
    /// The routes, in their order; nothing follows one that takes everything.
    pub(super) fn routes(&self) -> Vec<pb::Route> {
        let mut made = Vec::new();
        for rule in &self.routes.http {
            self.rule(rule, &mut made);
            if made.last().and_then(|route| route.r#match.as_ref()).is_some_and(matching::is_catch_all) {
                break;
            }
        }
        made
    }

    fn rule(&self, rule: &HttpRoute, made: &mut Vec<pb::Route>) {
        let any = [None];
        let matches: Vec<_> = match &rule.r#match[..] {
            [] => any.to_vec(),
            several => several.iter().filter(|of| self.applies(of)).map(Some).collect(),
        };
        for of in matches {
            for path in matching::paths(of, self.is_grpc) {
                let mut route = pb::Route {
                    name: name(rule.name.as_deref(), of.and_then(|of| of.name.as_deref())),
                    r#match: Some(matching::route_match(of, path)),
                    metadata: Some(metadata(self.routes)),
                    stat_prefix: of.and_then(|of| of.stat_prefix.clone()).unwrap_or_default(),
                    ..Default::default()
                };
                self.action(rule, of, &mut route);
                let all = route.r#match.as_ref().is_some_and(matching::is_catch_all);
                made.push(route);
                if all {
                    return;
                }
            }
        }
    }
}

fn name(rule: Option<&str>, of: Option<&str>) -> String {
    match (rule, of) {
        (Some(rule), Some(of)) => format!("{rule}.{of}"),
        (rule, of) => rule.or(of).unwrap_or_default().to_owned(),
    }
}

/// The object a route is of, as Istio's tools show it.
fn metadata(routes: &VirtualService) -> core::Metadata {
    let istio = object([("config", text(&names::config_path(&routes.key)))]);
    core::Metadata { filter_metadata: HashMap::from([("istio".to_owned(), istio)]), ..Default::default() }
}
