//! All topics and their partitions: found by name, flushed.
//!
//! Called by requests (a look-up is a read lock and a clone of an `Arc`), by periodic tasks and by
//! serve. Methods that change files block, and are marked so. changes.rs creates, grows, configures
//! and deletes; opening.rs opens; closing.rs closes; expiry.rs does retention's work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use penstock_storage::{DataDir, LogConfig, PartitionName, RecoveryPoint, TopicId};

use crate::broker::groups::OffsetStore;
use crate::broker::overrides::Overrides;
use crate::broker::partition::{Commits, Partition};
use crate::broker::registry::{Entry, Registry};
use crate::causes::Causes;

mod changes;
mod closing;
mod expiry;
mod interrupted;
mod opening;
mod taking_over;
#[cfg(test)]
mod tests;

pub(crate) use closing::Deadline;
pub(crate) use taking_over::{committed_in, config_in, take_over};

/// Kafka's own topics, which clients leave out of subscriptions by pattern.
pub(crate) const INTERNAL_TOPICS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// Kafka's metadata log, whose directory a start skips.
const KAFKAS_METADATA: &str = "__cluster_metadata";

/// One topic. Its partitions are numbered, but a directory from a cluster of several brokers may
/// have only some of them.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    partitions: RwLock<BTreeMap<i32, Arc<Partition>>>,
    /// Partitions of the topic that cannot be served.
    absent: BTreeMap<i32, Absent>,
    overrides: RwLock<Overrides>,
    /// Whether the server's retention does not apply to it: see `Entry::retention_held`.
    retention_held: bool,
}

/// Why a partition of a topic is not served. Its files, if it has any, stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// It could not be opened. Its recovery point is kept.
    Unopened(RecoveryPoint),
    /// It has no directory here.
    Missing,
}

/// All topics of the data directory.
pub(crate) struct Topics {
    data_dir: DataDir,
    defaults: LogConfig,
    commits: Arc<Commits>,
    by_name: RwLock<HashMap<String, Arc<Topic>>>,
    /// Changed while `by_name` is locked.
    deletions: AtomicU64,
    /// Decides which topics there are; held by every creation, growth, configuration and deletion.
    registry: Mutex<Registry>,
    /// Committed offsets are forgotten with their topic.
    offsets: Arc<OffsetStore>,
    /// Held while recovery points are gathered and written, so that older ones never replace newer
    /// ones.
    points_file: Mutex<()>,
}

/// Why a partition is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unserved {
    /// The topic has no such partition, or there is no such topic.
    #[error("no such topic or partition")]
    Unknown,
    /// The partition is there, but its files could not be used at start.
    #[error("the partition's files could not be opened when the server started")]
    Unopened,
    /// The topic has it, but this data directory does not.
    #[error("the partition is not in this server's data directory")]
    Missing,
}

/// Why topics were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("topic exists")]
    Exists,
    /// Kafka's metrics replace both characters by `_`.
    #[error("the name differs from that of topic {with} in . and _ only")]
    Collides { with: String },
    #[error("the name is Kafka's own")]
    Reserved,
    #[error("no such topic")]
    Unknown,
    #[error("it has {has} partitions already")]
    NotMore { has: i32 },
    /// A message for the client.
    #[error("{0}")]
    Config(String),
    #[error("{}", Causes(.0))]
    Disk(#[from] anyhow::Error),
}

impl Topic {
    /// A topic of the registry with the partitions that could be opened.
    fn new(
        name: &str,
        entry: &Entry,
        partitions: BTreeMap<i32, Arc<Partition>>,
        absent: BTreeMap<i32, Absent>,
    ) -> Topic {
        Topic {
            name: name.to_owned(),
            id: entry.id,
            partitions: RwLock::new(partitions),
            absent,
            overrides: RwLock::new(entry.config.clone()),
            retention_held: entry.retention_held,
        }
    }

    /// Whether the server's retention does not apply to it: see `Entry::retention_held`.
    pub(crate) fn is_retention_held(&self) -> bool {
        self.retention_held
    }

    fn config(&self, of_server: &LogConfig) -> LogConfig {
        self.overrides().apply(&defaults(of_server, self.retention_held))
    }

    pub(crate) fn partition(&self, index: i32) -> Result<Arc<Partition>, Unserved> {
        match self.partitions.read().get(&index) {
            Some(partition) => Ok(Arc::clone(partition)),
            None => Err(match self.absent.get(&index) {
                Some(Absent::Unopened(_)) => Unserved::Unopened,
                Some(Absent::Missing) => Unserved::Missing,
                None => Unserved::Unknown,
            }),
        }
    }

    fn has(&self, index: i32) -> bool {
        self.partitions.read().contains_key(&index) || self.absent.contains_key(&index)
    }

    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    /// Indexes of the partitions that cannot be served.
    pub(crate) fn absent(&self) -> impl Iterator<Item = i32> {
        self.absent.keys().copied()
    }

    fn unopened(&self) -> impl Iterator<Item = (i32, RecoveryPoint)> {
        self.absent.iter().filter_map(|(index, why)| match why {
            Absent::Unopened(point) => Some((*index, *point)),
            Absent::Missing => None,
        })
    }

    /// The number of its partitions, served or not: their indexes are below it.
    pub(crate) fn partition_count(&self) -> i32 {
        let served = self.partitions.read().last_key_value().map(|(index, _)| *index);
        let absent = self.absent.last_key_value().map(|(index, _)| *index);
        served.max(absent).map_or(0, |last| last + 1)
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

    /// Whether there is such a partition, served or not.
    pub(crate) fn has(&self, topic: &str, index: i32) -> bool {
        let by_name = self.by_name.read();
        by_name.get(topic).is_some_and(|topic| topic.has(index))
    }

    /// How many topics have been deleted since the start. A partition that was found is still there
    /// if this has not changed since before.
    pub(crate) fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::Acquire)
    }

    fn drop_name(&self, name: &str) {
        let mut by_name = self.by_name.write();
        by_name.remove(name);
        self.deletions.fetch_add(1, Ordering::Release);
    }

    /// Runs something that relies on partitions; none is deleted meanwhile, served or not. Whoever
    /// creates or deletes a topic waits for it, and then all others who look one up.
    pub(crate) fn while_none_goes<T>(
        &self,
        run: impl FnOnce(&dyn Fn(&str, i32) -> bool) -> T,
    ) -> T {
        let by_name = self.by_name.read();
        run(&|topic, index| by_name.get(topic).is_some_and(|topic| topic.has(index)))
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

    /// Partitions that take no appends until restart.
    pub(crate) fn offline_count(&self) -> usize {
        let failed = self.partitions().iter().filter(|p| p.log().is_offline()).count();
        failed + self.all().iter().map(|topic| topic.absent.len()).sum::<usize>()
    }

    /// The greatest producer id in any log.
    pub(crate) fn greatest_producer_id(&self) -> Option<i64> {
        self.partitions().iter().filter_map(|p| p.log().greatest_producer_id()).max()
    }

    /// The number of damaged ranges in all logs, and of bytes in them.
    pub(crate) fn damage(&self) -> (u64, u64) {
        let of_one = |(ranges, bytes), partition: &Arc<Partition>| {
            partition.log().damage().fold((ranges, bytes), |(ranges, bytes), damage| {
                (ranges + 1, bytes + damage.len_bytes)
            })
        };
        self.partitions().iter().fold((0, 0), of_one)
    }

    /// Whether a new topic may have this name. The form of the name is checked elsewhere.
    ///
    /// # Errors
    /// The name is taken, differs from a taken one in `.` and `_` only, or is one that a start
    /// skips.
    pub(crate) fn check_new(&self, name: &str) -> Result<(), ChangeError> {
        let by_name = self.by_name.read();
        if by_name.contains_key(name) {
            return Err(ChangeError::Exists);
        }
        if name == KAFKAS_METADATA {
            return Err(ChangeError::Reserved);
        }
        fn folded(name: &str) -> impl Iterator<Item = u8> {
            name.bytes().map(|byte| if byte == b'.' { b'_' } else { byte })
        }
        let is_alike =
            |other: &&String| other.len() == name.len() && folded(other).eq(folded(name));
        let other = name.contains(['.', '_']).then(|| by_name.keys().find(is_alike)).flatten();
        match other {
            Some(other) => Err(ChangeError::Collides { with: other.clone() }),
            None => Ok(()),
        }
    }

    /// Writes index entries that are in memory only, while `goes_on`. Blocks.
    pub(crate) fn flush_indexes(&self, goes_on: impl Fn() -> bool) {
        for partition in self.partitions().into_iter().take_while(|_| goes_on()) {
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

    /// Moves the recovery points of these partitions to their logs' ends, and writes all points.
    /// Blocks.
    pub(crate) fn flush(&self, is_asked: impl Fn(&Partition) -> bool) {
        let partitions = self.partitions();
        let asked = partitions.iter().filter(|partition| is_asked(partition));
        let moved = asked.filter(|partition| partition.flush()).count();
        if moved > 0
            && let Err(error) = self.write_recovery_points()
        {
            not_written(&error);
        }
    }

    /// The file also shows that a Penstock has served the directory. It must not be there before
    /// the registry knows which topics came from elsewhere.
    fn write_recovery_points(&self) -> anyhow::Result<()> {
        self.registry.lock().begin_list()?;
        let _writing = self.points_file.lock();
        Ok(self.data_dir.write_recovery_points(&self.recovery_points())?)
    }

    /// Whether the file of these points may stay.
    fn bear_out(&self, written: &HashMap<PartitionName, RecoveryPoint>) -> bool {
        let now = self.recovery_points();
        written.iter().all(|(name, point)| now.get(name).is_none_or(|now| point.holds(now)))
    }

    fn recovery_points(&self) -> BTreeMap<PartitionName, RecoveryPoint> {
        let mut points = BTreeMap::new();
        for topic in self.all() {
            points.extend(topic.unopened().map(|(index, at)| (topic.name_of(index), at)));
            let of_log = |p: Arc<Partition>| (p.name.clone(), p.log().recovery_point());
            points.extend(topic.partitions().into_iter().map(of_log));
        }
        points
    }

    /// All partitions of all topics, by name.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.all().iter().flat_map(|topic| topic.partitions()).collect()
    }
}

/// The server's defaults, as they apply to a topic.
fn defaults(of_server: &LogConfig, retention_held: bool) -> LogConfig {
    match retention_held {
        true => LogConfig { retention_ms: None, retention_bytes: None, ..of_server.clone() },
        false => of_server.clone(),
    }
}

fn not_written(error: &anyhow::Error) {
    tracing::warn!(
        "cannot write the recovery points; a start after a crash reads more: {}",
        Causes(error)
    );
}
