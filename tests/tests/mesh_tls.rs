//! Mutual TLS between sidecars: who is let in, by what a PeerAuthentication says and what the caller shows; and certificates and
//! roots that are replaced while requests go on. And who may do what, by what AuthorizationPolicies and RequestAuthentications say.

#[path = "mesh_tls/asked.rs"]
mod asked;
#[path = "mesh_tls/authorizer.rs"]
mod authorizer;
#[path = "mesh_tls/east_west.rs"]
mod east_west;
#[path = "mesh_tls/edge.rs"]
mod edge;
#[path = "mesh_tls/further.rs"]
mod further;
#[path = "mesh_tls/hour.rs"]
mod hour;
#[path = "mesh_tls/matrix.rs"]
mod matrix;
#[path = "mesh_tls/metrics.rs"]
mod metrics;
#[path = "mesh_tls/policy.rs"]
mod policy;
#[path = "mesh_tls/rotation.rs"]
mod rotation;
#[path = "mesh_tls/scene.rs"]
mod scene;
#[path = "mesh_tls/start.rs"]
mod start;
#[path = "mesh_tls/tokens.rs"]
mod tokens;
