//! Committed offsets as Kafka keeps them: the log of `__consumer_offsets`, a compacted topic with a
//! record for each group, topic and partition.
//!
//! All commits of a group are in one partition, and the newest record of a key counts. Unreadable
//! parts are skipped, counted and logged: other commits are still valid. Never writes.

mod record;
mod replay;
#[cfg(test)]
mod tests;

use penstock_coordinator::Committed;
use penstock_wire::Str;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use penstock_batch::{BatchHeader, Codec, HEADER_LEN};
use penstock_storage::{PartitionName, SegmentPiece, TopicId};

use self::replay::Replay;
use super::segment_files;

/// The topic's name.
pub(crate) const TOPIC: &str = "__consumer_offsets";

/// The most lines that a reading logs about unreadable parts; the rest is counted.
const LINES_MAX: u64 = 20;

/// Returns the records of a batch with a compressed body.
pub(crate) type Decompress<'a> = &'a dyn Fn(Codec, &[u8]) -> Result<Vec<u8>, String>;

/// The id of the topic that has a name now, if known.
pub(crate) type TopicIds<'a> = &'a dyn Fn(&str) -> Option<TopicId>;

/// An offset that a group committed to a Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) group: Str,
    pub(crate) topic: Str,
    pub(crate) partition: i32,
    pub(crate) at: Committed,
    /// When it was committed, in milliseconds since 1970.
    pub(crate) committed_ms: i64,
}

/// All offsets found, and how well they could be read.
#[derive(Debug, Default)]
pub(crate) struct CommittedOffsets {
    /// One for each group, topic and partition.
    pub(crate) offsets: Vec<Foreign>,
    pub(crate) report: Report,
}

/// The report of a reading, beside the offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Offsets left out because they had expired.
    pub(crate) expired: u64,
    /// Offsets left out because they are about a deleted topic whose name another one has now.
    pub(crate) outlived: u64,
    /// Offsets left out because their transactions have not ended.
    pub(crate) undecided: u64,
    /// Records, batches and ranges skipped. Older commits may count in the place of newer ones
    /// there.
    pub(crate) unreadable: u64,
}

/// Why the log could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub(crate) struct ReadError {
    path: PathBuf,
    source: io::Error,
}

/// Reads all partitions of the topic in `data_dir`; empty if there are none. Blocks.
///
/// # Errors
/// The file system's.
pub(crate) fn read(
    data_dir: &Path,
    decompress: Decompress<'_>,
    topic_ids: TopicIds<'_>,
    now_ms: i64,
) -> Result<CommittedOffsets, ReadError> {
    let (mut offsets, mut report) = (Vec::new(), Report::default());
    for directory in partitions(data_dir)? {
        let replay = read_partition(&directory, decompress, &mut report)?;
        for (key, value) in replay.finish(&mut report) {
            if value.expires_ms.is_some_and(|at| at <= now_ms) {
                report.expired += 1;
            } else if is_outlived(value.topic_id, topic_ids(&key.topic)) {
                report.outlived += 1;
            } else {
                offsets.push(Foreign {
                    group: key.group.into(),
                    topic: key.topic.into(),
                    partition: key.partition,
                    at: value.committed,
                    committed_ms: value.committed_ms,
                });
            }
        }
    }
    Ok(CommittedOffsets { offsets, report })
}

/// A commit without a topic id is about any topic of the name.
fn is_outlived(meant: Option<TopicId>, now: Option<TopicId>) -> bool {
    meant.zip(now).is_some_and(|(meant, now)| meant != now)
}

fn partitions(data_dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_dir).map_err(error_at(data_dir))? {
        let entry = entry.map_err(error_at(data_dir))?;
        let partition = entry.file_name().to_str().and_then(PartitionName::parse);
        found.extend(partition.filter(|name| name.topic == TOPIC).map(|name| (name, entry.path())));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn read_partition(
    directory: &Path,
    decompress: Decompress<'_>,
    report: &mut Report,
) -> Result<Replay, ReadError> {
    let mut replay = Replay::default();
    let segments = segment_files::segments(directory).map_err(error_at(directory))?;
    for (index, segment) in segments.iter().enumerate() {
        let (path, is_last) = (segment.path.display(), index + 1 == segments.len());
        let read = segment_files::read(&segment.path, |piece| {
            match piece {
                SegmentPiece::Batch { position, bytes } => {
                    if let Err(problem) = apply(&mut replay, &bytes, decompress, report) {
                        let position = position.0;
                        report.note_unreadable(&format_args!(
                            "{path}, position {position}: {problem}"
                        ));
                    }
                }
                // A torn write at the end of the log was never acknowledged.
                SegmentPiece::End(_) if is_last => {}
                SegmentPiece::Damage(damage) | SegmentPiece::End(damage) => {
                    let (position, len_bytes) = (damage.position.0, damage.len_bytes);
                    report.note_unreadable(&format_args!(
                        "{path}, position {position}: {len_bytes} bytes are no sound batch"
                    ));
                }
            }
            Ok::<_, io::Error>(())
        });
        read.map_err(error_at(&segment.path))?;
    }
    Ok(replay)
}

fn apply(
    replay: &mut Replay,
    batch: &[u8],
    decompress: Decompress<'_>,
    report: &mut Report,
) -> Result<(), String> {
    let header = BatchHeader::parse(batch).map_err(|error| error.to_string())?;
    let body = batch.get(HEADER_LEN..).unwrap_or_default();
    match header.codec() {
        None => return Err("its codec is not known".to_owned()),
        Some(Codec::None) => replay.apply(&header, body, report),
        Some(codec) => replay.apply(&header, &decompress(codec, body)?, report),
    }
    Ok(())
}

impl Report {
    fn note_unreadable(&mut self, what: &dyn Display) {
        self.unreadable += 1;
        if self.unreadable <= LINES_MAX {
            tracing::warn!("committed offsets that cannot be read are passed over: {what}");
        }
    }
}

fn error_at(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    move |source| ReadError { path: path.to_owned(), source }
}
