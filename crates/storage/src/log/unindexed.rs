//! Index entries that a log has in memory: entries of the active segment that no flush has written
//! yet, and all entries of sealed segments whose index files found no room at start.
//!
//! ```text
//!   [ sealed ][ sealed, index files found no room ][ sealed ] … [ active ]
//!                └ unindexed: all entries                          └ indexer: those since the last flush
//! ```
//!
//! Both are searched beside the files, and written by the same flushes.

use crate::{
    log::{Log, index_flush::IndexFlush},
    segment::{Indexer, Segment, index_file::EntriesFlush},
};

impl Log {
    /// The jobs that bring the index files up to date. Run one at a time; their order does not
    /// matter.
    pub fn unflushed_indexes(&mut self) -> Vec<IndexFlush> {
        self.forget_indexed();
        let entries = self.active.indexer.flush();
        self.with_those_of_others(entries)
    }

    /// The jobs that complete all indexes.
    pub(crate) fn finish_indexes(&mut self) -> Vec<IndexFlush> {
        self.forget_indexed();
        let entries = self.active.indexer.finish();
        self.with_those_of_others(entries)
    }

    fn with_those_of_others(&self, entries: impl Iterator<Item = EntriesFlush>) -> Vec<IndexFlush> {
        let sealed = self.unindexed.iter().flat_map(Indexer::finish);
        let entries = sealed.chain(entries).map(IndexFlush::entries);
        entries.chain(self.epochs.flush().map(IndexFlush::epochs)).collect()
    }

    /// Drops entries that flushes have written: look-ups find them in the files.
    fn forget_indexed(&mut self) {
        self.unindexed.iter_mut().for_each(Indexer::forget_flushed);
        self.unindexed.retain(|indexer| indexer.finish().next().is_some());
    }

    /// The index entries of a segment that are in memory.
    pub(crate) fn indexer_of(&self, segment: &Segment, sealed: bool) -> Option<&Indexer> {
        let mut unindexed = self.unindexed.iter();
        match sealed {
            true => unindexed.find(|indexer| indexer.base() == segment.base()),
            false => Some(&self.active.indexer),
        }
    }
}
