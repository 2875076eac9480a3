//! The last ten minutes of fetches: bytes from the disk, and how long hot fetches took.
//!
//! Fetches note themselves in the slot of the present ten seconds. So a page that is opened now has
//! a past to show, and no task samples while no page is open. Answered by [`crate::http`].
//!
//! ```text
//!   slots   | 10 s | 10 s | 10 s | …            60 of them, used in a circle
//!               └ period, bytes from the disk, a histogram of durations
//!                   └ buckets: … 8, 10, 12, 14, 16, 20, 24 us …, four in each doubling
//! ```

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The seconds of one slot.
pub(crate) const SLOT_SECONDS: u64 = 10;

/// Ten minutes.
pub(crate) const SLOTS: usize = 60;

/// Buckets in each doubling of the duration.
const STEPS: u32 = 4;

/// Buckets of a histogram: from 1 us to some four minutes.
pub(crate) const BUCKETS: usize = 28 * STEPS as usize;

/// What fetches did, by ten seconds.
pub(crate) struct LastMinutes {
    began: Instant,
    slots: Box<[Slot]>,
}

/// Ten seconds. The numbers belong to `period`; the first note of a later one clears them. A note
/// that meets the clearing may be lost, or may count in the neighbouring slot.
struct Slot {
    /// Counted from 1, so that an unused slot has none.
    period: AtomicU64,
    disk_bytes: AtomicU64,
    /// Bytes a second that all fetches together might take from the disk; 0: not noted.
    permitted: AtomicU64,
    durations: [AtomicU32; BUCKETS],
}

/// Ten seconds, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seconds {
    /// Bytes of records that fetches took from the disk.
    pub(crate) disk_bytes: u64,
    /// How many a second budgets and target allowed at last. `None`: any.
    pub(crate) permitted: Option<u64>,
    /// Hot fetches.
    pub(crate) hot_fetches: u64,
    /// 99 of 100 hot fetches took no longer, in microseconds. `None` without a fetch.
    pub(crate) hot_p99_us: Option<u64>,
}

impl LastMinutes {
    pub(crate) fn new(began: Instant) -> Self {
        let slot = || Slot {
            period: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
            permitted: AtomicU64::new(0),
            durations: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        LastMinutes { began, slots: std::iter::repeat_with(slot).take(SLOTS).collect() }
    }

    /// Notes a fetch that sent records, `disk_bytes` of them from the disk. One that took none from
    /// there is hot, and its duration counts.
    pub(crate) fn note(&self, now: Instant, disk_bytes: u64, took: Duration) {
        let slot = self.slot_at(now);
        match disk_bytes {
            0 => drop(slot.durations[bucket_of(took)].fetch_add(1, Relaxed)),
            _ => drop(slot.disk_bytes.fetch_add(disk_bytes, Relaxed)),
        }
    }

    /// Notes how many bytes a second all fetches together may take from the disk now.
    pub(crate) fn note_permitted(&self, now: Instant, bytes_per_second: u64) {
        self.slot_at(now).permitted.store(bytes_per_second.max(1), Relaxed);
    }

    /// The last ten minutes, oldest first; the last entry is the present slot, not yet over.
    pub(crate) fn read(&self, now: Instant) -> Vec<Seconds> {
        let present = self.period_at(now);
        let of_period = |ago: u64| {
            let period = present.checked_sub(ago).filter(|period| *period > 0)?;
            let slot = &self.slots[period as usize % SLOTS];
            (slot.period.load(Relaxed) == period).then(|| slot.read())
        };
        (0..SLOTS as u64).rev().map(|ago| of_period(ago).unwrap_or_default()).collect()
    }

    fn period_at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLOT_SECONDS + 1
    }

    fn slot_at(&self, now: Instant) -> &Slot {
        let period = self.period_at(now);
        let slot = &self.slots[period as usize % SLOTS];
        let noted = slot.period.load(Relaxed);
        if noted < period && slot.period.compare_exchange(noted, period, Relaxed, Relaxed).is_ok() {
            slot.clear();
        }
        slot
    }
}

impl Slot {
    fn clear(&self) {
        self.disk_bytes.store(0, Relaxed);
        self.permitted.store(0, Relaxed);
        self.durations.iter().for_each(|count| count.store(0, Relaxed));
    }

    fn read(&self) -> Seconds {
        let counts = self.durations.each_ref().map(|count| u64::from(count.load(Relaxed)));
        let hot_fetches = counts.iter().sum();
        let disk_bytes = self.disk_bytes.load(Relaxed);
        let permitted = Some(self.permitted.load(Relaxed)).filter(|permitted| *permitted > 0);
        Seconds { disk_bytes, permitted, hot_fetches, hot_p99_us: p99_us(&counts, hot_fetches) }
    }
}

/// The upper end of the bucket that holds the fetch with 99 of 100 below it.
pub(crate) fn p99_us(counts: &[u64; BUCKETS], all: u64) -> Option<u64> {
    let rank = (all * 99).div_ceil(100).max(1);
    let mut below = 0;
    let bucket = counts.iter().position(|count| {
        below += count;
        below >= rank
    })?;
    Some(end_of(bucket))
}

/// Doublings since 1 us, and the quarter of the doubling.
pub(crate) fn bucket_of(took: Duration) -> usize {
    let quarters = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1).saturating_mul(4);
    let doublings = quarters.ilog2() - STEPS.ilog2();
    let quarter = (quarters >> doublings) as usize % STEPS as usize;
    (doublings as usize * STEPS as usize + quarter).min(BUCKETS - 1)
}

/// The first microsecond that is in no bucket up to this one.
fn end_of(bucket: usize) -> u64 {
    let (doublings, quarter) = (bucket / STEPS as usize, (bucket % STEPS as usize) as u64);
    ((u64::from(STEPS) + quarter + 1) << doublings).div_ceil(u64::from(STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_secs(SLOT_SECONDS);

    fn at(began: Instant, slots: u32) -> Instant {
        began + SLOT * slots
    }

    #[test]
    fn a_hot_fetch_counts_by_its_time_and_a_cold_one_by_its_bytes() {
        let began = Instant::now();
        let minutes = LastMinutes::new(began);
        for _ in 0..99 {
            minutes.note(began, 0, Duration::from_micros(100));
        }
        minutes.note(began, 0, Duration::from_millis(50));
        minutes.note(began, 7, Duration::from_secs(9));
        let seconds = *minutes.read(began).last().unwrap();
        assert_eq!((seconds.disk_bytes, seconds.hot_fetches), (7, 100));
        let p99_us = seconds.hot_p99_us.unwrap();
        assert!((100..=125).contains(&p99_us), "{p99_us}");
    }

    #[test]
    fn a_bucket_ends_where_the_next_one_begins_at_most_a_quarter_further() {
        for us in (1..5_000).chain([1 << 20, (1 << 27) + 1]) {
            let end = end_of(bucket_of(Duration::from_micros(us)));
            assert!(us < end && end <= us + us.div_ceil(4), "{us} us is in a bucket up to {end}");
            let next = bucket_of(Duration::from_micros(end));
            assert!(next > bucket_of(Duration::from_micros(us)) || next == BUCKETS - 1);
        }
    }

    #[test]
    fn what_was_permitted_is_that_of_its_slot() {
        let began = Instant::now();
        let minutes = LastMinutes::new(began);
        minutes.note_permitted(at(began, 0), 9_000_000);
        minutes.note_permitted(at(began, 1), 0);
        let permitted: Vec<_> =
            minutes.read(at(began, 2)).iter().map(|seconds| seconds.permitted).collect();
        assert_eq!(permitted[SLOTS - 3..], [Some(9_000_000), Some(1), None]);
    }

    #[test]
    fn a_slot_is_as_old_as_its_place_and_is_used_again_after_ten_minutes() {
        let began = Instant::now();
        let minutes = LastMinutes::new(began);
        minutes.note(at(began, 0), 1, SLOT);
        minutes.note(at(began, 2), 2, SLOT);
        let disk_bytes = |now| -> Vec<u64> {
            minutes.read(now).iter().map(|seconds| seconds.disk_bytes).collect()
        };
        let shown = disk_bytes(at(began, 3));
        assert_eq!(shown.len(), SLOTS);
        assert_eq!(shown[SLOTS - 4..], [1, 0, 2, 0]);
        let later = at(began, SLOTS as u32);
        assert_eq!(disk_bytes(later)[..3], [0, 2, 0], "the first slot is over");
        minutes.note(later, 4, SLOT);
        assert_eq!(disk_bytes(later).iter().sum::<u64>(), 6, "its place is taken");
        assert_eq!(disk_bytes(at(began, 1000)).iter().sum::<u64>(), 0);
    }

    #[test]
    fn no_duration_is_out_of_bounds_and_none_is_no_fetch() {
        let began = Instant::now();
        let minutes = LastMinutes::new(began);
        assert_eq!(minutes.read(began), vec![Seconds::default(); SLOTS]);
        for took in [Duration::ZERO, Duration::MAX] {
            minutes.note(began, 0, took);
        }
        assert_eq!(minutes.read(began).last().unwrap().hot_fetches, 2);
    }
}
