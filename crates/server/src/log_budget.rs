//! How often one kind of line may be logged, so that peers cannot fill the log.
//!
//! Called before a line is logged that a peer caused. A period lets some lines through. The first
//! line of the next period counts those held back.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Lines let through in a period.
const LINES: u64 = 10;
/// How long a period is.
const PERIOD: Duration = Duration::from_secs(10);

/// The budget of one kind of line on one worker.
#[derive(Debug)]
pub(crate) struct LogBudget {
    since: Cell<Instant>,
    asked: Cell<u64>,
}

impl LogBudget {
    pub(crate) fn new(now: Instant) -> Self {
        LogBudget { since: Cell::new(now), asked: Cell::new(0) }
    }

    /// Whether a line may be logged now, and how many were held back before it.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut held_back = 0;
        if now.saturating_duration_since(self.since.get()) >= PERIOD {
            held_back = self.asked.replace(0).saturating_sub(LINES);
            self.since.set(now);
        }
        self.asked.set(self.asked.get() + 1);
        (self.asked.get() <= LINES).then_some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_its_size_is_told_later() {
        let start = Instant::now();
        let budget = LogBudget::new(start);
        let let_through = (0..1000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(let_through as u64, LINES);
        assert_eq!(budget.take(start + PERIOD), Some(1000 - LINES));
        assert_eq!(budget.take(start + PERIOD), Some(0));
    }
}
