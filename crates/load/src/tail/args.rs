//! The command line of `tail`.
//!
//! Read by `main` and by `tail`. Must never do I/O.

use clap::Args;
use serde::Serialize;

use crate::cli::{
    Acks, CommonArgs, RunArgs, Span, TargetArgs, batch_sizes, max_wait_below, rate, size,
};
use crate::tail::mark::MARK_BYTES;

/// Measure how soon each of many consumers at the end of a topic has what is produced to it.
///
/// A producer appends batches at a fixed rate, and every consumer fetches all of them with long
/// polls. A delivery is one batch at one consumer. Its latency counts from the moment the batch was
/// due to be sent to the last byte of the answer that carries it, so batches that a slow server
/// holds up count with their wait.
///
/// Each batch carries its number. The run fails if a consumer misses a batch, gets one twice or
/// gets one out of order. A topic that compresses (compression.type) is refused, because its
/// numbers cannot be read. Batches of other producers are counted and otherwise left alone.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) target: TargetArgs,

    /// Consumers, each with a connection of its own to every leader that it reads from.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) consumers: u32,

    /// Partitions of a topic that has to be created. Batches go to the partitions in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub(crate) partitions: i32,

    /// Partitions that each consumer reads. Neighbours begin one partition apart. Default: all.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) partitions_per_consumer: Option<u32>,

    /// Batches per second, over all partitions.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// Size of a batch, header included. A request carries one batch.
    #[arg(long, default_value = "4KiB", value_parser = size)]
    pub(crate) batch_bytes: u64,

    /// Size of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = size)]
    pub(crate) record_bytes: u64,

    /// Replicas that must have a batch before it is acknowledged. With 0 there is no answer.
    #[arg(long, value_enum, default_value_t = Acks::Leader)]
    pub(crate) acks: Acks,

    /// Longest time that the server should hold a fetch that finds nothing, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) max_wait_ms: i32,

    /// Do not check CRC-32C of batches, nor gaps between offsets. Missing and doubled batches are
    /// found all the same.
    #[arg(long = "no-verify", action = clap::ArgAction::SetFalse)]
    pub(crate) verify: bool,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) run: RunArgs,
}

impl TailArgs {
    /// When the run is measured and when production ends.
    ///
    /// # Errors
    /// Values that make no run, with a message for the user.
    pub(crate) fn check(&self) -> Result<Span, String> {
        batch_sizes(self.record_bytes, self.batch_bytes)?;
        if self.record_bytes < MARK_BYTES as u64 {
            return Err(format!(
                "--record-bytes {} has no room for a batch's number, which takes {MARK_BYTES}",
                self.record_bytes
            ));
        }
        if self.rate <= 0.0 {
            return Err("--rate 0: tailing consumers need batches at a rate".into());
        }
        max_wait_below(self.max_wait_ms, self.target.timeout)?;
        Span::of(&self.run, false)
    }

    /// The parameters of the consumers as one run of this many connections, in a closed loop.
    pub(crate) fn consumers_run(&self, connections: u32) -> CommonArgs {
        CommonArgs { target: self.target.clone(), connections, rate: 0.0, run: self.run.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::command::{Cli, Command};

    fn checked(more: &[&str]) -> Result<Span, String> {
        let head = ["penstock-load", "tail", "--bootstrap-server", "h:1", "--topic", "t"];
        match Cli::parse_from(head.iter().chain(more)).command {
            Command::Tail(args) => args.check(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_has_an_end_and_a_warm_up_by_default() {
        let span = checked(&[]).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!((span.warm_up, span.duration), (second, Some(10 * second)));
    }

    #[test]
    fn values_that_make_no_run_are_refused_with_the_flag_that_is_wrong() {
        for (args, named) in [
            (["--rate=0", "--threads=1"], "--rate"),
            (["--record-bytes=15", "--threads=1"], "--record-bytes 15"),
            (["--record-bytes=4KiB", "--batch-bytes=4KiB"], "--batch-bytes 4096"),
            (["--max-wait-ms=1000", "--timeout=1s"], "--max-wait-ms 1000"),
            (["--duration=1s", "--warm-up=1s"], "--warm-up"),
        ] {
            let problem = checked(&args).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
