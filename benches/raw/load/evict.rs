//! Keeps a part of a file out of the page cache, so that every read of it goes to the disk.
//!
//! What a cold reader has received is dropped at once (posix_fadvise(2), DONTNEED); when it comes round
//! again it finds nothing. Cold readers jump, so that what the kernel reads ahead helps them little.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};

#[derive(Debug)]
pub(crate) struct Evict(Option<File>);

impl Evict {
    /// Evicts the whole part first; dirty pages would stay, so they are written before.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub(crate) fn begin(file: Option<&Path>, part: &Range<u64>) -> anyhow::Result<Evict> {
        let Some(path) = file else { return Ok(Evict(None)) };
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.sync_data()?;
        let evict = Evict(Some(file));
        evict.range(part.start, part.end - part.start)?;
        Ok(evict)
    }

    /// Evicts what was read.
    ///
    /// # Errors
    /// The kernel does not take the advice.
    pub(crate) fn range(&self, position: u64, len_bytes: u64) -> anyhow::Result<()> {
        if let (Some(file), Some(len_bytes)) = (&self.0, NonZeroU64::new(len_bytes)) {
            fadvise(file, position, Some(len_bytes), Advice::DontNeed)?;
        }
        Ok(())
    }
}
