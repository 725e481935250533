//! Secrets: what they are, never what is in them.

use serde_json::Value as Json;

use super::super::output::Table;
use super::text;

pub(super) fn table<'a>(secrets: impl Iterator<Item = &'a Json>) -> String {
    let mut table = Table::new(&["SECRET", "TYPE"]);
    for secret in secrets {
        table.row([text(&secret["name"]).to_owned(), kind(secret).to_owned()]);
    }
    table.render()
}

fn kind(secret: &Json) -> &'static str {
    let kinds = [
        ("tls_certificate", "certificate and key"),
        ("validation_context", "trust"),
        ("session_ticket_keys", "session ticket keys"),
        ("generic_secret", "generic"),
    ];
    kinds.iter().find(|(field, _)| secret.get(field).is_some()).map_or("empty", |(_, kind)| kind)
}
