//! io_uring for a segment server: the chain file → pipe → socket, and everything whose life the
//! kernel holds.
//!
//! ```text
//!   ring.rs            the interface for the server; one `Ring` a worker thread
//!    ├─ shared.rs         the state that clones of a ring share
//!    ├─ perform.rs        performs a transfer; stepwise.rs its plans that are no chains
//!    │    ├─ transfer.rs      the pure machine that plans the next step
//!    │    ├─ transfer/        its means: route, residency (which path), pipes, stage (where bytes
//!    │    │                   are on the way), workers (which give way to the event loop)
//!    │    ├─ pins.rs          whether it may hold pages
//!    │    └─ scans.rs         what scans brought, to be dropped behind them
//!    ├─ uring.rs          operations as futures, and the driver; uring/calls.rs single operations
//!    │    ├─ operations.rs    owns the resources while the kernel works
//!    │    └─ sys.rs           all `unsafe`
//!    ├─ foresight.rs      what an answer would read from the disk
//!    ├─ epoll.rs          the same calls where io_uring is forbidden
//!    ├─ sight.rs          how a file system shows which pages are in memory; resident_pages.rs
//!    │                    counts them for people
//!    ├─ spliced.rs        whether a splice moves pages or copies
//!    └─ blocking.rs       threads that always exist; shortage.rs: operations left to them
//! ```
//!
//! A slab entry owns the files, the socket, the pipe and the header bytes of an operation from
//! before the push until the last completion. A future holds a key only; dropping it orphans the
//! entry. When a link of a chain breaks, the operations behind it complete with `-ECANCELED`. The
//! next plan then waits until the socket is writable and drains the staged bytes first.
//!
//! docs/KERNEL.md lists what the kernel does, row by row. kernel_contract.rs tests each row. This
//! crate must never know Kafka.

pub mod blocking;
mod counters;
mod epoll;
mod error;
mod file_range;
mod foresight;
#[cfg(test)]
mod kernel_contract;
mod operations;
mod peer_watch;
mod perform;
mod pins;
mod resident_pages;
mod ring;
mod ring_config;
mod scans;
mod sent;
mod shared;
mod shortage;
mod sight;
mod socket;
mod spliced;
mod stepwise;
mod sys;
#[cfg(test)]
mod thread_limit;
mod transfer;
mod uring;

pub use counters::{Counter, Counters};
pub use error::{RAISE_THREADS, RingError, TransferError, WriteError};
pub use peer_watch::PeerWatch;
pub use pins::{CHUNK_BYTES, PROVEN_BYTES, PageBudget};
pub use ring::{Backend, Ring};
pub use ring_config::*;
pub use scans::Scans;
pub use sent::Sent;
pub use socket::Socket;
pub use sys::ignore_sigpipe;
pub use transfer::{Path, Piece};
