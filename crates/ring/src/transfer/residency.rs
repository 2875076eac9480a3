//! Whether a range of a file is in the page cache, and so whether sending it inline would wait for
//! a disk.
//!
//! perform.rs calls it for transfers on `auto`. It never waits, and never reads the range.
//!
//! ```text
//!   window    |--------------------------------|    512 KiB, one verdict each
//!   range               |-----|                     the verdict covers it? else the kernel is asked
//!                       |----------------------|    for the rest of the window, where the reader goes on;
//!                       |-----|                     and if that is not all cached, for the range alone
//! ```

use std::cell::RefCell;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::file_range::FileRange;
use crate::ring_config::{PAGE_BYTES, Sight};
use crate::sight::is_readable_now;
use crate::sys;

/// One call for so much takes the kernel two to three times as long as for 64 KiB.
const WINDOW_BYTES: u64 = 512 * 1024;

/// How long a verdict holds. The kernel does not evict pages first that were just read or found. If
/// it does, a turn waits for the disk. Of random requests over 256 MiB one in twelve then has to
/// ask; at 10 ms nine in ten had, and spent a tenth of their time on it (EXPERIMENTS.md).
const VERDICT_HOLDS: Duration = Duration::from_millis(250);

/// Windows remembered. A window that falls on the slot of another takes its place. The windows of
/// 512 MiB seldom share a slot; the slots take a quarter of a MiB.
const SLOTS: usize = 4096;

/// Twice what the kernel reads ahead of a scan where read_ahead_kb is high: 64 MiB.
const AHEAD_BITS: u32 = 26;

/// The verdicts of one ring about the page cache.
pub(crate) struct Residency {
    sight: Sight,
    verdicts: RefCell<Box<[Option<Verdict>]>>,
}

/// A part of a window that was in the page cache a moment ago.
struct Verdict {
    /// Keeps the address from becoming another file's. It does not keep the file open.
    file: Weak<File>,
    window: u64,
    cached: Range<u64>,
    found: Instant,
    /// The window is not cached to its end, or the file ends before.
    looked_in_vain: bool,
}

impl Residency {
    pub(crate) fn new(sight: Sight) -> Residency {
        let verdicts = std::iter::repeat_with(|| None).take(SLOTS);
        Residency { sight, verdicts: RefCell::new(verdicts.collect()) }
    }

    /// Whether every byte of the range can be read without waiting, by verdicts that hold at `now`.
    /// False when in doubt (a filter that forbids the calls, a file system that shows nothing).
    /// `goes_on`: the bytes behind the range are likely to be requested next.
    pub(crate) fn is_cached(&self, range: &FileRange, goes_on: bool, now: Instant) -> bool {
        let end = range.position + range.len_bytes;
        let mut from = range.position;
        while from < end {
            let window = from / WINDOW_BYTES;
            let to = end.min((window + 1) * WINDOW_BYTES);
            if !self.is_part_cached(&range.file, window, from..to, goes_on, now) {
                return false;
            }
            from = to;
        }
        true
    }

    /// Whether what follows a range is cached, further than the kernel reads ahead. Looks at a page
    /// here and there.
    pub(crate) fn is_cached_ahead(&self, range: &FileRange) -> bool {
        let Ok(metadata) = range.file.metadata() else { return false };
        let last = metadata.len().saturating_sub(1).max(range.position);
        let looks = (20..=AHEAD_BITS).map(|bits| range.end().saturating_add(1 << bits));
        let before_last = looks.take_while(|position| *position < last);
        std::iter::once(range.position).chain(before_last).chain([last]).all(|position| {
            let is_near = position <= range.end().saturating_add(1 << AHEAD_BITS);
            !is_near || is_counted_now(self.sight, &range.file, position / PAGE_BYTES, 1)
        })
    }

    /// Forgets what is known of the windows of a range, whose pages are about to be dropped.
    pub(crate) fn forget(&self, range: &FileRange) {
        let verdicts = &mut *self.verdicts.borrow_mut();
        for window in range.position / WINDOW_BYTES..range.end().div_ceil(WINDOW_BYTES) {
            let slot = &mut verdicts[slot_of(&range.file, window)];
            if slot.as_ref().is_some_and(|verdict| verdict.is_of(&range.file, window)) {
                *slot = None;
            }
        }
    }

    fn is_part_cached(
        &self,
        file: &Arc<File>,
        window: u64,
        part: Range<u64>,
        goes_on: bool,
        now: Instant,
    ) -> bool {
        if self.sight == Sight::Blind {
            return false;
        }
        let verdicts = &mut *self.verdicts.borrow_mut();
        let slot = &mut verdicts[slot_of(file, window)];
        let earlier = slot.as_ref().filter(|verdict| verdict.is_of(file, window));
        let holds =
            |verdict: &&Verdict| now.saturating_duration_since(verdict.found) < VERDICT_HOLDS;
        let known = earlier.filter(holds);
        if known.is_some_and(|verdict| verdict.covers(&part)) {
            return true;
        }
        let looked_in_vain = known.is_some_and(|verdict| verdict.looked_in_vain);
        // A reader at random places gains nothing by a look at more than its range.
        let will_be_asked = goes_on || earlier.is_some();
        let window_end = (window + 1) * WINDOW_BYTES;
        let looks_further = will_be_asked && !looked_in_vain && part.end < window_end;
        let rest = looks_further.then_some(part.start..window_end);
        let Some(cached) =
            rest.into_iter().chain([part]).find(|part| is_cached_now(self.sight, file, part))
        else {
            return false;
        };
        let looked_in_vain = looked_in_vain || (looks_further && cached.end < window_end);
        let file = Arc::downgrade(file);
        *slot = Some(Verdict { file, window, cached, found: now, looked_in_vain });
        true
    }
}

impl Verdict {
    fn is_of(&self, file: &Arc<File>, window: u64) -> bool {
        self.window == window && std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file))
    }

    fn covers(&self, part: &Range<u64>) -> bool {
        self.cached.start <= part.start && part.end <= self.cached.end
    }
}

/// The slot of a window. Readers often go on side by side at equal distances, and must not meet in
/// a few slots.
fn slot_of(file: &Arc<File>, window: u64) -> usize {
    let mut hasher = DefaultHasher::new();
    (Arc::as_ptr(file), window).hash(&mut hasher);
    hasher.finish() as usize % SLOTS
}

/// Asks the kernel. cachestat(2) also counts pages whose read is still under way, and sending one
/// of those would wait. Read-ahead ends with the last page, so that page is read by a call that
/// refuses to wait. mincore(2) does not count pages that are being read.
fn is_cached_now(sight: Sight, file: &File, range: &Range<u64>) -> bool {
    let (first, last) = (range.start / PAGE_BYTES, (range.end - 1) / PAGE_BYTES);
    is_counted_now(sight, file, first, last - first + 1)
        && (sight != Sight::Cachestat || is_readable_now(file, range.end - 1))
}

/// Like [`is_cached_now`], but pages whose read is under way count. Reading one would make the
/// kernel read ahead for a reader of single pages.
fn is_counted_now(sight: Sight, file: &File, first_page: u64, pages: u64) -> bool {
    let (position, len_bytes) = (first_page * PAGE_BYTES, pages * PAGE_BYTES);
    let is_all = |counted: u64| counted >= pages;
    let counted = sys::cached_pages;
    match sight {
        Sight::Cachestat => counted(file, position, len_bytes).is_ok_and(is_all),
        // A kernel before 6.5 counts nothing, and then swapped pages go unnoticed.
        Sight::Memory => counted(file, position, len_bytes).map_or(true, is_all),
        Sight::Mincore => sys::mapped_pages(file, position, len_bytes).is_ok_and(is_all),
        Sight::Blind => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const PAGES: u64 = 16;

    /// A file on a disk (a tmpfs keeps everything in memory) with only some pages cached. They are
    /// brought in one by one, because the kernel keeps bytes written at once in larger units.
    fn file(is_cached: impl Fn(u64) -> bool) -> Arc<File> {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; (PAGES * PAGE_BYTES) as usize]).unwrap();
        file.sync_all().unwrap();
        evict(&file);
        fadvise(&file, 0, None, Advice::Random).unwrap();
        for page in (0..PAGES).filter(|page| is_cached(*page)) {
            file.read_exact_at(&mut [0], page * PAGE_BYTES).unwrap();
        }
        Arc::new(file)
    }

    fn range(file: &Arc<File>, position: u64, len_bytes: u64) -> FileRange {
        FileRange { file: Arc::clone(file), position, len_bytes }
    }

    /// Whether the range is cached, by each way to see it. They must agree.
    fn cached(file: &Arc<File>, position: u64, len_bytes: u64) -> bool {
        let range = range(file, position, len_bytes);
        let by = |sight| Residency::new(sight).is_cached(&range, false, Instant::now());
        let cached = by(Sight::Cachestat);
        assert_eq!((by(Sight::Mincore), by(Sight::Memory)), (cached, cached));
        assert!(!by(Sight::Blind) || len_bytes == 0);
        cached
    }

    #[test]
    fn what_was_read_is_cached_and_what_was_evicted_is_not() {
        assert!(cached(&file(|_| true), 0, PAGES * PAGE_BYTES));
        assert!(!cached(&file(|_| false), 0, PAGES * PAGE_BYTES));
    }

    #[test]
    fn one_missing_page_is_noticed_wherever_it_is() {
        for missing in [0, PAGES / 2, PAGES - 1] {
            let file = file(|page| page != missing);
            assert!(!cached(&file, 0, PAGES * PAGE_BYTES), "page {missing}");
        }
    }

    #[test]
    fn only_the_pages_of_the_range_count() {
        let file = file(|page| page == 1 || page == 2);
        assert!(cached(&file, PAGE_BYTES + 10, 2 * PAGE_BYTES - 10));
        assert!(!cached(&file, PAGE_BYTES + 10, 2 * PAGE_BYTES));
        assert!(!cached(&file, PAGE_BYTES - 1, 2));
    }

    #[test]
    fn an_empty_range_needs_nothing() {
        assert!(cached(&file(|_| false), 5, 0));
    }

    fn evict(file: &File) {
        // A page in use at this moment (by its disk, or on another core's list of new pages) stays
        // once.
        while sys::cached_pages(file, 0, 0).unwrap() > 0 {
            fadvise(file, 0, None, Advice::DontNeed).unwrap();
        }
    }

    #[test]
    fn a_verdict_holds_for_a_while_and_no_longer() {
        for sight in [Sight::Cachestat, Sight::Mincore, Sight::Memory] {
            let (file, residency, now) = (file(|_| true), Residency::new(sight), Instant::now());
            let all = range(&file, 0, PAGES * PAGE_BYTES);
            assert!(residency.is_cached(&all, false, now));
            evict(&file);
            assert!(residency.is_cached(&all, false, now + VERDICT_HOLDS / 2), "not asked again");
            assert!(!residency.is_cached(&all, false, now + VERDICT_HOLDS));
        }
    }

    #[test]
    fn a_range_that_is_dropped_is_asked_for_again_and_no_other() {
        let (file, now) = (written(4 * WINDOW_BYTES), Instant::now());
        let residency = Residency::new(Sight::Cachestat);
        let window = |n| range(&file, n * WINDOW_BYTES, WINDOW_BYTES);
        for n in 0..4 {
            assert!(residency.is_cached(&window(n), false, now));
        }
        evict(&file);
        residency.forget(&range(&file, WINDOW_BYTES + 1, WINDOW_BYTES));
        let known = [0, 1, 2, 3].map(|n| residency.is_cached(&window(n), false, now));
        assert_eq!(known, [true, false, false, true]);
    }

    #[test]
    fn a_reader_that_goes_on_sees_whether_what_follows_is_cached_to_the_end_or_far_enough() {
        let file = written(128 << 20);
        let ahead = |position| {
            let range = range(&file, position, WINDOW_BYTES);
            Residency::new(Sight::Cachestat).is_cached_ahead(&range)
        };
        assert!(ahead(0) && ahead(127 << 20));
        evict(&file);
        assert!(!ahead(0) && !ahead(127 << 20));
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let mut end = vec![0; 8 << 20];
        file.read_exact_at(&mut end, 120 << 20).unwrap();
        assert!(ahead(120 << 20), "to its end");
        assert!(!ahead(100 << 20));
    }

    fn written(len_bytes: u64) -> Arc<File> {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&vec![7; len_bytes as usize], 0).unwrap();
        file.sync_all().unwrap();
        Arc::new(file)
    }

    #[test]
    fn one_look_serves_those_who_read_on_if_the_window_is_cached_to_its_end() {
        for (len_bytes, is_known) in [(2 * WINDOW_BYTES, true), (WINDOW_BYTES - PAGE_BYTES, false)]
        {
            let (file, residency, now) =
                (written(len_bytes), Residency::new(Sight::Cachestat), Instant::now());
            let page = |n| range(&file, n * PAGE_BYTES, PAGE_BYTES);
            assert!(residency.is_cached(&page(0), true, now));
            evict(&file);
            assert!(residency.is_cached(&page(0), true, now));
            assert_eq!(residency.is_cached(&page(1), true, now), is_known);
            let of_another_window = range(&file, WINDOW_BYTES, PAGE_BYTES);
            assert!(!residency.is_cached(&of_another_window, true, now));
        }
    }

    #[test]
    fn the_first_who_reads_here_and_there_asks_for_no_more_and_the_next_does() {
        let (file, residency, now) =
            (written(2 * WINDOW_BYTES), Residency::new(Sight::Cachestat), Instant::now());
        let page = |n| range(&file, n * PAGE_BYTES, PAGE_BYTES);
        let next = |n| residency.is_cached(&page(n), false, now);
        let known = |n| {
            let verdicts = residency.verdicts.borrow();
            let verdict = verdicts[slot_of(&file, 0)].as_ref();
            verdict.is_some_and(|verdict| verdict.covers(&(n * PAGE_BYTES..(n + 1) * PAGE_BYTES)))
        };
        assert!(next(0) && !known(1));
        assert!(next(1) && known(1) && known(2) && known(WINDOW_BYTES / PAGE_BYTES - 1));
        let later = now + VERDICT_HOLDS;
        assert!(
            residency.is_cached(&page(5), false, later) && known(6),
            "after any earlier reader"
        );
    }

    #[test]
    fn a_reader_behind_another_looks_as_far_as_that_one_did() {
        let (file, residency, now) =
            (written(2 * WINDOW_BYTES), Residency::new(Sight::Cachestat), Instant::now());
        let half = WINDOW_BYTES / 2;
        assert!(residency.is_cached(&range(&file, half, PAGE_BYTES), true, now));
        assert!(residency.is_cached(&range(&file, 0, PAGE_BYTES), true, now));
        evict(&file);
        assert!(residency.is_cached(&range(&file, 0, WINDOW_BYTES), true, now), "known");
    }

    #[test]
    fn readers_side_by_side_do_not_meet_in_a_few_slots() {
        let file = file(|_| false);
        for windows_apart in 1..1024 {
            let slots: HashSet<_> = (0..16).map(|n| slot_of(&file, n * windows_apart)).collect();
            assert!(slots.len() >= 8, "{} at {windows_apart}", slots.len());
        }
    }

    #[test]
    fn what_is_known_of_one_file_says_nothing_of_another() {
        let (hot, cold, residency) =
            (file(|_| true), file(|_| false), Residency::new(Sight::Cachestat));
        let now = Instant::now();
        for _ in 0..3 {
            assert!(residency.is_cached(&range(&hot, 0, PAGE_BYTES), false, now));
            assert!(!residency.is_cached(&range(&cold, 0, PAGE_BYTES), false, now));
        }
        drop(hot);
        let opened: Vec<_> = (0..100).map(|_| file(|_| false)).collect();
        assert!(!opened.iter().any(|file| residency.is_cached(
            &range(file, 0, PAGE_BYTES),
            false,
            now
        )));
    }
}
