//! What the producer and the consumers of a `tail` run share: the numbering of batches, the moments
//! of the run, and what was delivered.
//!
//! ```text
//! batch number n     goes to partition n mod partitions, due at start + n / rate
//!
//! consumers   first turn ──begin──► fetch, fetch, …                  ─► all before the ends: done
//! producer    connected ──waits──►  send when due … answers ─end(ends)─┘
//! ```
//!
//! Used by `producer` and `consumer`, made by `tail`.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::schedule::Schedule;
use crate::tail::mark::Mark;
use crate::tail::tally::Tally;

/// For each partition the number that production ended before. Consumers wait for all smaller ones.
pub(crate) type Ends = Arc<[u64]>;

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Course {
    schedule: Schedule,
    run: u64,
    partitions: u64,
    warm_up: Duration,
    /// One past the last number that is ever due.
    end: u64,
    start: OnceLock<Instant>,
    begun: Notify,
    ends: watch::Sender<Option<Ends>>,
    stop: watch::Sender<bool>,
    tally: Mutex<Option<Tally>>,
}

impl Course {
    /// `run` tells this run's batches from others.
    pub(crate) fn new(
        run: u64,
        rate: f64,
        partitions: usize,
        warm_up: Duration,
        duration: Duration,
    ) -> Course {
        let schedule = Schedule::new(rate, 0, 1);
        Course {
            schedule,
            run,
            partitions: partitions as u64,
            warm_up,
            end: schedule.due_before(duration),
            start: OnceLock::new(),
            begun: Notify::new(),
            ends: watch::Sender::new(None),
            stop: watch::Sender::new(false),
            tally: Mutex::new(None),
        }
    }

    /// The start of the run, which the first call brings about.
    pub(crate) fn begin(&self) -> Instant {
        *self.start.get_or_init(|| {
            let start = Instant::now();
            *self.tally() = Some(Tally::new(start + self.warm_up));
            self.begun.notify_one();
            start
        })
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Waits for the start. For one task alone.
    pub(crate) async fn begun(&self) -> Instant {
        self.begun.notified().await;
        self.begin()
    }

    /// The time from the start to the moment at which batch `number` is due.
    pub(crate) fn due(&self, number: u64) -> Duration {
        self.schedule.due(number).unwrap_or(Duration::ZERO)
    }

    /// The count of batches due before `end`.
    pub(crate) fn due_before(&self, end: Duration) -> u64 {
        self.schedule.due_before(end)
    }

    /// Whether batch `number` is due after the warm-up.
    pub(crate) fn is_measured(&self, number: u64) -> bool {
        self.due(number) >= self.warm_up
    }

    /// The partition of batch `number`, as an index into the topic's.
    pub(crate) fn partition_of(&self, number: u64) -> usize {
        (number % self.partitions) as usize
    }

    /// The distance between the numbers of one partition. Its first one is its index.
    pub(crate) fn step(&self) -> u64 {
        self.partitions
    }

    /// The mark of batch `number`.
    pub(crate) fn mark(&self, number: u64) -> Mark {
        Mark { run: self.run, number }
    }

    /// The number that `batch` carries, if it is one of this run and of this partition. A server
    /// may send any bytes, so a number that was never due is none.
    pub(crate) fn number_in(&self, batch: &[u8], partition: usize) -> Option<u64> {
        let Mark { run, number } = Mark::read(batch)?;
        let is_own = run == self.run && number < self.end;
        (is_own && self.partition_of(number) == partition).then_some(number)
    }

    /// Reports the end of production to the consumers.
    pub(crate) fn end(&self, ends: Ends) {
        self.ends.send_replace(Some(ends));
    }

    /// Ends the consumers without waiting for what they have not got.
    pub(crate) fn abandon(&self) {
        self.end(vec![0; self.partitions as usize].into());
    }

    /// The ends, once production has ended.
    pub(crate) fn ends(&self) -> watch::Receiver<Option<Ends>> {
        self.ends.subscribe()
    }

    /// Stops the producer.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// True once the producer should stop.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// What was delivered so far. `None`: the run has not begun.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Option<Tally>> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use penstock_batch::{BatchBuilder, NewRecord};

    use super::*;

    fn course(run: u64) -> Course {
        Course::new(run, 10.0, 3, Duration::from_millis(250), Duration::from_secs(2))
    }

    #[test]
    fn only_numbers_of_the_run_that_are_due_in_it_count_and_in_their_partition_alone() {
        let value = [b'.'; 40];
        let mut builder = BatchBuilder::new();
        builder.push(NewRecord { value: Some(&value), ..NewRecord::default() });
        let mut batch = builder.finish();
        let mut found = |mark: Mark, partition| {
            mark.write(&mut batch);
            course(7).number_in(&batch, partition)
        };
        assert_eq!(found(Mark { run: 7, number: 19 }, 1), Some(19));
        assert_eq!(found(Mark { run: 7, number: 19 }, 0), None, "another partition");
        assert_eq!(found(Mark { run: 8, number: 19 }, 1), None, "another run");
        for number in [20, u64::MAX] {
            let partition = (number % 3) as usize;
            assert_eq!(found(Mark { run: 7, number }, partition), None, "never due: {number}");
        }
    }

    #[test]
    fn batches_take_turns_in_the_partitions_and_are_due_by_their_number() {
        let course = course(1);
        let places: Vec<usize> = (0..5).map(|number| course.partition_of(number)).collect();
        assert_eq!(places, [0, 1, 2, 0, 1]);
        assert_eq!(course.due(7), Duration::from_millis(700));
        assert_eq!((course.is_measured(2), course.is_measured(3)), (false, true));
        assert_eq!(course.due_before(Duration::from_secs(1)), 10);
    }

    #[test]
    fn the_start_is_fixed_by_the_first_call() {
        let course = course(1);
        assert!(course.tally().is_none());
        let start = course.begin();
        assert_eq!(start, course.begin());
        assert!(course.tally().is_some());
    }

    #[test]
    fn an_abandoned_run_asks_consumers_for_nothing() {
        let course = course(1);
        let ends = course.ends();
        assert!(ends.borrow().is_none());
        course.abandon();
        assert_eq!(ends.borrow().as_deref(), Some(&[0, 0, 0][..]));
    }
}
