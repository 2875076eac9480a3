//! The number that a batch of a `tail` run carries. Pure.
//!
//! The number is all that a consumer needs: from it follow the moment at which the batch was due
//! (`schedule`), its partition, and the number that must come next there. So producer and consumers
//! share no table, a batch may arrive before its acknowledgement, and a long run takes no memory.
//! The number of the run tells its batches from those of others.
//!
//! ```text
//! batch header 61 │ record: … value length · run u64 │ number u64 │ text ··· │ record …
//!                                            └─ the first value with room ─┘
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
    /// No record has room for it, which the check of the arguments rules out.
    pub(crate) fn write(self, batch: &mut [u8]) {
        let place = place(batch).expect("a record of at least MARK_BYTES");
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

/// Where the mark is: in the first value that has room for it. (A batch of an awkward length begins
/// with an empty record.)
fn place(batch: &[u8]) -> Option<Range<usize>> {
    let mut values = records(batch).ok()?.map_while(Result::ok).filter_map(|record| record.value);
    let value = values.find(|value| value.len() >= MARK_BYTES)?;
    // The value borrows from the batch.
    let start = value.as_ptr().addr() - batch.as_ptr().addr();
    Some(start..start + MARK_BYTES)
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
        for record_bytes in [16, 17, 62, 64, 1000] {
            for more in (0..300).chain([5000]) {
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
    fn what_carries_no_mark_or_is_compressed_or_cut_has_none() {
        let batch = payload(15, 200, Codec::None).batch(0, 200, Duration::ZERO).unwrap();
        let all_short = batch.records > 1 && Mark::read(&batch.bytes).is_none();
        assert!(all_short || Mark::read(&batch.bytes).is_some(), "the last one may be longer");
        let zipped = payload(100, 1000, Codec::Zstd).batch(0, 1000, Duration::ZERO).unwrap();
        assert_eq!(Mark::read(&zipped.bytes), None);
        let whole = payload(100, 1000, Codec::None).batch(0, 1000, Duration::ZERO).unwrap();
        for len in 0..whole.bytes.len() {
            assert_eq!(Mark::read(&whole.bytes[..len]), None, "{len} bytes");
        }
    }
}
