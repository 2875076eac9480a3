//! Which leader epoch began at which offset: Kafka's `leader-epoch-checkpoint`.
//!
//! ```text
//!   0            version
//!   2            number of lines that follow
//!   0 0          epoch, first offset
//!   3 1742
//! ```
//!
//! The file is derived, because every batch carries its epoch. Flushes write it whole, by rename.
//! Recovery adds the epochs of the batches it scans. A file that cannot be read counts as empty.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{disk::Directory, units::Offset};

const FILE_NAME: &str = "leader-epoch-checkpoint";

/// A leader epoch and its first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// 0 and up.
    pub leader_epoch: i32,
    /// Offset of the first record written under it.
    pub start: Offset,
}

/// All epochs of one log, ascending in both fields.
#[derive(Debug)]
pub(crate) struct Epochs {
    dir: Arc<Directory>,
    starts: Vec<EpochStart>,
    /// The file existed and was whole.
    was_read: bool,
    /// Counts changes; `written` has the generation that the file holds.
    generation: u64,
    written: Arc<Written>,
}

/// The generation that the file holds. Reading it takes no lock, because a slow disk may hold the
/// lock for long.
#[derive(Debug, Default)]
struct Written {
    generation: AtomicU64,
    writing: Mutex<()>,
}

impl Epochs {
    /// Reads the file. Blocks.
    pub(crate) fn open(dir: &Arc<Directory>) -> Epochs {
        let text = dir.read_to_string(FILE_NAME);
        let is_missing = text.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let starts = text.ok().and_then(|text| parse(&text));
        if starts.is_none() && !is_missing {
            tracing::warn!(dir = %dir.display(), "unreadable leader epochs are rebuilt");
        }
        let was_read = starts.is_some();
        Epochs { starts: starts.unwrap_or_default(), was_read, ..Epochs::unread(dir) }
    }

    /// No epochs yet, whatever the file holds.
    pub(crate) fn unread(dir: &Arc<Directory>) -> Epochs {
        let (dir, written) = (dir.clone(), Arc::default());
        Epochs { dir, starts: Vec::new(), was_read: false, generation: 0, written }
    }

    /// Whether the file could be read; if not, only the batches have the epochs.
    pub(crate) fn was_read(&self) -> bool {
        self.was_read
    }

    pub(crate) fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// Records that a batch of this epoch begins at `start`. An epoch that is listed as beginning
    /// behind it, but is older, comes from a broken file, and is dropped.
    pub(crate) fn note(&mut self, leader_epoch: i32, start: Offset) {
        if leader_epoch >= 0 && self.starts.last().is_none_or(|e| e.leader_epoch < leader_epoch) {
            self.starts.truncate(self.starts.partition_point(|epoch| epoch.start <= start));
            self.starts.push(EpochStart { leader_epoch, start });
            self.generation += 1;
        }
    }

    /// Forgets epochs that began at or behind the log end.
    pub(crate) fn truncate(&mut self, log_end: Offset) {
        let kept = self.starts.partition_point(|epoch| epoch.start < log_end);
        if kept < self.starts.len() {
            self.starts.truncate(kept);
            self.generation += 1;
        }
    }

    /// The job that brings the file up to date; `None` if it is.
    pub(crate) fn flush(&self) -> Option<EpochsFlush> {
        let written = self.written.generation.load(Ordering::Acquire);
        (written < self.generation).then(|| EpochsFlush {
            dir: self.dir.clone(),
            text: format(&self.starts),
            generation: self.generation,
            written: self.written.clone(),
        })
    }
}

/// The checkpoint on its way into its file.
#[derive(Debug)]
pub(crate) struct EpochsFlush {
    dir: Arc<Directory>,
    text: String,
    generation: u64,
    written: Arc<Written>,
}

impl EpochsFlush {
    /// Blocks. An older flush that comes late changes nothing. The caller syncs the directory
    /// before it moves the recovery point.
    pub(crate) fn write(&self) -> io::Result<()> {
        let Written { generation, writing } = &*self.written;
        let _one_at_a_time = writing.lock().unwrap_or_else(PoisonError::into_inner);
        if generation.load(Ordering::Acquire) < self.generation {
            self.dir.put_file(FILE_NAME, self.text.as_bytes())?;
            generation.store(self.generation, Ordering::Release);
        }
        Ok(())
    }

    /// Makes the new checkpoint survive a power cut. Blocks.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }
}

fn parse(text: &str) -> Option<Vec<EpochStart>> {
    let mut lines = text.lines();
    if lines.next()?.trim() != "0" {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let mut starts: Vec<EpochStart> = Vec::new();
    for line in lines {
        let (epoch, start) = line.trim().split_once(' ')?;
        let epoch = EpochStart {
            leader_epoch: epoch.parse().ok()?,
            start: Offset(start.trim().parse().ok()?),
        };
        let follows = starts
            .last()
            .is_none_or(|l| l.leader_epoch < epoch.leader_epoch && l.start <= epoch.start);
        if !follows {
            return None;
        }
        starts.push(epoch);
    }
    (starts.len() == count).then_some(starts)
}

fn format(starts: &[EpochStart]) -> String {
    let mut text = format!("0\n{}\n", starts.len());
    for epoch in starts {
        text += &format!("{} {}\n", epoch.leader_epoch, epoch.start);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::mpsc, thread, time::Duration};

    use super::*;
    use crate::disk::{DirEntry, Disk, DiskFile, Files};

    fn directory(dir: &tempfile::TempDir) -> Arc<Directory> {
        Arc::new(Directory::from(dir.path()))
    }

    #[test]
    fn the_checkpoint_is_kafkas_text_and_back() {
        let text = "0\n2\n0 0\n3 1742\n";
        let starts = parse(text).unwrap();
        assert_eq!(starts[1], EpochStart { leader_epoch: 3, start: Offset(1742) });
        assert_eq!(format(&starts), text);
    }

    #[test]
    fn a_checkpoint_that_is_cut_or_out_of_order_counts_as_unreadable() {
        for text in ["", "1\n0\n", "0\n2\n0 0\n", "0\n2\n3 5\n1 9\n", "0\n1\nx 0\n", "0\n1\n00\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    /// Found by the fuzz target `recovery`: such a list was kept, and its file could not be read
    /// from then on.
    #[test]
    fn an_older_epoch_does_not_begin_behind_a_batch_of_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "0\n2\n0 0\n1 32511\n").unwrap();
        let mut epochs = Epochs::open(&directory(&dir));
        epochs.note(3, Offset(133));
        epochs.flush().unwrap().write().unwrap();
        assert_eq!(format(epochs.starts()), "0\n2\n0 0\n3 133\n");
        assert_eq!(Epochs::open(&directory(&dir)).starts(), epochs.starts());
    }

    /// Its renames take as long as the test likes.
    #[derive(Debug)]
    struct SlowDisk {
        begun: mpsc::Sender<()>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Disk for SlowDisk {
        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            Files.open(path)
        }

        fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            Files.create(path)
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
            self.begun.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
            Files.rename(from, to)
        }

        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            Files.sync_dir(dir)
        }
    }

    /// The log asks under its own lock, so fetches and producers waited for the disk.
    #[test]
    fn asking_for_a_flush_does_not_wait_for_one_that_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (lets_go_on, go_on) = mpsc::channel();
        let disk = SlowDisk { begun, go_on: Mutex::new(go_on) };
        let mut epochs = Epochs::open(&Arc::new(Directory::on(Arc::new(disk), dir.path())));
        epochs.note(1, Offset(0));
        let flush = epochs.flush().unwrap();
        let (asked, has_asked) = mpsc::channel();
        let waited = thread::scope(|scope| {
            let writing = scope.spawn(|| flush.write());
            has_begun.recv().unwrap();
            scope.spawn(|| asked.send(epochs.flush().is_some()).unwrap());
            let answer = has_asked.recv_timeout(Duration::from_secs(5));
            lets_go_on.send(()).unwrap();
            writing.join().unwrap().unwrap();
            answer.is_err()
        });
        assert!(!waited, "it waited for the disk");
        assert!(epochs.flush().is_none());
    }

    #[test]
    fn an_older_flush_that_comes_late_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut epochs = Epochs::open(&directory(&dir));
        epochs.note(1, Offset(0));
        let older = epochs.flush().unwrap();
        epochs.note(2, Offset(9));
        epochs.flush().unwrap().write().unwrap();
        older.write().unwrap();
        assert_eq!(Epochs::open(&directory(&dir)).starts(), epochs.starts());
        assert!(epochs.flush().is_none());
    }
}
