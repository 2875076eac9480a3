//! A system that is short of something when a file is opened. No log goes offline for it, and all
//! works again once there is enough. A failed sync is different, whatever the kernel calls the
//! reason.
#![allow(missing_docs)]

mod harness;

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use harness::*;
use penstock_storage::*;
use rustix::io::Errno;

const SHORTAGES: [Errno; 5] = [Errno::AGAIN, Errno::NOMEM, Errno::INTR, Errno::MFILE, Errno::NFILE];

/// The call that fails, once so many of its kind have succeeded.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Open(usize, Errno),
    Sync(usize, Errno),
}

/// The real files, with one opening or sync that fails.
#[derive(Clone, Debug)]
struct ScarceDisk(Arc<Mutex<Option<Plan>>>);

impl ScarceDisk {
    fn plan(&self, plan: Plan) {
        *self.0.lock().unwrap() = Some(plan);
    }

    /// Whether the planned failure has happened.
    fn is_over(&self) -> bool {
        self.0.lock().unwrap().take().is_none()
    }

    fn count(&self, is_sync: bool) -> io::Result<()> {
        let mut plan = self.0.lock().unwrap();
        let (left, errno) = match &mut *plan {
            Some(Plan::Open(left, errno)) if !is_sync => (left, *errno),
            Some(Plan::Sync(left, errno)) if is_sync => (left, *errno),
            _ => return Ok(()),
        };
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => {
                *plan = None;
                return Err(errno.into());
            }
        }
        Ok(())
    }
}

impl Disk for ScarceDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.count(false)?;
        Ok(Box::new(ScarceFile(self.clone(), Files.open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.count(false)?;
        Ok(Box::new(ScarceFile(self.clone(), Files.create(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        Files.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        Files.create_dir_all(dir)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Files.remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        Files.remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Files.rename(from, to)
    }

    /// Opens the directory, then syncs it. As on the real disk, a failed sync does not look like a
    /// failed opening.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.count(false)?;
        self.count(true).map_err(io::Error::other)?;
        Files.sync_dir(dir)
    }
}

#[derive(Debug)]
struct ScarceFile(ScarceDisk, Box<dyn DiskFile>);

impl DiskFile for ScarceFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.1.read_exact_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.1.write_all_at(bytes, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.1.len_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.1.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.count(true)?;
        self.1.sync_data()
    }

    fn handle(&self) -> &Arc<File> {
        self.1.handle()
    }
}

fn log_on_scarce_disk() -> (tempfile::TempDir, ScarceDisk, Log) {
    let (dir, disk) = (tempfile::tempdir().unwrap(), ScarceDisk(Arc::default()));
    let place = Directory::on(Arc::new(disk.clone()), dir.path().join("t-0"));
    let log = Log::create(place, TopicId::random(), small_segments()).unwrap();
    (dir, disk, log)
}

/// Appends batches until the next one must begin a segment. Returns that one.
fn fill(log: &mut Log) -> ProducedBatch {
    let incoming = || produced(batch(2, 400, NOW_MS));
    while log.needs_roll(&incoming(), NOW_MS).is_none() {
        append(log, batch(2, 400, NOW_MS));
    }
    incoming()
}

#[test]
fn a_roll_that_can_open_no_file_is_tried_again_whichever_file_it_is() {
    for errno in SHORTAGES {
        let (_dir, disk, mut log) = log_on_scarce_disk();
        let mut failures = 0;
        loop {
            let incoming = fill(&mut log);
            let (end, segments) = (log.log_end(), log.segments().count());
            disk.plan(Plan::Open(failures, errno));
            let rolled = log.needs_roll(&incoming, NOW_MS).unwrap().create();
            let Err(error) = rolled else { break };
            log.fail_roll(&error);
            assert!(!log.is_offline(), "opening {failures}: {error}");
            assert_eq!((log.log_end(), log.segments().count()), (end, segments));

            assert!(disk.is_over());
            let roll = log.needs_roll(&incoming, NOW_MS).expect("the roll is still due");
            log.install_roll(roll.create().unwrap());
            append(&mut log, batch(2, 400, NOW_MS));
            failures += 1;
        }
        assert!(
            failures >= 4,
            "two indexes, the log and the directory: only {failures} were tried"
        );
        assert_eq!(fetch_all(&log).len() as i64 * 2, log.log_end().0);
    }
}

#[test]
fn a_flush_that_can_open_no_file_leaves_the_recovery_point_and_the_next_one_moves_it() {
    for errno in SHORTAGES {
        let (_dir, disk, mut log) = log_on_scarce_disk();
        let mut failures = 0;
        loop {
            append(&mut log, batch(2, 400, NOW_MS));
            let before = log.recovery_point();
            disk.plan(Plan::Open(failures, errno));
            let flush = log.begin_flush().expect("there is something new");
            let Err(error) = flush.run() else { break };
            assert!(log.fail_flush(flush, error).is_none());
            assert!(!log.is_offline(), "opening {failures}: {errno}");
            assert_eq!(log.recovery_point(), before);

            assert!(disk.is_over());
            let flush = log.begin_flush().expect("there is something new");
            flush.run().unwrap();
            log.finish_flush(flush);
            assert_eq!(log.recovery_point().offset, log.log_end());
            failures += 1;
        }
        assert!(failures >= 4, "only {failures} openings were tried");
    }
}

/// The kernel may call the reason ENOMEM. The pages that were not written count as clean all the
/// same.
#[test]
fn a_sync_that_failed_takes_the_log_offline_whatever_the_error_is_called() {
    for errno in SHORTAGES.into_iter().chain([Errno::NOSPC, Errno::IO]) {
        let mut offline = 0;
        for failures in 0.. {
            let (_dir, disk, mut log) = log_on_scarce_disk();
            append(&mut log, batch(2, 400, NOW_MS));
            disk.plan(Plan::Sync(failures, errno));
            let flush = log.begin_flush().unwrap();
            match flush.run() {
                Ok(()) => break,
                // The next flush writes the small files beside the batches again.
                Err(error @ FlushError::Write(_)) => drop(log.fail_flush(flush, error)),
                Err(error) => {
                    assert!(log.fail_flush(flush, error).is_some());
                    assert!(log.is_offline(), "sync {failures}: {errno}");
                }
            }
            offline += usize::from(log.is_offline());
        }
        assert!(offline >= 4, "log, two indexes, directory: only {offline} ({errno})");

        let (_dir, disk, mut log) = log_on_scarce_disk();
        let incoming = fill(&mut log);
        disk.plan(Plan::Sync(0, errno));
        let error = log.needs_roll(&incoming, NOW_MS).unwrap().sync_sealed().unwrap_err();
        log.fail_roll(&error);
        assert!(log.is_offline(), "{errno}");
    }
}
