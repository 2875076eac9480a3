//! The command line of `cold-hot`, and the two fetch runs that it stands for.
//!
//! Read by `main` and by `cold_hot`. Must never do I/O.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::{
    CommonArgs, FetchArgs, OutputArgs, ReadFrom, RunArgs, TargetArgs, duration, rate, seconds,
    size_i32,
};

/// The most bytes of an answer, Kafka's default. A lower value would hide the limit of a partition.
const MAX_BYTES: i32 = 50 << 20;
/// The longest time that a server may wait for records. No reader fetches at the end of a log that
/// does not grow.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Measure readers of cached records, alone and beside a scan of uncached ones, on the server's
/// host.
///
/// Hot readers fetch a topic that is in memory, at a fixed rate: first alone (a quiet phase), then
/// beside cold readers (a disturbed phase). Cold readers scan files whose pages are evicted all the
/// time.
///
/// The files must lie on this host. Their pages are evicted with posix_fadvise(DONTNEED), which the
/// server does not notice. Without --cold-topic one topic has both parts: the records in
/// --cold-files are cold, those after them are hot.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ColdHotArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) target: TargetArgs,

    /// Topic of the cold readers, if it is not the hot readers' topic.
    #[arg(long, value_name = "TOPIC")]
    pub(crate) cold_topic: Option<String>,

    /// Segment files (*.log) with the records for the cold readers, or partition directories with
    /// such files.
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., required = true)]
    pub(crate) cold_files: Vec<PathBuf>,

    /// Segment files or directories with the records for the hot readers. If given, a phase in
    /// which their pages come or go is discarded.
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    pub(crate) hot_files: Vec<PathBuf>,

    /// Connections of hot readers.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) hot_connections: u32,

    /// Connections of cold readers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) cold_connections: u32,

    /// Fetches per second of all cold connections together, to compare servers beside the same
    /// scan. 0: as fast as they are answered.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) cold_rate: f64,

    /// Order of the cold readers' fetches.
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub(crate) cold_order: Order,

    /// Most bytes of a hot answer.
    #[arg(long, default_value = "64KiB", value_parser = size_i32)]
    pub(crate) hot_bytes: i32,

    /// Most bytes of a cold answer.
    #[arg(long, default_value = "1MiB", value_parser = size_i32)]
    pub(crate) cold_bytes: i32,

    /// Threads that share the hot connections. The cold connections have one thread of their own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,

    /// Fetches per second of all hot connections together. Latency then counts from the moment a
    /// fetch was meant to go out. 0: the next fetch follows the last answer.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// Pairs of a quiet and a disturbed phase.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Duration of the measured part of each phase.
    #[arg(long, default_value = "10s", value_parser = duration)]
    #[serde(serialize_with = "seconds", rename = "duration_s")]
    pub(crate) duration: Duration,

    /// Time of the same load before the measured part of each phase. Requests that it leaves unsent
    /// are dropped.
    #[arg(long, default_value = "1s", value_parser = duration)]
    #[serde(serialize_with = "seconds", rename = "warm_up_s")]
    pub(crate) warm_up: Duration,

    /// Time between two evictions of the cold files, in milliseconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) evict_interval_ms: u64,

    /// Check batches (CRC-32C) and offsets while measuring. The read that warms the hot topic
    /// always checks them.
    #[arg(long)]
    pub(crate) verify: bool,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) output: OutputArgs,
}

/// The next offset of a cold reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Anywhere, so that every fetch finds its pages on disk
    Random,
    /// Where the last fetch ended. A long read-ahead of the kernel brings most pages into memory
    /// first
    Sequential,
}

impl ColdHotArgs {
    /// # Errors
    /// Values that make no run, with a message for the user.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.duration.is_zero() {
            return Err("--duration 0 leaves nothing to measure".into());
        }
        match self.target.timeout <= MAX_WAIT {
            true => Err(format!("--timeout must be above {MAX_WAIT:?}, which a server may wait")),
            false => Ok(()),
        }
    }

    /// The fetch run of the hot readers.
    pub(crate) fn hot(&self) -> FetchArgs {
        self.readers(self.hot_connections, self.threads, self.rate, self.hot_bytes)
    }

    /// The fetch run that warms the hot topic: it reads and checks all of it once.
    pub(crate) fn warming(&self) -> FetchArgs {
        let hot = self.readers(self.hot_connections, self.threads, 0.0, self.cold_bytes);
        FetchArgs { from: ReadFrom::Earliest, verify: true, ..hot }
    }

    /// The fetch run of the cold readers.
    pub(crate) fn cold(&self) -> FetchArgs {
        let from = match self.cold_order {
            Order::Random => ReadFrom::Random,
            Order::Sequential => ReadFrom::Sequential,
        };
        FetchArgs {
            from,
            ..self.readers(self.cold_connections, 1, self.cold_rate, self.cold_bytes)
        }
    }

    fn readers(&self, connections: u32, threads: u32, rate: f64, answer_bytes: i32) -> FetchArgs {
        let common = CommonArgs {
            target: self.target.clone(),
            connections,
            rate,
            run: RunArgs {
                threads,
                duration: None,
                warm_up: None,
                seed: 1,
                output: OutputArgs::default(),
            },
        };
        FetchArgs {
            common,
            from: ReadFrom::Sequential,
            max_bytes: answer_bytes.max(MAX_BYTES),
            partition_max_bytes: answer_bytes,
            min_bytes: 1,
            max_wait_ms: MAX_WAIT.as_millis() as i32,
            verify: self.verify,
        }
    }
}
