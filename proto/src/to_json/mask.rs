//! Field masks: what of a message to keep.
//!
//! Owns the reading of masks and the cutting of messages. Like Envoy's `/config_dump?mask=`, a path goes on into the content
//! of an `Any` and into every element of a list.

use crate::convert::any_of;
use crate::message::{Content, Message, Value};
use crate::schema::{MessageType, WellKnown, type_url_name};

/// A tree of field names; a name without names under it keeps the whole field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mask {
    names: Vec<(String, Mask)>,
}

impl Mask {
    /// Reads `a,b.c,b.d`.
    pub fn parse(text: &str) -> Self {
        let mut mask = Self::default();
        for path in text.split(',').map(str::trim).filter(|path| !path.is_empty()) {
            mask.add(path.split('.'));
        }
        mask
    }

    fn add<'p>(&mut self, mut path: impl Iterator<Item = &'p str>) {
        let Some(name) = path.next() else {
            // The whole field, whatever parts of it were named before.
            self.names.clear();
            return;
        };
        match self.names.iter_mut().find(|(other, _)| other == name) {
            Some((_, inner)) if inner.names.is_empty() => {}
            Some((_, inner)) => inner.add(path),
            None => {
                let mut inner = Self::default();
                inner.add(path);
                self.names.push((name.to_owned(), inner));
            }
        }
    }

    /// Cuts a message down to the mask.
    ///
    /// # Errors
    /// The first name that the message's type does not have.
    pub fn apply(&self, message: &mut Message) -> Result<(), String> {
        if self.names.is_empty() {
            return Ok(());
        }
        let ty = message.ty();
        if ty.well_known() == Some(WellKnown::Any) {
            return self.apply_to_any(message);
        }
        if let Some((name, _)) = self.names.iter().find(|(name, _)| ty.field_named(name).is_none()) {
            return Err(format!("{} has no field `{name}`", ty.name()));
        }
        let mut result = Ok(());
        message.retain(|field, content| {
            let inner = self.names.iter().find(|(name, _)| name == field.name() || name == field.json_name());
            let Some((_, inner)) = inner else { return false };
            let values: &mut dyn Iterator<Item = &mut Value> = match content {
                Content::One(value) => &mut std::iter::once(value),
                Content::List(values) => &mut values.iter_mut(),
                // A map is kept whole: its keys are no field names.
                Content::Map(_) => &mut std::iter::empty(),
            };
            for value in values {
                if let (Value::Message(message), Ok(())) = (value, &result) {
                    result = inner.apply(message);
                }
            }
            true
        });
        result
    }

    fn apply_to_any(&self, any: &mut Message) -> Result<(), String> {
        let url = any.string(1).to_owned();
        let Some(ty) = MessageType::find(type_url_name(&url)) else { return Ok(()) };
        let mut content = Message::decode(ty, any.bytes(2)).map_err(|e| e.to_string())?;
        self.apply(&mut content)?;
        if let Some(cut) = any_of(any.ty(), url, content.encode()) {
            *any = cut;
        }
        Ok(())
    }
}
