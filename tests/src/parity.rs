//! The same steps on Envoy and on weft-proxy, and what differs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::client::{Client, Socket, tcp};
use crate::config::Config;
use crate::gaps::Gaps;
use crate::h2_client::{self, H2Request};
use crate::locate::{Kind, NO_ENVOY, NO_WEFT, skipped};
use crate::message::Message;
use crate::upstream::show;
use crate::wait::{PATIENCE, eventually};
use crate::world::World;

/// TLS on the client's side of a step.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    /// The name asked for; none sends no SNI.
    pub sni: Option<String>,
    /// Protocols offered.
    pub alpn: Vec<&'static str>,
    /// Which identity of [`crate::tls`] to show.
    pub identity: Option<&'static str>,
}

/// Something a client does; what it sees goes into the case's observation.
#[derive(Clone, Debug)]
pub enum Step {
    /// Requests in one write on one HTTP/1 connection; as many answers are awaited as there are methods.
    Http1 {
        /// Listener.
        to: String,
        /// All bytes.
        bytes: Vec<u8>,
        /// One method for each awaited answer.
        methods: Vec<String>,
        /// TLS, if any.
        tls: Option<ClientTls>,
        /// Also note whether the connection is closed afterwards.
        closes: bool,
    },
    /// Bytes on a connection: several writes, each after an answer to the one before; then the end of writing.
    Bytes {
        /// Listener.
        to: String,
        /// Writes.
        writes: Vec<Vec<u8>>,
        /// Whether the client ends its side after the last answer.
        finish: bool,
        /// TLS, if any.
        tls: Option<ClientTls>,
    },
    /// Bytes on a connection that is then reset.
    Abort {
        /// Listener.
        to: String,
        /// The one write.
        write: Vec<u8>,
    },
    /// A step while a connection that says nothing is open.
    Beside {
        /// Listener of that connection.
        to: String,
        /// The step.
        step: Box<Step>,
    },
    /// One HTTP/2 request.
    Http2 {
        /// Listener.
        to: String,
        /// The request.
        request: H2Request,
        /// TLS, if any.
        tls: Option<ClientTls>,
    },
    /// The named counters and gauges.
    Stats(Vec<String>),
    /// An admin page: status, content type, and for JSON its keys, for text its lines.
    Admin {
        /// Method.
        method: String,
        /// Path.
        path: String,
        /// How much of the body counts.
        view: View,
    },
    /// Waits until a counter or gauge has a value.
    Await(String, u64),
}

/// How much of an admin page is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Status and content type.
    Head,
    /// Also the body.
    Body,
    /// Also the body's JSON keys, some levels deep.
    Keys(usize),
}

/// Steps with a name.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    steps: Vec<Step>,
    /// How many access log lines to wait for; by default one for each answer.
    log_lines: Option<usize>,
}

/// Cases on one bootstrap, in order.
#[derive(Clone, Debug)]
pub struct Group {
    name: String,
    config: Config,
    cases: Vec<Case>,
}

/// A bare `\n` in a literal means CRLF.
#[must_use]
pub fn crlf(text: &str) -> Vec<u8> {
    text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
}

/// A request step: `text` is a whole HTTP/1 message, with `\n` for CRLF.
#[must_use]
pub fn h1(to: &str, text: &str) -> Step {
    let method = text.split(' ').next().unwrap_or("").to_owned();
    Step::Http1 { to: to.to_owned(), bytes: crlf(text), methods: vec![method], tls: None, closes: false }
}

/// A GET step: further `fields` are lines without an end.
#[must_use]
pub fn get(to: &str, path: &str, fields: &[&str]) -> Step {
    request(to, "GET", path, fields, "")
}

/// A request step with a body of known length. Without a `host` line the host is `example.com`.
#[must_use]
pub fn request(to: &str, method: &str, path: &str, fields: &[&str], body: &str) -> Step {
    let mut text = format!("{method} {path} HTTP/1.1\n");
    if !fields.iter().any(|field| field.to_ascii_lowercase().starts_with("host:")) {
        text += "host: example.com\n";
    }
    for field in fields {
        text += field;
        text.push('\n');
    }
    if !body.is_empty() {
        let _infallible = writeln!(text, "content-length: {}", body.len());
    }
    text.push('\n');
    let mut bytes = crlf(&text);
    bytes.extend_from_slice(body.as_bytes());
    Step::Http1 { to: to.to_owned(), bytes, methods: vec![method.to_owned()], tls: None, closes: false }
}

/// An HTTP/2 GET (POST with a body) of `http://example.com<path>`.
#[must_use]
pub fn h2(to: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Step {
    let request = H2Request {
        method: if body.is_empty() { "GET" } else { "POST" }.to_owned(),
        uri: format!("http://example.com{path}"),
        headers: fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        body: body.to_vec(),
        trailers: Vec::new(),
    };
    Step::Http2 { to: to.to_owned(), request, tls: None }
}

/// Counters and gauges.
#[must_use]
pub fn stats(names: &[&str]) -> Step {
    Step::Stats(names.iter().map(|name| (*name).to_owned()).collect())
}

impl Step {
    /// The same over TLS.
    #[must_use]
    pub fn over(mut self, with: ClientTls) -> Self {
        match &mut self {
            Self::Http1 { tls, .. } | Self::Bytes { tls, .. } | Self::Http2 { tls, .. } => *tls = Some(with),
            Self::Beside { step, .. } => **step = step.clone().over(with),
            Self::Abort { .. } | Self::Stats(_) | Self::Admin { .. } | Self::Await(..) => {}
        }
        self
    }

    /// Also notes whether the connection is closed after the answer.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        if let Self::Http1 { closes, .. } = &mut self {
            *closes = true;
        }
        self
    }

    fn answers(&self) -> usize {
        match self {
            Self::Http1 { methods, .. } => methods.len(),
            Self::Http2 { .. } | Self::Bytes { .. } | Self::Abort { .. } => 1,
            Self::Beside { step, .. } => 1 + step.answers(),
            Self::Stats(_) | Self::Admin { .. } | Self::Await(..) => 0,
        }
    }
}

impl Group {
    /// A group of cases on `config`.
    #[must_use]
    pub fn new(name: &str, config: Config) -> Self {
        Self { name: name.to_owned(), config, cases: Vec::new() }
    }

    /// Adds a case of one step.
    #[must_use]
    pub fn step(self, name: &str, step: Step) -> Self {
        self.case(name, vec![step])
    }

    /// Adds a case.
    #[must_use]
    pub fn case(mut self, name: &str, steps: Vec<Step>) -> Self {
        self.cases.push(Case { name: name.to_owned(), steps, log_lines: None });
        self
    }

    /// Says how many access log lines the last case writes.
    #[must_use]
    pub fn logs(mut self, lines: usize) -> Self {
        if let Some(case) = self.cases.last_mut() {
            case.log_lines = Some(lines);
        }
        self
    }

    async fn observe(&self, kind: Kind) -> Result<Vec<String>> {
        let mut world = World::start(kind, &self.config.text()).await?;
        let mut all = Vec::new();
        for case in &self.cases {
            let seen = match case.observe(&world).await {
                Ok(seen) => world.normalise(&seen)?,
                Err(error) => format!("harness: {error:#}\n"),
            };
            if let Some(status) = world.proxy.ended() {
                all.push(format!("{seen}THE PROXY ENDED with {status}: {}\n", world.proxy.log_tail()));
                break;
            }
            all.push(seen);
        }
        let log = world.proxy.log();
        if log.contains("panicked at") {
            let panic = log.lines().find(|line| line.contains("panicked at")).unwrap_or("");
            if let Some(last) = all.last_mut() {
                *last += &format!("A THREAD PANICKED: {panic}\n");
            }
        }
        Ok(all)
    }
}

impl Case {
    async fn observe(&self, world: &World) -> Result<String> {
        let mut seen = String::new();
        for step in &self.steps {
            step.observe(world, &mut seen).await.with_context(|| format!("step {step:?}"))?;
        }
        let wanted = self.log_lines.unwrap_or_else(|| self.steps.iter().map(Step::answers).sum());
        let mut lines = Vec::new();
        let patience = Duration::from_secs(2);
        // A missing line is an observation, not a failure.
        let _missing = eventually("access log", patience, || {
            lines.extend(world.log_lines());
            let enough = lines.len() >= wanted;
            async move { enough.then_some(()) }
        })
        .await;
        let mut entries = world.journal.take();
        // Connections are accepted while requests to others are under way: their order is not the proxy's.
        entries.sort_by_key(|entry| entry.contains("] tcp "));
        for entry in entries {
            seen += &format!("upstream {entry}\n");
        }
        for line in lines {
            seen += &format!("log {line}\n");
        }
        Ok(seen)
    }
}

async fn connect(
    world: &World,
    to: &str,
    tls: Option<&ClientTls>,
    seen: &mut String,
) -> Result<Option<Box<dyn Socket>>> {
    let stream = tcp(world.port(to)?).await?;
    let Some(tls) = tls else { return Ok(Some(Box::new(stream))) };
    let mut config = crate::tls::client(tls.identity, &tls.alpn)?;
    let name = match &tls.sni {
        Some(name) => ServerName::try_from(name.clone()).context("server name")?,
        None => {
            std::sync::Arc::make_mut(&mut config).enable_sni = false;
            ServerName::try_from("nobody.example").context("server name")?
        }
    };
    let handshake = TlsConnector::from(config).connect(name, stream);
    match tokio::time::timeout(PATIENCE, handshake).await.context("TLS handshake: too slow")? {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(<[_]>::first).map_or("-", crate::tls::common_name);
            let alpn = session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy).into_owned();
            let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("-");
            let _infallible = writeln!(seen, "tls {version} certificate={certificate} alpn={alpn}");
            Ok(Some(Box::new(stream)))
        }
        Err(error) => {
            // How exactly a handshake fails is not compared: the libraries differ in their alerts.
            let _infallible = writeln!(
                seen,
                "tls handshake failed{}",
                if error.to_string().contains("eof") { " (closed)" } else { "" }
            );
            Ok(None)
        }
    }
}

impl Step {
    async fn observe(&self, world: &World, seen: &mut String) -> Result<()> {
        match self {
            Self::Http1 { to, bytes, methods, tls, closes } => {
                let Some(stream) = connect(world, to, tls.as_ref(), seen).await? else { return Ok(()) };
                let mut client = Client::over(stream);
                client.send(bytes).await;
                for method in methods {
                    let answers = client.responses(method, PATIENCE).await?;
                    if answers.is_empty() {
                        let how = if client.reader.reset {
                            "reset"
                        } else if client.reader.ended {
                            "closed"
                        } else {
                            "silent"
                        };
                        *seen += &format!("no answer: {how}\n");
                    }
                    for answer in answers {
                        *seen += &report(&answer);
                    }
                }
                if *closes {
                    let closed = client.closes(Duration::from_millis(700)).await;
                    *seen += &format!("then {}\n", if closed { "closed" } else { "open" });
                }
            }
            Self::Bytes { to, writes, finish, tls } => {
                let Some(stream) = connect(world, to, tls.as_ref(), seen).await? else { return Ok(()) };
                let mut client = Client::over(stream);
                for write in writes {
                    client.send(write).await;
                    client.reader.until_quiet(Duration::from_millis(300)).await;
                    *seen += &format!("received {}\n", show(&client.reader.take()));
                }
                if *finish {
                    client.finish().await;
                }
                client.reader.until_quiet(Duration::from_millis(600)).await;
                let rest = client.reader.take();
                let how = if client.reader.reset {
                    "reset"
                } else if client.reader.ended {
                    "closed"
                } else {
                    "open"
                };
                *seen += &format!("at the end {} {how}\n", show(&rest));
            }
            Self::Abort { to, write } => {
                let mut stream = tcp(world.port(to)?).await?;
                stream.write_all(write).await?;
                let mut answer = vec![0; 1024];
                let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await;
                let read = read.context("no answer")?.context("read")?;
                *seen += &format!("received {}\n", show(&answer[..read]));
                stream.set_zero_linger().context("SO_LINGER")?;
            }
            Self::Beside { to, step } => {
                let open = tcp(world.port(to)?).await?;
                // It is there for the proxy once the proxy has counted it; that it is takes no time to speak of.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Box::pin(step.observe(world, seen)).await?;
                drop(open);
            }
            Self::Http2 { to, request, tls } => {
                let Some(stream) = connect(world, to, tls.as_ref(), seen).await? else { return Ok(()) };
                *seen += &report(&h2_client::send(stream, request).await?);
            }
            Self::Stats(names) => {
                let all = world.proxy.admin().stats().await?;
                for name in names {
                    let value = all.get(name).map_or("absent".to_owned(), u64::to_string);
                    *seen += &format!("stat {name} {value}\n");
                }
            }
            Self::Admin { method, path, view } => {
                let answer = world.proxy.admin().request(method, path).await?;
                let kind = answer.header("content-type").unwrap_or("-");
                *seen += &format!("{method} {path}: {} {kind}\n", answer.status());
                let body = String::from_utf8_lossy(&answer.body);
                match view {
                    View::Head => {}
                    // Envoy prints the members of some objects in the order of a hash table.
                    View::Body if kind == "application/json" => {
                        let sorted: serde_json::Value = serde_json::from_str(&body).context("JSON")?;
                        *seen += &format!("{sorted:#}\n");
                    }
                    View::Body => *seen += &format!("{body}\n"),
                    View::Keys(depth) => keys(&serde_json::from_str(&body).context("JSON")?, *depth, "", seen),
                }
            }
            Self::Await(name, value) => {
                let admin = world.proxy.admin();
                let outcome = eventually(name, PATIENCE, || async move {
                    let all = admin.stats().await.ok()?;
                    (all.get(name).copied().unwrap_or(0) == *value).then_some(())
                });
                let _late: () = outcome.await?;
            }
        }
        Ok(())
    }
}

fn keys(value: &serde_json::Value, depth: usize, at: &str, seen: &mut String) {
    if depth == 0 {
        return;
    }
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{at}.{key}");
                *seen += &format!("    {path}\n");
                keys(value, depth - 1, &path, seen);
            }
        }
        serde_json::Value::Array(items) => {
            if let Some(first) = items.first() {
                keys(first, depth, &format!("{at}[]"), seen);
            }
        }
        _ => {}
    }
}

/// A response as observations have it. Field order between different names is not compared.
fn report(message: &Message) -> String {
    let mut text = format!("client {}\n", message.start);
    let mut fields = message.headers.clone();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in &fields {
        text += &format!("    {name}: {value}\n");
    }
    if !message.body.is_empty() {
        text += &format!("    body {}\n", show(&message.body));
    }
    for (name, value) in &message.trailers {
        text += &format!("    trailer {name}: {value}\n");
    }
    if !message.complete {
        text += "    incomplete\n";
    }
    text
}

/// What is noted for every case of a group on whose bootstrap the proxy does not come up.
const NOT_STARTED: &str = "the proxy did not start";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity")
}

/// Two observations side by side, only where they differ, with `-` for Envoy and `+` for weft-proxy.
#[must_use]
pub fn difference(envoy: &str, weft: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (envoy.lines().collect(), weft.lines().collect());
    // Longest common subsequence: observations are short.
    let mut table = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            table[i][j] = if old[i] == new[j] { table[i + 1][j + 1] + 1 } else { table[i + 1][j].max(table[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            text += &format!("    {}\n", old[i]);
            i += 1;
            j += 1;
        } else if j >= new.len() || (i < old.len() && table[i + 1][j] >= table[i][j + 1]) {
            text += &format!("  - {}\n", old[i]);
            i += 1;
        } else {
            text += &format!("  + {}\n", new[j]);
            j += 1;
        }
    }
    text
}

/// Runs a group on both proxies and compares.
///
/// # Errors
/// When a case differs that `parity/known-gaps.txt` does not list, when one agrees that it lists, and when Envoy itself
/// does not do what a case takes for granted.
pub fn run(group: &Group) -> Result<()> {
    if Kind::Envoy.binary().is_none() {
        skipped(&format!("parity {}", group.name), NO_ENVOY);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let with_weft = Kind::Weft.binary().is_some();
    let (envoy, weft) = runtime.block_on(async {
        let weft = async { if with_weft { Some(group.observe(Kind::Weft).await) } else { None } };
        tokio::join!(group.observe(Kind::Envoy), weft)
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    let envoy = envoy.with_context(|| format!("group {} on Envoy", group.name))?;
    write_down(group, "envoy", &envoy)?;
    for (case, seen) in group.cases.iter().zip(&envoy) {
        ensure!(!seen.contains("harness: "), "{}/{} on Envoy: {seen}", group.name, case.name);
    }
    ensure!(envoy.len() == group.cases.len(), "Envoy ended in group {}: {:?}", group.name, envoy.last());
    let Some(weft) = weft else {
        skipped(&format!("parity {} (comparison)", group.name), NO_WEFT);
        return Ok(());
    };
    let weft = weft.unwrap_or_else(|error| vec![format!("{NOT_STARTED}: {error:#}\n"); group.cases.len()]);
    write_down(group, "weft", &weft)?;
    compare(group, &envoy, &weft)
}

/// Observations are left in `$WEFT_PARITY_DIR`, for whoever wants to read them.
fn write_down(group: &Group, who: &str, all: &[String]) -> Result<()> {
    let Some(folder) = std::env::var_os("WEFT_PARITY_DIR") else { return Ok(()) };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;
    let text: String =
        group.cases.iter().zip(all).map(|(case, seen)| format!("== {}/{}\n{seen}\n", group.name, case.name)).collect();
    std::fs::write(folder.join(format!("{}.{who}.txt", group.name)), text)?;
    std::fs::write(folder.join(format!("{}.yaml", group.name)), group.config.text())?;
    Ok(())
}

fn compare(group: &Group, envoy: &[String], weft: &[String]) -> Result<()> {
    let gaps = Gaps::read(&folder().join("known-gaps.txt"))?;
    let nothing = "nothing: the proxy had ended\n".to_owned();
    let mut results = Vec::new();
    let mut texts = String::new();
    for (at, case) in group.cases.iter().enumerate() {
        let (theirs, ours) = (&envoy[at], weft.get(at).unwrap_or(&nothing));
        let name = format!("{}/{}", group.name, case.name);
        let differs = theirs != ours;
        if differs && ours.starts_with(NOT_STARTED) {
            if at == 0 {
                texts += &format!("DIFFERS {}/*: {ours}", group.name);
            }
        } else if differs {
            texts += &format!("DIFFERS {name} (- envoy, + weft)\n{}", difference(theirs, ours));
        }
        results.push((name, differs));
    }
    if std::env::var_os("WEFT_UPDATE").is_some() {
        let ran: Vec<String> = results.iter().map(|(name, _)| name.clone()).collect();
        let differing = results.iter().enumerate().filter(|(_, (_, differs))| *differs);
        let reasons: Vec<(String, String)> = differing
            .map(|(at, (name, _))| (name.clone(), reason(&envoy[at], weft.get(at).unwrap_or(&nothing))))
            .collect();
        return Gaps::rewrite(&folder().join("known-gaps.txt"), &ran, &reasons);
    }
    let verdict = gaps.judge(results.iter().map(|(name, differs)| (name.as_str(), *differs)));
    let differing = results.iter().filter(|(_, differs)| *differs).count();
    eprintln!(
        "parity {}: {} cases, {differing} differ, {} of them known\n{texts}",
        group.name,
        results.len(),
        verdict.known
    );
    ensure!(verdict.unexpected.is_empty(), "not in parity/known-gaps.txt: {}", verdict.unexpected.join(" "));
    if !verdict.stale.is_empty() {
        // While the list is long, work on it by several hands must not turn a fix into a failure.
        eprintln!("in parity/known-gaps.txt, but agreeing (take them out): {}", verdict.stale.join(" "));
    }
    Ok(())
}

/// The first line of each side that the other has not.
fn reason(envoy: &str, weft: &str) -> String {
    let only = |these: &str, those: &str| {
        let line = these.lines().find(|line| !those.lines().any(|other| other == *line)).unwrap_or("-").trim();
        line.chars().take(110).collect::<String>()
    };
    format!("envoy: {} weft: {}", only(envoy, weft), only(weft, envoy))
}
