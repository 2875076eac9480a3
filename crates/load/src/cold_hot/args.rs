//! The command line of `cold-hot`, and the two fetch runs it stands for.
//!
//! Read by `main` and by `cold_hot`. Must never do I/O.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::{
    CommonArgs, FetchArgs, OutputArgs, ReadFrom, TargetArgs, duration, rate, seconds, size_i32,
};

/// Most that an answer may bring; less than a partition's limit would hide it. Kafka's default.
const MAX_BYTES: i32 = 50 << 20;
/// Longest that a server may wait for records; at the end of a log that stays as it is, nobody
/// asks.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Read cached records, alone and beside a scan of uncached ones, on the server's own host.
///
/// Hot readers fetch a topic that is in memory, at a fixed rate; first alone (a quiet phase), then
/// beside cold readers that scan files whose pages are evicted all the time (a disturbed phase).
///
/// The files must lie on this host. Their pages are evicted with posix_fadvise(DONTNEED), which the
/// server does not notice. Without --cold-topic, one topic is both: what lies in --cold-files is
/// its cold part, what comes after them its hot part.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ColdHotArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) target: TargetArgs,

    /// The topic that cold readers scan, if it is not that of the hot ones.
    #[arg(long, value_name = "TOPIC")]
    pub(crate) cold_topic: Option<String>,

    /// Segment files (*.log) that hold what the cold readers read, or partition directories full of
    /// them.
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., required = true)]
    pub(crate) cold_files: Vec<PathBuf>,

    /// Those that hold what the hot readers read. Given, a phase in which one of their pages comes
    /// or goes is thrown away.
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    pub(crate) hot_files: Vec<PathBuf>,

    /// Connections of hot readers.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) hot_connections: u32,

    /// Connections of cold readers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) cold_connections: u32,

    /// Fetches per second of all cold connections together, so that servers can be compared beside
    /// the same scan. 0: as fast as they are answered.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) cold_rate: f64,

    /// How the cold readers go through their files.
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub(crate) cold_order: Order,

    /// Most that a hot answer may bring.
    #[arg(long, default_value = "64KiB", value_parser = size_i32)]
    pub(crate) hot_bytes: i32,

    /// Most that a cold answer may bring.
    #[arg(long, default_value = "1MiB", value_parser = size_i32)]
    pub(crate) cold_bytes: i32,

    /// Threads that the hot connections are spread over; the cold ones have one of their own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,

    /// Fetches per second of all hot connections together. Latency then counts from the moment a
    /// fetch was meant to go out. 0: the next fetch follows the last answer.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// Pairs of phases, a quiet one and a disturbed one.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// The measured part of each phase.
    #[arg(long, default_value = "10s", value_parser = duration)]
    #[serde(serialize_with = "seconds", rename = "duration_s")]
    pub(crate) duration: Duration,

    /// The same load before it, in each phase. What it leaves unsent is not carried over.
    #[arg(long, default_value = "1s", value_parser = duration)]
    #[serde(serialize_with = "seconds", rename = "warm_up_s")]
    pub(crate) warm_up: Duration,

    /// Between two evictions of the cold files, in milliseconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) evict_interval_ms: u64,

    /// Check batches (CRC-32C) and offsets while measuring too. What warms the hot topic at the
    /// start always does.
    #[arg(long)]
    pub(crate) verify: bool,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) output: OutputArgs,
}

/// Where a cold reader reads next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Anywhere: every fetch finds its pages on disk
    Random,
    /// Where it stopped: the kernel's read-ahead, where it is long, has most pages in memory before
    /// they are asked for
    Sequential,
}

impl ColdHotArgs {
    /// # Errors
    /// Values that make no run, in words for the person who gave them.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.duration.is_zero() {
            return Err("--duration 0 leaves nothing to measure".into());
        }
        match self.target.timeout <= MAX_WAIT {
            true => Err(format!("--timeout must be above {MAX_WAIT:?}, which a server may wait")),
            false => Ok(()),
        }
    }

    /// The hot readers, as a fetch run.
    pub(crate) fn hot(&self) -> FetchArgs {
        self.readers(self.hot_connections, self.threads, self.rate, self.hot_bytes)
    }

    /// The hot readers as they warm the topic: all of it, once, checked.
    pub(crate) fn warming(&self) -> FetchArgs {
        let hot = self.readers(self.hot_connections, self.threads, 0.0, self.cold_bytes);
        FetchArgs { from: ReadFrom::Earliest, verify: true, ..hot }
    }

    /// The cold readers, as a fetch run.
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
            threads,
            rate,
            duration: None,
            warm_up: None,
            seed: 1,
            output: OutputArgs::default(),
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
