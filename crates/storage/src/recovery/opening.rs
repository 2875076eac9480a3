//! The state of a log that is being opened, and the steps that recovery.rs and prove.rs share.
//! Blocks.

use std::{path::PathBuf, sync::Arc};

use crate::{
    checkpoint::leader_epochs::Epochs,
    damage::{self, Damage, DamagedRanges},
    disk::{Directory, is_no_room},
    error::LogError,
    find::recent::RecentBatches,
    log_config::LogConfig,
    recovery::summary::Recovery,
    segment::{
        Indexer, MAX_SEGMENT_BYTES, Segment, SegmentFiles,
        index_entry::{Entry, OffsetEntry},
        listing::{LOG, segment_file},
    },
    units::{Offset, Position},
};

/// A log while it is being opened.
pub(crate) struct Opening<'a> {
    pub(crate) dir: &'a Arc<Directory>,
    pub(crate) config: &'a LogConfig,
    /// The files are believed below it.
    pub(crate) proven: Offset,
    /// The recovery point that was written, believed or not. The log once reached up to it.
    pub(crate) written: Offset,
    pub(crate) epochs: Epochs,
    pub(crate) recent: RecentBatches,
    pub(crate) recovery: &'a mut Recovery,
    /// The ranges in the damage file.
    pub(crate) known: Vec<Damage>,
    /// Writes that found no room, to be done later.
    pub(crate) left: Left,
}

/// Writes of an opening that found no room.
#[derive(Default)]
pub(crate) struct Left {
    /// The last segment's file could not be cut at the log end.
    pub(crate) is_torn: bool,
    pub(crate) has_unkept_damage: bool,
    pub(crate) unindexed: Vec<Indexer>,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(
        dir: &'a Arc<Directory>,
        config: &'a LogConfig,
        proven: Offset,
        written: Offset,
        recovery: &'a mut Recovery,
    ) -> Result<Opening<'a>, LogError> {
        (recovery.damaged_ranges, recovery.damaged_bytes) = (0, 0);
        recovery.missing_offsets = 0;
        let known = damage::read(dir).map_err(LogError::io(dir))?;
        let (epochs, recent) = (Epochs::open(dir), RecentBatches::default());
        let left = Left::default();
        Ok(Opening { dir, config, proven, written, epochs, recent, recovery, known, left })
    }

    /// Completes both index files, unless they are complete. Returns whether there was room.
    /// Without room the entries stay in memory until a flush finds some.
    pub(crate) fn complete_indexes(&mut self, indexer: &Indexer) -> Result<bool, LogError> {
        let io = || self.io(indexer.base(), OffsetEntry::SUFFIX);
        match indexer.complete() {
            Err(error) if is_no_room(&error) => {
                tracing::warn!(
                    dir = %self.dir.display(), segment = indexer.base().0, %error,
                    "cannot write index entries; they stay in memory"
                );
                Ok(false)
            }
            completed => {
                completed.map_err(io())?;
                self.recovery.indexes_rebuilt += 1;
                Ok(true)
            }
        }
    }

    /// Like `complete_indexes`, for a segment that others follow.
    pub(crate) fn complete_sealed(&mut self, mut indexer: Indexer) -> Result<bool, LogError> {
        indexer.seal();
        let is_complete = self.complete_indexes(&indexer)?;
        if !is_complete {
            self.left.unindexed.push(indexer);
        }
        Ok(is_complete)
    }

    /// The ranges of a segment in the damage file, as far as they are possible: below the point,
    /// and within the segment.
    pub(crate) fn known_damage(&self, base: Offset, size_bytes: u64) -> DamagedRanges {
        let mut ranges = DamagedRanges::default();
        let here = |range: &&Damage| {
            range.segment == base
                && range.first < self.proven
                && range.end_position().0 <= size_bytes
        };
        self.known.iter().filter(here).for_each(|range| ranges.add(*range));
        ranges
    }

    pub(crate) fn add_damage(&mut self, ranges: &mut DamagedRanges, found: Damage) {
        let Damage { segment, position, len_bytes, first, end } = found;
        tracing::error!(
            dir = %self.dir.display(), segment = segment.0, position = position.0, len_bytes,
            first_offset = first.0, end_offset = end.0,
            "a damaged range is not served; the batches before and behind it are"
        );
        self.recovery.damaged_ranges += 1;
        self.recovery.damaged_bytes += len_bytes;
        ranges.add(found);
    }

    /// Adds the unsound end of a segment that others follow as damage.
    pub(crate) fn add_tail(
        &mut self,
        segment: &mut Segment,
        position: Position,
        first: Offset,
        next: Offset,
    ) {
        let len_bytes = segment.size_bytes - position.0;
        if len_bytes > 0 {
            let segment_base = segment.base();
            let tail = Damage { segment: segment_base, position, len_bytes, first, end: next };
            self.add_damage(&mut segment.damage, tail);
        }
    }

    pub(crate) fn files(&self, base: Offset) -> Result<(Arc<SegmentFiles>, u64), LogError> {
        let files = SegmentFiles::open(self.dir, base).map_err(self.io(base, LOG))?;
        let size_bytes = files.log.len_bytes().map_err(self.io(base, LOG))?;
        if size_bytes > MAX_SEGMENT_BYTES {
            let what = format!("{size_bytes} bytes; a segment has at most {MAX_SEGMENT_BYTES}");
            return Err(LogError::Metadata { path: self.path(base, LOG), what });
        }
        Ok((Arc::new(files), size_bytes))
    }

    pub(crate) fn path(&self, base: Offset, suffix: &str) -> PathBuf {
        segment_file(self.dir, base, suffix)
    }

    pub(crate) fn io(
        &self,
        base: Offset,
        suffix: &str,
    ) -> impl FnOnce(std::io::Error) -> LogError + use<> {
        let path = self.path(base, suffix);
        move |source| LogError::Io { path, source }
    }
}
