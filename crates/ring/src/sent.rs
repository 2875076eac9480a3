//! What one transfer did: the answer of [`Ring::transfer`](crate::Ring::transfer).
//!
//! ```text
//!   | this answer ......... | next answer ......... |
//!     ▲ a cold plan begins  └─ not in memory, and the kernel reads on into it ─┘ Ahead
//! ```
//!
//! Filled by perform.rs as plans complete. A file that is read on from the disk brings the bytes
//! behind the answer along: the next answer finds them in the page cache, and they came from the
//! disk for this reader all the same. So a cold plan notes how many bytes behind it are not in
//! memory, and the socket keeps that until the peer asks for them.

use std::fs::File;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::file_range::FileRange;
use crate::ring_config::{PAGE_BYTES, Sight};
use crate::sys;

/// How far behind a cold answer the kernel may read on. Where it reads less, the next plan behind
/// that is cold, and notes again.
const AHEAD_BYTES: u64 = 8 << 20;

/// Bytes of file pieces, by path, and what came from the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes sent by linked splices.
    pub chain_bytes: u64,
    /// Bytes sent by sendfile.
    pub sendfile_bytes: u64,
    /// Bytes sent through user space.
    pub copy_bytes: u64,
    /// Of all these, bytes that were not in the page cache when the disk was asked for them, or for
    /// those right before them. What one chain moves counts whole, if any page of its first turn
    /// was missing. A path fixed to chain or sendfile never looks, so there it is 0.
    pub cold_bytes: u64,
    /// How long plans waited for the disk, each from its start, with its wait for a place among
    /// cold chains, to its completion.
    pub disk_wait: Duration,
    /// When the socket first took no more, so that the peer was waited for.
    pub full_at: Option<Instant>,
}

impl Sent {
    /// Bytes sent by all paths.
    pub fn file_bytes(&self) -> u64 {
        self.chain_bytes + self.sendfile_bytes + self.copy_bytes
    }
}

/// Bytes of a file that were not in memory when those right before them were read from the disk.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    /// Weak: a deleted file goes although the peer stays.
    file: Weak<File>,
    position: u64,
    len_bytes: u64,
    counted_until: u64,
}

impl Ahead {
    /// How many of these bytes an answer has that begins with `range`.
    pub(crate) fn bytes_of(&self, range: &FileRange) -> u64 {
        let is_of_file = std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(&range.file));
        match is_of_file && (range.position..range.end()).contains(&self.position) {
            true => self.len_bytes.min(range.end() - self.position),
            false => 0,
        }
    }
}

/// The account of one transfer.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) sent: Sent,
    /// When the plan began to wait for the disk.
    cold_since: Option<Instant>,
    /// Bytes to be sent before those, which the peer was sent before.
    again_bytes: u64,
    /// Bytes still to be sent that come from the disk.
    ahead_bytes: u64,
    /// The place in the file up to which missing bytes have been counted.
    counted_until: u64,
}

impl Account {
    /// Goes on where the peer's previous answer ended, if this one reaches beyond that. A peer asks
    /// for a batch that was cut there again, from its start.
    pub(crate) fn resume(&mut self, ahead: &Ahead, first: Option<&FileRange>) {
        let goes_on = |first: &&FileRange| {
            std::ptr::eq(ahead.file.as_ptr(), Arc::as_ptr(&first.file))
                && (first.position..first.end()).contains(&ahead.position)
        };
        if let Some(first) = first.filter(goes_on) {
            self.again_bytes = ahead.position - first.position;
            (self.ahead_bytes, self.counted_until) = (ahead.len_bytes, ahead.counted_until);
        }
    }

    /// A plan waits for the disk from now on, which reads `ranges` first. `is_missing`: a page of
    /// them was looked for in vain. Else they are part of a scan, and counted by what is missing.
    pub(crate) fn begin_cold(
        &mut self,
        ranges: impl Iterator<Item = FileRange>,
        is_missing: bool,
        sight: Sight,
    ) {
        let of_disk = |range: &FileRange, from: u64| {
            let len_bytes = range.end().saturating_sub(from);
            let is_counted = !is_missing && can_count(sight);
            let missing = || missing(&range.file, from - from % PAGE_BYTES, range.end(), sight);
            if is_counted { missing().min(len_bytes) } else { len_bytes }
        };
        self.cold_since = Some(Instant::now());
        let (mut bytes, mut only, mut others) = (0, None, 0);
        for range in ranges {
            bytes += of_disk(&range, range.position);
            others += usize::from(only.is_some());
            only.get_or_insert(range);
        }
        if let (Some(range), 0) = (&only, others) {
            let counted_until = self.counted_until.max(range.position);
            self.ahead_bytes += of_disk(range, counted_until);
            let until = range.end() + AHEAD_BYTES;
            self.ahead_bytes += missing(&range.file, counted_until.max(range.end()), until, sight);
            self.counted_until = self.counted_until.max(until);
        }
        self.ahead_bytes = self.ahead_bytes.max(bytes - self.again_bytes.min(bytes));
    }

    /// Counts the bytes of a plan. A copy counts what it reads from the disk itself.
    pub(crate) fn note(&mut self, file_bytes: u64, is_copy: bool) {
        let again_bytes = file_bytes.min(self.again_bytes);
        self.again_bytes -= again_bytes;
        let cold_bytes = (file_bytes - again_bytes).min(self.ahead_bytes);
        self.ahead_bytes -= cold_bytes;
        if !is_copy {
            self.sent.cold_bytes += cold_bytes;
        }
        if let Some(since) = self.cold_since.take() {
            self.sent.disk_wait += since.elapsed();
        }
    }

    /// The socket takes no more for now.
    pub(crate) fn note_full(&mut self) {
        self.sent.full_at.get_or_insert_with(Instant::now);
    }

    /// What the peer's next answer goes on with, behind the only range of this one.
    pub(crate) fn ahead(&self, range: &FileRange) -> Option<Ahead> {
        let (file, position) = (Arc::downgrade(&range.file), range.end());
        let (len_bytes, counted_until) = (self.ahead_bytes, self.counted_until);
        (len_bytes > 0).then_some(Ahead { file, position, len_bytes, counted_until })
    }
}

pub(crate) fn can_count(sight: Sight) -> bool {
    matches!(sight, Sight::Cachestat | Sight::Memory)
}

/// Bytes of a part of a file that are not in memory. Kernels that cannot count them return none.
pub(crate) fn missing(file: &File, from: u64, until: u64, sight: Sight) -> u64 {
    if !can_count(sight) {
        return 0;
    }
    let from = from.next_multiple_of(PAGE_BYTES);
    let file_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let len_bytes = until.min(file_bytes).saturating_sub(from);
    let cached = match len_bytes {
        0 => return 0,
        _ => sys::cached_pages(file, from, len_bytes),
    };
    cached.map_or(0, |pages| len_bytes.saturating_sub(pages * PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_what_was_read_ahead_for_it_and_no_more() {
        let [file, other] = [(); 2].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        let weak = Arc::downgrade(&file);
        let ahead = Ahead { file: weak, position: 1000, len_bytes: 5000, counted_until: 9000 };
        let of = |file: &Arc<File>, position, len_bytes| {
            ahead.bytes_of(&FileRange { file: Arc::clone(file), position, len_bytes })
        };
        assert_eq!(of(&file, 1000, 9000), 5000);
        assert_eq!(of(&file, 0, 4000), 3000, "a batch that was cut is asked for again");
        assert_eq!([of(&file, 2000, 10), of(&file, 0, 1000), of(&other, 1000, 10)], [0; 3]);
    }

    #[test]
    fn the_time_of_a_full_socket_is_noted_once() {
        let mut account = Account::default();
        assert_eq!(account.sent.full_at, None);
        account.note_full();
        let first = account.sent.full_at;
        account.note_full();
        assert!(first.is_some() && account.sent.full_at == first);
    }
}
