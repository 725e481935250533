//! Where objects come from.
//!
//! Owns the seam to the model: batches of changed objects. Must not know: what an object means.

pub mod files;

use std::future::Future;
use std::sync::Arc;

use weft_proto::problem::Problem;

use crate::model::kinds::{Object, ObjectKey};

/// Something that knows objects and tells what changes: a directory of files, a Kubernetes API server.
pub trait Source: Send {
    /// Waits for the next batch; the first one is everything there is. `None`: there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    fn next(&mut self) -> impl Future<Output = Option<Batch>> + Send;
}

/// What changed together, and is to be seen together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The changes; no key occurs twice.
    pub changes: Vec<Change>,
    /// Everything that is wrong *now* with documents of the source that are no objects: what cannot be read, what is there
    /// twice, what is of a foreign kind.
    pub problems: Arc<[Problem]>,
}

/// A change of one object.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is there, in this form.
    Applied(Arc<Object>),
    /// It is gone.
    Deleted(ObjectKey),
}

impl Change {
    /// Which object.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Applied(object) => &object.key,
            Self::Deleted(key) => key,
        }
    }
}
