//! PINGs that find out whether the peer of an HTTP/2 connection still lives.
//!
//! **Source**: `envoy.config.core.v3.Http2ProtocolOptions.connection_keepalive`. Runs on: the task of the connection, which must
//! poll this after its transport: it wakes itself for a PING to leave.

use std::task::{Context, Poll, ready};

use super::core::Core;
use crate::config::Http2Keepalive;
use crate::timer::LazyTimer;

/// The keepalive of one connection.
pub(super) struct Keepalive {
    options: Http2Keepalive,
    timer: LazyTimer,
    /// A PING is unanswered.
    waiting: bool,
}

impl Keepalive {
    /// A keepalive as configured; none without an interval.
    pub(super) fn new(options: Option<&Http2Keepalive>) -> Option<Self> {
        let options = *options.filter(|o| o.interval.is_some())?;
        let mut keepalive = Keepalive { options, timer: LazyTimer::default(), waiting: false };
        keepalive.rest();
        Some(keepalive)
    }

    /// Until the next PING: the interval, and a random share of it so that connections opened together do not stay in step.
    fn rest(&mut self) {
        let jitter = 1.0 + self.options.jitter * crate::worker::random() as f64 / u64::MAX as f64;
        self.timer.set_after(self.options.interval.map(|i| i.mul_f64(jitter)));
    }

    /// Ready once a PING was not answered in time.
    pub(super) fn poll_dead(&mut self, core: &mut Core, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && core.take_pong() {
                self.waiting = false;
                self.rest();
            }
            ready!(self.timer.poll_expired(cx));
            if self.waiting {
                return Poll::Ready(());
            }
            core.ping();
            self.waiting = true;
            self.timer.set_after(Some(self.options.timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::core::{Options, Role};
    use super::super::driver::{Counts, Driver};
    use super::*;
    use crate::stats::Counter;

    const OPTIONS: Http2Keepalive = Http2Keepalive {
        interval: Some(Duration::from_secs(10)),
        timeout: Duration::from_secs(2),
        jitter: 0.0,
        idle_interval: None,
    };

    /// Runs a client's keepalive over a server that answers until `silent_after`; when it was found dead.
    async fn lifetime(silent_after: Option<Duration>) -> Option<Duration> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let serve = async { while connection.accept().await.is_some() {} };
            match silent_after {
                Some(limit) => {
                    let _ = tokio::time::timeout(limit, serve).await;
                    std::future::pending::<()>().await;
                }
                None => serve.await,
            }
        });
        let mut driver = Driver::new(
            near,
            &[],
            Core::new(Options::of(Role::Client), None),
            Counts(Counter::noop(), Counter::noop()),
        );
        let mut keepalive = Keepalive::new(Some(&OPTIONS)).unwrap();
        let began = tokio::time::Instant::now();
        let dead = std::future::poll_fn(|cx| {
            let _ = driver.poll(cx);
            keepalive.poll_dead(&mut driver.core().lock(), cx)
        });
        let found = tokio::time::timeout(Duration::from_secs(100), dead).await.ok().map(|()| began.elapsed());
        server.abort();
        found
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_are_found_and_the_living_are_left() {
        assert_eq!(lifetime(None).await, None);
        let found = lifetime(Some(Duration::from_secs(15))).await.unwrap();
        assert!(found >= Duration::from_secs(22) && found < Duration::from_secs(23), "{found:?}");
        assert!(Keepalive::new(None).is_none());
    }
}
