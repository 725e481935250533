//! Envoy's validation rules: the `validate.rules` that its API declares, enforced on any message.
//!
//! Owns the walk and the rules of messages, lists and maps; `values` has those of single values. The reasons are worded as
//! Envoy's (protoc-gen-validate's). Must not know: any particular message.

#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;

use prost::Message as _;

use crate::any::typed_struct_content;
use crate::message::{Content, Message, Value};
use crate::pb::validate::field_rules::Type;
use crate::pb::validate::{AnyRules, FieldRules, MapRules, RepeatedRules};
use crate::problem::{Path, Problem, Severity};
use crate::schema::{Field, Kind, MessageType, WellKnown, type_url_name};

/// Every broken rule in the message, with its path: all [`Severity::Invalid`].
///
/// The content of an `Any` is checked if weft supports its type, as Envoy checks what it has a use for.
pub fn check(message: &Message) -> Vec<Problem> {
    let mut walk = Walk { path: Path::default(), problems: Vec::new(), patterns: HashMap::new() };
    walk.message(message);
    walk.problems
}

struct Walk {
    path: Path,
    problems: Vec<Problem>,
    /// The few regular expressions that rules name, made once per walk. `None`: not a valid one.
    patterns: HashMap<String, Option<regex::Regex>>,
}

impl Walk {
    fn broken(&mut self, reason: impl Into<String>) {
        self.problems.push(Problem::new(Severity::Invalid, self.path.text(), reason));
    }

    /// Runs `check` with the path going down, and up again.
    fn down(&mut self, push: impl FnOnce(&mut Path), check: impl FnOnce(&mut Self)) {
        let up = self.path.len();
        push(&mut self.path);
        check(self);
        self.path.truncate(up);
    }

    fn message(&mut self, message: &Message) {
        let ty = message.ty();
        match ty.well_known() {
            Some(WellKnown::Any) => return self.any(message),
            Some(_) => return,
            None => {}
        }
        if !ty.is_validated() {
            return;
        }
        for field in ty.fields() {
            let content = message.get(field.number());
            // The rules of a oneof's fields are for the one that is set.
            if content.is_some() || (field.oneof().is_none() && !field.rules().is_empty()) {
                self.down(|path| path.push_field(field.name()), |walk| walk.field(field, content));
            }
        }
        for (index, oneof) in ty.oneofs().enumerate() {
            if oneof.is_required() && !message.fields().any(|(field, _)| field.oneof() == Some(index)) {
                self.down(|path| path.push_field(oneof.name()), |walk| walk.broken("is required"));
            }
        }
    }

    fn field(&mut self, field: Field, content: Option<&Content>) {
        // The rules come with the schema; what is not a message of theirs is no rule.
        let rules = FieldRules::decode(field.rules()).unwrap_or_default();
        let skip = rules.message.is_some_and(|rules| rules.skip());
        match content {
            None => self.unset(field, &rules),
            Some(Content::One(value)) => self.value(field.kind(), value, &rules, skip),
            Some(Content::List(values)) => {
                let list = match &rules.r#type {
                    Some(Type::Repeated(list)) => Some(&**list),
                    _ => None,
                };
                self.list(field, values, list, skip);
            }
            Some(Content::Map(entries)) => {
                let pairs = entries.len() as u64;
                let map = match &rules.r#type {
                    Some(Type::Map(map)) => Some(&**map),
                    _ => None,
                };
                self.pairs(pairs, map);
                let Some((key_field, value_field)) = field.map() else { return };
                let key_rules = map.and_then(|map| map.keys.as_deref()).cloned().unwrap_or_default();
                let value_rules = map.and_then(|map| map.values.as_deref()).cloned().unwrap_or_default();
                for (key, value) in entries {
                    self.down(
                        |path| path.push_key(&key.to_string()),
                        |walk| {
                            let key_value = key.to_value(key_field.kind());
                            walk.value(key_field.kind(), &key_value, &key_rules, false);
                            walk.value(value_field.kind(), value, &value_rules, skip);
                        },
                    );
                }
            }
        }
    }

    /// A field without presence has its default value; one with presence can only be missed.
    fn unset(&mut self, field: Field, rules: &FieldRules) {
        let required = rules.message.is_some_and(|rules| rules.required())
            || match &rules.r#type {
                Some(Type::Any(rules)) => rules.required(),
                Some(Type::Duration(rules)) => rules.required(),
                Some(Type::Timestamp(rules)) => rules.required(),
                _ => false,
            };
        if required {
            return self.broken("value is required");
        }
        match &rules.r#type {
            Some(Type::Repeated(list)) => self.list(field, &[], Some(list), false),
            Some(Type::Map(map)) => self.pairs(0, Some(map)),
            _ if field.has_presence() || field.is_repeated() => {}
            _ => self.value(field.kind(), &Value::default_of(field.kind()), rules, false),
        }
    }

    fn list(&mut self, field: Field, values: &[Value], rules: Option<&RepeatedRules>, skip: bool) {
        if let Some(rules) = rules {
            self.items(values, rules);
        }
        let item_rules = rules.and_then(|rules| rules.items.as_deref()).cloned().unwrap_or_default();
        for (index, value) in values.iter().enumerate() {
            self.down(|path| path.push_index(index), |walk| walk.value(field.kind(), value, &item_rules, skip));
        }
    }

    fn items(&mut self, values: &[Value], rules: &RepeatedRules) {
        let count = values.len() as u64;
        if rules.ignore_empty() && count == 0 {
            return;
        }
        match (rules.min_items, rules.max_items) {
            (Some(min), Some(max)) if min == max && count != min => {
                self.broken(format!("value must contain exactly {min} item(s)"));
            }
            (Some(min), Some(max)) if count < min || count > max => {
                self.broken(format!("value must contain between {min} and {max} items, inclusive"));
            }
            (Some(min), None) if count < min => self.broken(format!("value must contain at least {min} item(s)")),
            (None, Some(max)) if count > max => self.broken(format!("value must contain no more than {max} item(s)")),
            _ => {}
        }
        if rules.unique() && repeats(values) {
            self.broken("repeated value must contain unique items");
        }
    }

    fn pairs(&mut self, count: u64, rules: Option<&MapRules>) {
        let Some(rules) = rules.filter(|rules| !(rules.ignore_empty() && count == 0)) else { return };
        if let Some(min) = rules.min_pairs.filter(|min| count < *min) {
            self.broken(format!("value must contain at least {min} pair(s)"));
        }
        if let Some(max) = rules.max_pairs.filter(|max| count > *max) {
            self.broken(format!("value must contain no more than {max} pair(s)"));
        }
    }

    fn value(&mut self, kind: Kind, value: &Value, rules: &FieldRules, skip: bool) {
        match value {
            Value::Message(message) => {
                match message.ty().well_known() {
                    Some(WellKnown::Wrapper) => self.wrapper(message, rules),
                    Some(WellKnown::Duration) => self.duration(message, rules),
                    Some(WellKnown::Any) => self.any_rules(message, rules),
                    _ => {}
                }
                if !skip {
                    self.message(message);
                }
            }
            _ => self.scalar(kind, value, rules),
        }
    }

    /// The rules of a wrapper are those of the value in it.
    fn wrapper(&mut self, message: &Message, rules: &FieldRules) {
        let Some(field) = message.ty().field(1) else { return };
        match message.get(1) {
            Some(Content::One(value)) => self.scalar(field.kind(), value, rules),
            _ => self.scalar(field.kind(), &Value::default_of(field.kind()), rules),
        }
    }

    fn any_rules(&mut self, any: &Message, rules: &FieldRules) {
        let Some(Type::Any(AnyRules { r#in, not_in, .. })) = &rules.r#type else { return };
        let url = any.string(1);
        if !r#in.is_empty() && !r#in.iter().any(|allowed| allowed == url) {
            self.broken(format!("type URL must be in list {in:?}"));
        }
        if not_in.iter().any(|refused| refused == url) {
            self.broken(format!("type URL must not be in list {not_in:?}"));
        }
    }

    /// What cannot be read, or is not supported, is for others to report.
    fn any(&mut self, any: &Message) {
        let content = match typed_struct_content(any) {
            Some(content) => content.ok(),
            None => MessageType::find(type_url_name(any.string(1)))
                .filter(|ty| ty.is_supported())
                .and_then(|ty| Message::decode(ty, any.bytes(2)).ok()),
        };
        if let Some(content) = content {
            self.message(&content);
        }
    }
}

/// Whether a value occurs twice. Lists with this rule are of strings and numbers.
fn repeats(values: &[Value]) -> bool {
    let mut seen = std::collections::HashSet::with_capacity(values.len());
    values.iter().any(|value| !seen.insert(format!("{value:?}")))
}
