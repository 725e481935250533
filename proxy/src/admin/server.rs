//! The server: sockets, connections, and what every response has.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::body::{Params, Reply};
use super::grpc;
use super::router::route;
use super::sources::Sources;
use crate::access_log::{AccessLogs, LogContext, LogType};
use crate::config::{self, Address};
use crate::http::{RequestHead, ResponseHead, Scheme};
use crate::stats::{CodeStats, Counter, Gauge, Scope};
use crate::stream_info::{ConnInfo, ListenerInfo, PeerAddr, Protocol, StreamInfo};

/// Forms are small; what is larger than this is none of ours.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The admin interface's socket, before it serves.
pub struct AdminServer {
    socket: Socket,
    local: PeerAddr,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Shared by all connections.
struct Context {
    sources: Sources,
    access_logs: AccessLogs,
    listener: Arc<ListenerInfo>,
    local: PeerAddr,
    next_id: AtomicU64,
    codes: CodeStats,
    requests: Counter,
    connections: Counter,
    active: Gauge,
}

impl AdminServer {
    /// Opens the socket. Within a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or is a host name.
    pub async fn bind(address: &Address) -> io::Result<AdminServer> {
        let (socket, local) = match address {
            Address::Ip(address) => {
                let listener = TcpListener::bind(address).await?;
                let local = listener.local_addr()?;
                (Socket::Tcp(listener), PeerAddr::Ip(local))
            }
            Address::Pipe { path, mode } => (Socket::Unix(unix(path, *mode)?), PeerAddr::Pipe(path.as_str().into())),
            Address::Host { name, .. } => {
                let text = format!("the admin address must be an IP address or a pipe, not {name}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        Ok(AdminServer { socket, local })
    }

    /// Where it listens; the port is the system's choice if 0 was configured.
    pub fn local_address(&self) -> &PeerAddr {
        &self.local
    }

    /// Serves until `shutdown` is ready; connections end with it. `access_logs`: those of the bootstrap's `admin`.
    pub async fn serve(self, sources: Sources, access_logs: AccessLogs, shutdown: impl Future<Output = ()>) {
        let context = Arc::new(Context::new(sources, access_logs, self.local));
        let mut tasks = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = tasks.join_next() => {}
                accepted = accept(&self.socket) => match accepted {
                    Ok((Stream::Tcp(stream), peer)) => {
                        tasks.spawn(connection(context.clone(), stream, peer));
                    }
                    Ok((Stream::Unix(stream), peer)) => {
                        tasks.spawn(connection(context.clone(), stream, peer));
                    }
                    Err(error) => {
                        tracing::warn!("admin: accept: {error}");
                        // Most likely no file descriptor is left: one may be free in a moment.
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(socket: &Socket) -> io::Result<(Stream, PeerAddr)> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Stream::Tcp(stream), PeerAddr::from(peer)))
        }
        Socket::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            Ok((Stream::Unix(stream), PeerAddr::Pipe("".into())))
        }
    }
}

/// A path, or an abstract name after `@`. What a dead process left at the path is removed.
fn unix(path: &str, mode: u32) -> io::Result<UnixListener> {
    if let Some(name) = path.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        return UnixListener::from_std(listener);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    if mode != 0 {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(listener)
}

impl Context {
    fn new(sources: Sources, access_logs: AccessLogs, local: PeerAddr) -> Self {
        let root = sources.stats.root();
        let http: Scope = root.tagged("http", "envoy.http_conn_manager_prefix", "admin");
        Context {
            access_logs,
            listener: Arc::new(ListenerInfo { name: "admin".into(), direction: config::TrafficDirection::default() }),
            local,
            next_id: AtomicU64::new(1),
            codes: CodeStats::classes(&http, "downstream_rq_"),
            requests: http.counter("downstream_rq_total"),
            connections: http.counter("downstream_cx_total"),
            active: http.gauge("downstream_cx_active"),
            sources,
        }
    }

    fn connection_info(&self, peer: PeerAddr) -> ConnInfo {
        ConnInfo::new(self.next_id.fetch_add(1, Relaxed), peer, self.local.clone(), self.listener.clone())
    }
}

/// A gauge's one, taken away again when the connection ends, however it ends.
struct Active<'a>(&'a Gauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn connection(
    context: Arc<Context>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: PeerAddr,
) {
    context.connections.inc();
    context.active.inc();
    let _active = Active(&context.active);
    let conn = Arc::new(context.connection_info(peer));
    let service = service_fn(|request| {
        let (context, conn) = (context.clone(), conn.clone());
        async move { Ok::<_, Infallible>(answer(&context, conn, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("admin: connection: {error}");
    }
}

async fn answer(
    context: &Context,
    conn: Arc<ConnInfo>,
    request: Request<Incoming>,
) -> Response<Either<Full<Bytes>, grpc::Call>> {
    context.requests.inc();
    let protocol = match request.version() {
        Version::HTTP_10 => Protocol::Http10,
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http11,
    };
    let mut info = StreamInfo::new(conn, context.next_id.fetch_add(1, Relaxed), Some(protocol));
    let (parts, body) = request.into_parts();
    if grpc::is_call(&parts) {
        // How it ends is in its trailers; it has begun well.
        let begun = Reply::new(StatusCode::OK, "application/grpc", "");
        let response = grpc::call(context.sources.clone(), parts.uri.path(), body);
        finish(context, &mut info, parts, &begun, protocol);
        return response.map(Either::Right);
    }
    let reply = reply(context, &parts, body).await;
    finish(context, &mut info, parts, &reply, protocol);
    response(reply).map(Either::Left)
}

/// Counts and logs an answer.
fn finish(context: &Context, info: &mut StreamInfo, parts: http::request::Parts, reply: &Reply, protocol: Protocol) {
    context.codes.record(reply.status.as_u16());
    if !context.access_logs.is_empty() {
        log(context, info, parts, reply, protocol);
    }
}

async fn reply(context: &Context, parts: &http::request::Parts, body: Incoming) -> Reply {
    let mut params = Params::parse(parts.uri.query().unwrap_or_default());
    if parts.method == Method::POST {
        match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(body) => params.add_form(&String::from_utf8_lossy(&body.to_bytes())),
            Err(error) => return Reply::error(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
    route(&context.sources, &parts.method, parts.uri.path(), &params)
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, reply.content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    response
}

fn log(context: &Context, info: &mut StreamInfo, parts: http::request::Parts, reply: &Reply, protocol: Protocol) {
    info.response_code = reply.status.as_u16();
    info.bytes.sent = reply.body.len() as u64;
    info.times.end = Some(tokio::time::Instant::now());
    let mut headers = parts.headers;
    let host = headers.remove(HOST);
    let authority = parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let request = RequestHead {
        method: parts.method,
        scheme: Scheme::Http,
        authority: authority.or(host),
        path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: headers.into(),
        protocol,
        upgrade: None,
        spelling: None,
    };
    let mut head = ResponseHead::new(reply.status);
    head.headers.insert(HeaderName::from_static("content-type"), reply.content_type.clone());
    context.access_logs.log(&LogContext {
        request: Some(&request),
        response: Some(&head),
        log_type: LogType::DownstreamEnd,
        ..LogContext::new(info)
    });
}
