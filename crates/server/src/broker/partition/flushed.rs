//! How far a partition's records are on the disk, and when more must be: `flush.messages` and
//! `flush.ms`.
//!
//! ```text
//!   ── on the disk ──────┬── in the page cache ──┬── a commit being written ──►
//!                     `below`                 log end                   its end
//!                        └── as many as flush.messages: synced, then acknowledged
//! ```
//!
//! Moved by group_commit, whose syncs cover the active segment, and by flushes of the whole log.
//! Decides only; touches no file.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_storage::{LogConfig, Offset};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Flushed(Mutex<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    /// Records below are on the disk.
    below: Offset,
    /// When they got there.
    since: Instant,
}

impl Flushed {
    pub(super) fn new(below: Offset) -> Self {
        Flushed(Mutex::new(State { below, since: Instant::now() }))
    }

    /// Notes that everything below an offset is on the disk.
    pub(super) fn note(&self, below: Offset) {
        let mut state = self.0.lock();
        *state = State { below: below.max(state.below), since: Instant::now() };
    }

    /// Whether a commit that ends at `commit_end` must be synced before its producers are answered.
    pub(super) fn must_sync(&self, config: &LogConfig, commit_end: Offset) -> bool {
        let unsynced = || commit_end.0 - self.0.lock().below.0;
        config.flush_messages.is_some_and(|messages| unsynced() >= messages)
    }

    /// Whether records of a log with this end have been off the disk for too long.
    pub(super) fn is_due(&self, config: &LogConfig, log_end: Offset, now: Instant) -> bool {
        let Some(flush_ms) = config.flush_ms else { return false };
        let state = *self.0.lock();
        let waited = now.saturating_duration_since(state.since);
        log_end > state.below && waited >= Duration::from_millis(flush_ms.max(0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_synced_when_as_many_records_would_be_in_the_page_cache() {
        let flushed = Flushed::new(Offset(100));
        let config = |flush_messages| LogConfig { flush_messages, ..LogConfig::default() };
        assert!(!flushed.must_sync(&config(None), Offset(i64::MAX)));
        assert!(!flushed.must_sync(&config(Some(10)), Offset(109)));
        assert!(flushed.must_sync(&config(Some(10)), Offset(110)));
        assert!(flushed.must_sync(&config(Some(1)), Offset(101)));
        flushed.note(Offset(110));
        assert!(!flushed.must_sync(&config(Some(10)), Offset(119)));
        flushed.note(Offset(50));
        assert!(flushed.must_sync(&config(Some(10)), Offset(120)), "what is on the disk stays");
    }

    #[test]
    fn a_log_is_due_once_its_time_is_over_and_there_is_something_to_flush() {
        let flushed = Flushed::new(Offset(100));
        let config = |flush_ms| LogConfig { flush_ms, ..LogConfig::default() };
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        assert!(!flushed.is_due(&config(None), Offset(101), after(u64::MAX >> 32)));
        assert!(!flushed.is_due(&config(Some(5000)), Offset(101), after(3000)));
        assert!(flushed.is_due(&config(Some(5000)), Offset(101), after(6000)));
        assert!(!flushed.is_due(&config(Some(5000)), Offset(100), after(6000)));
        assert!(flushed.is_due(&config(Some(0)), Offset(101), after(0)));
    }
}
