//! Walks the batches of a byte slice: a fetched answer, a produced record field, a piece of a
//! segment.

use crate::{BatchError, BatchHeader};

/// Iterates over the whole batches that follow one another in a slice.
///
/// Ends after the last whole batch, or after one error. [`BatchError::Incomplete`] is the cut last
/// batch that a fetch may end with; every other error is corruption. CRCs are not compared.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    rest: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> Batches<'a> {
    /// Starts at the first byte of `bytes`, which must be a batch's first.
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { rest: bytes, position: 0, failed: false }
    }

    /// Bytes of the whole batches so far: where the next one begins.
    pub fn position(&self) -> usize {
        self.position
    }

    fn take(&mut self) -> Result<(BatchHeader, &'a [u8]), BatchError> {
        let header = BatchHeader::parse(self.rest)?;
        let need_bytes = header.len_bytes();
        let (batch, rest) = self
            .rest
            .split_at_checked(need_bytes)
            .ok_or(BatchError::Incomplete { have_bytes: self.rest.len(), need_bytes })?;
        self.rest = rest;
        self.position += need_bytes;
        Ok((header, batch))
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let taken = self.take();
        self.failed = taken.is_err();
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, NewRecord, assign};

    fn two_batches() -> Vec<u8> {
        let mut bytes = Vec::new();
        for base_offset in [10, 11] {
            let mut builder = BatchBuilder::new();
            builder.push(NewRecord { value: Some(b"v"), ..NewRecord::default() });
            let mut batch = builder.finish();
            assign(&mut batch, base_offset, 0);
            bytes.extend(batch);
        }
        bytes
    }

    #[test]
    fn whole_batches_come_in_order_and_a_cut_one_is_incomplete() {
        let bytes = two_batches();
        let mut batches = Batches::new(&bytes[..bytes.len() - 1]);
        assert_eq!(batches.next().unwrap().unwrap().0.base_offset, 10);
        assert_eq!(batches.position(), bytes.len() / 2);
        assert!(batches.next().unwrap().unwrap_err().is_incomplete());
        assert!(batches.next().is_none());
        assert_eq!(batches.position(), bytes.len() / 2);
    }

    #[test]
    fn a_corrupt_batch_is_not_taken_for_a_cut_one() {
        let mut bytes = two_batches();
        let second = bytes.len() / 2;
        bytes[second + 16] = 0;
        let last = Batches::new(&bytes).last().unwrap();
        assert_eq!(last, Err(BatchError::Magic { magic: 0 }));
    }
}
