//! CRC-32C of a batch, and the two changes that an append makes to its bytes.

use crc_fast::{CrcAlgorithm, Digest};

use crate::TimestampType;
use crate::header::{
    ATTRIBUTES_AT, BatchError, CRC_AT, HEADER_LEN, LEADER_EPOCH_AT, MAX_TIMESTAMP_AT,
    with_timestamp_type,
};

/// Bytes of base offset, length and leader epoch, which come before those that never change.
pub const PLACE_LEN: usize = LEADER_EPOCH_AT + 4;

/// Compares the CRC in the header with the bytes of `batch`, which is exactly one whole batch.
pub fn check_crc(batch: &[u8]) -> Result<(), BatchError> {
    let Some(stored) = batch.get(CRC_AT..ATTRIBUTES_AT) else {
        return Err(BatchError::Incomplete { have_bytes: batch.len(), need_bytes: HEADER_LEN });
    };
    let stored = stored.iter().fold(0, |crc, byte| crc << 8 | u32::from(*byte));
    let computed = compute(batch);
    if stored == computed { Ok(()) } else { Err(BatchError::Crc { stored, computed }) }
}

/// Like [`check_crc`], without the numbers.
pub fn crc_is_valid(batch: &[u8]) -> bool {
    check_crc(batch).is_ok()
}

/// Gives a batch its place in the log: 12 of its first [`PLACE_LEN`] bytes, which the CRC does not
/// cover.
///
/// `batch` may be cut behind these bytes. A shorter slice is a bug.
pub fn assign(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    assert!(batch.len() >= PLACE_LEN, "{} bytes are no batch", batch.len());
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH_AT..][..4].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Writes the timestamp type and the greatest timestamp, which are the broker's to set. With
/// LogAppendTime they override the records' own, which stay as they are. Computes the CRC of the
/// whole batch again.
///
/// `header` is the first [`HEADER_LEN`] bytes of a parsed batch and `records` the rest of it.
pub fn set_max_timestamp(
    header: &mut [u8],
    records: &[u8],
    timestamp_type: TimestampType,
    max_timestamp_ms: i64,
) {
    assert!(header.len() == HEADER_LEN, "{} bytes are no header", header.len());
    let attributes = i16::from_be_bytes([header[ATTRIBUTES_AT], header[ATTRIBUTES_AT + 1]]);
    let attributes = with_timestamp_type(attributes, timestamp_type);
    header[ATTRIBUTES_AT..][..2].copy_from_slice(&attributes.to_be_bytes());
    header[MAX_TIMESTAMP_AT..][..8].copy_from_slice(&max_timestamp_ms.to_be_bytes());
    let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
    crc.update(&header[ATTRIBUTES_AT..]);
    crc.update(records);
    let crc = crc.finalize() as u32;
    header[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

/// Writes the CRC of the batch's present bytes.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = compute(batch);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

fn compute(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(&batch[ATTRIBUTES_AT..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, BatchHeader, NewRecord, records};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(NewRecord { timestamp_ms: 7, value: Some(b"v"), ..NewRecord::default() });
        builder.finish()
    }

    #[test]
    fn a_place_in_the_log_leaves_the_crc_sound() {
        let mut bytes = batch();
        assign(&mut bytes, 1 << 40, 9);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch), (1 << 40, 9));
        assert_eq!(check_crc(&bytes), Ok(()));
    }

    #[test]
    fn any_flipped_bit_after_the_crc_is_noticed() {
        for at in CRC_AT..batch().len() {
            let mut bytes = batch();
            bytes[at] ^= 1;
            assert!(matches!(check_crc(&bytes), Err(BatchError::Crc { .. })), "byte {at}");
        }
    }

    #[test]
    fn log_append_time_overrides_every_record_and_seals_again() {
        let mut bytes = batch();
        let (header, records_part) = bytes.split_at_mut(HEADER_LEN);
        set_max_timestamp(header, records_part, TimestampType::LogAppendTime, 99);
        assert!(crc_is_valid(&bytes));
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(header.max_timestamp, 99);
        assert_eq!(records(&bytes).unwrap().next().unwrap().unwrap().timestamp_ms, 99);
        let (header, records_part) = bytes.split_at_mut(HEADER_LEN);
        set_max_timestamp(header, records_part, TimestampType::CreateTime, 7);
        assert_eq!(bytes, batch(), "the records' own timestamps are there again");
    }

    #[test]
    fn too_few_bytes_have_no_crc() {
        assert!(check_crc(&batch()[..CRC_AT + 3]).unwrap_err().is_incomplete());
    }
}
