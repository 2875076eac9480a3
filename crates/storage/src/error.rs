//! Why a log cannot be opened, and why an append cannot begin.
//!
//! `LogError` blocks a whole partition, so its text names the file. `AppendError` refuses one batch
//! and leaves the log as it was. Errors of look-ups are in step.rs.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::units::Offset;

/// Why a log cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system said no.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The log is written in the message format of before 2017, which is not served, as a whole or
    /// in a place where it cannot be passed over.
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
    /// A small text file is not what it should be.
    #[error("{path}: {what}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
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
    /// An earlier write failed; nothing is appended until the log is opened anew.
    #[error("the partition is offline since a write failed")]
    Offline,
    /// The producer has sent this batch before (it did not hear the answer): answer as then.
    #[error("already appended at offset {base_offset}")]
    Duplicate {
        /// Where it was appended.
        base_offset: Offset,
        /// Its last record.
        last_offset: Offset,
    },
    /// A batch of this producer is missing before this one.
    #[error("producer {producer_id} sent sequence {got}, expected {expected}")]
    OutOfOrderSequence {
        /// Who.
        producer_id: i64,
        /// The sequence that follows what is in the log.
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
