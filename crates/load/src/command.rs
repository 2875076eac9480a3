//! The command line: the program and its subcommands.
//!
//! Parsed by `main` once. The arguments of each subcommand are in `cli`, those of `cold-hot` in its
//! folder.

use clap::{Parser, Subcommand};

use crate::cli::{FetchArgs, ProduceArgs};
use crate::cold_hot::ColdHotArgs;

/// Load generator for any server that speaks Kafka's protocol.
///
/// Sizes are bytes, or a number with KiB, MiB or GiB. Durations are seconds, or a number with ms,
/// s or m. Exit code: 0 done, 1 failed (a verification fault included), 2 misused.
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
    // Described where its arguments are.
    ColdHot(ColdHotArgs),
}
