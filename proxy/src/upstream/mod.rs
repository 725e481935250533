//! Upstream connections: connecting, pooling, and one attempt of a request.

pub mod attempt;
pub mod connector;
pub mod happy;
pub mod pool;
mod proxy_header;
mod socket;

use std::borrow::Cow;

/// Why no connection could be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolError {
    /// A circuit breaker is open.
    Overflow,
    /// The cluster may not have another pool (`max_connection_pools`).
    NoPool,
    /// Connecting failed.
    Connect {
        /// For logs: what failed.
        reason: Cow<'static, str>,
        /// How.
        fault: ConnectFault,
    },
}

/// How connecting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFault {
    /// The other side refused, or is not there, or failed its handshake.
    Remote,
    /// It could not be begun: the source address is not ours, a socket option is refused.
    Local,
    /// The time ran out.
    Timeout,
}

impl PoolError {
    /// Whether the other side ended it.
    pub fn is_remote(&self) -> bool {
        matches!(self, PoolError::Connect { fault: ConnectFault::Remote, .. })
    }
}
