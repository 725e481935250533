//! One xDS stream: requests in, pushes out.
//!
//! Owns the meeting of a [`Session`] with its client, its resources and the clock. Must not know: what the session decides by.
//! It runs only when the connection can take more, so a slow client holds what it was sent last and nothing queues up for it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::Shared;
use super::caller::Caller;
use super::codec::{self, Request};
use super::connections::Guard;
use super::framing::{Message, Messages};
use super::provenance;
use super::session::{Answer, Session, Variant};
use crate::cache::{Computed, Lease, Published};
use crate::generate::Generator;
use crate::node::Proxy;
use crate::resource::ResourceType;

/// Which stream was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    /// The name of the service in tables.
    pub(super) service: &'static str,
    /// The only type on it; `None` is ADS.
    pub(super) only: Option<ResourceType>,
    pub(super) variant: Variant,
}

/// Who opened a stream.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) peer: Option<SocketAddr>,
    pub(super) caller: Caller,
}

/// Serves a stream; it ends when the client ends it, breaks the protocol, or the server stops.
pub(super) fn serve<G: Generator>(
    shared: Arc<Shared<G>>,
    method: Method,
    client: Client,
    requests: Messages,
) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    let worlds = shared.cache.subscribe();
    let Client { peer, caller } = client;
    let driver = Driver { shared, method, peer, caller, requests, worlds, client: None };
    futures_util::stream::unfold(Some(driver), |driver| async move {
        let mut driver = driver?;
        match driver.next().await {
            Ok(response) => response.map(|response| (Ok(response), Some(driver))),
            Err(status) => {
                driver.refused(&status);
                Some((Err(status), None))
            }
        }
    })
}

struct Driver<G: Generator> {
    shared: Arc<Shared<G>>,
    method: Method,
    peer: Option<SocketAddr>,
    caller: Caller,
    requests: Messages,
    worlds: watch::Receiver<Arc<Published<G>>>,
    /// Who it is, once that was said.
    client: Option<Known<G>>,
}

struct Known<G: Generator> {
    proxy: Arc<Proxy>,
    /// The world of its resources.
    sequence: u64,
    guard: Guard,
    _lease: Lease<G>,
}

/// What a stream wakes up for.
enum Event {
    Request(Request),
    /// The client is done.
    Ended,
    World,
    Deadline,
    Stopping,
}

impl<G: Generator> Driver<G> {
    /// The next response; `None` when the client is done.
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        loop {
            if let Some(response) = self.push() {
                return Ok(Some(response));
            }
            match self.event().await? {
                Event::Request(request) => self.request(request).await?,
                Event::Ended => return Ok(None),
                Event::World => self.refresh().await,
                Event::Deadline => {}
                Event::Stopping => return Err(Status::unavailable("the control plane is stopping; connect again")),
            }
        }
    }

    async fn event(&mut self) -> Result<Event, Status> {
        let now = Instant::now();
        let deadline = self.client.as_ref().and_then(|client| client.guard.session().deadline(now));
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => Ok(Event::Stopping),
            message = self.requests.next() => match message? {
                Some(message) => Ok(Event::Request(codec::decode(self.method.variant, message)?)),
                None => Ok(Event::Ended),
            },
            _ = self.worlds.changed() => Ok(Event::World),
            () = at(deadline) => Ok(Event::Deadline),
        }
    }

    fn push(&mut self) -> Option<Message> {
        let client = self.client.as_mut()?;
        let push = client.guard.session().next_push(Instant::now());
        client.guard.report(client.sequence);
        let push = push?;
        let metrics = self.shared.connections.metrics();
        let ty = push.ty;
        tracing::debug!(
            proxy = client.proxy.id,
            ty = ty.short_name(),
            nonce = push.nonce,
            version = %push.version,
            resources = push.resources.len(),
            removed = push.removed.len(),
            "push"
        );
        let message = Message { own: push.own(), shared: self.shared.encoded.shared(&push, &self.shared.identifier) };
        metrics.pushes[ty as usize].add(1);
        metrics.push_bytes.observe((message.own.len() + message.shared.len()) as f64);
        Some(message)
    }

    /// Takes over what the newest world has for the client.
    async fn refresh(&mut self) {
        let Some(client) = &mut self.client else { return };
        if let Some((Computed { sequence, resources }, lease)) = self.shared.cache.resources(&client.proxy).await {
            client.guard.session().update(resources);
            client.sequence = sequence;
            client._lease = lease;
        }
    }

    async fn request(&mut self, request: Request) -> Result<(), Status> {
        if self.client.is_none() {
            self.client = Some(self.greet(&request).await?);
        }
        let Some(client) = &mut self.client else { return Ok(()) };
        if let Some(node) = request.node().filter(|node| node.id != client.proxy.id) {
            let text = format!("node.id changed from {:?} to {:?}; open another stream", client.proxy.id, node.id);
            return Err(Status::invalid_argument(text));
        }
        let Some(ty) = resource_type(self.method, &request, &client.proxy)? else { return Ok(()) };
        let now = Instant::now();
        let answer = match &request {
            Request::Sotw(request) => client.guard.session().sotw_request(ty, request, now),
            Request::Delta(request) => client.guard.session().delta_request(ty, request, now),
        };
        if let Some(answer) = answer.map_err(|refused| Status::invalid_argument(refused.to_string()))? {
            self.answered(&answer);
        }
        Ok(())
    }

    fn answered(&self, answer: &Answer) {
        let metrics = self.shared.connections.metrics();
        metrics.ack_seconds.observe(answer.took.as_secs_f64());
        let Some(reason) = &answer.nack else { return };
        metrics.nacks[answer.ty as usize].add(1);
        let Some(client) = &self.client else { return };
        let world = self.shared.cache.current();
        let objects = provenance::culprits(&*world.world, &client.guard.session(), answer.ty);
        let objects: Vec<String> = objects.iter().map(ToString::to_string).collect();
        let (proxy, ty) = (&client.proxy.id, answer.ty.short_name());
        tracing::warn!(proxy, ty, version = %answer.version, made_of = objects.join(", "), "NACK: {reason}");
    }

    /// The first request says who it is.
    async fn greet(&mut self, request: &Request) -> Result<Known<G>, Status> {
        let node = request.node().ok_or_else(|| {
            Status::invalid_argument("the first request of a stream has no node; set it, it says who you are")
        })?;
        let proxy = Arc::new(Proxy::from_node(node).map_err(|error| Status::invalid_argument(error.to_string()))?);
        self.caller.check(&proxy)?;
        let Some((computed, lease)) = self.shared.cache.resources(&proxy).await else {
            return Err(Status::unavailable("generating the configuration failed, see the control plane's log"));
        };
        let method = self.method;
        tracing::info!(proxy = proxy.id, kind = %proxy.kind, service = method.service, "connected ({:?})", method.variant);
        let session = Session::new(method.variant, computed.resources);
        let guard = self.shared.connections.open(proxy.clone(), self.peer, method.service, session);
        Ok(Known { proxy, sequence: computed.sequence, guard, _lease: lease })
    }

    fn refused(&self, status: &Status) {
        let id = self.client.as_ref().map_or("unknown", |client| &client.proxy.id);
        if status.code() == tonic::Code::PermissionDenied {
            self.shared.connections.metrics().refused_callers.add(1);
            tracing::warn!(peer = ?self.peer, "stream refused: {}", status.message());
        } else if status.code() == tonic::Code::InvalidArgument {
            self.shared.connections.metrics().refused_streams.add(1);
            tracing::warn!(proxy = id, peer = ?self.peer, "stream ended: {}", status.message());
        } else {
            tracing::debug!(proxy = id, "stream ended: {status}");
        }
    }
}

impl<G: Generator> Drop for Driver<G> {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            tracing::info!(proxy = client.proxy.id, id = client.guard.connection().id, "disconnected");
        }
    }
}

/// The type a request is about; `None` for one that is not served, which other control planes may serve.
fn resource_type(method: Method, request: &Request, proxy: &Proxy) -> Result<Option<ResourceType>, Status> {
    let type_url = request.type_url();
    match method.only {
        Some(only) if type_url.is_empty() || type_url == only.type_url() => Ok(Some(only)),
        Some(only) => Err(Status::invalid_argument(format!(
            "type_url {type_url:?} on a stream of {}; use the stream of its type, or ADS",
            only.type_url()
        ))),
        None => {
            let ty = ResourceType::from_type_url(type_url);
            // Envoy answers a type it never asked for with an empty type URL.
            if ty.is_none() && !type_url.is_empty() {
                tracing::debug!(proxy = proxy.id, type_url, "a type that is not served");
            }
            Ok(ty)
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
