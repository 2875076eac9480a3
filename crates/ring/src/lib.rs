//! io_uring for a segment server: the chain file → pipe → socket, and everything whose life the
//! kernel holds.
//!
//! ```text
//!   ring.rs            what the server calls; one `Ring` a worker thread
//!    ├─ shared.rs         what the clones of a ring share
//!    ├─ perform.rs        performs a transfer
//!    │    ├─ transfer.rs      the pure machine: what is next
//!    │    ├─ transfer/        its means: route, residency (which path), pipes, stage (where bytes
//!    │    │                   are on the way), workers (which give way to the event loop)
//!    │    └─ pins.rs          whether it may hold pages
//!    ├─ uring.rs          operations as futures, and the driver; uring/calls.rs single operations
//!    │    ├─ operations.rs    who owns what while the kernel works
//!    │    └─ sys.rs           all `unsafe`
//!    ├─ epoll.rs          the same calls where io_uring is forbidden
//!    ├─ sight.rs          how a file system shows which pages are in memory
//!    └─ blocking.rs       threads that are always there; shortage.rs: what is left to them
//! ```
//!
//! Files, socket, pipe and header bytes of an operation belong to a slab entry from before the push
//! until the last completion. A future holds a key only; dropping it orphans the entry. A broken
//! link of a chain brings the rest back as `-ECANCELED`: the next plan first drains what is staged,
//! once the socket is writable.
//!
//! What the kernel does and does not do is in docs/KERNEL.md, row by row; kernel_contract.rs holds
//! it to that. This crate must never know Kafka.

pub mod blocking;
mod counters;
mod epoll;
mod error;
mod file_range;
#[cfg(test)]
mod kernel_contract;
mod operations;
mod perform;
mod pins;
mod ring;
mod ring_config;
mod shared;
mod shortage;
mod sight;
mod socket;
mod sys;
#[cfg(test)]
mod thread_limit;
mod transfer;
mod uring;

pub use counters::{Counter, Counters};
pub use error::{RAISE_THREADS, RingError, TransferError, WriteError};
pub use pins::{CHUNK_BYTES, PROVEN_BYTES, PageBudget};
pub use ring::{Backend, Ring};
pub use ring_config::*;
pub use socket::Socket;
pub use sys::ignore_sigpipe;
pub use transfer::{Path, Piece};
