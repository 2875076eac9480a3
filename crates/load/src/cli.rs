//! The arguments, with their units and defaults.
//!
//! Parsed by `command`. The JSON report includes all of them, so that a result names its
//! conditions. Must never do I/O.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use serde::{Serialize, Serializer};

/// Duration of a run that does not end by itself.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// Warm-up of such a run.
const DEFAULT_WARM_UP: Duration = Duration::from_secs(1);

/// Longer durations than 100 years do not fit the clock, and requests at slower rates than one in
/// 1000 s would be due beyond it.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);
const MIN_RATE: f64 = 0.001;

/// Sizes of a batch that fit on the wire, and in memory a few times.
const BATCH_BYTES: RangeInclusive<u64> = 2 * MIN_BATCH_BYTES..=256 << 20;
/// The shortest batch: its header, the header of a record, and a little text.
pub(crate) const MIN_BATCH_BYTES: u64 = 128;

/// The server under load, and how long to wait for it.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct TargetArgs {
    /// A server of the cluster, which names the leaders of the partitions.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) bootstrap_server: String,

    /// The topic. `produce` and `tail` create it if it does not exist.
    #[arg(long)]
    pub(crate) topic: String,

    /// The longest wait for an answer or a connection. The run fails after it.
    #[arg(long, default_value = "30s", value_parser = duration)]
    #[serde(serialize_with = "seconds", rename = "timeout_s")]
    pub(crate) timeout: Duration,
}

/// Where results go besides standard output.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutputArgs {
    /// Write the result as JSON, in base units, with the conditions of the run.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write the latency distribution as one self-contained HTML page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Write the latency distribution as an HdrHistogram log (microseconds).
    #[arg(long, value_name = "FILE")]
    pub(crate) hdr: Option<PathBuf>,
}

/// The arguments that `produce`, `fetch` and `tail` share.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct RunArgs {
    /// Threads that share the connections. The producer of `tail` has one of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,

    /// Duration of the run, warm-up included. Default: 10 s, or until the work is done if it ends
    /// by itself (--total-bytes, --from earliest).
    #[arg(long, value_parser = duration)]
    #[serde(serialize_with = "maybe_seconds", rename = "duration_s")]
    pub(crate) duration: Option<Duration>,

    /// Time at the start that is not measured. Default: a tenth of --duration, at most 1 s; 0 if
    /// the work ends by itself.
    #[arg(long, value_parser = duration)]
    #[serde(serialize_with = "maybe_seconds", rename = "warm_up_s")]
    pub(crate) warm_up: Option<Duration>,

    /// Seed of payloads and random positions. The same seed makes the same bytes.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) output: OutputArgs,
}

/// The arguments that `produce` and `fetch` share.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) target: TargetArgs,

    /// Connections that work at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: u32,

    /// Requests per second of all connections together. Latency then counts from the moment a
    /// request was due. 0: each request follows the answer before it.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) rate: f64,

    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArgs,

    /// Partitions of a topic that has to be created.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub(crate) partitions: i32,

    /// Size of a record's value, text that compresses about as well as logs do.
    #[arg(long, default_value = "1KiB", value_parser = size)]
    pub(crate) record_bytes: u64,

    /// Size of a batch before compression, header included. A request carries one batch.
    #[arg(long, default_value = "64KiB", value_parser = size)]
    pub(crate) batch_bytes: u64,

    /// Compression, in the framing that Kafka's clients expect.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(crate) codec: Codec,

    /// Replicas that must have a batch before it is acknowledged. With 0 there is no answer, and
    /// latency is the time until the kernel has taken the request.
    #[arg(long, value_enum, default_value_t = Acks::Leader)]
    pub(crate) acks: Acks,

    /// Stop after exactly this many bytes of batches before compression. The last batches are
    /// shorter to meet the number.
    #[arg(long, value_parser = size)]
    pub(crate) total_bytes: Option<u64>,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArgs,

    /// Order of the fetches.
    #[arg(long, value_enum, default_value_t = ReadFrom::Sequential)]
    pub(crate) from: ReadFrom,

    /// Most bytes of one answer.
    #[arg(long, default_value = "50MiB", value_parser = size_i32)]
    pub(crate) max_bytes: i32,

    /// Most bytes of one partition in an answer. A request asks for one partition.
    #[arg(long, default_value = "1MiB", value_parser = size_i32)]
    pub(crate) partition_max_bytes: i32,

    /// Bytes that the server should wait for before it answers.
    #[arg(long, default_value = "1", value_parser = size_i32)]
    pub(crate) min_bytes: i32,

    /// Longest time that the server should wait for them, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) max_wait_ms: i32,

    /// Check neither batches (CRC-32C) nor offsets (gaps, which compacted topics have). The kernel
    /// then drops record bytes where it can, which leaves more of the processor to the server.
    #[arg(long = "no-verify", action = ArgAction::SetFalse)]
    pub(crate) verify: bool,
}

/// Compression of a batch's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Acknowledgement, numbered as in a produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum Acks {
    /// None: the server sends no answer
    #[value(name = "0")]
    #[serde(rename = "0")]
    None = 0,
    /// The leader of the partition
    #[value(name = "1")]
    #[serde(rename = "1")]
    Leader = 1,
    /// Every replica in sync
    #[value(name = "all")]
    #[serde(rename = "all")]
    All = -1,
}

/// The order of a fetch run's offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadFrom {
    /// Each record that exists at the start, once; readers of one partition share them. Then the
    /// run ends
    Earliest,
    /// Offset after offset, and from the end back to the start; readers of one partition start
    /// spread over it
    Sequential,
    /// Each fetch at an offset drawn from the seed
    Random,
}

impl From<Codec> for penstock_batch::Codec {
    fn from(codec: Codec) -> penstock_batch::Codec {
        match codec {
            Codec::None => penstock_batch::Codec::None,
            Codec::Gzip => penstock_batch::Codec::Gzip,
            Codec::Snappy => penstock_batch::Codec::Snappy,
            Codec::Lz4 => penstock_batch::Codec::Lz4,
            Codec::Zstd => penstock_batch::Codec::Zstd,
        }
    }
}

impl ProduceArgs {
    /// When the run is measured and when it ends. It has no time limit if --total-bytes ends it.
    ///
    /// # Errors
    /// Values that contradict each other, with a message for the user.
    pub(crate) fn check(&self) -> Result<Span, String> {
        batch_sizes(self.record_bytes, self.batch_bytes)?;
        match self.total_bytes {
            Some(total) if total < MIN_BATCH_BYTES => Err(format!(
                "--total-bytes {total} is less than the shortest batch ({MIN_BATCH_BYTES})"
            )),
            total => Span::of(&self.common.run, total.is_some()),
        }
    }
}

/// Checks that batches of this size can be made of such records.
///
/// # Errors
/// They cannot, with a message for the user.
pub(crate) fn batch_sizes(record_bytes: u64, batch_bytes: u64) -> Result<(), String> {
    if !BATCH_BYTES.contains(&batch_bytes) {
        return Err(format!(
            "--batch-bytes {batch_bytes} is outside {}..={}",
            BATCH_BYTES.start(),
            BATCH_BYTES.end()
        ));
    }
    match record_bytes.saturating_add(MIN_BATCH_BYTES) > batch_bytes {
        true => Err(format!(
            "--record-bytes {record_bytes} and {MIN_BATCH_BYTES} bytes of headers do not fit into \
             --batch-bytes {batch_bytes}"
        )),
        false => Ok(()),
    }
}

/// Checks that an answer comes before the run's patience ends.
///
/// # Errors
/// It may not, with a message for the user.
pub(crate) fn max_wait_below(max_wait_ms: i32, timeout: Duration) -> Result<(), String> {
    match Duration::from_millis(max_wait_ms as u64) >= timeout {
        true => Err(format!(
            "--max-wait-ms {max_wait_ms} must be below --timeout {timeout:?}, which would end the \
             run first"
        )),
        false => Ok(()),
    }
}

impl FetchArgs {
    /// When the run is measured and when it ends. It has no time limit if --from earliest ends it.
    ///
    /// # Errors
    /// Values that contradict each other, with a message for the user.
    pub(crate) fn check(&self) -> Result<Span, String> {
        max_wait_below(self.max_wait_ms, self.common.target.timeout)?;
        Span::of(&self.common.run, self.from == ReadFrom::Earliest)
    }
}

/// When a run is measured and when it ends, counted from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    #[serde(serialize_with = "seconds", rename = "warm_up_s")]
    pub(crate) warm_up: Duration,
    #[serde(serialize_with = "maybe_seconds", rename = "duration_s")]
    pub(crate) duration: Option<Duration>,
}

impl Span {
    /// `ends_by_itself`: without --duration, the work ends the run.
    pub(crate) fn of(run: &RunArgs, ends_by_itself: bool) -> Result<Span, String> {
        let (warm_up, duration) = match ends_by_itself {
            true => (Duration::ZERO, None),
            false => (DEFAULT_WARM_UP, Some(DEFAULT_DURATION)),
        };
        let duration = run.duration.or(duration);
        // The warm-up of a short run shrinks with it.
        let warm_up = duration.map_or(warm_up, |whole| warm_up.min(whole / 10));
        let warm_up = run.warm_up.unwrap_or(warm_up);
        match duration {
            Some(duration) if warm_up >= duration => Err(format!(
                "--warm-up {warm_up:?} leaves nothing of --duration {duration:?} to measure"
            )),
            _ => Ok(Span { warm_up, duration }),
        }
    }
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        other => return Err(format!("{other:?} is not a unit of size: use KiB, MiB or GiB")),
    };
    let number: u64 = digits.trim().parse().map_err(|e| format!("{digits:?}: {e}"))?;
    match number.checked_mul(unit) {
        Some(0) | None => Err(format!("{text} is out of range")),
        Some(bytes) => Ok(bytes),
    }
}

pub(crate) fn size_i32(text: &str) -> Result<i32, String> {
    i32::try_from(size(text)?).map_err(|_| format!("{text} is more than 2^31-1 bytes"))
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        other => return Err(format!("{other:?} is not a unit of time: use ms, s or m")),
    };
    let number: f64 = digits.trim().parse().map_err(|e| format!("{digits:?}: {e}"))?;
    let duration = Duration::try_from_secs_f64(number * unit_s);
    match duration.map_err(|e| format!("{text}: {e}"))? {
        duration if duration > MAX_DURATION => Err(format!("{text} is more than 100 years")),
        duration => Ok(duration),
    }
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|e| format!("{e}"))?;
    match number == 0.0 || (MIN_RATE..=1e9).contains(&number) {
        true => Ok(number),
        false => Err("a rate is 0, or between 0.001 and 1 000 000 000 a second".into()),
    }
}

pub(crate) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

pub(crate) fn maybe_seconds<S: Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    duration.map(|d| d.as_secs_f64()).serialize(to)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::command::{Cli, Command};

    fn fetch(more: &[&str]) -> FetchArgs {
        let head = ["penstock-load", "fetch", "--bootstrap-server", "h:1", "--topic", "t"];
        match Cli::parse_from(head.iter().chain(more)).command {
            Command::Fetch(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sizes_and_durations_take_their_units() {
        assert_eq!(size("1000"), Ok(1000));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        assert!(size("1KB").is_err() && size("0").is_err() && size("99999999999GiB").is_err());
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert!(duration("1h").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn no_time_or_rate_is_beyond_the_clock() {
        for beyond in ["9999999999999999", "99999999999999m"] {
            assert!(duration(beyond).is_err(), "{beyond}");
        }
        for beyond in ["1e-300", "-1", "1e10", "inf", "NaN"] {
            assert!(rate(beyond).is_err(), "{beyond}");
        }
        assert_eq!([rate("0"), rate("0.001"), rate("1e9")], [Ok(0.0), Ok(0.001), Ok(1e9)]);
    }

    #[test]
    fn a_run_that_ends_by_itself_has_no_time_limit_and_no_warm_up() {
        let span = fetch(&["--from", "earliest"]).check().unwrap();
        assert_eq!(span, Span { warm_up: Duration::ZERO, duration: None });
        assert_eq!(fetch(&[]).check().unwrap().duration, Some(DEFAULT_DURATION));
    }

    #[test]
    fn a_warm_up_as_long_as_the_run_is_refused() {
        assert!(fetch(&["--duration", "2s", "--warm-up", "2s"]).check().is_err());
        assert!(fetch(&["--duration", "100ms"]).check().is_ok());
    }

    #[test]
    fn verification_is_on_unless_switched_off() {
        assert!(fetch(&[]).verify);
        assert!(!fetch(&["--no-verify"]).verify);
    }
}
