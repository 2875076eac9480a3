//! Batches to produce, and records of fetched bytes.

use bytes::Bytes;
use penstock_batch::{BatchBuilder, Batches, NewRecord, check_crc};
use penstock_wire::Records;
use penstock_wire::messages::PartitionData;

/// One uncompressed batch with these values, all with one timestamp.
pub fn batch_at<V: AsRef<[u8]>>(timestamp_ms: i64, values: &[V]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(NewRecord {
            timestamp_ms,
            value: Some(value.as_ref()),
            ..NewRecord::default()
        });
    }
    builder.finish().into()
}

/// One uncompressed batch with these values.
pub fn batch<V: AsRef<[u8]>>(values: &[V]) -> Bytes {
    batch_at(1_700_000_000_000, values)
}

/// One batch of about this size in bytes.
pub fn batch_of(len_bytes: usize) -> Bytes {
    batch(&[vec![b'x'; len_bytes]])
}

/// The record bytes of a fetched partition.
pub fn bytes_of(partition: &PartitionData) -> Bytes {
    match &partition.records {
        Records::Bytes(bytes) => bytes.clone().unwrap_or_default(),
        Records::Slot(_) => panic!("a decoded answer has no slots"),
    }
}

/// Offset and value of every record from `from` on in the whole batches of `bytes`. A cut batch at
/// the end is left out, as clients do. Panics over a wrong CRC.
pub fn records_from(bytes: &[u8], from: i64) -> Vec<(i64, Vec<u8>)> {
    let mut records = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = match batch {
            Ok((_, batch)) => batch,
            Err(error) if error.is_incomplete() => break,
            Err(error) => panic!("not a batch: {error}"),
        };
        check_crc(batch).expect("the CRC of a fetched batch holds");
        for record in penstock_batch::records(batch).expect("uncompressed") {
            let record = record.expect("a sound record");
            if record.offset >= from {
                records.push((record.offset, record.value.unwrap_or_default().to_vec()));
            }
        }
    }
    records
}
