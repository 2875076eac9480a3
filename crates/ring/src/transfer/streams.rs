//! Which readers go on where an answer from the disk ended: a scan, as long as it goes on.
//!
//! ```text
//!   answer 1, cold              |--------|
//!   answer 2 begins there                |--------|    goes on: a chain, unless what follows is cached
//!   or a little before                |--------|       it asks again for a batch that was cut
//! ```
//!
//! A reader that comes to a file for the first time may begin a scan, or go on with one after it
//! has connected anew: what it finds in memory then is what was read ahead for it. One that comes
//! back to another place reads here and there.
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
    ends: Vec<End>,
}

/// How an answer comes to a place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// From nowhere: it may begin a scan.
    Begins,
    /// From the end of an answer that came from the disk, or from within it.
    GoesOn,
    /// From elsewhere in the file.
    Jumps,
}

/// The last answer from a file.
#[derive(Debug)]
struct End {
    /// Its address alone. An address that becomes another file's costs one answer its path.
    file: *const File,
    begin: u64,
    position: u64,
    is_from_disk: bool,
}

impl Streams {
    /// How an answer comes to the place in the file where it begins.
    pub(crate) fn approach(&self, file: &Arc<File>, begin: u64) -> Approach {
        match self.ends.iter().find(|end| end.file == Arc::as_ptr(file)) {
            Some(end) if !end.is_left_by(begin) => Approach::Jumps,
            Some(end) if end.is_from_disk => Approach::GoesOn,
            _ => Approach::Begins,
        }
    }

    /// Whether the file is none that the peer has been sent bytes of, as far as is remembered, and
    /// no other needs to be forgotten for it.
    pub(crate) fn has_room_for(&self, file: &Arc<File>) -> bool {
        self.ends.len() < ENDS_MAX && self.ends.iter().all(|end| end.file != Arc::as_ptr(file))
    }

    /// Remembers a file whose bytes are in memory, as far as a scan would have it read ahead.
    pub(crate) fn begin_in_memory(&mut self, file: &Arc<File>, begin: u64) {
        let file = Arc::as_ptr(file);
        self.push(End { file, begin, position: begin, is_from_disk: false });
    }

    /// Remembers where the ranges of an answer from the disk end. Of more files than it has room
    /// for it forgets the oldest.
    pub(crate) fn go_on_behind(&mut self, ranges: impl Iterator<Item = FileRange>) {
        for range in ranges.take(ENDS_MAX) {
            let (file, begin, position) = (Arc::as_ptr(&range.file), range.position, range.end());
            self.push(End { file, begin, position, is_from_disk: true });
        }
    }

    /// An answer came from the page cache: its files are not scanned. An answer without file ranges
    /// changes nothing.
    pub(crate) fn end(&mut self, ranges: impl Iterator<Item = FileRange>) {
        if self.ends.is_empty() {
            return;
        }
        for range in ranges {
            let is_of = |end: &&mut End| end.file == Arc::as_ptr(&range.file);
            if let Some(end) = self.ends.iter_mut().find(is_of) {
                (end.begin, end.position, end.is_from_disk) = (range.position, range.end(), false);
            }
        }
    }

    /// Whether no file is scanned.
    pub(crate) fn are_none(&self) -> bool {
        !self.ends.iter().any(|end| end.is_from_disk)
    }

    fn push(&mut self, end: End) {
        self.ends.retain(|other| other.file != end.file);
        if self.ends.len() == ENDS_MAX {
            self.ends.remove(0);
        }
        self.ends.push(end);
    }
}

impl End {
    /// Whether a reader that goes on from here may begin its next answer there: at the end, or at
    /// the batch that the end has cut.
    fn is_left_by(&self, begin: u64) -> bool {
        begin == self.position || (self.begin + 1..self.position).contains(&begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(file: &Arc<File>, position: u64, len_bytes: u64) -> FileRange {
        FileRange { file: Arc::clone(file), position, len_bytes }
    }

    #[test]
    fn a_reader_goes_on_where_its_last_answer_from_the_disk_ended_in_that_file() {
        let [file, other] = [(); 2].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        let mut streams = Streams::default();
        assert_eq!(streams.approach(&file, 0), Approach::Begins);
        streams.go_on_behind([range(&file, 0, 100), range(&other, 50, 7)].into_iter());
        assert_eq!(streams.approach(&file, 100), Approach::GoesOn);
        assert_eq!(streams.approach(&other, 57), Approach::GoesOn);
        assert_eq!(streams.approach(&other, 100), Approach::Jumps);
        assert_eq!(streams.approach(&file, 99), Approach::GoesOn, "a batch that was cut");
        assert_eq!(streams.approach(&file, 0), Approach::Jumps, "the same answer again");
        assert_eq!(streams.approach(&file, 101), Approach::Jumps);
        streams.go_on_behind([range(&file, 100, 100)].into_iter());
        assert_eq!(streams.approach(&file, 100), Approach::Jumps, "only where the last one ended");
        streams.end([].into_iter());
        assert_eq!(streams.approach(&file, 200), Approach::GoesOn, "an answer of another kind");
        streams.end([range(&file, 200, 1)].into_iter());
        assert_eq!(streams.approach(&file, 201), Approach::Begins, "that one was in memory");
        assert_eq!(streams.approach(&file, 202), Approach::Jumps);
        assert_eq!(streams.approach(&other, 57), Approach::GoesOn, "another file's scan");
    }

    #[test]
    fn a_socket_remembers_a_bounded_number_of_ends() {
        let mut streams = Streams::default();
        for position in 0..100 {
            let file = Arc::new(tempfile::tempfile().unwrap());
            let range = range(&file, position, 1);
            // The file stays open, so that no other gets its address.
            std::mem::forget(Arc::clone(&range.file));
            streams.go_on_behind(std::iter::once(range));
        }
        assert_eq!(streams.ends.len(), ENDS_MAX);
        assert_eq!(streams.ends.last().unwrap().position, 100);
    }
}
