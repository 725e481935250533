//! Connecting to whichever of a host's addresses answers first (RFC 8305, "happy eyeballs"). Runs on: workers.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

/// The time an address has for itself before the next one is tried beside it, as in Envoy (RFC 8305 section 5 recommends 250 ms).
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// The order of attempts: families take turns, the first address's first (RFC 8305 section 4).
pub fn order(first: SocketAddr, more: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (same, other): (Vec<_>, Vec<_>) =
        std::iter::once(first).chain(more).partition(|a| a.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut out: Vec<SocketAddr> = Vec::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return out;
        }
        for address in pair.into_iter().flatten() {
            if !out.contains(&address) {
                out.push(address);
            }
        }
    }
}

/// The first connection that comes about. The next address is tried when an attempt fails, or has not ended in time; those
/// under way go on beside it.
///
/// # Errors
/// The last attempt's, where all fail.
///
/// # Cancel safety
/// Dropped, all attempts are given up.
pub async fn first<T, E, F: Future<Output = Result<T, E>>>(
    addresses: &[SocketAddr],
    none: E,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, E> {
    let mut left = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut last = none;
    loop {
        let next = left.next();
        if let Some(address) = next {
            running.push(attempt(*address));
        } else if running.is_empty() {
            return Err(last);
        }
        let more = left.len() > 0;
        tokio::select! {
            biased;
            Some(end) = running.next() => match end {
                Ok(connected) => return Ok(connected),
                Err(e) => last = e,
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn a(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let more = ["10.0.0.1:1", "10.0.0.2:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"].map(a);
        let wanted = ["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"].map(a);
        assert_eq!(order(a("[::1]:1"), more), wanted);
        assert_eq!(order(a("10.0.0.1:1"), []), [a("10.0.0.1:1")]);
    }

    /// Each address's port says after how many milliseconds it ends, its first octet how: 10 connects, anything else fails.
    async fn run(addresses: &[&str]) -> (Result<String, String>, u128) {
        let addresses: Vec<_> = addresses.iter().map(|t| a(t)).collect();
        let began = Instant::now();
        let result = first(&addresses, "none".to_owned(), |address| async move {
            tokio::time::sleep(Duration::from_millis(address.port().into())).await;
            if address.to_string().starts_with("10.") { Ok(address.to_string()) } else { Err(address.to_string()) }
        });
        (result.await, began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_answers_first() {
        let ok = |s: &str| Ok(s.to_owned());
        assert_eq!(run(&["10.0.0.1:20", "10.0.0.2:1"]).await, (ok("10.0.0.1:20"), 20));
        assert_eq!(run(&["10.0.0.1:900", "10.0.0.2:100"]).await, (ok("10.0.0.2:100"), 400));
        assert_eq!(run(&["10.0.0.1:350", "10.0.0.2:100"]).await, (ok("10.0.0.1:350"), 350));
        assert_eq!(run(&["11.0.0.1:5", "10.0.0.2:10"]).await, (ok("10.0.0.2:10"), 15));
        assert_eq!(run(&["11.0.0.1:5", "12.0.0.2:10"]).await, (Err("12.0.0.2:10".to_owned()), 15));
        assert_eq!(run(&[]).await, (Err("none".to_owned()), 0));
    }
}
