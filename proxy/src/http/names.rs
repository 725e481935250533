//! Names of header fields that the `http` crate does not define, ready made: a look-up by text has to parse the text first.

use http::HeaderName;

/// Hop by hop, and never passed on.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// What some clients send in place of `Connection`.
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Goes with an upgrade to HTTP/2 (RFC 7540 section 3.2.1).
pub const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// The status of a gRPC call.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How long the upstream took, in milliseconds.
pub const UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
