//! Finds out by a trial how a file system shows which pages of a file are in memory.
//!
//! The server calls it at its start for its data directory; residency.rs then asks accordingly. It
//! leaves no file behind, and never waits for a disk: bytes just written are in memory, and bytes
//! never written are not.
//!
//! Both calls answer for files that the process may write: of others mincore(2) shows every page,
//! and cachestat(2) is refused. Storage opens every segment for writing, so a trial on a file of
//! our own stands for all.
//!
//! ```text
//!   trial file   |#### written ####|............ a hole ............|
//!                 must be counted                     must not be    else the call is not used
//! ```

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::{ReadWriteFlags, preadv2};

use crate::ring_config::{PAGE_BYTES, Sight};
use crate::sys;

/// Long enough that no folio holds both written bytes and the end of the hole.
const TRIAL_BYTES: u64 = 4 * 1024 * 1024;
const WRITTEN_BYTES: u64 = 16 * PAGE_BYTES;
const TRIAL_NAME: &str = ".penstock-probe";

/// File system types of statfs(2).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const EXT4: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683e;
const OVERLAYFS: i64 = 0x794c_7630;

/// The results of the trial.
#[derive(Clone, Copy, Debug)]
struct Shown {
    cachestat: bool,
    mincore: bool,
    refuses_to_wait: bool,
}

impl Sight {
    /// Tries a file in `dir`.
    ///
    /// # Errors
    /// No file can be written there. [`Sight::usual`] then returns what is likely.
    pub fn probe(dir: &Path) -> io::Result<Sight> {
        let is_memory = matches!(magic(dir)?, TMPFS | RAMFS);
        Ok(Sight::of(is_memory, Shown::by(&trial_file(dir)?)))
    }

    /// What `dir` is likely to show, by the type of its file system.
    pub fn usual(dir: &Path) -> Sight {
        match magic(dir) {
            Ok(EXT4 | XFS | BTRFS) => Sight::Cachestat,
            Ok(TMPFS | RAMFS) => Sight::Memory,
            Ok(OVERLAYFS) => Sight::Mincore,
            _ => Sight::Blind,
        }
    }

    /// Whether the file system shows that a page is *not* in memory, and so which reader brought it
    /// in.
    pub fn tells_cold(self) -> bool {
        self != Sight::Blind
    }

    fn of(is_memory: bool, shown: Shown) -> Sight {
        match shown {
            _ if is_memory => Sight::Memory,
            Shown { cachestat: true, refuses_to_wait: true, .. } => Sight::Cachestat,
            Shown { mincore: true, .. } => Sight::Mincore,
            _ => Sight::Blind,
        }
    }
}

impl Shown {
    fn by(trial: &File) -> Shown {
        let sees = |pages: fn(&File, u64, u64) -> io::Result<u64>| {
            let count = |position| pages(trial, position, WRITTEN_BYTES).ok();
            let (written, hole) = (count(0), count(TRIAL_BYTES - WRITTEN_BYTES));
            (written, hole) == (Some(WRITTEN_BYTES / PAGE_BYTES), Some(0))
        };
        Shown {
            cachestat: sees(sys::cached_pages),
            mincore: sees(sys::mapped_pages),
            refuses_to_wait: is_readable_now(trial, 0),
        }
    }
}

fn magic(dir: &Path) -> io::Result<i64> {
    Ok(rustix::fs::statfs(dir)?.f_type as i64)
}

/// Whether a read that refuses to wait (RWF_NOWAIT) returns the byte. Not all file systems support
/// such reads.
pub(crate) fn is_readable_now(file: &File, position: u64) -> bool {
    let mut byte = [0];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], position, ReadWriteFlags::NOWAIT);
    matches!(read, Ok(1))
}

/// A file without a name whose first bytes are in memory.
pub(crate) fn trial_file(dir: &Path) -> io::Result<File> {
    let path = dir.join(TRIAL_NAME);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(TRIAL_BYTES)?;
    file.write_all_at(&[1; WRITTEN_BYTES as usize], 0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_shows_decides_and_memory_needs_no_showing() {
        let shown =
            |cachestat, mincore, refuses_to_wait| Shown { cachestat, mincore, refuses_to_wait };
        let rows = [
            (shown(true, true, true), Sight::Cachestat),
            (shown(true, true, false), Sight::Mincore),
            (shown(false, true, true), Sight::Mincore),
            (shown(true, false, false), Sight::Blind),
            (shown(false, false, true), Sight::Blind),
        ];
        for (shown, expected) in rows {
            assert_eq!(Sight::of(false, shown), expected, "{shown:?}");
            assert_eq!(Sight::of(true, shown), Sight::Memory, "{shown:?}");
        }
    }

    #[test]
    fn a_probe_agrees_with_what_is_usual_and_leaves_nothing_behind() {
        for parent in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"] {
            let Ok(dir) = tempfile::tempdir_in(parent) else { continue };
            let probed = Sight::probe(dir.path()).unwrap();
            let usual = Sight::usual(dir.path());
            assert!(probed == usual || usual == Sight::Blind, "{parent}: {probed:?}, {usual:?}");
            assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        }
    }

    #[test]
    fn a_directory_that_takes_no_file_is_an_error_and_its_kind_still_says_something() {
        assert!(Sight::probe(Path::new("/proc")).is_err());
        assert_eq!(Sight::usual(Path::new("/proc")), Sight::Blind);
        assert_eq!(Sight::usual(Path::new("/nowhere/at/all")), Sight::Blind);
    }
}
