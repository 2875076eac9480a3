//! Bounded places for connections of one kind, of which an old one gives way.
//!
//! ```text
//!   take ── a place is free ─────────────────────────────► taken
//!     └──── all are taken ── the oldest is old enough ───► cut, and its place taken
//!                        └── it is not ──────────────────► none
//! ```
//!
//! Called by http.rs: for every connection, and for answers that take memory. So a peer that asks
//! nothing, or takes no answer, loses its place to one that does, and never holds up monitoring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A holder this old gives way. An honest one has its answer long before.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// The places of one kind.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    /// The oldest first.
    holders: Mutex<VecDeque<Holder>>,
}

#[derive(Debug)]
struct Holder {
    since: Instant,
    /// Notified when the connection must end. It names the holder, too.
    cut: Arc<Notify>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    cut: Arc<Notify>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Places> {
        Arc::new(Places { most, holders: Mutex::default() })
    }

    /// Takes a place for a connection, which must end once `cut` is notified. `None`: all are
    /// taken, and by connections too young to give way.
    pub(super) fn take(self: &Arc<Self>, cut: &Arc<Notify>, now: Instant) -> Option<Place> {
        let mut holders = self.holders.lock();
        if holders.len() >= self.most {
            let is_old =
                |oldest: &Holder| now.saturating_duration_since(oldest.since) >= GIVES_WAY_AFTER;
            let oldest = holders.front().filter(|oldest| is_old(oldest))?;
            oldest.cut.notify_one();
            holders.pop_front();
        }
        holders.push_back(Holder { since: now, cut: Arc::clone(cut) });
        Some(Place { places: Arc::clone(self), cut: Arc::clone(cut) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that gave way is not among them any more.
        self.places.holders.lock().retain(|holder| !Arc::ptr_eq(&holder.cut, &self.cut));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the connection was cut.
    fn is_cut(cut: &Notify) -> bool {
        let mut notified = std::pin::pin!(cut.notified());
        notified.as_mut().enable()
    }

    #[test]
    fn the_oldest_gives_way_once_it_is_old_and_not_before() {
        let (places, begin) = (Places::new(2), Instant::now());
        let [first, second, third]: [Arc<Notify>; 3] = Default::default();
        let held = [places.take(&first, begin), places.take(&second, begin)];
        assert!(held.iter().all(Option::is_some));
        let soon = begin + GIVES_WAY_AFTER / 2;
        assert!(places.take(&third, soon).is_none() && !is_cut(&first) && !is_cut(&second));
        let later = begin + GIVES_WAY_AFTER;
        let third_place = places.take(&third, later);
        assert!(third_place.is_some() && is_cut(&first) && !is_cut(&second) && !is_cut(&third));
        drop(held);
        assert_eq!(places.holders.lock().len(), 1, "the third alone has a place");
    }

    #[test]
    fn a_place_that_is_dropped_is_free_at_once() {
        let (places, now) = (Places::new(1), Instant::now());
        let take = || places.take(&Arc::default(), now);
        let place = take();
        assert!(place.is_some() && take().is_none());
        drop(place);
        assert!(take().is_some());
    }
}
