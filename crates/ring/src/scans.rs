//! What scans bring into the page cache, and who is still to read it, so that a scan leaves no
//! trace.
//!
//! ```text
//!   look ahead of a cold plan ─► bring ─┐                        ┌─► dropped, by the ring that asked
//!   an answer has gone ────────► pass ──┴─► FileScan (pure) ─────┤
//!   once a second ─────────────► sweep ─┘                        └─► dropped a second time
//! ```
//!
//! One table serves all rings of a process, because the readers of a range may be on any of them:
//! the last one drops it. perform.rs looks, brings and passes; the server sweeps. The table decides
//! and never advises the kernel itself. While no scan goes on, an answer costs one load.

mod file_scan;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::file_range::FileRange;
use crate::scans::file_scan::FileScan;

/// Files with scans that are remembered. What is brought of more files stays in the page cache.
const FILES_MAX: usize = 4096;

/// Between two sweeps.
const SWEEP_REST: Duration = Duration::from_secs(1);

/// The scans of a process.
#[derive(Debug, Default)]
pub struct Scans {
    table: Mutex<Table>,
    /// How many files the table has.
    files: AtomicUsize,
    readers: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// By the address of the file, which stays its own while the entry is here.
    files: HashMap<usize, Entry>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    /// Weak: a deleted file goes although its scan is not over.
    file: Weak<File>,
    scan: FileScan,
}

/// One reader, a connection. Dropping it ends its scans.
#[derive(Debug)]
pub(crate) struct Reader {
    scans: Arc<Scans>,
    id: u64,
}

impl Scans {
    /// Whether nothing is remembered, so that nothing needs to be reported.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.load(Ordering::Relaxed) == 0
    }

    /// A reader on its way from `position` has `stretches` of the file read from the disk.
    pub(crate) fn bring(
        &self,
        reader: &Reader,
        range: &FileRange,
        stretches: Vec<Range<u64>>,
        now: Instant,
    ) {
        let mut table = self.table();
        let key = key_of(&range.file);
        if table.files.len() >= FILES_MAX && !table.files.contains_key(&key) {
            return;
        }
        let entry = table.files.entry(key).or_insert_with(|| Entry {
            file: Arc::downgrade(&range.file),
            scan: FileScan::default(),
        });
        entry.scan.bring(stretches);
        entry.scan.move_to(reader.id, range.position, now);
        self.files.store(table.files.len(), Ordering::Relaxed);
    }

    /// A reader has been sent `ranges`, whoever brought them. Returns what is to be dropped from
    /// the page cache.
    pub(crate) fn pass(
        &self,
        reader: &Reader,
        ranges: impl Iterator<Item = FileRange>,
        now: Instant,
    ) -> Vec<FileRange> {
        // The file system may make an answer to fstat(2) wait, and others wait for the table.
        let is_at_end =
            |range: &FileRange| range.file.metadata().is_ok_and(|file| file.len() <= range.end());
        let ranges: SmallVec<[_; 4]> = ranges.map(|range| (is_at_end(&range), range)).collect();
        let mut dropped = Vec::new();
        let mut table = self.table();
        for (is_at_end, range) in &ranges {
            let Some(Entry { scan, .. }) = table.files.get_mut(&key_of(&range.file)) else {
                continue;
            };
            let least_bytes = if !is_at_end {
                scan.move_to(reader.id, range.end(), now);
                file_scan::STEP_BYTES
            } else if scan.leave(reader.id) {
                1
            } else {
                // It kept nothing, as who reads at the end of a log.
                continue;
            };
            let free = scan.take_droppable(least_bytes).into_iter();
            dropped.extend(free.map(|free| range_of(&range.file, free)));
        }
        dropped
    }

    /// Forgets readers that have stopped and files whose scans are over. Returns what is to be
    /// dropped from the page cache: what nobody is to read, and a second time what has been dropped
    /// a second ago. Most calls come too early and return nothing.
    pub(crate) fn sweep(&self, now: Instant) -> Vec<FileRange> {
        if self.is_empty() {
            return Vec::new();
        }
        // Declared before the table is locked, so closed after: the last holder closes a file.
        let mut files = Vec::new();
        let mut dropped = Vec::new();
        let mut table = self.table();
        if table.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_REST) {
            return dropped;
        }
        table.swept = Some(now);
        table.files.retain(|_, Entry { file, scan }| {
            let Some(file) = file.upgrade() else { return false };
            let ranges = scan.sweep(now).into_iter();
            dropped.extend(ranges.map(|dropped| range_of(&file, dropped)));
            files.push(file);
            !scan.is_over()
        });
        self.files.store(table.files.len(), Ordering::Relaxed);
        dropped
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    pub(crate) fn of(scans: &Arc<Scans>) -> Reader {
        let id = scans.readers.fetch_add(1, Ordering::Relaxed);
        Reader { scans: Arc::clone(scans), id }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.scans.is_empty() {
            for entry in self.scans.table().files.values_mut() {
                entry.scan.leave(self.id);
            }
        }
    }
}

fn key_of(file: &Arc<File>) -> usize {
    Arc::as_ptr(file) as usize
}

fn range_of(file: &Arc<File>, range: Range<u64>) -> FileRange {
    FileRange { file: Arc::clone(file), position: range.start, len_bytes: range.end - range.start }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(len_bytes: u64) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len_bytes).unwrap();
        Arc::new(file)
    }

    /// Brings all of the file up to `end`.
    fn bring(scans: &Scans, reader: &Reader, range: &FileRange, end: u64, now: Instant) {
        scans.bring(reader, range, std::iter::once(0..end).collect(), now);
    }

    fn bytes(ranges: &[FileRange]) -> u64 {
        ranges.iter().map(|range| range.len_bytes).sum()
    }

    #[test]
    fn a_file_that_is_read_to_its_end_is_dropped_at_once_and_again_and_then_forgotten() {
        let (scans, file, now) = (Arc::new(Scans::default()), file(8 * MIB), Instant::now());
        let reader = Reader::of(&scans);
        let all = range_of(&file, 0..8 * MIB);
        let pass = || scans.pass(&reader, std::iter::once(all.clone()), now);
        assert!(scans.is_empty() && pass().is_empty());
        bring(&scans, &reader, &all, 8 * MIB, now);
        assert_eq!(bytes(&pass()), 8 * MIB);
        let sweeps = (0..4).map(|second| bytes(&scans.sweep(now + SWEEP_REST * second)));
        assert_eq!(sweeps.collect::<Vec<_>>(), [0, 8 * MIB, 0, 0]);
        assert!(scans.is_empty());
    }

    #[test]
    fn who_reads_at_the_end_of_a_file_drops_nothing_of_its_scan_again() {
        let (scans, file, now) = (Arc::new(Scans::default()), file(200 * MIB), Instant::now());
        let (reader, tail) = (Reader::of(&scans), Reader::of(&scans));
        bring(&scans, &reader, &range_of(&file, 0..MIB), 150 * MIB, now);
        let pass = |reader, range| scans.pass(reader, std::iter::once(range_of(&file, range)), now);
        assert_eq!(bytes(&pass(&reader, 32 * MIB..33 * MIB)), (29 + 150 - 33 - 96) * MIB);
        for _ in 0..3 {
            assert_eq!(bytes(&pass(&tail, 199 * MIB..200 * MIB)), 0);
        }
    }

    #[test]
    fn a_reader_that_leaves_has_all_of_its_scan_dropped_by_the_next_sweep() {
        let (scans, file, now) = (Arc::new(Scans::default()), file(80 * MIB), Instant::now());
        let reader = Reader::of(&scans);
        bring(&scans, &reader, &range_of(&file, 0..MIB), 64 * MIB, now);
        assert_eq!(bytes(&scans.sweep(now)), 0, "it will go on");
        drop(reader);
        assert_eq!(bytes(&scans.sweep(now)), 0, "a second has not passed");
        assert_eq!(bytes(&scans.sweep(now + SWEEP_REST)), 64 * MIB);
    }

    #[test]
    fn a_deleted_file_and_more_files_than_there_is_room_for_are_forgotten() {
        let (scans, now) = (Arc::new(Scans::default()), Instant::now());
        let reader = Reader::of(&scans);
        let file = file(MIB);
        bring(&scans, &reader, &range_of(&file, 0..MIB), MIB, now);
        drop(file);
        assert!(scans.sweep(now).is_empty() && scans.is_empty());
        let fill = |n: usize| {
            let entry = Entry { file: Weak::new(), scan: FileScan::default() };
            scans.table().files.insert(n, entry);
        };
        (0..FILES_MAX).for_each(fill);
        bring(&scans, &reader, &range_of(&self::file(MIB), 0..MIB), MIB, now);
        assert_eq!(scans.table().files.len(), FILES_MAX);
    }
}
