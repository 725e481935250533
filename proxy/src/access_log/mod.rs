//! Access logs: formats, filters and sinks.
//!
//! Runs on: workers format and append; a thread of its own writes to files; the control thread compiles.

mod filter;
pub mod format;
mod sink;

#[cfg(test)]
pub(crate) mod fixture;

use std::cell::RefCell;
use std::sync::Arc;

use nix::errno::Errno;

pub use self::format::{LogContext, LogType, Template};
pub use self::sink::{FlushOptions, SinkRegistry};

pub(crate) use self::filter::Filter;
use self::sink::Sink;
use crate::config::{self, AccessLogSink, ConfigError};
use crate::runtime::Runtime;

/// The access logs of one place in the configuration: a listener, a connection manager, a TCP proxy, the admin interface.
#[derive(Debug, Clone, Default)]
pub struct AccessLogs(Vec<AccessLogger>);

/// One access log.
#[derive(Debug, Clone)]
struct AccessLogger {
    filter: Option<Filter>,
    template: Template,
    sink: Arc<Sink>,
}

thread_local! {
    // Lines are rendered here before they are appended, so that no lock is held while they are.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A line that made the buffer larger than this was an odd one; the memory is given back.
const KEEP_LINE: usize = 16 * 1024;

impl AccessLogs {
    /// Compiles configured logs and opens their files.
    ///
    /// # Errors
    /// A format or filter that is not valid, or a file that cannot be opened.
    pub fn compile(
        logs: &[config::AccessLog],
        sinks: &SinkRegistry,
        runtime: &Runtime,
    ) -> Result<AccessLogs, ConfigError> {
        let one = |(i, log): (usize, &config::AccessLog)| {
            AccessLogger::compile(log, sinks, runtime).map_err(|mut error| {
                error.field_path = format!("access_log[{i}].{}", error.field_path);
                error
            })
        };
        logs.iter().enumerate().map(one).collect::<Result<_, _>>().map(AccessLogs)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a format or filter looks at the response's headers or trailers.
    pub fn needs_response_headers(&self) -> bool {
        let reads = |log: &AccessLogger| {
            log.template.reads_response() || log.filter.as_ref().is_some_and(Filter::reads_response)
        };
        self.0.iter().any(reads)
    }

    /// Makes an entry in each log whose filter wants one.
    pub fn log(&self, ctx: &LogContext<'_>) {
        for log in &self.0 {
            if log.filter.as_ref().is_none_or(|filter| filter.admits(ctx)) {
                log.write(ctx);
            }
        }
    }
}

impl AccessLogger {
    fn compile(log: &config::AccessLog, sinks: &SinkRegistry, runtime: &Runtime) -> Result<Self, ConfigError> {
        let template = Template::compile(&log.format).map_err(|reason| ConfigError::at("log_format", reason))?;
        let filter = log.filter.as_ref().map(|filter| Filter::new(filter, runtime)).transpose();
        let filter = filter.map_err(|mut error| {
            error.field_path = format!("filter.{}", error.field_path);
            error
        })?;
        let sink = sinks.open(&log.sink).map_err(|error| {
            let path = match &log.sink {
                AccessLogSink::File(path) => path,
                AccessLogSink::Stdout => "/dev/stdout",
                AccessLogSink::Stderr => "/dev/stderr",
            };
            let reason =
                error.raw_os_error().map_or_else(|| error.to_string(), |code| Errno::from_raw(code).desc().into());
            ConfigError::at("path", format!("unable to open file '{path}': {reason}"))
        })?;
        Ok(AccessLogger { filter, template, sink })
    }

    fn write(&self, ctx: &LogContext<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.template.render(ctx, line);
            self.sink.append(line);
            if line.capacity() > KEEP_LINE {
                *line = Vec::new();
            }
        });
    }
}

#[cfg(test)]
mod tests;
