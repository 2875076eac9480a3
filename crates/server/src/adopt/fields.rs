//! Decodes Kafka's schema types from a slice: the fields of metadata records and of commit records.
//!
//! Every length is checked against the bytes left before it is believed. An error is a short
//! phrase; the caller adds file and position.
//! words; the caller knows the file and the place.

use penstock_batch::varint;
use penstock_storage::TopicId;

/// The undecoded rest of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

/// A field, or the error.
pub(super) type Taken<T> = Result<T, &'static str>;

const CUT: &str = "the record ends inside a field";
const NULL: &str = "a field is null that may not be";
const NEGATIVE: &str = "a length is negative";
const NOT_UTF8: &str = "a string is not UTF-8";

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    fn bytes(&mut self, len_bytes: usize) -> Taken<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len_bytes).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Taken<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CUT)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn i8(&mut self) -> Taken<i8> {
        self.array().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Taken<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Taken<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Taken<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn topic_id(&mut self) -> Taken<TopicId> {
        self.array().map(TopicId)
    }

    pub(super) fn unsigned_varint(&mut self) -> Taken<u32> {
        varint::take_u32(&mut self.0).ok_or("a variable-length integer is cut or too long")
    }

    /// A string of a version that is not flexible: its length is an int16.
    pub(super) fn string(&mut self) -> Taken<&'a str> {
        let len_bytes = usize::try_from(self.i16()?).map_err(|_| NEGATIVE)?;
        self.bytes(len_bytes).and_then(utf8)
    }

    pub(super) fn compact_string(&mut self) -> Taken<&'a str> {
        self.compact_nullable_string()?.ok_or(NULL)
    }

    pub(super) fn compact_nullable_string(&mut self) -> Taken<Option<&'a str>> {
        match self.compact_length()? {
            None => Ok(None),
            Some(len_bytes) => self.bytes(len_bytes).and_then(utf8).map(Some),
        }
    }

    /// `None` is null.
    pub(super) fn compact_i32s(&mut self) -> Taken<Option<Vec<i32>>> {
        let Some(count) = self.compact_length()? else { return Ok(None) };
        let bytes = self.bytes(count.checked_mul(4).ok_or(CUT)?)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(Some(numbers.iter().map(|number| i32::from_be_bytes(*number)).collect()))
    }

    fn compact_length(&mut self) -> Taken<Option<usize>> {
        Ok((self.unsigned_varint()? as usize).checked_sub(1))
    }

    /// The value of one tagged field, if present; others are skipped.
    pub(super) fn tagged(&mut self, wanted: u32) -> Taken<Option<Fields<'a>>> {
        let mut found = None;
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let len_bytes = self.unsigned_varint()? as usize;
            let value = self.bytes(len_bytes)?;
            if tag == wanted {
                found = Some(Fields(value));
            }
        }
        Ok(found)
    }
}

fn utf8(bytes: &[u8]) -> Taken<&str> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_record_is_refused_and_nothing_is_reserved() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[9, b'a']] {
            assert_eq!(Fields::new(bytes).compact_string(), Err(CUT));
            assert_eq!(Fields::new(bytes).compact_i32s(), Err(CUT));
        }
        assert_eq!(Fields::new(&[0x7f, 0xff, b'a']).string(), Err(CUT));
        assert_eq!(Fields::new(&[0xff, 0xff]).string(), Err(NEGATIVE));
        assert_eq!(Fields::new(&[1, 0, 9, b'a']).tagged(0).unwrap_err(), CUT);
    }

    #[test]
    fn null_and_empty_are_two_things() {
        assert_eq!(Fields::new(&[0]).compact_nullable_string(), Ok(None));
        assert_eq!(Fields::new(&[1]).compact_nullable_string(), Ok(Some("")));
        assert_eq!(Fields::new(&[0]).compact_string(), Err(NULL));
        assert_eq!(Fields::new(&[2, 0xff]).compact_string(), Err(NOT_UTF8));
    }

    #[test]
    fn a_tagged_field_is_found_among_others() {
        let mut fields = Fields::new(&[2, 0, 1, 7, 2, 2, 1, 9, 5]);
        assert_eq!(fields.tagged(2).unwrap().unwrap().i16(), Ok(0x0109));
        assert_eq!(fields.i8(), Ok(5));
    }
}
