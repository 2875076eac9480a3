//! A token bucket in bytes that may go into debt. Pure: the time and the rate are given.
//!
//! ```text
//!   saved  ──┬── 50 ms of the rate: what an idle bucket saves
//!            │       a read is granted while the level is not below zero, …
//!   0      ──┼──
//!            │       … whatever its size; the next one waits until the debt is paid
//!   debt   ──┴──
//! ```
//!
//! Called by limits.rs under its lock.

use std::time::{Duration, Instant};

/// How much of its rate an idle bucket saves, and how much a single answer may take.
pub(super) const SAVED: Duration = Duration::from_millis(50);

/// The longest time that is reported until a debt is paid. A rate may rise meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes that may be read now.
#[derive(Debug)]
pub(super) struct Bucket {
    level_bytes: f64,
    filled: Instant,
}

impl Bucket {
    /// An empty bucket without debt.
    pub(super) fn new(now: Instant) -> Self {
        Bucket { level_bytes: 0.0, filled: now }
    }

    /// Adds what has come since the last call, at a rate in bytes a second. An infinite one
    /// forgives all debt.
    pub(super) fn fill(&mut self, rate: f64, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        self.filled = now.max(self.filled);
        if rate.is_infinite() {
            self.level_bytes = 0.0;
            return;
        }
        let saved_bytes = rate * SAVED.as_secs_f64();
        self.level_bytes = (self.level_bytes + rate * since.as_secs_f64()).min(saved_bytes);
    }

    /// How long a read waits at this rate; zero if it is granted.
    pub(super) fn wait(&self, rate: f64) -> Duration {
        if self.level_bytes >= 0.0 {
            return Duration::ZERO;
        }
        let seconds = -self.level_bytes / rate;
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX);
        wait.clamp(Duration::from_micros(1), WAIT_MAX)
    }

    /// Takes bytes, into debt if need be. Negative bytes are given back.
    pub(super) fn take(&mut self, bytes: f64) {
        self.level_bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    #[test]
    fn the_rate_is_exact_over_time_whatever_the_sizes() {
        let began = Instant::now();
        for read_bytes in [1e3, 1e5, 3.3 * MB, 50.0 * MB] {
            let (mut bucket, mut now, mut read) = (Bucket::new(began), began, 0.0);
            while now < began + Duration::from_secs(20) {
                bucket.fill(50.0 * MB, now);
                match bucket.wait(50.0 * MB) {
                    Duration::ZERO => {
                        bucket.take(read_bytes);
                        read += read_bytes;
                    }
                    wait => now += wait,
                }
            }
            let allowed = 50.0 * MB * (now - began).as_secs_f64();
            assert!((read - allowed).abs() <= 2.5 * MB + read_bytes, "{read} of {allowed}");
        }
    }

    #[test]
    fn an_idle_bucket_saves_fifty_milliseconds_and_no_more() {
        let began = Instant::now();
        let mut bucket = Bucket::new(began);
        bucket.fill(MB, began + Duration::from_secs(3600));
        bucket.take(0.05 * MB);
        assert_eq!(bucket.wait(MB), Duration::ZERO);
        bucket.take(0.1 * MB);
        assert_eq!(bucket.wait(MB), Duration::from_millis(100));
    }

    #[test]
    fn what_is_given_back_can_be_read_again_and_an_infinite_rate_forgives() {
        let began = Instant::now();
        let mut bucket = Bucket::new(began);
        bucket.take(MB);
        bucket.take(-MB);
        assert_eq!(bucket.wait(MB), Duration::ZERO);
        bucket.take(1e15);
        assert_eq!(bucket.wait(MB), WAIT_MAX);
        bucket.fill(f64::INFINITY, began);
        assert_eq!(bucket.wait(f64::INFINITY), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_takes_nothing() {
        let began = Instant::now();
        let mut bucket = Bucket::new(began + Duration::from_secs(1));
        bucket.take(1.0);
        bucket.fill(MB, began);
        assert_eq!(bucket.wait(MB), Duration::from_micros(1));
        bucket.fill(MB, began + Duration::from_secs(2));
        assert_eq!(bucket.wait(MB), Duration::ZERO);
    }
}
