//! Reads the journal record by record, and goes on behind bytes that are no record.
//!
//! ```text
//!   [ sound ][ sound ][ unsound      ][ sound ][ sound ]│[ torn, garbage or zeros ]
//!                      └ skipped: 1. as far as its length says, if a sound record is there
//!                                 2. else byte by byte, to the next one of a known kind
//! ```
//!
//! Records do not depend on one another, so records behind a damaged one are valid. Called by
//! journal when it opens the file. A claimed length is believed only as far as the file goes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::record::{KINDS, PREFIX_BYTES, decode};

/// The size of one read in a search for the next record.
const WINDOW_BYTES: usize = 64 * 1024;

/// The most bytes that are read in vain behind damage. It bounds the time of a start on a file full
/// of false records.
const IN_VAIN_MAX_BYTES: u64 = 128 * 1024 * 1024;

pub(super) struct Records<'a> {
    file: &'a File,
    reader: BufReader<&'a File>,
    /// The position of the next record.
    position: u64,
    end: u64,
    in_vain_bytes: u64,
}

/// A sound record.
pub(super) struct Record {
    /// The body, of any kind, never empty.
    pub(super) body: Vec<u8>,
    pub(super) position: u64,
    /// Bytes before it that are no record.
    pub(super) skipped_bytes: u64,
}

impl<'a> Records<'a> {
    /// All records in the file's first `end` bytes.
    pub(super) fn of(file: &'a File, end: u64) -> Records<'a> {
        Records { file, reader: BufReader::new(file), position: 0, end, in_vain_bytes: 0 }
    }

    /// The position behind the last sound record.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next sound record; `None` if there is none.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let from = self.position;
        let found = match self.body_here(from)? {
            Some(body) => Some((from, body)),
            None => self.search_behind(from)?,
        };
        let Some((position, body)) = found else { return Ok(None) };
        self.position = position + (PREFIX_BYTES + body.len()) as u64;
        Ok(Some(Record { body, position, skipped_bytes: position - from }))
    }

    fn search_behind(&mut self, from: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut prefix = [0; PREFIX_BYTES];
        if self.end - from < PREFIX_BYTES as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut prefix, from)?;
        let behind = from + PREFIX_BYTES as u64 + u64::from(length_in(&prefix));
        if let Some(body) = self.body_at(behind)? {
            return Ok(Some((behind, body)));
        }
        self.search_bytes(from + 1)
    }

    fn search_bytes(&mut self, mut from: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        const SHORTEST: usize = PREFIX_BYTES + 1;
        let mut window = vec![0; WINDOW_BYTES];
        while self.end - from >= SHORTEST as u64 {
            let len_bytes = (self.end - from).min(WINDOW_BYTES as u64) as usize;
            self.file.read_exact_at(&mut window[..len_bytes], from)?;
            for (at, head) in window[..len_bytes].windows(SHORTEST).enumerate() {
                if !KINDS.contains(&head[PREFIX_BYTES]) || length_in(head) == 0 {
                    continue;
                }
                let position = from + at as u64;
                if let Some(body) = self.body_at(position)?.filter(|body| decode(body).is_some()) {
                    return Ok(Some((position, body)));
                }
                if self.in_vain_bytes > IN_VAIN_MAX_BYTES {
                    return Ok(None);
                }
            }
            from += (len_bytes - SHORTEST + 1) as u64;
        }
        Ok(None)
    }

    /// The body of a sound record at any position. The reader stands behind it then.
    fn body_at(&mut self, position: u64) -> io::Result<Option<Vec<u8>>> {
        if position >= self.end {
            return Ok(None);
        }
        self.reader.seek(SeekFrom::Start(position))?;
        let body = self.body_here(position)?;
        if body.is_none() {
            let claimed_bytes = self.reader.stream_position()? - position;
            self.in_vain_bytes += claimed_bytes;
        }
        Ok(body)
    }

    /// The body at the reader's own position, which is `position`.
    fn body_here(&mut self, position: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(left_bytes) = (self.end - position).checked_sub(PREFIX_BYTES as u64) else {
            return Ok(None);
        };
        let mut prefix = [0; PREFIX_BYTES];
        self.reader.read_exact(&mut prefix)?;
        let len_bytes = length_in(&prefix);
        // A file that a power cut left full of zeros claims empty records with a valid CRC.
        if len_bytes == 0 || u64::from(len_bytes) > left_bytes {
            return Ok(None);
        }
        let mut body = vec![0; len_bytes as usize];
        self.reader.read_exact(&mut body)?;
        let [_, _, _, _, crc @ ..] = prefix;
        let is_sound = crc_fast::crc32_iscsi(&body) == u32::from_be_bytes(crc);
        Ok(is_sound.then_some(body))
    }
}

/// The length of the body, from a record's first four bytes.
fn length_in(head: &[u8]) -> u32 {
    u32::from_be_bytes([head[0], head[1], head[2], head[3]])
}
