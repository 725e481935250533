//! What is known: the objects people write, and the world they make.
//!
//! Must not know: files, servers, xDS. No input or output; everything is plain data.

pub mod kinds;
pub mod read;
