//! The producers that wait for one partition, and whether one of them leads.
//!
//! Called by group_commit. The size of commits decides how much a disk carries in `fsync` mode.
//! Producers that were answered together come back a moment later, one after the other, and the
//! next commit may have begun without them. The best size depends on the disk:
//!
//! ```text
//!   fast: a commit takes half of the producers; the other half  │ sync A B C │ sync D E F │ sync A B C │
//!   comes back while it is synced                               │   D E F ‥  │   A B C ‥  │   D E F ‥  │
//!
//!   slow: a leader lingers for the producers of the last        │ A B C D E F sync │‥│ A B C D E F sync │‥
//!   commits, and all of them share one sync                       ‥ at most LINGER_MAX
//! ```

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use penstock_storage::ProducedBatch;
use tokio::sync::{Notify, oneshot};

use super::group_commit::Turn;
use crate::config::limits::{COMMIT_MAX_BYTES, COMMIT_MAX_REQUESTS};

/// On a slow disk a leader lingers for the last sync's time divided by this.
const LINGER_SHARE: u32 = 2;

/// The resolution of the runtime's timers. A disk with faster syncs counts as fast.
const LINGER_MIN: Duration = Duration::from_millis(1);

/// A disk with slower syncs has trouble that larger commits do not mend.
const LINGER_MAX: Duration = Duration::from_millis(10);

/// See the head of this file.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified once as many producers are here as were lately.
    complete: Notify,
}

#[derive(Default)]
struct State {
    is_led: bool,
    waiting: VecDeque<Waiter>,
    /// The producers that the last commit answered, and those that waited then.
    expected: usize,
    linger: Duration,
}

/// A producer that waits.
pub(super) struct Waiter {
    pub(super) batch: ProducedBatch,
    pub(super) turn: oneshot::Sender<Turn>,
}

impl Queue {
    /// Returns the batch to a producer that must lead, or a receiver to wait on.
    pub(super) fn enter(
        &self,
        batch: ProducedBatch,
    ) -> Result<ProducedBatch, oneshot::Receiver<Turn>> {
        let mut state = self.state.lock();
        if !state.is_led {
            state.is_led = true;
            return Ok(batch);
        }
        let (turn, wait) = oneshot::channel();
        state.waiting.push_back(Waiter { batch, turn });
        if state.lingers() && state.is_complete() {
            self.complete.notify_waiters();
        }
        Err(wait)
    }

    /// Whether a producer leads.
    pub(super) fn is_led(&self) -> bool {
        self.state.lock().is_led
    }

    /// The producer that leads next; `None`: the next one to enter.
    pub(super) fn next_leader(&self) -> Option<Waiter> {
        let mut state = self.state.lock();
        let next = loop {
            match state.waiting.pop_front() {
                Some(gone) if gone.turn.is_closed() => {}
                next => break next,
            }
        };
        state.is_led = next.is_some();
        next
    }

    /// The producers behind the leader, longest first.
    pub(super) fn waiting(&self) -> MappedMutexGuard<'_, VecDeque<Waiter>> {
        MutexGuard::map(self.state.lock(), |state| &mut state.waiting)
    }

    /// Notes how many requests a write and its sync carried, and how long they took.
    pub(super) fn note_commit(&self, requests: usize, took: Duration) {
        let mut state = self.state.lock();
        state.expected = (requests + state.waiting.len()).min(COMMIT_MAX_REQUESTS);
        state.linger = (took / LINGER_SHARE).min(LINGER_MAX);
    }

    /// The most requests of one commit in `fsync` mode: the leader's and some of those that wait.
    pub(super) fn commit_max_requests(&self) -> usize {
        self.state.lock().commit_max_requests()
    }

    /// On a slow disk, waits until as many producers are here as were lately, or the commit is
    /// full, or time is over. The caller leads and brings `own_bytes`.
    pub(super) async fn linger(&self, own_bytes: u64) {
        let mut complete = pin!(self.complete.notified());
        // Enabled before the check, so that a producer behind it is noticed.
        complete.as_mut().enable();
        let linger = self.state.lock().linger_for(own_bytes);
        if let Some(linger) = linger {
            // Time is over: the commit takes the producers that are here.
            let _ = tokio::time::timeout(linger, complete).await;
        }
    }
}

impl State {
    fn here(&self) -> usize {
        let leader = 1;
        leader + self.waiting.len()
    }

    /// Whether the disk is slow enough for leaders to linger.
    fn lingers(&self) -> bool {
        self.linger >= LINGER_MIN
    }

    fn is_complete(&self) -> bool {
        self.here() >= self.expected
    }

    fn commit_max_requests(&self) -> usize {
        match self.lingers() {
            true => COMMIT_MAX_REQUESTS,
            false => self.expected.max(self.here()).div_ceil(2).min(COMMIT_MAX_REQUESTS),
        }
    }

    fn linger_for(&self, own_bytes: u64) -> Option<Duration> {
        let waiting_bytes: u64 = self.waiting.iter().map(|next| next.batch.len_bytes()).sum();
        let is_full = own_bytes + waiting_bytes >= COMMIT_MAX_BYTES;
        (self.lingers() && !self.is_complete() && !is_full).then_some(self.linger)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};
    use std::time::Instant;

    use super::*;

    const SLOW: Duration = Duration::from_millis(8);

    fn state(expected: usize, linger: Duration) -> State {
        State { is_led: true, waiting: VecDeque::new(), expected, linger }
    }

    #[test]
    fn a_lone_producer_and_a_fast_disk_are_not_waited_for() {
        assert_eq!(state(1, SLOW).linger_for(100), None);
        assert_eq!(state(16, LINGER_MIN / 2).linger_for(100), None);
        assert_eq!(state(16, SLOW).linger_for(COMMIT_MAX_BYTES), None, "the commit is full");
        assert_eq!(state(16, SLOW).linger_for(100), Some(SLOW));
    }

    #[test]
    fn commits_are_halves_on_a_fast_disk_and_all_that_wait_on_a_slow_one() {
        let fast = |expected| state(expected, LINGER_MIN / 2).commit_max_requests();
        assert_eq!((fast(0), fast(1), fast(2), fast(16), fast(17)), (1, 1, 1, 8, 9));
        assert_eq!(fast(10 * COMMIT_MAX_REQUESTS), COMMIT_MAX_REQUESTS);
        assert_eq!(state(16, SLOW).commit_max_requests(), COMMIT_MAX_REQUESTS);
        let queue = Queue::default();
        assert!(queue.enter(batch()).is_ok());
        (0..20).for_each(|_| assert!(queue.enter(batch()).is_err()));
        assert_eq!(queue.commit_max_requests(), 11, "more wait than did lately");
    }

    #[test]
    fn a_sync_that_hangs_costs_the_next_commit_no_more_than_the_longest_linger() {
        let queue = Queue::default();
        queue.note_commit(2, Duration::from_secs(60));
        assert_eq!(queue.state.lock().linger, LINGER_MAX);
    }

    #[tokio::test]
    async fn producers_that_come_end_the_linger_and_so_does_its_time() {
        let queue = Queue::default();
        assert!(queue.enter(batch()).is_ok());
        queue.note_commit(2, 2 * SLOW);
        let mut wait = pin!(queue.linger(100));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(context).is_pending());
        assert!(queue.enter(batch()).is_err());
        assert!(wait.as_mut().poll(context).is_ready());

        queue.waiting().clear();
        let started = Instant::now();
        queue.linger(100).await;
        assert!(started.elapsed() >= SLOW);
    }

    fn batch() -> ProducedBatch {
        let mut builder = penstock_batch::BatchBuilder::new();
        builder.push(penstock_batch::NewRecord::default());
        ProducedBatch::validate(
            builder.finish().into(),
            &penstock_storage::LogConfig::default().terms(0, true),
        )
        .unwrap()
    }
}
