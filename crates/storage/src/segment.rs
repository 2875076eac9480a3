//! One segment: a file of batches and the two indexes that lead into it.
//!
//! ```text
//!   00000000000000000170.log         batch 170..174 │ batch 175..175 │ batch 176..203 │ …
//!                       .index            └ every 4 KiB or so: (last offset, position)
//!                       .timeindex        └ beside it: (greatest timestamp so far, its offset)
//! ```
//!
//! `SegmentFiles` is shared with look-ups and never changes. `Segment` adds the log's knowledge of
//! it. `Indexer` makes index entries; the active segment has one. A `.log` keeps its descriptor
//! open.

pub(crate) mod age;
pub(crate) mod age_read;
pub(crate) mod batch_place;
pub(crate) mod begin;
pub(crate) mod index_entry;
pub(crate) mod index_file;
pub(crate) mod listing;
pub(crate) mod old_format;
pub(crate) mod quiet_file;
pub(crate) mod reader;
mod resync;
pub(crate) mod scan;
mod window;

use std::{io, sync::Arc};

use crate::{
    damage::DamagedRanges,
    disk::{Directory, DiskFile, sync_error, write_again},
    segment::{
        age::SegmentAge,
        batch_place::BatchPlace,
        index_entry::{Entry, OffsetEntry, TimeEntry},
        index_file::{EntriesFlush, IndexFile, IndexTail},
        listing::segment_file,
    },
    units::{Offset, Position},
};

/// The largest segment: positions in the index must be positive as Java's int.
pub(crate) const MAX_SEGMENT_BYTES: u64 = i32::MAX as u64;

/// The files of a segment, which never change for it.
#[derive(Debug)]
pub(crate) struct SegmentFiles {
    pub(crate) base: Offset,
    pub(crate) log: Box<dyn DiskFile>,
    pub(crate) offsets: Arc<IndexFile<OffsetEntry>>,
    pub(crate) times: Arc<IndexFile<TimeEntry>>,
}

impl SegmentFiles {
    /// Opens the log of an existing segment. Blocks.
    pub(crate) fn open(dir: &Arc<Directory>, base: Offset) -> io::Result<SegmentFiles> {
        let log = dir.disk().open(&segment_file(dir, base, "log"))?;
        Ok(SegmentFiles::new(dir, base, log))
    }

    /// Makes the files of an empty segment. The log is made last, so that a log that exists has
    /// indexes. May be tried again. Blocks.
    pub(crate) fn create(dir: &Arc<Directory>, base: Offset) -> io::Result<SegmentFiles> {
        IndexFile::<OffsetEntry>::new(dir.clone(), base).create()?;
        IndexFile::<TimeEntry>::new(dir.clone(), base).create()?;
        let log = dir.disk().create(&segment_file(dir, base, "log"))?;
        if log.len_bytes()? > 0 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        dir.sync()?;
        Ok(SegmentFiles::new(dir, base, log))
    }

    fn new(dir: &Arc<Directory>, base: Offset, log: Box<dyn DiskFile>) -> SegmentFiles {
        let offsets = Arc::new(IndexFile::new(dir.clone(), base));
        let times = Arc::new(IndexFile::new(dir.clone(), base));
        SegmentFiles { base, log, offsets, times }
    }

    /// Makes all files survive a power cut. Blocks. A missing index is no error: it has expired. A
    /// shortage may keep an index from being opened (`is_shortage`). Any other error means that a
    /// sync failed.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.log.sync_data().map_err(sync_error)?;
        self.offsets.sync()?;
        self.times.sync()
    }

    /// Writes the first bytes of the log, and the indexes, once more. Committed bytes never change,
    /// so no reader notices. Blocks.
    pub(crate) fn write_again(&self, len_bytes: u64) -> io::Result<()> {
        write_again(&*self.log, len_bytes)?;
        self.offsets.write_again()?;
        self.times.write_again()
    }

    /// `None` when the offset lies before the segment or too far behind its base.
    pub(crate) fn relative(&self, offset: Offset) -> Option<u32> {
        let relative = u32::try_from(offset.0.checked_sub(self.base.0)?).ok()?;
        (relative <= i32::MAX as u32).then_some(relative)
    }

    pub(crate) fn absolute(&self, relative_offset: u32) -> Offset {
        Offset(self.base.0.saturating_add(relative_offset.into()))
    }
}

/// A segment as the log knows it.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) files: Arc<SegmentFiles>,
    /// Bytes that readers may see.
    pub(crate) size_bytes: u64,
    /// The greatest timestamp that headers claim, once it is known. A start does not read every
    /// time index for it.
    pub(crate) newest: Option<TimeEntry>,
    /// How old the segment is.
    pub(crate) age: SegmentAge,
    /// The ranges that are not served.
    pub(crate) damage: DamagedRanges,
}

impl Segment {
    pub(crate) fn base(&self) -> Offset {
        self.files.base
    }

    /// Whether it has bytes that are not damaged.
    pub(crate) fn may_hold_batches(&self) -> bool {
        let damaged_bytes = self.damage.all().iter().map(|range| range.len_bytes).sum::<u64>();
        damaged_bytes < self.size_bytes
    }

    pub(crate) fn view(&self, sealed: bool) -> SegmentView {
        let (files, damage) = (self.files.clone(), self.damage.clone());
        SegmentView { files, committed_bytes: self.size_bytes, sealed, damage }
    }
}

/// A segment as a look-up sees it: an owned snapshot.
#[derive(Clone, Debug)]
pub(crate) struct SegmentView {
    pub(crate) files: Arc<SegmentFiles>,
    pub(crate) committed_bytes: u64,
    pub(crate) sealed: bool,
    pub(crate) damage: DamagedRanges,
}

impl SegmentView {
    /// The place up to which an answer that begins at `position` may reach.
    pub(crate) fn sound_bytes(&self, position: Position) -> u64 {
        self.damage.sound_until(position, Position(self.committed_bytes)).0
    }
}

/// Makes index entries from batches, in an append, a recovery or a rebuild.
#[derive(Debug)]
pub(crate) struct Indexer {
    files: Arc<SegmentFiles>,
    pub(crate) offsets: IndexTail<OffsetEntry>,
    pub(crate) times: IndexTail<TimeEntry>,
    /// The greatest timestamp so far and the last offset of its batch.
    pub(crate) newest: Option<TimeEntry>,
    bytes_since_entry: u64,
}

impl Indexer {
    /// The indexer of a segment without entries.
    pub(crate) fn empty(files: &Arc<SegmentFiles>) -> Indexer {
        Indexer::resume(files, (0, None), (0, None))
    }

    /// The indexer of a segment whose index files hold so many bytes and end with these entries.
    /// The next batch noted must be the one that the last offset entry points to.
    pub(crate) fn resume(
        files: &Arc<SegmentFiles>,
        offsets: (u64, Option<OffsetEntry>),
        times: (u64, Option<TimeEntry>),
    ) -> Indexer {
        Indexer {
            files: files.clone(),
            offsets: IndexTail::new(files.offsets.clone(), offsets.0, offsets.1),
            times: IndexTail::new(files.times.clone(), times.0, times.1),
            newest: times.1,
            bytes_since_entry: 0,
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.files.base
    }

    /// Adds the last time entry. No batch is noted afterwards.
    pub(crate) fn seal(&mut self) {
        if let Some(entry) = self.due_time_entry() {
            self.times.push(entry);
        }
    }

    /// Makes both files hold the entries already flushed, the pending ones and a last time entry,
    /// and no more. Nothing is written to a file that holds them already. After an error the next
    /// flush completes the files. Blocks.
    pub(crate) fn complete(&self) -> io::Result<()> {
        let offsets = self.offsets.complete(None);
        offsets.and(self.times.complete(self.due_time_entry()))
    }

    /// Removes the files that `complete` has left incomplete. A start would believe them if they
    /// have entries. Blocks.
    pub(crate) fn remove_stale(&self) -> io::Result<()> {
        self.offsets.remove_stale()?;
        self.times.remove_stale()
    }

    /// Whether both files end behind the entries that count as flushed. Blocks.
    pub(crate) fn is_whole(&self) -> io::Result<bool> {
        Ok(self.offsets.is_whole()? && self.times.is_whole()?)
    }

    /// Takes a batch. By Kafka's rule it gets an entry if more than `interval_bytes` lie between it
    /// and the last one.
    pub(crate) fn note(&mut self, batch: &BatchPlace, interval_bytes: u64) {
        let relative_offset = self.files.relative(batch.last);
        let relative_offset = relative_offset.expect("a batch out of range makes the segment roll");
        if batch.max_timestamp_ms > self.newest.map_or(-1, |newest| newest.timestamp_ms) {
            let timestamp_ms = batch.max_timestamp_ms;
            self.newest = Some(TimeEntry { timestamp_ms, relative_offset });
        }
        if self.bytes_since_entry > interval_bytes {
            let position = u32::try_from(batch.position.0).expect("segments stay below 2 GiB");
            self.offsets.push(OffsetEntry { relative_offset, position });
            if let Some(entry) = self.due_time_entry() {
                self.times.push(entry);
            }
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += batch.len_bytes;
    }

    /// The flushes that complete the index files: all pending entries, and a last time entry.
    pub(crate) fn finish(&self) -> impl Iterator<Item = EntriesFlush> + use<> {
        self.offsets.flush(None).into_iter().chain(self.times.flush(self.due_time_entry()))
    }

    /// The contents that both index files should have, if batches were noted from the segment's
    /// start.
    pub(crate) fn encoded(&self) -> [Vec<u8>; 2] {
        [self.offsets.encoded(None), self.times.encoded(self.due_time_entry())]
    }

    /// The flushes that bring the index files up to date.
    pub(crate) fn flush(&mut self) -> impl Iterator<Item = EntriesFlush> + use<> {
        self.forget_flushed();
        self.offsets.flush(None).into_iter().chain(self.times.flush(None))
    }

    /// Drops entries that flushes have written.
    pub(crate) fn forget_flushed(&mut self) {
        self.offsets.forget_flushed();
        self.times.forget_flushed();
    }

    /// Whether an index has no room for another entry.
    pub(crate) fn is_full(&self, max_bytes: u64) -> bool {
        let full = |len_bytes, entry: usize| len_bytes + entry as u64 > max_bytes;
        full(self.offsets.len_bytes(), OffsetEntry::LEN)
            || full(self.times.len_bytes(), TimeEntry::LEN)
    }

    /// The time entry to add. Time entries ascend, so there is one only if time has advanced since
    /// the last.
    fn due_time_entry(&self) -> Option<TimeEntry> {
        let last_ms = self.times.last().map(|last| last.timestamp_ms);
        self.newest.filter(|newest| last_ms.is_none_or(|last_ms| newest.timestamp_ms > last_ms))
    }
}
