//! What a sidecar does for those who look after its pod, at one port: the metrics of both the proxy and its application, whether it
//! is ready, and the application's own probes, which come through the proxy as its traffic does.
//!
//! Owns the socket and the questions to the application. Must not know: what the proxy serves. Runs on: the control thread. The
//! application may be slow, large or gone: every question to it is bounded in time and size, and its failure is its own.

mod ask;
mod config;
mod pages;
mod probe;
#[cfg(test)]
mod tests;
mod unchecked;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

pub use self::config::{AppMetrics, Beside, Probe, ProbeKind};
use self::pages::Pages;
use crate::admin::Command;
use crate::stats::Store;

/// Who asks at a time: a kubelet and a scraper or two.
const CONNECTIONS: usize = 64;
/// A head comes within this, or not at all.
const HEAD: Duration = Duration::from_secs(5);
/// The longest life of a connection: the longest probe, and some.
const LIFE: Duration = Duration::from_secs(120);

/// Whether the proxy serves; else why it does not.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The port, before it serves.
#[derive(Debug)]
pub struct Agent {
    listener: TcpListener,
    beside: Beside,
}

impl Agent {
    /// Opens the port. Within a tokio runtime.
    ///
    /// # Errors
    /// It cannot be bound.
    pub async fn bind(beside: Beside) -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], beside.port))).await?;
        Ok(Agent { listener, beside })
    }

    /// Serves for as long as it is polled; connections end with it. `commands`: to whom `/quitquitquit` goes.
    pub async fn serve(self, stats: Arc<Store>, ready: Ready, commands: mpsc::UnboundedSender<Command>) -> Infallible {
        let pages = Arc::new(Pages::new(self.beside, stats, ready, commands));
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(slot) = slots.clone().acquire_owned().await else { return std::future::pending().await };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let pages = pages.clone();
                    tasks.spawn(async move {
                        let _slot = slot;
                        let _ = tokio::time::timeout(LIFE, connection(pages, stream, peer)).await;
                    });
                }
                // Most likely no file descriptor is left: one may be free in a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn connection(pages: Arc<Pages>, stream: tokio::net::TcpStream, peer: SocketAddr) {
    let answer = service_fn(move |request: http::Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(&request, peer).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // Kubelets do not keep connections, and a scraper's next one costs nothing.
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}
