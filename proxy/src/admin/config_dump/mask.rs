//! Field masks over JSON: `a.b,c` keeps what is below `a.b` and `c`.

use serde_json::Value;

/// A parsed mask.
pub(super) struct Mask<'a> {
    paths: Vec<Vec<&'a str>>,
}

impl<'a> Mask<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
        Mask { paths: paths.map(|path| path.split('.').collect()).collect() }
    }

    /// The first name of each path, and whether the path ends there.
    pub(super) fn first_segments(&self) -> impl Iterator<Item = (&'a str, bool)> {
        self.paths.iter().filter_map(|path| path.first().map(|first| (*first, path.len() == 1)))
    }

    /// Cuts an object down. `@type` stays: Envoy takes a mask to apply within an `Any`.
    ///
    /// # Errors
    /// A path goes on below a list, which a mask cannot do.
    pub(super) fn apply(&self, value: &mut Value) -> Result<(), ()> {
        keep(value, &self.paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

fn keep(value: &mut Value, paths: &[&[&str]]) -> Result<(), ()> {
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Array(_) => return Err(()),
        // Nothing below a scalar is kept.
        _ => return Ok(()),
    };
    fields.retain(|name, _| name == "@type" || paths.iter().any(|path| path.first() == Some(&name.as_str())));
    for (name, field) in fields.iter_mut().filter(|(name, _)| *name != "@type") {
        let below: Vec<&[&str]> = paths
            .iter()
            .filter_map(|path| path.split_first())
            .filter(|(first, _)| *first == name)
            .map(|(_, rest)| rest)
            .collect();
        if below.iter().all(|rest| !rest.is_empty()) {
            keep(field, &below)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn masked(mask: &str) -> Option<Value> {
        let mut value = json!({"@type": "t", "a": {"b": 1, "c": {"d": 2}}, "e": [{"f": 1}], "g": 3});
        Mask::new(mask).apply(&mut value).ok().map(|()| value)
    }

    #[test]
    fn keeps_what_is_named() {
        assert_eq!(masked("a.b,g"), Some(json!({"@type": "t", "a": {"b": 1}, "g": 3})));
        assert_eq!(masked("a,a.b"), Some(json!({"@type": "t", "a": {"b": 1, "c": {"d": 2}}})));
        assert_eq!(masked("a.c.d"), Some(json!({"@type": "t", "a": {"c": {"d": 2}}})));
        assert_eq!(masked("a.x"), Some(json!({"@type": "t", "a": {}})));
        assert_eq!(masked("e"), Some(json!({"@type": "t", "e": [{"f": 1}]})));
        assert_eq!(masked("e.f"), None);
        assert_eq!(masked("x"), Some(json!({"@type": "t"})));
    }
}
