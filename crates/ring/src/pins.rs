//! Counts the pages of files that peers hold by not reading, so that they cannot take more memory
//! than there is.
//!
//! A page sent without a copy stays in memory until its peer has taken it, together with the whole
//! large folio around it (KERNEL.md, budgets). Memory limits of containers count such pages, and
//! they cannot be reclaimed. So a transfer asks here before each turn whether it may send pages. If
//! not, it copies.
//!
//! ```text
//!   file      |---- 2 MiB ----|---- 2 MiB ----|---- 2 MiB ----|     a chunk counts once a ring,
//!   sent             [=== a ===|== b ==]                            however many sockets hold it
//!   pins of a socket: chunk 0, chunk 1: until 1 MiB more was sent, or the peer has asked for more
//! ```
//!
//! Called by perform.rs and socket.rs. The budget is shared by the rings of all threads.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::file_range::FileRange;

/// Bytes of the largest folio of a file. One page in use keeps all of it in memory.
pub const CHUNK_BYTES: u64 = 2 * 1024 * 1024;

/// Bytes that may lie between a file and its peer: a full send buffer and a pipe.
const ON_THE_WAY_BYTES: u64 = 1024 * 1024;

/// Bytes that a peer must have taken before it may use more than a share of the budget. The buffers
/// in front of a peer that never reads hold fewer.
pub const PROVEN_BYTES: u64 = 256 * 1024;

/// The share of the budget, as a divisor, for all peers that have not yet taken these bytes.
const UNPROVEN_SHARE: u64 = 4;

/// The share, as a divisor, above which a peer that requests more is checked: it may have taken all
/// it holds.
const SHORT_SHARE: u64 = 2 * UNPROVEN_SHARE;

/// Bounds the bytes of files that peers keep in memory, all rings together.
#[derive(Debug)]
pub struct PageBudget {
    limit_bytes: u64,
    held_bytes: AtomicU64,
}

impl PageBudget {
    /// A budget of `limit_bytes`. With less than [`CHUNK_BYTES`] every answer is copied.
    pub fn new(limit_bytes: u64) -> PageBudget {
        PageBudget { limit_bytes, held_bytes: AtomicU64::new(0) }
    }

    /// Bytes that peers keep in memory now, at worst.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    fn take(&self, is_proven: bool) -> bool {
        let limit_bytes = self.limit_bytes / if is_proven { 1 } else { UNPROVEN_SHARE };
        let more = |held: u64| Some(held + CHUNK_BYTES).filter(|held| *held <= limit_bytes);
        self.held_bytes.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Whether it is worth a system call to learn that a peer no longer holds pages.
    fn is_short(&self) -> bool {
        self.held_bytes() > self.limit_bytes / SHORT_SHARE
    }

    fn give_back(&self) {
        self.held_bytes.fetch_sub(CHUNK_BYTES, Relaxed);
    }
}

/// The chunks that the sockets of one ring hold.
pub(crate) struct PinTable {
    budget: Arc<PageBudget>,
    /// How many sockets hold each chunk.
    holders: RefCell<HashMap<Chunk, u32>>,
}

/// A chunk of a file, which is identified by its address. If another file gets the address, a chunk
/// counts once instead of twice for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Chunk {
    file: usize,
    number: u64,
}

/// The chunks that one socket holds, oldest first.
#[derive(Default)]
pub(crate) struct Pins {
    held: VecDeque<Pin>,
    table: Option<Rc<PinTable>>,
}

struct Pin {
    chunk: Chunk,
    /// The count of bytes sent on the socket at which all of the chunk has been sent.
    end: u64,
}

impl PinTable {
    pub(crate) fn new(budget: Arc<PageBudget>) -> Rc<PinTable> {
        Rc::new(PinTable { budget, holders: RefCell::default() })
    }

    fn pin(&self, chunk: Chunk, is_proven: bool) -> bool {
        match self.holders.borrow_mut().entry(chunk) {
            Entry::Occupied(mut holders) => *holders.get_mut() += 1,
            Entry::Vacant(_) if !self.budget.take(is_proven) => return false,
            Entry::Vacant(holders) => drop(holders.insert(1)),
        }
        true
    }

    fn unpin(&self, chunk: Chunk) {
        let mut table = self.holders.borrow_mut();
        if let Entry::Occupied(mut holders) = table.entry(chunk) {
            *holders.get_mut() -= 1;
            if *holders.get() == 0 {
                holders.remove();
                self.budget.give_back();
            }
        }
    }
}

impl Pins {
    /// Whether the pages of `ranges` may be sent next, on a socket that was sent `sent_bytes`. The
    /// pages count from now on. After a refusal some of them count for a while, too.
    pub(crate) fn pin(
        &mut self,
        table: &Rc<PinTable>,
        ranges: impl Iterator<Item = FileRange>,
        sent_bytes: u64,
        is_proven: bool,
    ) -> bool {
        self.table.get_or_insert_with(|| Rc::clone(table));
        self.release_before(sent_bytes.saturating_sub(ON_THE_WAY_BYTES));
        let mut end = sent_bytes;
        for range in ranges {
            end += range.len_bytes;
            let numbers = range.position / CHUNK_BYTES..=(range.end() - 1) / CHUNK_BYTES;
            for number in numbers {
                let chunk = Chunk { file: Arc::as_ptr(&range.file) as usize, number };
                match self.held.back_mut() {
                    Some(last) if last.chunk == chunk => last.end = end,
                    _ if !table.pin(chunk, is_proven) => return false,
                    _ => self.held.push_back(Pin { chunk, end }),
                }
            }
        }
        true
    }

    /// Whether the budget is short, and some of it is held here.
    pub(crate) fn are_short(&self) -> bool {
        !self.is_empty() && self.table.as_ref().is_some_and(|table| table.budget.is_short())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Releases all pins: the peer has taken everything.
    pub(crate) fn clear(&mut self) {
        self.release_before(u64::MAX);
    }

    fn release_before(&mut self, sent_bytes: u64) {
        let Some(table) = &self.table else { return };
        while let Some(pin) = self.held.front().filter(|pin| pin.end <= sent_bytes) {
            table.unpin(pin.chunk);
            self.held.pop_front();
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.clear();
    }
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} chunks", self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    fn range(file: &Arc<File>, position: u64, len_bytes: u64) -> impl Iterator<Item = FileRange> {
        std::iter::once(FileRange { file: Arc::clone(file), position, len_bytes })
    }

    fn table(chunks: u64) -> (Rc<PinTable>, Arc<PageBudget>) {
        let budget = Arc::new(PageBudget::new(chunks * CHUNK_BYTES));
        (PinTable::new(Arc::clone(&budget)), budget)
    }

    fn chunks(budget: &PageBudget) -> u64 {
        budget.held_bytes() / CHUNK_BYTES
    }

    #[test]
    fn a_page_counts_as_its_largest_folio_and_once_for_all_who_hold_it() {
        let (table, budget) = table(4);
        let (file, mut peers) = (file(), [(); 3].map(|()| Pins::default()));
        for peer in &mut peers {
            assert!(peer.pin(&table, range(&file, 5, 1), 0, true));
        }
        assert_eq!(chunks(&budget), 1);
        assert!(peers[0].pin(&table, range(&file, CHUNK_BYTES - 1, 2), 1, true));
        assert_eq!(chunks(&budget), 2);
        let [first, second, third] = peers;
        drop((first, second));
        assert_eq!(chunks(&budget), 1);
        drop(third);
        assert_eq!(chunks(&budget), 0);
    }

    #[test]
    fn what_the_budget_does_not_hold_is_refused_until_a_peer_has_read() {
        let (table, budget) = table(2);
        let file = file();
        let (mut silent, mut other) = (Pins::default(), Pins::default());
        assert!(silent.pin(&table, range(&file, 0, 2 * CHUNK_BYTES), 0, true));
        assert!(!other.pin(&table, range(&file, 2 * CHUNK_BYTES, 1), 0, true));
        assert!(other.pin(&table, range(&file, 0, 1), 0, true), "held by the silent one anyway");
        silent.clear();
        assert!(other.pin(&table, range(&file, 2 * CHUNK_BYTES, 1), 1, true));
        assert_eq!(chunks(&budget), 2);
    }

    #[test]
    fn pages_are_short_once_an_eighth_of_the_budget_is_held() {
        let (table, _) = table(8);
        let (file, mut first, mut second) = (file(), Pins::default(), Pins::default());
        assert!(first.pin(&table, range(&file, 0, 1), 0, true));
        assert!(!first.are_short());
        assert!(second.pin(&table, range(&file, CHUNK_BYTES, 1), 0, true));
        assert!(first.are_short() && second.are_short());
        second.clear();
        assert!(!first.are_short() && !second.are_short());
    }

    #[test]
    fn peers_that_have_not_taken_anything_have_a_share_only() {
        let (table, budget) = table(8);
        let file = file();
        let mut peers: Vec<_> = (0..9).map(|_| Pins::default()).collect();
        let pinned = |n: usize, peer: &mut Pins, is_proven| {
            peer.pin(&table, range(&file, n as u64 * CHUNK_BYTES, 1), 0, is_proven)
        };
        let unproven = peers.iter_mut().enumerate().filter_map(|(n, peer)| {
            let is_pinned = pinned(n, peer, false);
            is_pinned.then_some(n)
        });
        assert_eq!(unproven.collect::<Vec<_>>(), [0, 1]);
        let proven = peers.iter_mut().enumerate().skip(2).filter_map(|(n, peer)| {
            let is_pinned = pinned(n, peer, true);
            is_pinned.then_some(n)
        });
        assert_eq!(proven.collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
        assert_eq!(chunks(&budget), 8);
    }

    #[test]
    fn a_reader_of_a_long_answer_holds_what_is_on_its_way_and_no_more() {
        let (table, budget) = table(64);
        let (file, mut reader) = (file(), Pins::default());
        for turn in 0..400 {
            let sent_bytes = turn * MIB / 4;
            assert!(reader.pin(&table, range(&file, sent_bytes, MIB / 4), sent_bytes, true));
            assert!(chunks(&budget) <= 2, "{} chunks", chunks(&budget));
        }
    }
}
