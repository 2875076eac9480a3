//! Kills at every moment of a change of topics, and of the start that finishes it.
//!
//! A disk that is dead after so many changes stands for the kill: later changes have no effect.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use penstock_coordinator::Committed;
use penstock_storage::{DataDir, DirEntry, Directory, Disk, DiskFile, Files};

use super::*;
use crate::adopt::committed_offsets::Foreign;
use crate::broker::metrics::Metrics;
use crate::config::durability::Durability;
use crate::config::settings::Settings;

const TOPIC: &str = "t";
const COUNT: i32 = 2;

/// The system's files until so many changes have been made. Syncs do nothing: a kill loses nothing.
#[derive(Debug, Clone)]
struct MortalDisk(Arc<AtomicUsize>);

impl MortalDisk {
    fn dying_after(changes: usize) -> MortalDisk {
        MortalDisk(Arc::new(AtomicUsize::new(changes)))
    }

    fn is_dead(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn change<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let left =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(2..) => change(),
            _ => Err(io::Error::other("the server is dead")),
        }
    }

    fn look<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_dead() { Err(io::Error::other("the server is dead")) } else { look() }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(MortalFile(self.clone(), file))
    }
}

impl Disk for MortalDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.look(|| Files.open(path)).map(|file| self.file(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change(|| Files.create(path)).map(|file| self.file(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.look(|| Files.list(dir))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(|| Files.create_dir_all(dir))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|| Files.remove_file(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(|| Files.remove_dir_all(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| Files.rename(from, to))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.look(|| File::open(dir).map(drop))
    }
}

#[derive(Debug)]
struct MortalFile(MortalDisk, Box<dyn DiskFile>);

impl DiskFile for MortalFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.0.look(|| self.1.read_exact_at(buffer, position))
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.change(|| self.1.write_all_at(bytes, position))
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.0.look(|| self.1.len_bytes())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.change(|| self.1.set_len(len_bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.look(|| Ok(()))
    }

    fn handle(&self) -> &Arc<File> {
        self.1.handle()
    }
}

fn close(topics: &Topics) -> anyhow::Result<()> {
    let (_sender, stop) = tokio::sync::watch::channel(crate::stop::Stop::Drain);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(600);
    topics.close(&Deadline { until, stop })
}

/// A server's start on a disk.
fn open(dir: &Path, disk: &MortalDisk) -> anyhow::Result<Topics> {
    let settings = Settings { data_dir: dir.to_owned(), ..Settings::default() };
    let data_dir = DataDir::open(Directory::on(Arc::new(disk.clone()), dir))?;
    let offsets = Arc::new(OffsetStore::open(dir, Durability::Os)?);
    Topics::open(&settings, data_dir, &offsets, &Metrics::new())
}

fn open_for_good(dir: &Path) -> Topics {
    open(dir, &MortalDisk::dying_after(usize::MAX)).unwrap()
}

/// The number of partitions of the topic, all of them served, and whether the group's offset is
/// there.
fn state(topics: &Topics) -> (i32, bool) {
    let has_offset = topics.offsets.read().get("g", TOPIC, 0).is_some();
    let Some(topic) = topics.get(TOPIC) else { return (0, has_offset) };
    assert_eq!(topic.absent().count(), 0, "half a topic");
    let segment_bytes: Vec<u64> =
        topic.partitions().iter().map(|partition| partition.log().config().segment_bytes).collect();
    let expected = topic.overrides().get("segment.bytes").map_or(1 << 30, |b| b.parse().unwrap());
    assert!(segment_bytes.iter().all(|bytes| *bytes == expected), "{segment_bytes:?}");
    (topic.partition_count(), has_offset)
}

fn directories(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

/// Not by a child process: until its exec that would hold the locks of directories that other tests
/// have open.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_into(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Runs `change` on the outcome of `prepare`, with a kill after every change of the disk. Then runs
/// a start with a kill after every change of its own, then a start without a kill. Returns all
/// states.
fn every_end(
    prepare: impl Fn(&Topics),
    change: impl Fn(&Topics) -> Result<(), ChangeError>,
) -> std::collections::BTreeSet<(i32, bool)> {
    let prepared = tempfile::tempdir().unwrap();
    prepare(&open_for_good(prepared.path()));
    let mut states = std::collections::BTreeSet::new();
    for moment in 1.. {
        let killed = copy(prepared.path());
        let disk = MortalDisk::dying_after(usize::MAX);
        let topics = open(killed.path(), &disk).unwrap();
        disk.0.store(moment, Ordering::Relaxed);
        let changed = change(&topics);
        let was_killed = disk.is_dead();
        drop(topics);
        assert!(was_killed || changed.is_ok(), "{changed:?}");
        for moment in (1..).step_by(2) {
            let started = copy(killed.path());
            let disk = MortalDisk::dying_after(moment);
            let begun = open(started.path(), &disk);
            let is_over = !disk.is_dead();
            assert!(!is_over || begun.is_ok());
            drop(begun);
            let topics = open_for_good(started.path());
            assert_eq!(directories(started.path()), state(&topics).0 as usize);
            states.insert(state(&topics));
            if is_over {
                break;
            }
        }
        if !was_killed {
            return states;
        }
    }
    unreachable!("a change ends")
}

fn create(topics: &Topics) -> Result<(), ChangeError> {
    let mut overrides = Overrides::default();
    overrides.set("segment.bytes", "4096").map_err(anyhow::Error::msg)?;
    topics.create(TOPIC, COUNT, overrides).map(drop)
}

fn create_and_commit(topics: &Topics) {
    create(topics).unwrap();
    let at = Committed { offset: 0, leader_epoch: -1, metadata: "".into() };
    let of = |group: &str| (group.into(), TOPIC.into());
    let (group, topic) = of("g");
    let commit = Foreign { group, topic, partition: 0, at, committed_ms: 0 };
    topics.offsets.take_over(vec![commit]).unwrap();
}

#[test]
fn a_creation_killed_at_any_moment_leaves_all_or_nothing() {
    let states = every_end(|_| {}, create);
    assert_eq!(states, [(0, false), (COUNT, false)].into());
}

#[test]
fn a_growth_killed_at_any_moment_leaves_the_old_count_or_the_new_one() {
    let states = every_end(create_and_commit, |topics| topics.add_partitions(TOPIC, 4));
    assert_eq!(states, [(COUNT, true), (4, true)].into());
}

#[test]
fn a_deletion_killed_at_any_moment_leaves_all_or_nothing_offsets_included() {
    let states = every_end(create_and_commit, |topics| topics.delete(TOPIC));
    assert_eq!(states, [(0, false), (COUNT, true)].into());
}

#[test]
fn a_configuration_killed_at_any_moment_is_the_old_or_the_new_one() {
    let states = every_end(create_and_commit, |topics| {
        topics.reconfigure(TOPIC, |_| Ok(Overrides::default()))
    });
    assert_eq!(states, [(COUNT, true)].into());
}

/// Gives a partition's directory to another topic of the name, as a Kafka does that creates it
/// again.
fn hand_over(dir: &Path, partitions: std::ops::Range<i32>, id: TopicId) {
    for partition in partitions {
        let text = format!("version: 0\ntopic_id: {id}");
        std::fs::write(dir.join(format!("{TOPIC}-{partition}/partition.metadata")), text).unwrap();
    }
}

#[test]
fn offsets_and_configs_of_a_topic_are_not_those_of_another_that_took_its_name() {
    let dir = tempfile::tempdir().unwrap();
    create_and_commit(&open_for_good(dir.path()));
    let other = TopicId::random();
    hand_over(dir.path(), 0..COUNT, other);
    for _ in 0..2 {
        let topics = open_for_good(dir.path());
        assert_eq!(topics.get(TOPIC).unwrap().id, other);
        assert_eq!(topics.get(TOPIC).unwrap().overrides(), Overrides::default());
        assert_eq!(state(&topics), (COUNT, false));
    }
}

#[test]
fn one_directory_of_another_topic_takes_no_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let first = open_for_good(dir.path());
    create_and_commit(&first);
    let (id, overrides) = (first.get(TOPIC).unwrap().id, first.get(TOPIC).unwrap().overrides());
    drop(first);
    hand_over(dir.path(), 0..1, TopicId::random());
    let topics = open_for_good(dir.path());
    let topic = topics.get(TOPIC).unwrap();
    assert_eq!((topic.id, topic.overrides()), (id, overrides));
    assert_eq!(topic.partition(0).err(), Some(Unserved::Unopened));
    assert!(topic.partition(1).is_ok() && topics.offsets.read().get("g", TOPIC, 0).is_some());
    drop((topic, topics));
    hand_over(dir.path(), 0..1, id);
    assert_eq!(state(&open_for_good(dir.path())), (COUNT, true));
}

#[test]
fn a_deletion_is_not_finished_on_directories_of_another_topic() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_for_good(dir.path());
    create_and_commit(&topics);
    topics.registry.lock().update(TOPIC, |entry| entry.deleting = true).unwrap();
    drop(topics);
    hand_over(dir.path(), 0..COUNT, TopicId::random());
    assert_eq!(state(&open_for_good(dir.path())), (COUNT, false));
}

#[test]
fn what_is_put_beside_no_topics_at_all_has_come_from_elsewhere() {
    let elsewhere = tempfile::tempdir().unwrap();
    create_and_commit(&open_for_good(elsewhere.path()));
    let dir = tempfile::tempdir().unwrap();
    close(&open_for_good(dir.path())).unwrap();
    std::fs::rename(elsewhere.path().join("t-0"), dir.path().join("t-0")).unwrap();
    let topics = open_for_good(dir.path());
    assert!(topics.get(TOPIC).unwrap().is_retention_held());
    let (partition, defaults) = (topics.partition(TOPIC, 0).unwrap(), LogConfig::default());
    assert!(partition.log().config().retention_ms.is_none() && defaults.retention_ms.is_some());
}

/// A start without recovery points and without a list takes all topics for its own.
#[test]
fn no_recovery_points_are_written_before_the_list_of_topics() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_for_good(dir.path());
    create_and_commit(&topics);
    let files = ["penstock-topics.toml", "penstock-recovery-points"].map(|f| dir.path().join(f));
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let mut unwritten = Registry::open(&topics.data_dir).unwrap();
    unwritten.replace_in_memory(topics.registry.lock().entries().clone());
    *topics.registry.lock() = unwritten;
    let in_its_way = dir.path().join("penstock-topics.toml.tmp");
    std::fs::create_dir(&in_its_way).unwrap();
    assert!(topics.write_recovery_points().is_err() && !files[1].exists());
    std::fs::remove_dir(&in_its_way).unwrap();
    topics.write_recovery_points().unwrap();
    assert!(files.iter().all(|file| file.exists()));
}

#[test]
fn a_configuration_is_changed_from_what_it_is_then() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_for_good(dir.path());
    create(&topics).unwrap();
    let set = |key: &'static str| move |mut now: Overrides| now.set(key, "5000").map(|()| now);
    std::thread::scope(|scope| {
        for key in ["retention.ms", "retention.bytes", "segment.ms", "flush.ms"] {
            let topics = &topics;
            scope.spawn(move || topics.reconfigure(TOPIC, set(key)).unwrap());
        }
    });
    assert_eq!(topics.get(TOPIC).unwrap().overrides().iter().count(), 5);
    assert!(matches!(topics.reconfigure(TOPIC, set("x")), Err(ChangeError::Config(_))));
}

/// The disk is full when a topic is created, and still full when the next server starts.
#[test]
fn a_creation_that_a_start_cannot_undo_is_not_shown_and_can_be_made_again() {
    for has_directories in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let topics = open_for_good(dir.path());
        create(&topics).unwrap();
        let unmade =
            |entry: &mut Entry| *entry = Entry { partitions: 0, ..entry.clone() }.growing(COUNT);
        topics.registry.lock().update(TOPIC, unmade).unwrap();
        drop(topics);
        if !has_directories {
            (0..COUNT)
                .for_each(|n| std::fs::remove_dir_all(dir.path().join(format!("t-{n}"))).unwrap());
        }
        let in_its_way = dir.path().join("penstock-topics.toml.tmp");
        std::fs::create_dir(&in_its_way).unwrap();
        let topics = open_for_good(dir.path());
        assert!(topics.get(TOPIC).is_none());
        std::fs::remove_dir(&in_its_way).unwrap();
        create(&topics).unwrap();
        assert_eq!(state(&topics), (COUNT, false));
        drop(topics);
        assert_eq!(state(&open_for_good(dir.path())), (COUNT, false));
    }
}
