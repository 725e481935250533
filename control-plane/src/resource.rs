//! What is served: named, versioned resources and the sets a proxy gets.
//!
//! Owns the types of resources, their canonical encoding and their versions. Must not know: what a resource means, who gets it.
//! Everything here is immutable and shared; it runs wherever configuration is generated.
//!
//! A version is a hash of the content, so it is the same after a restart and on another replica: a proxy that reconnects with
//! what it holds is sent only what differs.

mod canonical;
mod set;
#[cfg(test)]
mod tests;

pub use set::ResourceSet;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use prost::Name;
use prost::encoding::{WireType, encode_key, encode_varint};

/// A type of resources that proxies subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster` (CDS).
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS), named as their cluster's `eds_cluster_config.service_name`.
    Endpoints,
    /// `envoy.config.listener.v3.Listener` (LDS).
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS).
    Route,
    /// `envoy.config.route.v3.VirtualHost` (VHDS).
    VirtualHost,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret` (SDS).
    Secret,
    /// `envoy.config.core.v3.TypedExtensionConfig` (ECDS).
    Extension,
}

impl ResourceType {
    /// Every type, in the order in which changes are sent: what is referred to goes before what refers to it.
    pub const ALL: [Self; 7] =
        [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route, Self::VirtualHost, Self::Secret, Self::Extension];

    /// The type URL in requests and responses.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The type with this type URL, if it is served.
    #[must_use]
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.type_url() == type_url)
    }

    /// The name of its discovery service, as tools show it.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::VirtualHost => "VHDS",
            Self::Secret => "SDS",
            Self::Extension => "ECDS",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.short_name())
    }
}

/// A hash of content. Printed as 16 hexadecimal digits, which is the form on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version(u64);

impl Version {
    fn of(content: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// Reads what [`fmt::Display`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = text.len() == 16 && !text.starts_with('+');
        u64::from_str_radix(text, 16).ok().filter(|_| canonical).map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One named resource.
#[derive(Debug)]
pub struct Resource {
    name: Arc<str>,
    version: Version,
    /// The encoded `google.protobuf.Any` of the message.
    any: Bytes,
    /// Where the message begins in `any`.
    message_at: usize,
    /// The objects it was made of, as people call them.
    origins: Arc<[Arc<str>]>,
}

/// Resources are equal if a proxy cannot tell them apart.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.version, &self.any) == (&other.name, other.version, &other.any)
    }
}

impl Eq for Resource {}

impl Resource {
    /// A resource of a message. Its maps are put in order, so that equal messages have equal versions.
    pub fn new<M: prost::Message + Name>(name: impl Into<Arc<str>>, message: &M) -> Self {
        let full_name = M::full_name();
        let message = canonical::canonical(&full_name, message.encode_to_vec());
        Self::encoded(name.into(), &format!("type.googleapis.com/{full_name}"), &message)
    }

    fn encoded(name: Arc<str>, type_url: &str, message: &[u8]) -> Self {
        let mut any = Vec::with_capacity(type_url.len() + message.len() + 16);
        encode_key(1, WireType::LengthDelimited, &mut any);
        encode_varint(type_url.len() as u64, &mut any);
        any.extend_from_slice(type_url.as_bytes());
        encode_key(2, WireType::LengthDelimited, &mut any);
        encode_varint(message.len() as u64, &mut any);
        let message_at = any.len();
        any.extend_from_slice(message);
        Self { name, version: Version::of(&any), any: any.into(), message_at, origins: Arc::default() }
    }

    /// The name proxies subscribe to.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The hash of its content.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The same, made of these objects.
    #[must_use]
    pub fn made_of(self, origins: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { origins: origins.into_iter().collect(), ..self }
    }

    /// The objects it was made of: `VirtualService default/reviews`. Of two resources that are equal one is kept, with the
    /// objects that it was made of first.
    #[must_use]
    pub fn origins(&self) -> &[Arc<str>] {
        &self.origins
    }

    /// The hash of its name and its content.
    pub(crate) fn content(&self) -> Version {
        Version::of((&self.name, self.version.0))
    }

    /// The encoded `google.protobuf.Any` that holds the message.
    #[must_use]
    pub fn any(&self) -> &Bytes {
        &self.any
    }

    /// The encoded message.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.any.slice(self.message_at..)
    }
}

/// Everything one proxy may have: a set of each type. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    sets: [Arc<ResourceSet>; ResourceType::ALL.len()],
}

impl Resources {
    /// The set of a type.
    #[must_use]
    pub fn get(&self, ty: ResourceType) -> &Arc<ResourceSet> {
        &self.sets[ty as usize]
    }

    /// Replaces the set of a type. One that is equal to what is there is dropped: the old `Arc` stays.
    pub fn set(&mut self, ty: ResourceType, set: impl Into<Arc<ResourceSet>>) {
        let set = set.into();
        let slot = &mut self.sets[ty as usize];
        if slot.version() != set.version() {
            *slot = set;
        }
    }

    /// The set of a type, to change it; it is copied if somebody else holds it.
    pub fn set_mut(&mut self, ty: ResourceType) -> &mut ResourceSet {
        Arc::make_mut(&mut self.sets[ty as usize])
    }

    /// These with `own` over them; of a name that both have, `own` has the one that counts.
    #[must_use]
    pub fn with(&self, own: &Self) -> Self {
        let mut all = self.clone();
        for (ty, set) in ResourceType::ALL.into_iter().zip(&own.sets).filter(|(_, set)| !set.is_empty()) {
            all.set(ty, ResourceSet::over(self.get(ty), set));
        }
        all
    }
}
