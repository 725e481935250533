//! Who is asked, over gRPC or HTTP.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use weft_proto::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use weft_proto::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

use crate::access_log::LogType;
use crate::cluster::{ClusterHandle, Clusters};
use crate::config::{AuthzHttp, AuthzService, ConfigError, RetryPolicy};
use crate::ext_authz::{self, Answer, CHECK};
use crate::http::HeaderMap;
use crate::http::call::Call;
use crate::http::grpc_client::GrpcClient;
use crate::http::head::{RequestHead, Scheme};
use crate::http::headers::Mutations;
use crate::http::stream::StreamCtx;
use crate::stream_info::{ConnInfo, Protocol};

/// Bounds an HTTP service's answer, as Envoy's own clients do.
const MAX_ANSWER: usize = 32 << 20;

/// A service, ready to be asked.
pub(super) enum Service {
    Grpc(Box<GrpcClient>),
    Http(Box<HttpClient>),
}

pub(super) struct HttpClient {
    config: AuthzHttp,
    cluster: Arc<ClusterHandle>,
    add: Mutations,
    retry: Option<Arc<RetryPolicy>>,
}

/// A request to a service.
pub(super) enum Question {
    Grpc(RequestHead, Box<CheckRequest>),
    Http(RequestHead, Bytes),
}

impl Service {
    /// # Errors
    /// A name or value that is none.
    pub(super) fn new(config: &AuthzService, clusters: &Clusters) -> Result<Self, ConfigError> {
        Ok(match config {
            AuthzService::Grpc(g) => Service::Grpc(Box::new(GrpcClient::new(g, CHECK, clusters)?)),
            AuthzService::Http(h) => Service::Http(Box::new(HttpClient {
                cluster: clusters.handle(&h.server.cluster),
                add: Mutations::new(&h.headers_to_add)?,
                retry: h.retry.clone().map(Arc::new),
                config: (**h).clone(),
            })),
        })
    }

    /// The question in the service's own form.
    pub(super) fn question(&self, ctx: &StreamCtx, check: CheckRequest) -> Question {
        match self {
            Service::Grpc(client) => Question::Grpc(client.head(&ctx.log_context(LogType::NotSet)), Box::new(check)),
            Service::Http(client) => {
                let http = check.attributes.and_then(|a| a.request?.http).unwrap_or_default();
                let (head, body) = client.request(ctx, http);
                Question::Http(head, body)
            }
        }
    }

    /// Asks. Whatever goes wrong is an answer that says nothing.
    pub(super) async fn ask(&self, question: Question, from: &Arc<ConnInfo>) -> Answer {
        match (self, question) {
            (Service::Grpc(client), Question::Grpc(head, check)) => {
                match client.call::<CheckResponse>(head, &*check, from).await {
                    Ok(response) => ext_authz::grpc::answer(response),
                    Err(failure) => {
                        tracing::debug!(?failure, "external authorization did not answer");
                        Answer::default()
                    }
                }
            }
            (Service::Http(client), Question::Http(head, body)) => client.ask(head, body, from).await,
            _ => Answer::default(),
        }
    }
}

impl HttpClient {
    async fn ask(&self, head: RequestHead, body: Bytes, from: &Arc<ConnInfo>) -> Answer {
        let Some(cluster) = self.cluster.get() else { return Answer::default() };
        let call = Call {
            cluster: &cluster,
            head,
            body,
            timeout: self.config.server.timeout,
            retry: self.retry.as_ref(),
            grpc: false,
            max_body: MAX_ANSWER,
            says: (true, false),
        };
        match call.send(from).await {
            Ok(answer) => ext_authz::http::answer(&self.config, answer),
            Err(failure) => {
                tracing::debug!(?failure, "external authorization did not answer");
                Answer::default()
            }
        }
    }

    /// The request's own head, or what of it may be told, with what it is given beside it.
    fn request(&self, ctx: &StreamCtx, http: HttpRequest) -> (RequestHead, Bytes) {
        let body = Bytes::from(http.raw_body);
        let mut head = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: None,
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            protocol: Protocol::Http11,
            upgrade: None,
            spelling: None,
        };
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let raw = http.header_map.into_iter().flat_map(|map| map.headers).map(|h| (h.key, Bytes::from(h.raw_value)));
        let text = http.headers.into_iter().map(|(name, value)| (name, Bytes::from(value)));
        for (name, value) in text.chain(raw) {
            self.put(&mut head, &name, value);
        }
        self.add.apply_in(&ctx.log_context(LogType::NotSet), &mut head.headers);
        (head, body)
    }

    fn put(&self, head: &mut RequestHead, name: &str, value: Bytes) {
        match name {
            ":method" => head.method = Method::from_bytes(&value).unwrap_or(Method::GET),
            ":path" => {
                let path = String::from_utf8_lossy(&value);
                head.path = match &*self.config.path_override {
                    "" => format!("{}{path}", self.config.path_prefix),
                    instead => instead.to_owned(),
                };
            }
            ":authority" => head.authority = HeaderValue::from_maybe_shared(value).ok(),
            "content-length" => {}
            _ => {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_maybe_shared(value)) {
                    head.headers.append(name, value);
                }
            }
        }
    }
}
