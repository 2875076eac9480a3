//! Tells a segment of before 2017 from one that a power cut left with a torn head. Called by recovery when
//! a segment does not begin with a batch.
//!
//! ```text
//!   offset 8 │ length 4 │ crc 4 │ magic 1 │ attributes 1 │ timestamp 8, magic 1 only │ key │ value
//! ```
//!
//! Key and value are a length of four bytes, -1 for null, and as many bytes. A batch of which only the first
//! bytes reached the disk has a length and a magic of 0, too; it is only an old message if all its lengths agree.

use std::io;

use crate::DiskFile;

const LENGTH_AT: u64 = 8;
const MAGIC_AT: u64 = 16;

/// The magic of the old message that the file begins with, if it does. Blocks.
pub(crate) fn magic(log: &dyn DiskFile, file_bytes: u64) -> io::Result<Option<i8>> {
    let message = Message { log, file_bytes };
    let Some(length) = message.number(LENGTH_AT)? else { return Ok(None) };
    let magic = message.number(MAGIC_AT - 3)?.map(|number| number as i8);
    let end = match magic {
        Some(0) => message.end_of_fields(MAGIC_AT + 2)?,
        Some(1) => message.end_of_fields(MAGIC_AT + 2 + 8)?,
        _ => None,
    };
    let says = i64::from(length) + LENGTH_AT as i64 + 4;
    Ok(magic.filter(|_| end.is_some_and(|end| end as i64 == says && end <= file_bytes)))
}

struct Message<'a> {
    log: &'a dyn DiskFile,
    file_bytes: u64,
}

impl Message<'_> {
    /// Where key and value, of which the first begins there, end.
    fn end_of_fields(&self, key_at: u64) -> io::Result<Option<u64>> {
        match self.end_of_field(key_at)? {
            Some(value_at) => self.end_of_field(value_at),
            None => Ok(None),
        }
    }

    fn end_of_field(&self, at: u64) -> io::Result<Option<u64>> {
        let len = self.number(at)?.filter(|len| *len >= -1);
        Ok(len.map(|len| at + 4 + len.max(0) as u64))
    }

    /// `None` where the file has ended.
    fn number(&self, at: u64) -> io::Result<Option<i32>> {
        if at + 4 > self.file_bytes {
            return Ok(None);
        }
        let mut bytes = [0; 4];
        self.log.read_exact_at(&mut bytes, at)?;
        Ok(Some(i32::from_be_bytes(bytes)))
    }
}
