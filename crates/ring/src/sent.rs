//! What one transfer did: the answer of [`Ring::transfer`](crate::Ring::transfer).
//!
//! Plain numbers of the file pieces, filled by perform.rs as plans complete. Counters.rs has the
//! same numbers for a whole ring; these are for the one who asked.

use std::time::Duration;

/// Bytes of file pieces, by path, and what came from the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes sent by linked splices.
    pub chain_bytes: u64,
    /// Bytes sent by sendfile.
    pub sendfile_bytes: u64,
    /// Bytes sent through user space.
    pub copy_bytes: u64,
    /// Of all these, bytes that were not in the page cache when the disk was asked for them. A
    /// range of which any page was missing counts whole. A path fixed to chain or sendfile never
    /// looks, so there it is 0.
    pub cold_bytes: u64,
    /// How long plans waited for the disk, each from its start, with its wait for a place among
    /// cold chains, to its completion.
    pub disk_wait: Duration,
}

impl Sent {
    /// Bytes sent by all paths.
    pub fn file_bytes(&self) -> u64 {
        self.chain_bytes + self.sendfile_bytes + self.copy_bytes
    }
}
