//! Reads batches off a segment file with plain blocking reads: recovery's and rebuilding's eyes.

use std::io;

use penstock_batch::{BatchHeader, HEADER_LEN, crc_is_valid};

use crate::{
    DiskFile, Position,
    batch_place::{BatchPlace, HeaderWalk, Seen},
};

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Headers only: for what was written by somebody who finished.
    Headers,
    /// Every byte against its CRC.
    Checksums,
}

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// End of the last whole sound batch.
    pub(crate) end: Position,
    pub(crate) read_bytes: u64,
}

/// Visits batch after batch until the walk's end, or the first that is not whole and sound.
pub(crate) fn scan(
    file: &dyn DiskFile,
    mut walk: HeaderWalk,
    end: Position,
    depth: Depth,
    mut visit: impl FnMut(&BatchHeader, &BatchPlace),
) -> io::Result<Scanned> {
    let chunk_bytes = match depth {
        Depth::Headers => 4096 + HEADER_LEN as u64,
        Depth::Checksums => 1 << 20,
    };
    let mut window =
        Window { file, bytes: Vec::new(), at: 0, end: end.0, chunk_bytes, read_bytes: 0 };
    while !walk.is_over() {
        let bytes = window.at(walk.position, HEADER_LEN as u64)?;
        let Seen::Batch(header, place) = walk.look(bytes, walk.position) else { break };
        if depth == Depth::Checksums && !crc_is_valid(window.at(place.position, place.len_bytes)?) {
            break;
        }
        visit(&header, &place);
        walk.step(&place);
    }
    Ok(Scanned { end: walk.position, read_bytes: window.read_bytes })
}

/// A stretch of the file, read ahead.
struct Window<'a> {
    file: &'a dyn DiskFile,
    bytes: Vec<u8>,
    at: u64,
    end: u64,
    chunk_bytes: u64,
    read_bytes: u64,
}

impl Window<'_> {
    /// `len_bytes` from `position` on, or what there is of them before the file's end.
    fn at(&mut self, position: Position, len_bytes: u64) -> io::Result<&[u8]> {
        let until = (position.0 + len_bytes).min(self.end);
        if position.0 < self.at || until > self.at + self.bytes.len() as u64 {
            let wanted = (until - position.0).max(self.chunk_bytes).min(self.end - position.0);
            self.bytes.resize(wanted as usize, 0);
            self.at = position.0;
            self.file.read_exact_at(&mut self.bytes, position.0)?;
            self.read_bytes += wanted;
        }
        Ok(&self.bytes[(position.0 - self.at) as usize..(until - self.at) as usize])
    }
}
