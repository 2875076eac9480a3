//! The records of a batch whose body is not, or no longer, compressed.
//!
//! ```text
//! record:  length · attributes i8 · timestamp delta · offset delta · key length · key ·
//!          value length · value · header count · headers      (numbers are zigzag varints;
//! header:  key length · key · value length · value             -1 as a length is null)
//! ```
//!
//! A record borrows from the body. It is checked before it is returned.

use crate::varint::{take_i32, take_i64};
use crate::{BatchError, BatchHeader, Codec, HEADER_LEN, TimestampType};

/// Iterates over the records of `batch`, one whole batch that is not compressed.
pub fn records(batch: &[u8]) -> Result<Records<'_>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let need_bytes = header.len_bytes();
    let body = batch
        .get(HEADER_LEN..need_bytes)
        .ok_or(BatchError::Incomplete { have_bytes: batch.len(), need_bytes })?;
    if header.codec() != Some(Codec::None) {
        return Err(BatchError::Compressed { attributes: header.attributes });
    }
    Ok(Records::new(&header, body))
}

/// One record, borrowed from its batch.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Its place in the log.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `None` is Kafka's null.
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's null, a tombstone in compacted topics.
    pub value: Option<&'a [u8]>,
    /// Headers in the order in which they were written.
    pub headers: Headers<'a>,
}

/// One header of a record: `key` is UTF-8 by convention only, so it is bytes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// May repeat within a record.
    pub key: &'a [u8],
    /// `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
}

/// Iterates over the records of a batch. Ends after the last one or after one error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    body: &'a [u8],
    rest: &'a [u8],
    base_offset: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
    index: i32,
    count: i32,
}

impl<'a> Records<'a> {
    /// `body` is the decompressed rest of the batch behind the header.
    pub fn new(header: &BatchHeader, body: &'a [u8]) -> Records<'a> {
        let append_time = (header.timestamp_type() == TimestampType::LogAppendTime)
            .then_some(header.max_timestamp);
        Records {
            body,
            rest: body,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time,
            index: 0,
            count: header.record_count,
        }
    }

    /// Bytes of the records so far, which is where the next one begins in the body.
    pub(crate) fn read_bytes(&self) -> usize {
        self.body.len() - self.rest.len()
    }

    #[inline]
    fn take(&mut self) -> Result<Record<'a>, &'static str> {
        let length = take_i32(&mut self.rest).ok_or("its length is cut or too long")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let (mut record, rest) =
            self.rest.split_at_checked(length).ok_or("it is longer than what is left")?;
        self.rest = rest;
        self.parse(&mut record).and_then(|parsed| match record {
            [] => Ok(parsed),
            _ => Err("bytes are left over in it"),
        })
    }

    #[inline]
    fn parse(&self, record: &mut &'a [u8]) -> Result<Record<'a>, &'static str> {
        take_bytes(record, 1).ok_or("its attributes are missing")?;
        let timestamp_delta = take_i64(record).ok_or("its timestamp delta is cut or too long")?;
        let offset_delta = take_i32(record).ok_or("its offset delta is cut or too long")?;
        let key = take_nullable(record).ok_or("its key is cut")?;
        let value = take_nullable(record).ok_or("its value is cut")?;
        let headers = Headers::take(record).ok_or("its headers are cut")?;
        Ok(Record {
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp_ms: self
                .append_time
                .unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (index, at) = (self.index, self.read_bytes());
        let taken = if self.index < self.count {
            self.take()
        } else if !self.rest.is_empty() {
            Err("it is one more than the header counts")
        } else {
            return None;
        };
        self.index += 1;
        if taken.is_err() {
            self.count = 0;
            self.rest = &[];
        }
        Some(taken.map_err(|problem| BatchError::Record { index, at, problem }))
    }
}

/// The headers of one record.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Headers<'a> {
    /// Takes the headers off the record, and checks each, so that iterating cannot fail.
    #[inline]
    fn take(record: &mut &'a [u8]) -> Option<Headers<'a>> {
        let left = usize::try_from(take_i32(record)?).ok()?;
        let headers = Headers { rest: record, left };
        for _ in 0..left {
            take_header(record)?;
        }
        Some(headers)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        take_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn take_header<'a>(input: &mut &'a [u8]) -> Option<Header<'a>> {
    let key = take_nullable(input)??;
    let value = take_nullable(input)?;
    Some(Header { key, value })
}

/// `None`: cut. `Some(None)`: null.
#[inline]
fn take_nullable<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match take_i32(input)? {
        -1 => Some(None),
        length => take_bytes(input, usize::try_from(length).ok()?).map(Some),
    }
}

#[inline]
fn take_bytes<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, NewRecord};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for value in ["one", "two"] {
            builder.push(NewRecord {
                timestamp_ms: 5,
                key: Some(b"k"),
                value: Some(value.as_bytes()),
                headers: &[("h", Some(b"1")), ("h", None)],
            });
        }
        builder.finish()
    }

    #[test]
    fn the_header_counting_fewer_or_more_records_than_there_are_is_an_error() {
        for count in [0u8, 1, 3] {
            let mut bytes = batch();
            bytes[HEADER_LEN - 1] = count;
            let last = records(&bytes).unwrap().last().unwrap();
            assert!(matches!(last, Err(BatchError::Record { .. })), "{count}: {last:?}");
        }
    }

    #[test]
    fn a_body_cut_anywhere_gives_an_error_and_then_ends() {
        let bytes = batch();
        let header = BatchHeader::parse(&bytes).unwrap();
        for end in HEADER_LEN..bytes.len() {
            let mut records = Records::new(&header, &bytes[HEADER_LEN..end]);
            assert!(records.by_ref().any(|record| record.is_err()), "cut at {end}");
            assert!(records.next().is_none());
        }
    }

    #[test]
    fn a_compressed_body_is_not_read_as_records() {
        let mut bytes = batch();
        bytes[22] = 4;
        assert_eq!(records(&bytes).unwrap_err(), BatchError::Compressed { attributes: 4 });
    }
}
