//! Kafka's `<offset>.snapshot`: the latest batches of a log's idempotent producers below an offset.
//! Pure.
//!
//! ```text
//!   version i16 = 1 │ crc u32 │ count i32 │ entry … │        big-endian; the CRC-32C is of what follows it
//!   entry: producer id i64 │ epoch i16 │ last sequence i32 │ last offset i64 │ offset delta i32
//!          │ timestamp i64 │ coordinator epoch i32 │ first offset of its transaction i64
//! ```
//!
//! Kafka writes one entry for each producer, of its last batch. Penstock writes one for each of its
//! last batches, oldest first: a producer with several requests in flight sends all of them again
//! that were not answered. Kafka reads such a file, too, and goes by the last entry. Kafka's state
//! of transactions passes through unchanged.

use crate::units::Offset;

const VERSION: i16 = 1;
/// Version and checksum, which the checksum does not cover.
const CHECKED_FROM: usize = 6;
const ENTRY_LEN: usize = 46;

/// One batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotEntry {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    /// -1 if only markers of transactions are left of the producer.
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: Offset,
    /// Records of the batch, less one.
    pub(crate) offset_delta: i32,
    pub(crate) timestamp_ms: i64,
    /// -1 without transactions.
    pub(crate) coordinator_epoch: i32,
    /// -1 when none is open.
    pub(crate) transaction_start: i64,
}

pub(crate) fn encode(entries: &[SnapshotEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHECKED_FROM + 4 + entries.len() * ENTRY_LEN);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend((entries.len() as i32).to_be_bytes());
    for entry in entries {
        bytes.extend(entry.producer_id.to_be_bytes());
        bytes.extend(entry.epoch.to_be_bytes());
        bytes.extend(entry.last_sequence.to_be_bytes());
        bytes.extend(entry.last_offset.0.to_be_bytes());
        bytes.extend(entry.offset_delta.to_be_bytes());
        bytes.extend(entry.timestamp_ms.to_be_bytes());
        bytes.extend(entry.coordinator_epoch.to_be_bytes());
        bytes.extend(entry.transaction_start.to_be_bytes());
    }
    let crc = crc_fast::crc32_iscsi(&bytes[CHECKED_FROM..]);
    bytes[2..CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// `None` when it is not a whole sound snapshot.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<SnapshotEntry>> {
    let mut fields = Fields(bytes);
    let version = i16::from_be_bytes(fields.take()?);
    let crc = u32::from_be_bytes(fields.take()?);
    if version != VERSION || crc != crc_fast::crc32_iscsi(fields.0) {
        return None;
    }
    let count = i32::from_be_bytes(fields.take()?);
    let (entries, rest) = fields.0.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() || usize::try_from(count) != Ok(entries.len()) {
        return None;
    }
    entries.iter().map(|entry| Fields(entry).entry()).collect()
}

/// Big-endian fields one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn entry(mut self) -> Option<SnapshotEntry> {
        Some(SnapshotEntry {
            producer_id: i64::from_be_bytes(self.take()?),
            epoch: i16::from_be_bytes(self.take()?),
            last_sequence: i32::from_be_bytes(self.take()?),
            last_offset: Offset(i64::from_be_bytes(self.take()?)),
            offset_delta: i32::from_be_bytes(self.take()?),
            timestamp_ms: i64::from_be_bytes(self.take()?),
            coordinator_epoch: i32::from_be_bytes(self.take()?),
            transaction_start: i64::from_be_bytes(self.take()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: SnapshotEntry = SnapshotEntry {
        producer_id: 1000,
        epoch: 3,
        last_sequence: 41,
        last_offset: Offset(77),
        offset_delta: 1,
        timestamp_ms: 1_700_000_000_000,
        coordinator_epoch: -1,
        transaction_start: -1,
    };

    #[test]
    fn a_snapshot_is_kafkas_bytes_and_back() {
        let bytes = encode(&[ENTRY]);
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 1,
            0, 0, 0, 0, 0, 0, 0x03, 0xe8, 0, 3, 0, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 1,
            0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!((&bytes[..2], &bytes[6..]), ([0, 1].as_slice(), expected.as_slice()));
        assert_eq!(decode(&bytes), Some(vec![ENTRY]));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
    }

    #[test]
    fn a_snapshot_cut_or_flipped_anywhere_is_none() {
        let bytes = encode(&[ENTRY, ENTRY]);
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(decode(&flipped), None, "flipped at {at}");
        }
    }
}
