//! The 61 bytes before the records, and the errors of a batch.
//!
//! Parsing needs these bytes only: storage looks at headers without reading the records.

use thiserror::Error;

/// Bytes before the first record.
pub const HEADER_LEN: usize = 61;

/// The only format version supported; 0 and 1 are the message sets of before 2017.
pub const MAGIC: i8 = 2;

/// `base_offset` and `length`, which `length` does not count.
pub(crate) const PREFIX_LEN: usize = 12;

pub(crate) const LEADER_EPOCH_AT: usize = 12;
pub(crate) const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
pub(crate) const ATTRIBUTES_AT: usize = 21;
pub(crate) const MAX_TIMESTAMP_AT: usize = 35;

const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// The attributes with this timestamp type in bit 3.
pub(crate) fn with_timestamp_type(attributes: i16, timestamp_type: TimestampType) -> i16 {
    match timestamp_type {
        TimestampType::CreateTime => attributes & !LOG_APPEND_TIME_BIT,
        TimestampType::LogAppendTime => attributes | LOG_APPEND_TIME_BIT,
    }
}

/// The header of one batch, as it is in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record. An append replaces the producer's value.
    pub base_offset: i64,
    /// Bytes after this field: at least 49.
    pub length: i32,
    /// The leader's epoch when the batch was appended, -1 when unknown.
    pub leader_epoch: i32,
    /// CRC-32C of the bytes from `attributes` to the end of the batch.
    pub crc: u32,
    /// Bits: 0-2 codec, 3 timestamp type, 4 transactional, 5 control.
    pub attributes: i16,
    /// Last offset minus base offset; compaction may leave it larger than `record_count` - 1.
    pub last_offset_delta: i32,
    /// Milliseconds since 1970. The records' timestamps are relative to it.
    pub base_timestamp: i64,
    /// The largest timestamp among the records, in milliseconds since 1970.
    pub max_timestamp: i64,
    /// -1 when the producer is neither idempotent nor transactional.
    pub producer_id: i64,
    /// -1 without a producer id.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 without a producer id.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Parses the header at the start of `bytes`. The records need not be there.
    ///
    /// [`BatchError::Incomplete`] means that more bytes may make it sound. The other errors are
    /// final.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic as i8 != MAGIC
        {
            return Err(BatchError::Magic { magic: magic as i8 });
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Incomplete { have_bytes: bytes.len(), need_bytes: HEADER_LEN });
        };
        let header = BatchHeader::from_array(header);
        header.check()?;
        Ok(header)
    }

    fn from_array(bytes: &[u8; HEADER_LEN]) -> BatchHeader {
        BatchHeader {
            base_offset: i64::from_be_bytes(field(bytes, 0)),
            length: i32::from_be_bytes(field(bytes, 8)),
            leader_epoch: i32::from_be_bytes(field(bytes, LEADER_EPOCH_AT)),
            crc: u32::from_be_bytes(field(bytes, CRC_AT)),
            attributes: i16::from_be_bytes(field(bytes, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp: i64::from_be_bytes(field(bytes, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(bytes, 43)),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)),
            base_sequence: i32::from_be_bytes(field(bytes, 53)),
            record_count: i32::from_be_bytes(field(bytes, 57)),
        }
    }

    pub(crate) fn to_array(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.base_offset.to_be_bytes());
        put(8, &self.length.to_be_bytes());
        put(LEADER_EPOCH_AT, &self.leader_epoch.to_be_bytes());
        put(MAGIC_AT, &MAGIC.to_be_bytes());
        put(CRC_AT, &self.crc.to_be_bytes());
        put(ATTRIBUTES_AT, &self.attributes.to_be_bytes());
        put(23, &self.last_offset_delta.to_be_bytes());
        put(27, &self.base_timestamp.to_be_bytes());
        put(MAX_TIMESTAMP_AT, &self.max_timestamp.to_be_bytes());
        put(43, &self.producer_id.to_be_bytes());
        put(51, &self.producer_epoch.to_be_bytes());
        put(53, &self.base_sequence.to_be_bytes());
        put(57, &self.record_count.to_be_bytes());
        bytes
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.length < (HEADER_LEN - PREFIX_LEN) as i32 {
            return Err(BatchError::Length { length: self.length });
        }
        for (field, value) in
            [("last_offset_delta", self.last_offset_delta), ("record_count", self.record_count)]
        {
            if value < 0 {
                return Err(BatchError::Negative { field, value });
            }
        }
        Ok(())
    }

    /// Bytes of the whole batch, with the first 12.
    pub fn len_bytes(&self) -> usize {
        PREFIX_LEN + self.length as usize
    }

    /// Offset of the last record. After compaction, that record may be gone.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// The codec of the records; `None` for the three codes without a meaning.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_attributes(self.attributes)
    }

    /// Who set the records' timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// The same header with another timestamp type.
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> BatchHeader {
        BatchHeader { attributes: with_timestamp_type(self.attributes, timestamp_type), ..self }
    }

    /// Whether the greatest timestamp is possible. The base timestamp is that of a record, so a
    /// smaller greatest timestamp was never set, or set wrongly. (In a batch that Kafka has
    /// compacted, the base may be a deadline.)
    pub fn is_max_timestamp_plausible(&self) -> bool {
        self.timestamp_type() == TimestampType::LogAppendTime
            || self.attributes & DELETE_HORIZON_BIT != 0
            || self.max_timestamp >= self.base_timestamp
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch has a broker's markers, which consumers do not see.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// The codec of a batch's records (attribute bits 0-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy in the framing of xerial's snappy-java.
    Snappy = 2,
    /// An LZ4 frame.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

impl Codec {
    fn from_attributes(attributes: i16) -> Option<Codec> {
        Some(match attributes & CODEC_BITS {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            _ => return None,
        })
    }
}

/// Who set the records' timestamps (attribute bit 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer, record by record.
    CreateTime,
    /// The broker: all records have the batch's `max_timestamp`.
    LogAppendTime,
}

/// Why a batch is not sound.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end before the batch does, as at the end of a fetch or of a torn segment.
    #[error("the batch needs {need_bytes} bytes, {have_bytes} are there")]
    Incomplete {
        /// The bytes that are there.
        have_bytes: usize,
        /// The bytes that the header needs, or the whole batch once its length is known.
        need_bytes: usize,
    },
    /// The format is not v2.
    #[error("magic is {magic}, only {MAGIC} is supported")]
    Magic {
        /// The byte found.
        magic: i8,
    },
    /// The batch is shorter than a header.
    #[error("length is {length}, at least 49 is needed")]
    Length {
        /// The field's value.
        length: i32,
    },
    /// A count is below zero.
    #[error("{field} is {value}")]
    Negative {
        /// The header's field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// The bytes have changed since they were written.
    #[error("the CRC-32C is {computed:#010x}, the header says {stored:#010x}")]
    Crc {
        /// The header's CRC.
        stored: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// The records cannot be read before they are decompressed.
    #[error("the records are compressed (attributes {attributes:#06x})")]
    Compressed {
        /// The header's attributes.
        attributes: i16,
    },
    /// A record is impossible.
    #[error("record {index}, {at} bytes after the header: {problem}")]
    Record {
        /// Counted from 0.
        index: i32,
        /// Where the record begins, in bytes of the (decompressed) body.
        at: usize,
        /// Why it is impossible.
        problem: &'static str,
    },
}

impl BatchError {
    /// Whether more bytes may make it sound.
    pub fn is_incomplete(&self) -> bool {
        matches!(self, BatchError::Incomplete { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, NewRecord};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(NewRecord { timestamp_ms: 7, value: Some(b"v"), ..NewRecord::default() });
        builder.finish()
    }

    #[test]
    fn a_header_is_its_61_bytes_and_back() {
        let bytes = batch();
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!(header.to_array()[..], bytes[..HEADER_LEN]);
        assert_eq!(header.len_bytes(), bytes.len());
    }

    #[test]
    fn too_few_bytes_are_incomplete_and_not_corrupt() {
        let bytes = batch();
        for have in 0..HEADER_LEN {
            let error = BatchHeader::parse(&bytes[..have]).unwrap_err();
            assert!(error.is_incomplete(), "{have} bytes: {error}");
        }
    }

    #[test]
    fn an_old_message_format_is_named_by_its_number() {
        let mut bytes = batch();
        bytes[MAGIC_AT] = 1;
        assert_eq!(BatchHeader::parse(&bytes[..30]), Err(BatchError::Magic { magic: 1 }));
    }

    #[test]
    fn lengths_and_counts_that_cannot_be_are_refused() {
        for (at, value, field) in
            [(8, 48, "length"), (8, -1, "length"), (23, -1, "last"), (57, -9, "count")]
        {
            let mut bytes = batch();
            bytes[at..at + 4].copy_from_slice(&i32::to_be_bytes(value));
            let error = BatchHeader::parse(&bytes).unwrap_err();
            assert!(error.to_string().contains(field) && !error.is_incomplete(), "{error}");
        }
    }
}
