//! Reads a whole file and leaves the page cache as it was: cached pages stay, other pages are
//! dropped again.
//!
//! A scrubber reads everything. If it left all pages in the cache, it would push out those of
//! consumers; if it dropped all, it would drop theirs. So each piece is first read by a call that
//! refuses to wait for the disk. A piece that this call does not read whole is read from the disk,
//! and dropped again. Where there is no such call (tmpfs, overlayfs, FUSE) nothing is dropped: it
//! could be a consumer's.

use std::{fs::File, io, io::IoSliceMut, num::NonZeroU64, sync::Arc};

use rustix::{
    fs::{Advice, fadvise},
    io::{Errno, ReadWriteFlags, preadv2},
};

use crate::disk::DiskFile;

/// A piece counts as cached wholly or not at all. So at most so many bytes of a consumer's pages
/// are dropped with pages that were not cached.
const PIECE_BYTES: usize = 64 << 10;

/// A file that is only read.
#[derive(Debug)]
pub(crate) struct QuietFile(Box<dyn DiskFile>);

impl QuietFile {
    /// No one else may read the file through the same handle.
    pub(crate) fn new(file: Box<dyn DiskFile>) -> QuietFile {
        // Otherwise the kernel would read ahead, and those pages would pass for a consumer's.
        let _ = fadvise(&**file.handle(), 0, None, Advice::Random);
        QuietFile(file)
    }

    fn read_piece(&self, piece: &mut [u8], position: u64) -> io::Result<()> {
        let (file, len_bytes) = (&**self.0.handle(), piece.len());
        let read = preadv2(file, &mut [IoSliceMut::new(piece)], position, ReadWriteFlags::NOWAIT);
        if read == Ok(len_bytes) {
            return Ok(());
        }
        self.0.read_exact_at(piece, position)?;
        if matches!(read, Ok(_) | Err(Errno::AGAIN)) {
            // This is advice. Where it is not taken, pages stay.
            let _ = fadvise(file, position, NonZeroU64::new(len_bytes as u64), Advice::DontNeed);
        }
        Ok(())
    }
}

impl DiskFile for QuietFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut at = position;
        buffer.chunks_mut(PIECE_BYTES).try_for_each(|piece| {
            self.read_piece(piece, at)?;
            at += piece.len() as u64;
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn handle(&self) -> &Arc<File> {
        self.0.handle()
    }
}
