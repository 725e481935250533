//! TLS: contexts for both sides, peers' identities, and certificates that are replaced while running.
//!
//! Owns handshakes and the material they need. It knows nothing of listeners and clusters. The protocol is rustls with
//! aws-lc; what is allowed and what is said when something fails is Envoy's. Handshakes run on workers; contexts are built,
//! and files read, on the control thread. No secret is ever part of a message.

mod client;
mod context;
mod der;
mod dn;
mod error;
mod facts;
mod identity;
mod inputs;
mod key_log;
mod names;
mod observed;
mod pkcs8;
mod reason;
mod resolver;
mod san;
mod secrets;
mod server;
mod session;
mod stats;
mod tickets;
mod trust;
mod validator;
mod verify;
mod watch;

#[cfg(test)]
mod tests;

pub use client::{ClientTls, ConnectOptions};
pub use context::{CertificateDetails, ContextCertificates};
pub use error::{TlsError, TlsErrorKind};
pub use secrets::{SecretLoader, SecretProvider};
pub use server::ServerTls;
pub use watch::watch_secrets;
