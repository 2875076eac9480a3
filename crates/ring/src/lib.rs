//! io_uring for a segment server: the chain file → pipe → socket, and everything whose life the
//! kernel holds.
//!
//! ```text
//!   ring.rs        what the server calls; one `Ring` a worker thread
//!    ├─ shared.rs     what the clones of a ring share
//!    ├─ perform.rs    performs a transfer ──── transfer.rs   the pure machine: what is next
//!    │    ├─ route.rs, residency.rs, sight.rs                 which way it goes
//!    │    ├─ pins.rs                                         whether it may hold pages
//!    │    ├─ pipes.rs, stage.rs                              where its bytes are on the way
//!    │    └─ workers.rs                                      who gives way to the event loop
//!    ├─ uring_calls.rs, uring.rs   operations as futures, the driver
//!    │    ├─ operations.rs         who owns what while the kernel works
//!    │    └─ sys.rs                all `unsafe`
//!    ├─ epoll.rs      the same calls where io_uring is forbidden
//!    └─ blocking.rs   threads that are always there; shortage.rs: what is left to them
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
mod config;
mod counters;
mod epoll;
mod error;
#[cfg(test)]
mod fake;
mod file_range;
#[cfg(test)]
mod kernel_contract;
mod operations;
mod perform;
mod pins;
mod pipes;
mod residency;
mod ring;
mod route;
mod shared;
mod shortage;
mod sight;
mod socket;
mod stage;
mod sys;
#[cfg(test)]
mod thread_limit;
mod transfer;
mod uring;
mod uring_calls;
mod workers;

pub use config::*;
pub use counters::{Counter, Counters};
pub use error::{RAISE_THREADS, RingError, TransferError, WriteError};
pub use pins::{CHUNK_BYTES, PROVEN_BYTES, PageBudget};
pub use ring::{Backend, Ring};
pub use socket::Socket;
pub use sys::ignore_sigpipe;
pub use transfer::{Path, Piece};
