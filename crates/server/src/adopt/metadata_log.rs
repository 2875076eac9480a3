//! Kafka's metadata of its topics: `__cluster_metadata-0`, the log of a KRaft cluster's
//! controllers, which every broker keeps.
//!
//! ```text
//!   00000000000000000917-0000000003.checkpoint    the state at offset 917, if there is such a file
//!   00000000000000000000.log                      records before 917 are skipped,
//!   00000000000000000850.log                      later ones change the snapshot's state
//! ```
//!
//! Incomplete configs must not be believed: a `retention.ms` that was not read would delete
//! records. So anything unreadable is an error with file and position. The one exception is a torn
//! write at the log's end, which Kafka's own start cuts off as well. Never writes.

mod record;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use penstock_batch::{BatchHeader, Codec};
use penstock_storage::{MAX_PARTITIONS, SegmentPiece, TopicId};

use self::record::MetadataRecord;
use self::replay::Replay;
use super::segment_files::{self, OffsetFile};

/// The metadata log's directory within a data directory.
pub(crate) const DIRECTORY: &str = "__cluster_metadata-0";

/// Key of the control record that ends a snapshot: version 0, type 4.
const SNAPSHOT_FOOTER: [u8; 4] = [0, 0, 0, 4];

/// The state of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) topics: BTreeMap<String, TopicMetadata>,
    /// By node id; "" has the defaults of all nodes.
    pub(crate) broker_configs: BTreeMap<String, BTreeMap<String, String>>,
}

/// The state of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicMetadata {
    pub(crate) id: TopicId,
    /// By partition: its nodes in the order of preference.
    pub(crate) replicas: BTreeMap<i32, Vec<i32>>,
    /// Only configs that differ from the brokers' defaults.
    pub(crate) configs: BTreeMap<String, String>,
}

impl TopicMetadata {
    /// The greatest partition id plus one.
    pub(crate) fn partition_count(&self) -> i32 {
        let count = self.replicas.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        count.min(MAX_PARTITIONS)
    }
}

/// Why the metadata cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataLogError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {problem}")]
    Directory { path: PathBuf, problem: String },
    #[error("{path}, position {position}: {problem}")]
    File { path: PathBuf, position: u64, problem: String },
}

/// Reads the metadata log in `data_dir`; `None` if there is none. Blocks.
///
/// # Errors
/// Something in it is unreadable or missing.
pub(crate) fn read(data_dir: &Path) -> Result<Option<Metadata>, MetadataLogError> {
    let directory = data_dir.join(DIRECTORY);
    if !directory.is_dir() {
        return Ok(None);
    }
    let io_error = |source| MetadataLogError::Io { path: directory.clone(), source };
    let snapshots = segment_files::snapshots(&directory).map_err(io_error)?;
    let segments = segment_files::segments(&directory).map_err(io_error)?;
    if snapshots.is_empty() && segments.is_empty() {
        let problem = "neither a snapshot nor a segment is in it".to_owned();
        return Err(MetadataLogError::Directory { path: directory, problem });
    }
    let mut reading = Reading::default();
    if let Some(latest) = snapshots.last() {
        reading.snapshot(latest)?;
    }
    // A segment ends where the next one begins. Segments that end at or before the snapshot are in
    // it.
    let read_from = segments.iter().rposition(|segment| segment.offset <= reading.next_offset);
    let segments = &segments[read_from.unwrap_or(0)..];
    for (index, segment) in segments.iter().enumerate() {
        reading.segment(segment, index + 1 == segments.len())?;
    }
    Ok(Some(reading.replay.finish()))
}

/// The progress of the reading.
#[derive(Default)]
struct Reading {
    replay: Replay,
    /// The offset of the first record that has not been applied.
    next_offset: i64,
}

impl Reading {
    fn snapshot(&mut self, file: &OffsetFile) -> Result<(), MetadataLogError> {
        let mut is_whole = false;
        let mut end = 0;
        read_file(file, |position, piece| {
            let batch = sound(piece)?;
            let header = header(&batch)?;
            end = position + batch.len() as u64;
            is_whole = header.is_control() && ends_snapshot(&batch)?;
            self.batch(&header, &batch, i64::MIN)
        })?;
        if !is_whole {
            let problem = "the snapshot has no footer, so it is not whole".to_owned();
            return Err(MetadataLogError::File { path: file.path.clone(), position: end, problem });
        }
        self.next_offset = file.offset;
        Ok(())
    }

    fn segment(&mut self, file: &OffsetFile, is_last: bool) -> Result<(), MetadataLogError> {
        read_file(file, |position, piece| {
            if let (true, SegmentPiece::End(torn)) = (is_last, &piece) {
                let (path, len_bytes) = (file.path.display(), torn.len_bytes);
                tracing::warn!(%path, position, len_bytes, "the metadata log ends in a torn write, which is left out");
                return Ok(());
            }
            let batch = sound(piece)?;
            let header = header(&batch)?;
            if header.last_offset() < self.next_offset {
                return Ok(());
            }
            // Nothing is ever compacted away here, so a gap is a loss.
            if header.base_offset > self.next_offset {
                let (from, to) = (self.next_offset, header.base_offset);
                return Err(format!("records {from} to before {to} are missing"));
            }
            self.batch(&header, &batch, self.next_offset)?;
            self.next_offset = header.last_offset().saturating_add(1);
            Ok(())
        })
    }

    /// Applies the records from an offset on.
    fn batch(&mut self, header: &BatchHeader, batch: &[u8], from: i64) -> Result<(), String> {
        if header.is_control() {
            return Ok(());
        }
        if header.codec() != Some(Codec::None) {
            return Err("the batch is compressed, which Kafka's controllers never do".into());
        }
        for record in penstock_batch::records(batch).map_err(words)? {
            let record = record.map_err(words)?;
            if record.offset < from {
                continue;
            }
            let value = record.value.ok_or("a record has no value");
            let applied = value
                .map_err(str::to_owned)
                .and_then(MetadataRecord::decode)
                .and_then(|change| self.replay.apply(change));
            applied.map_err(|problem| format!("record {}: {problem}", record.offset))?;
        }
        Ok(())
    }
}

/// Calls back with each piece of a file and its position; errors get the place added.
fn read_file(
    file: &OffsetFile,
    mut visit: impl FnMut(u64, SegmentPiece) -> Result<(), String>,
) -> Result<(), MetadataLogError> {
    segment_files::read(&file.path, |piece| {
        let position = match &piece {
            SegmentPiece::Batch { position, .. } => position.0,
            SegmentPiece::Damage(damage) | SegmentPiece::End(damage) => damage.position.0,
        };
        visit(position, piece).map_err(|problem| Failure::Content { position, problem })
    })
    .map_err(|failure| match failure {
        Failure::Io(source) => MetadataLogError::Io { path: file.path.clone(), source },
        Failure::Content { position, problem } => {
            MetadataLogError::File { path: file.path.clone(), position, problem }
        }
    })
}

enum Failure {
    Io(io::Error),
    Content { position: u64, problem: String },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

fn sound(piece: SegmentPiece) -> Result<Vec<u8>, String> {
    match piece {
        SegmentPiece::Batch { bytes, .. } => Ok(bytes),
        SegmentPiece::Damage(damage) | SegmentPiece::End(damage) => {
            Err(format!("{} bytes are no sound batch", damage.len_bytes))
        }
    }
}

fn header(batch: &[u8]) -> Result<BatchHeader, String> {
    BatchHeader::parse(batch).map_err(words)
}

fn ends_snapshot(control_batch: &[u8]) -> Result<bool, String> {
    let last = penstock_batch::records(control_batch).map_err(words)?.last();
    Ok(matches!(last, Some(Ok(record)) if record.key == Some(&SNAPSHOT_FOOTER[..])))
}

fn words(error: penstock_batch::BatchError) -> String {
    error.to_string()
}
