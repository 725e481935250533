//! `envoy.service.status.v3.ClientStatusDiscoveryService`: what this proxy has by discovery, for tools that ask over gRPC.
//!
//! Envoy as a server does not have it; gRPC's own clients do, among their admin services. Owns the form. Secrets are redacted, as in
//! `/config_dump`.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use weft_proto::node_matcher::NodeMatchers;
use weft_proto::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use weft_proto::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ClientStatusResponse};
use weft_proto::pb::google::protobuf::Any;
use weft_proto::redact;
use weft_proto::wkt::{json_object, to_timestamp};

use super::config_dump::{DumpedResource, UpdateFailure};
use super::grpc::{Code, Status};
use super::sources::Sources;

/// Where the service is.
pub(super) const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/";
/// How many bytes of configuration an answer may hold: what gRPC's clients take is far less unless they are told otherwise.
const MAX_BYTES: usize = 64 << 20;

/// What was discovered, and by whom.
#[derive(Debug, Clone, Default)]
pub struct ClientStatus {
    /// As servers are told.
    pub node: Node,
    /// Each resource, in any order.
    pub resources: Vec<ResourceStatus>,
}

/// A resource.
#[derive(Debug, Clone)]
pub struct ResourceStatus {
    /// Type URL, with `type.googleapis.com/`.
    pub type_url: &'static str,
    /// Name.
    pub name: String,
    /// Version that was accepted last; empty: none was.
    pub version_info: String,
    /// That version, encoded.
    pub encoded: Option<Bytes>,
    /// When it was accepted.
    pub last_updated: Option<SystemTime>,
    /// What became of the last update.
    pub held: Held,
    /// The last update, if it was refused.
    pub error: Option<UpdateFailure>,
}

/// **Source**: `envoy.admin.v3.ClientResourceStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Asked for, and nothing was said of it.
    Requested,
    /// The server says that there is none.
    DoesNotExist,
    /// Accepted.
    Acked,
    /// Refused; what was there before, if anything, is in force.
    Nacked,
}

/// The answer to an encoded request.
///
/// # Errors
/// No request, a matcher that says nothing, or an answer that would be too large.
pub(super) fn answer(sources: &Sources, request: &[u8]) -> Result<Vec<u8>, Status> {
    let request =
        ClientStatusRequest::decode(request).map_err(|e| Status::new(Code::InvalidArgument, e.to_string()))?;
    let matchers = NodeMatchers::new(&request.node_matchers).map_err(|e| Status::new(Code::InvalidArgument, e))?;
    let ClientStatus { node, resources } = (sources.status)();
    let metadata = node.metadata.as_ref().map(json_object).unwrap_or_default();
    if !matchers.take(&node.id, &metadata) {
        return Ok(ClientStatusResponse::default().encode_to_vec());
    }
    let mut budget = Budget { contents: !request.exclude_resource_contents, left: MAX_BYTES };
    let dump = (sources.config)();
    let statics = dump.static_clusters.iter().chain(&dump.static_listeners);
    let mut all = statics.map(|r| of_bootstrap(r, &mut budget)).collect::<Result<Vec<_>, _>>()?;
    for resource in &resources {
        all.push(discovered(resource, &mut budget)?);
    }
    let config = ClientConfig { node: Some(node), generic_xds_configs: all, ..ClientConfig::default() };
    Ok(ClientStatusResponse { config: vec![config] }.encode_to_vec())
}

/// Whether configuration is in an answer, and how much more may be.
struct Budget {
    contents: bool,
    left: usize,
}

impl Budget {
    fn contents(&mut self, type_url: &str, encoded: &[u8]) -> Result<Option<Any>, Status> {
        if !self.contents {
            return Ok(None);
        }
        self.left = self.left.checked_sub(encoded.len()).ok_or_else(|| {
            let text = format!("more than {MAX_BYTES} bytes; set exclude_resource_contents, or see /config_dump");
            Status::new(Code::ResourceExhausted, text)
        })?;
        Ok(Some(redact::any(Any { type_url: type_url.to_owned(), value: encoded.to_vec() })))
    }
}

fn of_bootstrap(r: &DumpedResource, budget: &mut Budget) -> Result<GenericXdsConfig, Status> {
    Ok(GenericXdsConfig {
        type_url: r.type_url.to_owned(),
        name: r.name.clone(),
        xds_config: budget.contents(r.type_url, &r.encoded)?,
        last_updated: r.last_updated.map(to_timestamp),
        is_static_resource: true,
        ..GenericXdsConfig::default()
    })
}

fn discovered(r: &ResourceStatus, budget: &mut Budget) -> Result<GenericXdsConfig, Status> {
    let client_status = match r.held {
        Held::Requested => ClientResourceStatus::Requested,
        Held::DoesNotExist => ClientResourceStatus::DoesNotExist,
        Held::Acked => ClientResourceStatus::Acked,
        Held::Nacked => ClientResourceStatus::Nacked,
    };
    let contents = r.encoded.as_ref().map(|encoded| budget.contents(r.type_url, encoded));
    Ok(GenericXdsConfig {
        type_url: r.type_url.to_owned(),
        name: r.name.clone(),
        version_info: r.version_info.clone(),
        xds_config: contents.transpose()?.flatten(),
        last_updated: r.last_updated.map(to_timestamp),
        client_status: client_status.into(),
        error_state: r.error.as_ref().map(|f| UpdateFailureState {
            last_update_attempt: Some(to_timestamp(f.last_update_attempt)),
            details: f.details.clone(),
            version_info: f.version_info.clone(),
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    })
}
