//! What is sent, as messages that share the bytes of their resources.
//!
//! Owns the wire form of responses. They equal `DiscoveryResponse` and `DeltaDiscoveryResponse` on the wire; the generated types
//! would copy each resource for each client. Must not know: why something is sent.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::Variant;
use crate::resource::{Resource, ResourceType, Version};

/// A response to be sent.
#[derive(Clone, Debug)]
pub struct Push {
    /// The protocol it is for.
    pub variant: Variant,
    /// The type of all its resources.
    pub ty: ResourceType,
    /// The state it brings the client to.
    pub version: Version,
    /// What the answer will name.
    pub nonce: u64,
    /// The resources in it.
    pub resources: Vec<Arc<Resource>>,
    /// Those of them that the client did not have, or had otherwise.
    pub changed: Vec<Arc<Resource>>,
    /// Names that are gone (delta only; in the other protocol what is absent is gone).
    pub removed: Vec<Arc<str>>,
}

impl Push {
    /// The message to send is this, which only one stream sends, and [`Self::shared`] after it.
    #[must_use]
    pub fn own(&self) -> Bytes {
        let nonce = self.nonce.to_string();
        let message = match self.variant {
            Variant::Sotw => SotwResponse { nonce, ..SotwResponse::default() }.encode_to_vec(),
            Variant::Delta => DeltaResponse { nonce, ..DeltaResponse::default() }.encode_to_vec(),
        };
        message.into()
    }

    /// The part of the message that all streams share that send the same.
    #[must_use]
    pub fn shared(&self, control_plane: &str) -> Bytes {
        let control_plane = Some(ControlPlane { identifier: control_plane.to_owned() });
        let version = self.version.to_string();
        let type_url = self.ty.type_url().to_owned();
        let message = match self.variant {
            Variant::Sotw => SotwResponse {
                version_info: version,
                resources: self.resources.iter().map(|resource| resource.any().clone()).collect(),
                type_url,
                control_plane,
                ..SotwResponse::default()
            }
            .encode_to_vec(),
            Variant::Delta => DeltaResponse {
                system_version_info: version,
                resources: self.resources.iter().map(|resource| DeltaResource::from(&**resource)).collect(),
                type_url,
                removed_resources: self.removed.iter().map(ToString::to_string).collect(),
                control_plane,
                ..DeltaResponse::default()
            }
            .encode_to_vec(),
        };
        message.into()
    }

    /// A hash of what [`Self::shared`] says.
    #[must_use]
    pub fn content(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.variant == Variant::Delta, self.ty, self.version, &self.removed, self.resources.len()).hash(&mut hasher);
        self.resources.iter().for_each(|resource| resource.content().hash(&mut hasher));
        hasher.finish()
    }
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct SotwResponse {
    /// The version of the state.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Encoded `google.protobuf.Any`, which on the wire looks like any bytes.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// The type of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the answer names.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Who answers.
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeltaResponse {
    /// The version of the state.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// Added and changed resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<DeltaResource>,
    /// The type of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the answer names.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that are gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who answers.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeltaResource {
    /// The version of the resource.
    #[prost(string, tag = "1")]
    pub version: String,
    /// An encoded `google.protobuf.Any`.
    #[prost(bytes = "bytes", tag = "2")]
    pub resource: Bytes,
    /// The name.
    #[prost(string, tag = "3")]
    pub name: String,
}

impl From<&Resource> for DeltaResource {
    fn from(resource: &Resource) -> Self {
        Self {
            version: resource.version().to_string(),
            resource: resource.any().clone(),
            name: resource.name().to_string(),
        }
    }
}

/// `envoy.config.core.v3.ControlPlane`.
#[derive(Clone, PartialEq, prost::Message)]
struct ControlPlane {
    /// The name of this process.
    #[prost(string, tag = "1")]
    pub identifier: String,
}
