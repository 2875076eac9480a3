//! The command line: the program and its subcommands.
//!
//! Parsed by `main`. The arguments of `produce` and `fetch` are in `cli`, those of `tail` and
//! `cold-hot` in their folders.

use clap::{Parser, Subcommand};

use crate::cli::{FetchArgs, ProduceArgs};
use crate::cold_hot::ColdHotArgs;
use crate::tail::TailArgs;

/// Puts load on any server that speaks Kafka's protocol, and measures its latency.
///
/// A size is a number of bytes, or a number with KiB, MiB or GiB. A duration is a number of
/// seconds, or a number with ms, s or m. Exit codes: 0 done, 1 failed (also if verification found a
/// fault), 2 misused.
#[derive(Debug, Parser)]
#[command(name = "penstock-load", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Append record batches, one request at a time on each connection.
    Produce(ProduceArgs),
    /// Read record batches, one request at a time on each connection.
    Fetch(FetchArgs),
    // The others' descriptions are beside their arguments.
    Tail(TailArgs),
    ColdHot(ColdHotArgs),
}
