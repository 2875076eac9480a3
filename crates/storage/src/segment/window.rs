//! A stretch of a segment's file, read ahead in chunks. scan.rs and resync.rs look through it;
//! blocks.

use std::io;

use penstock_batch::{BatchHeader, HEADER_LEN, crc_is_valid};

use crate::{
    disk::DiskFile,
    segment::batch_place::{
        BatchPlace, HeaderWalk, Seen, hides_max_timestamp, max_timestamp_of_records,
    },
    units::Position,
};

/// A stretch of a file, read ahead.
#[derive(Debug, Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    at: u64,
    /// Bytes read at once.
    pub(crate) chunk_bytes: u64,
    /// Bytes read so far.
    pub(crate) read_bytes: u64,
}

impl Window {
    pub(crate) fn of<'a>(&'a mut self, file: &'a dyn DiskFile, end: Position) -> WindowOn<'a> {
        WindowOn { window: self, file, end }
    }
}

/// A stretch with its file, up to `end`.
pub(crate) struct WindowOn<'a> {
    window: &'a mut Window,
    file: &'a dyn DiskFile,
    end: Position,
}

impl WindowOn<'_> {
    /// `len_bytes` from `position` on, or as many as there are before the end.
    pub(crate) fn at(&mut self, position: Position, len_bytes: u64) -> io::Result<&[u8]> {
        let Window { bytes, at, chunk_bytes, read_bytes } = &mut *self.window;
        let end = self.end.0.max(position.0);
        let until = (position.0 + len_bytes).min(end);
        if position.0 < *at || until > *at + bytes.len() as u64 {
            let wanted = (until - position.0).max(*chunk_bytes).min(end - position.0);
            bytes.resize(wanted as usize, 0);
            *at = position.0;
            self.file.read_exact_at(bytes, position.0)?;
            *read_bytes += wanted;
        }
        Ok(&bytes[(position.0 - *at) as usize..(until - *at) as usize])
    }

    /// The place of a batch, with the greatest timestamp of its records if the header's is
    /// impossible.
    pub(crate) fn with_true_time(
        &mut self,
        header: &BatchHeader,
        place: BatchPlace,
    ) -> io::Result<BatchPlace> {
        if !hides_max_timestamp(header) {
            return Ok(place);
        }
        let newest_ms = max_timestamp_of_records(self.at(place.position, place.len_bytes)?);
        Ok(BatchPlace { max_timestamp_ms: newest_ms.unwrap_or(place.max_timestamp_ms), ..place })
    }

    /// The batch at the walk's place, if it can follow and its CRC is right. A proven batch needs
    /// no CRC.
    pub(crate) fn sound(
        &mut self,
        walk: &HeaderWalk,
        is_proven: impl Fn(&BatchPlace) -> bool,
    ) -> io::Result<Option<(BatchHeader, BatchPlace)>> {
        let bytes = self.at(walk.position, HEADER_LEN as u64)?;
        let Seen::Batch(header, place) = walk.look(bytes, walk.position) else { return Ok(None) };
        let sound = is_proven(&place) || crc_is_valid(self.at(place.position, place.len_bytes)?);
        Ok(sound.then_some((header, place)))
    }
}
