//! Who we tell a management server that we are.

use prost::Message;
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use weft_proto::pb::envoy::config::core::v3::node::UserAgentVersionType;
use weft_proto::pb::envoy::config::core::v3::{BuildVersion, Locality, Node};
use weft_proto::pb::envoy::r#type::v3::SemanticVersion;

use crate::config;

/// The node of the bootstrap, the command line's options over it.
pub(super) fn node(bootstrap: &[u8], options: &config::Node) -> Node {
    let mut node = Bootstrap::decode(bootstrap).ok().and_then(|b| b.node).unwrap_or_default();
    node.id.clone_from(&options.id);
    node.cluster.clone_from(&options.cluster);
    if options.locality != config::Locality::default() {
        let l = &options.locality;
        node.locality = Some(Locality { region: l.region.clone(), zone: l.zone.clone(), sub_zone: l.sub_zone.clone() });
    }
    "weft-proxy".clone_into(&mut node.user_agent_name);
    let part = |text: &str| text.parse().unwrap_or(0);
    let version = SemanticVersion {
        major_number: part(env!("CARGO_PKG_VERSION_MAJOR")),
        minor_number: part(env!("CARGO_PKG_VERSION_MINOR")),
        patch: part(env!("CARGO_PKG_VERSION_PATCH")),
    };
    let build = BuildVersion { version: Some(version), metadata: None };
    node.user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(build));
    node
}
