//! A segment as look-ups by time see it: an owned snapshot of it.

use std::io;

use crate::{
    find::step::FindError,
    segment::{
        Indexer, SegmentView,
        batch_place::HeaderWalk,
        index_entry::{OffsetEntry, TimeEntry},
    },
    units::Position,
};

/// A segment and what is known of its timestamps.
#[derive(Clone, Debug)]
pub(crate) struct TimestampSource {
    pub(crate) view: SegmentView,
    /// The greatest timestamp, if it is known.
    pub(crate) newest: Option<TimeEntry>,
    /// An entry in memory to begin at, and an offset entry that leads to its place.
    pub(crate) mark: Option<(TimeEntry, Option<OffsetEntry>)>,
    /// How much of the index files may be searched.
    pub(crate) times_bytes: u64,
    pub(crate) offsets_bytes: u64,
}

impl TimestampSource {
    pub(crate) fn of_files(view: SegmentView, newest: Option<TimeEntry>) -> TimestampSource {
        let (times_bytes, offsets_bytes) = (u64::MAX, u64::MAX);
        TimestampSource { view, newest, mark: None, times_bytes, offsets_bytes }
    }

    /// Adds the segment's index entries that the log has in memory.
    pub(crate) fn know(&mut self, indexer: &Indexer, mark: Option<TimeEntry>) {
        self.newest = indexer.newest;
        self.times_bytes = indexer.times.searchable_bytes();
        self.offsets_bytes = indexer.offsets.searchable_bytes();
        self.mark = mark.map(|mark| {
            let beyond = |entry: OffsetEntry| entry.relative_offset > mark.relative_offset;
            (mark, indexer.offsets.find_pending(beyond).floor)
        });
    }

    pub(crate) fn io(&self) -> impl FnOnce(io::Error) -> FindError {
        let segment = self.view.files.base;
        move |source| FindError::Io { segment, source }
    }

    pub(crate) fn walk_from(&self, position: Position) -> HeaderWalk {
        let end = Position(self.view.committed_bytes);
        HeaderWalk::new(self.view.files.base, position, end).over(&self.view.damage)
    }
}
