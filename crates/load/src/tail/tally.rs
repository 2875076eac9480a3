//! Sums up deliveries: what the consumers got, when, and what was wrong with it. Pure.
//!
//! `consumer` adds to it after each answer, `report` shows it.

use std::time::{Duration, Instant};

use crate::measure::{Amount, Faults, Measurement, Turn};
use crate::tail::arrivals::Strays;

/// The deliveries of a run.
#[derive(Debug)]
pub(crate) struct Tally {
    /// A delivery is one batch at one consumer.
    pub(crate) deliveries: Measurement,
    /// Fetch answers that carried measured deliveries.
    pub(crate) answers: u64,
    pub(crate) strays: Strays,
    /// Batches that carried no number of this run.
    pub(crate) foreign: u64,
}

/// A batch in an answer.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// When the batch was due to be sent.
    pub(crate) intended: Instant,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    /// Measures batches that are due at `from` or later.
    pub(crate) fn new(from: Instant) -> Tally {
        let (strays, deliveries) = (Strays::default(), Measurement::new(from));
        Tally { deliveries, answers: 0, strays, foreign: 0 }
    }

    /// Adds the deliveries of one answer whose last byte came at `received`.
    pub(crate) fn answer(&mut self, received: Instant, deliveries: &[Delivery]) {
        let before = self.deliveries.requests();
        for &Delivery { intended, records, bytes } in deliveries {
            let amount = Amount { batches: 1, records, bytes };
            let turn = Turn { amount, faults: Faults::default() };
            self.deliveries.record(intended, received, turn);
        }
        self.answers += u64::from(self.deliveries.requests() > before);
    }

    /// Deliveries in an answer that carried any, on average.
    pub(crate) fn per_answer(&self) -> f64 {
        self.deliveries.requests() as f64 / self.answers.max(1) as f64
    }

    /// From the end of the warm-up to the last delivery.
    pub(crate) fn elapsed(&self) -> Duration {
        self.deliveries.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_of_an_answer_counts_from_its_own_moment() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let delivery = |ms| Delivery { intended: at(ms), records: 4, bytes: 100 };
        let mut tally = Tally::new(at(100));
        tally.answer(at(90), &[delivery(80)]);
        assert_eq!((tally.deliveries.requests(), tally.answers), (0, 0), "the warm-up");
        tally.answer(at(130), &[delivery(90), delivery(100), delivery(120)]);
        tally.answer(at(131), &[]);
        tally.answer(at(140), &[delivery(130)]);
        assert_eq!((tally.deliveries.requests(), tally.answers), (3, 2));
        assert_eq!(tally.deliveries.amount, Amount { batches: 3, records: 12, bytes: 300 });
        assert_eq!(tally.per_answer(), 1.5);
        assert_eq!(tally.elapsed(), Duration::from_millis(40));
        let latency = &tally.deliveries.latency;
        assert!((30_000..30_100).contains(&latency.max()) && latency.min() >= 9_990);
    }
}
