//! The memory for requests in flight, of which connections take shares before they receive large
//! frames.
//!
//! Connections take shares; workers check for a shortage. A share covers a whole frame: with
//! piecewise shares many connections would hold half of what they need and wait for one another. A
//! share takes no memory until bytes arrive. Where others wait, a share without progress gives way
//! ([`crate::broker::give_way`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The bytes that count as progress: a byte a second is none.
pub(crate) const PROGRESS_BYTES: u64 = 16 * 1024;

/// The budget of all connections.
#[derive(Debug)]
pub(crate) struct Uploads {
    all_bytes: u64,
    budget: Arc<Semaphore>,
    /// Granted bytes. The semaphore does not know them: it sets permits aside for the first in
    /// line.
    held_bytes: Arc<AtomicU64>,
    /// Bytes that waiting connections ask for.
    waiting_bytes: AtomicU64,
    /// Notified when a connection begins to wait.
    pub(crate) shortage: Notify,
}

impl Uploads {
    pub(crate) fn new(all_bytes: u32) -> Self {
        Uploads {
            all_bytes: u64::from(all_bytes),
            held_bytes: Arc::default(),
            budget: Arc::new(Semaphore::new(all_bytes as usize)),
            waiting_bytes: AtomicU64::new(0),
            shortage: Notify::new(),
        }
    }

    /// A share, in the order of asking. `None`: none came free within `at_most`.
    pub(crate) async fn share(&self, bytes: u32, at_most: Duration) -> Option<Share> {
        let budget = || Arc::clone(&self.budget);
        let permit = match budget().try_acquire_many_owned(bytes) {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::begin(self, bytes);
                timeout(at_most, budget().acquire_many_owned(bytes)).await.ok()?.ok()?
            }
        };
        let bytes = u64::from(bytes);
        self.held_bytes.fetch_add(bytes, Relaxed);
        Some(Share { bytes, held_bytes: Arc::clone(&self.held_bytes), _permit: permit })
    }

    /// Bytes that must come free for all waiting connections to go on.
    pub(crate) fn missing_bytes(&self) -> u64 {
        let waiting_bytes = self.waiting_bytes.load(Relaxed);
        (self.held_bytes() + waiting_bytes).saturating_sub(self.all_bytes).min(waiting_bytes)
    }

    /// Bytes that waiting connections ask for.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Relaxed)
    }

    /// The whole budget.
    pub(crate) fn all_bytes(&self) -> u64 {
        self.all_bytes
    }

    /// Bytes that requests hold.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: u64,
    held_bytes: Arc<AtomicU64>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// Counted as waiting until dropped.
struct Waiting<'a> {
    uploads: &'a Uploads,
    bytes: u64,
}

impl<'a> Waiting<'a> {
    fn begin(uploads: &'a Uploads, bytes: u32) -> Self {
        let bytes = u64::from(bytes);
        uploads.waiting_bytes.fetch_add(bytes, Relaxed);
        uploads.shortage.notify_waiters();
        Waiting { uploads, bytes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.uploads.waiting_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_counted_and_served_in_the_order_of_asking() {
        let uploads = Uploads::new(100);
        let at_most = Duration::from_secs(30);
        let first = uploads.share(70, at_most).await.unwrap();
        assert_eq!((uploads.held_bytes(), uploads.missing_bytes()), (70, 0));
        let second = uploads.share(50, at_most);
        let after_a_while = async {
            tokio::task::yield_now().await;
            assert_eq!(uploads.missing_bytes(), 20);
            drop(first);
        };
        let (second, ()) = tokio::join!(second, after_a_while);
        assert_eq!((uploads.held_bytes(), uploads.missing_bytes()), (50, 0));
        assert!(uploads.share(60, Duration::ZERO).await.is_none(), "the time is over");
        assert_eq!(uploads.missing_bytes(), 0);
        drop(second);
    }
}
