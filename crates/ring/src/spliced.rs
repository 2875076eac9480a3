//! Finds out by a trial what splice(2) and sendfile(2) of a file move: its pages, or copies.
//!
//! Linux has moved pages ever since. Kernel developers want it to copy (linux-api, June 2026). Some
//! files are copied by any kernel: those opened for direct I/O, and those of a file system that
//! keeps no pages. The server calls this at its start for its data directory, and shows the result.
//!
//! ```text
//!   file  |1111| ──splice──► pipe     then     file  |2222|     the pipe has  2222: the page
//!                                                                             1111: a copy
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use crate::ring_config::{PAGE_BYTES, Spliced};
use crate::sight::trial_file;

impl Spliced {
    /// Tries a file in `dir`. Leaves none behind, and never waits for a disk.
    ///
    /// # Errors
    /// No file can be written there, or the file system has no splice.
    pub fn probe(dir: &Path) -> io::Result<Spliced> {
        let trial = trial_file(dir)?;
        Spliced::of(&trial, &trial)
    }

    /// Splices from one handle of a file and writes to another. Its first page is in memory.
    pub(crate) fn of(from: &File, written: &File) -> io::Result<Spliced> {
        const PAGE: usize = PAGE_BYTES as usize;
        let fill = |byte: u8| written.write_all_at(&[byte; PAGE], 0);
        fill(1)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let spliced = splice(from, Some(&mut 0), &write, None, PAGE, SpliceFlags::NONBLOCK)?;
        fill(2)?;
        let mut bytes = [0; PAGE];
        File::from(read).read_exact(&mut bytes[..spliced])?;
        match bytes[0] {
            1 if spliced > 0 => Ok(Spliced::Copies),
            2 if spliced > 0 => Ok(Spliced::Pages),
            _ => Err(io::Error::other("a splice moved other bytes than the file's")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind_and_needs_a_directory_that_takes_files() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        Spliced::probe(dir.path()).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert!(Spliced::probe(Path::new("/proc")).is_err());
    }
}
