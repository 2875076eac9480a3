//! Moving the recovery point: everything up to the log end is synced, and then known to be on the
//! disk.
//!
//! ```text
//!   begin_flush ──▶ LogFlush ──run, where blocking is allowed──▶ finish_flush     the point has moved
//!                              1. index entries, epochs               │ Sync: fail_flush, offline
//!                              2. sync of logs and indexes            │ Write: the point stays
//!                              3. the producers' snapshot, the directory
//! ```
//!
//! The snapshot is written after the batches that it covers, so a snapshot that exists is true.
//! Appends and rolls go on meanwhile; segments must not be unlinked. A flush that is dropped leaves
//! the point where it was. A close is a flush, too (`begin_close`). It has nothing to sync where
//! all is on the disk.

use std::{io, sync::Arc};

use crate::{
    checkpoint::{producer_snapshot, recovery_points::RecoveryPoint},
    damage::DamageFlush,
    disk::{Directory, is_shortage},
    log::{Log, Writing, index_flush::IndexFlush, torn::TailCut},
    segment::{
        Segment, SegmentFiles,
        listing::{SNAPSHOT, segment_file},
    },
    units::Offset,
};

/// A flush: all that is not yet known to be on the disk.
#[derive(Debug)]
pub struct LogFlush {
    dir: Arc<Directory>,
    /// The log end when the flush began.
    point: Offset,
    /// The tail that a close cuts first.
    cut: Option<TailCut>,
    /// Damage that found no room in its file. Below the new point it would not be found again.
    damage: Option<DamageFlush>,
    entries: Vec<IndexFlush>,
    segments: Vec<Arc<SegmentFiles>>,
    /// `Log::changes` when the flush began.
    changes: u64,
    /// Only index entries are new, so only their files are synced.
    is_of_entries: bool,
    /// The snapshot of the producers at `point`; `None` when the file exists already.
    snapshot: Option<Vec<u8>>,
    /// The older snapshot that this one replaces.
    superseded: Option<Offset>,
}

/// Why the recovery point does not move.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// A file beside the batches could not be written, or a shortage kept a file from being opened
    /// for its sync. A later flush may succeed.
    #[error("cannot write what belongs to the batches: {0}")]
    Write(#[source] io::Error),
    /// A sync failed, so what is on the disk is not known.
    #[error("cannot sync: {0}")]
    Sync(#[source] io::Error),
    /// The caller gave the flush up before its end.
    #[error("given up")]
    GivenUp,
}

impl LogFlush {
    /// Writes and syncs. Blocks for as long as the disk takes for the records appended since the
    /// last flush.
    ///
    /// Must not be run again after an error: a second sync may succeed although the first one lost
    /// data.
    pub fn run(&self) -> Result<(), FlushError> {
        self.run_while(&|| true)
    }

    /// Like `run`, but gives up once `goes_on` returns false. It is asked before each segment and
    /// each other file. Blocks.
    pub fn run_while(&self, goes_on: &dyn Fn() -> bool) -> Result<(), FlushError> {
        let ask = || goes_on().then_some(()).ok_or(FlushError::GivenUp);
        self.cut.iter().try_for_each(TailCut::run).map_err(FlushError::Write)?;
        self.damage.iter().try_for_each(DamageFlush::write).map_err(FlushError::Write)?;
        for entries in &self.entries {
            ask()?;
            entries.write().map_err(FlushError::Write)?;
        }
        if self.is_of_entries {
            return self.entries.iter().try_for_each(|entries| {
                ask()?;
                entries.sync().map_err(unsynced)
            });
        }
        for files in &self.segments {
            ask()?;
            files.sync().map_err(unsynced)?;
        }
        ask()?;
        self.write_snapshot().map_err(FlushError::Write)?;
        ask()?;
        self.dir.sync().map_err(unsynced)?;
        self.remove_superseded().map_err(FlushError::Write)
    }

    /// Syncs the batches alone, which takes most of the time; `run` then has little left to do.
    /// Unlike `run` it touches no file by name. Blocks.
    pub fn sync_batches(&self) -> Result<(), FlushError> {
        self.segments.iter().try_for_each(|files| files.log.sync_data()).map_err(FlushError::Sync)
    }

    fn write_snapshot(&self) -> io::Result<()> {
        let Some(bytes) = &self.snapshot else { return Ok(()) };
        self.dir.put_file(&format!("{:020}.{SNAPSHOT}", self.point.0), bytes)
    }

    /// Called only once the new snapshot's name is on the disk.
    fn remove_superseded(&self) -> io::Result<()> {
        let Some(old) = self.superseded else { return Ok(()) };
        match self.dir.disk().remove_file(&segment_file(&self.dir, old, SNAPSHOT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A shortage that kept a sync from being asked for is no failed sync: the next flush asks again.
fn unsynced(error: io::Error) -> FlushError {
    match is_shortage(&error) {
        true => FlushError::Write(error),
        false => FlushError::Sync(error),
    }
}

/// The bytes that a failed sync may have lost, to be written again. The kernel has marked their
/// pages clean. Without this, a flush after a restart would find nothing to sync, and count them as
/// durable.
#[derive(Debug)]
pub struct WriteAgain {
    /// Each segment with its committed bytes, which never change.
    segments: Vec<(Arc<SegmentFiles>, u64)>,
}

impl WriteAgain {
    /// Writes the same bytes to the same places, which no reader notices. Blocks.
    pub fn run(self) -> io::Result<()> {
        self.segments.iter().try_for_each(|(files, len_bytes)| files.write_again(*len_bytes))
    }
}

impl Log {
    /// The flush that brings the recovery point to the log end. `None`: the point is there, or the
    /// log is offline. One flush at a time: the next begins when this one has finished.
    pub fn begin_flush(&mut self) -> Option<LogFlush> {
        let is_new = self.log_end > self.recovery_point || self.has_unkept_damage;
        if !is_new || self.is_offline() {
            return None;
        }
        let entries = self.unflushed_indexes();
        Some(self.flush(entries))
    }

    /// The flush succeeded: all of it is on the disk.
    pub fn finish_flush(&mut self, flush: LogFlush) {
        self.recovery_point = self.recovery_point.max(flush.point);
        self.synced_changes = Some(flush.changes);
        if flush.snapshot.is_some() {
            self.snapshot = flush.point;
        }
        self.is_torn &= flush.cut.is_none();
        self.has_unkept_damage &= flush.damage.is_none();
    }

    /// The flush failed. After a failed sync the log goes offline: committed records can still be
    /// read, nothing is appended until the log is opened again. Run the job that is returned then.
    pub fn fail_flush(&mut self, flush: LogFlush, error: FlushError) -> Option<WriteAgain> {
        let (dir, point) = (self.dir.display(), flush.point.0);
        match error {
            FlushError::GivenUp => None,
            FlushError::Write(error) => {
                tracing::warn!(%dir, point, %error, "the recovery point stays where it was");
                None
            }
            FlushError::Sync(error) => {
                tracing::error!(
                    %dir, point, %error,
                    "a sync failed; the partition takes no more appends until the server is restarted"
                );
                self.sync_failed = true;
                Some(self.write_again())
            }
        }
    }

    /// The same job for a caller that syncs the log's files itself, after such a sync has failed
    /// and the log is offline.
    pub fn write_again(&self) -> WriteAgain {
        let of = |segment: &Segment| (segment.files.clone(), segment.size_bytes);
        WriteAgain { segments: self.unflushed().map(of).collect() }
    }

    /// The recovery point: everything below its offset is on the disk. The caller keeps it over
    /// restarts (`DataDir::write_recovery_points`).
    pub fn recovery_point(&self) -> RecoveryPoint {
        RecoveryPoint { topic_id: self.topic_id, offset: self.recovery_point }
    }

    /// The flush that completes every file and brings the recovery point to the log end. `None`:
    /// all of it is on the disk. Nothing is appended any more; committed records can still be read.
    ///
    /// The caller may write the marker of a clean stop only if all logs of a directory closed
    /// without error. A log that is offline, or has an append under way, does not close cleanly.
    pub fn begin_close(&mut self) -> io::Result<Option<LogFlush>> {
        if self.is_offline() {
            return Err(io::Error::other("the log is offline"));
        }
        if matches!(self.writing, Writing::Outstanding(_)) {
            return Err(io::Error::other("an append is under way"));
        }
        let (is_of_entries, cut) = (self.is_synced(), self.needs_cut());
        self.writing = Writing::Offline;
        self.active.indexer.forget_flushed();
        let entries = self.finish_indexes();
        if is_of_entries && entries.is_empty() {
            return Ok(None);
        }
        Ok(Some(LogFlush { is_of_entries, cut, ..self.flush(entries) }))
    }

    /// Begins, runs and finishes a close. Blocks.
    pub fn close(&mut self) -> io::Result<()> {
        let Some(flush) = self.begin_close()? else { return Ok(()) };
        match flush.run() {
            Ok(()) => self.finish_flush(flush),
            Err(error) => {
                let reported = io::Error::other(error.to_string());
                self.fail_flush(flush, error).map_or(Ok(()), WriteAgain::run)?;
                return Err(reported);
            }
        }
        Ok(())
    }

    /// Whether everything is on the disk, save entries of the active segment's indexes.
    fn is_synced(&self) -> bool {
        self.log_end == self.recovery_point
            && self.log_end <= self.snapshot
            && self.writing == Writing::Idle
            && self.synced_changes == Some(self.changes)
            && !self.is_torn
            && !self.has_unkept_damage
            && self.epochs.flush().is_none()
    }

    /// The segments that may not be on the disk whole.
    fn unflushed(&self) -> impl Iterator<Item = &Segment> {
        // A segment that ends at the point may have got its last index entries since.
        let first = self.sealed.partition_point(|segment| segment.base() < self.recovery_point);
        let sealed = self.sealed.range(first.saturating_sub(1)..);
        sealed.chain([&self.active.segment])
    }

    fn flush(&self, entries: Vec<IndexFlush>) -> LogFlush {
        let is_new = self.log_end > self.snapshot;
        let is_old = self.snapshot > Offset(0) && !self.has_segment(self.snapshot);
        LogFlush {
            dir: self.dir.clone(),
            point: self.log_end,
            cut: None,
            damage: self.has_unkept_damage.then(|| DamageFlush::new(&self.dir, self.damage())),
            entries,
            segments: self.unflushed().map(|segment| segment.files.clone()).collect(),
            changes: self.changes,
            is_of_entries: false,
            snapshot: is_new.then(|| producer_snapshot::encode(&self.producers.snapshot())),
            superseded: Some(self.snapshot).filter(|_| is_new && is_old),
        }
    }
}
