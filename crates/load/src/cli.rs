//! The arguments: what may be asked for, in which units, with which defaults.
//!
//! Parsed by `command`. Everything here is also written into the JSON report, so that a result
//! names the conditions it was measured under. Must never do I/O.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use serde::{Serialize, Serializer};

/// How long a run lasts that does not end by itself.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// What such a run leaves unmeasured at its beginning.
const DEFAULT_WARM_UP: Duration = Duration::from_secs(1);

/// What fits on the wire and in memory a few times.
const BATCH_BYTES: RangeInclusive<u64> = 2 * MIN_BATCH_BYTES..=256 << 20;
/// The shortest batch that is made: room for its header and a record's, and a little text.
pub(crate) const MIN_BATCH_BYTES: u64 = 128;

/// Whom to load, and how long to wait for it.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct TargetArgs {
    /// A server of the cluster; the leaders of the partitions are asked of it.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) bootstrap_server: String,

    /// The topic. `produce` creates it when it is missing.
    #[arg(long)]
    pub(crate) topic: String,

    /// How long to wait for an answer or a connection before the run counts as failed.
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

/// What `produce` and `fetch` both take.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) target: TargetArgs,

    /// Connections that work at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: u32,

    /// Threads that the connections are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,

    /// Requests per second of all connections together. Latency then counts from the moment a
    /// request was meant to go out. 0: the next request follows the last answer.
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// How long to go on, warm-up included. Default: 10 s, or until the work is done when it ends
    /// by itself (--total-bytes, --from earliest).
    #[arg(long, value_parser = duration)]
    #[serde(serialize_with = "maybe_seconds", rename = "duration_s")]
    pub(crate) duration: Option<Duration>,

    /// What is left out of the measurement at the beginning. Default: 1 s, or 0 when the work ends
    /// by itself.
    #[arg(long, value_parser = duration)]
    #[serde(serialize_with = "maybe_seconds", rename = "warm_up_s")]
    pub(crate) warm_up: Option<Duration>,

    /// Seed of payloads and random positions: the same seed makes the same bytes.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArgs,

    /// Partitions of the topic if it has to be created.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub(crate) partitions: i32,

    /// Value of one record. Text that compresses about as logs do.
    #[arg(long, default_value = "1KiB", value_parser = size)]
    pub(crate) record_bytes: u64,

    /// One batch before compression, header included; one batch a request.
    #[arg(long, default_value = "64KiB", value_parser = size)]
    pub(crate) batch_bytes: u64,

    /// Compression, in the framing that Kafka's clients expect.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(crate) codec: Codec,

    /// Who must have a batch before it is acknowledged. With 0 there is no answer: latency is then
    /// the time until the kernel has taken the request.
    #[arg(long, value_enum, default_value_t = Acks::Leader)]
    pub(crate) acks: Acks,

    /// Stop after exactly so many bytes of batches before compression; the last ones are shorter to
    /// meet the number.
    #[arg(long, value_parser = size)]
    pub(crate) total_bytes: Option<u64>,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: CommonArgs,

    /// Where to read.
    #[arg(long, value_enum, default_value_t = ReadFrom::Sequential)]
    pub(crate) from: ReadFrom,

    /// Most that one answer may bring.
    #[arg(long, default_value = "50MiB", value_parser = size_i32)]
    pub(crate) max_bytes: i32,

    /// Most that one answer may bring of one partition. A request asks for one partition.
    #[arg(long, default_value = "1MiB", value_parser = size_i32)]
    pub(crate) partition_max_bytes: i32,

    /// Least that the server should wait for before it answers.
    #[arg(long, default_value = "1", value_parser = size_i32)]
    pub(crate) min_bytes: i32,

    /// Longest that the server should wait for it, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) max_wait_ms: i32,

    /// Do not check batches (CRC-32C) and offsets (no gap; compacted topics have some). Record
    /// bytes are then dropped in the kernel where possible, which leaves more of the processor to
    /// the server.
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
    /// Nobody: no answer is sent
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

/// The order in which a fetch run reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadFrom {
    /// Everything there is at the beginning, once; readers of one partition share it. Then the run
    /// ends
    Earliest,
    /// On and on, from the end back to the start; readers of one partition begin spread over it
    Sequential,
    /// Every fetch at an offset drawn from the seed
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
    /// When the run is measured and ends; it has no time limit when --total-bytes ends it.
    ///
    /// # Errors
    /// Values that contradict each other, in words for the person who gave them.
    pub(crate) fn check(&self) -> Result<Span, String> {
        let Self { record_bytes, batch_bytes, .. } = *self;
        if !BATCH_BYTES.contains(&batch_bytes) {
            return Err(format!(
                "--batch-bytes {batch_bytes} is outside {}..={}",
                BATCH_BYTES.start(),
                BATCH_BYTES.end()
            ));
        }
        if record_bytes.saturating_add(MIN_BATCH_BYTES) > batch_bytes {
            return Err(format!(
                "--record-bytes {record_bytes} and a batch's {MIN_BATCH_BYTES} more do not fit into \
                 --batch-bytes {batch_bytes}"
            ));
        }
        match self.total_bytes {
            Some(total) if total < MIN_BATCH_BYTES => {
                Err(format!("--total-bytes {total} is less than one batch ({MIN_BATCH_BYTES})"))
            }
            total => Span::of(&self.common, total.is_some()),
        }
    }
}

impl FetchArgs {
    /// When the run is measured and ends; it has no time limit when --from earliest ends it.
    ///
    /// # Errors
    /// Values that contradict each other, in words for the person who gave them.
    pub(crate) fn check(&self) -> Result<Span, String> {
        let max_wait = Duration::from_millis(self.max_wait_ms as u64);
        let timeout = self.common.target.timeout;
        if max_wait >= timeout {
            return Err(format!(
                "--max-wait-ms {} would be taken for no answer: it must be below --timeout {timeout:?}",
                self.max_wait_ms
            ));
        }
        Span::of(&self.common, self.from == ReadFrom::Earliest)
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
    fn of(common: &CommonArgs, ends_by_itself: bool) -> Result<Span, String> {
        let (warm_up, duration) = match ends_by_itself {
            true => (Duration::ZERO, None),
            false => (DEFAULT_WARM_UP, Some(DEFAULT_DURATION)),
        };
        let duration = common.duration.or(duration);
        // A short run keeps its proportions rather than being all warm-up.
        let warm_up = duration.map_or(warm_up, |whole| warm_up.min(whole / 10));
        let warm_up = common.warm_up.unwrap_or(warm_up);
        match duration {
            Some(duration) if warm_up >= duration => Err(format!(
                "--warm-up {warm_up:?} leaves nothing of --duration {duration:?} to measure"
            )),
            _ => Ok(Span { warm_up, duration }),
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
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
    Duration::try_from_secs_f64(number * unit_s).map_err(|e| format!("{text}: {e}"))
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|e| format!("{e}"))?;
    match number.is_finite() && (0.0..=1e9).contains(&number) {
        true => Ok(number),
        false => Err("a rate is between 0 and 1 000 000 000 requests per second".into()),
    }
}

pub(crate) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

fn maybe_seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
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
