//! The buffer of a copying transfer: filled when empty, drained until empty.
//!
//! Called by perform.rs. Its memory is made on first use, so other paths carry none.

use crate::config::STAGE_BYTES;

/// Bytes on their way through user space.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Stage {
    /// Makes the memory, once: as much as the whole transfer needs, and no more than is moved at a time.
    /// An answer of 4 KiB must not pay for clearing 64.
    pub(crate) fn prepare(&mut self, rest_bytes: u64) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; rest_bytes.min(STAGE_BYTES as u64) as usize].into();
        }
    }

    /// The next `len_bytes` of room, to be written and then [`Stage::commit`]ted.
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

    /// What waits to be sent.
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
