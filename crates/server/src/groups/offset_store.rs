//! Committed offsets as the workers see them: read at once, written by one thread.
//!
//! That thread alone owns the journal and changes the map, so both have the same order and compaction can
//! take no one by surprise. It takes all that has queued up in one write. What is queued is bounded
//! by the connections: each has one request in the works.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::journal::{self, Journal};
use super::offsets::{Commit, OFFSETS_MAX_BYTES, Offsets};
use crate::durability::Durability;
use crate::log_budget::LogBudget;

const FILE_NAME: &str = "penstock-offsets.journal";

/// Records of at least this much are written before more are taken from the queue.
const WRITE_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct OffsetStore {
    offsets: Arc<Mutex<Offsets>>,
    queue: Option<mpsc::Sender<Queued>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a commit was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("no room for more offsets")]
    Full,
    #[error("the journal cannot be written")]
    Disk,
}

#[derive(Debug)]
struct Queued {
    commit: Commit,
    done: oneshot::Sender<Result<(), CommitError>>,
}

impl OffsetStore {
    /// Reads the journal of the data directory and starts the thread. Blocks.
    ///
    /// # Errors
    /// The journal cannot be used, or there is no thread to be had.
    pub(crate) fn open(data_dir: &Path, durability: Durability) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE_NAME);
        let opened = Journal::open(path.clone(), durability);
        let (journal, offsets) = opened.with_context(|| format!("in {}", path.display()))?;
        let offsets = Arc::new(Mutex::new(offsets));
        let (queue, queued) = mpsc::channel();
        let (map, lines) = (Arc::clone(&offsets), LogBudget::new(Instant::now()));
        let writer = Writer { journal, offsets: map, durability, lines };
        let thread = std::thread::Builder::new().name("offset-commits".to_owned());
        let thread = thread.spawn(move || writer.run(&queued)).context("cannot start a thread")?;
        Ok(OffsetStore { offsets, queue: Some(queue), thread: Some(thread) })
    }

    /// For reading; held for a decision only.
    pub(crate) fn read(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock()
    }

    /// Returns when the commit is in the page cache, or on the disk, and visible. Dropped, the commit may be made all the same.
    ///
    /// # Errors
    /// It was not made.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let (done, outcome) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(CommitError::Disk)?;
        queue.send(Queued { commit, done }).map_err(|_| CommitError::Disk)?;
        outcome.await.unwrap_or(Err(CommitError::Disk))
    }
}

impl Drop for OffsetStore {
    /// Waits for what is queued: the data directory is another's after this.
    fn drop(&mut self) {
        drop(self.queue.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of offset commits panicked");
        }
    }
}

struct Writer {
    journal: Journal,
    offsets: Arc<Mutex<Offsets>>,
    durability: Durability,
    lines: LogBudget,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Queued>) {
        while let Ok(first) = queue.recv() {
            self.write(first, queue);
            self.compact_if_needed();
        }
        if let Err(error) = self.journal.sync() {
            tracing::warn!(%error, "committed offsets are in the page cache only");
        }
    }

    /// Writes `first` and what has queued up behind it, syncs if it must, then makes it visible, then says so.
    fn write(&mut self, first: Queued, queue: &mpsc::Receiver<Queued>) {
        let (mut records, mut taken) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(Queued { commit, done }) = next {
            // Those taken together do not see one another's room: the bound is kept up to WRITE_BYTES.
            if self.offsets.lock().has_room_for(&commit, OFFSETS_MAX_BYTES) {
                records.extend(journal::encode(&commit));
                taken.push(Queued { commit, done });
            } else {
                // Nobody waits any more where sending fails, here and below.
                let _ = done.send(Err(CommitError::Full));
            }
            next = if records.len() < WRITE_BYTES { queue.try_recv().ok() } else { None };
        }
        let outcome = self.make_durable(&records).map_err(|error| {
            if let Some(held_back) = self.lines.take(Instant::now()) {
                tracing::error!(%error, held_back, "cannot write committed offsets");
            }
            CommitError::Disk
        });
        for Queued { commit, done } in taken {
            if outcome.is_ok() {
                self.offsets.lock().apply(commit);
            }
            let _ = done.send(outcome);
        }
    }

    fn make_durable(&mut self, records: &[u8]) -> std::io::Result<()> {
        match self.durability {
            Durability::Os => self.journal.append(records),
            Durability::Fsync => self.journal.append_durably(records),
        }
    }

    fn compact_if_needed(&mut self) {
        let offsets = self.offsets.lock();
        if !self.journal.needs_compaction(&offsets) {
            return;
        }
        // Nobody else changes the map: the snapshot needs no lock that a worker could wait for.
        let snapshot: Vec<Commit> = offsets.snapshot().collect();
        drop(offsets);
        match self.journal.compact(snapshot) {
            Ok(()) => tracing::debug!("compacted the committed offsets"),
            Err(error) => tracing::error!(%error, "cannot compact the committed offsets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::offsets::Committed;

    fn commit(group: &str, offset: i64) -> Commit {
        let at = Committed { offset, leader_epoch: -1, metadata: "".into() };
        Commit { group: group.into(), entries: vec![("topic".into(), 0, at)] }
    }

    #[tokio::test]
    async fn a_commit_is_visible_when_it_is_acknowledged_and_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        for offset in 0..100 {
            store.commit(commit("g", offset)).await.unwrap();
            assert_eq!(store.read().get("g", "topic", 0).unwrap().offset, offset);
        }
        drop(store);
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        assert_eq!(store.read().get("g", "topic", 0).unwrap().offset, 99);
    }

    /// fdatasync(2) of /dev/null fails, and its writes do not.
    #[tokio::test]
    async fn a_commit_whose_sync_fails_is_refused_and_so_are_those_after_it() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join(FILE_NAME)).unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Fsync).unwrap();
        for offset in 0..3 {
            assert_eq!(store.commit(commit("g", offset)).await, Err(CommitError::Disk));
            assert!(store.read().get("g", "topic", 0).is_none(), "nothing of it is visible");
        }
        drop(store);
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        store.commit(commit("g", 7)).await.unwrap();
    }

    #[tokio::test]
    async fn an_acknowledged_commit_is_in_the_file_before_the_store_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        store.commit(commit("g", 7)).await.unwrap();
        let copy = dir.path().join("as-after-sigkill");
        std::fs::copy(dir.path().join(FILE_NAME), &copy).unwrap();
        let (_, offsets) = Journal::open(copy, Durability::Os).unwrap();
        assert_eq!(offsets.get("g", "topic", 0).unwrap().offset, 7);
    }
}
