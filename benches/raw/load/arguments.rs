//! The command line of the generator.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::ensure;
use clap::{Parser, ValueEnum};

use crate::protocol::{Batches, Protocol};

/// Reads ranges of one file from a server and drops them, as cheaply as possible.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// HOST:PORT
    #[arg(long)]
    pub(crate) server: SocketAddr,

    /// Protocol of the server
    #[arg(long, value_enum)]
    language: Language,

    /// kafka: the topic, whose partition 0 must be one segment
    #[arg(long, default_value = "bench")]
    topic: String,

    /// kafka: bytes of each batch
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    batch_bytes: u64,

    /// kafka: records of each batch
    #[arg(long, default_value_t = 3)]
    batch_records: u64,

    /// http: path of the file
    #[arg(long, default_value = "/segment")]
    path: String,

    /// Readers, each with its own share of --part
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,

    /// Bytes of one fetch
    #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) fetch_bytes: u32,

    /// Bytes of the file to read, FROM..TO
    #[arg(long, value_parser = part)]
    pub(crate) part: Range<u64>,

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
    /// The dialect of the requests.
    ///
    /// # Errors
    /// The ranges are not whole batches.
    pub(crate) fn protocol(&self) -> anyhow::Result<Protocol> {
        Ok(match self.language {
            Language::Raw => Protocol::Raw,
            Language::Http => Protocol::Http { path: self.path.clone() },
            Language::Kafka => {
                let len_bytes = self.batch_bytes;
                let whole = |bytes: u64| bytes.is_multiple_of(len_bytes);
                ensure!(
                    whole(self.part.start) && whole(self.fetch_bytes.into()),
                    "part and fetches must be whole batches of {len_bytes} bytes"
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
