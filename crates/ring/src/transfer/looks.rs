//! How far a connection has looked ahead of its scans for pages that are not in memory.
//!
//! ```text
//!   file  |------ read ------|▓▓▓▓░░░░░░░▓▓▓|.........
//!                    counted ^               ^ looked until     ░ missing: the disk reads it
//! ```
//!
//! perform.rs calls it before each cold plan. Pages must be looked for before the kernel reads
//! ahead to them, since afterwards nothing shows for whom they came. What was missing counts as
//! read from the disk once it is sent. It is the scan's own, to be dropped behind it, once a third
//! answer in a row shows a scan and the scan comes near it. What other readers bring in between
//! counts as the scan's.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::file_range::FileRange;
use crate::ring_config::{PAGE_BYTES, Sight};
use crate::transfer::streams::Approach;

/// Files that one connection looks ahead in.
const FILES_MAX: usize = 64;

/// Looked at by one call of the kernel, if all of it is missing or there.
const PIECE_BYTES: u64 = 1 << 20;

/// Missing stretches remembered in a file. What is brought in more pieces stays in the page cache.
const STRETCHES_MAX: usize = 1024;

/// Into how many pieces one is divided that is there in part, down to pages.
const PIECES: u64 = 16;

/// Answers that go on where the one before ended, before they are a scan.
const STEPS_MIN: u32 = 2;

/// How far ahead of a scan what is missing becomes its own: as far as the kernel may read ahead for
/// it, four times read_ahead_kb, which is 8 MiB or less on most machines.
const NEAR_BYTES: u64 = 32 << 20;

#[derive(Debug, Default)]
pub(crate) struct Looks(Vec<Look>);

#[derive(Debug)]
struct Look {
    file: Weak<File>,
    /// Where the last answer began in the file.
    begin: u64,
    /// Answers that went on.
    steps: u32,
    until: u64,
    /// In their order. Those are forgotten that have been counted and returned as the scan's.
    missing: Vec<Range<u64>>,
    /// Up to where what was missing has been counted.
    counted: u64,
    /// Up to where it has been returned as the scan's.
    near: u64,
}

impl Looks {
    /// Looks ahead of a plan that begins with `range`, in an answer that begins at `begin` of that
    /// file. Returns what was not in memory near it and has not been returned before, once answers
    /// that go on show a scan: it is the scan's own.
    pub(crate) fn ahead_of(
        &mut self,
        range: &FileRange,
        begin: u64,
        approach: Approach,
        sight: Sight,
    ) -> Vec<Range<u64>> {
        let look = self.of(range, begin);
        if approach == Approach::GoesOn && look.begin != begin {
            look.steps += 1;
        }
        look.begin = begin;
        let (far_bytes, near_bytes) = distances(sight, approach);
        let file_bytes = range.file.metadata().map_or(0, |metadata| metadata.len());
        if look.until < file_bytes.min(range.position + near_bytes) {
            let until = file_bytes.min(range.position + far_bytes).next_multiple_of(PAGE_BYTES);
            missing(&range.file, look.until..until, PIECE_BYTES, sight, &mut look.missing);
            look.until = until;
        }
        if look.steps < STEPS_MIN { Vec::new() } else { look.take_before(range.end() + NEAR_BYTES) }
    }

    /// An answer with the range has been sent. Returns how many of its bytes were missing and have
    /// not been counted before.
    pub(crate) fn pass(&mut self, range: &FileRange) -> u64 {
        let look = self.0.iter_mut().find(|look| look.is_of(range));
        look.map_or(0, |look| {
            let bytes = look.missing_bytes(range);
            look.counted = look.counted.max(range.end());
            look.forget_passed();
            bytes
        })
    }

    /// How many bytes of the range were missing and have not been counted.
    pub(crate) fn missing_bytes(&self, range: &FileRange) -> u64 {
        let look = self.0.iter().find(|look| look.is_of(range));
        look.map_or(0, |look| look.missing_bytes(range))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&mut self, range: &FileRange, begin: u64) -> &mut Look {
        let place = self.0.iter().position(|look| look.is_of(range)).unwrap_or_else(|| {
            if self.0.len() == FILES_MAX {
                self.0.remove(0);
            }
            self.0.push(Look::at(range, begin));
            self.0.len() - 1
        });
        let look = &mut self.0[place];
        if !(look.begin..=look.until).contains(&range.position) {
            *look = Look::at(range, begin);
        }
        look
    }
}

impl Look {
    fn at(range: &FileRange, begin: u64) -> Look {
        let (file, position) = (Arc::downgrade(&range.file), range.position);
        let until = position - position % PAGE_BYTES;
        let missing = Vec::new();
        Look { file, begin, steps: 0, until, missing, counted: position, near: until }
    }

    fn is_of(&self, range: &FileRange) -> bool {
        std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(&range.file))
    }

    fn missing_bytes(&self, range: &FileRange) -> u64 {
        let part = range.position.max(self.counted)..range.end();
        self.missing.iter().map(|stretch| overlap(stretch, &part)).map(|both| len(&both)).sum()
    }

    /// What is missing before `end` and has not been returned.
    fn take_before(&mut self, end: u64) -> Vec<Range<u64>> {
        let part = self.near..end;
        self.near = end.max(self.near);
        let near = self.missing.iter().map(|stretch| overlap(stretch, &part));
        let near = near.filter(|both| !both.is_empty()).collect();
        self.forget_passed();
        near
    }

    fn forget_passed(&mut self) {
        let passed = self.counted.min(self.near);
        self.missing.retain(|stretch| stretch.end > passed);
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    one.start.max(other.start)..one.end.min(other.end)
}

fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// How far to look, and how near the end of that may come before the next look. Who jumps may
/// begin a scan, but seldom does. Looking by mincore(2) takes 11 us a MiB, ten times as long as by
/// cachestat(2).
fn distances(sight: Sight, approach: Approach) -> (u64, u64) {
    match (approach, sight) {
        (Approach::GoesOn, Sight::Mincore) => (48 << 20, 40 << 20),
        (Approach::GoesOn, _) => (96 << 20, 48 << 20),
        (Approach::Begins, Sight::Mincore) => (8 << 20, 2 << 20),
        (Approach::Begins, _) => (16 << 20, 2 << 20),
        (Approach::Jumps, _) => (2 << 20, 2 << 20),
    }
}

/// Adds the pages of a range that are not in memory, looking at pieces of `piece_bytes`.
fn missing(
    file: &File,
    range: Range<u64>,
    piece_bytes: u64,
    sight: Sight,
    found: &mut Vec<Range<u64>>,
) {
    for start in range.clone().step_by(piece_bytes as usize) {
        if found.len() >= STRETCHES_MAX {
            return;
        }
        let piece = start..range.end.min(start + piece_bytes);
        let len_bytes = piece.end - piece.start;
        let pages = match sight {
            Sight::Blind => Some(0),
            _ => sight.resident_pages(file, start, len_bytes),
        };
        let Some(pages) = pages else { return };
        let missing_bytes = len_bytes - (pages * PAGE_BYTES).min(len_bytes);
        if missing_bytes == 0 {
            continue;
        }
        if missing_bytes < len_bytes {
            missing(file, piece, (piece_bytes / PIECES).max(PAGE_BYTES), sight, found);
        } else if let Some(last) = found.last_mut().filter(|last| last.end == start) {
            last.end = piece.end;
        } else {
            found.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::sys;

    const MIB: u64 = 1 << 20;

    /// A file on a disk of which only `cached` is in memory.
    fn file(len_bytes: u64, cached: Option<Range<u64>>) -> Arc<File> {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&vec![7; len_bytes as usize], 0).unwrap();
        file.sync_all().unwrap();
        while sys::cached_pages(&file, 0, 0).unwrap() > 0 {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        fadvise(&file, 0, None, Advice::Random).unwrap();
        if let Some(range) = cached {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start).unwrap();
        }
        Arc::new(file)
    }

    fn at(file: &Arc<File>, position: u64) -> FileRange {
        FileRange { file: Arc::clone(file), position, len_bytes: MIB }
    }

    #[test]
    fn what_is_missing_is_found_to_the_end_of_the_file_by_each_sight_and_once() {
        let (begin, end) = (2 * MIB + 5 * PAGE_BYTES, 3 * MIB + 33 * PAGE_BYTES);
        let file = file(6 * MIB + 100, Some(begin..end));
        let expected = [0..begin, end..6 * MIB + PAGE_BYTES];
        for sight in [Sight::Cachestat, Sight::Mincore] {
            let mut looks = Looks::default();
            let mut ahead_of = |position| {
                let approach = if position > 0 { Approach::GoesOn } else { Approach::Begins };
                looks.ahead_of(&at(&file, position), position, approach, sight)
            };
            assert!(ahead_of(0).is_empty() && ahead_of(MIB).is_empty(), "{sight:?}: no scan yet");
            assert_eq!(ahead_of(2 * MIB), expected, "{sight:?}");
            assert!(ahead_of(3 * MIB).is_empty(), "{sight:?}");
        }
    }

    #[test]
    fn the_first_answers_of_a_scan_are_returned_with_its_third_and_those_of_no_scan_never() {
        let file = file(60 * MIB, None);
        let mut looks = Looks::default();
        let mut plan = |begin: u64, sent_bytes: u64, approach| {
            looks.ahead_of(&at(&file, begin + sent_bytes), begin, approach, Sight::Cachestat)
        };
        assert!(plan(20 * MIB, 0, Approach::Begins).is_empty());
        assert!(plan(21 * MIB, 0, Approach::GoesOn).is_empty());
        assert!(plan(0, 0, Approach::Jumps).is_empty(), "somewhere else");
        let mut bytes = vec![0; 2 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for tenth in 0..9 {
            let found = plan(MIB, tenth * MIB / 10, Approach::GoesOn);
            assert!(found.is_empty(), "one answer, to a peer that reads slowly");
        }
        let found = plan(2 * MIB, 0, Approach::GoesOn);
        assert!(found.iter().eq(&Some(0..3 * MIB + NEAR_BYTES)), "{found:?}");
        let found = plan(3 * MIB, 0, Approach::GoesOn);
        assert!(found.iter().eq(&Some(3 * MIB + NEAR_BYTES..4 * MIB + NEAR_BYTES)), "{found:?}");
    }

    #[test]
    fn what_was_missing_counts_once_when_it_is_sent() {
        let file = file(12 * MIB, Some(MIB..2 * MIB));
        let mut looks = Looks::default();
        let mut send = |begin: u64, len_bytes, approach| {
            let range = FileRange { file: Arc::clone(&file), position: begin, len_bytes };
            looks.ahead_of(&range, begin, approach, Sight::Cachestat);
            let foreseen = looks.missing_bytes(&range);
            let mut bytes = vec![0; 12 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let counted = looks.pass(&range);
            assert_eq!((counted, looks.missing_bytes(&range)), (foreseen, 0));
            counted
        };
        assert_eq!(send(100, MIB, Approach::Begins), MIB - 100, "and 100 that were in memory");
        assert_eq!(send(MIB + 100, 2 * MIB, Approach::GoesOn), MIB + 100);
        assert_eq!(send(3 * MIB, MIB, Approach::GoesOn), MIB - 100, "a batch that was cut");
        assert_eq!(send(4 * MIB, 5 * MIB, Approach::GoesOn), 5 * MIB);
        assert_eq!(send(2 * MIB, 8 * MIB, Approach::Jumps), 0, "now all is in memory");
    }

    #[test]
    fn a_file_with_holes_in_memory_everywhere_takes_bounded_memory() {
        let mut found: Vec<_> = (0..STRETCHES_MAX as u64).map(|n| 2 * n..2 * n + 1).collect();
        let file = file(4 * MIB, None);
        missing(&file, MIB..2 * MIB, PIECE_BYTES, Sight::Cachestat, &mut found);
        assert_eq!(found.len(), STRETCHES_MAX);
    }

    #[test]
    fn a_connection_looks_ahead_in_a_bounded_number_of_files() {
        let mut looks = Looks::default();
        for _ in 0..2 * FILES_MAX {
            let file = Arc::new(tempfile::tempfile().unwrap());
            looks.ahead_of(&at(&file, 0), 0, Approach::Begins, Sight::Cachestat);
        }
        assert_eq!(looks.0.len(), FILES_MAX);
    }
}
