//! A range of a file: what is planned, asked for and pinned without being read.
//!
//! Used by transfer.rs, which yields ranges, and by all that look at where they lie.

use std::fs::File;
use std::sync::Arc;

/// `len_bytes` bytes of a file from `position` on.
#[derive(Clone, Debug)]
pub(crate) struct FileRange {
    pub(crate) file: Arc<File>,
    pub(crate) position: u64,
    pub(crate) len_bytes: u64,
}

impl FileRange {
    pub(crate) fn end(&self) -> u64 {
        self.position + self.len_bytes
    }

    pub(crate) fn overlaps(&self, other: &FileRange) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && self.position < other.end()
            && other.position < self.end()
    }

    /// Lengthens it, if it ends before `end`.
    pub(crate) fn reach(&mut self, end: u64) {
        self.len_bytes = self.len_bytes.max(end - self.position);
    }
}
