//! How many cold plans of a ring wait for the disk at once: few beside hot readers, more without.
//!
//! ```text
//!   cold plan ─► a place among all ─► hot answers lately? ── no ─────────────────► admitted
//!                                           └─ yes ─► a place among the few ─────► admitted
//! ```
//!
//! perform.rs asks before each cold plan, first come first served. Each admitted plan has a kernel
//! worker. Those run at a low priority, but sixteen of them have as much of a core together as the
//! event loop has, and hot answers wait meanwhile (EXPERIMENTS.md).

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long after a hot answer others are expected.
const HOT_LASTS: Duration = Duration::from_millis(100);

/// The places of one ring.
#[derive(Debug)]
pub(crate) struct ColdPlaces {
    all: Arc<Semaphore>,
    beside_hot: Arc<Semaphore>,
    /// Counted, because a look at the clock would cost each of them more.
    hot_answers: Cell<u64>,
    /// How many there had been at the last admission that found more than before, and when.
    seen: Cell<(u64, Option<Instant>)>,
}

/// Held while a plan waits for the disk.
#[derive(Debug)]
pub(crate) struct ColdPlace {
    _place: OwnedSemaphorePermit,
    _beside_hot: Option<OwnedSemaphorePermit>,
}

impl ColdPlaces {
    pub(crate) fn new(all: usize, beside_hot: usize) -> ColdPlaces {
        ColdPlaces {
            all: Arc::new(Semaphore::new(all)),
            beside_hot: Arc::new(Semaphore::new(beside_hot)),
            hot_answers: Cell::default(),
            seen: Cell::default(),
        }
    }

    /// An answer leaves without the disk.
    pub(crate) fn note_hot(&self) {
        self.hot_answers.set(self.hot_answers.get() + 1);
    }

    /// Whether a plan that asks at `now` waits for others.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        let is_beside_hot = self.has_hot_readers(now);
        self.all.available_permits() == 0
            || (is_beside_hot && self.beside_hot.available_permits() == 0)
    }

    /// Waits for a place. Whether there are hot readers is decided at `now`.
    pub(crate) async fn take(&self, now: Instant) -> ColdPlace {
        let is_beside_hot = self.has_hot_readers(now);
        let place = of(&self.all).await;
        let beside_hot = if is_beside_hot { Some(of(&self.beside_hot).await) } else { None };
        ColdPlace { _place: place, _beside_hot: beside_hot }
    }

    fn has_hot_readers(&self, now: Instant) -> bool {
        let (before, mut since) = self.seen.get();
        let answers = self.hot_answers.get();
        if answers > before {
            since = Some(now);
            self.seen.set((answers, since));
        }
        since.is_some_and(|since| now.saturating_duration_since(since) < HOT_LASTS)
    }
}

async fn of(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn few_are_admitted_beside_hot_readers_and_all_without_them() {
        let (places, now) = (ColdPlaces::new(5, 2), Instant::now());
        let take = |now| at_once(places.take(now));
        let alone: Vec<_> = (0..5).filter_map(|_| take(now)).collect();
        assert!(alone.len() == 5 && places.is_full(now) && take(now).is_none());
        drop(alone);
        places.note_hot();
        let mut beside: Vec<_> = (0..5).filter_map(|_| take(now)).collect();
        assert!(beside.len() == 2 && places.is_full(now));
        beside.pop();
        assert!(!places.is_full(now) && take(now).is_some());
        beside.extend(take(now));
        let later = now + HOT_LASTS;
        assert!(places.is_full(now) && !places.is_full(later), "hot readers have gone");
        assert!(take(later).is_some());
    }
}
