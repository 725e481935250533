//! Requests of the proxy's own: mirrors, and what filters ask services. They go the way of all others (balancer, circuit breakers,
//! the worker's pools) and count as internal ones, as in Envoy. Runs on: workers, in the task of whoever asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use tokio::time::Instant;

use super::body::{Body, BodyError, Frame};
use super::head::{RequestHead, ResponseHead};
use super::names;
use super::original_ip;
use super::retry::{Failure, RetryState};
use crate::cluster::{Cluster, Permit, Resource, lb, outlier};
use crate::config::RetryPolicy;
use crate::http::HeaderMap;
use crate::stream_info::{ConnInfo, StreamInfo};
use crate::upstream::attempt::{self, Books, Failed, Via};

/// One sending of a request.
pub(crate) struct Sending {
    /// Its host, and its place among the requests under way.
    pub(crate) books: Books,
    worker: usize,
}

impl Sending {
    /// Picks a host; `None`: there is none. `random` is uniform.
    pub(crate) fn begin(
        cluster: &Arc<Cluster>,
        headers: Option<&HeaderMap>,
        info: &StreamInfo,
        worker: usize,
        random: u64,
    ) -> Option<Self> {
        let destination = cluster.destination(headers, info);
        let picked = cluster.pick(worker, &lb::Request { random, destination, ..lb::Request::default() });
        let Some(host) = picked else {
            cluster.stats.upstream_cx_none_healthy.inc();
            return None;
        };
        Some(Sending { books: Books::new(cluster, &host), worker })
    }

    /// Sends, and waits for the head of the answer.
    ///
    /// # Errors
    /// How it failed; nothing of an answer came.
    pub(crate) async fn exchange(
        &mut self,
        head: &RequestHead,
        body: Body,
        info: &mut StreamInfo,
    ) -> Result<(ResponseHead, Body), Failed> {
        let (cluster, host) = (self.books.cluster.clone(), self.books.host.clone());
        let via = Via {
            cluster: &cluster,
            host: &host,
            worker: self.worker,
            high: false,
            downstream: info.conn.id,
            tunnel: false,
        };
        let (connection, permit) = attempt::connect(&via, head, info).await?;
        self.books.sent(permit);
        cluster.observe(&host, outlier::Outcome::Connected);
        attempt::exchange(connection, head, body, info).await
    }
}

/// A request with a whole body, for a whole answer.
pub(crate) struct Call<'a> {
    /// Who answers it.
    pub(crate) cluster: &'a Arc<Cluster>,
    /// Its head.
    pub(crate) head: RequestHead,
    /// Its body.
    pub(crate) body: Bytes,
    /// From its beginning to the end of the answer, retries included; `None`: no limit.
    pub(crate) timeout: Option<Duration>,
    /// When it is sent again.
    pub(crate) retry: Option<&'a Arc<RetryPolicy>>,
    /// It is gRPC, whose answers' status is in a header.
    pub(crate) grpc: bool,
    /// An answer's body may have so many bytes.
    pub(crate) max_body: usize,
    /// Whether it says that it is internal (`x-envoy-internal`), and where it comes from (`x-forwarded-for`).
    pub(crate) says: (bool, bool),
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) head: ResponseHead,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// No host, no connection, or no answer on it.
    Failed(Failure),
    /// It took too long.
    Timeout,
    /// The answer ended before its end.
    Broken(BodyError),
    /// The answer is larger than it may be.
    TooLarge,
}

const INTERNAL: &str = "x-envoy-internal";
const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

impl Call<'_> {
    /// Makes the call, on behalf of the client connection `from`.
    ///
    /// # Errors
    /// There is no answer.
    ///
    /// # Cancel safety
    /// Dropped, it gives the call up.
    pub(crate) async fn send(mut self, from: &Arc<ConnInfo>) -> Result<Answer, CallError> {
        let random = crate::worker::random();
        if let Some(error) = self.shed(random) {
            return Err(error);
        }
        self.announce();
        let retry = RetryState::new(self.retry, &self.head.headers, false, self.grpc);
        let mut under =
            Under { retry, retrying: None, sending: None, raced: false, began: crate::clock::now(), random };
        let whole = self.attempts(from, &mut under);
        let Some(limit) = self.timeout else { return whole.await };
        if let Ok(result) = tokio::time::timeout(limit, whole).await {
            return result;
        }
        self.cluster.stats.answered(504, true);
        if let Some(sending) = under.sending.take() {
            sending.books.timed_out();
            sending.books.host.rq_error.fetch_add(1, Ordering::Relaxed);
            self.cluster.observe(&sending.books.host, outlier::Outcome::Timeout);
        }
        Err(CallError::Timeout)
    }

    fn shed(&self, random: u64) -> Option<CallError> {
        let shed = self.cluster.sheds(random)?;
        if shed == crate::cluster::Shed::Maintenance {
            self.cluster.stats.upstream_rq_maintenance_mode.inc();
        }
        self.cluster.stats.answered(503, true);
        Some(CallError::Failed(Failure::Overflow))
    }

    /// What the server is told of the caller and its patience.
    fn announce(&mut self) {
        let headers = &mut self.head.headers;
        let (internal, from) = self.says;
        if internal {
            headers.insert(INTERNAL, HeaderValue::from_static("true"));
        }
        if from && let Ok(own) = HeaderValue::from_str(&original_ip::local_address().to_string()) {
            headers.append("x-forwarded-for", own);
        }
        if let Some(limit) = self.timeout {
            headers.insert(EXPECTED, HeaderValue::from(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)));
        }
    }

    async fn attempts(&self, from: &Arc<ConnInfo>, under: &mut Under) -> Result<Answer, CallError> {
        let stats = &self.cluster.stats;
        loop {
            let mut info = StreamInfo::new(from.clone(), under.random, Some(self.head.protocol));
            under.random = lb::mix(under.random.wrapping_add(1));
            let worker = crate::worker::index();
            under.sending = Sending::begin(self.cluster, Some(&self.head.headers), &info, worker, under.random);
            let Some(sending) = &mut under.sending else {
                stats.answered(503, true);
                return Err(CallError::Failed(Failure::NoHost));
            };
            let host = sending.books.host.clone();
            match sending.exchange(&self.head, Body::from_bytes(self.body.clone()), &mut info).await {
                Ok((head, body)) => {
                    let status = head.status.as_u16();
                    self.cluster.observe(&host, outlier::Outcome::Status(status));
                    let again = under.wants_response(status, &head.headers) && under.may_retry(self.cluster);
                    let count = if !again && status < 500 { &host.rq_success } else { &host.rq_error };
                    count.fetch_add(1, Ordering::Relaxed);
                    if !again {
                        stats.answered(status, true);
                        if self.grpc && status != 200 && grpc_status(&head.headers).is_none() {
                            // It is no gRPC answer: nobody waits for the rest of it.
                            return Ok(Answer { head, body: Bytes::new(), trailers: None });
                        }
                        let mut answer = collect(head, body, self.max_body).await?;
                        let took = crate::clock::now().saturating_duration_since(under.began).as_millis();
                        let took = HeaderValue::from(u64::try_from(took).unwrap_or(u64::MAX));
                        answer.head.headers.insert(names::UPSTREAM_SERVICE_TIME, took);
                        under.sending.iter().for_each(|s| s.books.complete(true));
                        return Ok(answer);
                    }
                    stats.retried(status);
                }
                Err(Failed { idle_race: true, .. }) if !under.raced => {
                    // The connection was closed while it was idle: nobody looked at the question. Once, and not counted as a retry.
                    under.raced = true;
                    continue;
                }
                Err(Failed { failure, sent, .. }) => {
                    host.rq_error.fetch_add(1, Ordering::Relaxed);
                    if !matches!(failure, Failure::Overflow | Failure::NoHost) {
                        self.cluster.observe(&host, outlier::Outcome::LocalFailure);
                    }
                    if !(under.wants_failure(&failure, sent) && under.may_retry(self.cluster)) {
                        let status = if matches!(failure, Failure::Protocol) { 502 } else { 503 };
                        stats.answered(status, true);
                        return Err(CallError::Failed(failure));
                    }
                }
            }
            under.pause(self.cluster).await;
        }
    }
}

/// A call under way.
struct Under {
    retry: Option<RetryState>,
    /// The retry's place.
    retrying: Option<Permit>,
    sending: Option<Sending>,
    /// It lost a race with an idle close, and was sent again.
    raced: bool,
    began: Instant,
    random: u64,
}

impl Under {
    fn wants_response(&mut self, status: u16, headers: &HeaderMap) -> bool {
        let wants = self.retry.as_ref().is_some_and(|r| r.wants_response(status, headers));
        self.settle(wants)
    }

    fn wants_failure(&mut self, failure: &Failure, sent: bool) -> bool {
        let wants = self.retry.as_ref().is_some_and(|r| r.wants_failure(failure, sent));
        self.settle(wants)
    }

    /// Where no further attempt is wanted, the retry before counts as a success, as Envoy has it.
    fn settle(&mut self, wants: bool) -> bool {
        if !wants
            && self.retrying.take().is_some()
            && let Some(s) = &self.sending
        {
            s.books.cluster.stats.upstream_rq_retry_success.inc();
        }
        wants
    }

    fn may_retry(&mut self, cluster: &Cluster) -> bool {
        // The place of the retry before is free first: one request never holds two.
        self.retrying = None;
        let Some(retry) = &mut self.retry else { return false };
        if !retry.take() {
            cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            return false;
        }
        self.retrying = cluster.breaker(false).acquire(Resource::Retries);
        if self.retrying.is_none() {
            cluster.stats.upstream_rq_retry_overflow.inc();
        }
        self.retrying.is_some()
    }

    async fn pause(&mut self, cluster: &Cluster) {
        self.sending = None;
        let Some(retry) = &mut self.retry else { return };
        cluster.stats.upstream_rq_retry.inc();
        cluster.stats.upstream_rq_retry_backoff_exponential.inc();
        let wait = retry.back_off(lb::mix(self.random));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

async fn collect(head: ResponseHead, mut body: Body, max: usize) -> Result<Answer, CallError> {
    let (mut first, mut all, mut trailers) = (Bytes::new(), BytesMut::new(), None);
    loop {
        match body.frame().await {
            Some(Ok(Frame::Data(data))) => {
                if first.len() + all.len() + data.len() > max {
                    return Err(CallError::TooLarge);
                }
                // Most answers come in one piece, which need not be copied.
                if first.is_empty() && all.is_empty() {
                    first = data;
                } else {
                    if all.is_empty() {
                        all.extend_from_slice(&std::mem::take(&mut first));
                    }
                    all.extend_from_slice(&data);
                }
            }
            Some(Ok(Frame::Trailers(t))) => trailers = Some(t),
            Some(Err(e)) => return Err(CallError::Broken(e)),
            None => break,
        }
    }
    // An HTTP/1 connection goes home to its pool.
    body.finish();
    let body = if all.is_empty() { first } else { all.freeze() };
    Ok(Answer { head, body, trailers })
}

/// The gRPC status of an answer; `None`: it has none, or more than one.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    let mut all = headers.get_all(names::GRPC_STATUS);
    let status = all.next()?.to_str().ok()?.parse().ok();
    status.filter(|_| all.next().is_none())
}
