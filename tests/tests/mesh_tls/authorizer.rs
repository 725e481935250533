//! An authorization server: over HTTP/1.1, and over gRPC as Envoy asks. It lets in who says `x-ext-authz: allow`, and of connections
//! those of `client`.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weft_proto::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use weft_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use weft_proto::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use weft_proto::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use weft_proto::pb::google::rpc::Status;

/// The header that decides.
const ASKED: &str = "x-ext-authz";
/// `PERMISSION_DENIED`.
const DENIED: i32 = 7;

/// What it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Questions(Arc<Mutex<Vec<String>>>);

impl Questions {
    fn note(&self, question: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(question);
    }

    /// All since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// It ends with this value.
pub(crate) struct Authorizer {
    pub(crate) http: u16,
    pub(crate) grpc: u16,
    pub(crate) asked: Questions,
    _tasks: JoinSet<()>,
}

impl Authorizer {
    pub(crate) async fn start() -> Result<Self> {
        let (http, grpc) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let ports = (http.local_addr()?.port(), grpc.local_addr()?.port());
        let asked = Questions::default();
        let mut tasks = JoinSet::new();
        let questions = asked.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = http.accept().await {
                connections.spawn(over_http(stream, questions.clone()));
            }
        });
        let questions = asked.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = grpc.accept().await {
                connections.spawn(over_grpc(stream, questions.clone()));
            }
        });
        Ok(Self { http: ports.0, grpc: ports.1, asked, _tasks: tasks })
    }
}

async fn over_http(mut stream: TcpStream, asked: Questions) -> Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        let length = field("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        asked.note(format!("{head}{}", String::from_utf8_lossy(&body)));
        let answer = if field(ASKED).as_deref() == Some("allow") {
            "HTTP/1.1 200 OK\r\nx-judged: yes\r\nx-seen: no\r\nx-told: client\r\ncontent-length: 0\r\n\r\n"
        } else {
            "HTTP/1.1 401 Unauthorized\r\nx-why: because\r\nx-hidden: secret\r\ncontent-length: 2\r\n\r\nno"
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn over_grpc(stream: TcpStream, asked: Questions) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let asked = asked.clone();
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            ensure!(path == "/envoy.service.auth.v3.Authorization/Check", "{path}");
            let mut body = request.into_body();
            let mut bytes = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                bytes.extend_from_slice(&chunk);
            }
            let question = CheckRequest::decode(bytes.get(5..).context("no message")?)?;
            let answer = judge(&question).encode_to_vec();
            asked.note(format!("{question:?}"));
            let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
            let mut stream = respond.send_response(head, false)?;
            let length = u32::try_from(answer.len())?.to_be_bytes();
            stream.send_data(Bytes::from([&[0][..], &length, &answer].concat()), false)?;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

fn judge(question: &CheckRequest) -> CheckResponse {
    let attributes = question.attributes.as_ref();
    let http = attributes.and_then(|of| of.request.as_ref()).and_then(|of| of.http.as_ref());
    let header = http.filter(|http| !http.method.is_empty()).map(|http| http.headers.get(ASKED).cloned());
    let caller = attributes.and_then(|of| of.source.as_ref()).map(|of| of.principal.clone()).unwrap_or_default();
    let allowed = match header {
        Some(value) => value.as_deref() == Some("allow"),
        None => caller.ends_with("/sa/client"),
    };
    let added = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue { key: key.to_owned(), value: value.to_owned(), ..HeaderValue::default() }),
        ..HeaderValueOption::default()
    };
    if allowed {
        let ok = OkHttpResponse { headers: vec![added("x-judged", "yes")], ..OkHttpResponse::default() };
        return CheckResponse {
            status: Some(Status::default()),
            http_response: Some(HttpResponse::OkResponse(ok)),
            ..CheckResponse::default()
        };
    }
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: StatusCode::Unauthorized as i32 }),
        headers: vec![added("x-why", "because")],
        body: "no".to_owned(),
    };
    CheckResponse {
        status: Some(Status { code: DENIED, ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..CheckResponse::default()
    }
}
