//! One encoding for equal messages.
//!
//! The generated types keep maps in hash order, which differs from one encoding to the next. Here they are sorted, also inside
//! an `Any`. Must not know: any particular message.

use weft_proto::message::{Content, Message, Value};
use weft_proto::schema::{MessageType, WellKnown, type_url_name};

/// The canonical encoding of an encoded message. What cannot be read stays as it is: it came from an encoder, so only a type
/// that the schema does not have can be the reason.
pub(super) fn canonical(full_name: &str, encoded: Vec<u8>) -> Vec<u8> {
    let Some(ty) = MessageType::find(full_name) else { return encoded };
    let Ok(mut message) = Message::decode(ty, &encoded) else { return encoded };
    open(&mut message);
    message.encode()
}

/// Puts the content of every `Any` in its canonical form; maps are sorted by having been decoded.
fn open(message: &mut Message) {
    if message.ty().well_known() == Some(WellKnown::Any) {
        let name = type_url_name(message.string(1)).to_owned();
        if let Some(Content::One(Value::Bytes(bytes))) = message.get_mut(2) {
            *bytes = canonical(&name, std::mem::take(bytes));
        }
        return;
    }
    let numbers: Vec<u32> = message.fields().map(|(field, _)| field.number()).collect();
    for number in numbers {
        match message.get_mut(number) {
            Some(Content::One(value)) => open_value(value),
            Some(Content::List(values)) => values.iter_mut().for_each(open_value),
            Some(Content::Map(entries)) => entries.values_mut().for_each(open_value),
            None => {}
        }
    }
}

fn open_value(value: &mut Value) {
    if let Value::Message(message) = value {
        open(message);
    }
}
