//! The places of the latest batches, so that fetches at the end of the log need no look-up.

use std::{collections::VecDeque, ops::Range};

use crate::{
    segment::batch_place::BatchPlace,
    units::{Offset, Position},
};

/// Batches remembered for each partition: 32 bytes each, 64 KiB once a partition is busy, nothing
/// while it is idle.
const CAPACITY: usize = 2048;

/// One remembered batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecentBatch {
    pub(crate) base: Offset,
    pub(crate) last: Offset,
    pub(crate) position: Position,
    pub(crate) len_bytes: u64,
}

impl RecentBatch {
    fn end(&self) -> Position {
        Position(self.position.0 + self.len_bytes)
    }
}

impl From<&BatchPlace> for RecentBatch {
    fn from(batch: &BatchPlace) -> RecentBatch {
        let BatchPlace { base, last, position, len_bytes, .. } = *batch;
        RecentBatch { base, last, position, len_bytes }
    }
}

/// Appended batches in order of offset, the oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct RecentBatches {
    places: VecDeque<RecentBatch>,
}

impl RecentBatches {
    pub(crate) fn push(&mut self, batch: &BatchPlace) {
        if self.places.len() == CAPACITY {
            self.places.pop_front();
        }
        self.places.push_back(batch.into());
    }

    /// The batch that holds the offset. `None` also for offsets in gaps, which the files answer.
    pub(crate) fn find(&self, offset: Offset) -> Option<RecentBatch> {
        self.places.front().filter(|first| first.base <= offset)?;
        let batch = self.places.get(self.places.partition_point(|batch| batch.last < offset))?;
        (batch.base <= offset).then_some(*batch)
    }

    /// The last border of two batches up to `until`, in a segment by its offsets.
    pub(crate) fn border(&self, segment: Range<Offset>, until: Position) -> Option<Position> {
        self.places.back().filter(|last| last.base >= segment.start)?;
        let first = self.places.partition_point(|batch| batch.base < segment.start);
        let is_before = |batch: &RecentBatch| batch.base < segment.end && batch.end() <= until;
        match self.places.partition_point(|batch| batch.base < segment.start || is_before(batch)) {
            behind if behind > first => Some(self.places[behind - 1].end()),
            _ => {
                let first = self.places.get(first)?;
                (first.base < segment.end && first.position <= until).then_some(first.position)
            }
        }
    }
}
