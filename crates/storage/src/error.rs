//! Why a log cannot be opened, and why an append cannot begin.
//!
//! A `LogError` keeps a whole partition from being served, so its text names the file. An
//! `AppendError` refuses one batch and leaves the log as it was. Errors of look-ups are in step.rs.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::units::Offset;

/// Why a log cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system returned an error.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// All of the log is in the message format of before 2017, which is not served; or a part of it
    /// that cannot be passed over.
    #[error(
        "{path}: messages of format {magic} (before Kafka 0.11) are not served; let a Kafka serve this directory, \
         copy the topic there into a new one, and bring that"
    )]
    OldFormat {
        /// The segment.
        path: PathBuf,
        /// 0 or 1.
        magic: i8,
    },
    /// A file has contents that cannot be.
    #[error("{path}: {what}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Why it is refused.
        what: String,
    },
}

impl LogError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { path: path.to_owned(), source }
    }
}

/// Why an append cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// An earlier write failed. Nothing is appended until the log is opened again.
    #[error("the partition is offline since a write failed")]
    Offline,
    /// The producer sends a batch again whose answer it did not receive. Give the same answer.
    #[error("already appended at offset {base_offset}")]
    Duplicate {
        /// Its first offset.
        base_offset: Offset,
        /// Its last offset.
        last_offset: Offset,
    },
    /// A batch of this producer is missing before this one.
    #[error("producer {producer_id} sent sequence {got}, expected {expected}")]
    OutOfOrderSequence {
        /// Who.
        producer_id: i64,
        /// The sequence that follows the producer's last batch.
        expected: i32,
        /// The sequence sent.
        got: i32,
    },
    /// The producer has been replaced by one with a later epoch.
    #[error("producer {producer_id} sent epoch {got}, the current one is {current}")]
    InvalidProducerEpoch {
        /// Who.
        producer_id: i64,
        /// The latest epoch seen.
        current: i16,
        /// The epoch sent.
        got: i16,
    },
    /// Offsets are 63 bits.
    #[error("{count} records do not fit above offset {log_end}")]
    OffsetsExhausted {
        /// The log end.
        log_end: Offset,
        /// Records to append.
        count: i64,
    },
}
