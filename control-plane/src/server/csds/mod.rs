//! `envoy.service.status.v3.ClientStatusDiscoveryService`: what each connected proxy has, for tools that ask over gRPC.
//!
//! Owns the form. Secrets are redacted, as they are in every other place where configuration is shown. Must not know: streams.

mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use prost::Message as _;
use tonic::Status;
use weft_proto::node_matcher::NodeMatchers;
use weft_proto::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use weft_proto::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use weft_proto::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use weft_proto::pb::google::protobuf::{Any, Timestamp};
use weft_proto::redact;

use super::connections::{Connection, wall};
use super::session::{How, Session, Standing};
use crate::resource::{Resource, ResourceType};

/// How many bytes of configuration an answer may hold. All of a mesh's proxies together may have more than fits into memory.
const MAX_BYTES: usize = 64 << 20;

/// The answer to a question.
///
/// # Errors
/// A matcher that says nothing, or an answer that would be too large.
pub(super) fn answer(
    connections: &[Arc<Connection>],
    request: &ClientStatusRequest,
) -> Result<ClientStatusResponse, Status> {
    let matchers = NodeMatchers::new(&request.node_matchers).map_err(Status::invalid_argument)?;
    // A proxy that has a stream for each type is one client.
    let mut proxies: BTreeMap<&str, Vec<&Connection>> = BTreeMap::new();
    for connection in connections {
        if matchers.take(&connection.proxy.id, &connection.proxy.metadata) {
            proxies.entry(&connection.proxy.id).or_default().push(connection);
        }
    }
    let mut budget = Budget { contents: !request.exclude_resource_contents, left: MAX_BYTES };
    let config = proxies.into_values().map(|streams| client(&streams, &mut budget)).collect::<Result<_, _>>()?;
    Ok(ClientStatusResponse { config })
}

/// Whether configuration is in an answer, and how much more may be.
struct Budget {
    contents: bool,
    left: usize,
}

impl Budget {
    fn contents(&mut self, resource: &Resource) -> Result<Option<Any>, Status> {
        if !self.contents {
            return Ok(None);
        }
        let any = redact::any(Any::decode(resource.any().as_ref()).unwrap_or_default());
        self.left = self.left.checked_sub(any.value.len()).ok_or_else(|| {
            Status::resource_exhausted(format!(
                "more than {MAX_BYTES} bytes; name proxies with node_matchers, or set exclude_resource_contents"
            ))
        })?;
        Ok(Some(any))
    }
}

fn client(streams: &[&Connection], budget: &mut Budget) -> Result<ClientConfig, Status> {
    let mut config = ClientConfig { node: streams.first().map(|of| node::node(&of.proxy)), ..ClientConfig::default() };
    for connection in streams {
        for ty in ResourceType::ALL {
            // What is shown of one type is of one moment.
            let (standing, refusal) = {
                let session = connection.session();
                (session.standing(ty), refusal(&session, ty))
            };
            for of in standing {
                config.generic_xds_configs.push(resource(ty, &of, refusal.as_ref(), budget)?);
            }
        }
    }
    Ok(config)
}

/// Why and when a client has refused something of a type.
struct Refusal {
    reason: String,
    at: SystemTime,
}

fn refusal(session: &Session, ty: ResourceType) -> Option<Refusal> {
    let nack = session.subscription(ty)?.nack()?;
    Some(Refusal { reason: nack.reason.clone(), at: wall(nack.at) })
}

fn resource(
    ty: ResourceType,
    of: &Standing,
    refusal: Option<&Refusal>,
    budget: &mut Budget,
) -> Result<GenericXdsConfig, Status> {
    use ClientResourceStatus as Client;
    let (config_status, client_status) = match of.how {
        How::Accepted => (ConfigStatus::Synced, Client::Acked),
        How::Unanswered => (ConfigStatus::Stale, Client::Requested),
        // It runs what it was sent before.
        How::Waiting => (ConfigStatus::Stale, Client::Acked),
        How::Refused => (ConfigStatus::Error, Client::Nacked),
        How::NotSent => (ConfigStatus::NotSent, Client::Requested),
        How::Absent => (ConfigStatus::NotSent, Client::DoesNotExist),
    };
    let shown = of.sent.as_ref();
    let version_info = shown.map(|resource| resource.version().to_string()).unwrap_or_default();
    let xds_config = shown.map(|resource| budget.contents(resource)).transpose()?.flatten();
    let error_state = refusal.filter(|_| of.how == How::Refused).map(|refusal| UpdateFailureState {
        failed_configuration: xds_config.clone(),
        last_update_attempt: Some(timestamp(refusal.at)),
        details: refusal.reason.clone(),
        version_info: version_info.clone(),
    });
    Ok(GenericXdsConfig {
        type_url: ty.type_url().to_owned(),
        name: of.name.to_string(),
        version_info,
        xds_config,
        last_updated: of.at.map(|at| timestamp(wall(at))),
        config_status: config_status as i32,
        client_status: client_status as i32,
        error_state,
        is_static_resource: false,
    })
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
