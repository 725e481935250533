//! A second line of defence for secrets: whoever turns messages into JSON redacts sensitive fields already, and what is
//! known to hold a secret by its name is redacted here again.

use serde_json::{Map, Value};

/// Fields that are sensitive wherever they are.
const ANYWHERE: [&str; 9] = [
    "private_key",
    "password",
    "pkcs12",
    "secret_access_key",
    "session_token",
    "secret_data",
    "backend_token",
    "auth_password",
    "downstream_auth_password",
];

/// Fields that are sensitive below another: parent, field.
const BELOW: [(&str, &str); 4] = [
    ("generic_secret", "secret"),
    ("generic_secret", "secrets"),
    ("session_ticket_keys", "keys"),
    ("private_key_provider", "typed_config"),
];

/// Fields that are sensitive in messages of a type: end of the type URL, field.
const OF_TYPE: [(&str, &str); 3] = [
    (".basic_auth.v3.BasicAuth", "users"),
    (".api_key_auth.v3.ApiKeyAuth", "credentials"),
    (".ext_authz.v3.CheckSettings", "context_extensions"),
];

/// Hides secrets in place.
pub(super) fn redact(value: &mut Value) {
    walk("", value);
}

fn walk(parent: &str, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(parent, item)),
        Value::Object(fields) => {
            let kind = fields.get("@type").and_then(Value::as_str).unwrap_or_default().to_owned();
            for (name, field) in fields.iter_mut() {
                let sensitive = ANYWHERE.contains(&name.as_str())
                    || BELOW.contains(&(parent, name))
                    || OF_TYPE.iter().any(|(end, field)| kind.ends_with(end) && field == name);
                if sensitive {
                    hide(field);
                } else {
                    walk(name, field);
                }
            }
        }
        _ => {}
    }
}

/// Every text becomes `[redacted]`; what is no text goes.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) => *text = "[redacted]".to_owned(),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => hide_fields(fields),
        other => *other = Value::Null,
    }
}

fn hide_fields(fields: &mut Map<String, Value>) {
    for (name, field) in fields.iter_mut() {
        match (name.as_str(), &mut *field) {
            ("@type", _) => {}
            // Bytes stay bytes: the same word in base64.
            ("inline_bytes", Value::String(text)) => *text = "W3JlZGFjdGVkXQ==".to_owned(),
            _ => hide(field),
        }
    }
    fields.retain(|_, field| !field.is_null());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_do_not_show() {
        let mut value = json!({
            "tls_certificate": {
                "certificate_chain": {"filename": "/c.pem"},
                "private_key": {"inline_string": "KEY", "watched_directory": {"path": "/d"}},
                "password": {"inline_bytes": "S0VZ"},
            },
            "generic_secret": {"secret": {"environment_variable": "HUSH"}, "secrets": {"a": {"inline_string": "x"}}},
            "session_ticket_keys": {"keys": [{"filename": "/k"}]},
            "http": [{"@type": "x/envoy.extensions.filters.http.basic_auth.v3.BasicAuth", "users": {"inline_string": "u"}}],
            "users": "are people",
            "keys": [1],
        });
        redact(&mut value);
        let expected = json!({
            "tls_certificate": {
                "certificate_chain": {"filename": "/c.pem"},
                "private_key": {"inline_string": "[redacted]", "watched_directory": {"path": "[redacted]"}},
                "password": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
            },
            "generic_secret": {
                "secret": {"environment_variable": "[redacted]"},
                "secrets": {"a": {"inline_string": "[redacted]"}},
            },
            "session_ticket_keys": {"keys": [{"filename": "[redacted]"}]},
            "http": [{
                "@type": "x/envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
                "users": {"inline_string": "[redacted]"},
            }],
            "users": "are people",
            "keys": [1],
        });
        assert_eq!(value, expected);
        let once = value.clone();
        redact(&mut value);
        assert_eq!(value, once, "twice is as once");
    }
}
