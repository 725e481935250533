//! What of a message weft does not act on: nothing configured is silently ignored.
//!
//! Owns the walk that compares a message, through every `Any`, with the table in `supported.txt`.
//! Must not know: which values are allowed (`rules`).

use crate::any::typed_struct_content;
use crate::message::{Content, Message, Value};
use crate::problem::{Path, Problem, Severity};
use crate::schema::{EnumType, Field, Kind, MessageType, Support, WellKnown, type_url_name};

/// Every field, enum value and type in the message that is not in the table, with its path.
///
/// Unsupported ones have [`Severity::Unsupported`], unknown field numbers [`Severity::Unknown`], and fields that are accepted
/// without effect [`Severity::Warning`]. What is under an unsupported field is not looked at.
pub fn check(message: &Message) -> Vec<Problem> {
    let mut walk = Walk::default();
    walk.message(message);
    walk.problems
}

#[derive(Default)]
struct Walk {
    path: Path,
    problems: Vec<Problem>,
}

impl Walk {
    fn problem(&mut self, severity: Severity, reason: String) {
        self.problems.push(Problem::new(severity, self.path.text(), reason));
    }

    fn message(&mut self, message: &Message) {
        let ty = message.ty();
        match ty.well_known() {
            Some(WellKnown::Any) => return self.any(message),
            Some(_) => return,
            None => {}
        }
        if !ty.is_supported() {
            return self.problem(Severity::Unsupported, unsupported_type(ty.name()));
        }
        for unknown in message.unknown() {
            let reason = format!("field number {} of {} is not known", unknown.number, ty.name());
            self.problem(Severity::Unknown, reason);
        }
        for (field, content) in message.fields() {
            let up = self.path.len();
            self.path.push_field(field.name());
            self.field(ty, field, content);
            self.path.truncate(up);
        }
    }

    fn field(&mut self, ty: MessageType, field: Field, content: &Content) {
        match field.support() {
            Support::No => {
                let reason = format!("field `{}` of {} is not supported by weft", field.name(), ty.name());
                self.problem(Severity::Unsupported, reason);
            }
            Support::Ignored(reason) => {
                let reason = format!("field `{}` has no effect: {reason}", field.name());
                self.problem(Severity::Warning, reason);
            }
            Support::Yes => self.content(field, content),
        }
    }

    fn content(&mut self, field: Field, content: &Content) {
        match content {
            Content::One(value) => self.value(field.kind(), value),
            Content::List(values) => {
                for (index, value) in values.iter().enumerate() {
                    let up = self.path.len();
                    self.path.push_index(index);
                    self.value(field.kind(), value);
                    self.path.truncate(up);
                }
            }
            Content::Map(entries) => {
                let kind = field.map().map_or(Kind::Bytes, |(_, value)| value.kind());
                for (key, value) in entries {
                    let up = self.path.len();
                    self.path.push_key(&key.to_string());
                    self.value(kind, value);
                    self.path.truncate(up);
                }
            }
        }
    }

    fn value(&mut self, kind: Kind, value: &Value) {
        match (kind, value) {
            (_, Value::Message(message)) => self.message(message),
            (Kind::Enum(ty), Value::Enum(number)) => self.enumeration(ty, *number),
            _ => {}
        }
    }

    fn enumeration(&mut self, ty: EnumType, number: i32) {
        match ty.value(number) {
            Some(value) if !value.is_supported() => {
                let reason = format!("{} of {} is not supported by weft", value.name(), ty.name());
                self.problem(Severity::Unsupported, reason);
            }
            Some(_) => {}
            None => {
                let reason = format!("{number} is no value of {}", ty.name());
                self.problem(Severity::Unknown, reason);
            }
        }
    }

    fn any(&mut self, any: &Message) {
        let url = any.string(1);
        if url.is_empty() {
            return;
        }
        match typed_struct_content(any) {
            Some(Ok(content)) => return self.message(&content),
            Some(Err(reason)) => return self.problem(Severity::Invalid, reason),
            None => {}
        }
        let name = type_url_name(url);
        match MessageType::find(name).filter(|ty| ty.is_supported()) {
            None => self.problem(Severity::Unsupported, unsupported_type(name)),
            Some(ty) => match Message::decode(ty, any.bytes(2)) {
                Ok(content) => self.message(&content),
                Err(e) => self.problem(Severity::Invalid, e.to_string()),
            },
        }
    }
}

fn unsupported_type(name: &str) -> String {
    format!("{name} is not supported by weft")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::envoy::config::cluster::v3 as cluster;
    use crate::pb::google::protobuf::Any;

    fn found(cluster: &cluster::Cluster) -> Vec<String> {
        let ty = MessageType::find("envoy.config.cluster.v3.Cluster").unwrap();
        let message = Message::decode(ty, &cluster.encode_to_vec()).unwrap();
        check(&message).iter().map(|p| format!("{:?} {p}", p.severity)).collect()
    }

    #[test]
    fn supported_fields_are_silent() {
        let cluster = cluster::Cluster { name: "a".into(), ..Default::default() };
        assert_eq!(found(&cluster), [""; 0]);
    }

    #[test]
    fn what_is_not_in_the_table_is_named_with_its_path() {
        let any =
            Any { type_url: "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua".into(), value: vec![] };
        let cluster = cluster::Cluster {
            cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(77)),
            lb_subset_config: Some(Default::default()),
            typed_extension_protocol_options: [("x".to_owned(), any)].into(),
            ..Default::default()
        };
        assert_eq!(
            found(&cluster),
            [
                "Unknown type: 77 is no value of envoy.config.cluster.v3.Cluster.DiscoveryType",
                "Unsupported lb_subset_config: field `lb_subset_config` of envoy.config.cluster.v3.Cluster is not supported by weft",
                "Unsupported typed_extension_protocol_options[\"x\"]: envoy.extensions.filters.http.lua.v3.Lua is not supported by weft",
            ]
        );
    }
}
