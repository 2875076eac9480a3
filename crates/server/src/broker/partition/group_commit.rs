//! Group commit: one write, and where it is due one sync, for all producers that wait for a
//! partition. A sync is due for every group in `fsync` mode, else for the one that completes the
//! topic's `flush.messages`.
//!
//! ```text
//!   producer A ──leads──► append lock ─ roll? ─ begin A, B, C ─ write ─ sync ─ finish all ─► hand over, then tell
//!   producer B ──waits──────────────────────────┘                                    ├─► B: its offsets
//!   producer C ──waits──────────────────────────┘                                    ├─► C: its offsets
//!   producer D ──waits (came during the write) ──────────────────────────────────────┴─► D leads
//! ```
//!
//! Every group is written by one of those who wait for it, on the ring of its own worker; so nobody
//! works for others when a stop has answered it, and a lone producer goes straight through. The
//! lead is a value that passes itself on when dropped, however its holder ends. Called by produce,
//! through `Partition`.

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
use crate::config::limits::{GROUP_MAX_BYTES, GROUP_MAX_REQUESTS};

#[cfg(test)]
mod tests;

/// What became of one request's batch.
pub(crate) type Outcome = Result<Appended, ProduceFailure>;

/// How commits are done, and how many were: the same for all partitions.
pub(crate) struct Commits {
    pub(crate) durability: Durability,
    /// Requests written.
    pub(crate) appends: Counter,
    /// Writes that carried them.
    pub(crate) groups: Counter,
    /// Syncs of a log, asked for.
    pub(crate) syncs: Counter,
}

/// What a producer waits for.
pub(super) enum Turn {
    /// Another one has written its batch, or failed to.
    Over(Outcome),
    /// It has to write, for itself and for those behind it.
    Lead(Lead, ProducedBatch),
}

/// The right and the duty to write the next group. Dropped, it goes to the producer that waits
/// longest.
pub(super) struct Lead(Arc<Partition>);

/// Appends that have begun and are written together. Dropped before they are settled, nobody knows
/// what is in the file: the partition goes offline.
struct Group<'a> {
    partition: &'a Partition,
    /// What comes after the write.
    then: Then,
    /// The log end, once it is part of the log.
    end: Offset,
    /// The leader's own first.
    appends: Vec<Append>,
    /// Those who wait for the others, in order.
    waiting: Vec<oneshot::Sender<Turn>>,
}

impl Partition {
    /// Appends a batch and wakes the fetches that wait. Dropped while it writes, it takes the
    /// partition offline: connections drop no request before it is answered.
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

    /// Whether no group is acknowledged before its sync.
    pub(super) fn syncs_every_group(&self, log: &Log) -> bool {
        let is_single = || log.config().flush_messages.is_some_and(|messages| messages <= 1);
        self.commits.durability == Durability::Fsync || is_single()
    }

    /// What comes after the write of a group that ends there.
    fn after_write(&self, log: &Log, end: Offset) -> Then {
        match self.commits.durability {
            Durability::Fsync => Then::SyncData,
            Durability::Os if self.flushed.must_sync(log.config(), end) => Then::SyncData,
            Durability::Os => Then::Return,
        }
    }

    /// Begins `first`, and what has queued up behind it and can be carried by the same write.
    fn gather(&self, first: ProducedBatch, now_ms: i64) -> Result<Group<'_>, AppendError> {
        let mut len_bytes = first.len_bytes();
        // Before the guard, so that it is dropped after it: it takes the log itself.
        let mut group = Group {
            partition: self,
            then: Then::Return,
            end: Offset(0),
            appends: Vec::new(),
            waiting: Vec::new(),
        };
        let mut log = self.log();
        let requests_max = match self.syncs_every_group(&log) {
            true => self.queue.group_max(),
            false => GROUP_MAX_REQUESTS,
        };
        let leader_epoch = leader_epoch_of(&log);
        group.end = Offset(log.log_end().0.saturating_add(first.record_count()));
        group.appends.push(log.begin_append(first, leader_epoch, now_ms)?);
        let mut waiting = self.queue.waiting();
        while let Some(next) = waiting.front() {
            len_bytes += next.batch.len_bytes();
            let has_room = len_bytes <= GROUP_MAX_BYTES && group.appends.len() < requests_max;
            if !has_room || !log.may_join(&next.batch, now_ms) {
                break;
            }
            let Some(Waiter { batch, turn }) = waiting.pop_front() else { break };
            let records = batch.record_count();
            match log.begin_append(batch, leader_epoch, now_ms) {
                Ok(append) => {
                    group.end.0 += records;
                    group.appends.push(append);
                    group.waiting.push(turn);
                }
                Err(refused) => tell(turn, Err(refused.into())),
            }
        }
        group.then = self.after_write(&log, group.end);
        Ok(group)
    }
}

impl Lead {
    async fn commit(self, ring: &Ring, batch: ProducedBatch) -> Outcome {
        let partition = &self.0;
        let is_synced = partition.syncs_every_group(&partition.log());
        if is_synced {
            partition.queue.company(batch.len_bytes()).await;
        }
        let alone = partition.appending.lock().await;
        let now_ms = clock::now_ms();
        partition.cut_tail().await?;
        partition.roll_if_due(&batch, now_ms).await?;
        let mut group = partition.gather(batch, now_ms)?;
        // What a sync takes decides how long the next leader waits for company.
        let began = is_synced.then(Instant::now);
        let mut outcomes = Outcomes::of(group.settle(ring).await);
        if let Some(began) = began {
            partition.queue.note_group(1 + group.waiting.len(), began.elapsed());
        }
        let (own, waiting) = (outcomes.next(), std::mem::take(&mut group.waiting));
        drop((group, alone));
        let partition = Arc::clone(partition);
        let answers = Answers { partition: &partition, waiting, outcomes };
        drop(self);
        if is_synced && partition.queue.is_led() {
            // The next group is on its way to the disk before these answers take the core.
            tokio::task::yield_now().await;
        }
        drop(answers);
        own
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(Waiter { batch, turn }) = self.0.queue.next_leader() {
            // Should it leave before it looks, the lead is dropped with what it waited on, and goes
            // on.
            drop(turn.send(Turn::Lead(Lead(Arc::clone(&self.0)), batch)));
        }
    }
}

impl Group<'_> {
    /// Writes all, syncs if it must, and lets the log know. One outcome for the group.
    async fn settle(&mut self, ring: &Ring) -> Result<Vec<Appended>, ProduceFailure> {
        let (file, position) = (Arc::clone(&self.appends[0].file), self.appends[0].position.0);
        let finished = self.write(ring).await.and_then(|()| self.finish());
        let (error, is_full) = match finished {
            Ok(appended) => return Ok(appended),
            Err(failed) => failed,
        };
        // Nobody was ever given these bytes. Under the append lock, so that none come behind them.
        // After a failed sync they are whole in the page cache alone, where the next start would
        // believe them.
        let cut = blocking::run(move || file.set_len(position)).await;
        let cut = cut.map_err(io::Error::from).flatten();
        // Where there is no room to cut, either, that is done before the next group.
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

    /// Lets the log know that nothing came of it.
    fn take_back(&mut self, failure: &ProduceFailure, is_cut: bool) {
        let mut log = self.partition.log();
        let mut appends = std::mem::take(&mut self.appends).into_iter();
        let first = appends.next().expect("a group has its leader's append");
        match failure {
            ProduceFailure::Write(error) => {
                let error = io::Error::new(error.kind(), Arc::clone(error));
                log.fail_append(first, error);
            }
            _ if is_cut => log.cancel_append(first),
            _ => log.leave_append(first),
        }
    }

    /// Lets the log know. A log that went offline meanwhile, since a checkpoint's sync failed,
    /// takes nothing: that sync may have been told of the loss of these very bytes.
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

    /// The error, and whether it is that there is no room (on the disk, or for the moment in
    /// memory), which is known before the sync only.
    async fn write(&mut self, ring: &Ring) -> Result<(), (io::Error, bool)> {
        let commits = &self.partition.commits;
        let (file, position) = (Arc::clone(&self.appends[0].file), self.appends[0].position.0);
        commits.groups.inc();
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

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if let Some(first) = std::mem::take(&mut self.appends).into_iter().next() {
            let error = io::Error::other("whoever wrote ended before it knew what came of it");
            self.partition.log().fail_append(first, error);
        }
    }
}

/// What became of the appends of a group, in order.
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
                Ok(appended.next().expect("each append of a group has an outcome"))
            }
            Outcomes::Failed(failure) => Err(failure.clone()),
        }
    }
}

/// The answers of a group that is over. Given when dropped, however its leader ends.
struct Answers<'a> {
    partition: &'a Partition,
    waiting: Vec<oneshot::Sender<Turn>>,
    outcomes: Outcomes,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.partition.waiting.wake();
        for turn in std::mem::take(&mut self.waiting) {
            tell(turn, self.outcomes.next());
        }
    }
}

/// Whoever has gone needs no answer; its records are in the log all the same.
fn tell(turn: oneshot::Sender<Turn>, outcome: Outcome) {
    drop(turn.send(Turn::Over(outcome)));
}
