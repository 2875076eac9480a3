//! Reading a file whole without leaving a trace in the page cache: what was cached stays, what was
//! not goes.
//!
//! A scrubber reads everything. Did it leave all that there, it would push out what others read;
//! did it drop all that, it would take theirs away. So each piece is first read by a call that
//! refuses to wait for the disk; only a piece that it does not get whole is read from there, and
//! dropped again. Where there are no such calls (tmpfs, overlayfs, FUSE) nothing is dropped: it
//! could be what others read.

use std::{fs::File, io, io::IoSliceMut, num::NonZeroU64, sync::Arc};

use rustix::{
    fs::{Advice, fadvise},
    io::{Errno, ReadWriteFlags, preadv2},
};

use crate::disk::DiskFile;

/// Cached wholly or not: so much of others' is dropped at most beside what they have not cached.
const PIECE_BYTES: usize = 64 << 10;

/// A file that is only read.
#[derive(Debug)]
pub(crate) struct QuietFile(Box<dyn DiskFile>);

impl QuietFile {
    /// The file must not be read by others through the same handle.
    pub(crate) fn new(file: Box<dyn DiskFile>) -> QuietFile {
        // Or the kernel would read ahead, and what it did would pass for cached by others.
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
            // Advice: where it is not taken, pages stay.
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
