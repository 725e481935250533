//! Resources from YAML.

use anyhow::{Context, Result, ensure};
use weft_proto::convert::convert;
use weft_proto::document::{Document, Format};
use weft_proto::pb::google::protobuf::{Any, Duration};
use weft_proto::schema::{MessageType, type_url_name};

use crate::config::dedent;

/// Clusters.
pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints.
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Routes.
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Secrets.
pub const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Runtime values.
pub const RTDS: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

/// Configurations of filters.
pub const ECDS: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// Virtual hosts.
pub const VHDS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// A resource to be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Name.
    pub name: String,
    /// Message; absent: a heartbeat.
    pub body: Option<Any>,
    /// Time to live.
    pub ttl: Option<Duration>,
    /// Other names that it answers for (delta).
    pub aliases: Vec<String>,
    /// Tells it from another of the same name in one response.
    pub copy: u32,
}

impl Resource {
    pub(super) fn key(&self) -> String {
        if self.copy == 0 { self.name.clone() } else { format!("{}#{}", self.name, self.copy) }
    }

    /// The same with a time to live.
    #[must_use]
    pub fn living(mut self, milliseconds: i32) -> Self {
        self.ttl = Some(Duration { seconds: i64::from(milliseconds / 1000), nanos: milliseconds % 1000 * 1_000_000 });
        self
    }

    /// Another of the same name.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.copy += 1;
        self
    }

    /// The same with other bytes.
    #[must_use]
    pub fn holding(mut self, bytes: &[u8]) -> Self {
        if let Some(body) = &mut self.body {
            body.value = bytes.to_vec();
        }
        self
    }
}

/// A resource of a type, written in YAML.
///
/// # Errors
/// It is not of that type.
pub fn resource(type_url: &str, yaml: &str) -> Result<Resource> {
    let yaml = dedent(yaml);
    let ty = MessageType::find(type_url_name(type_url)).with_context(|| format!("unknown type {type_url}"))?;
    let document = Document::parse("resource", &yaml, Format::Yaml).map_err(|p| anyhow::anyhow!("{p}"))?;
    let converted = convert(&document, ty);
    let problems: Vec<_> = converted.problems.iter().map(ToString::to_string).collect();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    // Every kind has its name in field 1.
    let name = converted.message.string(1).to_owned();
    let body = Some(Any { type_url: type_url.to_owned(), value: converted.message.encode() });
    Ok(Resource { name, body, ttl: None, aliases: Vec::new(), copy: 0 })
}
