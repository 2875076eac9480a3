//! Opens all topics of a data directory. A partition that cannot be opened keeps its place and is
//! not served.
//!
//! ```text
//!   registry ────► finish what a crash interrupted ──► take over topics that came from elsewhere
//!   directories ──► open each log, as many at a time as there are cores ──► its topic's `partitions`
//!                       └── cannot, or there is none: one line ───────────► its topic's `absent`
//! ```
//!
//! Called at start, by serve. Blocks. An error of the data directory as a whole refuses the start:
//! its lock, its checkpoints, its listing. So does a lack of descriptors or memory, which is no
//! partition's fault.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::{Mutex, RwLock};
use penstock_storage::{
    DataDir, DataDirError, Log, LogError, OldSegments, PartitionName, Recovery, RecoveryPoint,
    Transactions, is_no_room, is_out_of_descriptors, is_shortage,
};

use super::interrupted::finish_all;
use super::taking_over::{report_held, take_over};
use super::{Absent, Topic, Topics, defaults, not_written};
use crate::broker::groups::OffsetStore;
use crate::broker::metrics::Metrics;
use crate::broker::partition::{Commits, Partition};
use crate::broker::read_errors::{self, What};
use crate::broker::registry::{Entry, Registry};
use crate::config::settings::Settings;

/// The outcome of one topic's directories.
#[derive(Default)]
struct Found {
    logs: BTreeMap<i32, Log>,
    absent: BTreeMap<i32, Absent>,
}

impl Topics {
    /// Opens every log of the data directory, as many at a time as there are cores. Blocks.
    ///
    /// # Errors
    /// The data directory cannot be used. A log that cannot be opened is no error: see
    /// [`super::Unserved`].
    pub(crate) fn open(
        settings: &Settings,
        data_dir: DataDir,
        offsets: &Arc<OffsetStore>,
        metrics: &Metrics,
    ) -> anyhow::Result<Topics> {
        let mut registry = Registry::open(&data_dir)?;
        finish_all(&mut registry, &data_dir, offsets);
        data_dir.remove_taken_away()?;
        // Done before the mark of a Kafka's visit goes, so that a start that was killed here is
        // repeated.
        take_over(&mut registry, &data_dir, offsets)?;
        report_held(&registry);
        let is_known = |topic: &str| registry.get(topic).is_some();
        if let Err(error) = offsets.retain_topics(is_known) {
            // A topic of that name would forget them when it is created.
            tracing::warn!(%error, "cannot forget offsets of topics that are gone");
        }
        let last_stop = data_dir.take_last_stop()?;
        let mut names = data_dir.partitions()?;
        // Growth that could not be undone is not shown, unless the partition has records.
        let is_whole = |entry: &Entry, name: &PartitionName| {
            let is_unmade = entry.being_made().contains(&name.partition);
            !entry.deleting && (!is_unmade || data_dir.holds_records(name).unwrap_or(true))
        };
        names.retain(|name| registry.get(&name.topic).is_some_and(|entry| is_whole(entry, name)));
        let is_there = |name: &PartitionName| names.binary_search(name).is_ok();
        match data_dir.retain_log_starts(is_there) {
            // They do no harm until there is a partition of that name.
            Err(DataDirError::Io { path, source }) if is_no_room(&source) => {
                tracing::warn!(path = %path.display(), error = %source, "cannot forget where deleted logs started");
            }
            forgotten => forgotten?,
        }
        let log_starts = data_dir.log_starts()?;
        let config_of =
            |entry: &Entry| entry.config.apply(&defaults(&settings.log, entry.retention_held));
        let points = data_dir.recovery_points()?;
        let point_of = |name: &PartitionName| points.get(name).copied();
        let open = |name: &PartitionName| {
            let point = point_of(name).unwrap_or(RecoveryPoint::NONE);
            let path = data_dir.partition_path(name);
            let entry = registry.get(&name.topic).expect("names are of topics with an entry");
            let opened = Log::open_from(&path, config_of(entry), last_stop, point);
            let (mut log, recovery) =
                opened.inspect_err(|error| note_unreadable(metrics, error))?;
            if let Some(id) = log.topic_id().filter(|id| *id != entry.id) {
                let what = format!("is of topic id {id}, the topic's is {}", entry.id);
                return Err(LogError::Metadata { path, what });
            }
            metrics.missing_offsets.inc_by(recovery.missing_offsets as i64);
            if let Some(log_start) = log_starts.get(name) {
                log.raise_log_start(*log_start);
            }
            Ok((log, recovery))
        };
        let mut by_topic: BTreeMap<String, Found> = BTreeMap::new();
        for (name, opened) in open_all(names, open)? {
            let point = point_of(&name).unwrap_or(RecoveryPoint::NONE);
            let found = by_topic.entry(name.topic).or_default();
            match opened {
                Some(log) => drop(found.logs.insert(name.partition, log)),
                None => drop(found.absent.insert(name.partition, Absent::Unopened(point))),
            }
        }

        let commits = Arc::new(Commits {
            durability: settings.durability,
            appends: metrics.appends.clone(),
            writes: metrics.append_writes.clone(),
            syncs: metrics.log_syncs.clone(),
        });
        let is_there = |(name, entry): &(&String, &Entry)| {
            !entry.deleting && (entry.partitions > 0 || by_topic.contains_key(*name))
        };
        let there: Vec<_> = registry.entries().iter().filter(is_there).collect();
        let topic = |(name, entry): (&String, &Entry)| {
            let found = by_topic.remove(name).unwrap_or_default();
            (name.clone(), Arc::new(found.into_topic(name, entry, &commits)))
        };
        let by_name: HashMap<_, _> = there.into_iter().map(topic).collect();
        let (by_name, registry) = (RwLock::new(by_name), Mutex::new(registry));
        let defaults = settings.log.clone();
        let (offsets, points_file) = (Arc::clone(offsets), Mutex::default());
        let topics = Topics {
            data_dir,
            defaults,
            commits,
            by_name,
            deletions: Default::default(),
            registry,
            offsets,
            points_file,
        };
        // A killed server may leave writes that were never synced. What is served from here on must
        // last.
        topics.flush(Partition::promises_syncs);
        match topics.write_recovery_points() {
            // Without room the old points stay. After a crash they cost time only.
            Err(error) if topics.bear_out(&points) => not_written(&error),
            written => written?,
        }
        Ok(topics)
    }
}

fn note_unreadable(metrics: &Metrics, error: &LogError) {
    if let LogError::Io { source, .. } = error
        && read_errors::is_of_the_disk(source)
    {
        metrics.note_read_error(What::Start);
    }
}

impl Found {
    fn into_topic(mut self, name: &str, entry: &Entry, commits: &Arc<Commits>) -> Topic {
        let is_there =
            |index: &i32| self.logs.contains_key(index) || self.absent.contains_key(index);
        let missing: Vec<i32> = (0..entry.partitions).filter(|index| !is_there(index)).collect();
        if !missing.is_empty() {
            tracing::error!(
                topic = name,
                of = entry.partitions,
                missing = ranges(&missing),
                "partitions of a topic are not in this data directory; they have no leader"
            );
        }
        self.absent.extend(missing.into_iter().map(|index| (index, Absent::Missing)));
        let partition = |(index, log)| {
            let name = PartitionName { topic: name.to_owned(), partition: index };
            (index, Partition::new(name, log, Arc::clone(commits)))
        };
        let partitions = self.logs.into_iter().map(partition).collect();
        Topic::new(name, entry, partitions, self.absent)
    }
}

/// Ascending numbers as ranges: `0, 4-7`.
fn ranges(numbers: &[i32]) -> String {
    let runs = numbers.chunk_by(|before, after| before + 1 == *after);
    let words = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Opens logs on as many threads as there are cores, or as can be had. Logs what recovery found.
/// `None`: the log cannot be opened, which is logged, too.
fn open_all(
    names: Vec<PartitionName>,
    open: impl Fn(&PartitionName) -> Result<(Log, Recovery), LogError> + Sync,
) -> anyhow::Result<Vec<(PartitionName, Option<Log>)>> {
    let queue = Mutex::new(names.into_iter());
    let opened = Mutex::new(Vec::new());
    let open_some = || -> anyhow::Result<()> {
        loop {
            let Some(name) = queue.lock().next() else { return Ok(()) };
            let log = match open(&name) {
                Ok((log, recovery)) => {
                    report(&name, &recovery);
                    Some(log)
                }
                Err(LogError::Io { source, .. }) if is_out_of_descriptors(&source) => {
                    bail!("cannot open {name}: {source}; more are needed (ulimit -n)");
                }
                Err(LogError::Io { source, .. }) if is_shortage(&source) => {
                    bail!("cannot open {name}: {source}");
                }
                Err(error) => {
                    tracing::error!(%name, %error, "a partition cannot be opened; it is not served until a restart can open it");
                    None
                }
            };
            opened.lock().push((name, log));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        let open = || std::thread::Builder::new().spawn_scoped(scope, open_some).ok();
        let others: Vec<_> = (1..threads).filter_map(|_| open()).collect();
        let own = open_some();
        for opener in others {
            let outcome = opener.join();
            outcome.map_err(|_| anyhow::anyhow!("opening a log panicked"))??;
        }
        own
    })
    .context("cannot open the logs")?;
    Ok(opened.into_inner())
}

fn report(name: &PartitionName, recovery: &Recovery) {
    if recovery.truncated_bytes + recovery.missing_offsets > 0 {
        tracing::warn!(%name, ?recovery, "recovered what was wholly on the disk; the rest is cut or missing");
    } else if *recovery != Recovery::default() {
        tracing::info!(%name, ?recovery, "recovered");
    }
    if let Some(OldSegments { magic, segments, served_from: Some(from), .. }) =
        recovery.old_segments
    {
        let served_from = from.0;
        tracing::warn!(%name, segments, magic, served_from, "the oldest segments are from before Kafka 0.11: kept, and not served");
    }
    let Transactions { aborted, open, .. } = recovery.transactions;
    if recovery.transactions.any() {
        tracing::warn!(%name, aborted, open, "transactions are not served as such: consumers get records of aborted and open ones, too, whatever their isolation.level");
    }
}
