//! Group commit: one write, and where it is due one sync, for all producers that wait for a
//! partition. What one write carries is a *commit*. A sync is due for every commit in `fsync` mode,
//! else for the commit that completes the topic's `flush.messages`.
//!
//! ```text
//!   producer A ──leads──► append lock ─ roll? ─ begin A, B, C ─ write ─ sync ─ finish all ─► hand over, then answer
//!   producer B ──waits──────────────────────────┘                                    ├─► B: its offsets
//!   producer C ──waits──────────────────────────┘                                    ├─► C: its offsets
//!   producer D ──waits (came during the write) ──────────────────────────────────────┴─► D leads
//! ```
//!
//! One of the waiting producers writes the commit, on the ring of its own worker. So no task works
//! for others once a stop has answered it, and a lone producer goes straight through. The lead is a
//! value that passes itself on when dropped, however its holder ends. Called by produce, through
//! `Partition`.
//!
//! | the write or sync | the log | the commit's producers |
//! |---|---|---|
//! | succeeds | goes on | answered with their offsets |
//! | finds the disk full, or memory short | the file is cut at the old end, at the latest before the next commit | [`ProduceFailure::NoRoom`]; a later attempt may succeed |
//! | fails | offline until restart | [`ProduceFailure::Write`] |

use std::io;
use std::sync::Arc;
use std::time::Instant;

use penstock_ring::{Ring, Then, WriteError, blocking};
use penstock_storage::{
    Append, AppendError, Appended, Log, Offset, ProducedBatch, is_no_room, is_shortage,
};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use super::queue::Waiter;
use super::{Partition, ProduceFailure, leader_epoch_of};
use crate::clock;
use crate::config::durability::Durability;
use crate::config::limits::{COMMIT_MAX_BYTES, COMMIT_MAX_REQUESTS};

#[cfg(test)]
mod tests;

/// The outcome of one request's batch.
pub(crate) type Outcome = Result<Appended, ProduceFailure>;

/// How commits are made, and their counters: the same for all partitions.
pub(crate) struct Commits {
    pub(crate) durability: Durability,
    /// Requests written.
    pub(crate) appends: Counter,
    /// Writes that carried them.
    pub(crate) writes: Counter,
    /// Syncs of a log for producers.
    pub(crate) syncs: Counter,
}

/// What a waiting producer receives.
pub(super) enum Turn {
    /// Another producer has written its batch, or failed to.
    Over(Outcome),
    /// It must write, for itself and for the producers behind it.
    Lead(Lead, ProducedBatch),
}

/// The right and the duty to write the next commit. Dropped, it goes to the producer that waits
/// longest.
pub(super) struct Lead(Arc<Partition>);

/// Appends that have begun and are written together. Dropped before they are settled, it takes the
/// partition offline: the content of the file is unknown then.
struct Commit<'a> {
    partition: &'a Partition,
    /// What comes after the write.
    then: Then,
    /// The log end with this commit.
    end: Offset,
    /// The leader's own append first.
    appends: Vec<Append>,
    /// The waiting producers of the other appends, in order.
    waiting: Vec<oneshot::Sender<Turn>>,
}

impl Partition {
    /// Appends a batch and wakes waiting fetches. Dropped during the write, it takes the partition
    /// offline; connections never drop a request before it is answered.
    ///
    /// # Errors
    /// See [`ProduceFailure`]; nothing of the batch is visible then.
    pub(crate) async fn append(self: &Arc<Self>, ring: &Ring, batch: ProducedBatch) -> Outcome {
        let turn = match self.queue.enter(batch) {
            Ok(batch) => Turn::Lead(Lead(Arc::clone(self)), batch),
            Err(turn) => turn.await.unwrap_or(Turn::Over(Err(ProduceFailure::GivenUp))),
        };
        match turn {
            Turn::Lead(lead, batch) => lead.commit(ring, batch).await,
            Turn::Over(outcome) => outcome,
        }
    }

    /// Whether every commit is synced before it is acknowledged.
    pub(super) fn syncs_every_commit(&self, log: &Log) -> bool {
        let is_single = || log.config().flush_messages.is_some_and(|messages| messages <= 1);
        self.commits.durability == Durability::Fsync || is_single()
    }

    /// What follows the write of a commit that ends at `end`.
    fn after_write(&self, log: &Log, end: Offset) -> Then {
        match self.commits.durability {
            Durability::Fsync => Then::SyncData,
            Durability::Os if self.flushed.must_sync(log.config(), end) => Then::SyncData,
            Durability::Os => Then::Return,
        }
    }

    /// Begins `first`, and the queued batches that the same write can carry.
    fn gather(&self, first: ProducedBatch, now_ms: i64) -> Result<Commit<'_>, AppendError> {
        let mut len_bytes = first.len_bytes();
        // Declared before the guard, so that it is dropped after it: its drop locks the log, too.
        let mut commit = Commit {
            partition: self,
            then: Then::Return,
            end: Offset(0),
            appends: Vec::new(),
            waiting: Vec::new(),
        };
        let mut log = self.log();
        let requests_max = match self.syncs_every_commit(&log) {
            true => self.queue.commit_max_requests(),
            false => COMMIT_MAX_REQUESTS,
        };
        let leader_epoch = leader_epoch_of(&log);
        commit.end = Offset(log.log_end().0.saturating_add(first.record_count()));
        commit.appends.push(log.begin_append(first, leader_epoch, now_ms)?);
        let mut waiting = self.queue.waiting();
        while let Some(next) = waiting.front() {
            len_bytes += next.batch.len_bytes();
            let has_room = len_bytes <= COMMIT_MAX_BYTES && commit.appends.len() < requests_max;
            if !has_room || !log.may_join(&next.batch, now_ms) {
                break;
            }
            let Some(Waiter { batch, turn }) = waiting.pop_front() else { break };
            let records = batch.record_count();
            match log.begin_append(batch, leader_epoch, now_ms) {
                Ok(append) => {
                    commit.end.0 += records;
                    commit.appends.push(append);
                    commit.waiting.push(turn);
                }
                Err(refused) => answer(turn, Err(refused.into())),
            }
        }
        commit.then = self.after_write(&log, commit.end);
        Ok(commit)
    }
}

impl Lead {
    async fn commit(self, ring: &Ring, batch: ProducedBatch) -> Outcome {
        let partition = &self.0;
        let is_synced = partition.syncs_every_commit(&partition.log());
        if is_synced {
            partition.queue.linger(batch.len_bytes()).await;
        }
        let alone = partition.appending.lock().await;
        let now_ms = clock::now_ms();
        partition.cut_tail().await?;
        partition.roll_if_due(&batch, now_ms).await?;
        let mut commit = partition.gather(batch, now_ms)?;
        // The time of a sync decides how long the next leader lingers.
        let began = is_synced.then(Instant::now);
        let mut outcomes = Outcomes::of(commit.settle(ring).await);
        if let Some(began) = began {
            partition.queue.note_commit(1 + commit.waiting.len(), began.elapsed());
        }
        let (own, waiting) = (outcomes.next(), std::mem::take(&mut commit.waiting));
        drop((commit, alone));
        let partition = Arc::clone(partition);
        let answers = Answers { partition: &partition, waiting, outcomes };
        drop(self);
        if is_synced && partition.queue.is_led() {
            // The next commit's sync is submitted before these answers take the core.
            tokio::task::yield_now().await;
        }
        drop(answers);
        own
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(Waiter { batch, turn }) = self.0.queue.next_leader() {
            // If that producer leaves first, the lead is dropped with its receiver, and goes on to
            // the next.
            drop(turn.send(Turn::Lead(Lead(Arc::clone(&self.0)), batch)));
        }
    }
}

impl Commit<'_> {
    /// Writes all appends, syncs them if that is due, and reports the outcome to the log. One
    /// outcome for the whole commit.
    async fn settle(&mut self, ring: &Ring) -> Result<Vec<Appended>, ProduceFailure> {
        let (file, position) = (Arc::clone(&self.appends[0].file), self.appends[0].position.0);
        let finished = self.write(ring).await.and_then(|()| self.finish());
        let (error, is_full) = match finished {
            Ok(appended) => return Ok(appended),
            Err(failed) => failed,
        };
        // These bytes were never served. They are cut under the append lock, so that no others lie
        // behind them. After a failed sync they are whole in the page cache, and a later start
        // would accept them.
        let cut = blocking::run(move || file.set_len(position)).await;
        let cut = cut.map_err(io::Error::from).flatten();
        // Without room for the cut it is made before the next commit.
        let is_cut = cut.is_ok();
        let failure = match is_full && cut.as_ref().err().is_none_or(is_no_room) {
            true => ProduceFailure::NoRoom(error.into()),
            false => ProduceFailure::Write(error.into()),
        };
        self.take_back(&failure, is_cut);
        if self.then == Then::SyncData && self.partition.log().is_offline() {
            self.partition.write_again_what_was_not_synced().await;
        }
        Err(failure)
    }

    /// Reports to the log that the commit failed.
    fn take_back(&mut self, failure: &ProduceFailure, is_cut: bool) {
        let mut log = self.partition.log();
        let mut appends = std::mem::take(&mut self.appends).into_iter();
        let first = appends.next().expect("a commit has its leader's append");
        match failure {
            ProduceFailure::Write(error) => {
                let error = io::Error::new(error.kind(), Arc::clone(error));
                log.fail_append(first, error);
            }
            _ if is_cut => log.cancel_append(first),
            _ => log.leave_append(first),
        }
    }

    /// Reports success to the log. If the log went offline meanwhile, because a checkpoint's sync
    /// failed, the commit fails: the kernel may have reported the loss of these very bytes to that
    /// sync.
    fn finish(&mut self) -> Result<Vec<Appended>, (io::Error, bool)> {
        let mut log = self.partition.log();
        if log.is_offline() {
            return Err((io::Error::other("a sync of the log failed meanwhile"), false));
        }
        let appends = std::mem::take(&mut self.appends).into_iter();
        let appended = appends.map(|append| log.finish_append(append)).collect();
        if self.then == Then::SyncData {
            self.partition.flushed.note(log.log_end());
        }
        Ok(appended)
    }

    /// The error, and whether it means that there is no room (on the disk, or for now in memory).
    /// Only an error before the sync can mean that.
    async fn write(&mut self, ring: &Ring) -> Result<(), (io::Error, bool)> {
        let commits = &self.partition.commits;
        let (file, position) = (Arc::clone(&self.appends[0].file), self.appends[0].position.0);
        commits.writes.inc();
        commits.appends.inc_by(self.appends.len() as u64);
        let mut pieces = std::mem::take(&mut self.appends[0].pieces);
        self.appends[1..].iter_mut().for_each(|append| pieces.append(&mut append.pieces));
        let written = ring.write_all_at(file, position, pieces, self.then).await;
        let was_synced = !matches!(written, Err(WriteError::Write(_)));
        commits.syncs.inc_by(u64::from(self.then == Then::SyncData && was_synced));
        written.map_err(|error| match error {
            WriteError::Write(error) => {
                let is_full = is_no_room(&error) || is_shortage(&error);
                (error, is_full)
            }
            WriteError::Sync(error) => (error, false),
        })
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        if let Some(first) = std::mem::take(&mut self.appends).into_iter().next() {
            let error = io::Error::other("the task that wrote ended before it had the outcome");
            self.partition.log().fail_append(first, error);
        }
    }
}

/// The outcomes of a commit's appends, in order.
enum Outcomes {
    Appended(std::vec::IntoIter<Appended>),
    Failed(ProduceFailure),
}

impl Outcomes {
    fn of(settled: Result<Vec<Appended>, ProduceFailure>) -> Outcomes {
        match settled {
            Ok(appended) => Outcomes::Appended(appended.into_iter()),
            Err(failure) => Outcomes::Failed(failure),
        }
    }

    fn next(&mut self) -> Outcome {
        match self {
            Outcomes::Appended(appended) => {
                Ok(appended.next().expect("each append of a commit has an outcome"))
            }
            Outcomes::Failed(failure) => Err(failure.clone()),
        }
    }
}

/// The answers of a settled commit. Sent when dropped, however the leader ends.
struct Answers<'a> {
    partition: &'a Partition,
    waiting: Vec<oneshot::Sender<Turn>>,
    outcomes: Outcomes,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.partition.waiting.wake();
        for turn in std::mem::take(&mut self.waiting) {
            answer(turn, self.outcomes.next());
        }
    }
}

/// A producer that has gone needs no answer; its records are in the log all the same.
fn answer(turn: oneshot::Sender<Turn>, outcome: Outcome) {
    drop(turn.send(Turn::Over(outcome)));
}
