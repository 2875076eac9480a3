//! The buffer of a copying transfer: filled when empty, drained until empty.
//!
//! Called by perform.rs. A transfer has a buffer only while it copies. Transfers of a ring that
//! wait for no peer and no disk take turns with one buffer.
//!
//! A buffer remembers the file bytes that were read into it last. Consumers that wait for the same
//! batch get answers of the same form one after the other, so the bytes already lie where the next
//! answer needs them. They are not read again, since the bytes of a range do not change.

use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use crate::ring_config::{COPY_MAX_BYTES, MAX_PARKED_STAGES, STAGE_BYTES};

/// The place of a full buffer among those that wait for peers. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Parked(Rc<Cell<usize>>);

impl Parked {
    pub(crate) fn take(parked: &Rc<Cell<usize>>) -> Option<Parked> {
        (parked.get() < MAX_PARKED_STAGES).then(|| {
            parked.set(parked.get() + 1);
            Parked(Rc::clone(parked))
        })
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Bytes on their way through user space.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    held: Option<Held>,
}

/// File bytes that lie in a buffer, sent or not.
#[derive(Debug)]
struct Held {
    /// Weak, because a deleted file takes room on the disk while it is open. No other file gets its
    /// address meanwhile.
    file: Weak<File>,
    position: u64,
    at: Range<usize>,
}

impl Stage {
    /// Gets memory: the spare buffer if that is large enough, else a new one of at least
    /// [`COPY_MAX_BYTES`]. A small answer neither pays for clearing 64 KiB nor holds them while it
    /// waits.
    pub(crate) fn prepare(&mut self, spare: &Cell<Stage>, rest_bytes: u64) {
        if self.bytes.is_empty() && rest_bytes > 0 {
            *self = spare.take();
            let len_bytes = rest_bytes.clamp(COPY_MAX_BYTES, STAGE_BYTES as u64) as usize;
            if self.bytes.len() < len_bytes {
                *self = Stage { bytes: vec![0; len_bytes].into(), ..Stage::default() };
            }
        }
    }

    /// Leaves the memory to other transfers, unless bytes wait in it.
    pub(crate) fn release(&mut self, spare: &Cell<Stage>) {
        if self.bytes().is_empty() && !self.bytes.is_empty() {
            spare.set(std::mem::take(self));
        }
    }

    /// Forgets the waiting bytes, which the file still has.
    pub(crate) fn forget(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// The next `len_bytes` of room, to be written and then passed to [`Stage::commit`].
    pub(crate) fn room(&mut self, len_bytes: u32) -> &mut [u8] {
        let room = self.end..self.end + len_bytes as usize;
        if self.held.as_ref().is_some_and(|held| overlap(&held.at, &room)) {
            self.held = None;
        }
        &mut self.bytes[room]
    }

    /// Whether the next room holds these bytes of a file already, so that they need only be
    /// committed.
    pub(crate) fn holds(&self, file: &Arc<File>, position: u64, len_bytes: u32) -> bool {
        let room = self.end..self.end + len_bytes as usize;
        self.held.as_ref().is_some_and(|held| {
            held.at == room
                && held.position == position
                && std::ptr::eq(held.file.as_ptr(), Arc::as_ptr(file))
        })
    }

    /// Remembers that the last `len_bytes` committed are those of a file.
    pub(crate) fn note_read(&mut self, file: &Arc<File>, position: u64, len_bytes: usize) {
        let at = self.end - len_bytes..self.end;
        self.held = Some(Held { file: Arc::downgrade(file), position, at });
    }

    pub(crate) fn commit(&mut self, len_bytes: usize) {
        assert!(
            len_bytes <= self.bytes.len() - self.end,
            "{len_bytes} bytes committed to less room"
        );
        self.end += len_bytes;
    }

    /// The bytes that wait to be sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, len_bytes: usize) {
        self.start += len_bytes;
        assert!(self.start <= self.end, "consumed more than was staged");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer: a header, then bytes of a file. Returns whether they were there already.
    fn answer(spare: &Cell<Stage>, header: &[u8], file: &Arc<File>, position: u64) -> bool {
        let mut stage = Stage::default();
        stage.prepare(spare, 100);
        stage.room(header.len() as u32).copy_from_slice(header);
        stage.commit(header.len());
        let held = stage.holds(file, position, 5);
        if held {
            stage.commit(5);
        } else {
            stage.room(5).copy_from_slice(b"bytes");
            stage.commit(5);
            stage.note_read(file, position, 5);
        }
        assert_eq!(stage.bytes(), [header, b"bytes"].concat());
        stage.consume(header.len() + 5);
        stage.release(spare);
        held
    }

    #[test]
    fn bytes_that_lie_where_the_next_answer_needs_them_are_known_until_they_are_written_over() {
        let spare = Cell::default();
        let file = || Arc::new(tempfile::tempfile().unwrap());
        let (one, other) = (file(), file());
        assert!(!answer(&spare, b"first", &one, 7));
        assert!(answer(&spare, b"again", &one, 7));
        assert!(!answer(&spare, b"another range", &one, 7), "they would lie elsewhere");
        assert!(!answer(&spare, b"once more", &one, 8));
        assert!(!answer(&spare, b"once more", &other, 8));
        assert!(answer(&spare, b"next like", &other, 8));
        drop(other);
        // The first file that lies where the other lay must not be taken for it.
        let files: Vec<_> = (0..100).map(|_| file()).collect();
        assert!(files.iter().all(|file| !answer(&spare, b"next like", file, 8)));
    }

    #[test]
    fn a_buffer_keeps_no_file_open() {
        let spare = Cell::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        answer(&spare, b"first", &file, 0);
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn what_is_written_into_a_part_of_the_bytes_makes_them_unknown() {
        let spare = Cell::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        answer(&spare, b"first", &file, 0);
        let mut stage = Stage::default();
        stage.prepare(&spare, 100);
        stage.room(6).copy_from_slice(b"longer");
        stage.commit(6);
        stage.consume(6);
        stage.release(&spare);
        assert!(!answer(&spare, b"first", &file, 0));
    }

    #[test]
    fn a_stage_is_left_to_others_when_it_is_empty_and_not_before() {
        let spare = Cell::default();
        let mut stage = Stage::default();
        stage.prepare(&spare, 100);
        stage.room(5).copy_from_slice(b"bytes");
        stage.commit(5);
        stage.consume(4);
        stage.release(&spare);
        assert_eq!(stage.bytes(), b"s");
        stage.consume(1);
        let memory = stage.bytes.as_ptr();
        stage.release(&spare);

        let mut next = Stage::default();
        next.prepare(&spare, 100);
        assert!(next.bytes().is_empty());
        assert_eq!(next.bytes.as_ptr(), memory);
    }

    #[test]
    fn no_more_full_buffers_wait_for_peers_than_the_limit_says() {
        let parked = Rc::default();
        let mut places: Vec<_> = (0..MAX_PARKED_STAGES).map(|_| Parked::take(&parked)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(Parked::take(&parked).is_none());
        places.pop();
        assert!(Parked::take(&parked).is_some());
    }

    #[test]
    fn a_stage_that_is_too_small_is_replaced() {
        let spare = Cell::default();
        let mut small = Stage::default();
        small.prepare(&spare, 1);
        small.release(&spare);
        let mut large = Stage::default();
        large.prepare(&spare, u64::MAX);
        assert_eq!(large.room(STAGE_BYTES as u32).len(), STAGE_BYTES);
    }
}
