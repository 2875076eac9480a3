//! Reads a segment file on its own, batch by batch, for `penstock dump`.

use std::{io, path::Path};

use crate::{
    damage::Damage,
    disk::{Disk, DiskFile, Files},
    segment::{
        batch_place::HeaderWalk,
        old_format,
        scan::{Scan, Scanned},
    },
    units::{Offset, Position},
};

/// A reader of one segment file. It goes on behind damage.
#[derive(Debug)]
pub struct SegmentReader {
    file: Box<dyn DiskFile>,
    base: Offset,
    size_bytes: u64,
    scan: Scan,
}

/// A piece of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentPiece {
    /// A whole batch whose CRC is right.
    Batch {
        /// Its first byte.
        position: Position,
        /// All its bytes.
        bytes: Vec<u8>,
    },
    /// No sound batch, but one follows.
    Damage(Damage),
    /// Nothing is sound up to the end of the file. Its `end` is not known, and equals `first`.
    End(Damage),
}

impl SegmentReader {
    /// Opens a file. Its name gives the base offset, or 0 if it has none. Blocks.
    pub fn open(path: &Path) -> io::Result<SegmentReader> {
        let file = Files.open(path)?;
        let size_bytes = file.len_bytes()?;
        let name = path.file_stem().and_then(|name| name.to_str());
        let base = Offset(name.and_then(|name| name.parse().ok()).filter(|n| *n >= 0).unwrap_or(0));
        let walk = HeaderWalk::new(base, Position(0), Position(size_bytes));
        Ok(SegmentReader { file, base, size_bytes, scan: Scan::new(base, walk, Offset(0)) })
    }

    /// The magic of the old message that the file begins with, if it does. Such segments cannot be
    /// read. Blocks.
    pub fn old_magic(&self) -> io::Result<Option<i8>> {
        old_format::magic(&*self.file, 0, self.size_bytes)
    }

    /// Bytes of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The next piece; `None` at the end. Blocks.
    pub fn read(&mut self) -> io::Result<Option<SegmentPiece>> {
        let position = self.scan.position();
        if position.0 >= self.size_bytes {
            return Ok(None);
        }
        Ok(Some(match self.scan.next(&*self.file)? {
            Scanned::Batch(_, place) => {
                let mut bytes = vec![0; place.len_bytes as usize];
                self.file.read_exact_at(&mut bytes, position.0)?;
                SegmentPiece::Batch { position, bytes }
            }
            Scanned::Damage(damage) => SegmentPiece::Damage(damage),
            Scanned::Tail => {
                let (first, len_bytes) = (self.scan.lowest(), self.size_bytes - position.0);
                self.size_bytes = position.0;
                let segment = self.base;
                SegmentPiece::End(Damage { segment, position, len_bytes, first, end: first })
            }
        }))
    }
}
