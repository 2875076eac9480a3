//! `fetch.hot.p99.target.ms` at work: what hot fetches and the event loops measure goes in, the
//! rate of all cold reads comes out.
//!
//! ```text
//!   connections ── note_hot ──┐                          ┌─► permitted rate ─► limits.rs
//!   loop_lag.rs ── note_lag ──┼─► one window ─ tick ─► Controller
//!   settled reads ─ note_disk ┘        every 250 ms      └─► /metrics
//! ```
//!
//! Workers note without a lock. One task of the main thread ticks. A note that meets the end of a
//! window counts in either.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::cold_budgets::controller::{Controller, Reason, Window};
use crate::broker::last_minutes::{BUCKETS, bucket_of, p99_us};

/// How often the window is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// The control of all cold reads.
pub(crate) struct Control {
    target: Duration,
    hot: Durations,
    lag: Durations,
    disk_bytes: AtomicU64,
    postponed: AtomicBool,
    /// The bits of a float.
    permitted: AtomicU64,
    decided: Mutex<Decided>,
}

/// The controller, and what it saw last.
struct Decided {
    controller: Controller,
    opened: Instant,
    lately: [Lately; 2],
    hot_p99: Option<Duration>,
    lag_p99: Option<Duration>,
}

/// A histogram of some seconds: what a window showed fades.
struct Lately([u64; BUCKETS]);

/// For /metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ControlView {
    pub(crate) target: Duration,
    /// Of the last window that had hot fetches, lag included.
    pub(crate) hot_p99: Option<Duration>,
    pub(crate) lag_p99: Option<Duration>,
    /// Bytes a second; infinite: every rate.
    pub(crate) permitted: f64,
    pub(crate) reason: Reason,
}

/// A histogram that is read and cleared.
struct Durations([AtomicU32; BUCKETS]);

impl Control {
    pub(super) fn new(target: Duration, now: Instant) -> Self {
        let controller = Controller::new(target);
        let permitted = AtomicU64::new(controller.permitted().to_bits());
        let decided = Decided {
            controller,
            opened: now,
            lately: [(); 2].map(|()| Lately([0; BUCKETS])),
            hot_p99: None,
            lag_p99: None,
        };
        Control {
            target,
            hot: Durations::default(),
            lag: Durations::default(),
            disk_bytes: AtomicU64::new(0),
            postponed: AtomicBool::new(false),
            permitted,
            decided: Mutex::new(decided),
        }
    }

    /// A fetch that took nothing from the disk.
    pub(crate) fn note_hot(&self, took: Duration) {
        self.hot.note(took);
    }

    /// How long a task that could run waited for its event loop. Measured every `interval`: tasks
    /// that could run meanwhile, while the measurement itself waited, count as well.
    pub(crate) fn note_lag(&self, lag: Duration, interval: Duration) {
        const MEANWHILE_MAX: u32 = 1000;
        (0..MEANWHILE_MAX)
            .map_while(|nth| lag.checked_sub(interval * nth))
            .for_each(|lag| self.lag.note(lag));
    }

    pub(super) fn note_disk(&self, bytes: u64) {
        self.disk_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn note_postponed(&self) {
        self.postponed.store(true, Relaxed);
    }

    /// What all cold reads together may take now, in bytes a second.
    pub(super) fn permitted(&self) -> f64 {
        f64::from_bits(self.permitted.load(Relaxed))
    }

    /// Decides, if the window shows enough by now.
    pub(crate) fn tick(&self, now: Instant) {
        let mut decided = self.decided.lock();
        let took = now.saturating_duration_since(decided.opened);
        if !decided.controller.is_enough(self.hot.count(), took) {
            return;
        }
        let (hot, lag) = (self.hot.take(), self.lag.take());
        let hot_fetches = hot.iter().sum();
        let (hot_p99, lag_p99) = (p99_of(&hot), p99_of(&lag));
        let [lately_hot, lately_lag] = &mut decided.lately;
        let lately = (lately_hot.add(&hot), lately_lag.add(&lag));
        let with_lag = |(hot, lag): (Option<Duration>, Option<Duration>)| {
            hot.map(|hot| hot + lag.unwrap_or_default())
        };
        let (p99, lately_p99) = (with_lag((hot_p99, lag_p99)), with_lag(lately));
        let window = Window {
            took,
            hot_fetches,
            p99,
            lately_p99,
            disk_bytes: self.disk_bytes.swap(0, Relaxed),
            postponed: self.postponed.swap(false, Relaxed),
        };
        let permitted = decided.controller.step(&window);
        self.permitted.store(permitted.to_bits(), Relaxed);
        (decided.opened, decided.hot_p99, decided.lag_p99) = (now, p99, lag_p99);
    }

    pub(super) fn view(&self) -> ControlView {
        let decided = self.decided.lock();
        let (hot_p99, lag_p99) = (decided.hot_p99, decided.lag_p99);
        let reason = decided.controller.reason();
        ControlView { target: self.target, hot_p99, lag_p99, permitted: self.permitted(), reason }
    }
}

impl Durations {
    fn note(&self, took: Duration) {
        self.0[bucket_of(took)].fetch_add(1, Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|count| u64::from(count.load(Relaxed))).sum()
    }

    fn take(&self) -> [u64; BUCKETS] {
        self.0.each_ref().map(|count| u64::from(count.swap(0, Relaxed)))
    }
}

impl Lately {
    /// Adds a window; its weight falls by a sixteenth with each later one. Returns the p99.
    fn add(&mut self, window: &[u64; BUCKETS]) -> Option<Duration> {
        const FRACTIONS: u32 = 8;
        for (kept, new) in self.0.iter_mut().zip(window) {
            *kept = *kept - kept.div_ceil(16) + (new << FRACTIONS);
        }
        p99_of(&self.0)
    }
}

fn p99_of(counts: &[u64; BUCKETS]) -> Option<Duration> {
    p99_us(counts, counts.iter().sum()).map(Duration::from_micros)
}

impl Default for Durations {
    fn default() -> Self {
        Durations(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_p99_has_the_lag_of_the_event_loop_in_it() {
        let began = Instant::now();
        let control = Control::new(5 * MS, began);
        (0..200).for_each(|_| control.note_hot(MS));
        (0..20).for_each(|_| control.note_lag(2 * MS, MS));
        control.tick(began + TICK);
        let view = control.view();
        let p99 = view.hot_p99.unwrap();
        assert!((3 * MS..4 * MS).contains(&p99), "{p99:?}");
        assert!(view.lag_p99.unwrap() >= 2 * MS);
        assert!(view.permitted.is_finite());
    }

    #[test]
    fn a_long_lag_counts_for_all_that_waited_meanwhile() {
        let control = Control::new(5 * MS, Instant::now());
        control.note_lag(10 * MS, MS);
        assert_eq!(control.lag.count(), 11);
        control.note_lag(Duration::MAX, MS);
        assert_eq!(control.lag.count(), 11 + 1000);
    }

    #[test]
    fn what_a_window_showed_fades() {
        let mut lately = Lately([0; BUCKETS]);
        let window = |took, count| {
            let mut window = [0; BUCKETS];
            window[bucket_of(took)] = count;
            window
        };
        assert!(lately.add(&window(MS, 1000)).unwrap() < 2 * MS);
        assert!(lately.add(&window(9 * MS, 100)).unwrap() > 8 * MS);
        let fades = (0..200).position(|_| lately.add(&window(MS, 1000)).unwrap() < 2 * MS);
        assert!((3..40).contains(&fades.unwrap()), "{fades:?}");
        for _ in 0..1000 {
            lately.add(&[0; BUCKETS]);
        }
        assert_eq!(lately.0, [0; BUCKETS]);
    }

    #[test]
    fn a_window_counts_once_and_one_that_shows_nothing_opens() {
        let began = Instant::now();
        let control = Control::new(5 * MS, began);
        (0..200).for_each(|_| control.note_hot(9 * MS));
        control.note_disk(1 << 30);
        control.tick(began + TICK);
        assert_eq!(control.view().reason, Reason::TooSlow);
        let lowered = control.permitted();
        control.tick(began + 2 * TICK);
        assert_eq!(control.permitted(), lowered, "nothing is known yet of this window");
        control.tick(began + 22 * TICK);
        assert_eq!(control.view().reason, Reason::NoHotFetches);
        assert!(control.permitted().is_infinite() && control.view().hot_p99.is_none());
    }
}
