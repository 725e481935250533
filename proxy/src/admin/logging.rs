//! Log levels, by Envoy's logger names, and `/logging`.

use std::fmt::Write;
use std::str::FromStr;

use http::StatusCode;
use parking_lot::Mutex;

use super::body::{Params, Reply};
use super::sources::Sources;

/// Envoy's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is what it says")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl Level {
    const ALL: [Level; 7] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warning, Level::Error, Level::Critical, Level::Off];

    /// Envoy's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Off => "off",
        }
    }

    /// The name in a `tracing` filter, which knows no level above errors.
    fn directive(self) -> &'static str {
        match self {
            Level::Warning => "warn",
            Level::Critical => "error",
            other => other.as_str(),
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        // Envoy takes `warn`, too.
        let name = if name == "warn" { "warning" } else { name };
        Level::ALL.into_iter().find(|level| level.as_str() == name).ok_or(())
    }
}

/// Logger names and the modules whose messages they stand for. A more specific module wins.
const LOGGERS: &[(&str, &[&str])] = &[
    ("admin", &["weft_proxy::admin"]),
    ("config", &["weft_proxy::config", "weft_proxy::xds", "weft_proxy::snapshot"]),
    ("conn_handler", &["weft_proxy::listener", "weft_proxy::worker"]),
    ("connection", &["weft_proxy::transport"]),
    ("dns", &["weft_proxy::cluster::dns", "hickory_resolver", "hickory_proto"]),
    ("file", &["weft_proxy::access_log"]),
    ("filter", &["weft_proxy::tcp", "weft_proxy::http::filter"]),
    ("grpc", &["weft_proxy::http::grpc", "tonic"]),
    ("hc", &["weft_proxy::cluster::health"]),
    ("http", &["weft_proxy::http", "hyper", "hyper_util"]),
    ("http2", &["weft_proxy::http::h2", "h2"]),
    ("init", &["weft_proxy::drain", "weft_proxy::readiness"]),
    ("jwt", &["weft_proxy::http::filter::jwt"]),
    ("main", &["weft_proxy"]),
    ("pool", &["weft_proxy::upstream::pool"]),
    ("rbac", &["weft_proxy::http::filter::rbac", "weft_proxy::tcp::rbac"]),
    ("router", &["weft_proxy::http::route", "weft_proxy::http::request", "weft_proxy::http::retry"]),
    ("runtime", &["weft_proxy::runtime"]),
    ("secret", &["weft_proxy::transport::tls", "rustls"]),
    ("stats", &["weft_proxy::stats"]),
    ("tracing", &["weft_proxy::tracing"]),
    ("upstream", &["weft_proxy::cluster", "weft_proxy::upstream"]),
];

/// The log levels of the process.
pub struct Loggers {
    levels: Mutex<Vec<Level>>,
    apply: Box<dyn Fn(&str) + Send + Sync>,
}

impl Loggers {
    /// All loggers at one level. `apply` is handed the directives of a `tracing_subscriber::EnvFilter` whenever a level
    /// changes, and once now.
    pub fn new(level: Level, apply: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let loggers = Loggers { levels: Mutex::new(vec![level; LOGGERS.len()]), apply: Box::new(apply) };
        (loggers.apply)(&loggers.directives());
        loggers
    }

    /// Sets every logger.
    pub fn set_all(&self, level: Level) {
        self.levels.lock().fill(level);
        (self.apply)(&self.directives());
    }

    /// Sets some loggers; all of them or, if a name is not known, none.
    ///
    /// # Errors
    /// The name that is not known.
    pub fn set(&self, changes: &[(&str, Level)]) -> Result<(), String> {
        let place = |name: &str| LOGGERS.iter().position(|(known, _)| *known == name).ok_or_else(|| name.to_owned());
        let places =
            changes.iter().map(|(name, level)| Ok((place(name)?, *level))).collect::<Result<Vec<_>, String>>()?;
        {
            let mut levels = self.levels.lock();
            for (place, level) in places {
                if let Some(current) = levels.get_mut(place) {
                    *current = level;
                }
            }
        }
        (self.apply)(&self.directives());
        Ok(())
    }

    /// The level of a logger.
    pub fn level(&self, name: &str) -> Option<Level> {
        let place = LOGGERS.iter().position(|(known, _)| *known == name)?;
        self.levels.lock().get(place).copied()
    }

    /// The levels as an `EnvFilter`'s directives.
    pub fn directives(&self) -> String {
        let levels = self.levels.lock();
        let directive = |((_, targets), level): (&(&str, &[&str]), &Level)| {
            targets.iter().map(|target| format!("{target}={}", level.directive())).collect::<Vec<_>>()
        };
        let all: Vec<String> = LOGGERS.iter().zip(levels.iter()).flat_map(directive).collect();
        // Libraries that have no logger of their own speak when something is wrong.
        format!("warn,{}", all.join(","))
    }

    fn list(&self, out: &mut String) {
        out.push_str("active loggers:\n");
        for ((name, _), level) in LOGGERS.iter().zip(self.levels.lock().iter()) {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "  {name}: {}", level.as_str());
        }
        out.push('\n');
    }
}

impl std::fmt::Debug for Loggers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.directives())
    }
}

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
usage: /logging?group=<group_name>:<level> (change group of loggers)
levels: trace debug info warning error critical off \n";

pub(super) fn logging(sources: &Sources, params: &Params) -> Reply {
    let loggers = &sources.loggers;
    let mut out = String::new();
    let status = match change(loggers, params) {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            // Writing to a string cannot fail.
            let _ = write!(out, "error: {error}\n\n{USAGE}");
            StatusCode::BAD_REQUEST
        }
    };
    loggers.list(&mut out);
    Reply::error(status, out)
}

fn change(loggers: &Loggers, params: &Params) -> Result<(), &'static str> {
    let level = |name: &str| name.parse::<Level>().map_err(|()| "unknown logger level");
    // The form of the home page sends empty parameters, too.
    let given: Vec<_> = params.all().iter().filter(|(_, value)| !value.is_empty()).collect();
    let (name, value) = match given.as_slice() {
        [] => return Ok(()),
        [(name, value)] => (name.as_str(), value.as_str()),
        _ => return Err("invalid number of parameters"),
    };
    let changes = match name {
        "level" => {
            loggers.set_all(level(value)?);
            return Ok(());
        }
        "group" => return Err("group parameter requires fine-grain logging to be enabled"),
        "paths" => {
            let parts =
                value.split(',').map(|part| part.split_once(':').ok_or("empty logger name or empty logger level"));
            parts.map(|part| part.and_then(|(name, text)| Ok((name, level(text)?)))).collect::<Result<Vec<_>, _>>()?
        }
        name => vec![(name, level(value)?)],
    };
    loggers.set(&changes).map_err(|_| "unknown logger name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn loggers() -> (Loggers, Arc<Mutex<String>>) {
        let applied = Arc::new(Mutex::new(String::new()));
        let seen = applied.clone();
        (Loggers::new(Level::Info, move |directives| *applied.lock() = directives.to_owned()), seen)
    }

    #[test]
    fn levels_reach_the_subscriber() {
        let (loggers, seen) = loggers();
        assert!(seen.lock().starts_with("warn,weft_proxy::admin=info,"));
        loggers.set(&[("router", Level::Trace), ("http", Level::Off)]).unwrap();
        assert!(seen.lock().contains("weft_proxy::http::route=trace") && seen.lock().contains("weft_proxy::http=off"));
        assert_eq!(loggers.set(&[("router", Level::Info), ("nope", Level::Info)]), Err("nope".into()));
        assert_eq!(loggers.level("router"), Some(Level::Trace), "nothing was changed");
        loggers.set_all(Level::Critical);
        assert!(seen.lock().contains("weft_proxy=error"));
    }

    #[test]
    fn directives_are_a_filter() {
        let (loggers, _) = loggers();
        tracing_subscriber::EnvFilter::try_new(loggers.directives()).unwrap();
    }

    #[test]
    fn parameters() {
        let (loggers, _) = loggers();
        let change = |query: &str| change(&loggers, &Params::parse(query));
        assert_eq!(change("level=&paths="), Ok(()));
        assert_eq!(change("level=bogus"), Err("unknown logger level"));
        assert_eq!(change("paths=http:trace,router:warn"), Ok(()));
        assert_eq!((loggers.level("http"), loggers.level("router")), (Some(Level::Trace), Some(Level::Warning)));
        assert_eq!(change("admin=debug"), Ok(()));
        assert_eq!(loggers.level("admin"), Some(Level::Debug));
        assert_eq!(change("paths=nope:info"), Err("unknown logger name"));
        assert_eq!(change("a=b&c=d"), Err("invalid number of parameters"));
        assert!(change("group=http:info").is_err() && change("paths=http").is_err());
    }
}
