//! Counts the pages of a file range that are in memory, for people who look at a server.
//!
//! The server calls it on threads that may block, at a bounded rate. It asks by the call that the
//! trial of sight.rs has found to work. It never reads the range. transfer/residency.rs asks for
//! transfers, which need one more proof: cachestat(2) also counts pages that are still being read.

use std::fs::File;

use crate::ring_config::{PAGE_BYTES, Sight};
use crate::sys;

impl Sight {
    /// How many pages of a range are in memory. The range begins on a page; its last page counts
    /// whole. `None`: the file system does not show it, or the kernel refuses the call.
    ///
    /// Blocks no longer than the kernel takes to walk the pages that are there.
    pub fn resident_pages(self, file: &File, position: u64, len_bytes: u64) -> Option<u64> {
        assert!(position.is_multiple_of(PAGE_BYTES), "{position} is within a page");
        if len_bytes == 0 {
            // The calls would take it for the rest of the file.
            return Some(0);
        }
        let pages = len_bytes.div_ceil(PAGE_BYTES);
        let counted = match self {
            Sight::Cachestat => sys::cached_pages(file, position, pages * PAGE_BYTES).ok()?,
            // A kernel before 6.5 counts nothing, and then swapped pages go unnoticed.
            Sight::Memory => sys::cached_pages(file, position, pages * PAGE_BYTES).unwrap_or(pages),
            Sight::Mincore => sys::mapped_pages(file, position, pages * PAGE_BYTES).ok()?,
            Sight::Blind => return None,
        };
        Some(counted.min(pages))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const PAGES: u64 = 8;

    /// A file on a disk with only its second and third page in memory.
    fn file() -> File {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&[7; (PAGES * PAGE_BYTES) as usize], 0).unwrap();
        file.sync_all().unwrap();
        while sys::cached_pages(&file, 0, 0).unwrap() > 0 {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        fadvise(&file, 0, None, Advice::Random).unwrap();
        for page in [1, 2] {
            file.read_exact_at(&mut [0], page * PAGE_BYTES).unwrap();
        }
        file
    }

    #[test]
    fn every_sight_counts_the_pages_that_are_there_and_the_blind_one_says_so() {
        let file = file();
        let ranges = [
            (0, PAGES * PAGE_BYTES, 2),
            (0, PAGE_BYTES, 0),
            (PAGE_BYTES, PAGE_BYTES + 1, 2),
            (2 * PAGE_BYTES, 1, 1),
            (PAGE_BYTES, 0, 0),
            (PAGES * PAGE_BYTES, PAGE_BYTES, 0),
        ];
        for (position, len_bytes, expected) in ranges {
            for sight in [Sight::Cachestat, Sight::Mincore, Sight::Memory] {
                let resident = sight.resident_pages(&file, position, len_bytes);
                assert_eq!(resident, Some(expected), "{sight:?} of {len_bytes} at {position}");
            }
        }
        assert_eq!(Sight::Blind.resident_pages(&file, 0, PAGE_BYTES), None);
    }
}
