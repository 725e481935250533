//! Weft's control plane: what people write about their services in, xDS v3 out.
//!
//! | | |
//! |---|---|
//! | [`node`] | who asks |
//! | [`resource`] | what is served |
//! | [`generate`] | the seam between the two halves: a pure function from the world and a proxy to its resources |

pub mod generate;
pub mod node;
pub mod resource;
