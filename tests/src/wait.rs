//! Deadlines: how tests wait.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::Instant;

/// How long a healthy proxy may take for anything a test waits for, on a machine that is busy compiling.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two looks at a condition nobody announces.
const POLL: Duration = Duration::from_millis(10);

/// Asks `look` again and again until it has an answer.
///
/// # Errors
/// When `deadline` has passed; `what` says what was awaited.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(anyhow!("{what}: not seen within {deadline:?}"));
        }
        tokio::time::sleep(POLL).await;
    }
}
