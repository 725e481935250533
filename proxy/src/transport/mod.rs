//! How bytes are carried: sockets, TLS, and the relay between two connections.
//!
//! Owns the byte streams, the TLS contexts and the copying. It knows nothing of protocols above: no HTTP, no clusters, no
//! listeners. Runs on: workers; contexts are built on the control thread.

mod copy;
mod gate;
pub mod socket_options;
mod splice;
pub mod stream;
pub mod tls;

pub use copy::{Relay, RelayEnd, RelayOptions};
pub use gate::Admission;
pub use stream::Stream;
