//! Fetches that wait for a partition to grow.
//!
//! A waiting fetch is one `Notify` registered with each of its partitions: it takes memory and no
//! processor time. An append wakes the fetches of its partition only. Called by fetch (to wait) and
//! partition (to wake).

use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

/// The fetches that wait for one partition.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    fetches: Mutex<Slab<Arc<Notify>>>,
}

/// A fetch's place in the queue of one partition, given up when dropped.
pub(crate) struct Registration {
    waiting: Arc<Waiting>,
    key: usize,
}

impl Waiting {
    pub(crate) fn wake(&self) {
        for (_, fetch) in self.fetches.lock().iter() {
            // The permit is kept for a fetch between planning and waiting.
            fetch.notify_one();
        }
    }
}

impl Registration {
    pub(crate) fn new(waiting: Arc<Waiting>, fetch: Arc<Notify>) -> Self {
        let key = waiting.fetches.lock().insert(fetch);
        Registration { waiting, key }
    }

    /// Whether the place is in this queue.
    pub(crate) fn is_with(&self, waiting: &Arc<Waiting>) -> bool {
        Arc::ptr_eq(&self.waiting, waiting)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.waiting.fetches.lock().remove(self.key);
    }
}
