//! Shared by the whole-system tests: a real server process and a client that speaks the protocol.
//!
//! The server is the release binary of `make build` (`PENSTOCK_BIN` names another), on a port of
//! its own and a fresh directory. The client is blocking and sends one request at a time.

pub mod cache;
mod client;
pub mod consumer;
pub mod footprint;
pub mod journal;
pub mod load;
pub mod member;
pub mod memory_group;
pub mod pids;
mod process;
pub mod producer;
pub mod records;
pub mod rounds;
pub mod small_disk;
pub mod stamp;
pub mod volume;
pub mod witness;

pub use client::{Client, ClientError, fetch_request, produce_request};
pub use process::{Metrics, Penstock, Start, binary, program};
