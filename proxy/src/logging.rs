//! The application's own log.

use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use crate::app::admin::ApplyLevels;
use crate::cli::Args;

/// Starts the log as the command line says: to standard error or a file, as text or JSON. What is returned changes its levels.
///
/// # Errors
/// A level that is none, a file that cannot be opened.
pub fn init(args: &Args) -> Result<ApplyLevels, String> {
    let filter = EnvFilter::try_new(args.level_filter()?).map_err(|e| format!("--component-log-level: {e}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let writer = match &args.log_path {
        None => fmt::writer::BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = std::fs::File::options().append(true).create(true).open(path);
            let file = file.map_err(|e| format!("--log-path: cannot open {}: {e}", path.display()))?;
            fmt::writer::BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let layer = fmt::layer().with_ansi(false).with_writer(writer);
    let layer = if args.log_format.as_deref() == Some("json") { layer.json().boxed() } else { layer.boxed() };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .map_err(|e| format!("cannot start the log: {e}"))?;
    // What `/logging` asks for replaces the filter.
    Ok(Arc::new(move |directives: &str| {
        if let Ok(filter) = EnvFilter::try_new(directives) {
            let _ = handle.reload(filter);
        }
    }))
}
