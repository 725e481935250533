//! One proxy with everything around it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use regex::{Captures, Regex};
use tempfile::TempDir;

use crate::locate::Kind;
use crate::ports::Reserved;
use crate::proxy::Proxy;
use crate::upstream::{Flavour, Journal, Upstream};

/// A proxy on a bootstrap, the upstreams the bootstrap names, and the ports it listens on.
///
/// Placeholders in the bootstrap: `{{admin}}`; `{{port:NAME}}`, a listener's port; `{{dir}}`, a directory of its own
/// with the certificates of [`crate::tls`]; `{{upstream:NAME}}`, the port of an upstream, whose kind is in its name:
/// `dead…` refuses connections, `tcp…` echoes bytes, `tls…` is HTTP over TLS, all others are HTTP.
#[derive(Debug)]
pub struct World {
    /// Which proxy it is.
    pub kind: Kind,
    /// The proxy.
    pub proxy: Proxy,
    /// What the upstreams saw.
    pub journal: Journal,
    ports: BTreeMap<String, u16>,
    dir: TempDir,
    bootstrap: PathBuf,
    arguments: Vec<String>,
    /// How much of the access log was read.
    logged: std::sync::atomic::AtomicUsize,
    _upstreams: Vec<Upstream>,
    _reserved: Vec<Reserved>,
}

fn placeholder() -> Result<Regex> {
    Regex::new(r"\{\{(?:(port|upstream):([\w.-]+)|(admin|dir))\}\}").context("placeholder pattern")
}

impl World {
    /// Starts upstreams and proxy.
    ///
    /// # Errors
    /// When any of them does not start.
    pub async fn start(kind: Kind, bootstrap: &str) -> Result<Self> {
        // The admin port is let go before the proxy takes it, and a connection of somebody else's may get it in between.
        for _ in 0..2 {
            match Self::ready(kind, bootstrap).await {
                Err(e) if format!("{e:#}").contains("Address already in use") => {}
                world => return world,
            }
        }
        Self::ready(kind, bootstrap).await
    }

    async fn ready(kind: Kind, bootstrap: &str) -> Result<Self> {
        let mut world = Self::begin(kind, bootstrap, &[]).await?;
        world.proxy.ready(kind).await?;
        Ok(world)
    }

    /// Starts upstreams and proxy, which need not become ready: it may wait for its configuration. `{{dir}}` in an argument is the
    /// world's directory.
    ///
    /// # Errors
    /// When any of them does not start.
    pub async fn begin(kind: Kind, bootstrap: &str, arguments: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weft-test-").tempdir().context("temporary directory")?;
        crate::tls::material()?.write(dir.path())?;
        let journal = Journal::default();
        let (mut upstreams, mut reserved) = (Vec::new(), Vec::new());
        let mut ports = BTreeMap::new();
        for found in placeholder()?.captures_iter(bootstrap) {
            let (key, name) = key(&found);
            if ports.contains_key(&key) || key == "dir" {
                continue;
            }
            let port = if key.starts_with("upstream:") && !name.starts_with("dead") {
                let flavour = match &name {
                    name if name.starts_with("tcp") => Flavour::Tcp,
                    name if name.starts_with("tls") => Flavour::Tls,
                    _ => Flavour::Http,
                };
                let upstream = Upstream::start(&name, flavour, journal.clone()).await?;
                let port = upstream.port();
                upstreams.push(upstream);
                port
            } else {
                let port = Reserved::new()?;
                let number = port.port();
                reserved.push(port);
                number
            };
            ports.insert(key, port);
        }
        let text = placeholder()?.replace_all(bootstrap, |found: &Captures<'_>| {
            let (key, _) = key(found);
            if key == "dir" {
                dir.path().display().to_string()
            } else {
                ports.get(&key).map(u16::to_string).unwrap_or_default()
            }
        });
        let file = dir.path().join("bootstrap.yaml");
        std::fs::write(&file, text.as_bytes()).context("bootstrap")?;
        let admin = *ports.get("admin").context("the bootstrap has no {{admin}}")?;
        // The admin listener does not share its port.
        for port in reserved.iter_mut().filter(|port| port.port() == admin) {
            port.release();
        }
        let place = dir.path().display().to_string();
        let arguments: Vec<_> = arguments.iter().map(|a| a.replace("{{dir}}", &place)).collect();
        let proxy = Proxy::spawn(kind, &file, admin, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(Self {
            kind,
            proxy,
            journal,
            ports,
            dir,
            bootstrap: file,
            arguments,
            logged: std::sync::atomic::AtomicUsize::new(0),
            _upstreams: upstreams,
            _reserved: reserved,
        })
    }

    /// Starts the proxy again, which has ended, as it was started before.
    ///
    /// # Errors
    /// When it does not start.
    pub fn again(&mut self) -> Result<()> {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.proxy = Proxy::spawn(self.kind, &self.bootstrap, self.port("admin")?, &arguments)?;
        Ok(())
    }

    /// The port of a listener.
    ///
    /// # Errors
    /// When the bootstrap does not name it.
    pub fn port(&self, name: &str) -> Result<u16> {
        let key = if name == "admin" { name.to_owned() } else { format!("port:{name}") };
        self.ports.get(&key).copied().with_context(|| format!("no listener {name:?} in the bootstrap"))
    }

    /// Fills in the placeholders of a text, which the bootstrap must have named.
    ///
    /// # Errors
    /// When a pattern is broken.
    pub fn fill(&self, text: &str) -> Result<String> {
        let filled = placeholder()?.replace_all(text, |found: &Captures<'_>| {
            let (key, _) = key(found);
            if key == "dir" {
                self.dir.path().display().to_string()
            } else {
                self.ports.get(&key).map_or_else(|| format!("(no {key})"), u16::to_string)
            }
        });
        Ok(filled.into_owned())
    }

    /// The world's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Lines of the access log since the last call.
    pub fn log_lines(&self) -> Vec<String> {
        use std::sync::atomic::Ordering;
        let text = std::fs::read_to_string(self.dir().join("access.log")).unwrap_or_default();
        // A line counts once it is whole.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let from = self.logged.swap(whole, Ordering::Relaxed);
        text.get(from..whole).unwrap_or("").lines().map(str::to_owned).collect()
    }

    /// What differs from run to run and from world to world, replaced by names.
    ///
    /// # Errors
    /// When a pattern is broken.
    pub fn normalise(&self, text: &str) -> Result<String> {
        let mut text = text.replace(&self.dir().display().to_string(), "{{dir}}");
        for (key, port) in &self.ports {
            // Stat names have it behind an underscore, which counts as a letter.
            let number = Regex::new(&format!(r"(\b|_){port}\b"))?;
            text = number.replace_all(&text, format!("${{1}}{{{{{key}}}}}").as_str()).into_owned();
        }
        const VOLATILE: [(&str, &str); 6] = [
            (r"(PROXY TCP[46] [^ ]+ [^ ]+) \d+ ", "$1 <port> "),
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
            (r"(?im)^(\s*(?:x-envoy-upstream-service-time|x-envoy-expected-rq-timeout-ms): )\d+$", "${1}<ms>"),
            (r"(\b\d+\.\d+\.\d+\.\d+):[1-9]\d{3,4}\b", "$1:<port>"),
            (r"(?im)^\s*date: .*\n", ""),
            (r"date: \w{3}, [\w :]+ GMT", "date: <date>"),
        ];
        for (pattern, by) in VOLATILE {
            text = Regex::new(pattern)?.replace_all(&text, by).into_owned();
        }
        Ok(text)
    }
}

fn key(found: &Captures<'_>) -> (String, String) {
    match (found.get(1), found.get(2), found.get(3)) {
        (Some(kind), Some(name), _) => (format!("{}:{}", kind.as_str(), name.as_str()), name.as_str().to_owned()),
        (_, _, Some(word)) => (word.as_str().to_owned(), word.as_str().to_owned()),
        _ => (String::new(), String::new()),
    }
}
