//! Committed offsets: workers read them directly, one thread writes them.
//!
//! Only that thread uses the journal and changes the map, so both have the same order, and a
//! compaction sees no concurrent change. It writes everything that is queued at once. The
//! connections bound the queue: each has one request in progress.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Instant, UNIX_EPOCH};

use anyhow::Context;
use parking_lot::{Mutex, MutexGuard};
use penstock_ring::RAISE_THREADS;
use penstock_wire::{ErrorCode, Str};
use tokio::sync::{oneshot, watch};

use super::journal::{self, Journal};
use crate::adopt::committed_offsets::Foreign;
use crate::config::durability::Durability;
use crate::log_budget::LogBudget;
use crate::small_file::replace_file;
use penstock_coordinator::{Change, Commit, Committed, OFFSETS_MAX_BYTES, Offsets};

const FILE_NAME: &str = "penstock-offsets.journal";

/// The file that keeps the time of the journal's last write while commits of a Kafka are taken
/// over, in case that is interrupted.
const WRITTEN_FILE_NAME: &str = "penstock-offsets.written";

/// Once this many bytes are encoded, they are written before more is taken from the queue.
const WRITE_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct OffsetStore {
    offsets: Arc<Mutex<Offsets>>,
    queue: Option<mpsc::Sender<Queued>>,
    thread: Option<JoinHandle<()>>,
    /// Closed once the thread has ended.
    alive: watch::Receiver<()>,
    /// The time of the journal's last write at start, in milliseconds since 1970; `None` if it was
    /// empty.
    written_ms: Option<i64>,
    written_path: PathBuf,
}

/// Why a commit was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("no room for more offsets")]
    Full,
    #[error("the journal cannot be written: {0}")]
    Disk(ErrorKind),
}

impl CommitError {
    /// Kafka's code for it.
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            CommitError::Full => ErrorCode::INVALID_COMMIT_OFFSET_SIZE,
            // Clients look for the coordinator and try again: the disk may have room then.
            CommitError::Disk(_) => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        }
    }
}

impl From<CommitError> for std::io::Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Disk(kind) => kind.into(),
            CommitError::Full => std::io::Error::other(error),
        }
    }
}

/// The thread has ended.
const THREAD_ENDED: CommitError = CommitError::Disk(ErrorKind::Other);

#[derive(Debug)]
struct Queued {
    change: Change,
    done: oneshot::Sender<Outcome>,
}

type Outcome = Result<(), CommitError>;

/// A change on its way to the journal. Dropped, the change may still be made.
#[derive(Debug)]
pub(crate) struct OnItsWay(oneshot::Receiver<Outcome>);

impl OnItsWay {
    /// Returns once the change is visible. It is in the page cache then; in `fsync` mode, and if it
    /// forgets a topic, it is on the disk.
    ///
    /// # Errors
    /// It was not made.
    pub(crate) async fn done(self) -> Outcome {
        self.0.await.unwrap_or(Err(THREAD_ENDED))
    }

    /// The same for threads that may block.
    fn wait(self) -> Outcome {
        self.0.blocking_recv().unwrap_or(Err(THREAD_ENDED))
    }
}

impl OffsetStore {
    /// Reads the journal of the data directory and starts the thread. Blocks.
    ///
    /// # Errors
    /// The journal cannot be used, or no thread is to be had.
    pub(crate) fn open(data_dir: &Path, durability: Durability) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE_NAME);
        let written_path = data_dir.join(WRITTEN_FILE_NAME);
        let written_ms = kept_ms(&written_path).or_else(|| written_ms(&path));
        let opened = Journal::open(path.clone(), durability);
        let (journal, offsets) = opened.with_context(|| format!("in {}", path.display()))?;
        let offsets = Arc::new(Mutex::new(offsets));
        let (map, lines) = (Arc::clone(&offsets), LogBudget::new(Instant::now()));
        let writer = Writer { journal, offsets: map, durability, lines };
        let mut store = OffsetStore::start(offsets, |queue| writer.run(queue))?;
        (store.written_ms, store.written_path) = (written_ms, written_path);
        Ok(store)
    }

    /// Starts a thread that owns changes of `offsets`.
    fn start(
        offsets: Arc<Mutex<Offsets>>,
        write: impl FnOnce(&mpsc::Receiver<Queued>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let ((queue, queued), (living, alive)) = (mpsc::channel(), watch::channel(()));
        let thread = std::thread::Builder::new().name("offset-commits".to_owned());
        let work = move || {
            let _living: watch::Sender<()> = living;
            write(&queued);
        };
        let thread = thread.spawn(work);
        let why = || format!("cannot start the thread of committed offsets: {RAISE_THREADS}");
        let thread = thread.with_context(why)?;
        let (queue, thread) = (Some(queue), Some(thread));
        let (written_ms, written_path) = (None, PathBuf::new());
        Ok(OffsetStore { offsets, queue, thread, alive, written_ms, written_path })
    }

    /// Returns if the thread has ended: it panicked, and no commit is possible any more.
    pub(crate) async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// Locks the map for reading, for a decision only.
    pub(crate) fn read(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock()
    }

    /// Queues a commit behind all earlier changes.
    ///
    /// # Errors
    /// The thread has ended.
    pub(crate) fn commit(&self, commit: Commit) -> Result<OnItsWay, CommitError> {
        self.enqueue(Change::Commit(commit))
    }

    /// Forgets all groups' offsets of a topic, on the disk. Blocks.
    ///
    /// # Errors
    /// The journal cannot be written; then nothing is forgotten.
    pub(crate) fn forget(&self, topic: &str) -> Outcome {
        self.enqueue(Change::Forget { topic: topic.into() })?.wait()
    }

    /// Whether any group has committed an offset of the topic.
    pub(crate) fn has_topic(&self, topic: &str) -> bool {
        self.read().has_topic(topic)
    }

    /// Forgets the offsets of topics that do not exist, at start. Blocks.
    ///
    /// # Errors
    /// As [`OffsetStore::forget`].
    pub(crate) fn retain_topics(&self, is_there: impl Fn(&str) -> bool) -> Outcome {
        let topics = self.read().topics();
        let gone: Vec<_> = topics.into_iter().filter(|topic| !is_there(topic)).collect();
        gone.iter().try_for_each(|topic| {
            tracing::info!(topic = &**topic, "forgetting offsets of a topic that is not there");
            self.forget(topic)
        })
    }

    /// Keeps the time that divides a Kafka's earlier commits from its later ones, until
    /// `end_taking_over`. Blocks.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn begin_taking_over(&self) -> std::io::Result<()> {
        self.written_ms.map_or(Ok(()), |ms| replace_file(&self.written_path, &format!("{ms}\n")))
    }

    /// Marks taking over as done. Blocks.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn end_taking_over(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.written_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes over offsets that groups committed to a Kafka, unless they committed something here
    /// since. Returns how many. Blocks.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn take_over(&self, foreign: Vec<Foreign>) -> Result<usize, CommitError> {
        let is_newer = |foreign: &Foreign| {
            let ours = self.read().get(&foreign.group, &foreign.topic, foreign.partition).cloned();
            ours.is_none_or(|ours| {
                ours != foreign.at && self.written_ms.is_none_or(|ms| foreign.committed_ms > ms)
            })
        };
        let mut by_group: BTreeMap<Str, Vec<(Str, i32, Committed)>> = BTreeMap::new();
        let mut taken = 0;
        for foreign in foreign.into_iter().filter(is_newer) {
            let Foreign { group, topic, partition, at, .. } = foreign;
            by_group.entry(group).or_default().push((topic, partition, at));
            taken += 1;
        }
        let changes = by_group.into_iter().map(|(group, entries)| Commit { group, entries });
        let on_their_way: Vec<_> = changes.map(|commit| self.commit(commit)).collect();
        on_their_way.into_iter().try_for_each(|change| change?.wait())?;
        Ok(taken)
    }

    fn enqueue(&self, change: Change) -> Result<OnItsWay, CommitError> {
        let (done, outcome) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(THREAD_ENDED)?;
        queue.send(Queued { change, done }).map_err(|_| THREAD_ENDED)?;
        Ok(OnItsWay(outcome))
    }
}

/// The time that an interrupted start kept.
fn kept_ms(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The time of the last write of a file that is not empty.
fn written_ms(path: &Path) -> Option<i64> {
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.len() > 0)?;
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).ok()
}

impl Drop for OffsetStore {
    /// Waits for the queue: another server may own the data directory after this.
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
        if let Err(error) = self.journal.close() {
            tracing::warn!(%error, "committed offsets are in the page cache only, and refused ones may be among them");
        }
    }

    /// Writes `first` and everything queued behind it, syncs if it must, makes it visible, and
    /// answers.
    fn write(&mut self, first: Queued, queue: &mpsc::Receiver<Queued>) {
        let (mut records, mut taken) = (Vec::new(), Vec::new());
        let mut must_last = self.durability == Durability::Fsync;
        let mut next = Some(first);
        while let Some(Queued { change, done }) = next {
            if self.has_room_for(&change) {
                // The topic's name may be reused after this, so its offsets must not come back.
                must_last |= matches!(change, Change::Forget { .. });
                records.extend(journal::encode(&change));
                taken.push(Queued { change, done });
            } else {
                // Sending fails if the receiver has gone, here and below.
                let _ = done.send(Err(CommitError::Full));
            }
            next = if records.len() < WRITE_BYTES { queue.try_recv().ok() } else { None };
        }
        let written = match must_last {
            true => self.journal.append_durably(&records),
            false => self.journal.append(&records),
        };
        let outcome = written.map_err(|error| {
            if let Some(held_back) = self.lines.take(Instant::now()) {
                tracing::error!(%error, held_back, "cannot write committed offsets");
            }
            CommitError::Disk(error.kind())
        });
        for Queued { change, done } in taken {
            if outcome.is_ok() {
                self.offsets.lock().apply(change);
            }
            let _ = done.send(outcome);
        }
    }

    /// Changes written together do not see each other's size: the bound is exceeded by WRITE_BYTES
    /// at most.
    fn has_room_for(&self, change: &Change) -> bool {
        match change {
            Change::Commit(commit) => self.offsets.lock().has_room_for(commit, OFFSETS_MAX_BYTES),
            Change::Forget { .. } => true,
        }
    }

    fn compact_if_needed(&mut self) {
        let offsets = self.offsets.lock();
        if !self.journal.needs_compaction(&offsets) {
            return;
        }
        // Only this thread changes the map, so the snapshot holds no lock that a worker could wait
        // for.
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

    fn commit(group: &str, offset: i64) -> Commit {
        let at = Committed { offset, leader_epoch: -1, metadata: "".into() };
        Commit { group: group.into(), entries: vec![("topic".into(), 0, at)] }
    }

    #[tokio::test]
    async fn a_commit_is_visible_when_it_is_acknowledged_and_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        for offset in 0..100 {
            store.commit(commit("g", offset)).unwrap().done().await.unwrap();
            assert_eq!(store.read().get("g", "topic", 0).unwrap().offset, offset);
        }
        drop(store);
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        assert_eq!(store.read().get("g", "topic", 0).unwrap().offset, 99);
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_noticed_and_one_that_works_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        store.commit(commit("g", 7)).unwrap().done().await.unwrap();
        let ended = tokio::time::timeout(std::time::Duration::from_millis(20), store.ended());
        assert!(ended.await.is_err());
        let dying = OffsetStore::start(Arc::default(), |queue| {
            let first = queue.recv().unwrap();
            panic!("at {:?}", first.change);
        });
        let dying = dying.unwrap();
        let outcome = dying.commit(commit("g", 8)).unwrap().done().await;
        assert!(matches!(outcome, Err(CommitError::Disk(_))));
        dying.ended().await;
    }

    /// fdatasync(2) of /dev/null fails, and its writes do not.
    #[tokio::test]
    async fn a_commit_whose_sync_fails_is_refused_and_so_are_those_after_it() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join(FILE_NAME)).unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Fsync).unwrap();
        for offset in 0..3 {
            let outcome = store.commit(commit("g", offset)).unwrap().done().await;
            assert!(matches!(outcome, Err(CommitError::Disk(_))));
            assert!(store.read().get("g", "topic", 0).is_none(), "nothing of it is visible");
        }
        drop(store);
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        store.commit(commit("g", 7)).unwrap().done().await.unwrap();
    }

    #[tokio::test]
    async fn an_acknowledged_commit_is_in_the_file_before_the_store_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        store.commit(commit("g", 7)).unwrap().done().await.unwrap();
        let copy = dir.path().join("as-after-sigkill");
        std::fs::copy(dir.path().join(FILE_NAME), &copy).unwrap();
        let (_, offsets) = Journal::open(copy, Durability::Os).unwrap();
        assert_eq!(offsets.get("g", "topic", 0).unwrap().offset, 7);
    }

    fn foreign(group: &str, offset: i64, committed_ms: i64) -> Foreign {
        let at = Committed { offset, leader_epoch: -1, metadata: "".into() };
        Foreign { group: group.into(), topic: "topic".into(), partition: 0, at, committed_ms }
    }

    #[test]
    fn what_was_committed_here_since_is_not_overridden_by_what_a_kafka_knows() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        let first = vec![foreign("a", 5, 1_000), foreign("b", 6, 1_000)];
        assert_eq!(store.take_over(first), Ok(2));
        drop(store);
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        let again = vec![foreign("a", 4, 1_000), foreign("b", 9, i64::MAX), foreign("c", 7, 1_000)];
        assert_eq!(store.take_over(again), Ok(2));
        let offset = |group| store.read().get(group, "topic", 0).unwrap().offset;
        assert_eq!((offset("a"), offset("b"), offset("c")), (5, 9, 7));
    }

    /// A kill in between left some of them in the journal, whose last write was then later than all
    /// others.
    #[test]
    fn taking_over_that_is_cut_short_goes_on_as_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let open = || OffsetStore::open(dir.path(), Durability::Os).unwrap();
        let store = open();
        store.take_over(vec![foreign("a", 1, 1_000), foreign("b", 1, 1_000)]).unwrap();
        drop(store);
        let store = open();
        let later = store.written_ms.unwrap() + 1;
        let all = || vec![foreign("a", 9, later), foreign("b", 9, later)];
        store.begin_taking_over().unwrap();
        store.take_over(all().split_off(1)).unwrap();
        drop(store);
        let store = open();
        assert_eq!(store.take_over(all()), Ok(1));
        store.end_taking_over().unwrap();
        assert_eq!(store.read().get("a", "topic", 0).unwrap().offset, 9);
        drop(store);
        assert!(open().written_ms.unwrap() >= later);
    }

    #[test]
    fn a_start_forgets_the_offsets_of_topics_that_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        assert_eq!(store.take_over(vec![foreign("a", 5, 1_000)]), Ok(1));
        store.retain_topics(|topic| topic == "topic").unwrap();
        assert!(store.read().get("a", "topic", 0).is_some());
        store.retain_topics(|_| false).unwrap();
        drop(store);
        let store = OffsetStore::open(dir.path(), Durability::Os).unwrap();
        assert!(store.read().get("a", "topic", 0).is_none());
    }
}
