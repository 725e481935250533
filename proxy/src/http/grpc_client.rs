//! Unary gRPC calls of the proxy's own. Runs on: workers, in the task of whoever asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use prost::Message;

use super::call::{Answer, Call, CallError, grpc_status};
use super::head::{RequestHead, Scheme};
use super::headers::Mutations;
use super::timeout::to_grpc_timeout;
use crate::access_log::LogContext;
use crate::cluster::{ClusterHandle, Clusters};
use crate::config::{ConfigError, GrpcService, RetryPolicy};
use crate::http::HeaderMap;
use crate::stream_info::{ConnInfo, Protocol};

/// A frame of a message (gRPC over HTTP/2, "Length-Prefixed-Message"): one byte of flags, four of length.
const PREFIX: usize = 5;

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GrpcFailure {
    /// There is no such cluster.
    NoCluster,
    /// There is no answer.
    Call(CallError),
    /// The server says so.
    Status(u32),
    /// The answer is no gRPC answer, or not of the type that was asked for.
    Nonsense,
}

/// A method of a service, ready to be called.
pub(crate) struct GrpcClient {
    cluster: Arc<ClusterHandle>,
    head: RequestHead,
    metadata: Mutations,
    timeout: Option<Duration>,
    retry: Option<Arc<RetryPolicy>>,
    max_message: usize,
    envoy_headers: bool,
}

impl GrpcClient {
    /// The method at `path` of a service, where a call without a timeout of its own has `timeout`.
    ///
    /// # Errors
    /// A name or value that is none.
    pub(crate) fn new(service: &GrpcService, path: &str, clusters: &Clusters) -> Result<Self, ConfigError> {
        let authority = service.authority.as_ref().unwrap_or(&service.cluster);
        let mut headers = HeaderMap::new();
        headers.insert("te", HeaderValue::from_static("trailers"));
        if let Some(timeout) = service.timeout
            && let Ok(value) = HeaderValue::from_str(&to_grpc_timeout(timeout))
        {
            headers.insert("grpc-timeout", value);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let head = RequestHead {
            method: Method::POST,
            scheme: Scheme::Http,
            authority: Some(super::route::header_value(authority, "grpc_service.envoy_grpc.authority")?),
            path: path.to_owned(),
            headers,
            protocol: Protocol::Http2,
            upgrade: None,
            spelling: None,
        };
        Ok(GrpcClient {
            cluster: clusters.handle(&service.cluster),
            head,
            metadata: Mutations::new(&service.metadata)?,
            timeout: service.timeout,
            retry: service.retry.clone().map(Arc::new),
            max_message: service.max_message,
            envoy_headers: service.envoy_headers,
        })
    }

    /// A call's head, with what is known of whoever it is made for.
    pub(crate) fn head(&self, context: &LogContext<'_>) -> RequestHead {
        let mut head = self.head.clone();
        self.metadata.apply_in(context, &mut head.headers);
        head
    }

    /// Calls, on behalf of the client connection `from`.
    ///
    /// # Errors
    /// There is no good answer.
    pub(crate) async fn call<R: Message + Default>(
        &self,
        head: RequestHead,
        request: &impl Message,
        from: &Arc<ConnInfo>,
    ) -> Result<R, GrpcFailure> {
        let Some(cluster) = self.cluster.get() else { return Err(GrpcFailure::NoCluster) };
        let call = Call {
            cluster: &cluster,
            head,
            body: frame(request),
            timeout: self.timeout,
            retry: self.retry.as_ref(),
            grpc: true,
            max_body: self.max_message.saturating_add(PREFIX),
            says: (self.envoy_headers, self.envoy_headers),
        };
        let answer = call.send(from).await.map_err(GrpcFailure::Call)?;
        read(&answer)
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(length + PREFIX);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it: the length is its own.
    let _room = message.encode(&mut out);
    out.freeze()
}

/// The message of an answer.
fn read<R: Message + Default>(answer: &Answer) -> Result<R, GrpcFailure> {
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    match grpc_status(trailers) {
        Some(0) if answer.head.status == StatusCode::OK => {}
        Some(0) | None => return Err(GrpcFailure::Nonsense),
        Some(status) => return Err(GrpcFailure::Status(status)),
    }
    let mut rest = &answer.body[..];
    let mut last = None;
    while let Some((prefix, behind)) = rest.split_first_chunk::<PREFIX>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        // Compression was not offered.
        if prefix[0] != 0 || behind.len() < length {
            return Err(GrpcFailure::Nonsense);
        }
        let (message, more) = behind.split_at(length);
        (last, rest) = (Some(message), more);
    }
    match last {
        Some(message) if rest.is_empty() => R::decode(message).map_err(|_| GrpcFailure::Nonsense),
        _ => Err(GrpcFailure::Nonsense),
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::pb::google::rpc::Status;

    use super::*;
    use crate::http::head::ResponseHead;

    fn answer(body: &[u8], trailers: Option<&str>, header: Option<&str>) -> Answer {
        let with = |status: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
            headers
        };
        let mut head = ResponseHead::new(StatusCode::OK);
        if let Some(status) = header {
            head.headers = with(status);
        }
        Answer { head, body: Bytes::copy_from_slice(body), trailers: trailers.map(with) }
    }

    #[test]
    fn a_message_and_its_status() {
        let message = Status { code: 7, message: "no".into(), ..Status::default() };
        let good = frame(&message);
        assert_eq!(read::<Status>(&answer(&good, Some("0"), None)).unwrap(), message);
        // The last of several counts.
        let twice = [&frame(&Status::default())[..], &good].concat();
        assert_eq!(read::<Status>(&answer(&twice, Some("0"), None)).unwrap().code, 7);
        for (body, trailers, header, wanted) in [
            (&good[..], None, None, GrpcFailure::Nonsense),
            (&good[..], Some("what"), None, GrpcFailure::Nonsense),
            (&good[..], Some("8"), None, GrpcFailure::Status(8)),
            (&[], None, Some("13"), GrpcFailure::Status(13)),
            (&[], None, Some("0"), GrpcFailure::Nonsense),
            (&good[..good.len() - 1], Some("0"), None, GrpcFailure::Nonsense),
            (&[1, 0, 0, 0, 0], Some("0"), None, GrpcFailure::Nonsense),
            (&[0, 0, 0], Some("0"), None, GrpcFailure::Nonsense),
            (&[0, 0, 0, 0, 2, 0xff, 0xff], Some("0"), None, GrpcFailure::Nonsense),
        ] {
            assert_eq!(read::<Status>(&answer(body, trailers, header)).unwrap_err(), wanted, "{body:?} {trailers:?}");
        }
    }
}
