//! What happens to an authority in time: roots are replaced, and forgotten.
//!
//! Runs as one task. It looks for the operator's wishes in files, so only who may write there can have any.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rotation::Phase;
use super::{Ca, CaError, store};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(250);

/// Whether every proxy that asks for the roots has accepted this bundle, and since when none has gone.
pub trait Acknowledged: Send + Sync {
    /// How long all have had it; `None`: some have not.
    fn for_how_long(&self, bundle: &str) -> Option<Duration>;
}

impl Ca {
    /// Replaces roots when it is asked to, step by step, until `stop`.
    pub async fn tend(self: Arc<Self>, proxies: impl Acknowledged, stop: CancellationToken) {
        // They may have changed since they were read first.
        let mut stamp = None;
        let mut since = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let step = self.look_for_wishes(&mut stamp, &mut since).and_then(|()| self.step(&proxies, since));
            if let Err(error) = step {
                tracing::error!("the replacement of a root does not go on: {error}");
            }
        }
    }

    fn look_for_wishes(
        &self,
        stamp: &mut Option<Vec<Option<(SystemTime, u64)>>>,
        since: &mut Instant,
    ) -> Result<(), CaError> {
        let next = match &self.options.plugged {
            Some(place) => {
                let now = store::plugged_stamp(place);
                if stamp.as_ref() == Some(&now) {
                    return Ok(());
                }
                // Whatever it is, it is looked at once.
                *stamp = Some(now);
                let next = store::read_plugged(place)?;
                let mut rotation = self.rotation.lock();
                if rotation.issuing.name == next.name {
                    if rotation.issuing.roots != next.roots {
                        tracing::info!("other roots are trusted with the same authority");
                        rotation.issuing = Arc::new(next);
                        store::save_plugged(&self.directory, &rotation.issuing)?;
                        drop(rotation);
                        self.publish()?;
                    }
                    return Ok(());
                }
                next
            }
            None => {
                if self.rotation.lock().next.is_some() || !store::take_request(&self.directory)? {
                    return Ok(());
                }
                store::make_next(&self.directory, &self.options.trust_domain)?
            }
        };
        tracing::info!(root = next.name, "a new root: proxies are told to trust it");
        self.rotation.lock().next = Some(Arc::new(next));
        *since = Instant::now();
        self.publish()
    }

    /// Goes a step further if it is time.
    fn step(&self, proxies: &impl Acknowledged, since: Instant) -> Result<(), CaError> {
        let now = SystemTime::now();
        let phase = self.rotation.lock().phase();
        if phase == Phase::Distributing && since.elapsed() >= self.options.settle {
            let bundle = self.bundle.borrow().clone();
            let accepted = proxies.for_how_long(&bundle).is_some_and(|long| long >= self.options.settle);
            if accepted {
                let mut rotation = self.rotation.lock();
                let old = rotation.advance();
                store::advance(&self.directory, self.options.plugged.is_some(), &rotation)?;
                let issuing = rotation.issuing.name.clone();
                drop(rotation);
                tracing::info!(root = issuing, before = old, "all proxies trust the new root: it signs from now on");
                self.publish()?;
            }
        }
        let mut rotation = self.rotation.lock();
        let gone = rotation.elapsed(now);
        if gone.is_empty() {
            return Ok(());
        }
        store::save_retiring(&self.directory, &rotation.retiring)?;
        drop(rotation);
        self.publish()?;
        for name in gone {
            tracing::info!(root = name, "nobody has a certificate of the old root: it is no longer trusted");
            self.counts.rotations.add(1);
        }
        Ok(())
    }
}
