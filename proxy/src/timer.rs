//! One timer for a deadline that keeps moving: pushing it further costs nothing until the old moment arrives.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer is armed for so long at most: a connection's limits are minutes and hours and take turns, and so none of the later
/// ones moves it back. Then it is armed again.
const STEP: Duration = Duration::from_secs(60);

/// A movable deadline. Without a deadline it holds no timer unless one is still armed.
#[derive(Default)]
pub struct LazyTimer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Sets, moves or (with `None`) removes the deadline.
    pub fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Sets the deadline to `after` from now.
    pub fn set_after(&mut self, after: Option<Duration>) {
        self.deadline = after.map(|d| crate::clock::now() + d);
    }

    /// Ready once the deadline has passed; the deadline is then gone.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let next = || deadline.min(crate::clock::now() + STEP);
        loop {
            let sleep = match &mut self.sleep {
                Some(s) if s.deadline() <= deadline => s,
                Some(s) => {
                    s.as_mut().reset(deadline);
                    s
                }
                None => self.sleep.insert(Box::pin(tokio::time::sleep_until(next()))),
            };
            std::task::ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                self.deadline = None;
                self.sleep = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn moves_both_ways() {
        let start = Instant::now();
        let mut t = LazyTimer::default();
        t.set_after(Some(Duration::from_secs(1)));
        assert!(poll_fn(|cx| Poll::Ready(t.poll_expired(cx).is_pending())).await);
        t.set(Some(start + Duration::from_secs(5)));
        poll_fn(|cx| t.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        t.set_after(Some(Duration::from_secs(60)));
        assert!(poll_fn(|cx| Poll::Ready(t.poll_expired(cx).is_pending())).await);
        t.set(Some(start + Duration::from_secs(6)));
        poll_fn(|cx| t.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 6);
        t.set_after(Some(Duration::from_secs(200)));
        poll_fn(|cx| t.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 206, "longer than it is armed for at once");
    }
}
