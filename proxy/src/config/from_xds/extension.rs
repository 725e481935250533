//! Filters whose configuration is discovered, of every kind: the source, and whether what comes may stand where it is wanted.

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::google::protobuf::Any;
use weft_proto::schema::type_url_name;

use super::ctx::{Ctx, Out, Shared, type_name};
use super::network_filter::terminal_last;
use super::{Environment, source};
use crate::config::{ConfigError, Extension, ExtensionDiscovery};

/// What one kind of filters is made of.
pub(super) struct Family<K: 'static> {
    /// Filters that there are, by the full name of their message.
    pub(super) known: &'static [&'static str],
    /// Converts one; `None`: nobody here implements it.
    pub(super) convert: fn(&Ctx<'_>, &Any) -> Option<Out<K>>,
}

/// Where a filter's configuration comes from.
pub(super) fn discovery<K>(
    c: &Ctx<'_>,
    name: &str,
    d: &core::ExtensionConfigSource,
    family: &Family<K>,
) -> Out<ExtensionDiscovery<K>> {
    let source = c.required("config_source", &d.config_source, source::config_source);
    let types = c.each("type_urls", &d.type_urls, |c, url| {
        let name = type_url_name(url);
        c.ensure(family.known.contains(&name), || format!("Error: no factory found for a required type URL {name}."))?;
        Ok(name.to_owned())
    })?;
    c.field("type_urls").ensure(!types.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let default = c.opt("default_config", &d.default_config, |c, any| {
        let found = type_name(any);
        let Some(kind) = (family.convert)(c, any) else {
            return c.refuse(format!(
                "Error: cannot find filter factory {name} for default filter configuration with type URL {found}."
            ));
        };
        c.ensure(types.iter().any(|t| **t == *found), || {
            format!("Error: filter config has type URL {found} but expect {}.", types.join(", "))
        })?;
        kind
    });
    let (source, default) = (source?, default?);
    let warm = !d.apply_default_config_without_warming;
    c.field("apply_default_config_without_warming").ensure(warm || default.is_some(), || {
        format!("Error: filter config {name} applied without warming but has no default config.")
    })?;
    Ok(ExtensionDiscovery { source, default, warm, types, last: false })
}

/// A discovered configuration.
pub(super) fn discovered<K>(c: &Ctx<'_>, t: &core::TypedExtensionConfig, family: &Family<K>) -> Out<Extension<K>> {
    let c = c.field("typed_config");
    let Some(any) = &t.typed_config else { return c.refuse("value is required") };
    let kind = match (family.convert)(&c, any) {
        Some(kind) => kind?,
        None => return c.unknown_extension(&t.name, Some(any)),
    };
    Ok(Extension { type_name: type_name(any).into_owned(), kind })
}

/// Whether a filter may stand where its configuration is discovered for, in Envoy's words. `end`: the name Envoy registers it by,
/// whether it ends a chain, and of what; absent: there are no ends.
///
/// # Errors
/// Why it may not.
pub(super) fn fits<K>(
    d: &ExtensionDiscovery<K>,
    name: &str,
    found: &Extension<K>,
    end: Option<(&str, bool, &str)>,
) -> Result<(), ConfigError> {
    let environment = Environment::default();
    let shared = Shared::new(&environment);
    let c = Ctx::root(&shared);
    let allowed = d.types.contains(&found.type_name);
    let fits = c
        .ensure(allowed, || {
            format!("Error: filter config has type URL {} but expect {}.", found.type_name, d.types.join(", "))
        })
        .and_then(|()| match end {
            Some((kind, terminal, chain)) => terminal_last(&c, name, kind, chain, terminal, d.last),
            None => Ok(()),
        });
    match fits {
        Ok(()) => Ok(()),
        Err(_) => Err(shared.into_findings().errors.pop().unwrap_or_else(|| ConfigError::at("", "does not fit"))),
    }
}
