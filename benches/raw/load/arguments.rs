//! The command line of the generator.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, ValueEnum};

use crate::protocol::{Batches, Protocol};

/// Reads ranges of one file from a server and drops them, as cheaply as it can be done.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// HOST:PORT
    #[arg(long)]
    pub(crate) server: SocketAddr,

    /// What the server speaks
    #[arg(long, value_enum)]
    language: Language,

    /// kafka: the topic; its partition 0 must be one segment
    #[arg(long, default_value = "bench")]
    topic: String,

    /// kafka: bytes of every batch
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    batch_bytes: u64,

    /// kafka: records of every batch
    #[arg(long, default_value_t = 3)]
    batch_records: u64,

    /// http: the file's path
    #[arg(long, default_value = "/segment")]
    path: String,

    /// Hot readers, each of its own share of --part
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,

    /// Bytes of one fetch
    #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) fetch_bytes: u32,

    /// FROM..TO, bytes of the file that hot readers read
    #[arg(long, value_parser = part)]
    pub(crate) part: Range<u64>,

    /// Hot fetches a second of all together; latency then counts from the moment a fetch was meant to
    /// go out. 0: the next follows the last
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rate: f64,

    /// Cold readers beside them, as fast as they get answers
    #[arg(long, default_value_t = 0)]
    pub(crate) cold_connections: u32,

    /// Bytes of one of their fetches
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cold_fetch_bytes: u32,

    /// FROM..TO, bytes of the file that cold readers read
    #[arg(long, value_parser = part, default_value = "0..0")]
    pub(crate) cold_part: Range<u64>,

    /// The served file itself, to put the cold part out of the page cache before and during the run
    #[arg(long, value_name = "FILE")]
    pub(crate) evict: Option<PathBuf>,

    /// Measured seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,

    /// Seconds before them that do not count
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warm_up: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Raw,
    Kafka,
    Http,
}

impl Arguments {
    /// How to ask.
    ///
    /// # Errors
    /// Kafka's batches and the ranges do not fit together.
    pub(crate) fn protocol(&self) -> anyhow::Result<Protocol> {
        Ok(match self.language {
            Language::Raw => Protocol::Raw,
            Language::Http => Protocol::Http { path: self.path.clone() },
            Language::Kafka => {
                let len_bytes = self.batch_bytes;
                let starts = [self.part.start, self.cold_part.start];
                let lengths = [self.fetch_bytes, self.cold_fetch_bytes].map(u64::from);
                let whole = |bytes: &u64| bytes.is_multiple_of(len_bytes);
                ensure!(
                    starts.iter().chain(&lengths).all(whole),
                    "parts and fetches must be whole batches of {len_bytes} bytes"
                );
                let batches = Batches { len_bytes, records: self.batch_records };
                Protocol::Kafka { topic: self.topic.clone(), batches }
            }
        })
    }
}

fn part(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("FROM..TO is wanted")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from <= to { Ok(from..to) } else { Err(format!("{from} is behind {to}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_two_numbers_in_order() {
        assert_eq!(part("4096..8192"), Ok(4096..8192));
        assert!(part("2..1").is_err() && part("1").is_err() && part("a..b").is_err());
    }
}
