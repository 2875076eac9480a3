//! Whether a range of a file is in the page cache: what decides if sending it inline can wait for a disk.
//!
//! Called by perform.rs for transfers that choose their own way. Never waits, never reads the range.

use std::fs::File;
use std::io::IoSliceMut;

use rustix::io::{ReadWriteFlags, preadv2};

use crate::config::PAGE_BYTES;
use crate::sys;
use crate::transfer::FileRange;

/// Whether every byte of the range can be read without waiting. In doubt (a kernel before 6.5, a filter
/// that forbids the call) it is not.
///
/// cachestat(2) also counts pages whose read is still under way, and sending one of those would wait.
/// Read-ahead ends with the last page, so that one is read, by a call that refuses to wait.
pub(crate) fn is_cached(range: &FileRange) -> bool {
    let &FileRange { ref file, position, len_bytes } = range;
    if len_bytes == 0 {
        return true;
    }
    let last = position + len_bytes - 1;
    let pages = last / PAGE_BYTES - position / PAGE_BYTES + 1;
    let all_there = sys::cached_pages(file, position, len_bytes).is_ok_and(|n| n >= pages);
    all_there && is_readable_now(file, last)
}

fn is_readable_now(file: &File, position: u64) -> bool {
    let mut byte = [0];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], position, ReadWriteFlags::NOWAIT);
    matches!(read, Ok(1))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const PAGES: u64 = 16;

    /// A file on a disk (a tmpfs keeps everything in memory) of which only some pages are cached. They
    /// are brought in one by one: the kernel keeps what was written at once in larger units.
    fn file(is_cached: impl Fn(u64) -> bool) -> Arc<File> {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; (PAGES * PAGE_BYTES) as usize]).unwrap();
        file.sync_all().unwrap();
        // A page that somebody holds just now (its disk, another core's list of new pages) stays once.
        while sys::cached_pages(&file, 0, PAGES * PAGE_BYTES).unwrap() > 0 {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        fadvise(&file, 0, None, Advice::Random).unwrap();
        for page in (0..PAGES).filter(|page| is_cached(*page)) {
            file.read_exact_at(&mut [0], page * PAGE_BYTES).unwrap();
        }
        Arc::new(file)
    }

    fn cached(file: &Arc<File>, position: u64, len_bytes: u64) -> bool {
        is_cached(&FileRange { file: Arc::clone(file), position, len_bytes })
    }

    #[test]
    fn what_was_read_is_cached_and_what_was_evicted_is_not() {
        assert!(cached(&file(|_| true), 0, PAGES * PAGE_BYTES));
        assert!(!cached(&file(|_| false), 0, PAGES * PAGE_BYTES));
    }

    #[test]
    fn one_missing_page_is_noticed_wherever_it_is() {
        for missing in [0, PAGES / 2, PAGES - 1] {
            let file = file(|page| page != missing);
            assert!(!cached(&file, 0, PAGES * PAGE_BYTES), "page {missing}");
        }
    }

    #[test]
    fn only_the_pages_of_the_range_count() {
        let file = file(|page| page == 1 || page == 2);
        assert!(cached(&file, PAGE_BYTES + 10, 2 * PAGE_BYTES - 10));
        assert!(!cached(&file, PAGE_BYTES + 10, 2 * PAGE_BYTES));
        assert!(!cached(&file, PAGE_BYTES - 1, 2));
    }

    #[test]
    fn an_empty_range_needs_nothing() {
        assert!(cached(&file(|_| false), 5, 0));
    }
}
