//! From a resource's bytes to validated configuration: the same conversion as for a bootstrap.

use prost::{Message, Name};
use weft_proto::any::unpack;
use weft_proto::load;
use weft_proto::problem::Severity;

use super::mux::Resource;
use crate::config::ConfigError;
use crate::config::from_file::within;
use crate::config::from_xds::{Converted, Rejected};
use crate::stats::Counter;

/// What to do about fields that are not acted on.
pub(super) struct Strictness {
    /// `--reject-unknown-dynamic-fields`
    pub(super) reject: bool,
    /// `server.dynamic_unknown_fields`
    pub(super) unknown: Counter,
}

/// A resource that can be used.
pub(super) struct Checked<T> {
    /// The configuration.
    pub(super) value: T,
    /// Paths of fields that have no effect.
    pub(super) ignored: Vec<String>,
}

impl Strictness {
    /// Checks and converts a resource. `inert` finds what is converted and does not act yet.
    ///
    /// # Errors
    /// Every reason to refuse it, each with its field path.
    pub(super) fn check<P, T>(
        &self,
        resource: &Resource,
        convert: impl FnOnce(&P) -> Result<Converted<T>, Rejected>,
        inert: impl FnOnce(&T) -> Vec<ConfigError>,
    ) -> Result<Checked<T>, String>
    where
        P: Message + Name + Default,
    {
        let message = unpack::<P>(&resource.body).map_err(|e| e.to_string())?;
        let problems = load::check_resource(&resource.body);
        let invalid: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Invalid).map(text).collect();
        if !invalid.is_empty() {
            return Err(invalid.join("; "));
        }
        let converted = convert(&message).map_err(|rejected| {
            let all: Vec<_> = rejected.errors.iter().map(|e| place(&e.field_path, &e.reason)).collect();
            all.join("; ")
        })?;
        let unsupported =
            problems.iter().filter(|p| p.severity > Severity::Warning && !within(&p.path, &converted.skipped));
        let mut ignored: Vec<_> = unsupported.map(text).collect();
        ignored.extend(inert(&converted.value).iter().map(|e| place(&e.field_path, &e.reason)));
        if !ignored.is_empty() {
            if self.reject {
                return Err(ignored.join("; "));
            }
            self.unknown.add(ignored.len() as u64);
            let kind = P::full_name();
            tracing::warn!(resource = %resource.name, kind, fields = %ignored.join("; "), "fields that have no effect");
        }
        for w in &converted.warnings {
            tracing::warn!("{w}");
        }
        Ok(Checked { value: converted.value, ignored })
    }
}

fn text(p: &weft_proto::problem::Problem) -> String {
    place(&p.path, &p.reason)
}

fn place(path: &str, reason: &str) -> String {
    if path.is_empty() { reason.to_owned() } else { format!("{path}: {reason}") }
}
