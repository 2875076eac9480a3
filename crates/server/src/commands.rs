//! The subcommands of `penstock` that serve no client, each a process of its own.
//!
//! `cli.rs` is the command line of all of them, `serve` included.

pub(crate) mod adopt;
pub(crate) mod cli;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod scrub;
pub(crate) mod top;
pub(crate) mod topic;
