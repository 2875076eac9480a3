//! The number that a batch of a `tail` run carries. Pure.
//!
//! The number is all that a consumer needs: from it follow the moment at which the batch was due
//! (`schedule`), its partition, and the number that must come next there. So producer and consumers
//! share no table, a batch may arrive before its acknowledgement, and a long run takes no memory.
//! The number of the run tells its batches from those of others.
//!
//! ```text
//! batch header 61 │ first record: … value length · run u64 · number u64 · text ··· │ record …
//! ```

use std::ops::Range;

use penstock_batch::records;

/// Bytes of a mark, at the start of a record's value.
pub(crate) const MARK_BYTES: usize = 16;

/// What a batch carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) run: u64,
    pub(crate) number: u64,
}

impl Mark {
    /// Writes the mark into `batch`, whose CRC must be computed after that.
    ///
    /// # Panics
    /// The first value has no room for it, which the check of the arguments rules out.
    pub(crate) fn write(self, batch: &mut [u8]) {
        let place = place(batch).expect("a first value of at least MARK_BYTES");
        let (run, number) = batch[place].split_at_mut(size_of::<u64>());
        run.copy_from_slice(&self.run.to_be_bytes());
        number.copy_from_slice(&self.number.to_be_bytes());
    }

    /// Reads the mark of `batch`. `None`: it has none, or the batch is compressed.
    pub(crate) fn read(batch: &[u8]) -> Option<Mark> {
        let (run, number) = batch.get(place(batch)?)?.split_first_chunk()?;
        let number = number.first_chunk()?;
        Some(Mark { run: u64::from_be_bytes(*run), number: u64::from_be_bytes(*number) })
    }
}

/// Where the mark is: in the first value, if that has room.
fn place(batch: &[u8]) -> Option<Range<usize>> {
    let value = records(batch).ok()?.next()?.ok()?.value?;
    // The value borrows from the batch.
    let start = value.as_ptr().addr() - batch.as_ptr().addr();
    (value.len() >= MARK_BYTES).then_some(start..start + MARK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use penstock_batch::check_crc;

    use super::*;
    use crate::cli::{Codec, MIN_BATCH_BYTES};
    use crate::payload::{Payload, Recipe};

    fn payload(record_bytes: u64, batch_bytes: u64, codec: Codec) -> Payload {
        Payload::new(Recipe { seed: 1, record_bytes, batch_bytes, codec }).unwrap()
    }

    #[test]
    fn a_batch_of_any_length_carries_its_mark_under_a_sound_crc() {
        for record_bytes in [16, 64, 8100] {
            for more in [0, 1, 2, 17, 60, 5000] {
                let batch_bytes = record_bytes + MIN_BATCH_BYTES + more;
                let payload = payload(record_bytes, batch_bytes, Codec::None);
                let mark = Mark { run: u64::MAX - 5, number: more };
                let write = |batch: &mut [u8]| mark.write(batch);
                let batch = payload.marked(more, batch_bytes, Duration::ZERO, write).unwrap();
                assert_eq!(check_crc(&batch.bytes), Ok(()));
                assert_eq!(Mark::read(&batch.bytes), Some(mark), "{record_bytes} {batch_bytes}");
            }
        }
    }

    #[test]
    fn a_batch_of_short_records_or_compressed_or_cut_has_no_mark() {
        let batch = |record_bytes, codec| {
            payload(record_bytes, 1000, codec).batch(0, 1000, Duration::ZERO).unwrap().bytes
        };
        assert_eq!(Mark::read(&batch(15, Codec::None)), None);
        assert_eq!(Mark::read(&batch(100, Codec::Zstd)), None);
        let whole = batch(100, Codec::None);
        assert!(Mark::read(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(Mark::read(&whole[..len]), None, "{len} bytes");
        }
    }
}
