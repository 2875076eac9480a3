//! Moving the recovery point: everything up to the log end goes to the disk, and is known to be
//! there.
//!
//! ```text
//!   begin_flush ──▶ LogFlush ──run, where blocking is allowed──▶ finish_flush     the point has moved
//!                              1. index entries, epochs               │ Sync: fail_flush, offline
//!                              2. sync of logs and indexes            │ Write: the point stays
//!                              3. the producers' snapshot, the directory
//! ```
//!
//! The snapshot comes after the batches it knows of: one that is there is true. Appends and rolls
//! go on meanwhile; segments must not be unlinked. A flush that is dropped leaves the point where
//! it was. A close is a flush too: `begin_close`. Where all is on the disk it has nothing to sync.

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

/// All that is not yet known to be on the disk.
#[derive(Debug)]
pub struct LogFlush {
    dir: Arc<Directory>,
    /// The log end when it began.
    point: Offset,
    /// Of a close: what is to be cut first.
    cut: Option<TailCut>,
    /// What recovery found no room to keep. Below the point nobody would find it again.
    damage: Option<DamageFlush>,
    entries: Vec<IndexFlush>,
    segments: Vec<Arc<SegmentFiles>>,
    /// What had touched files when it began: `Log::changes`.
    changes: u64,
    /// Only index entries are new: no more than their files is synced.
    is_of_entries: bool,
    /// Of the producers at `point`; `None` when there is one already.
    snapshot: Option<Vec<u8>>,
    /// A snapshot that this one makes needless.
    superseded: Option<Offset>,
}

/// Why the recovery point does not move.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// A file beside the batches could not be written, or none could be opened for a sync in a
    /// shortage. A later flush may do better.
    #[error("cannot write what belongs to the batches: {0}")]
    Write(#[source] io::Error),
    /// Nobody knows what is on the disk.
    #[error("cannot sync: {0}")]
    Sync(#[source] io::Error),
    /// Who asked for it did not wait for its end.
    #[error("given up")]
    GivenUp,
}

impl LogFlush {
    /// Writes and syncs. Blocks, for as long as the disk takes for what was appended since the last
    /// time.
    ///
    /// Must not be run again after an error: a second sync may succeed for what the first one lost.
    pub fn run(&self) -> Result<(), FlushError> {
        self.run_while(&|| true)
    }

    /// The same while `goes_on`, which is asked before each segment, and before each of the other
    /// files. Blocks.
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

    /// Writes the batches of it to the disk, which is what takes time; `run` then finds little left
    /// to do. Unlike that it touches no file by name. Blocks.
    pub fn sync_batches(&self) -> Result<(), FlushError> {
        self.segments.iter().try_for_each(|files| files.log.sync_data()).map_err(FlushError::Sync)
    }

    fn write_snapshot(&self) -> io::Result<()> {
        let Some(bytes) = &self.snapshot else { return Ok(()) };
        self.dir.put_file(&format!("{:020}.{SNAPSHOT}", self.point.0), bytes)
    }

    /// Not before the new one has its name on the disk.
    fn remove_superseded(&self) -> io::Result<()> {
        let Some(old) = self.superseded else { return Ok(()) };
        match self.dir.disk().remove_file(&segment_file(&self.dir, old, SNAPSHOT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A sync that could not even be asked for, in a shortage, has not failed: the next flush asks
/// again.
fn unsynced(error: io::Error) -> FlushError {
    match is_shortage(&error) {
        true => FlushError::Write(error),
        false => FlushError::Sync(error),
    }
}

/// What a failed sync may have lost, to be written again: the kernel has marked its pages clean, so
/// that a flush of the next life would find nothing to do and take for durable what is not.
#[derive(Debug)]
pub struct WriteAgain {
    /// Each with its committed bytes, which never change.
    segments: Vec<(Arc<SegmentFiles>, u64)>,
}

impl WriteAgain {
    /// Writes the same bytes to the same places; nobody who reads them notices. Blocks.
    pub fn run(self) -> io::Result<()> {
        self.segments.iter().try_for_each(|(files, len_bytes)| files.write_again(*len_bytes))
    }
}

impl Log {
    /// What brings the recovery point to the log end; `None` when it is there, or the log is
    /// offline. One at a time: the next begins when this one is finished.
    pub fn begin_flush(&mut self) -> Option<LogFlush> {
        let is_new = self.log_end > self.recovery_point || self.has_unkept_damage;
        if !is_new || self.is_offline() {
            return None;
        }
        let entries = self.unflushed_indexes();
        Some(self.flush(entries))
    }

    /// All of it is on the disk.
    pub fn finish_flush(&mut self, flush: LogFlush) {
        self.recovery_point = self.recovery_point.max(flush.point);
        self.synced_changes = Some(flush.changes);
        if flush.snapshot.is_some() {
            self.snapshot = flush.point;
        }
        self.is_torn &= flush.cut.is_none();
        self.has_unkept_damage &= flush.damage.is_none();
    }

    /// It is not, or nobody knows. After a failed sync the log goes offline: what is committed can
    /// still be read, nothing is appended until it is opened anew. Run the job that is given then.
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

    /// For whoever syncs the log's files himself, when such a sync has failed and the log is
    /// offline.
    pub fn write_again(&self) -> WriteAgain {
        let of = |segment: &Segment| (segment.files.clone(), segment.size_bytes);
        WriteAgain { segments: self.unflushed().map(of).collect() }
    }

    /// Below its offset everything is on the disk. The caller keeps it over restarts
    /// (`DataDir::write_recovery_points`).
    pub fn recovery_point(&self) -> RecoveryPoint {
        RecoveryPoint { topic_id: self.topic_id, offset: self.recovery_point }
    }

    /// What completes every file and brings the recovery point to the log end; `None`: all of it is
    /// on the disk. Nothing is appended any more. What is committed can still be read.
    ///
    /// Only if all logs of a directory closed without error may the caller write the marker of a
    /// clean stop. A log that is offline, or has an append under way, does not close cleanly.
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

    /// All of a close. Blocks.
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

    /// Whether all but entries of the active segment's indexes is on the disk.
    fn is_synced(&self) -> bool {
        self.log_end == self.recovery_point
            && self.log_end <= self.snapshot
            && self.writing == Writing::Idle
            && self.synced_changes == Some(self.changes)
            && !self.is_torn
            && !self.has_unkept_damage
            && self.epochs.flush().is_none()
    }

    /// The segments of which something is perhaps not on the disk.
    fn unflushed(&self) -> impl Iterator<Item = &Segment> {
        // A segment that ends at the point has perhaps got its last index entries since.
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
