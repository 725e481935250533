//! A document as Envoy's message, without any check of what weft supports or of the API's rules: these are `weft_proto`'s.

use prost::Message as _;
use serde_json::Value;
use weft_proto::document::{Document, Format};
use weft_proto::load::{Options, Source, load};
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use weft_proto::problem::Severity;
use weft_proto::schema::MessageType;

pub(super) fn bootstrap(value: &Value) -> Bootstrap {
    let document = Document::parse("test", &value.to_string(), Format::Json).unwrap();
    let ty = MessageType::find("envoy.config.bootstrap.v3.Bootstrap").unwrap();
    let converted = weft_proto::convert::convert(&document, ty);
    assert_eq!(converted.problems, []);
    Bootstrap::decode(converted.message.encode().as_slice()).unwrap()
}

/// What the table of supported fields refuses in a document, though it is converted: the two must agree.
pub(super) fn unsupported(value: &Value, skipped: &[String]) -> Vec<String> {
    let source = Source::text("test", value.to_string(), Format::Json);
    let Ok(loaded) = load::<Bootstrap>(&[source], Options { allow_unknown: true }) else { return Vec::new() };
    let problems = loaded.warnings.into_iter().filter(|p| p.severity > Severity::Warning);
    problems
        .filter(|p| !skipped.iter().any(|place| p.path.starts_with(place.as_str())))
        .map(|p| p.to_string())
        .collect()
}
