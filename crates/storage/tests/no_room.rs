//! Logs on a disk without room, which does nothing but unlink, like a btrfs over its quota. They
//! are opened, served, and completed once there is room.
#![allow(missing_docs)]

mod harness;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use harness::*;
use penstock_storage::*;

/// The real files. While the disk is full, only calls that need no room succeed.
#[derive(Debug, Clone, Default)]
struct SmallDisk(Arc<AtomicBool>);

impl SmallDisk {
    fn set_full(&self, is_full: bool) {
        self.0.store(is_full, Ordering::Relaxed);
    }

    fn ask_for_room(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::QuotaExceeded.into()),
            false => Ok(()),
        }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(SmallFile(self.clone(), file))
    }
}

impl Disk for SmallDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Files.open(path).map(|file| self.file(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if !path.exists() {
            self.ask_for_room()?;
        }
        Files.create(path).map(|file| self.file(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        Files.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.exists() { Ok(()) } else { self.ask_for_room() }
            .and_then(|()| Files.create_dir_all(dir))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Files.remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        Files.remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask_for_room()?;
        Files.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Files.sync_dir(dir)
    }
}

#[derive(Debug)]
struct SmallFile(SmallDisk, Box<dyn DiskFile>);

impl DiskFile for SmallFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.1.read_exact_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.ask_for_room()?;
        self.1.write_all_at(bytes, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.1.len_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.ask_for_room()?;
        self.1.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.sync_data()
    }

    fn handle(&self) -> &Arc<File> {
        self.1.handle()
    }
}

const BATCHES: i64 = 120;

/// A log of several segments, killed.
fn killed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(dir.path(), TopicId::random(), small_segments()).unwrap();
    for n in 0..BATCHES {
        append(&mut log, batch(2, 400, NOW_MS + 10 * n));
    }
    assert!(log.segments().count() > 4);
    kill(log);
    dir
}

fn open(dir: &Path, disk: &SmallDisk, stop: LastStop, point: RecoveryPoint) -> Log {
    let dir = Directory::on(Arc::new(disk.clone()), dir);
    Log::open_from(dir, small_segments(), stop, point).unwrap().0
}

/// Appends to a file.
fn spoil(path: &Path, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, file.metadata().unwrap().len()).unwrap();
}

/// Names and contents of the files with records and their indexes.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = ["log", "index", "timeindex"].into_iter().flat_map(|suffix| files(dir, suffix));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

fn assert_serves_all(log: &Log) {
    let headers = fetch_all(log);
    assert_eq!(headers.len() as i64, BATCHES);
    for n in 0..BATCHES {
        assert_eq!(find(log, 2 * n + 1).base_offset, Offset(2 * n));
        let found = drive_time(log.find_timestamp(NOW_MS + 10 * n)).unwrap().unwrap();
        assert_eq!(found.offset, Offset(2 * n), "batch {n}");
    }
    let newest = drive_time(log.find_max_timestamp()).unwrap().unwrap();
    assert_eq!(newest.offset, Offset(2 * BATCHES - 1));
}

/// Torn ends, and indexes that are missing, cut, too long or older, in every segment.
#[test]
fn whatever_was_torn_a_log_is_served_without_room_and_whole_with_it() {
    let expected = {
        let dir = killed();
        open(dir.path(), &SmallDisk::default(), LastStop::Unclean, RecoveryPoint::NONE);
        contents(dir.path())
    };
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("torn batch", |dir| spoil(files(dir, "log").last().unwrap(), &[7; 100])),
        ("no index", |dir| {
            files(dir, "index").iter().for_each(|path| fs::remove_file(path).unwrap())
        }),
        ("no time index", |dir| {
            files(dir, "timeindex").iter().for_each(|path| fs::remove_file(path).unwrap())
        }),
        ("long indexes", |dir| {
            files(dir, "index").iter().for_each(|path| spoil(path, &[0xff; 16]));
            files(dir, "timeindex").iter().for_each(|path| spoil(path, &[0xff; 24]));
        }),
        ("torn indexes", |dir| {
            files(dir, "index").iter().for_each(|path| fs::write(path, [1, 2, 3]).unwrap());
        }),
    ];
    for (what, harm) in harms {
        let (dir, disk) = (killed(), SmallDisk::default());
        harm(dir.path());
        disk.set_full(true);
        // The log is opened again and again meanwhile.
        for _ in 0..2 {
            let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
            assert_serves_all(&log);
            assert!(!log.is_offline(), "{what}");
            if let Some(flush) = log.begin_flush() {
                let failed = flush.run();
                assert!(matches!(failed, Err(FlushError::Write(_))), "{what}: {failed:?}");
            }
            assert!(log.close().is_err(), "{what}: the stop is not marked as clean");
        }
        let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
        disk.set_full(false);
        if let Some(cut) = log.needs_cut() {
            log.finish_cut(&cut.run());
        }
        log.unflushed_indexes().into_iter().for_each(|flush| flush.write().unwrap());
        assert_serves_all(&log);
        log.close().unwrap();
        assert_eq!(contents(dir.path()), expected, "{what}");
    }
}

/// Below the recovery point nothing is read, except for a missing index.
#[test]
fn an_index_below_the_recovery_point_that_finds_no_room_is_not_left_half() {
    let (dir, disk) = (killed(), SmallDisk::default());
    let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
    let flush = log.begin_flush().unwrap();
    flush.run().unwrap();
    log.finish_flush(flush);
    let point = log.recovery_point();
    kill(log);
    let expected = contents(dir.path());
    let index = &files(dir.path(), "index")[1];
    fs::write(index, [1, 2, 3]).unwrap();
    disk.set_full(true);
    let mut log = open(dir.path(), &disk, LastStop::Unclean, point);
    assert_serves_all(&log);
    assert!(!index.exists(), "a start would believe one of whole entries");
    disk.set_full(false);
    log.unflushed_indexes().into_iter().for_each(|flush| flush.write().unwrap());
    assert!(log.unflushed_indexes().is_empty());
    assert_serves_all(&log);
    assert_eq!(contents(dir.path()), expected);
}

#[test]
fn damage_that_finds_no_room_to_be_kept_holds_the_recovery_point() {
    let (dir, disk) = (killed(), SmallDisk::default());
    let log = &files(dir.path(), "log")[1];
    let mut bytes = fs::read(log).unwrap();
    bytes[30] ^= 1;
    fs::write(log, bytes).unwrap();
    disk.set_full(true);
    let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
    assert_eq!(log.damage().count(), 1);
    let flush = log.begin_flush().unwrap();
    let error = flush.run().unwrap_err();
    log.fail_flush(flush, error);
    assert_eq!(log.recovery_point().offset, Offset(0));
    disk.set_full(false);
    let flush = log.begin_flush().unwrap();
    flush.run().unwrap();
    log.finish_flush(flush);
    let point = log.recovery_point();
    kill(log);
    let log = open(dir.path(), &disk, LastStop::Unclean, point);
    assert_eq!(log.damage().count(), 1, "it is in the file");
}

#[test]
fn damage_that_a_scrub_finds_without_room_is_kept_by_the_next_flush() {
    for is_closed in [true, false] {
        let (dir, disk) = (killed(), SmallDisk::default());
        let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
        log.close().unwrap();
        let path = &files(dir.path(), "log")[1];
        let mut bytes = fs::read(path).unwrap();
        bytes[100] ^= 1;
        fs::write(path, bytes).unwrap();
        let mut log = open(dir.path(), &disk, LastStop::Clean, log.recovery_point());
        let bases: Vec<Offset> = log.segments().map(|segment| segment.base_offset).collect();
        let mut scrub = Scrub::open(dir.path(), bases[1], Some(bases[2])).unwrap();
        while scrub.step().unwrap().is_some() {}
        let on_small_disk = log.note_scrubbed(scrub.report()).unwrap();
        disk.set_full(true);
        assert!(on_small_disk.write().is_err());
        disk.set_full(false);
        match is_closed {
            true => log.close().unwrap(),
            false => {
                let flush = log.begin_flush().unwrap();
                flush.run().unwrap();
                log.finish_flush(flush);
            }
        }
        let log = open(dir.path(), &disk, LastStop::Clean, log.recovery_point());
        assert_eq!(log.damage().count(), 1, "closed {is_closed}");
    }
}

/// A commit of two batches, of which one and a half got into the file.
#[test]
fn what_was_refused_and_cannot_be_cut_is_not_served_and_goes_before_the_next_append() {
    let (dir, disk) = (killed(), SmallDisk::default());
    let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
    let refused = log.begin_append(produced(batch(2, 10, NOW_MS)), 0, NOW_MS).unwrap();
    let written = [refused.pieces.concat(), refused.pieces.concat()[..40].to_vec()].concat();
    refused.file.write_all_at(&written, refused.position.0).unwrap();
    disk.set_full(true);
    log.leave_append(refused);
    assert_serves_all(&log);
    let cut = log.needs_cut().unwrap();
    log.finish_cut(&cut.run());
    assert!(log.needs_cut().is_some() && !log.is_offline(), "it is tried again");
    assert!(log.close().is_err(), "a start must look");

    // A killed server may have written the same bytes, and not yet acknowledged them.
    let log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
    assert_eq!(log.log_end(), Offset(2 * BATCHES + 2));
    kill(log);

    disk.set_full(false);
    let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
    append(&mut log, batch(1, 10, NOW_MS));
    assert_eq!(fetch_all(&log).len() as i64, BATCHES + 2);
    log.close().unwrap();
}

#[test]
fn a_cut_that_fails_otherwise_takes_the_log_offline() {
    let (dir, disk) = (killed(), SmallDisk::default());
    let mut log = open(dir.path(), &disk, LastStop::Unclean, RecoveryPoint::NONE);
    let refused = log.begin_append(produced(batch(2, 10, NOW_MS)), 0, NOW_MS).unwrap();
    log.leave_append(refused);
    log.finish_cut(&Err(io::Error::other("the disk")));
    assert!(log.is_offline() && log.needs_cut().is_none());
}

#[test]
fn a_partition_without_room_for_another_name_is_removed_file_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::default();
    let data = DataDir::open(Directory::on(Arc::new(disk.clone()), dir.path())).unwrap();
    let name = PartitionName { topic: "t".into(), partition: 0 };
    data.create_partition(&name, TopicId::random(), LogConfig::default()).unwrap();
    disk.set_full(true);
    assert!(!data.is_emptied(&name));
    data.empty(&name).unwrap();
    assert!(data.is_emptied(&name));
    let taken = data.take_away(&name).unwrap();
    assert!(data.partitions().unwrap().is_empty());
    assert!(data.put_back(&taken).is_err(), "its files are gone");
}
