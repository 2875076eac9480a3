//! Builds a batch from records: the producer's side, used by the load generator and by tests.
//!
//! The caller compresses: this crate has no codecs.

use std::convert::Infallible;

use crate::checksum::seal;
use crate::varint::{put_i32, put_i64};
use crate::{BatchHeader, Codec, HEADER_LEN};

/// A record to be written.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `None` is Kafka's null.
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
    /// Keys and values, in order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Collects records and turns them into batches. Its memory is reused from batch to batch.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    body: Vec<u8>,
    record: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: (i64, i16, i32),
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder {
            body: Vec::new(),
            record: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer: (-1, -1, -1),
        }
    }
}

impl BatchBuilder {
    /// An empty batch of a producer without an id.
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Makes the next batch idempotent: `base_sequence` numbers its first record.
    pub fn set_producer(&mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) {
        self.producer = (producer_id, producer_epoch, base_sequence);
    }

    /// Adds a record at the end.
    pub fn push(&mut self, record: NewRecord<'_>) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp_ms;
            self.max_timestamp = record.timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp_ms);
        let timestamp_delta = record.timestamp_ms.wrapping_sub(self.base_timestamp);

        let out = &mut self.record;
        out.clear();
        out.push(0);
        put_i64(out, timestamp_delta);
        put_i32(out, self.count);
        put_nullable(out, record.key);
        put_nullable(out, record.value);
        put_i32(out, record.headers.len() as i32);
        for (key, value) in record.headers {
            put_nullable(out, Some(key.as_bytes()));
            put_nullable(out, *value);
        }
        put_i32(&mut self.body, self.record.len() as i32);
        self.body.extend_from_slice(&self.record);
        self.count += 1;
    }

    /// Records since the last batch.
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes that the batch would have uncompressed.
    pub fn len_bytes(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Returns the batch, uncompressed, and empties the builder.
    pub fn finish(&mut self) -> Vec<u8> {
        let copy = |body: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(body);
            Ok::<(), Infallible>(())
        };
        match self.finish_with(Codec::None, copy) {
            Ok(batch) => batch,
            Err(never) => match never {},
        }
    }

    /// Returns the batch with its body compressed: `compress(body, out)` appends to `out` in the
    /// form of `codec`. If it fails, the records stay in the builder.
    pub fn finish_with<E>(
        &mut self,
        codec: Codec,
        compress: impl FnOnce(&[u8], &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let mut batch = Vec::with_capacity(self.len_bytes());
        batch.resize(HEADER_LEN, 0);
        compress(&self.body, &mut batch)?;
        let length = i32::try_from(batch.len() - 12).expect("a batch is below 2 GiB");
        batch[..HEADER_LEN].copy_from_slice(&self.header(codec, length).to_array());
        seal(&mut batch);
        self.body.clear();
        self.count = 0;
        Ok(batch)
    }

    fn header(&self, codec: Codec, length: i32) -> BatchHeader {
        let (producer_id, producer_epoch, base_sequence) = self.producer;
        BatchHeader {
            base_offset: 0,
            length,
            leader_epoch: -1,
            crc: 0,
            attributes: codec as i16,
            last_offset_delta: (self.count - 1).max(0),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count: self.count,
        }
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_i32(out, -1),
        Some(bytes) => {
            put_i32(out, i32::try_from(bytes.len()).expect("a field is below 2 GiB"));
            out.extend_from_slice(bytes);
        }
    }
}
