//! Configuration without its secrets, still as messages.
//!
//! Goes by Envoy's own marks of what is sensitive. What cannot be read is left out: whether there are secrets in it is not known.

use prost::Message as _;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};

use crate::pb::google::protobuf::Any;
use crate::schema::{Kind, MessageType, WellKnown, type_url_name};

/// What stands for a text that is hidden.
const REDACTED: &[u8] = b"[redacted]";
/// Messages that stand for others by a field, which is read in another way than this.
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// A message of any type, its secrets hidden. What cannot be read, or is of a type that is not known, is empty.
pub fn any(any: Any) -> Any {
    redacted_any(any, false)
}

fn redacted_any(any: Any, hide: bool) -> Any {
    let name = type_url_name(&any.type_url);
    let ty = MessageType::find(name).filter(|_| !TYPED_STRUCTS.contains(&name));
    let value = ty.and_then(|ty| message(ty, &any.value, hide)).unwrap_or_default();
    Any { value, ..any }
}

/// `None`: it cannot be read.
fn message(ty: MessageType, mut encoded: &[u8], hide: bool) -> Option<Vec<u8>> {
    if ty.well_known() == Some(WellKnown::Any) {
        return Some(redacted_any(Any::decode(encoded).ok()?, hide).encode_to_vec());
    }
    let mut out = Vec::with_capacity(encoded.len());
    while encoded.has_remaining() {
        let whole = encoded;
        let (number, wire) = decode_key(&mut encoded).ok()?;
        let field = ty.field(number);
        let hide = hide || field.is_some_and(|field| field.is_sensitive());
        if wire != WireType::LengthDelimited {
            skip_field(wire, number, &mut encoded, DecodeContext::default()).ok()?;
            // Numbers that are hidden go.
            if !hide {
                out.extend_from_slice(&whole[..whole.len() - encoded.len()]);
            }
            continue;
        }
        let content = delimited(&mut encoded)?;
        let Some(field) = field else { continue };
        let content = match field.map() {
            Some((_, value)) => entry(value.kind(), content, hide)?,
            None => match of_kind(field.kind(), content, hide)? {
                Some(content) => content,
                None => continue,
            },
        };
        put(number, &content, &mut out);
    }
    Some(out)
}

/// The content of a field; `Some(None)`: it goes.
fn of_kind(kind: Kind, content: &[u8], hide: bool) -> Option<Option<Vec<u8>>> {
    Some(match kind {
        Kind::Message(ty) => Some(message(ty, content, hide)?),
        Kind::String | Kind::Bytes if hide => Some(REDACTED.to_vec()),
        _ if hide => None,
        _ => Some(content.to_vec()),
    })
}

/// The entry of a map: its key stays.
fn entry(kind: Kind, mut encoded: &[u8], hide: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(encoded.len());
    while encoded.has_remaining() {
        let whole = encoded;
        let (number, wire) = decode_key(&mut encoded).ok()?;
        if wire == WireType::LengthDelimited && number == 2 {
            let content = delimited(&mut encoded)?;
            if let Some(content) = of_kind(kind, content, hide)? {
                put(number, &content, &mut out);
            }
            continue;
        }
        skip_field(wire, number, &mut encoded, DecodeContext::default()).ok()?;
        if !hide || number == 1 {
            out.extend_from_slice(&whole[..whole.len() - encoded.len()]);
        }
    }
    Some(out)
}

fn delimited<'b>(encoded: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(decode_varint(encoded).ok()?).ok()?;
    let (content, rest) = encoded.split_at_checked(length)?;
    *encoded = rest;
    Some(content)
}

fn put(number: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::any::pack;
    use crate::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use crate::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let inline = |text: &str| {
            Some(DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() })
        };
        let certificate = TlsCertificate {
            certificate_chain: inline("public"),
            private_key: inline("hidden"),
            ..TlsCertificate::default()
        };
        let secret = Secret { name: "s".into(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
        let has = |any: &Any, text: &str| any.value.windows(text.len()).any(|part| part == text.as_bytes());
        let shown = super::any(pack(&secret));
        assert!(has(&shown, "public") && has(&shown, "[redacted]") && !has(&shown, "hidden"));
        let wrapped = super::any(pack(&pack(&secret)));
        assert!(has(&wrapped, "public") && !has(&wrapped, "hidden"));
        let unknown = Any { type_url: "type.googleapis.com/x.Y".into(), value: b"hidden".to_vec() };
        assert!(super::any(unknown).value.is_empty());
    }
}
