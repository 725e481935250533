//! Parity: the same bootstrap and the same requests on Envoy and on weft-proxy; both sides' view of each is compared.
//!
//! Known differences are in `parity/known-gaps.txt`. `WEFT_PARITY_DIR=/some/folder` keeps all observations;
//! `WEFT_UPDATE=1` writes the list anew.
#![allow(clippy::large_futures, reason = "a test holds its buffers where it likes")]

#[path = "parity/address.rs"]
mod address;
#[path = "parity/admin.rs"]
mod admin;
#[path = "parity/authz.rs"]
mod authz;
#[path = "parity/authz_l4.rs"]
mod authz_l4;
#[path = "parity/fault.rs"]
mod fault;
#[path = "parity/filters.rs"]
mod filters;
#[path = "parity/grpc.rs"]
mod grpc;
#[path = "parity/headers.rs"]
mod headers;
#[path = "parity/http1.rs"]
mod http1;
#[path = "parity/jwt.rs"]
mod jwt;
#[path = "parity/l4.rs"]
mod l4;
#[path = "parity/limits.rs"]
mod limits;
#[path = "parity/limits_l4.rs"]
mod limits_l4;
#[path = "parity/network.rs"]
mod network;
#[path = "parity/origin.rs"]
mod origin;
#[path = "parity/paths.rs"]
mod paths;
#[path = "parity/rbac.rs"]
mod rbac;
#[path = "parity/resilience.rs"]
mod resilience;
#[path = "parity/routing.rs"]
mod routing;
#[path = "parity/tls.rs"]
mod tls;
