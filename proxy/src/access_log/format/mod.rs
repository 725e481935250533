//! Envoy's substitution formats: text or JSON with `%OPERATORS%` that are filled in from a request and what became of it.
//!
//! A format is compiled once and rendered often: nothing is looked up by name and nothing is allocated for the common
//! operators. Beside access logs it serves header values, path rewrites and the bodies of local replies.
//!
//! What Envoy 1.40 has and we refuse by name: `CEL` and `TYPED_CEL` (no expression language here), and the extensions
//! `FILE_CONTENT` and `SECRET`.
//!
//! Runs on: workers render; the control thread compiles.

mod command;
mod context;
mod eval;
mod json;
mod parameters;
mod parse;
mod simple;
mod time;
mod tls;
mod value;

use self::command::{Command, pieces};
pub use self::context::{LogContext, LogType};
pub(super) use self::eval::status_of;
use self::json::Node;
use crate::config::{LogFormat, LogTemplate};

/// Envoy's access log line where no format is configured.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A compiled format.
#[derive(Debug, Clone)]
pub struct Template {
    form: Form,
    omit_empty: bool,
}

#[derive(Debug, Clone)]
enum Form {
    Text(Vec<Piece>),
    Json(Node),
}

/// Text, or an operator.
#[derive(Debug, Clone)]
enum Piece {
    Literal(Vec<u8>),
    Operator { command: Command, limit: Option<usize> },
}

impl Template {
    /// Compiles text; what is missing renders as `-`. A line of a log ends with whatever `format` ends with.
    ///
    /// # Errors
    /// Envoy's message: where a command is malformed, or which one is not known.
    pub fn text(format: &str) -> Result<Template, String> {
        Ok(Template { form: Form::Text(pieces(format)?), omit_empty: false })
    }

    /// Compiles a header's or a path's value; what is missing renders as nothing.
    ///
    /// # Errors
    /// As [`Template::text`].
    pub fn value(format: &str) -> Result<Template, String> {
        Ok(Template { omit_empty: true, ..Self::text(format)? })
    }

    /// Compiles an object whose string leaves hold operators. Keys are sorted; a leaf that is one operator keeps the type of
    /// its value, and `null` stands for a missing one; with `omit_empty` it is left out, and so are objects left empty. A
    /// newline follows the object.
    ///
    /// # Errors
    /// As [`Template::text`].
    pub fn json(format: &serde_json::Value, omit_empty: bool) -> Result<Template, String> {
        Ok(Template { form: Form::Json(Node::new(format)?), omit_empty })
    }

    /// Compiles a configured format.
    ///
    /// # Errors
    /// As [`Template::text`].
    pub fn compile(format: &LogFormat) -> Result<Template, String> {
        let omit_empty = format.omit_empty_values;
        match &format.template {
            LogTemplate::Default => Self::text(DEFAULT_FORMAT),
            LogTemplate::Text(text) => Ok(Template { omit_empty, ..Self::text(text)? }),
            // `sort_properties` changes nothing: Envoy 1.40 sorts either way.
            LogTemplate::Json(json) => Self::json(json, omit_empty),
        }
    }

    /// Appends the rendered text to `out`.
    pub fn render(&self, ctx: &LogContext<'_>, out: &mut Vec<u8>) {
        match &self.form {
            Form::Text(pieces) => render_text(pieces, self.omit_empty, ctx, out),
            Form::Json(node) => {
                if !node.render(self.omit_empty, ctx, out) {
                    out.extend_from_slice(b"{}");
                }
                out.push(b'\n');
            }
        }
    }

    /// The text, if there is no operator in it: a caller may keep it instead of rendering.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &self.form {
            Form::Text(pieces) => match pieces.as_slice() {
                [] => Some(b""),
                [Piece::Literal(text)] => Some(text),
                _ => None,
            },
            Form::Json(_) => None,
        }
    }

    /// Whether it names a header or trailer of the response.
    pub fn reads_response(&self) -> bool {
        let pieces = match &self.form {
            Form::Text(pieces) => pieces.iter().collect(),
            Form::Json(node) => node.pieces(),
        };
        pieces.iter().any(|piece| matches!(piece, Piece::Operator { command, .. } if command.reads_response()))
    }
}

fn render_text(pieces: &[Piece], omit_empty: bool, ctx: &LogContext<'_>, out: &mut Vec<u8>) {
    for piece in pieces {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text),
            Piece::Operator { command, limit } => {
                if !command.evaluate(ctx).write_text(*limit, out) && !omit_empty {
                    out.push(b'-');
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
