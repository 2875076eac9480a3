//! How far a connection has looked ahead of its scans for pages that are not in memory.
//!
//! ```text
//!   file  |------ sent ------|▓▓▓▓░░░░░░░▓▓▓|.........
//!                    position ^              ^ looked until      ░ missing: the disk reads it
//! ```
//!
//! perform.rs calls it before each cold plan. Pages must be looked for before the kernel reads
//! ahead to them, since afterwards nothing shows for whom they came. What was missing counts as
//! read from the disk once it is sent; so does what is missing when it is planned, because pages
//! may have been dropped since. It is the scan's own, to be dropped behind it, once a third answer
//! in a row shows a scan and the scan comes near it. What other readers bring in between counts as
//! the scan's.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Weak};

use crate::file_range::FileRange;
use crate::ring_config::{PAGE_BYTES, Sight};
use crate::transfer::streams::Approach;

/// Files that one connection looks ahead in.
pub(crate) const FILES_MAX: usize = 64;

/// Looked at by one call of the kernel, if all of it is missing or there.
const PIECE_BYTES: u64 = 1 << 20;

/// Calls of the kernel for one look, which is more than a look at whole pieces takes. It ends
/// there, and the next one goes on.
const CALLS_MAX: u32 = 256;

/// Missing stretches remembered in a file. While there are as many, it is looked no further.
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

/// What a cold plan will have the disk read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Foreseen {
    /// Bytes of the plan's range that come from the disk and have not been counted.
    pub(crate) cold_bytes: u64,
    /// What the disk reads for this scan, near it, and has not been returned before.
    pub(crate) brought: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Look {
    file: Weak<File>,
    /// Where the last answer began in the file.
    begin: u64,
    /// Answers that went on.
    steps: u32,
    until: u64,
    /// Missing when looked for, and not counted.
    missing: Vec<Range<u64>>,
    /// Missing when looked for, and not returned as the scan's.
    unowned: Vec<Range<u64>>,
    /// Up to where the present answer has been counted. A plan may not send all of its range, and
    /// the next one has the rest again.
    counted: Option<u64>,
}

impl Looks {
    /// Looks ahead of a plan that begins with `range`, in an answer that begins at `begin` of that
    /// file. An answer that `is_wide` has so many files that no others are forgotten for them.
    pub(crate) fn ahead_of(
        &mut self,
        range: &FileRange,
        begin: u64,
        approach: Approach,
        sight: Sight,
        is_wide: bool,
    ) -> Foreseen {
        let Some(look) = self.of(range, begin, is_wide) else {
            let cold_bytes = missing_now(range, range.position, sight);
            return Foreseen { cold_bytes, ..Foreseen::default() };
        };
        look.steps += u32::from(approach == Approach::GoesOn && look.begin != begin);
        look.begin = begin;
        let (far_bytes, near_bytes) = distances(sight, approach);
        let file_bytes = range.file.metadata().map_or(0, |metadata| metadata.len());
        if look.until < file_bytes.min(range.position + near_bytes) {
            look.look_until(file_bytes.min(range.position + far_bytes), sight);
        }
        let from = look.counted.unwrap_or(begin).max(range.position);
        let cold_bytes = look.count(from..range.end()).max(missing_now(range, from, sight));
        look.counted = Some(range.end().max(from));
        let is_scan = look.steps >= STEPS_MIN;
        let brought = if is_scan { look.own(range.end() + NEAR_BYTES) } else { Vec::new() };
        Foreseen { cold_bytes, brought }
    }

    /// An answer with the range has been sent. Returns how many of its bytes were missing and have
    /// not been counted before.
    pub(crate) fn pass(&mut self, range: &FileRange) -> u64 {
        let look = self.0.iter_mut().find(|look| look.is_of(range));
        look.map_or(0, |look| {
            let from = look.counted.take().unwrap_or(range.position).max(range.position);
            look.count(from..range.end())
        })
    }

    /// How many bytes of the range were missing and have not been counted.
    pub(crate) fn missing_bytes(&self, range: &FileRange) -> u64 {
        let look = self.0.iter().find(|look| look.is_of(range));
        look.map_or(0, |look| bytes_in(&look.missing, &(range.position..range.end())))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&mut self, range: &FileRange, begin: u64, is_wide: bool) -> Option<&mut Look> {
        let place = match self.0.iter().position(|look| look.is_of(range)) {
            Some(place) => place,
            None if is_wide && self.0.len() == FILES_MAX => return None,
            None => {
                if self.0.len() == FILES_MAX {
                    self.0.remove(0);
                }
                self.0.push(Look::at(range, begin));
                self.0.len() - 1
            }
        };
        let look = &mut self.0[place];
        if !(look.begin..=look.until).contains(&range.position) {
            *look = Look::at(range, begin);
        }
        Some(look)
    }
}

impl Look {
    fn at(range: &FileRange, begin: u64) -> Look {
        let (file, until) = (Arc::downgrade(&range.file), range.position);
        let until = until - until % PAGE_BYTES;
        let (missing, unowned) = Default::default();
        Look { file, begin, steps: 0, until, missing, unowned, counted: None }
    }

    fn is_of(&self, range: &FileRange) -> bool {
        std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(&range.file))
    }

    fn look_until(&mut self, until: u64, sight: Sight) {
        let Some(file) = self.file.upgrade() else { return };
        let room = STRETCHES_MAX.saturating_sub(self.missing.len());
        let mut search = Search { file: &file, sight, calls: CALLS_MAX, room, found: Vec::new() };
        let until = until.next_multiple_of(PAGE_BYTES);
        self.until = search.search(self.until..until, PIECE_BYTES);
        for stretch in search.found {
            append(&mut self.missing, stretch.clone());
            if self.unowned.len() < STRETCHES_MAX {
                append(&mut self.unowned, stretch);
            }
        }
    }

    /// Counts what was missing in the part, and forgets what was up to its end.
    fn count(&mut self, part: Range<u64>) -> u64 {
        let bytes = bytes_in(&self.missing, &part);
        take_before(&mut self.missing, part.end);
        bytes
    }

    /// What lies before `end` becomes the scan's own.
    fn own(&mut self, end: u64) -> Vec<Range<u64>> {
        take_before(&mut self.unowned, end)
    }
}

/// One look for missing pages.
struct Search<'a> {
    file: &'a File,
    sight: Sight,
    /// Calls of the kernel that it may still make.
    calls: u32,
    /// Stretches that it may find.
    room: usize,
    found: Vec<Range<u64>>,
}

impl Search<'_> {
    /// Looks at pieces of `piece_bytes`, at smaller ones where a piece is there in part. Returns
    /// how far it came.
    fn search(&mut self, range: Range<u64>, piece_bytes: u64) -> u64 {
        for start in range.clone().step_by(piece_bytes as usize) {
            if self.calls == 0 || self.found.len() >= self.room {
                return start;
            }
            self.calls -= 1;
            let piece = start..range.end.min(start + piece_bytes);
            match missing_in(self.file, &piece, self.sight) {
                0 => {}
                missing_bytes if missing_bytes < len(&piece) => {
                    let end = piece.end;
                    let smaller = (piece_bytes / PIECES).max(PAGE_BYTES);
                    let reached = self.search(piece, smaller);
                    if reached < end {
                        return reached;
                    }
                }
                _ => append(&mut self.found, piece),
            }
        }
        range.end
    }
}

/// Bytes of a range from `from` on that are not in memory now.
fn missing_now(range: &FileRange, from: u64, sight: Sight) -> u64 {
    let part = from..range.end();
    let pages = from - from % PAGE_BYTES..range.end().next_multiple_of(PAGE_BYTES);
    if part.is_empty() { 0 } else { missing_in(&range.file, &pages, sight).min(len(&part)) }
}

/// Bytes of whole pages that are not in memory; none where the kernel does not answer, all where
/// nothing shows them.
fn missing_in(file: &File, pages: &Range<u64>, sight: Sight) -> u64 {
    let all = len(pages);
    match sight {
        Sight::Blind => all,
        _ => {
            let resident = sight.resident_pages(file, pages.start, all);
            resident.map_or(0, |resident| all.saturating_sub(resident * PAGE_BYTES))
        }
    }
}

fn append(stretches: &mut Vec<Range<u64>>, stretch: Range<u64>) {
    match stretches.last_mut() {
        Some(last) if last.end == stretch.start => last.end = stretch.end,
        _ => stretches.push(stretch),
    }
}

/// Takes what lies before `end` out of stretches in their order.
fn take_before(stretches: &mut Vec<Range<u64>>, end: u64) -> Vec<Range<u64>> {
    let mut before: Vec<_> = stretches.extract_if(.., |stretch| stretch.start < end).collect();
    if let Some(last) = before.last_mut().filter(|last| last.end > end) {
        stretches.insert(0, end..last.end);
        last.end = end;
    }
    before
}

fn bytes_in(stretches: &[Range<u64>], part: &Range<u64>) -> u64 {
    let both = |stretch: &Range<u64>| stretch.start.max(part.start)..stretch.end.min(part.end);
    stretches.iter().map(both).map(|both| len(&both)).sum()
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
                looks.ahead_of(&at(&file, position), position, approach, sight, false).brought
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
            let range = at(&file, begin + sent_bytes);
            looks.ahead_of(&range, begin, approach, Sight::Cachestat, false).brought
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
    fn what_was_missing_counts_once_when_it_is_planned_or_passed() {
        let file = file(12 * MIB, Some(MIB..2 * MIB));
        let mut looks = Looks::default();
        let mut send = |begin: u64, len_bytes, approach, is_planned: bool| {
            let range = FileRange { file: Arc::clone(&file), position: begin, len_bytes };
            let foreseen = looks.missing_bytes(&range);
            let mut counted = 0;
            for _ in 0..2 * u32::from(is_planned) {
                // The socket took nothing of the first plan.
                let sight = Sight::Cachestat;
                counted += looks.ahead_of(&range, begin, approach, sight, false).cold_bytes;
            }
            let mut bytes = vec![0; 12 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            counted += looks.pass(&range);
            assert_eq!(looks.missing_bytes(&range), 0);
            (foreseen, counted)
        };
        let begins = send(PAGE_BYTES, MIB, Approach::Begins, true);
        assert_eq!(begins, (0, MIB - PAGE_BYTES), "the last page was in memory");
        assert_eq!(
            send(MIB + PAGE_BYTES, 2 * MIB, Approach::GoesOn, true),
            (MIB + PAGE_BYTES, MIB + PAGE_BYTES)
        );
        let cut = send(3 * MIB, MIB, Approach::GoesOn, false);
        assert_eq!(
            cut,
            (MIB - PAGE_BYTES, MIB - PAGE_BYTES),
            "a batch that was cut, in memory by then"
        );
        assert_eq!(send(4 * MIB, 5 * MIB, Approach::GoesOn, true), (5 * MIB, 5 * MIB));
        assert_eq!(send(4 * MIB, 5 * MIB, Approach::Jumps, true), (0, 0), "now it is in memory");
        while sys::cached_pages(&file, 0, 0).unwrap() > 0 {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        let again = send(4 * MIB, 5 * MIB, Approach::Jumps, true);
        assert_eq!(again, (0, 5 * MIB), "it had been dropped");
    }

    #[test]
    fn a_file_with_holes_in_memory_everywhere_takes_bounded_memory_and_time() {
        let file = file(4 * MIB, None);
        for page in (0..MIB / PAGE_BYTES).step_by(2) {
            file.read_exact_at(&mut [0], page * PAGE_BYTES).unwrap();
        }
        let (mut found, mut reached, mut looks) = (Vec::new(), 0, 0);
        while reached < 4 * MIB {
            let mut search =
                Search { file: &file, sight: Sight::Cachestat, calls: 100, room: 50, found };
            search.found.clear();
            reached = search.search(reached..4 * MIB, PIECE_BYTES);
            assert!(search.found.len() <= 50);
            found = search.found;
            looks += 1;
        }
        assert!(looks >= 3, "{looks}");
        assert_eq!(found.last().unwrap().end, 4 * MIB, "the next look goes on");
    }

    #[test]
    fn a_connection_looks_ahead_in_a_bounded_number_of_files_and_counts_in_all() {
        for is_wide in [false, true] {
            let mut looks = Looks::default();
            for _ in 0..2 * FILES_MAX {
                let file = Arc::new(tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap());
                file.set_len(MIB).unwrap();
                let (range, sight) = (at(&file, 0), Sight::Cachestat);
                let foreseen = looks.ahead_of(&range, 0, Approach::Begins, sight, is_wide);
                assert_eq!(foreseen.cold_bytes, MIB);
            }
            assert_eq!(looks.0.len(), FILES_MAX);
        }
    }
}
