//! Latencies and amounts of a run: one `Measurement` for each thread, merged at the end.
//!
//! `run` feeds it after every answer. Requests due during the warm-up leave no trace in it but
//! their faults, which count at any time.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer latencies count as this one: an hour, in microseconds.
const MAX_LATENCY_US: u64 = 3_600_000_000;
/// Significant decimal digits of a recorded latency.
const DIGITS: u8 = 3;

/// The contents of one fetch answer or one produce request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Amount {
    /// Whole record batches.
    pub(crate) batches: u64,
    /// Records in them.
    pub(crate) records: u64,
    /// Bytes of record batches as they travel, compressed. A cut batch at an answer's end counts.
    pub(crate) bytes: u64,
}

impl Amount {
    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Amount) {
        self.batches += other.batches;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Faults that verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Batches with a wrong CRC-32C.
    pub(crate) crc_mismatches: u64,
    /// Places where another offset than the expected one followed.
    pub(crate) gaps: u64,
    /// Answers that could not be read batch by batch to their end.
    pub(crate) malformed: u64,
    /// The first one in words, with its numbers.
    pub(crate) first: Option<String>,
}

impl Faults {
    /// The count of all faults.
    pub(crate) fn count(&self) -> u64 {
        self.crc_mismatches + self.gaps + self.malformed
    }

    /// The faults in words.
    pub(crate) fn words(&self) -> String {
        format!(
            "verification failed: {} CRC mismatches, {} gaps, {} malformed answers; first: {}",
            self.crc_mismatches,
            self.gaps,
            self.malformed,
            self.first.as_deref().unwrap_or("not recorded")
        )
    }

    /// Adds `other`, which came later.
    pub(crate) fn add(&mut self, other: Faults) {
        self.crc_mismatches += other.crc_mismatches;
        self.gaps += other.gaps;
        self.malformed += other.malformed;
        self.first = self.first.take().or(other.first);
    }
}

/// One finished request.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) amount: Amount,
    pub(crate) faults: Faults,
}

/// Sums and the latency distribution of the measured part of a run.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// The start of the measured part.
    from: Instant,
    /// When the last measured request was done.
    until: Instant,
    /// Latencies in microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) amount: Amount,
    pub(crate) faults: Faults,
    /// Answers without bytes (fetches that waited in vain).
    pub(crate) empty: u64,
    /// Requests of an open loop that were due and never went out, because answers were late.
    pub(crate) unsent: u64,
}

impl Measurement {
    /// Measures requests that are due at `from` or later.
    pub(crate) fn new(from: Instant) -> Measurement {
        let latency = Histogram::new_with_bounds(1, MAX_LATENCY_US, DIGITS).expect("valid bounds");
        let (amount, faults) = Default::default();
        Measurement { from, until: from, latency, amount, faults, empty: 0, unsent: 0 }
    }

    /// Counts a request that was due at `intended` and done at `done`.
    pub(crate) fn record(&mut self, intended: Instant, done: Instant, turn: Turn) {
        self.faults.add(turn.faults);
        if intended < self.from {
            return;
        }
        let latency = done.saturating_duration_since(intended);
        self.latency.saturating_record(latency.as_micros().try_into().unwrap_or(u64::MAX));
        self.until = self.until.max(done);
        self.empty += u64::from(turn.amount.bytes == 0);
        self.amount.add(&turn.amount);
    }

    /// Adds another thread's measurement of the same run.
    pub(crate) fn merge(&mut self, other: Measurement) {
        self.latency.add(&other.latency).expect("the same bounds");
        self.faults.add(other.faults);
        self.until = self.until.max(other.until);
        self.amount.add(&other.amount);
        self.empty += other.empty;
        self.unsent += other.unsent;
    }

    /// The count of measured requests.
    pub(crate) fn requests(&self) -> u64 {
        self.latency.len()
    }

    /// From the start of the measured part to its last answer.
    pub(crate) fn elapsed(&self) -> Duration {
        self.until - self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(bytes: u64) -> Turn {
        Turn { amount: Amount { batches: 1, records: 10, bytes }, faults: Faults::default() }
    }

    #[test]
    fn latency_counts_from_the_intended_moment() {
        let start = Instant::now();
        let mut measurement = Measurement::new(start);
        measurement.record(start, start + Duration::from_millis(20), turn(1));
        assert!((20_000..20_100).contains(&measurement.latency.max()));
    }

    #[test]
    fn warm_up_leaves_no_trace_but_its_faults() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut measurement = Measurement::new(start + second);
        let faults = Faults { gaps: 1, first: Some("gap".into()), ..Faults::default() };
        measurement.record(start, start + 2 * second, Turn { faults, ..turn(5) });
        assert_eq!((measurement.requests(), measurement.amount.bytes), (0, 0));
        assert_eq!(measurement.faults.count(), 1);
        assert_eq!(measurement.elapsed(), Duration::ZERO);
    }

    #[test]
    fn merging_adds_everything_and_keeps_the_first_fault() {
        let start = Instant::now();
        let fault =
            |text: &str| Faults { malformed: 1, first: Some(text.into()), ..Faults::default() };
        let mut left = Measurement::new(start);
        let mut right = left.clone();
        left.record(start, start + Duration::from_secs(1), Turn { faults: fault("a"), ..turn(3) });
        right.record(start, start + Duration::from_secs(2), Turn { faults: fault("b"), ..turn(0) });
        left.merge(right);
        assert_eq!((left.requests(), left.amount.bytes, left.empty), (2, 3, 1));
        assert_eq!(left.elapsed(), Duration::from_secs(2));
        assert_eq!((left.faults.malformed, left.faults.first.as_deref()), (2, Some("a")));
    }
}
