//! A range of a file, to be planned, looked up in the page cache, or pinned.
//!
//! transfer.rs yields ranges; the other modules look at where they lie. Nothing here reads them.

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
}
