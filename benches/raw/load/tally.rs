//! The fetches, bytes and latencies of all readers within the measured time.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The longest latency: ten minutes, longer than a run.
const LONGEST_US: u64 = 600_000_000;
/// Digits of a latency, more than a table shows.
const DIGITS: u8 = 3;

#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) fetches: u64,
    pub(crate) bytes: u64,
    latency_us: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        let latency_us = Histogram::new_with_max(LONGEST_US, DIGITS).expect("bounds are sound");
        Tally { fetches: 0, bytes: 0, latency_us }
    }

    pub(crate) fn done(&mut self, bytes: u32, took: Duration) {
        self.fetches += 1;
        self.bytes += u64::from(bytes);
        self.latency_us.saturating_record((took.as_micros() as u64).max(1));
    }

    pub(crate) fn to_json(&self, seconds: f64) -> Value {
        let quantile = |q| self.latency_us.value_at_quantile(q);
        json!({
            "fetches": self.fetches,
            "fetches_per_s": self.fetches as f64 / seconds,
            "bytes_per_s": self.bytes as f64 / seconds,
            "latency_us": {
                "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99),
                "p999": quantile(0.999), "max": self.latency_us.max(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_measured_time() {
        let mut tally = Tally::new();
        tally.done(4096, Duration::from_micros(100));
        let json = tally.to_json(0.5);
        assert_eq!(json["fetches_per_s"], 2.0);
        assert_eq!(json["bytes_per_s"], 8192.0);
        assert_eq!(json["latency_us"]["p50"], 100);
    }
}
