//! Batches as a producer sent them, checked before any lock is taken. Pure.
//!
//! What is checked here is all that can be known without the log and without decompressing. The records
//! inside are the consumers' matter: what a producer wrote is what they get.

use bytes::Bytes;
use penstock_batch::{BatchError, BatchHeader, Batches, Codec, HEADER_LEN, check_crc};

/// Of one record: six numbers of a byte each and its attributes.
const SMALLEST_RECORD_LEN_BYTES: usize = 7;

/// One or more whole, sound batches, not yet given offsets.
#[derive(Debug)]
pub struct ProducedBatches {
    pub(crate) bytes: Bytes,
    /// Where each batch starts, and its header as the producer wrote it. Never empty.
    pub(crate) batches: Vec<(usize, BatchHeader)>,
}

/// Why what a producer sent is not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Kafka's CORRUPT_MESSAGE.
    #[error("batch at byte {at}: {source}")]
    Corrupt {
        /// Where the batch starts in what was sent.
        at: usize,
        /// What is wrong with it.
        source: BatchError,
    },
    /// Kafka's MESSAGE_TOO_LARGE.
    #[error("batch at byte {at} has {len_bytes} bytes, at most {max_bytes} are allowed")]
    TooLarge {
        /// Where the batch starts in what was sent.
        at: usize,
        /// Its size.
        len_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Kafka's INVALID_RECORD.
    #[error("batch at byte {at}: {what}")]
    Invalid {
        /// Where the batch starts in what was sent.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Kafka's UNSUPPORTED_FOR_MESSAGE_FORMAT.
    #[error("batch at byte {at} has magic {magic}; only 2 is kept")]
    UnsupportedMagic {
        /// Where the batch starts in what was sent.
        at: usize,
        /// The format it claims.
        magic: i8,
    },
}

impl ProducedBatches {
    /// Checks everything that can be known without the log. `max_message_bytes` limits each batch.
    pub fn validate(
        bytes: Bytes,
        max_message_bytes: usize,
    ) -> Result<ProducedBatches, ProduceError> {
        let mut batches = Vec::new();
        let mut walk = Batches::new(&bytes);
        let mut records = 0i64;
        loop {
            let at = walk.position();
            let Some(next) = walk.next() else { break };
            let (header, batch) = next.map_err(|error| explain(at, error))?;
            if batch.len() > max_message_bytes {
                let (len_bytes, max_bytes) = (batch.len(), max_message_bytes);
                return Err(ProduceError::TooLarge { at, len_bytes, max_bytes });
            }
            check_crc(batch).map_err(|error| explain(at, error))?;
            records += i64::from(header.record_count);
            if let Some(what) = complaint(&header, records) {
                return Err(ProduceError::Invalid { at, what });
            }
            batches.push((at, header));
        }
        if batches.is_empty() {
            return Err(ProduceError::Invalid { at: 0, what: "no batch was sent" });
        }
        if batches.len() > 1 && batches.iter().any(|(_, header)| header.producer_id >= 0) {
            let what = "an idempotent producer sends one batch at a time";
            return Err(ProduceError::Invalid { at: 0, what });
        }
        Ok(ProducedBatches { bytes, batches })
    }

    /// Bytes of all batches together.
    pub fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Records in all batches together; at most `i32::MAX`.
    pub fn record_count(&self) -> i64 {
        self.batches.iter().map(|(_, header)| i64::from(header.record_count)).sum()
    }

    /// Of an idempotent producer, which sends one batch at a time.
    pub(crate) fn producer_id(&self) -> Option<i64> {
        self.batches.first().map(|(_, header)| header.producer_id).filter(|id| *id >= 0)
    }

    /// The greatest timestamp, -1 without any.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.batches.iter().map(|(_, header)| header.max_timestamp).max().unwrap_or(-1)
    }
}

fn explain(at: usize, source: BatchError) -> ProduceError {
    match source {
        BatchError::Magic { magic: magic @ 0..=1 } => ProduceError::UnsupportedMagic { at, magic },
        source => ProduceError::Corrupt { at, source },
    }
}

/// What Kafka calls an invalid record. `records` counts those of this batch and all before it.
fn complaint(header: &BatchHeader, records: i64) -> Option<&'static str> {
    let count = header.record_count;
    let room = (header.len_bytes() - HEADER_LEN) / SMALLEST_RECORD_LEN_BYTES;
    let numbered = header.producer_epoch >= 0 && header.base_sequence >= 0;
    if count == 0 || i64::from(count) != i64::from(header.last_offset_delta) + 1 {
        Some("the record count and the last offset delta do not agree")
    } else if records > i32::MAX.into() {
        Some("more than 2^31 - 1 records in one append")
    } else if header.codec().is_none() {
        Some("the compression codec is unknown")
    } else if header.codec() == Some(Codec::None) && count as usize > room {
        Some("it counts more records than it has room for")
    } else if header.is_control() {
        Some("producers do not write control batches")
    } else if header.max_timestamp < -1 || header.base_timestamp < -1 {
        Some("a timestamp is before 1970")
    } else if header.producer_id >= 0 && !numbered {
        Some("a producer id comes without epoch or sequence")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use penstock_batch::{BatchBuilder, NewRecord};

    use super::*;

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(NewRecord { timestamp_ms: 7, value: Some(b"v"), ..NewRecord::default() });
        builder.finish()
    }

    /// A batch with a field overwritten and the CRC made right again.
    fn altered(at: usize, with: &[u8]) -> Bytes {
        let mut bytes = batch();
        bytes[at..at + with.len()].copy_from_slice(with);
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    /// Bit by bit, so that the tests need no package for it.
    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
            })
        })
    }

    #[test]
    fn a_sound_batch_and_two_in_a_row_pass() {
        let one = batch();
        assert_eq!(
            ProducedBatches::validate(one.clone().into(), 1 << 20).unwrap().record_count(),
            1
        );
        let two = ProducedBatches::validate([one.clone(), one].concat().into(), 1 << 20).unwrap();
        assert_eq!((two.record_count(), two.max_timestamp_ms()), (2, 7));
    }

    #[test]
    fn a_cut_or_flipped_batch_is_corrupt() {
        let sound = batch();
        for len in 1..sound.len() {
            let cut = Bytes::copy_from_slice(&sound[..len]);
            let error = ProducedBatches::validate(cut, 1 << 20).unwrap_err();
            assert!(matches!(error, ProduceError::Corrupt { .. }), "{len}: {error}");
        }
        for at in 21..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x40;
            assert!(ProducedBatches::validate(flipped.into(), 1 << 20).is_err(), "{at}");
        }
    }

    #[test]
    fn each_kind_of_bad_batch_has_kafkas_error() {
        let invalid = [
            (21, [0, 5].as_slice()),      // codec 5
            (22, &[0x20]),                // control
            (23, &[0, 0, 0, 4]),          // last offset delta
            (35, &(-2i64).to_be_bytes()), // max timestamp
            (43, &9i64.to_be_bytes()),    // producer id without epoch
        ];
        for (at, with) in invalid {
            let error = ProducedBatches::validate(altered(at, with), 1 << 20).unwrap_err();
            assert!(matches!(error, ProduceError::Invalid { .. }), "byte {at}: {error}");
        }
        let old = ProducedBatches::validate(altered(16, &[1]), 1 << 20).unwrap_err();
        assert_eq!(old, ProduceError::UnsupportedMagic { at: 0, magic: 1 });
        let large = ProducedBatches::validate(batch().into(), 60).unwrap_err();
        assert!(matches!(large, ProduceError::TooLarge { max_bytes: 60, .. }));
        assert!(ProducedBatches::validate(Bytes::new(), 60).is_err());
    }

    #[test]
    fn counts_that_no_body_could_hold_are_refused() {
        let mut bytes = altered(23, &(i32::MAX - 1).to_be_bytes()).to_vec();
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let error = ProducedBatches::validate(bytes.into(), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("room"), "{error}");
    }
}
