//! All topics and their partitions: found by name, created, grown, deleted, closed.
//!
//! Called by requests (look-ups are a read lock and a clone of an `Arc`), by housekeeping and by server.
//! What changes files says so: it must run where blocking is allowed. Opening is in opening.rs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use parking_lot::{Mutex, RwLock};
use penstock_storage::{
    AgeRead, DataDir, DataDirError, LogConfig, PartitionName, RecoveryPoint, TopicId,
};

use crate::log_budget::LogBudget;
use crate::overrides::{Overrides, OverridesFile};
use crate::partition::{Commits, Partition, ProduceFailure};

mod opening;

/// One topic. Its partitions are numbered, but a directory that came from a cluster of several
/// brokers may hold only some of them.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    partitions: RwLock<BTreeMap<i32, Arc<Partition>>>,
    /// Partitions that are there and could not be opened. Their files stay as they are; so does what is
    /// known of how far they were on the disk.
    unopened: BTreeMap<i32, RecoveryPoint>,
    overrides: RwLock<Overrides>,
}

/// All topics of the data directory.
pub(crate) struct Topics {
    data_dir: DataDir,
    defaults: LogConfig,
    commits: Arc<Commits>,
    by_name: RwLock<HashMap<String, Arc<Topic>>>,
    /// Held by whoever creates, grows, reconfigures or deletes; and the file it must keep true.
    changes: Mutex<OverridesFile>,
    /// Held while recovery points are gathered and written: none that are older replace newer ones.
    points_file: Mutex<()>,
}

/// Why there is no partition to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unserved {
    /// The topic has none of that number, or there is no such topic.
    #[error("no such topic or partition")]
    Unknown,
    /// It is there, and its files could not be used when the server started.
    #[error("the partition could not be opened when the server started")]
    Unopened,
}

/// Why topics did not change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("topic exists")]
    Exists,
    #[error("no such topic")]
    Unknown,
    #[error("it has {has} partitions already")]
    NotMore { has: i32 },
    #[error("{0:#}")]
    Disk(#[from] anyhow::Error),
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Result<Arc<Partition>, Unserved> {
        match self.partitions.read().get(&index) {
            Some(partition) => Ok(Arc::clone(partition)),
            None if self.unopened.contains_key(&index) => Err(Unserved::Unopened),
            None => Err(Unserved::Unknown),
        }
    }

    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// Numbers of those that could not be opened.
    pub(crate) fn unopened(&self) -> impl Iterator<Item = i32> {
        self.unopened.keys().copied()
    }

    /// Partitions of it, served or not.
    pub(crate) fn partition_count(&self) -> i32 {
        (self.partitions.read().len() + self.unopened.len()) as i32
    }

    fn name_of(&self, index: i32) -> PartitionName {
        PartitionName { topic: self.name.clone(), partition: index }
    }

    pub(crate) fn overrides(&self) -> Overrides {
        self.overrides.read().clone()
    }
}

impl Topics {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn partition(&self, topic: &str, index: i32) -> Result<Arc<Partition>, Unserved> {
        self.by_name.read().get(topic).ok_or(Unserved::Unknown)?.partition(index)
    }

    /// Whether it is there, served or not.
    pub(crate) fn has_partition(&self, topic: &str, index: i32) -> bool {
        !matches!(self.partition(topic, index), Err(Unserved::Unknown))
    }

    /// All topics, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        let mut all: Vec<_> = self.by_name.read().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Partitions served.
    pub(crate) fn partition_count(&self) -> usize {
        self.by_name.read().values().map(|topic| topic.partitions.read().len()).sum()
    }

    /// Partitions that take no records until restart.
    pub(crate) fn offline_count(&self) -> usize {
        let failed = self.partitions().iter().filter(|p| p.log().is_offline()).count();
        failed + self.all().iter().map(|topic| topic.unopened.len()).sum::<usize>()
    }

    /// The greatest producer id that any log remembers.
    pub(crate) fn greatest_producer_id(&self) -> Option<i64> {
        self.partitions().iter().filter_map(|p| p.log().greatest_producer_id()).max()
    }

    /// Damaged ranges of all logs, and bytes in them.
    pub(crate) fn damage(&self) -> (u64, u64) {
        let of_one = |(ranges, bytes), partition: &Arc<Partition>| {
            partition.log().damage().fold((ranges, bytes), |(ranges, bytes), damage| {
                (ranges + 1, bytes + damage.len_bytes)
            })
        };
        self.partitions().iter().fold((0, 0), of_one)
    }

    /// Creates a topic with partitions 0 to `count` - 1. Blocks.
    ///
    /// # Errors
    /// It exists, or the disk fails; then nothing of it is left, or the log says what.
    pub(crate) fn create(
        &self,
        name: &str,
        count: i32,
        overrides: Overrides,
    ) -> Result<Arc<Topic>, ChangeError> {
        let mut changes = self.changes.lock();
        if self.get(name).is_some() {
            return Err(ChangeError::Exists);
        }
        let topic = Arc::new(Topic {
            name: name.to_owned(),
            id: TopicId::random(),
            partitions: RwLock::default(),
            unopened: BTreeMap::new(),
            overrides: RwLock::new(overrides.clone()),
        });
        changes.set(name, overrides)?;
        if let Err(error) = self.grow_to(&topic, count) {
            let forgotten = changes.set(name, Overrides::default()).map_err(ChangeError::from);
            if let Err(error) = self.delete_partitions(&topic).and(forgotten) {
                tracing::error!(name, %error, "cannot remove what there is of a topic that could not be created");
            }
            return Err(error);
        }
        self.by_name.write().insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    /// Adds partitions to a topic until it has `count`. Blocks.
    ///
    /// # Errors
    /// Unknown, has as many already, or the disk fails.
    pub(crate) fn add_partitions(&self, name: &str, count: i32) -> Result<(), ChangeError> {
        let _changing = self.changes.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        let has = topic.partition_count();
        if count <= has {
            return Err(ChangeError::NotMore { has });
        }
        // Of a topic that was deleted in part: what was said of a partition that is gone must not be believed of
        // a new one, and its topic has the same id.
        self.write_recovery_points().context("cannot forget what was said of deleted logs")?;
        self.grow_to(&topic, count)
    }

    fn grow_to(&self, topic: &Topic, count: i32) -> Result<(), ChangeError> {
        let is_there = |name: &PartitionName| {
            name.topic != topic.name
                || !matches!(topic.partition(name.partition), Err(Unserved::Unknown))
        };
        self.data_dir.retain_log_starts(is_there).context("cannot forget where logs started")?;
        let config = topic.overrides().apply(&self.defaults);
        for index in 0..count {
            if !matches!(topic.partition(index), Err(Unserved::Unknown)) {
                continue;
            }
            let name = topic.name_of(index);
            let log = self
                .data_dir
                .create_partition(&name, topic.id, config.clone())
                .with_context(|| format!("cannot create partition {name}"))?;
            let partition = Partition::new(name, log, Arc::clone(&self.commits));
            topic.partitions.write().insert(index, partition);
        }
        Ok(())
    }

    /// Changes a topic's configuration. Blocks.
    ///
    /// # Errors
    /// Unknown, or the disk fails.
    pub(crate) fn reconfigure(&self, name: &str, overrides: Overrides) -> Result<(), ChangeError> {
        let mut changes = self.changes.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        changes.set(name, overrides.clone())?;
        let config = overrides.apply(&self.defaults);
        *topic.overrides.write() = overrides;
        for partition in topic.partitions() {
            partition.log().set_config(config.clone());
        }
        Ok(())
    }

    /// Deletes a topic. Fetches and appends that hold it finish on files that are unlinked. Blocks.
    ///
    /// # Errors
    /// Unknown, or the disk fails. Partitions that are deleted by then stay so, the others are served on, the
    /// name is taken until a later call deletes the rest.
    pub(crate) fn delete(&self, name: &str) -> Result<(), ChangeError> {
        let mut changes = self.changes.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        self.delete_partitions(&topic)?;
        // Before the name is free: it is all that the file knows.
        let others = |partition: &PartitionName| partition.topic != name;
        self.data_dir.retain_log_starts(others).context("cannot forget where its logs start")?;
        self.by_name.write().remove(name);
        if let Err(error) = changes.set(name, Overrides::default()) {
            // They mean nothing without the topic, and a new one of its name replaces them.
            tracing::warn!(name, "cannot forget the configuration of a deleted topic: {error:#}");
        }
        Ok(())
    }

    /// Stops at the first one that cannot be deleted.
    fn delete_partitions(&self, topic: &Topic) -> Result<(), ChangeError> {
        let delete = |name: &PartitionName| {
            let deleted = self.data_dir.delete_partition(name);
            deleted.with_context(|| format!("cannot delete partition {name}"))
        };
        for partition in topic.partitions() {
            partition.give_up_directory(|| delete(&partition.name))?;
            topic.partitions.write().remove(&partition.name.partition);
            partition.waiting().wake();
        }
        topic.unopened().try_for_each(|index| delete(&topic.name_of(index)))?;
        Ok(())
    }

    /// Seals active segments that have expired whole.
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

    /// Lets go of the segments that retention no longer keeps. Blocks.
    pub(crate) fn expire(&self, now_ms: i64) {
        for partition in self.partitions() {
            partition.touch_files(|| {
                // Each guard ends with its statement: files are read and unlinked without it.
                loop {
                    let expired = partition.log().expire(now_ms);
                    for segment in expired {
                        if let Err(error) = segment.unlink() {
                            tracing::error!(%error, "cannot unlink an expired segment");
                        }
                    }
                    let unread = partition.log().unread_age();
                    match unread.map(AgeRead::run) {
                        Some(Ok(age)) => partition.log().note_age(age),
                        Some(Err(error)) => {
                            tracing::warn!(%error, "cannot tell how old a segment is");
                            break;
                        }
                        None => break,
                    }
                }
            });
        }
    }

    /// Writes index entries that are in memory only. Blocks.
    pub(crate) fn flush_indexes(&self) {
        for partition in self.partitions() {
            partition.touch_files(|| {
                let flushes = partition.log().unflushed_indexes();
                for flush in flushes {
                    if let Err(error) = flush.write() {
                        tracing::warn!(%error, "cannot write index entries; recovery will rebuild them");
                    }
                }
            });
        }
    }

    /// Moves every recovery point to its log's end and writes them down. Blocks.
    pub(crate) fn flush(&self) {
        let moved = self.partitions().iter().filter(|partition| partition.flush()).count();
        if moved > 0
            && let Err(error) = self.write_recovery_points()
        {
            not_written(&error);
        }
    }

    fn write_recovery_points(&self) -> Result<(), DataDirError> {
        let _writing = self.points_file.lock();
        self.data_dir.write_recovery_points(&self.recovery_points())
    }

    /// Whether a file with these points may stay.
    fn bear_out(&self, written: &HashMap<PartitionName, RecoveryPoint>) -> bool {
        let now = self.recovery_points();
        written.iter().all(|(name, point)| now.get(name).is_none_or(|now| point.holds(now)))
    }

    fn recovery_points(&self) -> BTreeMap<PartitionName, RecoveryPoint> {
        let mut points = BTreeMap::new();
        for topic in self.all() {
            points.extend(topic.unopened.iter().map(|(index, at)| (topic.name_of(*index), *at)));
            let of_log = |p: Arc<Partition>| (p.name.clone(), p.log().recovery_point());
            points.extend(topic.partitions().into_iter().map(of_log));
        }
        points
    }

    /// Closes every log and, if all could be, marks the stop as clean. Blocks.
    ///
    /// # Errors
    /// The first log that cannot be closed, or was not even opened; the others are closed all the same.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        let mut closed = Ok(());
        for partition in self.partitions() {
            let outcome = partition.log().close();
            let outcome = outcome.with_context(|| format!("cannot close {}", partition.name));
            closed = closed.and(outcome);
        }
        for topic in self.all() {
            if let Some(index) = topic.unopened().next() {
                // Whether it was left cleanly is not known any more: its next opening must look.
                let name = topic.name_of(index);
                closed = closed.and(Err(anyhow::anyhow!("{name} could not be opened")));
            }
        }
        let written = self.write_recovery_points().context("cannot write the recovery points");
        closed.and(written)?;
        self.data_dir.write_clean_shutdown().context("cannot mark the stop as clean")
    }

    /// All partitions of all topics, by name.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.all().iter().flat_map(|topic| topic.partitions()).collect()
    }
}

fn not_written(error: &DataDirError) {
    tracing::warn!(%error, "cannot write the recovery points; a start after a crash reads more");
}
