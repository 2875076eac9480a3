//! The server's log files on this host: evicts their pages, and looks which ones are in memory.
//!
//! Called by `cold_hot`. The server takes no part. A look at a page reads one byte of it without
//! waiting (preadv2(2), RWF_NOWAIT); EAGAIN means that the page is missing. The look has a price:
//! the kernel starts to read the missing page (that page alone, after FADV_RANDOM). So files that
//! should stay cold are looked at rarely.
//!
//! ```text
//! <topic>-<partition>/00000000000000000000.log    offsets 0 ..
//!                     00000000000000004711.log    offsets 4711 ..
//! ```

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use serde::Serialize;

/// Bytes between two looks at a file that should be in memory.
const STEP_BYTES: u64 = 64 << 10;
/// Looks, at all files together, to see whether eviction works.
const TRIALS: u64 = 64;

/// One open segment file.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    /// The offsets in the file, if its path tells them.
    pub(crate) place: Option<Place>,
}

/// The offsets of a file, from its name and its neighbour's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) base: i64,
    /// The first offset of the directory's next file. `None`: this is the last file.
    pub(crate) next_base: Option<i64>,
}

/// The part of some files that is in memory, from looks at single pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Residency {
    pub(crate) looks: u64,
    pub(crate) cached: u64,
}

impl Residency {
    pub(crate) fn is_whole(&self) -> bool {
        self.cached == self.looks
    }

    /// The share of looks that found a page missing. `None`: there were no looks.
    pub(crate) fn uncached(&self) -> Option<f64> {
        (self.looks > 0).then(|| (self.looks - self.cached) as f64 / self.looks as f64)
    }

    /// Counts a result of `LogFile::is_cached`.
    pub(crate) fn count(&mut self, cached: Option<bool>) {
        self.looks += u64::from(cached.is_some());
        self.cached += u64::from(cached == Some(true));
    }
}

/// Opens the files in `paths`, and the segments in its directories.
///
/// # Errors
/// A file cannot be read, its file system does not show which pages are in memory, or there is no
/// segment.
pub(crate) fn open(paths: &[PathBuf]) -> Result<Vec<LogFile>> {
    let mut bases_of = HashMap::new();
    let mut files = Vec::new();
    for path in paths {
        let readable = || format!("cannot read {}", path.display());
        let segments = match path.is_dir() {
            true => segments(path).with_context(readable)?,
            false => vec![path.clone()],
        };
        for path in segments {
            let file =
                File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            fadvise(&file, 0, None, Advice::Random).with_context(readable)?;
            let file = LogFile { file, place: None };
            ensure_visible(&path, &file)?;
            let dir = path.parent().unwrap_or(Path::new("")).to_owned();
            let bases = bases_of.entry(dir.clone()).or_insert_with(|| bases(&dir));
            files.push(LogFile { place: place(&path, bases), ..file });
        }
    }
    ensure!(!files.is_empty(), "no *.log file in {paths:?}");
    Ok(files)
}

/// Refuses a file system without reads that refuse to wait, on which a phase could not be judged.
fn ensure_visible(path: &Path, file: &LogFile) -> Result<()> {
    match file.is_cached(0) {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => bail!(
            "cold-hot cannot run on {}: its file system (overlayfs, tmpfs, FUSE, …) does not show which pages are in \
             memory (RWF_NOWAIT is not supported); put the server's data on ext4, XFS or btrfs",
            path.display()
        ),
        looked => looked.map(drop).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The segments of a directory, sorted by offset.
fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = dir.read_dir()?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension() == Some(OsStr::new("log")));
    paths.sort();
    Ok(paths)
}

fn bases(dir: &Path) -> Vec<i64> {
    segments(dir).unwrap_or_default().iter().filter_map(|path| base(path)).collect()
}

fn base(path: &Path) -> Option<i64> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn place(path: &Path, bases: &[i64]) -> Option<Place> {
    let (topic, partition) = path.parent()?.file_name()?.to_str()?.rsplit_once('-')?;
    let base = base(path)?;
    Some(Place {
        topic: topic.to_owned(),
        partition: partition.parse().ok()?,
        base,
        next_base: bases.iter().copied().filter(|other| *other > base).min(),
    })
}

impl Place {
    /// The position of the record `offset` in a file of `len_bytes`, in a log that ends at `end`,
    /// as if all records had one size.
    pub(crate) fn position(&self, offset: i64, end: i64, len_bytes: u64) -> Option<u64> {
        let holds = self.base..self.next_base.unwrap_or(end);
        let share = (offset - self.base) as f64 / (holds.end - self.base).max(1) as f64;
        holds.contains(&offset).then_some((share * len_bytes as f64) as u64)
    }
}

impl LogFile {
    pub(crate) fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether the page at `position` is in memory. `None`: past the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, or its file system does not support RWF_NOWAIT (EOPNOTSUPP).
    pub(crate) fn is_cached(&self, position: u64) -> io::Result<Option<bool>> {
        let byte = &mut [0];
        let buffers = &mut [IoSliceMut::new(byte)];
        match preadv2(&self.file, buffers, position, ReadWriteFlags::NOWAIT) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(true)),
            Err(Errno::AGAIN) => Ok(Some(false)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Looks at one page in each 64 KiB of `files`.
///
/// # Errors
/// Those of `LogFile::is_cached`.
pub(crate) fn residency(files: &[LogFile]) -> io::Result<Residency> {
    look_every(files, STEP_BYTES)
}

fn look_every(files: &[LogFile], step_bytes: u64) -> io::Result<Residency> {
    let mut found = Residency::default();
    for file in files {
        for position in (0..file.len_bytes()?).step_by(step_bytes as usize) {
            found.count(file.is_cached(position)?);
        }
    }
    Ok(found)
}

/// Writes all dirty pages back, because only clean ones can be evicted, and evicts them.
///
/// # Errors
/// The pages stay in memory, because the file system is memory itself or a process maps them.
pub(crate) fn make_cold(files: &[LogFile]) -> Result<()> {
    for file in files {
        file.file.sync_data().context("cannot write back a cold file")?;
    }
    evict(files)?;
    let total = files.iter().map(LogFile::len_bytes).sum::<io::Result<u64>>()?;
    let trial = look_every(files, (total / TRIALS).max(STEP_BYTES))?;
    ensure!(
        2 * trial.cached <= trial.looks,
        "{} of {} pages of the cold files stay in memory after posix_fadvise(DONTNEED): are they on \
         tmpfs, or mapped by a process?",
        trial.cached,
        trial.looks
    );
    Ok(evict(files)?)
}

/// Evicts the clean pages of `files` that are not in use.
fn evict(files: &[LogFile]) -> io::Result<()> {
    for file in files {
        fadvise(&file.file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// A thread that evicts files periodically. If this is dropped, the thread ends by itself.
#[derive(Debug)]
pub(crate) struct Evictor {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Evictor {
    pub(crate) fn start(files: Arc<[LogFile]>, interval: Duration) -> Evictor {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            loop {
                evict(&files)?;
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    return Ok(());
                }
            }
        });
        Evictor { stop, thread }
    }

    /// Ends the thread, and returns when the last eviction is done.
    ///
    /// # Errors
    /// An eviction failed, and none followed it.
    pub(crate) fn stop(self) -> io::Result<()> {
        drop(self.stop);
        self.thread.join().expect("the evictor does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// It is not in the directory for temporary files, which may be in memory.
    fn directory(segments: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let partition = dir.path().join("web-logs-3");
        std::fs::create_dir(&partition).unwrap();
        for (name, len_bytes) in segments {
            std::fs::write(partition.join(name), vec![1; *len_bytes]).unwrap();
        }
        dir
    }

    #[test]
    fn a_directory_stands_for_its_segments_and_their_names_say_what_they_hold() {
        let dir = directory(&[("00000000000000000040.log", 9), ("00000000000000000007.log", 9)]);
        std::fs::write(dir.path().join("web-logs-3/00000000000000000007.index"), "").unwrap();
        let files = open(&[dir.path().join("web-logs-3")]).unwrap();
        let place = |base, next_base| {
            Some(Place { topic: "web-logs".into(), partition: 3, base, next_base })
        };
        let places: Vec<_> = files.into_iter().map(|file| file.place).collect();
        assert_eq!(places, [place(7, Some(40)), place(40, None)]);
        let problem = open(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(problem.contains("no *.log file"), "{problem}");
    }

    #[test]
    fn files_of_other_servers_have_no_place() {
        assert_eq!(place(Path::new("/data/kafka/topic/0_12/0-1-v1.log"), &[]), None);
        assert_eq!(place(Path::new("/data/topic-0/first.log"), &[]), None);
    }

    #[test]
    fn files_whose_pages_cannot_be_seen_are_refused_with_words() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = dir.path().join("00000000000000000000.log");
        std::fs::write(&path, [1; 100]).unwrap();
        let problem = open(&[path]).unwrap_err().to_string();
        assert!(problem.contains("does not show which pages are in memory"), "{problem}");
    }

    #[test]
    fn positions_are_shares_of_the_file_that_holds_the_offset() {
        let place = Place { topic: "t".into(), partition: 0, base: 100, next_base: Some(300) };
        let position = |offset| place.position(offset, 1000, 4000);
        assert_eq!([100, 150, 299].map(position), [Some(0), Some(1000), Some(3980)]);
        assert_eq!([99, 300].map(position), [None, None]);
        let last = Place { next_base: None, ..place };
        assert_eq!(last.position(550, 1000, 900), Some(450));
    }

    #[test]
    fn evicted_pages_are_seen_to_be_gone_and_read_ones_to_be_there() {
        let dir = directory(&[("00000000000000000000.log", 1 << 20)]);
        let path = dir.path().join("web-logs-3/00000000000000000000.log");
        let files = open(std::slice::from_ref(&path)).unwrap();
        assert_eq!(residency(&files).unwrap(), Residency { looks: 16, cached: 16 });
        files[0].file.sync_data().unwrap();
        let files: Arc<[LogFile]> = Arc::from(files);
        // A page in use at this moment (by its disk, or on another core's list of new pages) stays
        // once.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            Evictor::start(Arc::clone(&files), Duration::from_secs(60)).stop().unwrap();
            let found = residency(&files).unwrap();
            if found.cached == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{found:?} after ten seconds of evictions");
        }
        assert_eq!(std::fs::read(&path).unwrap().len(), 1 << 20);
        assert!(residency(&files).unwrap().is_whole());
        assert_eq!(files[0].is_cached(1 << 20).unwrap(), None);
    }
}
