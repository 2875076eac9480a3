//! Binary search of a sorted index file that is not in memory: one page at a time, asked for by place.
//! Pure; the look-ups drive it.
//!
//! The file's content is a hint, never a fact: whoever gets an entry checks it against the log. All
//! that is promised for a file of random bytes is that the search ends.

use crate::index_entry::Entry;

/// Bytes of a page; the last entry that would cross its end belongs to the next.
const PAGE_LEN_BYTES: usize = 4096;

/// A search for the last entry that is not beyond what is sought.
#[derive(Debug)]
pub(crate) struct IndexSearch<E> {
    entries: u64,
    /// Pages that may still hold the answer.
    pages: std::ops::Range<u64>,
    best: Option<E>,
}

impl<E: Entry> IndexSearch<E> {
    const PAGE_ENTRIES: u64 = (PAGE_LEN_BYTES / E::LEN) as u64;

    /// Over the first `len_bytes` of an index file.
    pub(crate) fn new(len_bytes: u64) -> IndexSearch<E> {
        let entries = len_bytes / E::LEN as u64;
        IndexSearch { entries, pages: 0..entries.div_ceil(Self::PAGE_ENTRIES), best: None }
    }

    /// Place and length of the page to look at next; `None` when the search is over.
    pub(crate) fn need(&self) -> Option<(u64, usize)> {
        if self.pages.is_empty() {
            return None;
        }
        let first = self.middle() * Self::PAGE_ENTRIES;
        let count = Self::PAGE_ENTRIES.min(self.entries - first);
        Some((first * E::LEN as u64, count as usize * E::LEN))
    }

    /// Takes the page asked for. `beyond` says whether an entry lies past what is sought.
    pub(crate) fn feed(&mut self, page: &[u8], beyond: impl Fn(E) -> bool) {
        let middle = self.middle();
        let mut seen = 0;
        let mut last_good = None;
        for bytes in page.chunks_exact(E::LEN) {
            let entry = E::decode(bytes);
            // Kafka preallocates its indexes: zeros after the first entry are room, not entries.
            let is_room = entry.relative_offset() == 0 && middle + seen > 0;
            if is_room || beyond(entry) {
                break;
            }
            last_good = Some(entry);
            seen += 1;
        }
        let whole_page = seen as usize == page.len() / E::LEN;
        match last_good {
            None => self.pages.end = middle,
            Some(_) if whole_page => self.pages.start = middle + 1,
            Some(_) => self.pages.end = self.pages.start,
        }
        self.best = last_good.or(self.best);
    }

    /// The entry found; `None` when all lie beyond.
    pub(crate) fn best(&self) -> Option<E> {
        self.best
    }

    fn middle(&self) -> u64 {
        self.pages.start + (self.pages.end - self.pages.start) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index_entry::OffsetEntry;

    fn search(file: &[u8], target: u32) -> (Option<OffsetEntry>, usize) {
        let mut search = IndexSearch::<OffsetEntry>::new(file.len() as u64);
        let mut pages = 0;
        while let Some((at, len)) = search.need() {
            search.feed(&file[at as usize..at as usize + len], |e| e.relative_offset > target);
            pages += 1;
        }
        (search.best(), pages)
    }

    fn index(entries: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in 1..=entries {
            OffsetEntry { relative_offset: n * 10, position: n * 100 }.encode(&mut bytes);
        }
        bytes
    }

    #[test]
    fn the_last_entry_not_beyond_is_found_on_few_pages() {
        for entries in [0, 1, 511, 512, 513, 3000] {
            let file = index(entries);
            for target in (0..entries * 10 + 20).step_by(7) {
                let (found, pages) = search(&file, target);
                let expected = (target / 10).min(entries);
                assert_eq!(found.map_or(0, |e| e.position), expected * 100, "{entries} {target}");
                assert!(pages <= 4);
            }
        }
    }

    #[test]
    fn room_that_kafka_reserved_is_not_taken_for_entries() {
        let mut file = index(700);
        file.resize(1 << 20, 0);
        assert_eq!(search(&file, 7001).0.unwrap().position, 70_000);
        assert_eq!(search(&file, 15).0.unwrap().position, 100);
    }
}
