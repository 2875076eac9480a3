//! All topics and their partitions: found by name, created, grown, deleted, closed.
//!
//! Called by requests (look-ups are a read lock and a clone of an `Arc`), by housekeeping and by server.
//! What changes files says so: it must run where blocking is allowed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use parking_lot::{Mutex, RwLock};
use penstock_storage::{
    AgeRead, DataDir, DataDirError, Log, LogConfig, LogError, PartitionName, Recovery,
    RecoveryPoint, TopicId,
};

use crate::durability::Durability;
use crate::log_budget::LogBudget;
use crate::metrics::Metrics;
use crate::overrides::{Overrides, OverridesFile};
use crate::partition::{Commits, Partition, ProduceFailure};
use crate::settings::Settings;

/// One topic. Its partitions are numbered, but a directory that came from a cluster of several
/// brokers may hold only some of them.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    partitions: RwLock<BTreeMap<i32, Arc<Partition>>>,
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
    pub(crate) fn partition(&self, index: i32) -> Option<Arc<Partition>> {
        self.partitions.read().get(&index).cloned()
    }

    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    pub(crate) fn overrides(&self) -> Overrides {
        self.overrides.read().clone()
    }
}

impl Topics {
    /// Opens every log of the data directory, as many at a time as there are cores. Blocks.
    pub(crate) fn open(
        settings: &Settings,
        data_dir: DataDir,
        metrics: &Metrics,
    ) -> anyhow::Result<Topics> {
        let changes = OverridesFile::open(data_dir.path())?;
        let last_stop = data_dir.take_last_stop()?;
        let names = data_dir.partitions()?;
        data_dir.retain_log_starts(|name| names.binary_search(name).is_ok())?;
        let log_starts = data_dir.log_starts()?;
        let config_of = |topic: &str| changes.of(topic).apply(&settings.log);
        let points = data_dir.recovery_points()?;
        let open = |name: &PartitionName| {
            let point = points.get(name).copied().unwrap_or(RecoveryPoint::NONE);
            let path = data_dir.partition_path(name);
            let opened = Log::open_from(&path, config_of(&name.topic), last_stop, point)?;
            metrics.missing_offsets.inc_by(opened.1.missing_offsets as i64);
            Ok(opened)
        };
        let opened = open_all(names, open)?;

        let commits = Arc::new(Commits {
            durability: settings.durability,
            appends: metrics.appends.clone(),
            groups: metrics.append_groups.clone(),
            syncs: metrics.log_syncs.clone(),
        });
        let mut by_topic: BTreeMap<String, BTreeMap<i32, Log>> = BTreeMap::new();
        for (name, mut log) in opened {
            if let Some(log_start) = log_starts.get(&name) {
                log.raise_log_start(*log_start);
            }
            by_topic.entry(name.topic).or_default().insert(name.partition, log);
        }
        let topic = |(name, logs): (String, BTreeMap<i32, Log>)| {
            let id = logs.values().find_map(Log::topic_id).unwrap_or_else(TopicId::random);
            let overrides = changes.of(&name);
            let partition = |(index, log)| {
                let name = PartitionName { topic: name.clone(), partition: index };
                (index, Partition::new(name, log, Arc::clone(&commits)))
            };
            let partitions = logs.into_iter().map(partition).collect();
            let topic = Topic {
                name: name.clone(),
                id,
                partitions: RwLock::new(partitions),
                overrides: RwLock::new(overrides),
            };
            (name, Arc::new(topic))
        };
        let by_name = RwLock::new(by_topic.into_iter().map(topic).collect());
        let defaults = settings.log.clone();
        let topics = Topics { data_dir, defaults, commits, by_name, changes: Mutex::new(changes) };
        if settings.durability == Durability::Fsync {
            // A killed server may leave a write that nobody had synced; what is shown from here on must last.
            topics.flush();
        }
        // A point beyond the end of its log would be believed again once the log has grown past it.
        topics.write_recovery_points()?;
        Ok(topics)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn partition(&self, topic: &str, index: i32) -> Option<Arc<Partition>> {
        self.by_name.read().get(topic)?.partition(index)
    }

    /// All topics, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        let mut all: Vec<_> = self.by_name.read().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.by_name.read().values().map(|topic| topic.partitions.read().len()).sum()
    }

    /// Partitions that take no records until restart.
    pub(crate) fn offline_count(&self) -> usize {
        self.partitions().iter().filter(|partition| partition.log().is_offline()).count()
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
    /// It exists, or the disk fails; then nothing of it is left.
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
            overrides: RwLock::new(overrides.clone()),
        });
        changes.set(name, overrides)?;
        if let Err(error) = self.grow_to(&topic, count) {
            self.remove_directories(&topic);
            changes.set(name, Overrides::default())?;
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
        let has = topic.partitions.read().len() as i32;
        if count <= has {
            return Err(ChangeError::NotMore { has });
        }
        self.grow_to(&topic, count)
    }

    fn grow_to(&self, topic: &Topic, count: i32) -> Result<(), ChangeError> {
        let config = topic.overrides().apply(&self.defaults);
        for index in 0..count {
            if topic.partition(index).is_some() {
                continue;
            }
            let name = PartitionName { topic: topic.name.clone(), partition: index };
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
    /// Unknown, or the disk fails.
    pub(crate) fn delete(&self, name: &str) -> Result<(), ChangeError> {
        let mut changes = self.changes.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        let others = |partition: &PartitionName| partition.topic != name;
        self.data_dir.retain_log_starts(others).context("cannot forget where its logs start")?;
        self.by_name.write().remove(name);
        self.remove_directories(&topic);
        changes.set(name, Overrides::default())?;
        for partition in topic.partitions() {
            partition.waiting().wake();
        }
        Ok(())
    }

    fn remove_directories(&self, topic: &Topic) {
        for partition in topic.partitions() {
            let name = &partition.name;
            partition.give_up_directory();
            if let Err(error) = self.data_dir.delete_partition(name) {
                tracing::error!(%name, %error, "cannot delete a partition's directory");
            }
        }
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
            tracing::warn!(%error, "cannot write the recovery points; a start after a crash reads more");
        }
    }

    fn write_recovery_points(&self) -> Result<(), DataDirError> {
        let point =
            |partition: &Arc<Partition>| (partition.name.clone(), partition.log().recovery_point());
        self.data_dir.write_recovery_points(&self.partitions().iter().map(point).collect())
    }

    /// Closes every log and, if all could be, marks the stop as clean. Blocks.
    ///
    /// # Errors
    /// The first log that cannot be closed; the others are closed all the same.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        let mut closed = Ok(());
        for partition in self.partitions() {
            let outcome = partition.log().close();
            let outcome = outcome.with_context(|| format!("cannot close {}", partition.name));
            closed = closed.and(outcome);
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

/// Opens logs on as many threads as there are cores and says what recovery found.
fn open_all(
    names: Vec<PartitionName>,
    open: impl Fn(&PartitionName) -> Result<(Log, Recovery), LogError> + Sync,
) -> anyhow::Result<Vec<(PartitionName, Log)>> {
    let queue = Mutex::new(names.into_iter());
    let opened = Mutex::new(Vec::new());
    let open_some = || -> Result<(), LogError> {
        loop {
            let Some(name) = queue.lock().next() else { return Ok(()) };
            let (log, recovery) = open(&name)?;
            report(&name, &recovery);
            opened.lock().push((name, log));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..threads).map(|_| scope.spawn(open_some)).collect();
        for opener in openers {
            opener.join().map_err(|_| anyhow::anyhow!("opening a log panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(opened.into_inner())
}

fn report(name: &PartitionName, recovery: &Recovery) {
    if recovery.truncated_bytes + recovery.missing_offsets > 0 {
        tracing::warn!(%name, ?recovery, "recovered what was wholly on the disk; the rest is cut or missing");
    } else if *recovery != Recovery::default() {
        tracing::info!(%name, ?recovery, "recovered");
    }
}
