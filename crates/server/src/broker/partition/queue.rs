//! The producers of one partition that wait for their turn, and whether somebody has it.
//!
//! Called by group_commit. Groups decide how much a disk carries in `fsync` mode. Producers that
//! were answered together come back a moment later, one after the other, and find that the others
//! have gone without them. What is best then depends on the disk:
//!
//! ```text
//!   fast: half of them are a group, so that those who were      │ sync A B C │ sync D E F │ sync A B C │
//!   answered come back while the others are synced              │   D E F ‥  │   A B C ‥  │   D E F ‥  │
//!
//!   slow: a leader waits a little for those who were            │ A B C D E F sync │‥│ A B C D E F sync │‥
//!   here lately, and all of them share a sync                     ‥ at most PATIENCE_MAX
//! ```

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use penstock_storage::ProducedBatch;
use tokio::sync::{Notify, oneshot};

use super::group_commit::Turn;
use crate::config::limits::{GROUP_MAX_BYTES, GROUP_MAX_REQUESTS};

/// Of the last sync's time, what a leader waits for company on a slow disk.
const PATIENCE_SHARE: u32 = 2;

/// The runtime's timers are no finer: a disk that syncs faster is a fast one.
const PATIENCE_MIN: Duration = Duration::from_millis(1);

/// A disk that takes longer to sync has trouble that no group mends.
const PATIENCE_MAX: Duration = Duration::from_millis(10);

/// See the head of this file.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Told when as many are here as were lately.
    complete: Notify,
}

#[derive(Default)]
struct State {
    is_led: bool,
    waiting: VecDeque<Waiter>,
    /// Those whom the last group answered, and those who waited then.
    expected: usize,
    patience: Duration,
}

/// A producer that waits.
pub(super) struct Waiter {
    pub(super) batch: ProducedBatch,
    pub(super) turn: oneshot::Sender<Turn>,
}

impl Queue {
    /// Gives the batch back to a producer that has to lead, or something to wait for.
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
        if state.waits_for_company() && state.is_complete() {
            self.complete.notify_waiters();
        }
        Err(wait)
    }

    /// Whether somebody leads.
    pub(super) fn is_led(&self) -> bool {
        self.state.lock().is_led
    }

    /// Who leads next; nobody: the next one to enter.
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

    /// Those who wait behind the leader, longest first.
    pub(super) fn waiting(&self) -> MappedMutexGuard<'_, VecDeque<Waiter>> {
        MutexGuard::map(self.state.lock(), |state| &mut state.waiting)
    }

    /// Notes how many requests a write and its sync carried, and how long that took.
    pub(super) fn note_group(&self, requests: usize, took: Duration) {
        let mut state = self.state.lock();
        state.expected = (requests + state.waiting.len()).min(GROUP_MAX_REQUESTS);
        state.patience = (took / PATIENCE_SHARE).min(PATIENCE_MAX);
    }

    /// How many requests a group takes, in `fsync` mode: the caller's, who leads, and how many of
    /// those who wait.
    pub(super) fn group_max(&self) -> usize {
        self.state.lock().group_max()
    }

    /// On a slow disk, waits until as many have come as were here lately, or a group is full; not
    /// for long. The caller leads and brings `own_bytes`.
    pub(super) async fn company(&self, own_bytes: u64) {
        let mut complete = pin!(self.complete.notified());
        // Before the look, so that whoever comes behind it is heard.
        complete.as_mut().enable();
        let patience = self.state.lock().patience_for(own_bytes);
        if let Some(patience) = patience {
            // Time is over: those who are here go.
            let _ = tokio::time::timeout(patience, complete).await;
        }
    }
}

impl State {
    fn here(&self) -> usize {
        let leader = 1;
        leader + self.waiting.len()
    }

    /// Whether a leader may be waiting for others.
    fn waits_for_company(&self) -> bool {
        self.patience >= PATIENCE_MIN
    }

    fn is_complete(&self) -> bool {
        self.here() >= self.expected
    }

    fn group_max(&self) -> usize {
        match self.waits_for_company() {
            true => GROUP_MAX_REQUESTS,
            false => self.expected.max(self.here()).div_ceil(2).min(GROUP_MAX_REQUESTS),
        }
    }

    fn patience_for(&self, own_bytes: u64) -> Option<Duration> {
        let waiting_bytes: u64 = self.waiting.iter().map(|next| next.batch.len_bytes()).sum();
        let is_full = own_bytes + waiting_bytes >= GROUP_MAX_BYTES;
        (self.waits_for_company() && !self.is_complete() && !is_full).then_some(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};
    use std::time::Instant;

    use super::*;

    const SLOW: Duration = Duration::from_millis(8);

    fn state(expected: usize, patience: Duration) -> State {
        State { is_led: true, waiting: VecDeque::new(), expected, patience }
    }

    #[test]
    fn a_lone_producer_and_a_fast_disk_are_not_waited_for() {
        assert_eq!(state(1, SLOW).patience_for(100), None);
        assert_eq!(state(16, PATIENCE_MIN / 2).patience_for(100), None);
        assert_eq!(state(16, SLOW).patience_for(GROUP_MAX_BYTES), None, "the group is full");
        assert_eq!(state(16, SLOW).patience_for(100), Some(SLOW));
    }

    #[test]
    fn groups_are_halves_on_a_fast_disk_and_all_who_are_here_on_a_slow_one() {
        let fast = |expected| state(expected, PATIENCE_MIN / 2).group_max();
        assert_eq!((fast(0), fast(1), fast(2), fast(16), fast(17)), (1, 1, 1, 8, 9));
        assert_eq!(fast(10 * GROUP_MAX_REQUESTS), GROUP_MAX_REQUESTS);
        assert_eq!(state(16, SLOW).group_max(), GROUP_MAX_REQUESTS);
        let queue = Queue::default();
        assert!(queue.enter(batch()).is_ok());
        (0..20).for_each(|_| assert!(queue.enter(batch()).is_err()));
        assert_eq!(queue.group_max(), 11, "more are here than were lately");
    }

    #[test]
    fn a_sync_that_hangs_costs_the_next_group_no_more_than_the_most_patience() {
        let queue = Queue::default();
        queue.note_group(2, Duration::from_secs(60));
        assert_eq!(queue.state.lock().patience, PATIENCE_MAX);
    }

    #[tokio::test]
    async fn company_that_comes_ends_the_wait_and_company_that_does_not_ends_it_too() {
        let queue = Queue::default();
        assert!(queue.enter(batch()).is_ok());
        queue.note_group(2, 2 * SLOW);
        let mut wait = pin!(queue.company(100));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(context).is_pending());
        assert!(queue.enter(batch()).is_err());
        assert!(wait.as_mut().poll(context).is_ready());

        queue.waiting().clear();
        let started = Instant::now();
        queue.company(100).await;
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
