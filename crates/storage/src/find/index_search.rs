//! Binary search of a sorted index file that is not in memory, page by page. Pure; the look-ups
//! drive it.
//!
//! ```text
//!   page 0 │ e0 e1 … e511 │ e512 │
//!                         │ e512 e513 …  │ page 1
//! ```
//!
//! A page ends with the first entry of the next page. So one page has both neighbours of any
//! target.
//!
//! The file's content is a hint, never a fact: the look-ups check an entry against the log. For a
//! file of random bytes it is only promised that the search ends.

use crate::segment::index_entry::{Bracket, Entry};

/// Bytes of a page without the entry it shares with the next one.
const PAGE_LEN_BYTES: usize = 4096;

/// A search for the entries around a target.
#[derive(Debug)]
pub(crate) struct IndexSearch<E> {
    entries: u64,
    /// Pages that may still hold the answer. Empty at its page once it is found.
    pages: std::ops::Range<u64>,
    /// A page to try first.
    guess: Option<u64>,
    bracket: Bracket<E>,
}

impl<E: Entry> IndexSearch<E> {
    pub(crate) const PAGE_ENTRIES: u64 = (PAGE_LEN_BYTES / E::LEN) as u64;

    /// A search of the first `len_bytes` of an index file. The guessed page is looked at first.
    pub(crate) fn new(len_bytes: u64, guess: Option<u64>) -> IndexSearch<E> {
        let entries = len_bytes / E::LEN as u64;
        let pages = 0..entries.div_ceil(Self::PAGE_ENTRIES);
        IndexSearch { entries, pages, guess, bracket: Bracket::NONE }
    }

    /// Place and length of the page to look at next; `None` when the search is over.
    pub(crate) fn need(&self) -> Option<(u64, usize)> {
        if self.pages.is_empty() {
            return None;
        }
        let first = self.middle() * Self::PAGE_ENTRIES;
        let count = (Self::PAGE_ENTRIES + 1).min(self.entries - first);
        Some((first * E::LEN as u64, count as usize * E::LEN))
    }

    /// Takes the page that `need` returned. `beyond`: whether an entry lies past the target.
    pub(crate) fn feed(&mut self, page: &[u8], beyond: impl Fn(E) -> bool) {
        let middle = self.middle();
        self.guess = None;
        let (mut floor, mut next) = (None, None);
        let mut not_beyond = 0;
        for entry in page_entries(middle, page) {
            if beyond(entry) {
                next = Some(entry);
                break;
            }
            floor = Some(entry);
            not_beyond += 1;
        }
        match floor {
            None => self.pages.end = middle,
            Some(_) if not_beyond > Self::PAGE_ENTRIES => self.pages.start = middle + 1,
            Some(_) => self.pages = middle..middle,
        }
        self.bracket = Bracket { floor: floor.or(self.bracket.floor), next };
    }

    /// The result, once nothing more is needed.
    pub(crate) fn bracket(&self) -> Bracket<E> {
        self.bracket
    }

    /// The page with the result.
    pub(crate) fn page(&self) -> u64 {
        self.pages.start
    }

    fn middle(&self) -> u64 {
        let half = self.pages.start + (self.pages.end - self.pages.start) / 2;
        self.guess.filter(|guess| self.pages.contains(guess)).unwrap_or(half)
    }
}

/// The entries of a page. Kafka preallocates its indexes, so zeros after the first entry are
/// reserved room.
pub(crate) fn page_entries<E: Entry>(page: u64, bytes: &[u8]) -> impl Iterator<Item = E> {
    let entries = bytes.chunks_exact(E::LEN).map(E::decode).enumerate();
    let is_entry =
        move |(n, entry): &(usize, E)| entry.relative_offset() > 0 || (page == 0 && *n == 0);
    entries.take_while(is_entry).map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::index_entry::OffsetEntry;

    fn search(file: &[u8], target: u32) -> (Option<OffsetEntry>, usize) {
        let (bracket, pages) = search_from(None, file, target);
        (bracket.floor, pages)
    }

    fn search_from(guess: Option<u64>, file: &[u8], target: u32) -> (Bracket<OffsetEntry>, usize) {
        let mut search = IndexSearch::new(file.len() as u64, guess);
        let mut pages = 0;
        while let Some((at, len)) = search.need() {
            let beyond = |entry: OffsetEntry| entry.relative_offset > target;
            search.feed(&file[at as usize..at as usize + len], beyond);
            pages += 1;
        }
        (search.bracket(), pages)
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
    fn both_neighbours_are_found_from_any_guess_and_a_right_guess_takes_one_page() {
        for entries in [1, 511, 512, 513, 1024, 1025, 3000] {
            let file = index(entries);
            for target in (0..entries * 10 + 20).step_by(61) {
                let floor = (target / 10).min(entries);
                for guess in 0..8 {
                    let (found, pages) = search_from(Some(guess), &file, target);
                    assert_eq!(found.floor.map_or(0, |e| e.position), floor * 100);
                    let next = found.next.map(|e| e.position);
                    assert_eq!(next, (floor < entries).then_some((floor + 1) * 100));
                    let is_right = guess == u64::from(floor.saturating_sub(1)) / 512;
                    assert!(pages == 1 || !is_right, "{entries} {target} {guess}: {pages}");
                }
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
