//! Two workloads with sidecars: `client` calls `echo`, which serves each protocol on a port of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_tests::ads::{Plane, resource};
use weft_tests::client::{Client, Socket};
use weft_tests::control_plane::ControlPlane;
use weft_tests::h2_client::{self, H2Request};
use weft_tests::locate::{self, Kind};
use weft_tests::mesh::{GREETING, Greeter, Root, Workload, showing};
use weft_tests::ports::Reserved;
use weft_tests::tls::Identity;
use weft_tests::upstream::{Flavour, Journal, Upstream};
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Grpc,
    Tcp,
    /// The server speaks first.
    Greeting,
}

impl Protocol {
    pub(crate) const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Grpc, Self::Tcp, Self::Greeting];

    /// What a caller offers that speaks it.
    fn offered(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["istio", "http/1.1"],
            Self::Http2 | Self::Grpc => &["istio", "h2"],
            Self::Tcp | Self::Greeting => &["istio"],
        }
    }

    /// The place of its port: HTTP/1.1 and HTTP/2 share one.
    fn place(self) -> usize {
        match self {
            Self::Http1 | Self::Http2 => 0,
            Self::Grpc => 1,
            Self::Tcp => 2,
            Self::Greeting => 3,
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Through its sidecar.
    Sidecar,
    /// Past every sidecar, in plaintext.
    Plaintext,
    /// Past its sidecar, over TLS with this certificate or none.
    Tls(Option<Identity>),
}

/// Everything that runs.
pub(crate) struct Mesh {
    pub(crate) plane: ControlPlane,
    pub(crate) server: World,
    pub(crate) client: World,
    pub(crate) root: Root,
    /// Who calls the workload.
    pub(crate) prober: Prober,
    /// What the workload has seen.
    pub(crate) journal: Journal,
    _services: Vec<Reserved>,
    /// Where the operator's authority is.
    _dir: TempDir,
    _apps: (Upstream, Upstream, Greeter),
    _sds: Vec<Plane>,
}

/// Calls the workload in all ways.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    echo: Workload,
    /// The ports of the service, and of the workload.
    services: [u16; 4],
    targets: [u16; 4],
}

/// Why a test cannot run here.
pub(crate) fn skipped(kind: Kind) -> bool {
    let missing = if locate::weft_cli().is_none() {
        Some(locate::NO_WEFT_CLI)
    } else if Kind::Weft.binary().is_none() {
        Some(locate::NO_WEFT)
    } else if kind.binary().is_none() {
        Some(locate::NO_ENVOY)
    } else {
        None
    };
    if let Some(why) = missing {
        eprintln!("SKIPPED: {why}");
    }
    missing.is_some()
}

impl Mesh {
    /// Starts it with `kind` on both sides. `ttl`: of certificates, in seconds. `plugged`: the authority is the test's.
    pub(crate) async fn start(kind: Kind, ttl: u32, plugged: bool, more: &str) -> Result<Self> {
        Self::of([kind, kind], ttl, plugged, more).await
    }

    /// The same with proxies of two kinds: that of the workload, that of its caller.
    pub(crate) async fn of(kinds: [Kind; 2], ttl: u32, plugged: bool, more: &str) -> Result<Self> {
        let services = (0..4).map(|_| Reserved::new()).collect::<Result<Vec<_>>>()?;
        let apps = Journal::default();
        let http = Upstream::start("app", Flavour::Http, apps.clone()).await?;
        let tcp = Upstream::start("tcp", Flavour::Tcp, apps.clone()).await?;
        let greeter = Greeter::start().await?;
        let targets = [http.port(), http.port(), tcp.port(), greeter.port()];
        let echo = Workload { ttl, ..Workload::new("echo", "shop", services[0].port()) };
        let caller = Workload { ttl, ..Workload::new("client", "default", services[1].port()) };
        let root = Root::new("Operator")?;
        let dir = tempfile::tempdir()?;
        root.plug(dir.path())?;
        let place = dir.path().to_string_lossy().into_owned();
        let mut args = vec!["--ca-settle-time", "1s"];
        if plugged {
            args.extend(["--cacerts", &place]);
        }
        let objects = objects(&echo, &caller, &services, &targets) + more;
        let plane = ControlPlane::secured(&[("mesh.yaml", &objects)], &args).await?;
        let mut sds = Vec::new();
        let server = sidecar(kinds[0], &echo, &plane, &root, &mut sds).await?;
        let client = sidecar(kinds[1], &caller, &plane, &root, &mut sds).await?;
        let journal = apps.clone();
        let prober = Prober { echo, services: std::array::from_fn(|place| services[place].port()), targets };
        let (_dir, _services, _apps, _sds) = (dir, services, (http, tcp, greeter), sds);
        let mesh = Self { plane, server, client, root, prober, journal, _dir, _services, _apps, _sds };
        mesh.plane.quiet(2).await?;
        Ok(mesh)
    }

    /// The TLS stream of a caller with this certificate, who shows this server name and these protocols at a port of this machine.
    pub(crate) async fn handshake(
        &self,
        identity: &Identity,
        (name, offered): (&str, &[&str]),
        port: u16,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(TlsConnector::from(showing(identity, offered)?).connect(name.to_owned().try_into()?, stream).await?)
    }

    /// Replaces what the mesh says of connections; it is in force when this returns.
    pub(crate) async fn policy(&self, text: &str) -> Result<()> {
        self.plane.write("policy.yaml", text)?;
        self.plane.quiet(2).await
    }

    /// Whether the workload answers a caller.
    pub(crate) async fn answers(&self, caller: &Caller, protocol: Protocol) -> bool {
        self.prober.answers(caller, protocol).await
    }

    /// Waits until a caller is answered.
    pub(crate) async fn reached(&self, caller: &Caller, protocol: Protocol) -> Result<()> {
        let look = || async { self.answers(caller, protocol).await.then_some(()) };
        let what = format!("{protocol:?} is answered");
        eventually(&what, Duration::from_secs(20), look).await.with_context(|| {
            let log = |world: &World| std::fs::read_to_string(world.dir().join("bootstrap.log")).unwrap_or_default();
            format!("{}\n{}\n{}", log(&self.server), log(&self.client), self.plane.log())
        })
    }
}

impl Prober {
    /// The port of the workload that a protocol is spoken on.
    pub(crate) fn target(&self, protocol: Protocol) -> u16 {
        self.targets[protocol.place()]
    }

    /// The port of the service that a protocol is spoken on.
    pub(crate) fn service(&self, protocol: Protocol) -> u16 {
        self.services[protocol.place()]
    }

    async fn open(&self, caller: &Caller, protocol: Protocol) -> Result<Box<dyn Socket>> {
        if matches!(caller, Caller::Sidecar) {
            // HTTP is told apart by host, and bytes by the address of the service.
            let http = matches!(protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc);
            let ip = if http { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { service_ip(&self.echo) };
            return Ok(Box::new(TcpStream::connect((ip, self.service(protocol))).await?));
        }
        let stream = TcpStream::connect(SocketAddr::new(self.echo.ip, self.target(protocol))).await?;
        let Caller::Tls(identity) = caller else { return Ok(Box::new(stream)) };
        let config = match identity {
            Some(identity) => showing(identity, protocol.offered())?,
            None => weft_tests::tls::client(None, protocol.offered())?,
        };
        Ok(Box::new(TlsConnector::from(config).connect("localhost".try_into()?, stream).await?))
    }

    /// Whether the workload answers a caller.
    pub(crate) async fn answers(&self, caller: &Caller, protocol: Protocol) -> bool {
        self.called(caller, protocol).await.is_ok()
    }

    /// Calls the workload.
    ///
    /// # Errors
    /// Why there is no answer, or no good one.
    pub(crate) async fn called(&self, caller: &Caller, protocol: Protocol) -> Result<()> {
        let exchange = async {
            let stream = self.open(caller, protocol).await.context("connect")?;
            anyhow::ensure!(self.speak(stream, protocol).await?, "another answer");
            Ok(())
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer")?
    }

    /// The status of an HTTP/1.1 request with these lines of headers, on a connection of its own.
    pub(crate) async fn status(&self, caller: &Caller, method: &str, path: &str, headers: &str) -> Result<u16> {
        let exchange = async {
            let mut client = Client::over(self.open(caller, Protocol::Http1).await?);
            let host = format!("host: echo.shop.svc.cluster.local:{}\r\n", self.service(Protocol::Http1));
            let host = if headers.contains("host:") { "" } else { &host };
            let head = format!("{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n");
            client.send(head.as_bytes()).await;
            Ok(client.responses(method, PATIENCE).await?.pop().context("closed")?.status())
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer")?
    }

    async fn speak(&self, mut stream: Box<dyn Socket>, protocol: Protocol) -> Result<bool> {
        let host = format!("echo.shop.svc.cluster.local:{}", self.service(protocol));
        match protocol {
            Protocol::Http1 => {
                let mut client = Client::over(stream);
                client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await;
                let answer = client.responses("GET", PATIENCE).await?.pop().context("closed")?;
                Ok(answer.status() == 200)
            }
            Protocol::Http2 | Protocol::Grpc => {
                let mut request = H2Request { uri: format!("http://{host}/a.B/C"), ..H2Request::default() };
                if protocol == Protocol::Grpc {
                    request.method = "POST".to_owned();
                    request.headers = vec![
                        ("content-type".to_owned(), "application/grpc".to_owned()),
                        ("te".to_owned(), "trailers".to_owned()),
                    ];
                    request.body = vec![0; 5];
                }
                let answer = h2_client::send(stream, &request).await?;
                // What is not reached is a status in a header of a 200.
                Ok(answer.status() == 200 && answer.header("grpc-status").is_none())
            }
            Protocol::Tcp => {
                stream.write_all(b"hi").await?;
                let mut answer = [0; 7];
                stream.read_exact(&mut answer).await?;
                Ok(answer == *b"echo:hi")
            }
            Protocol::Greeting => {
                let mut answer = [0; GREETING.len()];
                stream.read_exact(&mut answer).await?;
                Ok(answer == *GREETING)
            }
        }
    }
}

/// A workload's proxy; what it gets its certificate from is kept in `sds`.
async fn sidecar(kind: Kind, of: &Workload, plane: &ControlPlane, root: &Root, sds: &mut Vec<Plane>) -> Result<World> {
    let bootstrap = match kind {
        Kind::Weft => of.weft(plane).await?,
        Kind::Envoy => {
            let beside = sds_of(root, of).await?;
            let bootstrap = of.envoy(plane, beside.port());
            sds.push(beside);
            bootstrap
        }
    };
    World::start(kind, &bootstrap).await
}

/// The address of the service: of this machine, as connections are not redirected.
fn service_ip(echo: &Workload) -> IpAddr {
    match echo.ip {
        IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            IpAddr::V4(Ipv4Addr::new(127, 78, high, low))
        }
        other @ IpAddr::V6(_) => other,
    }
}

/// Serves a workload's certificate beside an Envoy.
pub(crate) async fn sds_of(root: &Root, workload: &Workload) -> Result<Plane> {
    let uri = format!("spiffe://cluster.local/ns/{}/sa/{}", workload.namespace, workload.name);
    let identity = root.identity(&uri, false)?;
    let indented = |text: &str| text.lines().map(|line| format!("\n      {line}")).collect::<String>();
    let yaml = format!(
        "name: default\ntls_certificate:\n  certificate_chain:\n    inline_string: |{}\n  private_key:\n    inline_string: |{}\n",
        indented(&identity.certificate),
        indented(&identity.key)
    );
    let plane = Plane::start().await?;
    plane.set(weft_tests::ads::SDS, "1", vec![resource(weft_tests::ads::SDS, &yaml)?]);
    Ok(plane)
}

fn objects(echo: &Workload, caller: &Workload, services: &[Reserved], targets: &[u16; 4]) -> String {
    let names = ["http", "grpc", "tcp", "tcp-greeting"];
    let ports: Vec<String> = names
        .iter()
        .zip(services.iter().zip(targets))
        .map(|(name, (port, target))| format!("{{name: {name}, port: {}, targetPort: {target}}}", port.port()))
        .collect();
    // Both proxies are on one machine: that of the server must not listen where that of the client does.
    format!(
        "{}{}apiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: shop}}\n\
         spec: {{clusterIP: {}, selector: {{app: echo}}, ports: [{}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: shop}}\n\
         spec: {{egress: [{{hosts: [\"~/*\"]}}]}}\n---\n",
        echo.pod(),
        caller.pod(),
        service_ip(echo),
        ports.join(", ")
    )
}
