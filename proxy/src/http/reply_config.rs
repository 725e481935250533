//! `local_reply_config`: what the connection manager makes of every local reply before it is sent.
//!
//! Runs on: workers rewrite; the control thread compiles.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::head::ResponseHead;
use super::headers::Mutations;
use super::stream::StreamCtx;
use crate::access_log::{Filter, LogContext, LogType, Template};
use crate::config::{self, ConfigError, DataSource, LogFormat, LogTemplate};
use crate::runtime::Runtime;

/// A compiled `local_reply_config`.
pub struct ReplyConfig {
    mappers: Vec<Mapper>,
    format: Option<BodyFormat>,
}

struct Mapper {
    filter: Filter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    format: Option<BodyFormat>,
    headers: Mutations,
}

struct BodyFormat {
    template: Template,
    content_type: HeaderValue,
}

impl ReplyConfig {
    /// Compiles. Bodies in files are read now.
    ///
    /// # Errors
    /// A bad filter, format, header or status, or a file that cannot be read.
    pub fn new(config: &config::LocalReplyConfig, runtime: &Runtime) -> Result<Self, ConfigError> {
        let mappers =
            config.mappers.iter().enumerate().map(|(i, m)| {
                Mapper::new(m, runtime).map_err(|e| below(e, &format!("local_reply_config.mappers[{i}]")))
            });
        let format = config.body_format.as_ref().map(BodyFormat::new).transpose();
        Ok(ReplyConfig {
            mappers: mappers.collect::<Result<_, _>>()?,
            format: format.map_err(|e| below(e, "local_reply_config.body_format"))?,
        })
    }

    /// Rewrites status, headers and body of a reply. `Some`: the body's new content type, where a format made the body.
    pub fn apply(&self, ctx: &mut StreamCtx, head: &mut ResponseHead, body: &mut Bytes) -> Option<HeaderValue> {
        if self.mappers.is_empty() && self.format.is_none() {
            return None;
        }
        // Filters and formats see the status the reply has so far.
        ctx.info.response_code = head.status.as_u16();
        let mut format = None;
        if let Some(mapper) = self.mappers.iter().find(|m| m.filter.admits(&context(ctx, head, ""))) {
            if let Some(new) = &mapper.body {
                *body = new.clone();
            }
            mapper.headers.apply_response(ctx, head);
            if let Some(status) = mapper.status {
                head.status = status;
                ctx.info.response_code = status.as_u16();
            }
            format = mapper.format.as_ref();
        }
        let format = format.or(self.format.as_ref())?;
        let mut out = Vec::new();
        format.template.render(&context(ctx, head, &String::from_utf8_lossy(body)), &mut out);
        *body = out.into();
        Some(format.content_type.clone())
    }
}

fn context<'a>(ctx: &'a StreamCtx, head: &'a ResponseHead, body: &'a str) -> LogContext<'a> {
    LogContext { response: Some(head), local_reply_body: body, ..ctx.log_context(LogType::NotSet) }
}

impl Mapper {
    fn new(m: &config::ResponseMapper, runtime: &Runtime) -> Result<Self, ConfigError> {
        let status =
            |code| StatusCode::from_u16(code).map_err(|_| ConfigError::at("status_code", "not an HTTP status"));
        let body = match &m.body {
            None => None,
            Some(DataSource::Inline(bytes)) => Some(bytes.clone()),
            Some(DataSource::File { path, .. }) => {
                let read = std::fs::read(path);
                Some(read.map_err(|e| ConfigError::at("body.filename", format!("cannot read {path}: {e}")))?.into())
            }
        };
        let format = m.body_format.as_ref().map(BodyFormat::new).transpose();
        Ok(Mapper {
            filter: Filter::new(&m.filter, runtime).map_err(|e| below(e, "filter"))?,
            status: m.status.map(status).transpose()?,
            body,
            format: format.map_err(|e| below(e, "body_format_override"))?,
            headers: Mutations::new(&m.headers_to_add).map_err(|e| below(e, "headers_to_add"))?,
        })
    }
}

impl BodyFormat {
    fn new(format: &LogFormat) -> Result<Self, ConfigError> {
        let content_type = match (&format.content_type, &format.template) {
            (Some(configured), _) => super::route::header_value(configured, "content_type")?,
            (None, LogTemplate::Json(_)) => HeaderValue::from_static("application/json"),
            (None, _) => HeaderValue::from_static("text/plain"),
        };
        let template = Template::compile(format).map_err(|reason| ConfigError::at("format", reason))?;
        Ok(BodyFormat { template, content_type })
    }
}

fn below(mut error: ConfigError, parent: &str) -> ConfigError {
    error.field_path = format!("{parent}.{}", error.field_path);
    error
}
