//! One partition: its log, its one write at a time, the requests that wait for it.
//!
//! Called by fetch, produce and the other requests. The log's mutex is held for decisions only.
//! Reads and writes go through the worker's ring with no lock held. `partition/group_commit.rs` has
//! the path of a produce, including a disk without room.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use penstock_ring::{Ring, blocking};
use penstock_storage::{
    AppendError, Extent, Find, FlushError, Found, Log, LogFlush, Offset, PartitionName,
    ProducedBatch, Roll, TimestampFound, WriteAgain, is_no_room,
};

use crate::broker::read::{ReadError, resolve};
use crate::broker::waiting::Waiting;
use crate::clock;
use crate::config::durability::Durability;

mod directory;
mod flushed;
mod group_commit;
mod queue;

use directory::{Directory, lock_while};
use flushed::Flushed;
pub(crate) use group_commit::Commits;
use queue::Queue;

/// One partition of one topic.
pub(crate) struct Partition {
    pub(crate) name: PartitionName,
    log: Mutex<Log>,
    flushed: Flushed,
    queue: Queue,
    commits: Arc<Commits>,
    /// Held from the first decision of a write to its last, so there is one write at a time.
    appending: tokio::sync::Mutex<()>,
    /// Held over a flush or a close as a whole. The kernel reports an error to one sync only, so
    /// the log must have it before another sync begins.
    flushing: Mutex<()>,
    directory: Arc<Directory>,
    waiting: Arc<Waiting>,
}

/// The offsets in every answer about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) leader_epoch: i32,
}

/// Why records were not appended. A commit has one reason for all its requests.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ProduceFailure {
    /// The log refuses the batch.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// The write or its sync failed; the partition is offline from here on.
    #[error("the write failed: {0}")]
    Write(Arc<io::Error>),
    /// The disk is full, or the system short of memory. Nothing was appended; a later attempt may
    /// find room.
    #[error("there was no room for them: {0}")]
    NoRoom(Arc<io::Error>),
    /// A new segment could not be made.
    #[error("cannot roll: {0}")]
    Roll(Arc<io::Error>),
    /// The topic was deleted while the append waited.
    #[error("the topic has been deleted")]
    Deleted,
    /// The worker that wrote the batch ended; the partition is offline.
    #[error("the write was given up")]
    GivenUp,
}

/// The outcome of closing a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// All records are on the disk.
    Whole,
    /// Its syncs were given up: the next start reads what was not synced.
    GivenUp,
    /// There was no room for index or snapshot: the next start reads more.
    NoRoom,
}

impl Partition {
    pub(crate) fn new(name: PartitionName, log: Log, commits: Arc<Commits>) -> Arc<Self> {
        Arc::new(Partition {
            name,
            flushed: Flushed::new(log.recovery_point().offset),
            log: Mutex::new(log),
            queue: Queue::default(),
            commits,
            appending: tokio::sync::Mutex::default(),
            flushing: Mutex::default(),
            directory: Arc::default(),
            waiting: Arc::default(),
        })
    }

    /// Locks the log for a decision. The guard is never kept across an await.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    pub(crate) fn waiting(&self) -> Arc<Waiting> {
        Arc::clone(&self.waiting)
    }

    /// Runs a job that uses the log's files by name, unless the partition is deleted. Blocks.
    pub(crate) fn touch_files<T>(&self, job: impl FnOnce() -> T) -> Option<T> {
        self.directory.touch(job)
    }

    /// Takes the directory's name away with `take_away` while no job uses files by name. If that
    /// succeeds, no such job begins any more. Blocks.
    ///
    /// # Errors
    /// Those of `take_away`; the partition then goes on.
    pub(crate) fn give_up_directory<T, E>(
        &self,
        take_away: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut is_gone = self.directory.lock();
        let taken = take_away()?;
        *is_gone = true;
        Ok(taken)
    }

    /// Gives the directory its name back with `put_back`, after which jobs may use its files again.
    /// Blocks.
    ///
    /// # Errors
    /// Those of `put_back`; the partition then has no directory.
    pub(crate) fn take_directory_back<E>(
        &self,
        put_back: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut is_gone = self.directory.lock();
        put_back()?;
        *is_gone = false;
        Ok(())
    }

    /// Whether producers may wait for a sync of their records.
    pub(crate) fn promises_syncs(&self) -> bool {
        self.commits.durability == Durability::Fsync || self.log().config().flush_messages.is_some()
    }

    /// Whether `flush.ms` is over.
    pub(crate) fn is_flush_due(&self, now: Instant) -> bool {
        let log = self.log();
        self.flushed.is_due(log.config(), log.log_end(), now)
    }

    /// Moves the recovery point to the log end. Returns whether it moved. Blocks.
    pub(crate) fn flush(&self) -> bool {
        let _one_at_a_time = self.flushing.lock();
        // The kernel reports a file's error to one sync only, and that must be the commit's own.
        // Appends are held up while the rest is synced: nothing if each commit is synced, else less
        // than `flush.messages`.
        let _no_commit = self.promises_syncs().then(|| self.appending.blocking_lock());
        let begin = || self.log().begin_flush();
        // Before the directory is locked: a roll, and so an append, waits for that lock.
        if let Some(flush) = begin()
            && let Err(error) = flush.sync_batches()
        {
            self.fail_flush(flush, error);
            return false;
        }
        let ran = self.touch_files(|| {
            let flush = begin()?;
            if let Err(error) = flush.run() {
                return Some(Err((flush, error)));
            }
            // Before damage is noted that this flush does not have.
            self.finish_flush(flush);
            Some(Ok(()))
        });
        match ran.flatten() {
            Some(Ok(())) => true,
            Some(Err((flush, error))) => {
                self.fail_flush(flush, error);
                false
            }
            None => false,
        }
    }

    fn finish_flush(&self, flush: LogFlush) {
        let mut log = self.log();
        log.finish_flush(flush);
        self.flushed.note(log.recovery_point().offset);
    }

    /// Closes the log, unless `goes_on` ends before all of it is on the disk, or its other files
    /// find no room. A job that uses files by name is waited for, and none begins afterwards.
    /// Blocks, and never holds the log's lock meanwhile.
    ///
    /// # Errors
    /// It cannot be closed cleanly.
    pub(crate) fn close(&self, goes_on: &dyn Fn() -> bool) -> io::Result<Closed> {
        let Some(_one_at_a_time) = lock_while(&self.flushing, goes_on) else {
            return Ok(Closed::GivenUp);
        };
        let Some(mut is_gone) = self.directory.lock_while(goes_on) else {
            return Ok(Closed::GivenUp);
        };
        if std::mem::replace(&mut is_gone, true) {
            return Ok(Closed::Whole);
        }
        let Some(flush) = self.log().begin_close()? else { return Ok(Closed::Whole) };
        match flush.run_while(goes_on) {
            Ok(()) => {
                self.log().finish_flush(flush);
                Ok(Closed::Whole)
            }
            Err(FlushError::GivenUp) => Ok(Closed::GivenUp),
            Err(FlushError::Write(error)) if is_no_room(&error) => {
                tracing::warn!(partition = %self.name, %error, "no room for the files of a clean stop");
                Ok(Closed::NoRoom)
            }
            Err(error) => {
                let reported = io::Error::other(error.to_string());
                let again = self.log().fail_flush(flush, error);
                self.report_written_again(again.map(WriteAgain::run));
                Err(reported)
            }
        }
    }

    fn fail_flush(&self, flush: LogFlush, error: FlushError) {
        // The guard ends with the statement: lost bytes are written again without it.
        let again = self.log().fail_flush(flush, error);
        self.report_written_again(again.and_then(|again| self.touch_files(|| again.run())));
    }

    fn report_written_again(&self, written: Option<io::Result<()>>) {
        if let Some(Err(error)) = written {
            tracing::error!(partition = %self.name, %error, "cannot write again what could not be synced");
        }
    }

    /// After a failed sync for producers, writes again whatever had been acknowledged without a
    /// sync; see [`WriteAgain`](penstock_storage::WriteAgain).
    async fn write_again_what_was_not_synced(&self) {
        let again = {
            let log = self.log();
            if self.syncs_every_commit(&log) {
                return;
            }
            log.write_again()
        };
        let directory = Arc::clone(&self.directory);
        let writing = blocking::run(move || directory.touch(|| again.run()));
        self.report_written_again(writing.await.ok().flatten());
    }

    /// Without followers, everything that is written is below the high watermark.
    pub(crate) fn bounds(&self) -> Bounds {
        let log = self.log();
        Bounds {
            log_start: log.log_start(),
            high_watermark: log.log_end(),
            leader_epoch: leader_epoch_of(&log),
        }
    }

    /// The batch that holds `offset`; `None` at the log end.
    ///
    /// # Errors
    /// The offset is outside of the log, the bytes there are no batch, or the disk fails.
    pub(crate) async fn find(
        &self,
        ring: &Ring,
        offset: Offset,
    ) -> Result<Option<Found>, ReadError> {
        let found = self.log().find(offset)?;
        match found {
            Find::AtEnd => Ok(None),
            Find::Lookup(lookup) => resolve(ring, lookup).await.map(Some),
        }
    }

    /// Ends an extent with its last whole batch, if the end of one is known
    /// ([`Log::end_with_a_batch`]).
    pub(crate) fn end_with_a_batch(&self, found: &Found, extent: &mut Extent) {
        if found.has_more_than(extent) {
            self.log().end_with_a_batch(found, extent);
        }
    }

    /// The first record at or after a time.
    ///
    /// # Errors
    /// As [`Partition::find`].
    pub(crate) async fn find_timestamp(
        &self,
        ring: &Ring,
        timestamp_ms: i64,
    ) -> Result<Option<TimestampFound>, ReadError> {
        let lookup = self.log().find_timestamp(timestamp_ms);
        resolve(ring, lookup).await
    }

    /// The record with the largest timestamp.
    ///
    /// # Errors
    /// As [`Partition::find`].
    pub(crate) async fn find_max_timestamp(
        &self,
        ring: &Ring,
    ) -> Result<Option<TimestampFound>, ReadError> {
        let lookup = self.log().find_max_timestamp();
        resolve(ring, lookup).await
    }

    /// Seals an active segment whose records have all outlived retention, so that it can expire.
    pub(crate) async fn roll_if_expired(&self) -> Result<(), ProduceFailure> {
        let _one_at_a_time = self.appending.lock().await;
        let now_ms = clock::now_ms();
        if !self.log().active_has_expired(now_ms) {
            return Ok(());
        }
        self.cut_tail().await?;
        let roll = self.log().needs_expiry_roll(now_ms);
        self.roll(roll).await
    }

    /// Cuts the file at the log end if an earlier attempt found no room. The caller holds the
    /// append lock.
    async fn cut_tail(&self) -> Result<(), ProduceFailure> {
        let Some(cut) = self.log().needs_cut() else { return Ok(()) };
        let cutting = blocking::run(move || cut.run()).await;
        let outcome = cutting.map_err(io::Error::from).flatten();
        self.log().finish_cut(&outcome);
        outcome.map_err(|error| match is_no_room(&error) {
            true => ProduceFailure::NoRoom(error.into()),
            false => ProduceFailure::Write(error.into()),
        })
    }

    async fn roll_if_due(
        &self,
        incoming: &ProducedBatch,
        now_ms: i64,
    ) -> Result<(), ProduceFailure> {
        let roll = self.log().needs_roll(incoming, now_ms);
        self.roll(roll).await
    }

    /// Makes the next segment on a thread that may block. Where producers wait for syncs, syncs all
    /// of the old segment. The caller holds the append lock.
    async fn roll(&self, due: Option<Roll>) -> Result<(), ProduceFailure> {
        let Some(roll) = due else { return Ok(()) };
        let directory = Arc::clone(&self.directory);
        let is_synced = self.promises_syncs();
        let create = move || {
            if is_synced {
                roll.sync_sealed()?;
            }
            roll.create()
        };
        let creating = blocking::run(move || directory.touch(create));
        let created = creating
            .await
            .map_err(|error| ProduceFailure::Roll(Arc::new(io::Error::from(error))))?;
        match created.ok_or(ProduceFailure::Deleted)? {
            Ok(new_segment) => {
                let mut log = self.log();
                log.install_roll(new_segment);
                if is_synced {
                    self.flushed.note(log.log_end());
                }
            }
            Err(error) => {
                self.log().fail_roll(&error);
                if is_synced && self.log().is_offline() {
                    self.write_again_what_was_not_synced().await;
                }
                return Err(ProduceFailure::Roll(error.into()));
            }
        }
        Ok(())
    }
}

/// A log from a cluster goes on in its last epoch; a new log is in epoch 0.
fn leader_epoch_of(log: &Log) -> i32 {
    log.leader_epochs().last().map_or(0, |last| last.leader_epoch)
}
