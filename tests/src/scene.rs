//! One proxy under a scripted management server: scenarios that Envoy and weft-proxy play alike.

use std::future::Future;

use anyhow::{Context, Result, bail, ensure};

use crate::ads::{Plane, Resource, resource};
use crate::client::fetch;
use crate::locate::{Kind, NO_ENVOY, NO_WEFT, skipped};
use crate::wait::{PATIENCE, eventually};
use crate::world::World;

/// How the proxy subscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Aggregated, state of the world.
    Sotw,
    /// Aggregated, delta.
    Delta,
}

impl Variant {
    /// `api_type`
    #[must_use]
    pub fn api_type(self) -> &'static str {
        match self {
            Self::Sotw => "GRPC",
            Self::Delta => "DELTA_GRPC",
        }
    }

    /// Whether it is delta.
    #[must_use]
    pub fn is_delta(self) -> bool {
        self == Self::Delta
    }
}

/// A proxy, its management server, and what was seen.
pub struct Scene {
    /// The proxy with its upstreams `a`, `b`, `c` and its ports `l1`, `l2`, `l3`.
    pub world: World,
    /// The management server.
    pub plane: Plane,
    /// How the proxy subscribes.
    pub variant: Variant,
    seen: Vec<String>,
}

/// The bootstrap of a scene: clusters and listeners by discovery.
#[must_use]
pub fn bootstrap(variant: Variant, port: u16) -> String {
    let api = variant.api_type();
    format!(
        r#"# {{{{port:l1}}}} {{{{port:l2}}}} {{{{port:l3}}}} {{{{upstream:a}}}} {{{{upstream:b}}}} {{{{upstream:c}}}} {{{{upstream:tls}}}} {{{{dir}}}}
node: {{id: test-node, cluster: test-cluster}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{admin}}}}}}}}}}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc:
        cluster_name: plane
        retry_policy: {{retry_back_off: {{base_interval: 0.05s, max_interval: 0.2s}}}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: plane
    type: STATIC
    connect_timeout: 2s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: plane
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#
    )
}

impl Scene {
    /// Starts a management server with nothing to serve, and a proxy that asks it.
    ///
    /// # Errors
    /// When either does not start.
    pub async fn start(kind: Kind, variant: Variant) -> Result<Self> {
        Self::with(kind, variant, |_, port| bootstrap(variant, port), &[]).await
    }

    /// The same with a bootstrap made by `write` of the server's port.
    ///
    /// # Errors
    /// When either does not start.
    pub async fn with(
        kind: Kind,
        variant: Variant,
        write: impl FnOnce(Variant, u16) -> String,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::under(Plane::start().await?, kind, variant, write, arguments).await
    }

    /// The same under this management server.
    ///
    /// # Errors
    /// When the proxy does not start.
    pub async fn under(
        plane: Plane,
        kind: Kind,
        variant: Variant,
        write: impl FnOnce(Variant, u16) -> String,
        arguments: &[&str],
    ) -> Result<Self> {
        let text = write(variant, plane.port());
        let world = World::begin(kind, &text, arguments).await?;
        Ok(Self { world, plane, variant, seen: Vec::new() })
    }

    /// A resource in YAML, with the placeholders of the world.
    ///
    /// # Errors
    /// It is not of that type.
    pub fn resource(&self, type_url: &str, yaml: &str) -> Result<Resource> {
        resource(type_url, &self.world.fill(yaml)?)
    }

    /// Serves these resources of a type, written in YAML.
    ///
    /// # Errors
    /// One is not of that type.
    pub fn serve(&self, type_url: &str, version: &str, yaml: &[&str]) -> Result<()> {
        let resources = yaml.iter().map(|y| self.resource(type_url, y)).collect::<Result<_>>()?;
        self.plane.set(type_url, version, resources);
        Ok(())
    }

    /// Waits until the proxy is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn ready(&mut self) -> Result<()> {
        self.world.proxy.ready(self.world.kind).await
    }

    /// Writes down something that was seen.
    pub fn note(&mut self, what: impl Into<String>) {
        self.seen.push(what.into());
    }

    /// The status of a GET, and the answer's body; 0: there was no answer.
    pub async fn get(&self, port: &str, path: &str) -> Result<(u16, String)> {
        let port = self.world.port(port)?;
        let text = format!("GET {path} HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n");
        match fetch(port, text.as_bytes()).await {
            Ok(answer) => Ok((answer.status(), String::from_utf8_lossy(&answer.body).into_owned())),
            Err(_) => Ok((0, String::new())),
        }
    }

    /// Notes the answer to a GET of this moment.
    ///
    /// # Errors
    /// There is no such port.
    pub async fn note_get(&mut self, port: &str, path: &str) -> Result<()> {
        let (status, body) = self.get(port, path).await?;
        self.note(format!("GET {port}{path}: {status} {body}"));
        Ok(())
    }

    /// Waits until a GET is answered so, and notes it.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn until(&mut self, port: &str, path: &str, status: u16) -> Result<String> {
        let what = format!("GET {port}{path} is answered {status}");
        let found = eventually(&what, PATIENCE, || async {
            let (found, body) = self.get(port, path).await.ok()?;
            (found == status).then_some(body)
        })
        .await;
        let body = match found {
            Ok(body) => body,
            Err(e) => {
                let last = self.get(port, path).await?;
                bail!("{e:#}; last {last:?}; log: {}", self.world.proxy.log_tail());
            }
        };
        self.note(format!("eventually GET {port}{path}: {status} {body}"));
        Ok(body)
    }

    /// Waits until the body of the answer is this, and notes it.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn until_body(&mut self, port: &str, path: &str, wanted: &str) -> Result<()> {
        let what = format!("GET {port}{path} is answered {wanted:?}");
        eventually(&what, PATIENCE, || async {
            let (_, body) = self.get(port, path).await.ok()?;
            (body == wanted).then_some(())
        })
        .await
        .with_context(|| self.world.proxy.log_tail())?;
        self.note(what);
        Ok(())
    }

    /// Waits for the answer to a version, and notes whether it is accepted.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn answered(&mut self, type_url: &str, version: &str) -> Result<Option<String>> {
        let answer = self.plane.answer(type_url, version).await.with_context(|| self.world.proxy.log_tail())?;
        let kind = type_url.rsplit('.').next().unwrap_or(type_url);
        self.note(format!("{kind} {version}: {}", if answer.error.is_some() { "NACK" } else { "ACK" }));
        Ok(answer.error)
    }

    /// Waits until a counter or gauge has at least a value.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn stat(&self, name: &str, least: u64) -> Result<u64> {
        let admin = self.world.proxy.admin();
        let what = format!("{name} is at least {least}");
        let found = eventually(&what, PATIENCE, || async {
            admin.stats().await.ok()?.get(name).copied().filter(|v| *v >= least)
        });
        match found.await {
            Ok(value) => Ok(value),
            Err(e) => bail!("{e:#}: it is {:?}", admin.stats().await?.get(name)),
        }
    }

    /// Notes counters and gauges of this moment.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub async fn note_stats(&mut self, names: &[&str]) -> Result<()> {
        let all = self.world.proxy.admin().stats().await?;
        for name in names {
            let value = all.get(*name).map_or("absent".to_owned(), u64::to_string);
            self.note(format!("{name}: {value}"));
        }
        Ok(())
    }

    /// `/config_dump` as JSON, one section of it.
    ///
    /// # Errors
    /// The page is not what Envoy's is.
    pub async fn dump(&self, section: &str) -> Result<serde_json::Value> {
        let text = self.world.proxy.admin().text("/config_dump?include_eds").await?;
        let page: serde_json::Value = serde_json::from_str(&text).context("/config_dump")?;
        let all = page.get("configs").and_then(|c| c.as_array()).context("no configs")?;
        let wanted = format!("type.googleapis.com/envoy.admin.v3.{section}");
        let found = all.iter().find(|c| c.get("@type").and_then(|t| t.as_str()) == Some(&wanted));
        Ok(found.cloned().unwrap_or_default())
    }
}

/// Plays a scenario on weft-proxy and on Envoy; both must see the same.
///
/// # Errors
/// A step failed, or what was seen differs.
pub fn play<F, Fut>(name: &str, variant: Variant, scenario: F) -> Result<()>
where
    F: Fn(Scene) -> Fut,
    Fut: Future<Output = Result<Scene>>,
{
    play_from(name, variant, |kind| Scene::start(kind, variant), scenario)
}

/// Plays a scenario of what Envoy has not, on weft-proxy with these arguments.
///
/// # Errors
/// A step failed.
pub fn play_weft<F, Fut>(name: &str, variant: Variant, arguments: &[&str], scenario: F) -> Result<()>
where
    F: Fn(Scene) -> Fut,
    Fut: Future<Output = Result<Scene>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(async {
        if Kind::Weft.binary().is_none() {
            skipped(name, NO_WEFT);
            return Ok(());
        }
        let scene = Scene::with(Kind::Weft, variant, bootstrap, arguments).await?;
        let mut scene = scenario(scene).await.with_context(|| format!("{name} {variant:?}"))?;
        ensure!(scene.world.proxy.ended().is_none(), "{name}: it ended: {}", scene.world.proxy.log_tail());
        ensure!(!scene.world.proxy.log().contains("panicked at"), "{name}: {}", scene.world.proxy.log_tail());
        Ok(())
    })
}

/// The same with scenes that `start` makes.
///
/// # Errors
/// A step failed, or what was seen differs.
pub fn play_from<S, SFut, F, Fut>(name: &str, variant: Variant, start: S, scenario: F) -> Result<()>
where
    S: Fn(Kind) -> SFut,
    SFut: Future<Output = Result<Scene>>,
    F: Fn(Scene) -> Fut,
    Fut: Future<Output = Result<Scene>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(async {
        let mut all = Vec::new();
        for (kind, why) in [(Kind::Weft, NO_WEFT), (Kind::Envoy, NO_ENVOY)] {
            if kind.binary().is_none() {
                skipped(name, why);
                continue;
            }
            let scene = start(kind).await?;
            let mut scene = scenario(scene).await.with_context(|| format!("{name} {variant:?} on {}", kind.name()))?;
            ensure!(
                scene.world.proxy.ended().is_none(),
                "{name}: {} ended: {}",
                kind.name(),
                scene.world.proxy.log_tail()
            );
            let log = scene.world.proxy.log();
            ensure!(!log.contains("panicked at"), "{name}: a thread panicked: {}", scene.world.proxy.log_tail());
            all.push(scene.seen);
        }
        if let [weft, envoy] = all.as_slice() {
            ensure!(weft == envoy, "{name} {variant:?}:\nweft:  {weft:#?}\nenvoy: {envoy:#?}");
        }
        Ok(())
    })
}
