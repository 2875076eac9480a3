//! Hand-made batches and fields for the tests of both readers.

use std::path::Path;

use bytes::BufMut;
use penstock_batch::{BatchBuilder, NewRecord, assign, varint};

pub(super) const TRANSACTIONAL: i16 = 1 << 4;
pub(super) const CONTROL: i16 = 1 << 5;

/// Key and value.
pub(super) type KeyValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// One sound batch at an offset.
pub(super) fn batch(
    base_offset: i64,
    attributes: i16,
    producer: i64,
    records: &[KeyValue],
) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.set_producer(producer, 0, -1);
    for (key, value) in records {
        let (key, value) = (key.as_deref(), value.as_deref());
        builder.push(NewRecord { timestamp_ms: 1, key, value, headers: &[] });
    }
    let mut batch = builder.finish();
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc_fast::crc32_iscsi(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    assign(&mut batch, base_offset, 0);
    batch
}

/// A control record's key: version 0 and a type.
pub(super) fn control_key(kind: i16) -> Option<Vec<u8>> {
    Some([[0, 0], kind.to_be_bytes()].concat())
}

pub(super) fn compact_string(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::put_u32(&mut bytes, text.len() as u32 + 1);
    bytes.put_slice(text.as_bytes());
    bytes
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes(), text.as_bytes()].concat()
}

/// A segment, named for the offset it begins at.
pub(super) fn write_segment(directory: &Path, base_offset: i64, batches: &[Vec<u8>]) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join(format!("{base_offset:020}.log")), batches.concat()).unwrap();
}
