//! `google.protobuf.Any` and its contents.
//!
//! Owns the reading of type URLs and of `TypedStruct`, which stands for the message it names. Must not know: what a type is for.

use prost::{Message as _, Name};

use crate::convert::{TYPED_STRUCTS, resolve_typed_struct};
use crate::document::{Data, Entry, Node};
use crate::message::{Content, Message, Value};
use crate::pb::google::protobuf::Any;
use crate::problem::Position;
use crate::schema::{MessageType, type_url_name};

/// Why an `Any` is not the message that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It holds another type.
    #[error("type URL '{found}' found, '{expected}' is expected")]
    WrongType {
        /// The type URL it has.
        found: String,
        /// The full name of the type that was asked for.
        expected: String,
    },
    /// Its bytes are not a message of its type.
    #[error("cannot be decoded as {name}: {reason}")]
    Malformed {
        /// The full name of its type.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The full name of the type in an `Any`: what follows the last `/` of its type URL. Of a `TypedStruct` it is the type it
/// stands for, as long as that can be read.
pub fn type_name(any: &Any) -> String {
    let name = type_url_name(&any.type_url);
    if TYPED_STRUCTS.contains(&name)
        && let Ok(inner) = TypedStruct::decode(any.value.as_slice())
    {
        return type_url_name(&inner.type_url).to_owned();
    }
    name.to_owned()
}

/// Takes the message out of an `Any`, which must hold an `M` (or a `TypedStruct` that stands for one).
///
/// # Errors
/// Another type, or bytes that are not an `M`.
pub fn unpack<M: prost::Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    let expected = M::full_name();
    let malformed = |reason: String| UnpackError::Malformed { name: expected.clone(), reason };
    let found = type_name(any);
    if found != expected {
        return Err(UnpackError::WrongType { found: any.type_url.clone(), expected });
    }
    if type_url_name(&any.type_url) == expected {
        return M::decode(any.value.as_slice()).map_err(|e| malformed(e.to_string()));
    }
    let (_, message) = resolve(&any.type_url, &any.value).map_err(malformed)?;
    M::decode(message.encode().as_slice()).map_err(|e| malformed(e.to_string()))
}

/// Puts a message into an `Any`.
pub fn pack<M: prost::Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// The real content of an `Any` message that holds a `TypedStruct`; `None` if it holds anything else.
pub(crate) fn typed_struct_content(any: &Message) -> Option<Result<Message, String>> {
    let url = any.string(1);
    let is_struct = TYPED_STRUCTS.contains(&type_url_name(url));
    is_struct.then(|| resolve(url, any.bytes(2)).map(|(_, message)| message))
}

/// `xds.type.v3.TypedStruct` and `udpa.type.v1.TypedStruct`, which are the same on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TypedStruct {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    /// An encoded `google.protobuf.Struct`.
    #[prost(bytes = "vec", optional, tag = "2")]
    value: Option<Vec<u8>>,
}

impl TypedStruct {
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

fn resolve(url: &str, bytes: &[u8]) -> Result<(String, Message), String> {
    let inner = TypedStruct::decode(bytes).map_err(|e| format!("cannot be decoded as {}: {e}", type_url_name(url)))?;
    let ty = MessageType::find("google.protobuf.Struct").ok_or("no schema for google.protobuf.Struct")?;
    let value = Message::decode(ty, inner.value.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
    resolve_typed_struct(&node_of_struct(&value), &inner.type_url)
}

fn node(data: Data) -> Node {
    Node { at: Position::default(), data }
}

fn node_of_struct(message: &Message) -> Node {
    let Some(Content::Map(entries)) = message.get(1) else { return node(Data::Map(Vec::new())) };
    let entries = entries.iter().map(|(key, value)| Entry {
        at: Position::default(),
        key: key.to_string().into(),
        value: node_of_value(value),
    });
    node(Data::Map(entries.collect()))
}

/// A `google.protobuf.Value` as a node.
fn node_of_value(value: &Value) -> Node {
    let Value::Message(message) = value else { return node(Data::Null) };
    let Some((_, content)) = message.fields().next() else { return node(Data::Null) };
    node(match content {
        Content::One(Value::Bool(value)) => Data::Bool(*value),
        Content::One(Value::F64(value)) => Data::Number(value.to_string().into()),
        Content::One(Value::String(text)) => Data::String(text.as_str().into()),
        Content::One(Value::Message(inner)) => match inner.get(1) {
            Some(Content::List(items)) => Data::List(items.iter().map(node_of_value).collect()),
            None if inner.ty().name() == "google.protobuf.ListValue" => Data::List(Vec::new()),
            _ => return node_of_struct(inner),
        },
        _ => Data::Null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::core::v3::Node as CoreNode;
    use crate::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
    use crate::pb::google::protobuf as wkt;

    fn buffer() -> Buffer {
        Buffer { max_request_bytes: Some(wkt::UInt32Value { value: 7 }) }
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let mut any = pack(&buffer());
        assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer");
        assert_eq!(unpack::<Buffer>(&any).unwrap(), buffer());
        any.type_url = "envoy.extensions.filters.http.buffer.v3.Buffer".into();
        assert_eq!(unpack::<Buffer>(&any).unwrap(), buffer());
    }

    #[test]
    fn another_type_is_refused() {
        let error = unpack::<CoreNode>(&pack(&buffer())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "type URL 'type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer' found, \
             'envoy.config.core.v3.Node' is expected"
        );
        let mut any = pack(&buffer());
        any.value = vec![0xff];
        assert!(unpack::<Buffer>(&any).unwrap_err().to_string().starts_with("cannot be decoded as envoy"));
    }

    #[test]
    fn a_typed_struct_stands_for_its_type() {
        let number = wkt::Value { kind: Some(wkt::value::Kind::NumberValue(7.0)) };
        let value = wkt::Struct { fields: [("max_request_bytes".to_owned(), number)].into() };
        let typed = TypedStruct {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer".into(),
            value: Some(value.encode_to_vec()),
        };
        for name in TYPED_STRUCTS {
            let any = Any { type_url: format!("type.googleapis.com/{name}"), value: typed.encode_to_vec() };
            assert_eq!(type_name(&any), "envoy.extensions.filters.http.buffer.v3.Buffer");
            assert_eq!(unpack::<Buffer>(&any).unwrap(), buffer());
        }
    }
}
