//! The scans of one file: what they brought into the page cache, and what may be dropped. Pure.
//!
//! ```text
//!   |----|======================== brought ==========================|-----|
//!            dropped ────►|◄ LAG ►▲◄──────────── AHEAD ───────────►|
//!                                 └ a reader: it keeps this part of the file
//! ```
//!
//! Called by the table of scans. What any reader keeps is not dropped, so readers of the same range
//! share one read from the disk, and the last of them leaves nothing behind.

use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use rangemap::RangeSet;

/// How much of the file a reader keeps in front of itself. It must be more than the kernel reads
/// ahead, and is how far readers of the same range may be apart.
const AHEAD_BYTES: u64 = 96 << 20;

/// How much it keeps behind itself: pages that its peer has yet to take cannot be dropped.
const LAG_BYTES: u64 = 4 << 20;

/// What is dropped at once, at least, while a scan goes on.
pub(super) const STEP_BYTES: u64 = 4 << 20;

/// A folio is dropped as a whole or not at all. So the end of what is dropped is dropped again with
/// what follows.
const FOLIO_BYTES: u64 = 2 << 20;

/// How long a reader is remembered that reads nothing.
const READER_KEPT: Duration = Duration::from_secs(10);

/// Readers remembered. More of them may find pages gone.
const READERS_MAX: usize = 1024;

/// Stretches remembered. What is brought in more pieces stays in the page cache.
const STRETCHES_MAX: usize = 1024;

const _: () = assert!(FOLIO_BYTES < STEP_BYTES);

#[derive(Debug, Default)]
pub(super) struct FileScan {
    brought: RangeSet<u64>,
    readers: Vec<Reader>,
    /// Dropped since the last sweep, and in the second before that.
    dropped: [RangeSet<u64>; 2],
}

#[derive(Debug)]
struct Reader {
    id: u64,
    position: u64,
    seen: Instant,
}

impl FileScan {
    pub(super) fn bring(&mut self, stretches: Vec<Range<u64>>) {
        for stretch in stretches.into_iter().filter(|stretch| !stretch.is_empty()) {
            if self.brought.len() < STRETCHES_MAX {
                self.brought.insert(stretch);
            }
        }
    }

    /// A reader has read up to `position`.
    pub(super) fn move_to(&mut self, id: u64, position: u64, now: Instant) {
        let moved = Reader { id, position, seen: now };
        if let Some(reader) = self.readers.iter_mut().find(|reader| reader.id == id) {
            *reader = moved;
        } else if self.readers.len() < READERS_MAX {
            self.readers.push(moved);
        }
    }

    /// Whether the reader was here.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        let before = self.readers.len();
        self.readers.retain(|reader| reader.id != id);
        self.readers.len() < before
    }

    /// What no reader keeps, in stretches of at least `least_bytes`.
    pub(super) fn take_droppable(&mut self, least_bytes: u64) -> Vec<Range<u64>> {
        let free = self.without_kept(self.brought.clone());
        let is_long = |range: &Range<u64>| range.end - range.start >= least_bytes;
        let free: Vec<_> = free.into_iter().filter(is_long).collect();
        for range in &free {
            let goes_on = self.brought.contains(&range.end);
            let again_bytes = if goes_on { FOLIO_BYTES } else { 0 };
            let gone = range.start..range.end.saturating_sub(again_bytes).max(range.start);
            if !gone.is_empty() {
                self.brought.remove(gone);
            }
            self.dropped[0].insert(range.clone());
        }
        free
    }

    /// Forgets readers that have stopped. Returns all that no reader keeps, and a second time what
    /// was dropped before the last sweep: pages that were on their way to a peer stayed then.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Range<u64>> {
        self.readers.retain(|reader| now.saturating_duration_since(reader.seen) < READER_KEPT);
        let again = mem::take(&mut self.dropped[1]);
        self.dropped[1] = mem::take(&mut self.dropped[0]);
        let again = self.without_kept(again);
        let mut ranges = self.take_droppable(1);
        ranges.extend(again);
        ranges
    }

    pub(super) fn is_over(&self) -> bool {
        self.brought.is_empty() && self.dropped.iter().all(RangeSet::is_empty)
    }

    fn without_kept(&self, mut ranges: RangeSet<u64>) -> RangeSet<u64> {
        for &Reader { position, .. } in &self.readers {
            ranges.remove(position.saturating_sub(LAG_BYTES)..position.saturating_add(AHEAD_BYTES));
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn mib(range: Range<u64>) -> Range<u64> {
        range.start * MIB..range.end * MIB
    }

    fn bring(scan: &mut FileScan, range: Range<u64>) {
        scan.bring(std::iter::once(mib(range)).collect());
    }

    /// The only range that is dropped.
    fn only(ranges: Vec<Range<u64>>) -> Range<u64> {
        let [range] = <[_; 1]>::try_from(ranges).unwrap();
        range
    }

    #[test]
    fn a_reader_keeps_what_lies_before_it_and_drops_what_lies_behind() {
        let (mut scan, now) = (FileScan::default(), Instant::now());
        bring(&mut scan, 10..200);
        scan.move_to(1, 15 * MIB, now);
        // It keeps 11..111.
        assert_eq!(only(scan.take_droppable(STEP_BYTES)), mib(111..200));
        scan.move_to(1, 30 * MIB, now);
        assert_eq!(only(scan.take_droppable(STEP_BYTES)), mib(10..26));
        scan.move_to(1, 32 * MIB, now);
        assert_eq!(only(scan.take_droppable(STEP_BYTES)), mib(24..28), "with the last folio again");
        scan.move_to(1, 33 * MIB, now);
        assert_eq!(scan.take_droppable(STEP_BYTES), [], "too little");
        scan.leave(1);
        assert_eq!(only(scan.take_droppable(1)), mib(26..111));
        assert!(scan.brought.is_empty());
    }

    #[test]
    fn what_was_in_memory_before_the_scan_is_never_dropped() {
        let (mut scan, now) = (FileScan::default(), Instant::now());
        scan.bring(vec![mib(0..10), mib(20..30)]);
        scan.move_to(1, 300 * MIB, now);
        assert_eq!(scan.take_droppable(STEP_BYTES), [mib(0..10), mib(20..30)]);
    }

    #[test]
    fn the_last_of_the_readers_drops() {
        let (mut scan, now) = (FileScan::default(), Instant::now());
        bring(&mut scan, 0..40);
        scan.move_to(1, 40 * MIB, now);
        scan.move_to(2, 10 * MIB, now);
        assert_eq!(only(scan.take_droppable(1)), mib(0..6));
        scan.leave(2);
        assert_eq!(only(scan.take_droppable(1)), mib(4..36));
        scan.sweep(now + READER_KEPT);
        assert!(scan.brought.is_empty(), "a reader that stops keeps nothing for long");
    }

    #[test]
    fn what_was_dropped_is_dropped_once_more_unless_a_reader_has_come_to_it() {
        let (mut scan, now) = (FileScan::default(), Instant::now());
        bring(&mut scan, 0..140);
        scan.move_to(1, 144 * MIB, now);
        assert_eq!(only(scan.take_droppable(1)), mib(0..140));
        assert_eq!(scan.sweep(now), []);
        scan.move_to(2, 34 * MIB, now);
        assert_eq!(scan.sweep(now), [mib(0..30), mib(130..140)]);
        assert!(scan.is_over() && scan.sweep(now).is_empty());
    }

    #[test]
    fn a_bounded_number_of_stretches_is_remembered() {
        let mut scan = FileScan::default();
        scan.bring((0..2000).map(|n| mib(2 * n..2 * n + 1)).collect());
        assert_eq!(scan.brought.len(), STRETCHES_MAX);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Bring(Range<u64>),
        Move(u64, u64),
        Leave(u64),
        Drop,
        Sweep,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..300, 1u64..80).prop_map(|(start, len)| Event::Bring(mib(start..start + len))),
            (0u64..4, 0u64..380).prop_map(|(id, position)| Event::Move(id, position * MIB)),
            (0u64..4).prop_map(Event::Leave),
            Just(Event::Drop),
            Just(Event::Sweep),
        ]
    }

    proptest! {
        #[test]
        fn only_what_was_brought_and_no_reader_keeps_is_dropped_and_in_the_end_all_of_it(
            events in prop::collection::vec(event(), 1..40),
        ) {
            let (mut scan, now) = (FileScan::default(), Instant::now());
            let (mut ever_brought, mut dropped) = (RangeSet::new(), RangeSet::new());
            for event in events {
                let taken = match event {
                    Event::Bring(range) => {
                        ever_brought.insert(range.clone());
                        dropped.remove(range.clone());
                        scan.bring(std::iter::once(range).collect());
                        Vec::new()
                    }
                    Event::Move(id, position) => {
                        scan.move_to(id, position, now);
                        Vec::new()
                    }
                    Event::Leave(id) => {
                        scan.leave(id);
                        Vec::new()
                    }
                    Event::Drop => scan.take_droppable(STEP_BYTES),
                    Event::Sweep => scan.sweep(now),
                };
                for range in taken {
                    prop_assert!(ever_brought.gaps(&range).next().is_none(), "{range:?}");
                    for reader in &scan.readers {
                        let kept = reader.position.saturating_sub(LAG_BYTES)
                            ..reader.position + AHEAD_BYTES;
                        prop_assert!(kept.end <= range.start || range.end <= kept.start);
                    }
                    dropped.insert(range);
                }
            }
            for range in scan.sweep(now + READER_KEPT) {
                dropped.insert(range);
            }
            prop_assert!(ever_brought.iter().all(|range| dropped.gaps(range).next().is_none()));
            scan.sweep(now);
            scan.sweep(now);
            prop_assert!(scan.is_over());
        }
    }
}
