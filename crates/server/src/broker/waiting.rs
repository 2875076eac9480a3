//! Fetches that wait for a partition to grow.
//!
//! A waiting fetch is one `Notify` registered with each of its partitions: memory, no CPU. An
//! append wakes those of its partition only. Called by fetch (to wait) and partition (to wake).

use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

/// The fetches that wait for one partition.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    fetches: Mutex<Slab<Arc<Notify>>>,
}

/// A fetch's place in the queue of one partition; leaves it when dropped.
pub(crate) struct Registration {
    waiting: Arc<Waiting>,
    key: usize,
}

impl Waiting {
    pub(crate) fn wake(&self) {
        for (_, fetch) in self.fetches.lock().iter() {
            // A permit is kept for a fetch that is just between planning and waiting.
            fetch.notify_one();
        }
    }
}

impl Registration {
    pub(crate) fn new(waiting: Arc<Waiting>, fetch: Arc<Notify>) -> Self {
        let key = waiting.fetches.lock().insert(fetch);
        Registration { waiting, key }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.waiting.fetches.lock().remove(self.key);
    }
}
