//! A write of index entries or leader epochs that the log has decided on. The caller runs it where
//! it may block.

use std::io;

use crate::{checkpoint::leader_epochs::EpochsFlush, segment::index_file::EntriesFlush};

/// Index entries, or leader epochs, on their way into their file. Dropping it loses nothing: the
/// next call of `Log::unflushed_indexes` returns them again.
#[derive(Debug)]
pub struct IndexFlush(Job);

#[derive(Debug)]
enum Job {
    Entries(EntriesFlush),
    Epochs(EpochsFlush),
}

impl IndexFlush {
    pub(crate) fn entries(flush: EntriesFlush) -> IndexFlush {
        IndexFlush(Job::Entries(flush))
    }

    pub(crate) fn epochs(flush: EpochsFlush) -> IndexFlush {
        IndexFlush(Job::Epochs(flush))
    }

    /// Blocks. After an error the file lacks entries, which a later flush or the next start adds.
    pub fn write(&self) -> io::Result<()> {
        match &self.0 {
            Job::Entries(flush) => flush.write(),
            Job::Epochs(flush) => flush.write(),
        }
    }

    /// Makes the written bytes survive a power cut. Blocks.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match &self.0 {
            Job::Entries(flush) => flush.sync(),
            Job::Epochs(flush) => flush.sync(),
        }
    }
}
