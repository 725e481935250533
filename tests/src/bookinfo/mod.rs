//! BookInfo under the control plane: its files unchanged, its applications, and real proxies around them.
//!
//! ```text
//! client ── gateway ── sidecar of productpage ── productpage ── the same sidecar ──┬── details
//!                                                                                  └── sidecar of reviews-v2 ── reviews-v2 ──┐
//!                                                                                       ratings ── the same sidecar ─────────┘
//! ```
//!
//! All of a mesh is on loopback addresses of its own, so that the files' ports (9080, 3306, …) collide with nobody's.

pub mod apps;
pub mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use self::apps::{App, Net};
use self::cluster::{Deployment, Pod};
use crate::admin::Admin;
use crate::control_plane::{ControlPlane, bootstrap};
use crate::locate::{Kind, NO_ENVOY, NO_WEFT, NO_WEFT_CLI, skipped, weft_cli};
use crate::mesh::Workload;
use crate::message::Message;
use crate::ports::Reserved;
use crate::wait::{PATIENCE, eventually};
use crate::world::World;

/// The file with the services and the first versions of everything.
pub const SERVICES: &str = "platform/kube/bookinfo.yaml";

/// Where the sidecars' outbound listeners are, in the last part of an address.
const PRODUCTPAGE_OUT: u8 = 101;
const REVIEWS_OUT: u8 = 102;
/// Where the name server is, and what every name leads to.
const NAME_SERVER: u8 = 53;
const OUTSIDE: u8 = 60;

/// The mesh.
pub struct BookInfo {
    /// Which proxies.
    pub kind: Kind,
    /// The control plane.
    pub plane: ControlPlane,
    net: Net,
    /// Applied files.
    files: BTreeSet<String>,
    /// Applications that run, by Deployment.
    running: BTreeMap<Deployment, Pod>,
    proxies: Vec<World>,
    tasks: JoinSet<()>,
    /// The gateways' ports 80, 443 and 8080, and the ports that stand for 80 and 443 at sidecars.
    ports: [Reserved; 5],
    name_server: u16,
    /// Where the application of www.googleapis.com listens.
    outside: bool,
    /// Pods have IPv6 addresses.
    pub six: bool,
    /// Workloads with sidecars have identities.
    identities: bool,
}

/// What a gateway is: of Istio's kind, or made for a Gateway of the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayKind {
    /// `istio: ingressgateway`, in `istio-system`.
    Ingress,
    /// For `bookinfo-gateway` of the Gateway API, in `default`.
    Api,
}

impl BookInfo {
    /// The control plane and the sidecars with the services; `None` where something is not installed, which is said.
    ///
    /// # Errors
    /// When anything does not start.
    pub async fn start(kind: Kind, test: &str) -> Result<Option<Self>> {
        Self::launch(kind, test, false).await
    }

    /// The same, where the workloads with sidecars have identities: weft-proxy beside them gets their certificates.
    ///
    /// # Errors
    /// When anything does not start.
    pub async fn with_identities(test: &str) -> Result<Option<Self>> {
        Self::launch(Kind::Weft, test, true).await
    }

    async fn launch(kind: Kind, test: &str, identities: bool) -> Result<Option<Self>> {
        let test = format!("{test} on {}", kind.name());
        if kind.binary().is_none() {
            skipped(&test, if kind == Kind::Envoy { NO_ENVOY } else { NO_WEFT });
            return Ok(None);
        }
        if weft_cli().is_none() {
            skipped(&test, NO_WEFT_CLI);
            return Ok(None);
        }
        let net = Net::new();
        let mut tasks = JoinSet::new();
        let IpAddr::V4(outside) = net.ip(OUTSIDE) else { anyhow::bail!("an IPv4 address") };
        let name_server = apps::name_server(&mut tasks, net.ip(NAME_SERVER), outside).await?;
        let app = App { name: "googleapis".into(), asks: Vec::new() };
        let outside = app.start_tls(&mut tasks, (outside, 443).into(), "googleapis").await?.is_some();
        let ports = [Reserved::new()?, Reserved::new()?, Reserved::new()?, Reserved::new()?, Reserved::new()?];
        let mut mesh = Self {
            kind,
            plane: if identities { ControlPlane::secured(&[], &[]).await? } else { ControlPlane::start(&[]).await? },
            identities,
            net,
            files: BTreeSet::new(),
            running: BTreeMap::new(),
            proxies: Vec::new(),
            tasks,
            ports,
            name_server,
            outside,
            six: false,
        };
        mesh.plane.write("surroundings.yaml", &mesh.surroundings())?;
        mesh.copy(&[SERVICES]).await?;
        for (pod, labels) in
            [("productpage-v1", "app: productpage, version: v1"), ("reviews-v2", "app: reviews, version: v2")]
        {
            let ip = mesh.address(pod);
            if let Some(name) = mesh.identity(pod) {
                let (pod, labels) = (format!("{pod}-0"), labels.to_owned());
                let workload = Workload { name, namespace: "default", ip, pod, labels, ttl: 3600, role: "sidecar" };
                let text = workload.weft(&mesh.plane).await?;
                mesh.proxies.push(World::start(kind, &text).await?);
                mesh.plane.quiet(mesh.proxies.len()).await?;
                continue;
            }
            mesh.proxy(&format!("sidecar~{ip}~{pod}-0.default~default.svc.cluster.local"), labels).await?;
        }
        mesh.page_is(None, |page| page.contains("details=details-v1")).await?;
        Ok(Some(mesh))
    }

    /// What is there beside BookInfo: the Services of gateways, whose ports lead to free ones, and where sidecars listen.
    fn surroundings(&self) -> String {
        let [http, https, other, sidecar_http, sidecar_https] = self.ports.each_ref().map(Reserved::port);
        let mut text = String::new();
        for (name, namespace, labels) in [
            ("istio-ingressgateway", "istio-system", "istio: ingressgateway"),
            ("bookinfo-gateway-istio", "default", "gateway.networking.k8s.io/gateway-name: bookinfo-gateway"),
        ] {
            text += &format!(
                "apiVersion: v1\nkind: Service\n\
                 metadata: {{name: {name}, namespace: {namespace}, annotations: {{networking.istio.io/exportTo: \"~\"}}}}\n\
                 spec:\n  selector: {{{labels}}}\n  ports:\n  - {{name: http2, port: 80, targetPort: {http}}}\n  \
                 - {{name: https, port: 443, targetPort: {https}}}\n  - {{name: http-other, port: 8080, targetPort: {other}}}\n---\n"
            );
        }
        let at = |app: &str, last: u8| {
            let ip = self.net.ip(last);
            let port = |number: u16, other: u16| {
                format!(
                    "  - applyTo: LISTENER\n    match: {{context: SIDECAR_OUTBOUND, listener: {{portNumber: {number}}}}}\n    \
                     patch: {{operation: MERGE, value: {{address: {{socket_address: {{port_value: {other}}}}}}}}}\n"
                )
            };
            format!(
                "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: at-{app}, namespace: default}}\n\
                 spec:\n  workloadSelector: {{labels: {{app: {app}}}}}\n  configPatches:\n  - applyTo: LISTENER\n    \
                 match: {{context: SIDECAR_OUTBOUND}}\n    \
                 patch: {{operation: MERGE, value: {{address: {{socket_address: {{address: {ip}}}}}}}}}\n{}{}---\n",
                port(80, sidecar_http),
                port(443, sidecar_https)
            )
        };
        text + &at("productpage", PRODUCTPAGE_OUT) + &at("reviews", REVIEWS_OUT)
    }

    /// The service account of a Deployment's pod, if it has an identity; as the file of the services has it.
    fn identity(&self, deployment: &str) -> Option<&'static str> {
        match deployment {
            "productpage-v1" if self.identities => Some("bookinfo-productpage"),
            "reviews-v2" if self.identities => Some("bookinfo-reviews"),
            _ => None,
        }
    }

    /// Starts a proxy of this node.
    async fn proxy(&mut self, id: &str, labels: &str) -> Result<()> {
        let text = bootstrap(id, labels, "DELTA_GRPC", self.plane.grpc());
        self.proxies.push(World::start(self.kind, &text).await?);
        self.plane.quiet(self.proxies.len()).await
    }

    /// Starts a gateway.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn gateway(&mut self, kind: GatewayKind) -> Result<()> {
        let (ip, domain) = (self.net.ip(90), "svc.cluster.local");
        let (id, labels) = match kind {
            GatewayKind::Ingress => (
                format!("router~{ip}~istio-ingressgateway-0.istio-system~istio-system.{domain}"),
                "istio: ingressgateway",
            ),
            GatewayKind::Api => (
                format!("router~{ip}~bookinfo-gateway-istio-0.default~default.{domain}"),
                "gateway.networking.k8s.io/gateway-name: bookinfo-gateway",
            ),
        };
        self.proxy(&id, labels).await
    }

    /// Where a pod is: by the place of its name among all of BookInfo's.
    fn address(&self, pod: &str) -> IpAddr {
        const PODS: [&str; 12] = [
            "productpage-v1",
            "details-v1",
            "details-v2",
            "reviews-v1",
            "reviews-v2",
            "reviews-v3",
            "ratings-v1",
            "ratings-v2",
            "ratings-v2-mysql",
            "ratings-v2-mysql-vm",
            "mongodb-v1",
            "mysqldb-v1",
        ];
        let place = PODS.iter().position(|name| *name == pod).unwrap_or(PODS.len());
        self.net.ip(u8::try_from(place).unwrap_or_default() + 1)
    }

    /// Runs what a Deployment asks for.
    async fn run(&mut self, of: &Deployment) -> Result<Pod> {
        let (name, ip) = (of.name.clone(), self.address(&of.name));
        let out = |last: u8| SocketAddr::from((self.net.ip(last), 9080));
        let asks = match (of.app.as_str(), of.version.as_str()) {
            ("productpage", _) => {
                vec![("details".into(), out(PRODUCTPAGE_OUT)), ("reviews".into(), out(PRODUCTPAGE_OUT))]
            }
            ("reviews", "v2" | "v3") => vec![("ratings".into(), out(REVIEWS_OUT))],
            _ => Vec::new(),
        };
        // With a sidecar, what listens at the pod's address is that, and the application is behind it on the loopback.
        let six = self.six && !has_sidecar(&name);
        let ip = if six { IpAddr::from(std::net::Ipv6Addr::LOCALHOST) } else { ip };
        let at = SocketAddr::from((if has_sidecar(&name) { Ipv4Addr::LOCALHOST.into() } else { ip }, 0));
        let port = if matches!(of.app.as_str(), "mysqldb" | "mongodb") {
            apps::database(&mut self.tasks, name, at).await?
        } else {
            App { name: if six { name + " over IPv6" } else { name }, asks }.start(&mut self.tasks, at).await?
        };
        Ok(Pod { of: of.clone(), ip, port, identity: self.identity(&of.name) })
    }

    /// Has these files of BookInfo, and no others, unchanged; what their Deployments run is started, and what their Services
    /// select gets endpoints. Returns when every proxy has answered for it.
    ///
    /// # Errors
    /// When a file is not there, or proxies do not follow.
    pub async fn only(&mut self, files: &[&str]) -> Result<()> {
        self.copy(files).await?;
        self.plane.quiet(self.proxies.len()).await
    }

    async fn copy(&mut self, files: &[&str]) -> Result<()> {
        let (mut deployments, mut services) = (BTreeSet::new(), BTreeSet::new());
        for file in files {
            let (some, others) = cluster::read(&cluster::file(file)?)?;
            deployments.extend(some);
            services.extend(others);
        }
        let mut pods = Vec::new();
        for of in &deployments {
            if !self.running.contains_key(of) {
                let pod = self.run(of).await?;
                self.running.insert(of.clone(), pod);
            }
            pods.extend(self.running.get(of).cloned());
        }
        let services: Vec<_> = services.into_iter().collect();
        // Pods are there before anything routes to them.
        self.plane.write("pods.yaml", &cluster::objects(&pods, &services))?;
        let wanted: BTreeSet<String> = files.iter().map(|file| (*file).to_owned()).collect();
        for file in wanted.difference(&self.files) {
            self.plane.write(&file.replace('/', "-"), &cluster::file(file)?)?;
        }
        for file in self.files.difference(&wanted) {
            self.plane.remove(&file.replace('/', "-"))?;
        }
        self.files = wanted;
        Ok(())
    }

    /// Starts every Deployment anew at its next use, but those with a sidecar.
    pub fn forget_pods_but_sidecars(&mut self) {
        self.running.retain(|of, _| has_sidecar(&of.name));
    }

    /// Starts an application that is none of BookInfo's, and says where.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn stand_in(&mut self, name: &str) -> Result<(IpAddr, u16)> {
        let ip = self.net.ip(70);
        let app = App { name: name.to_owned(), asks: Vec::new() };
        Ok((ip, app.start(&mut self.tasks, (ip, 0).into()).await?))
    }

    /// A port of the gateways: 80, 443 or 8080.
    #[must_use]
    pub fn gateway_port(&self, number: u16) -> u16 {
        let at = match number {
            80 => 0,
            443 => 1,
            _ => 2,
        };
        self.ports[at].port()
    }

    /// The admin interface of the sidecar of `productpage-v1` or `reviews-v2`.
    #[must_use]
    pub fn sidecar(&self, deployment: &str) -> Option<Admin> {
        let place = ["productpage-v1", "reviews-v2"].iter().position(|name| *name == deployment)?;
        self.proxies.get(place).map(|world| world.proxy.admin())
    }

    /// Where a Deployment's pod is reached by others.
    #[must_use]
    pub fn pod(&self, deployment: &str) -> Option<SocketAddr> {
        let pod = self.running.values().find(|pod| pod.of.name == deployment)?;
        Some((pod.ip, pod.port).into())
    }

    /// Where productpage's sidecar takes what productpage sends to `port`.
    #[must_use]
    pub fn from_productpage(&self, port: u16) -> SocketAddr {
        self.outbound(PRODUCTPAGE_OUT, port)
    }

    /// Where the sidecar of reviews takes what reviews sends to `port`.
    #[must_use]
    pub fn from_reviews(&self, port: u16) -> SocketAddr {
        self.outbound(REVIEWS_OUT, port)
    }

    fn outbound(&self, last: u8, port: u16) -> SocketAddr {
        let port = match port {
            80 => self.ports[3].port(),
            443 => self.ports[4].port(),
            other => other,
        };
        (self.net.ip(last), port).into()
    }

    /// How names are looked up here: a patch of clusters, as fields of `value`.
    #[must_use]
    pub fn resolver(&self) -> String {
        let cares = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
        format!(
            "typed_dns_resolver_config: {{name: envoy.network.dns_resolver.cares, typed_config: {{\"@type\": {cares}, \
             resolvers: [{{socket_address: {{address: {}, port_value: {}}}}}]}}}}",
            self.net.ip(NAME_SERVER),
            self.name_server
        )
    }

    /// Whether what stands for www.googleapis.com could take port 443.
    #[must_use]
    pub fn has_outside(&self) -> bool {
        self.outside
    }

    /// What the page says: productpage with all that it asks, for a user.
    ///
    /// # Errors
    /// When there is no page.
    pub async fn page(&self, user: Option<&str>) -> Result<String> {
        let pod = self.running.values().find(|pod| pod.of.app == "productpage").context("productpage does not run")?;
        let user = user.map_or_else(String::new, |user| format!("end-user: {user}\r\n"));
        let answer = apps::get((pod.ip, pod.port).into(), "productpage:9080", "/productpage", &user).await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Waits until the page is as it should be; the last one is said if it never is.
    ///
    /// # Errors
    /// When it never is.
    pub async fn page_is(&self, user: Option<&str>, is: impl Fn(&str) -> bool) -> Result<()> {
        let last = std::cell::RefCell::new(String::new());
        let look = || async {
            let page = self.page(user).await.unwrap_or_else(|error| format!("{error:#}"));
            let fits = is(&page);
            *last.borrow_mut() = page;
            fits.then_some(())
        };
        let outcome = eventually("the page", PATIENCE, look).await;
        outcome.with_context(|| format!("{user:?} gets {:?}", last.borrow()))
    }

    /// Who answers `count` requests of productpage to a service, each on a connection of its own: name to number of answers.
    ///
    /// # Errors
    /// When one is not answered.
    pub async fn answers(&self, service: &str, count: usize, headers: &str) -> Result<BTreeMap<String, usize>> {
        let mut seen = BTreeMap::new();
        let to = self.from_productpage(9080);
        for _ in 0..count {
            let answer = apps::get(to, &format!("{service}:9080"), "/", headers).await?;
            *seen.entry(name(&answer)).or_default() += 1;
        }
        Ok(seen)
    }

    /// A request through a gateway.
    ///
    /// # Errors
    /// When it is not answered.
    pub async fn through_gateway(&self, port: u16, path: &str) -> Result<Message> {
        apps::get((Ipv4Addr::LOCALHOST, self.gateway_port(port)).into(), "bookinfo.example", path, "").await
    }
}

/// Whether a sidecar runs beside a Deployment's pod.
fn has_sidecar(deployment: &str) -> bool {
    matches!(deployment, "productpage-v1" | "reviews-v2")
}

/// Who answered: the first word, or the status of what is no success.
fn name(answer: &Message) -> String {
    if answer.status() != 200 {
        return answer.status().to_string();
    }
    String::from_utf8_lossy(&answer.body).split(' ').next().unwrap_or_default().to_owned()
}
