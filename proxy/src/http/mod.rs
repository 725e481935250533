//! HTTP: codecs, the connection manager, routing, filters and the request itself.

mod attempts;
pub mod body;
pub(crate) mod call;
pub mod codec_stats;
pub mod connection;
mod failure;
pub mod filter;
pub(crate) mod grpc_client;
pub mod h1;
pub mod h2;
pub mod head;
pub mod header_map;
pub mod headers;
pub mod limit_rules;
pub mod limits;
pub mod local_reply;
pub mod manager;
pub mod mirror;
pub mod names;
pub mod normalize;
pub mod original_ip;
mod proxy_status;
pub mod replay;
pub mod reply_config;
mod request;
pub mod retry;
pub mod route;
mod spare;
pub mod stream;
mod strict;
mod timed_body;
pub mod timeout;
mod upload;
pub mod xfcc;

pub use head::{RequestHead, ResponseHead, Scheme};
pub use header_map::HeaderMap;
