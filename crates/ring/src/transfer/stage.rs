//! The buffer of a copying transfer: filled when empty, drained until empty.
//!
//! Called by perform.rs. A transfer has a buffer only while it copies. Transfers of a ring that
//! wait for no peer and no disk take turns with one buffer.

use std::cell::Cell;
use std::rc::Rc;

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
                self.bytes = vec![0; len_bytes].into();
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
        &mut self.bytes[self.end..][..len_bytes as usize]
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

#[cfg(test)]
mod tests {
    use super::*;

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
