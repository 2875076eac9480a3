//! Opening all topics of a data directory: what can be opened is served, what cannot keeps its place.
//!
//! ```text
//!   directories ──► open each log, as many at a time as there are cores ──► its topic's `partitions`
//!                       └── cannot: one line with path and cause ─────────► its topic's `unopened`
//! ```
//!
//! Called at start, by server. It blocks. What concerns the data directory as a whole still refuses the start:
//! its lock, its checkpoints, its listing; so does running out of descriptors, which is no partition's fault.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::{Mutex, RwLock};
use penstock_storage::{
    DataDir, DataDirError, Log, LogError, PartitionName, Recovery, RecoveryPoint, TopicId,
    is_no_room, is_out_of_descriptors,
};

use super::{Topic, Topics, not_written};
use crate::durability::Durability;
use crate::metrics::Metrics;
use crate::overrides::OverridesFile;
use crate::partition::{Commits, Partition};
use crate::settings::Settings;

/// What came of one topic's directories.
#[derive(Default)]
struct Found {
    logs: BTreeMap<i32, Log>,
    unopened: BTreeMap<i32, RecoveryPoint>,
}

impl Topics {
    /// Opens every log of the data directory, as many at a time as there are cores. Blocks.
    ///
    /// # Errors
    /// The data directory cannot be used. A log that cannot be opened is no error: see [`super::Unserved`].
    pub(crate) fn open(
        settings: &Settings,
        data_dir: DataDir,
        metrics: &Metrics,
    ) -> anyhow::Result<Topics> {
        let changes = OverridesFile::open(data_dir.path())?;
        let last_stop = data_dir.take_last_stop()?;
        let names = data_dir.partitions()?;
        let is_there = |name: &PartitionName| names.binary_search(name).is_ok();
        match data_dir.retain_log_starts(is_there) {
            // They do no harm before there is a partition of that name.
            Err(DataDirError::Io { path, source }) if is_no_room(&source) => {
                tracing::warn!(path = %path.display(), error = %source, "cannot forget where deleted logs started");
            }
            forgotten => forgotten?,
        }
        let log_starts = data_dir.log_starts()?;
        let config_of = |topic: &str| changes.of(topic).apply(&settings.log);
        let points = data_dir.recovery_points()?;
        let point_of = |name: &PartitionName| points.get(name).copied();
        let open = |name: &PartitionName| {
            let point = point_of(name).unwrap_or(RecoveryPoint::NONE);
            let path = data_dir.partition_path(name);
            let (mut log, recovery) =
                Log::open_from(&path, config_of(&name.topic), last_stop, point)?;
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
                None => drop(found.unopened.insert(name.partition, point)),
            }
        }

        let commits = Arc::new(Commits {
            durability: settings.durability,
            appends: metrics.appends.clone(),
            groups: metrics.append_groups.clone(),
            syncs: metrics.log_syncs.clone(),
        });
        let topic = |(name, found): (String, Found)| {
            let overrides = changes.of(&name);
            (name.clone(), Arc::new(found.into_topic(name, overrides, &commits)))
        };
        let by_name: HashMap<_, _> = by_topic.into_iter().map(topic).collect();
        let (by_name, changes) = (RwLock::new(by_name), Mutex::new(changes));
        let defaults = settings.log.clone();
        let points_file = Mutex::default();
        let topics = Topics { data_dir, defaults, commits, by_name, changes, points_file };
        if settings.durability == Durability::Fsync {
            // A killed server may leave a write that nobody had synced; what is shown from here on must last.
            topics.flush();
        }
        match topics.write_recovery_points() {
            // The disk is full, say: those that there are cost time only, after a crash.
            Err(error) if topics.bear_out(&points) => not_written(&error),
            written => written?,
        }
        Ok(topics)
    }
}

impl Found {
    fn into_topic(
        self,
        name: String,
        overrides: crate::overrides::Overrides,
        commits: &Arc<Commits>,
    ) -> Topic {
        let ids = self.logs.values().filter_map(Log::topic_id);
        let mut ids = ids.chain(self.unopened.values().filter_map(|point| point.topic_id));
        let id = ids.next().unwrap_or_else(TopicId::random);
        let partition = |(index, log)| {
            let name = PartitionName { topic: name.clone(), partition: index };
            (index, Partition::new(name, log, Arc::clone(commits)))
        };
        let partitions = self.logs.into_iter().map(partition).collect();
        Topic {
            name: name.clone(),
            id,
            partitions: RwLock::new(partitions),
            unopened: self.unopened,
            overrides: RwLock::new(overrides),
        }
    }
}

/// Opens logs on as many threads as there are cores and says what recovery found. `None`: it cannot be
/// opened, which was said too.
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
                Err(error) => {
                    tracing::error!(%name, %error, "a partition cannot be opened; it is not served until a restart finds it mended");
                    None
                }
            };
            opened.lock().push((name, log));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..threads).map(|_| scope.spawn(open_some)).collect();
        for opener in openers {
            let outcome = opener.join();
            outcome.map_err(|_| anyhow::anyhow!("opening a log panicked"))??;
        }
        anyhow::Ok(())
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
}
