//! Which readers go on where an answer from the disk ended: a scan, as long as it goes on.
//!
//! ```text
//!   answer 1, cold        |--------|end
//!   answer 2 begins there          |--------|    goes on: a chain, unless what follows is cached
//! ```
//!
//! Called by perform.rs, once an answer. A scan stays on chains although the kernel's read-ahead
//! has its next pages in memory by then. Its waits for the disk, and the work of reading ahead,
//! stay on the kernel's workers, and its path does not change within an answer, which costs twice
//! the processor time (EXPERIMENTS.md).

use std::fs::File;
use std::sync::Arc;

use crate::file_range::FileRange;

/// Ends that a socket remembers: one a file that its peer scans.
const ENDS_MAX: usize = 64;

/// The scans of one socket.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Files, by their address alone, and positions. An address that becomes another file's costs
    /// one answer its path.
    ends: Vec<(*const File, u64)>,
}

impl Streams {
    /// Whether an answer that begins with `range` goes on where one from the disk ended.
    pub(crate) fn go_on_at(&self, range: &FileRange) -> bool {
        self.ends.contains(&(Arc::as_ptr(&range.file), range.position))
    }

    /// Remembers where the ranges of an answer from the disk end. Of more files than it has room
    /// for it forgets the oldest.
    pub(crate) fn go_on_behind(&mut self, ranges: impl Iterator<Item = FileRange>) {
        for range in ranges.take(ENDS_MAX) {
            self.forget(&range.file);
            if self.ends.len() == ENDS_MAX {
                self.ends.remove(0);
            }
            self.ends.push((Arc::as_ptr(&range.file), range.end()));
        }
    }

    /// An answer came from the page cache: its files are not scanned. An answer without file ranges
    /// changes nothing.
    pub(crate) fn end(&mut self, ranges: impl Iterator<Item = FileRange>) {
        if !self.ends.is_empty() {
            ranges.for_each(|range| self.forget(&range.file));
        }
    }

    /// Whether no file is scanned.
    pub(crate) fn are_none(&self) -> bool {
        self.ends.is_empty()
    }

    fn forget(&mut self, file: &Arc<File>) {
        self.ends.retain(|(known, _)| *known != Arc::as_ptr(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_on_where_its_last_answer_from_the_disk_ended_in_that_file() {
        let [file, other] = [(); 2].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        let range = |file: &Arc<File>, position, len_bytes| FileRange {
            file: Arc::clone(file),
            position,
            len_bytes,
        };
        let mut streams = Streams::default();
        assert!(!streams.go_on_at(&range(&file, 0, 10)));
        streams.go_on_behind([range(&file, 0, 100), range(&other, 50, 7)].into_iter());
        assert!(streams.go_on_at(&range(&file, 100, 1)));
        assert!(streams.go_on_at(&range(&other, 57, 1000)));
        assert!(!streams.go_on_at(&range(&other, 100, 1)));
        assert!(!streams.go_on_at(&range(&file, 99, 1)));
        streams.go_on_behind([range(&file, 100, 100)].into_iter());
        assert!(!streams.go_on_at(&range(&file, 100, 1)), "only where the last one ended");
        streams.end([].into_iter());
        assert!(streams.go_on_at(&range(&file, 200, 1)), "an answer of another kind came between");
        streams.end([range(&file, 200, 1)].into_iter());
        assert!(!streams.go_on_at(&range(&file, 200, 1)));
        assert!(streams.go_on_at(&range(&other, 57, 1)), "another file's scan goes on");
    }

    #[test]
    fn a_socket_remembers_a_bounded_number_of_ends() {
        let mut streams = Streams::default();
        for position in 0..100 {
            let file = Arc::new(tempfile::tempfile().unwrap());
            let range = FileRange { file, position, len_bytes: 1 };
            // The file stays open, so that no other gets its address.
            std::mem::forget(Arc::clone(&range.file));
            streams.go_on_behind(std::iter::once(range));
        }
        assert_eq!(streams.ends.len(), ENDS_MAX);
        assert_eq!(streams.ends.last().unwrap().1, 100);
    }
}
