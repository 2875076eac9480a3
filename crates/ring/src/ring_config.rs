//! The limits of a ring, each named with its unit and held against the others at compile time.
//!
//! The server fills a `RingConfig` from its own configuration. All other modules of the crate take
//! their numbers from here. Plain data: modules that do the work import it.

use std::sync::Arc;

use crate::pins::PageBudget;
use crate::scans::Scans;

/// The kernel counts a pipe's room in slots of one page each (KERNEL.md rows 5 and 6).
pub const PAGE_BYTES: u64 = 4096;

/// Submission queue entries. A full queue costs one more `io_uring_enter` and nothing else.
pub const DEFAULT_SUBMISSIONS: u32 = 1024;

/// Completion queue entries. The queue is larger than the submission queue because the polls and
/// receives of idle connections stay in flight. The kernel buffers completions beyond it in its own
/// memory.
pub const DEFAULT_COMPLETIONS: u32 = 8192;

/// Operations in one chain: two a hop, the header, the trailer and the wait for a full socket.
pub const CHAIN_OPERATIONS: usize = 16;

/// Bytes moved by one fill and one drain. 256 KiB was the fastest of 64 KiB to 1 MiB (KERNEL.md).
pub const DEFAULT_HOP_BYTES: u32 = 256 * 1024;

/// Page slots requested for a pipe: as many as an aligned hop needs.
pub const DEFAULT_PIPE_SLOTS: u32 = 64;

/// Pipes that one ring may have open. A user without CAP_SYS_RESOURCE has a budget of 16 384 pages,
/// which are 256 pipes of 64 slots. A pipe made beyond that budget has two slots and still works.
pub const DEFAULT_MAX_PIPES: usize = 256;

/// Empty pipes kept for the next transfer. More are closed.
pub const DEFAULT_IDLE_PIPES: usize = 64;

/// Bytes that one transfer sends from the event loop before others get their turn (sendfile and
/// copy).
pub const TURN_BYTES: u64 = 256 * 1024;

/// The buffer of a copying transfer: 64 KiB, and room for the header before them. An answer that
/// fits leaves in a single send. Larger buffers are slower (docs/EXPERIMENTS.md).
pub const STAGE_BYTES: usize = 64 * 1024 + PAGE_BYTES as usize;

/// Full buffers of copying transfers that may wait for peers. Beyond that a transfer drops the
/// bytes it has not sent and reads them again.
pub const MAX_PARKED_STAGES: usize = 16;

/// Under `Path::Auto` a remainder of at most this size is copied.
pub const COPY_MAX_BYTES: u64 = 16 * 1024;

/// Chains of one ring that may wait for a disk at once, each with a chain's worth of hops at most.
/// A disk is busy with fewer. Workers beyond these stay free, so the receives and polls that the
/// kernel punts never queue behind a scan.
pub const DEFAULT_COLD_CHAINS: usize = 16;

/// The same while the ring has hot readers, too.
pub const DEFAULT_COLD_CHAINS_BESIDE_HOT: usize = 4;

/// How far the disk reads ahead of a cold chain: as much as one chain of whole hops moves.
pub const READ_AHEAD_BYTES: u64 = CHAIN_OPERATIONS as u64 / 2 * DEFAULT_HOP_BYTES as u64;

/// io-wq threads for work on regular files (buffered reads that miss, writes, fdatasync). Idle ones
/// end. A disk does more syncs a second when it has many at once (docs/EXPERIMENTS.md).
pub const DEFAULT_BOUNDED_WORKERS: u32 = 32;

/// io-wq threads for everything else. Splices count here (KERNEL.md row 20), so this bounds the
/// page-cache misses that a ring waits for at once. No peer can hold one, because sockets never
/// block.
pub const DEFAULT_UNBOUNDED_WORKERS: u32 = 64;

const _: () = assert!(DEFAULT_SUBMISSIONS < DEFAULT_COMPLETIONS);
const _: () = assert!(CHAIN_OPERATIONS <= DEFAULT_SUBMISSIONS as usize);
const _: () = assert!(CHAIN_OPERATIONS <= u8::MAX as usize); // a position in a chain is one byte
const _: () = assert!(CHAIN_OPERATIONS >= 4); // poll, drain the residue, fill, drain
const _: () = assert!(DEFAULT_HOP_BYTES as u64 <= DEFAULT_PIPE_SLOTS as u64 * PAGE_BYTES);
const _: () = assert!(DEFAULT_IDLE_PIPES <= DEFAULT_MAX_PIPES);
const _: () = assert!(COPY_MAX_BYTES <= STAGE_BYTES as u64); // a copied answer leaves in one send
const _: () = assert!(DEFAULT_COLD_CHAINS < DEFAULT_UNBOUNDED_WORKERS as usize);
const _: () = assert!(DEFAULT_COLD_CHAINS < DEFAULT_MAX_PIPES / 2); // beside the parked half
const _: () = assert!(STAGE_BYTES as u64 <= TURN_BYTES);
const _: () = assert!(MAX_PARKED_STAGES > 0);
const _: () = assert!(DEFAULT_UNBOUNDED_WORKERS > 1); // one stalled disk read must not stop the rest

/// Which kernel interface to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Readiness and sendfile, as on a host that forbids io_uring.
    Epoll,
}

/// How a file system shows whether bytes of a file are in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// By cachestat(2), which counts pages, and a read that refuses to wait, which confirms the
    /// last page: ext4, XFS, btrfs.
    #[default]
    Cachestat,
    /// All bytes are in memory but those swapped out, which cachestat(2) does not count: tmpfs.
    Memory,
    /// By mincore(2) of a mapping, where cachestat(2) does not see the pages (overlayfs) or no read
    /// refuses to wait (FUSE, network file systems).
    Mincore,
    /// It does not. Any page may be on a disk.
    Blind,
}

/// What a splice of a file puts into a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spliced {
    /// The file's own pages, which later writes to the file change.
    #[default]
    Pages,
    /// Copies.
    Copies,
}

/// What follows a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing. The page cache has the bytes.
    Return,
    /// fdatasync(2). The disk has the bytes, too.
    SyncData,
}

/// How to build a [`crate::Ring`]. `Default` is right for a server.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Which kernel interface to use.
    pub backend: BackendChoice,
    /// Submission queue entries, at least [`CHAIN_OPERATIONS`]; the kernel rounds up to a power of
    /// two.
    pub submissions: u32,
    /// Completion queue entries, more than `submissions`.
    pub completions: u32,
    /// Bytes of a hop of a chain, 1 ..= 1 GiB. A hop never requests more than its pipe can hold.
    pub hop_bytes: u32,
    /// Page slots requested for each pipe. The kernel may give fewer (KERNEL.md, budgets).
    pub pipe_slots: u32,
    /// Pipes open at once, at least 2.
    pub max_pipes: usize,
    /// Chains under `Path::Auto` that may wait for a disk at once, at least 1.
    pub cold_chains: usize,
    /// The same while others are sent what is in memory, at least 1.
    pub cold_chains_beside_hot: usize,
    /// The scans of the process. What they bring into the page cache is dropped behind them, so
    /// that they do not evict pages that others read. None: it stays.
    pub scans: Option<Arc<Scans>>,
    /// How the file system of the files shows which pages are in memory.
    pub sight: Sight,
    /// What splice and sendfile move of them.
    pub spliced: Spliced,
    /// How many bytes of files peers that do not read may keep in memory, all rings together. None:
    /// no bound.
    pub page_budget: Option<Arc<PageBudget>>,
    /// Empty pipes kept open.
    pub idle_pipes: usize,
    /// io-wq threads for regular files.
    pub bounded_workers: u32,
    /// io-wq threads for splices and everything else that is not a regular file.
    pub unbounded_workers: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        RingConfig {
            backend: BackendChoice::Auto,
            submissions: DEFAULT_SUBMISSIONS,
            completions: DEFAULT_COMPLETIONS,
            hop_bytes: DEFAULT_HOP_BYTES,
            pipe_slots: DEFAULT_PIPE_SLOTS,
            max_pipes: DEFAULT_MAX_PIPES,
            cold_chains: DEFAULT_COLD_CHAINS,
            cold_chains_beside_hot: DEFAULT_COLD_CHAINS_BESIDE_HOT,
            scans: None,
            sight: Sight::default(),
            spliced: Spliced::default(),
            page_budget: None,
            idle_pipes: DEFAULT_IDLE_PIPES,
            bounded_workers: DEFAULT_BOUNDED_WORKERS,
            unbounded_workers: DEFAULT_UNBOUNDED_WORKERS,
        }
    }
}

impl RingConfig {
    /// Panics over numbers that cannot work. Code that reads a configuration from outside checks it
    /// first, so wrong numbers here are a bug.
    pub(crate) fn assert_sound(&self) {
        assert!(self.submissions as usize >= CHAIN_OPERATIONS, "{self:?}: no room for a chain");
        assert!(self.submissions < self.completions, "{self:?}: completions would overflow");
        assert!((1..=1 << 30).contains(&self.hop_bytes), "{self:?}: hops of no or too many bytes");
        let cold_chains = self.cold_chains.min(self.cold_chains_beside_hot);
        assert!(cold_chains >= 1, "{self:?}: cold data could never be sent");
        assert!(self.max_pipes >= 2, "{self:?}: one pipe may be parked, one must move");
    }
}
