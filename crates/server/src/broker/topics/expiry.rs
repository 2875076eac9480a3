//! Retention, partition by partition: seals and deletes expired segments, logs and counts them.
//!
//! Called periodically.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use penstock_storage::{AgeRead, ExpiredSegment, Expiry};

use super::Topics;
use crate::broker::metrics::Metrics;
use crate::broker::partition::{Partition, ProduceFailure};
use crate::broker::read_errors::{What, is_of_the_disk};
use crate::log_budget::LogBudget;

impl Topics {
    /// Seals active segments whose records have all expired.
    pub(crate) async fn roll_expired(&self) {
        let lines = LogBudget::new(Instant::now());
        for partition in self.partitions() {
            match partition.roll_if_expired().await {
                Ok(()) | Err(ProduceFailure::Deleted) => {}
                Err(error) if lines.take(Instant::now()).is_some() => {
                    tracing::error!(partition = %partition.name, %error, "cannot roll an expired segment");
                }
                Err(_) => {}
            }
        }
    }

    /// Deletes expired segments. Blocks.
    pub(crate) fn expire(&self, now_ms: i64, metrics: &Metrics) {
        for partition in self.partitions() {
            for (why, gone) in expire(&partition, now_ms, metrics) {
                report(&partition, why, gone);
                metrics.note_expired(why, gone.segments, gone.bytes);
            }
        }
    }
}

/// The segments of one partition that expired for one reason.
#[derive(Debug, Clone, Copy, Default)]
struct Gone {
    segments: u64,
    bytes: u64,
}

fn expire(partition: &Arc<Partition>, now_ms: i64, metrics: &Metrics) -> BTreeMap<Expiry, Gone> {
    let mut all: BTreeMap<Expiry, Gone> = BTreeMap::new();
    while partition.touch_files(|| let_go(partition, now_ms, &mut all)).is_some() {
        // Without the directory's lock: a roll, and so an append, waits for that lock, and a whole
        // segment may have to be read. A deleted topic makes no use of the result.
        let Some(unread) = partition.log().unread_age(now_ms) else { break };
        match unread.run() {
            Ok(age) => partition.log().note_age(age),
            Err(error) if partition.touch_files(|| ()).is_some() => {
                metrics.note_read_error(What::Age);
                tracing::warn!(partition = %partition.name, %error, "cannot find the age of a segment");
                if !is_of_the_disk(&error) || !is_old_by_last_write(partition, &unread, now_ms) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    all
}

/// Whether a segment that the disk cannot read is past retention by its last write. Otherwise it
/// would keep all that follow it for ever, and fill the disk.
fn is_old_by_last_write(partition: &Partition, unread: &AgeRead, now_ms: i64) -> bool {
    let Ok(age) = unread.by_last_write() else { return false };
    let mut log = partition.log();
    log.note_age(age);
    // What is left to be read are its records, if the last write leaves it open.
    log.unread_age(now_ms).is_none()
}

fn let_go(partition: &Partition, now_ms: i64, all: &mut BTreeMap<Expiry, Gone>) {
    // The guard ends with the statement: files are unlinked without it.
    let expired = partition.log().expire(now_ms);
    for segment in expired {
        let ExpiredSegment { why, size_bytes, .. } = segment;
        let gone = all.entry(why).or_default();
        (gone.segments, gone.bytes) = (gone.segments + 1, gone.bytes + size_bytes);
        if let Err(error) = segment.unlink() {
            tracing::error!(partition = %partition.name, %error, "cannot unlink an expired segment");
        }
    }
}

fn report(partition: &Partition, why: Expiry, gone: Gone) {
    let log = partition.log();
    let (retention_ms, retention_bytes) = (log.config().retention_ms, log.config().retention_bytes);
    let log_start = log.log_start().0;
    drop(log);
    let why = match why {
        Expiry::LogStart => "below the log start".to_owned(),
        Expiry::Size => format!("retention.bytes is {}", retention_bytes.unwrap_or_default()),
        Expiry::Time => format!("retention.ms is {}", retention_ms.unwrap_or_default()),
    };
    tracing::info!(partition = %partition.name, segments = gone.segments, bytes = gone.bytes, why, log_start,
        "expired segments");
}
