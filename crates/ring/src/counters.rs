//! The counters of a ring. Its worker thread writes them; any thread may read them for metrics.
//!
//! They are relaxed atomics: each number is right by itself, and no order between two of them is
//! promised.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number that rises, or rises and falls.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Relaxed);
    }
}

/// All counters of one ring.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls of `io_uring_enter`.
    pub enters: Counter,
    /// Entries those calls carried: `submitted / enters` is the batch size.
    pub submitted: Counter,
    /// Completions reaped.
    pub completions: Counter,
    /// Completions that belong to no entry of the slab: zero unless there is a bug.
    pub stale_completions: Counter,
    /// Plans submitted as linked operations.
    pub chains: Counter,
    /// Fills of a pipe that moved bytes.
    pub hops: Counter,
    /// Drains that moved less than requested, because the socket was full in the middle of a hop.
    pub short_hops: Counter,
    /// Waits for a full socket.
    pub poll_outs: Counter,
    /// Transfers with the path chain that went by sendfile, because there is no io_uring.
    pub chains_by_sendfile: Counter,
    /// Operations and chains for which there was no kernel worker, memory or pipe. They took
    /// another path.
    pub refused: Counter,
    /// Pipes closed because bytes were left in them.
    pub residues: Counter,
    /// Pipes given up, with the bytes in them, by transfers whose peer does not read.
    pub surrenders: Counter,
    /// Pipes open now.
    pub pipes_open: Counter,
    /// Pipes that transfers hold now.
    pub pipes_leased: Counter,
    /// Transfers that had to wait for a pipe.
    pub pipe_waits: Counter,
    /// Chains that had to wait for other chains that wait for a disk.
    pub cold_waits: Counter,
    /// Turns that copied because peers already held all the pages they may.
    pub copies_for_memory: Counter,
    /// Operations whose future was dropped while the kernel still owned their resources.
    pub orphans: Counter,
    /// Bytes of file pieces sent by linked splices.
    pub chain_bytes: Counter,
    /// Bytes of file pieces sent by sendfile.
    pub sendfile_bytes: Counter,
    /// Bytes of file pieces sent through user space.
    pub copy_bytes: Counter,
    /// Bytes of byte pieces (headers and trailers) sent by any path.
    pub header_bytes: Counter,
}
