//! The data directory as a whole: its lock, its marker of a clean stop, its partitions.
//!
//! ```text
//!   <data dir>/.lock                         held by the server that serves it
//!             /.kafka_cleanshutdown          there while no server runs, if the last one closed all logs
//!             /log-start-offset-checkpoint   log starts inside a segment
//!             /penstock-recovery-points      how far each log is known to be on the disk
//!             /<topic>-<partition>/          one log each
//!             /<topic>-<partition>.<id>-delete/   deleted, to be removed
//! ```
//!
//! Called at start and stop, and when a partition is made or deleted. Everything here may block.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};

use crate::{
    checkpoint::{
        partition_metadata,
        recovery_points::{self, RecoveryPoint},
    },
    data_dir::small_file::SmallFile,
    disk::{DirEntry, Directory, Disk, DiskFile},
    error::LogError,
    log::{LastStop, Log},
    log_config::LogConfig,
    recovery::swap,
    topic_name::{PartitionName, TopicId},
    units::Offset,
};

const LOCK: &str = ".lock";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const CLEAN_SHUTDOWN_CONTENT: &[u8] = br#"{"version":0,"brokerEpoch":-1}"#;
const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// Kafka's recovery points.
const KAFKAS_POINTS: &str = "recovery-point-offset-checkpoint";

mod removal;
pub(crate) mod small_file;

pub use removal::TakenAway;

/// A data directory that no other server uses.
#[derive(Debug)]
pub struct DataDir {
    dir: Directory,
    /// Locked as long as it is open.
    _lock: Box<dyn DiskFile>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Its `.lock` is held, by a Penstock or by a Kafka.
    #[error("{path} is in use by another server")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The system returned an error.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl DataDir {
    /// Makes the directory if there is none, and locks it until dropped.
    pub fn open(dir: impl Into<Directory>) -> Result<DataDir, DataDirError> {
        let dir = dir.into();
        dir.create().map_err(io_error(&dir))?;
        let lock_path = dir.join(LOCK);
        let lock = dir.disk().create(&lock_path).map_err(io_error(&lock_path))?;
        match lock_exclusively(lock.handle()) {
            Ok(()) => Ok(DataDir { dir, _lock: lock }),
            Err(Errno::AGAIN | Errno::ACCESS) => {
                Err(DataDirError::InUse { path: dir.to_path_buf() })
            }
            Err(error) => Err(io_error(&lock_path)(error.into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A small file in it, by name.
    pub fn small_file(&self, name: &'static str) -> SmallFile {
        SmallFile::new(&self.dir, name)
    }

    /// How the last server ended. Removes the marker, so that a kill from here on counts as
    /// unclean.
    ///
    /// Removes Kafka's recovery points, too. The logs change from here on: a topic may be deleted
    /// and made again. A Kafka that gets the directory back would believe the old points; without
    /// them it reads every log from its start.
    ///
    /// A Kafka makes that file when it starts. So where there is one, a Kafka has used the
    /// directory since, and Penstock's own points are removed first: that Kafka may have compacted
    /// the logs, or cut and written them again.
    pub fn take_last_stop(&self) -> Result<LastStop, DataDirError> {
        let entries = self.entries()?;
        if entries.iter().any(|entry| entry.path.ends_with(KAFKAS_POINTS)) {
            self.remove_if_there(recovery_points::FILE_NAME)?;
            self.sync()?;
            self.remove_if_there(KAFKAS_POINTS)?;
        }
        self.sync()?;
        let path = self.dir.join(CLEAN_SHUTDOWN);
        match self.disk().remove_file(&path) {
            Ok(()) => self.sync().map(|()| LastStop::Clean),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(LastStop::Unclean),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// Whether the last server closed every log. Leaves the marker where it is.
    pub fn was_stopped_cleanly(&self) -> bool {
        self.disk().open(&self.dir.join(CLEAN_SHUTDOWN)).is_ok()
    }

    /// Writes the marker. The caller must have closed every log without error.
    pub fn write_clean_shutdown(&self) -> Result<(), DataDirError> {
        let written = self.dir.replace_file(CLEAN_SHUTDOWN, CLEAN_SHUTDOWN_CONTENT);
        written.map_err(io_error(&self.dir.join(CLEAN_SHUTDOWN)))
    }

    /// Whether a Kafka has used the directory since the last `take_last_stop`.
    pub fn was_kafkas(&self) -> bool {
        self.disk().open(&self.dir.join(KAFKAS_POINTS)).is_ok()
    }

    /// Whether a Penstock has used the directory.
    pub fn was_ours(&self) -> bool {
        self.disk().open(&self.dir.join(recovery_points::FILE_NAME)).is_ok()
    }

    /// The partitions that have a directory, by name.
    pub fn partitions(&self) -> Result<Vec<PartitionName>, DataDirError> {
        let paths = self.directories()?;
        let names = paths.iter().filter_map(|path| PartitionName::parse(name_of(path)?));
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Directories that a Kafka has set aside because it knew no topic of that id.
    pub fn strays(&self) -> Result<Vec<PathBuf>, DataDirError> {
        let mut paths = self.directories()?;
        paths.retain(|path| name_of(path).is_some_and(|name| name.ends_with("-stray")));
        Ok(paths)
    }

    /// The topic that a partition's directory belongs to; `None` in those from before Kafka 2.8.
    pub fn topic_id(&self, name: &PartitionName) -> Result<Option<TopicId>, LogError> {
        partition_metadata::read(&self.dir.subdirectory(&name.to_string()))
    }

    /// Finishes, or takes back, an exchange of segments that a Kafka was killed in. Opening the log
    /// does the same; this is for a reader that comes before. Blocks.
    pub fn finish_exchange(&self, name: &PartitionName) -> Result<(), LogError> {
        swap::finish(&self.dir.subdirectory(&name.to_string())).map(drop)
    }

    /// Where a partition's log is, or would be.
    pub fn partition_path(&self, name: &PartitionName) -> PathBuf {
        self.dir.join(name.to_string())
    }

    /// Makes an empty log, whose name survives a power cut. After an error nothing of it is left.
    pub fn create_partition(
        &self,
        name: &PartitionName,
        topic_id: TopicId,
        config: LogConfig,
    ) -> Result<Log, LogError> {
        let dir = self.dir.subdirectory(&name.to_string());
        let is_new = self.disk().list(&dir).is_err();
        let created = Log::create(dir.clone(), topic_id, config)
            .and_then(|log| self.dir.sync().map_err(LogError::io(&self.dir)).map(|()| log));
        if created.is_err() && is_new {
            // The next start would serve half a partition.
            let _ = self.disk().remove_dir_all(&dir);
        }
        created
    }

    /// Whether a partition's directory has a segment that is not empty.
    pub fn holds_records(&self, name: &PartitionName) -> Result<bool, DataDirError> {
        let dir = self.partition_path(name);
        for DirEntry { path, .. } in self.disk().list(&dir).map_err(io_error(&dir))? {
            if path.extension().is_some_and(|suffix| suffix == "log") {
                let log = self.disk().open(&path).map_err(io_error(&path))?;
                if log.len_bytes().map_err(io_error(&path))? > 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Log starts that lie above the first segment's base, for `Log::raise_log_start` after
    /// opening.
    pub fn log_starts(&self) -> Result<HashMap<PartitionName, Offset>, DataDirError> {
        let path = self.dir.join(LOG_STARTS);
        let text = match self.dir.read_to_string(LOG_STARTS) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
            Err(error) => return Err(io_error(&path)(error)),
        };
        // A killed broker may leave the file empty: made, and not yet written.
        if text.is_empty() {
            return Ok(HashMap::new());
        }
        // Without log starts, deleted records would be served again. A refused start is better.
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a checkpoint of version 0");
        parse_log_starts(&text).ok_or_else(|| io_error(&path)(bad()))
    }

    /// Forgets the log starts of partitions that are gone. The file has names only, so a new
    /// partition of the same name would lose its first records. Blocks.
    pub fn retain_log_starts(
        &self,
        is_there: impl Fn(&PartitionName) -> bool,
    ) -> Result<(), DataDirError> {
        let all = self.log_starts()?;
        let count = all.len();
        let kept: BTreeMap<_, _> = all.into_iter().filter(|(name, _)| is_there(name)).collect();
        if kept.len() < count { self.write_log_starts(&kept) } else { Ok(()) }
    }

    /// Keeps log starts over restarts, in Kafka's format. Replaces the file.
    pub fn write_log_starts(
        &self,
        log_starts: &BTreeMap<PartitionName, Offset>,
    ) -> Result<(), DataDirError> {
        let mut text = format!("0\n{}\n", log_starts.len());
        for (name, offset) in log_starts {
            text += &format!("{} {} {offset}\n", name.topic, name.partition);
        }
        let written = self.dir.replace_file(LOG_STARTS, text.as_bytes());
        written.map_err(io_error(&self.dir.join(LOG_STARTS)))
    }

    /// How far each log is known to be on the disk, for `Log::open_from`. A log that is missing
    /// from the file has `RecoveryPoint::NONE`; so have all if the file cannot be read.
    pub fn recovery_points(&self) -> Result<HashMap<PartitionName, RecoveryPoint>, DataDirError> {
        let path = self.dir.join(recovery_points::FILE_NAME);
        let bytes = match self.dir.read(recovery_points::FILE_NAME) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let points = recovery_points::parse(&bytes);
        if points.is_none() {
            tracing::warn!(path = %path.display(), "recovery points cannot be read; all count as 0");
        }
        Ok(points.unwrap_or_default())
    }

    /// Keeps recovery points over restarts. Replaces the file. Blocks.
    pub fn write_recovery_points(
        &self,
        points: &BTreeMap<PartitionName, RecoveryPoint>,
    ) -> Result<(), DataDirError> {
        let text = recovery_points::format(points);
        let written = self.dir.replace_file(recovery_points::FILE_NAME, text.as_bytes());
        written.map_err(io_error(&self.dir.join(recovery_points::FILE_NAME)))
    }

    fn remove_if_there(&self, name: &str) -> Result<(), DataDirError> {
        let path = self.dir.join(name);
        match self.disk().remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(io_error(&path)),
        }
    }

    /// Makes the names of partitions survive a power cut. Blocks.
    pub fn sync(&self) -> Result<(), DataDirError> {
        self.dir.sync().map_err(io_error(&self.dir))
    }

    fn directories(&self) -> Result<Vec<PathBuf>, DataDirError> {
        Ok(self
            .entries()?
            .into_iter()
            .filter(|entry| entry.is_dir)
            .map(|entry| entry.path)
            .collect())
    }

    fn entries(&self) -> Result<Vec<DirEntry>, DataDirError> {
        self.disk().list(&self.dir).map_err(io_error(&self.dir))
    }

    fn disk(&self) -> &dyn Disk {
        self.dir.disk()
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// flock(2) keeps out another Penstock, also within this process. The record lock of fcntl(2),
/// which Java takes, keeps out a Kafka. Linux keeps the two kinds apart, so both are needed.
fn lock_exclusively(file: &File) -> Result<(), Errno> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
    rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io { path: path.to_owned(), source }
}

/// `0`, a count, and as many lines of topic, partition, offset.
fn parse_log_starts(text: &str) -> Option<HashMap<PartitionName, Offset>> {
    let mut lines = text.lines();
    lines.next().filter(|version| version.trim() == "0")?;
    let count: usize = lines.next()?.trim().parse().ok()?;
    let mut log_starts = HashMap::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let topic = words.next()?.to_owned();
        let partition = words.next()?.parse().ok()?;
        log_starts.insert(PartitionName { topic, partition }, Offset(words.next()?.parse().ok()?));
    }
    (log_starts.len() == count).then_some(log_starts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn name(topic: &str, partition: i32) -> PartitionName {
        PartitionName { topic: topic.to_owned(), partition }
    }

    #[test]
    fn a_second_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse { .. })));
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn the_marker_of_a_clean_stop_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(data.take_last_stop().unwrap(), LastStop::Unclean);
        data.write_clean_shutdown().unwrap();
        assert_eq!(data.take_last_stop().unwrap(), LastStop::Clean);
        assert_eq!(data.take_last_stop().unwrap(), LastStop::Unclean);
    }

    #[test]
    fn partitions_are_listed_until_they_are_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        for partition in [1, 0] {
            let config = LogConfig::default();
            data.create_partition(&name("t", partition), TopicId::random(), config).unwrap();
        }
        let half_gone = dir.path().join("u-0.00000000000000000000000000000000-delete");
        fs::create_dir(&half_gone).unwrap();
        assert_eq!(data.partitions().unwrap(), [name("t", 0), name("t", 1)]);
        let taken = data.take_away(&name("t", 0)).unwrap();
        assert_eq!(data.partitions().unwrap(), [name("t", 1)]);
        data.put_back(&taken).unwrap();
        assert_eq!(data.partitions().unwrap(), [name("t", 0), name("t", 1)]);
        data.take_away(&name("t", 0)).unwrap();
        data.take_away(&name("not-there", 0)).unwrap();
        let others =
            ["notes-on-what-to-delete", "t-0.old-delete"].map(|name| dir.path().join(name));
        others.iter().for_each(|other| fs::create_dir(other).unwrap());
        data.remove_taken_away().unwrap();
        assert!(!half_gone.exists());
        others
            .iter()
            .for_each(|other| fs::remove_dir(other).expect("it is not a deleted partition"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the lock and t-1");
    }

    #[test]
    fn of_a_deleted_partition_that_is_a_link_the_link_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let segment = elsewhere.path().join("00000000000000000000.log");
        fs::write(&segment, "records").unwrap();
        let targets = [elsewhere.path().to_owned(), elsewhere.path().join("not-there")];
        for (partition, target) in targets.iter().enumerate() {
            let name = name("t", partition as i32);
            std::os::unix::fs::symlink(target, data.partition_path(&name)).unwrap();
            data.take_away(&name).unwrap();
        }
        data.remove_taken_away().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the lock");
        assert_eq!(fs::read(&segment).unwrap(), b"records");
    }

    #[test]
    fn no_log_is_made_where_segments_of_another_one_are() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let make = || data.create_partition(&name("t", 0), TopicId::random(), LogConfig::default());
        make().unwrap();
        let segment = data.partition_path(&name("t", 0)).join("00000000000000000000.log");
        fs::write(&segment, "records").unwrap();
        assert!(make().is_err());
        assert_eq!(fs::read(&segment).unwrap(), b"records", "it is left as it was");
        assert!(data.holds_records(&name("t", 0)).unwrap());
        data.take_away(&name("t", 0)).unwrap();
        make().unwrap();
        assert!(!data.holds_records(&name("t", 0)).unwrap());
    }

    #[test]
    fn log_starts_are_kept_in_kafkas_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(data.log_starts().unwrap().is_empty());
        data.write_log_starts(&BTreeMap::from([(name("a-b", 3), Offset(77))])).unwrap();
        let text = fs::read_to_string(dir.path().join(LOG_STARTS)).unwrap();
        assert_eq!(text, "0\n1\na-b 3 77\n");
        assert_eq!(data.log_starts().unwrap()[&name("a-b", 3)], Offset(77));
        data.retain_log_starts(|name| name.topic != "a-b").unwrap();
        assert!(data.log_starts().unwrap().is_empty(), "a new a-b-3 begins at 0");
        fs::write(dir.path().join(LOG_STARTS), "").unwrap();
        assert!(data.log_starts().unwrap().is_empty(), "a killed broker leaves it empty");
        fs::write(dir.path().join(LOG_STARTS), "0\n2\na 3 77\n").unwrap();
        assert!(data.log_starts().is_err());
    }
}
