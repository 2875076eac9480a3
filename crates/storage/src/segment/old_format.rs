//! Recognises messages of before 2017 (Kafka 0.11), which are not served. Called by recovery, by
//! the scrubber and by `penstock dump`.
//!
//! ```text
//!   offset 8 │ length 4 │ crc 4 │ magic 1 │ attributes 1 │ timestamp 8, magic 1 only │ key │ value
//! ```
//!
//! Key and value are a length of four bytes, -1 for null, and as many bytes. A torn batch, of which
//! only the first bytes reached the disk, has a length and a magic of 0, too. So bytes are an old
//! message only if all its lengths agree.
//!
//! Old formats come first in a log, as old Kafkas did: the old segments are the oldest ones, up to
//! the last that begins with an old message. The others are served. Of the old segments some bytes
//! are read; nothing is changed or removed.

use std::{collections::BTreeSet, io};

use penstock_batch::MAGIC;

use crate::{
    disk::{Directory, DiskFile},
    error::LogError,
    segment::listing::{LOG, list_segments, segment_file},
    units::Offset,
};

const LENGTH_AT: u64 = 8;
const MAGIC_AT: u64 = 16;
/// The place in a batch of format 2.
const LAST_OFFSET_DELTA_AT: u64 = 23;

/// The oldest segments of a log, if they are of an old format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldSegments {
    /// The format of the first one: 0 or 1.
    pub magic: i8,
    /// How many there are.
    pub segments: u64,
    /// Their first offset, or the log start if that is higher.
    pub first: Offset,
    /// The base offset of the first segment that is served. `None`: there is none.
    pub served_from: Option<Offset>,
}

impl OldSegments {
    /// The old segments of a directory. Blocks: reads the first bytes of the oldest segment, and of
    /// all only if that one is old.
    pub fn of(dir: impl Into<Directory>) -> Result<Option<OldSegments>, LogError> {
        let dir = dir.into();
        OldSegments::among(&dir, &list_segments(&dir)?.segments)
    }

    pub(crate) fn among(
        dir: &Directory,
        bases: &BTreeSet<Offset>,
    ) -> Result<Option<OldSegments>, LogError> {
        let mut old: Option<OldSegments> = None;
        for (n, base) in bases.iter().enumerate() {
            let path = segment_file(dir, *base, LOG);
            let log = dir.disk().open(&path).map_err(LogError::io(&path))?;
            let file_bytes = log.len_bytes().map_err(LogError::io(&path))?;
            match magic(&*log, 0, file_bytes).map_err(LogError::io(&path))? {
                Some(magic) => {
                    let first = old.map_or(*base, |old| old.first);
                    let magic = old.map_or(magic, |old| old.magic);
                    let segments = n as u64 + 1;
                    old = Some(OldSegments { magic, segments, first, served_from: None });
                }
                None if file_bytes > 0 && old.is_none() => return Ok(None),
                None => {}
            }
        }
        let served_from = |old: &OldSegments| bases.iter().nth(old.segments as usize).copied();
        Ok(old.map(|old| OldSegments { served_from: served_from(&old), ..old }))
    }

    /// Whether the segment with that base offset is an old one.
    pub fn holds(&self, base: Offset) -> bool {
        self.served_from.is_none_or(|served| base < served)
    }

    /// Whether a message in the old segments may have the offset.
    pub(crate) fn has(&self, offset: Offset) -> bool {
        self.first <= offset && self.holds(offset)
    }
}

/// The magic of the old message that begins at `at`, if one does. Blocks.
pub(crate) fn magic(log: &dyn DiskFile, at: u64, file_bytes: u64) -> io::Result<Option<i8>> {
    let message = Message { log, at, file_bytes };
    let Some(length) = message.number(LENGTH_AT)? else { return Ok(None) };
    let magic = message.magic()?;
    let end = match magic {
        Some(0) => message.end_of_fields(MAGIC_AT + 2)?,
        Some(1) => message.end_of_fields(MAGIC_AT + 2 + 8)?,
        _ => None,
    };
    let says = i64::from(length) + LENGTH_AT as i64 + 4;
    let fits = |end| end as i64 == says && end <= file_bytes - at;
    Ok(magic.filter(|_| end.is_some_and(fits)))
}

/// The offset behind the last message of a file that begins with an old message. `None` unless
/// messages, or batches, fill the file to its last byte. Blocks for some reads a message.
pub(crate) fn end(log: &dyn DiskFile, base: Offset, file_bytes: u64) -> io::Result<Option<Offset>> {
    if magic(log, 0, file_bytes)?.is_none() {
        return Ok(None);
    }
    let (mut at, mut lowest) = (0, base.0);
    while at < file_bytes {
        let message = Message { log, at, file_bytes };
        let (Some(length), Some(offset)) = (message.number(LENGTH_AT)?, message.offset()?) else {
            return Ok(None);
        };
        let delta = match (magic(log, at, file_bytes)?, message.magic()?) {
            (Some(_), _) => Some(0),
            (None, Some(MAGIC)) => message.number(LAST_OFFSET_DELTA_AT)?,
            _ => None,
        };
        let last =
            delta.filter(|delta| *delta >= 0).map(|delta| offset.saturating_add(delta.into()));
        let Some(last) = last.filter(|_| offset >= lowest && length > 0) else { return Ok(None) };
        lowest = last.saturating_add(1);
        at += LENGTH_AT + 4 + length as u64;
    }
    Ok((at == file_bytes).then_some(Offset(lowest)))
}

/// The message that begins at `at`. Places of its fields count from there.
struct Message<'a> {
    log: &'a dyn DiskFile,
    at: u64,
    file_bytes: u64,
}

impl Message<'_> {
    fn magic(&self) -> io::Result<Option<i8>> {
        Ok(self.number(MAGIC_AT - 3)?.map(|number| number as i8))
    }

    fn offset(&self) -> io::Result<Option<i64>> {
        let (high, low) = (self.number(0)?, self.number(4)?);
        let whole = |(high, low): (i32, i32)| i64::from(high) << 32 | i64::from(low as u32);
        Ok(high.zip(low).map(whole))
    }

    /// The end of key and value, of which the key begins at `key_at`.
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
        let at = self.at + at;
        if at + 4 > self.file_bytes {
            return Ok(None);
        }
        let mut bytes = [0; 4];
        self.log.read_exact_at(&mut bytes, at)?;
        Ok(Some(i32::from_be_bytes(bytes)))
    }
}
