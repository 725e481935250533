//! Envoy's wire types and the conversions around them.
//!
//! | to | use |
//! |---|---|
//! | the generated types | [`pb`] |
//! | load a bootstrap from YAML, JSON or binary, with every problem at its line | [`load`] |
//! | check what came over the wire | [`load::check_resource`] |
//! | take a message out of an `Any`, also out of a `TypedStruct` | [`any::unpack`] |
//! | durations, times, wrappers, percentages, Structs as Rust values | [`wkt`] |
//! | hide the secrets of a message that stays one | [`redact`] |
//! | match nodes, as a status service is asked to | [`node_matcher`] |
//! | print a message as Envoy's admin interface does, secrets redacted | [`to_json`] |
//! | ask what a message has and what weft supports of it | [`schema`] |
//!
//! The way of a configuration: [`document`] (text to a tree that knows its lines), [`convert`] (the tree to a [`message`] and its
//! [`spans`]), [`coverage`] (what weft does not act on), [`rules`] (what Envoy's API does not allow), then the generated type.
//!
//! Two plain lists steer the build: `src/supported.txt`, the fields weft acts on, and `src/roots.txt`, further types to know.
//! Nothing here does input or output but [`load::Source::file`], nothing keeps a thread, and nothing stays on the heap.

pub use envoy_types::pb;

pub mod any;
pub mod convert;
pub mod coverage;
pub mod descriptors;
pub mod document;
pub mod load;
pub mod message;
pub mod node_matcher;
pub mod own;
pub mod problem;
pub mod redact;
pub mod rules;
pub mod schema;
pub mod spans;
pub mod to_json;
pub mod wkt;
