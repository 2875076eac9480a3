//! The coordinator of all consumer groups: this server.
//!
//! ```text
//! api/groups.rs ────────┐            ┌──> coordinator's Table     who is a member (pure)
//! api/group_offsets.rs ─┴──> Groups ─┴──> offset_store ──> coordinator's Offsets, journal
//! ```
//!
//! All workers share one [`Groups`]. Its lock is held for decisions. A member that must wait does
//! so as a task of its worker, on a oneshot channel. `background/group_clock.rs` runs
//! [`Groups::keep_time`], which sleeps until the first group is due: idle groups cost nothing.
//! Membership is in memory. After a restart members are unknown, join again, and go on from the
//! offsets they had committed.

mod journal;
mod offset_store;
mod owners;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use penstock_coordinator::{
    Answers, Caller, Commit, Group, GroupLimits, Join, JoinAnswer, Refused, SyncAnswer, SyncUp,
};
use penstock_wire::ErrorCode;
use tokio::sync::{Notify, oneshot};

pub(crate) use offset_store::{CommitError, OffsetStore, OnItsWay};
pub(crate) use owners::Owners;

/// The coordinator's table. Waiting joins and syncs are tasks of workers.
type Table = penstock_coordinator::Table<oneshot::Sender<JoinAnswer>, oneshot::Sender<SyncAnswer>>;
type LiveGroup = Group<oneshot::Sender<JoinAnswer>, oneshot::Sender<SyncAnswer>>;

#[derive(Debug)]
pub(crate) struct Groups {
    table: Mutex<Table>,
    /// Notified when the first due time has come nearer.
    sooner: Notify,
    started: Instant,
    pub(crate) offsets: Arc<OffsetStore>,
}

impl Groups {
    /// A coordinator without members, of groups that have committed these offsets.
    pub(crate) fn new(limits: GroupLimits, offsets: Arc<OffsetStore>) -> Self {
        Groups {
            table: Mutex::new(Table::new(limits)),
            sooner: Notify::new(),
            started: Instant::now(),
            offsets,
        }
    }

    /// Ends sessions and rebalances when their time is over. Never returns.
    pub(crate) async fn keep_time(&self) {
        loop {
            let due_ms = self.table.lock().next_due_ms().unwrap_or(u64::MAX);
            let rest = Duration::from_millis(due_ms.saturating_sub(self.now_ms()));
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.sooner.notified() => {}
            }
            let mut table = self.table.lock();
            table.tick(self.now_ms());
            send(table.take_answers());
        }
    }

    /// Answers all waiting members: the server stops. From here on there is no coordinator.
    pub(crate) fn close(&self) {
        self.table.lock().close();
    }

    /// Waits until the rebalance that the join belongs to is complete. Dropped, the member stays a
    /// member until its session ends.
    pub(crate) async fn join(&self, group_id: &str, join: Join) -> JoinAnswer {
        let member_id = join.member_id.clone();
        let refuse = |error| Refused { error, member_id };
        let (waiter, answer) = oneshot::channel();
        let metadata = join.protocols.iter().map(|protocol| protocol.metadata.len());
        let added_bytes = metadata.sum();
        let outcome = self.locked(|table, now_ms| {
            table.update_or_create(group_id, added_bytes, |group| group.join(join, waiter, now_ms))
        });
        if let Err(error) = outcome {
            return Err(refuse(error));
        }
        answer.await.unwrap_or_else(|_| Err(refuse(ErrorCode::COORDINATOR_NOT_AVAILABLE)))
    }

    /// Waits until the leader has brought the assignments. Dropped: as [`Groups::join`].
    pub(crate) async fn sync(&self, group_id: &str, mut sync: SyncUp) -> SyncAnswer {
        let (waiter, answer) = oneshot::channel();
        // A request may bring a quarter of a million: they are counted, and dropped, without the
        // lock, which the event loops need for heartbeats.
        let assigned_bytes = sync.assignments.values().map(Bytes::len).sum();
        self.locked(|table, now_ms| {
            if !table.has_room_for(group_id, assigned_bytes) {
                return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
            }
            let event = |group: &mut LiveGroup| group.sync(&mut sync, waiter, now_ms);
            self::known(table, group_id, event)
        })?;
        answer.await.unwrap_or(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
    }

    pub(crate) fn heartbeat(&self, group_id: &str, caller: &Caller) -> Result<(), ErrorCode> {
        self.locked(|table, now_ms| {
            known(table, group_id, |group| group.heartbeat(caller, now_ms))
        })?
    }

    pub(crate) fn leave(
        &self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        self.locked(|table, now_ms| {
            known(table, group_id, |group| group.leave(member_id, instance_id, now_ms))
        })?
    }

    /// Queues a commit for the journal; `None`: there is nothing to commit.
    pub(crate) fn commit(
        &self,
        caller: &Caller,
        commit: Commit,
    ) -> Result<Option<OnItsWay>, ErrorCode> {
        self.locked(|table, now_ms| {
            table.check_open()?;
            let outcome = table.update(&commit.group, |group| group.may_commit(caller, now_ms));
            outcome.unwrap_or(if caller.generation < 0 {
                Ok(())
            } else {
                Err(ErrorCode::ILLEGAL_GENERATION)
            })
        })?;
        if commit.entries.is_empty() {
            return Ok(None);
        }
        self.offsets.commit(commit).map(Some).map_err(CommitError::code)
    }

    /// Which group has assigned which partition to a member of which client id. Assignments are
    /// read without the lock.
    pub(crate) fn owners(&self) -> Owners {
        let table = self.table.lock();
        let assignments = table.assignments();
        let assignments: Vec<_> = assignments
            .map(|(group, client_id, bytes)| (group.clone(), client_id.clone(), bytes.clone()))
            .collect();
        drop(table);
        Owners::of(&assignments)
    }

    /// Decides under the lock, and wakes [`Groups::keep_time`] if a group is due sooner.
    fn locked<R>(&self, decide: impl FnOnce(&mut Table, u64) -> R) -> R {
        let mut table = self.table.lock();
        let before_ms = table.next_due_ms();
        let decided = decide(&mut table, self.now_ms());
        send(table.take_answers());
        if table.next_due_ms().is_some_and(|now_ms| before_ms.is_none_or(|before| now_ms < before))
        {
            self.sooner.notify_one();
        }
        decided
    }

    /// Milliseconds since the start; never goes back.
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Sends answers. A task that has gone (its connection closed) stays a member until its session
/// ends.
fn send(answers: Answers<oneshot::Sender<JoinAnswer>, oneshot::Sender<SyncAnswer>>) {
    for (waiter, answer) in answers.joins {
        let _ = waiter.send(answer);
    }
    for (waiter, answer) in answers.syncs {
        let _ = waiter.send(answer);
    }
}

/// Passes an event to a group that must exist.
fn known<R>(
    table: &mut Table,
    group_id: &str,
    event: impl FnOnce(&mut LiveGroup) -> R,
) -> Result<R, ErrorCode> {
    table.check_open()?;
    table.update(group_id, event).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)
}
