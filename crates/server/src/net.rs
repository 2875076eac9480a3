//! Sockets: worker threads, the connections they accept, and the sweep that ends the slow ones.
//!
//! Knows `api`, which answers a request, `broker` and `config`.

pub(crate) mod connection;
pub(crate) mod crew;
pub(crate) mod long_worker;
pub(crate) mod loop_lag;
pub(crate) mod sweep;
pub(crate) mod worker;
