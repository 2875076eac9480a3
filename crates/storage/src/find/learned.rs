//! A cache of what look-ups have read of a partition's older segments: pages of `.index` files and
//! the places of batches. `Log::find` asks it, `Lookup` fills it.
//!
//! ```text
//!   offset ──▶ a batch found lately ────────────────────────▶ its place, nothing is read
//!         └──▶ a page with entries on both sides ──▶ Bracket ──▶ one header is read
//!         └──▶ neither: the .index is opened and searched, beginning with the page after the one known
//! ```
//!
//! A partition takes 66 KiB of memory: 16 pages of 4 KiB (each leads to 2 MiB of log, or more) and
//! 64 places. It takes none before the first look-up that had to read. Nothing here grows stale,
//! because entries in a file and committed batches never change. The file may have grown behind a
//! page. So a page answers only where it has both neighbours, or ends the index of a sealed
//! segment.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    find::{
        index_search::{IndexSearch, page_entries},
        recent::RecentBatch,
    },
    segment::{
        batch_place::BatchPlace,
        index_entry::{Bracket, Entry, OffsetEntry},
    },
    units::{Offset, Position},
};

const PAGES: usize = 16;
const PLACES: usize = 64;

/// Shared by a log and its look-ups. Locked briefly; a thread that locks both locks the log first.
#[derive(Debug, Default)]
pub(crate) struct Learned(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// The page used last comes first.
    pages: Vec<IndexPage>,
    /// The batch found last comes last.
    places: VecDeque<RecentBatch>,
}

/// A page of a segment's `.index`.
#[derive(Debug)]
pub(crate) struct IndexPage {
    segment: Offset,
    number: u64,
    entries: Box<[OffsetEntry]>,
    /// No page will ever follow.
    ends_index: bool,
}

impl Learned {
    /// A batch that holds the offset.
    pub(crate) fn batch(&self, offset: Offset) -> Option<RecentBatch> {
        let holds = |place: &&RecentBatch| (place.base..=place.last).contains(&offset);
        self.lock().places.iter().rev().find(holds).copied()
    }

    /// The length of a batch that was found lately: others are often as long. `None`: none was
    /// found yet.
    pub(crate) fn usual_batch_bytes(&self) -> Option<u64> {
        self.lock().places.back().map(|place| place.len_bytes)
    }

    /// The entries around an offset in a segment. `Err`: the number of the page that is likely to
    /// have them, if one is.
    pub(crate) fn bracket(
        &self,
        segment: Offset,
        offset: Offset,
    ) -> Result<Bracket<OffsetEntry>, Option<u64>> {
        let relative = offset.0 - segment.0;
        let beyond = |entry: OffsetEntry| i64::from(entry.relative_offset) > relative;
        let pages = &mut self.lock().pages;
        let of_segment = |page: &&IndexPage| page.segment == segment;
        match pages.iter().position(|page| page.segment == segment && page.covers(beyond)) {
            Some(at) => {
                pages[..=at].rotate_right(1);
                Ok(Bracket::of(&pages[0].entries, beyond))
            }
            None => {
                let before = pages.iter().filter(of_segment).filter(|page| page.begins(beyond));
                Err(before.map(IndexPage::following).max())
            }
        }
    }

    /// The last place up to `until` at which an entry of the segment says that a batch begins. How
    /// far batches go on behind the last entry of a page is not known, so that one counts only from
    /// `least` on.
    pub(crate) fn border(
        &self,
        segment: Offset,
        least: Position,
        until: Position,
    ) -> Option<Position> {
        let memory = self.lock();
        let pages = memory.pages.iter().filter(|page| page.segment == segment);
        pages.filter_map(|page| page.border(least, until)).max()
    }

    pub(crate) fn add_batch(&self, batch: &BatchPlace) {
        let places = &mut self.lock().places;
        if places.len() == PLACES {
            places.pop_front();
        }
        places.push_back(batch.into());
    }

    pub(crate) fn add_page(&self, page: IndexPage) {
        let pages = &mut self.lock().pages;
        pages.retain(|old| (old.segment, old.number) != (page.segment, page.number));
        pages.truncate(PAGES - 1);
        pages.insert(0, page);
    }

    /// Gives back the memory of segments that are gone.
    pub(crate) fn forget_before(&self, first_segment: Offset) {
        self.lock().pages.retain(|page| page.segment >= first_segment);
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IndexPage {
    pub(crate) fn read(segment: Offset, sealed: bool, number: u64, bytes: &[u8]) -> IndexPage {
        let mut entries = Vec::with_capacity(bytes.len() / OffsetEntry::LEN);
        entries.extend(page_entries::<OffsetEntry>(number, bytes));
        let entries = entries.into_boxed_slice();
        let ends_index = sealed && !is_full(&entries);
        IndexPage { segment, number, entries, ends_index }
    }

    /// The page of a sealed segment whose index is missing or empty.
    pub(crate) fn nothing(segment: Offset) -> IndexPage {
        IndexPage { segment, number: 0, entries: Box::default(), ends_index: true }
    }

    /// Whether the page has the entries on both sides, as far as there are any.
    fn covers(&self, beyond: impl Fn(OffsetEntry) -> bool) -> bool {
        self.begins(&beyond) && (self.ends_index || self.entries.last().is_some_and(|e| beyond(*e)))
    }

    /// Whether the target lies in the page or behind it.
    fn begins(&self, beyond: impl Fn(OffsetEntry) -> bool) -> bool {
        self.number == 0 || self.entries.first().is_some_and(|entry| !beyond(*entry))
    }

    fn border(&self, least: Position, until: Position) -> Option<Position> {
        let behind = self.entries.partition_point(|entry| entry.position() <= until);
        let border = self.entries[..behind].last()?.position();
        (behind < self.entries.len() || border >= least).then_some(border)
    }

    /// The page at which a consumer that reads on continues. A page that is not full may have
    /// grown.
    fn following(&self) -> u64 {
        self.number + u64::from(is_full(&self.entries))
    }
}

/// Whether the page also has the entry that it shares with the following page.
fn is_full(entries: &[OffsetEntry]) -> bool {
    entries.len() as u64 > IndexSearch::<OffsetEntry>::PAGE_ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Page `number` of an index whose n-th entry is (10 n, 1000 n), n from 1.
    fn page(segment: i64, sealed: bool, number: u64, entries: u32) -> IndexPage {
        let mut bytes = Vec::new();
        for n in (1..=entries).map(|n| number as u32 * 512 + n) {
            OffsetEntry { relative_offset: 10 * n, position: 1000 * n }.encode(&mut bytes);
        }
        IndexPage::read(Offset(segment), sealed, number, &bytes)
    }

    fn positions(bracket: Bracket<OffsetEntry>) -> (Option<u32>, Option<u32>) {
        (bracket.floor.map(|e| e.position), bracket.next.map(|e| e.position))
    }

    #[test]
    fn a_page_answers_only_where_it_has_both_neighbours() {
        let learned = Learned::default();
        learned.add_page(page(100, false, 0, 30));
        let ask = |offset: i64| learned.bracket(Offset(100), Offset(100 + offset)).map(positions);
        assert_eq!(ask(0), Ok((None, Some(1000))));
        assert_eq!(ask(10), Ok((Some(1000), Some(2000))));
        assert_eq!(ask(299), Ok((Some(29_000), Some(30_000))));
        assert_eq!(ask(300), Err(Some(0)), "the file may have grown");
        learned.add_page(page(100, true, 0, 30));
        assert_eq!(ask(1 << 40), Ok((Some(30_000), None)), "a sealed one has not");
        assert_eq!(learned.bracket(Offset(99), Offset(110)), Err(None), "another segment");
    }

    #[test]
    fn the_page_after_the_one_read_is_guessed() {
        let learned = Learned::default();
        learned.add_page(page(0, true, 3, 513));
        assert_eq!(learned.bracket(Offset(0), Offset(10 * (3 * 512 + 513))), Err(Some(4)));
        assert_eq!(learned.bracket(Offset(0), Offset(7)), Err(None));
        assert!(learned.bracket(Offset(0), Offset(10 * (3 * 512 + 512))).is_ok());
    }

    #[test]
    fn the_page_not_used_for_longest_goes_first() {
        let learned = Learned::default();
        let knows = |n: u64| learned.bracket(Offset(0), Offset(10 * (n as i64 * 512 + 1))).is_ok();
        (0..PAGES as u64).for_each(|n| learned.add_page(page(0, true, n, 513)));
        assert!(knows(0));
        learned.add_page(page(0, true, 99, 513));
        assert!(knows(0) && !knows(1) && knows(2) && knows(99));
        learned.forget_before(Offset(1));
        assert!(!knows(0) && !knows(99));
    }

    #[test]
    fn so_many_places_are_remembered_and_no_more() {
        let learned = Learned::default();
        for n in 0..=PLACES as i64 {
            let (base, last) = (Offset(10 * n), Offset(10 * n + 8));
            let position = Position(n as u64);
            learned.add_batch(&BatchPlace {
                base,
                last,
                position,
                len_bytes: 1,
                max_timestamp_ms: 0,
            });
        }
        assert!(learned.batch(Offset(8)).is_none());
        assert_eq!(learned.batch(Offset(18)).unwrap().base, Offset(10));
        assert!(learned.batch(Offset(19)).is_none(), "a gap");
    }
}
