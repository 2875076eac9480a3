//! An index file of one segment: opened when it is searched, written by flushes.
//!
//! The entries that an append makes stay in memory (`IndexTail::pending`) until an `IndexFlush`,
//! run where blocking is allowed, has put them into the file:
//!
//! ```text
//!   file │ e0 e1 e2 … │           pending │ e3 e4 e5 │
//!         ◀─ flushed ─▶                    ◀ dropped once flushed ▶
//! ```
//!
//! A flush writes fixed entries to fixed places, so flushes may repeat, overlap and finish in any
//! order.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    disk::{Directory, DiskFile, sync_error, write_again},
    segment::{
        index_entry::{Bracket, Entry},
        listing::segment_file,
    },
    units::Offset,
};

/// One index file by name. It takes a descriptor only while it is used.
#[derive(Debug)]
pub(crate) struct IndexFile<E> {
    dir: Arc<Directory>,
    base: Offset,
    entry: PhantomData<E>,
}

impl<E: Entry> IndexFile<E> {
    pub(crate) fn new(dir: Arc<Directory>, base: Offset) -> IndexFile<E> {
        IndexFile { dir, base, entry: PhantomData }
    }

    pub(crate) fn path(&self) -> PathBuf {
        segment_file(&self.dir, self.base, E::SUFFIX)
    }

    /// The file for look-ups to search, and the bytes of its whole entries; `None` if it is
    /// missing.
    pub(crate) fn open(&self) -> io::Result<Option<(Arc<File>, u64)>> {
        Ok(self.open_file()?.map(|(file, len_bytes)| (file.handle().clone(), len_bytes)))
    }

    fn open_file(&self) -> io::Result<Option<(Box<dyn DiskFile>, u64)>> {
        match self.dir.disk().open(&self.path()) {
            Ok(file) => {
                let len_bytes = file.len_bytes()?;
                Ok(Some((file, len_bytes - len_bytes % E::LEN as u64)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entries before the first that is `beyond`: their bytes, and the last of them. Blocks.
    pub(crate) fn read_floor(&self, beyond: impl Fn(E) -> bool) -> io::Result<(u64, Option<E>)> {
        let Some((file, len_bytes)) = self.open_file()? else { return Ok((0, None)) };
        let mut entries = 0..len_bytes / E::LEN as u64;
        let mut floor = None;
        while !entries.is_empty() {
            let middle = entries.start + (entries.end - entries.start) / 2;
            let mut bytes = [0; 16];
            file.read_exact_at(&mut bytes[..E::LEN], middle * E::LEN as u64)?;
            let entry = E::decode(&bytes);
            let is_room = middle > 0 && entry.relative_offset() == 0;
            if is_room || beyond(entry) {
                entries.end = middle;
            } else {
                (floor, entries.start) = (Some(entry), middle + 1);
            }
        }
        Ok((entries.start * E::LEN as u64, floor))
    }

    /// The last entry, unless that is room which Kafka reserved. Blocks.
    pub(crate) fn read_last(&self) -> io::Result<Option<E>> {
        let Some((file, len_bytes)) = self.open_file()? else { return Ok(None) };
        let Some(at) = len_bytes.checked_sub(E::LEN as u64) else { return Ok(None) };
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes[..E::LEN], at)?;
        let entry = E::decode(&bytes);
        Ok((at == 0 || entry.relative_offset() > 0).then_some(entry))
    }

    /// The file's bytes, if it exists and has whole entries only.
    pub(crate) fn sound_len(&self) -> io::Result<Option<u64>> {
        match self.dir.disk().open(&self.path()).and_then(|file| file.len_bytes()) {
            Ok(len_bytes) => Ok((len_bytes % E::LEN as u64 == 0).then_some(len_bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the file ends with these bytes, at that place. Blocks.
    fn ends_with(&self, bytes: &[u8], at_bytes: u64) -> io::Result<bool> {
        let file = match self.dir.disk().open(&self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if file.len_bytes()? != at_bytes + bytes.len() as u64 {
            return Ok(false);
        }
        let mut there = vec![0; bytes.len()];
        file.read_exact_at(&mut there, at_bytes)?;
        Ok(there == bytes)
    }

    /// Removes the file. A missing one is no error. Blocks.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match self.dir.disk().remove_file(&self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The whole file; `None` if it is missing. Blocks.
    pub(crate) fn read_all(&self) -> io::Result<Option<Vec<u8>>> {
        match self.dir.read(&self.name()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file. Blocks.
    pub(crate) fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.dir.replace_file(&self.name(), bytes)
    }

    fn name(&self) -> String {
        format!("{:020}.{}", self.base.0, E::SUFFIX)
    }

    /// See `SegmentFiles::write_again`. Blocks.
    pub(crate) fn write_again(&self) -> io::Result<()> {
        match self.open_file()? {
            Some((file, len_bytes)) => write_again(&*file, len_bytes),
            None => Ok(()),
        }
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.dir.disk().open(&self.path()) {
            Ok(file) => file.sync_data().map_err(sync_error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes the file, or empties it. Blocks.
    pub(crate) fn create(&self) -> io::Result<()> {
        self.dir.disk().create(&self.path())?.set_len(0)
    }
}

/// The growing end of the active segment's index.
#[derive(Debug)]
pub(crate) struct IndexTail<E> {
    file: Arc<IndexFile<E>>,
    /// Bytes that flushes have written. Flushes raise it, the log reads it.
    flushed_bytes: Arc<AtomicU64>,
    /// The file may be missing, or have bytes behind its flushed entries. The first flush corrects
    /// that.
    is_stale: Arc<AtomicBool>,
    pending: Vec<E>,
    /// Bytes in the file before `pending[0]`.
    pending_at_bytes: u64,
    last: Option<E>,
}

impl<E: Entry> IndexTail<E> {
    /// A tail behind the first `flushed_bytes` of the file, which end with `last`.
    pub(crate) fn new(file: Arc<IndexFile<E>>, flushed_bytes: u64, last: Option<E>) -> Self {
        let flushed = Arc::new(AtomicU64::new(flushed_bytes));
        let (pending, pending_at_bytes, is_stale) = (Vec::new(), flushed_bytes, Arc::default());
        IndexTail { file, flushed_bytes: flushed, is_stale, pending, pending_at_bytes, last }
    }

    /// See `Indexer::complete`.
    pub(crate) fn complete(&self, closing: Option<E>) -> io::Result<()> {
        if self.file.ends_with(&self.encoded(closing), self.pending_at_bytes)? {
            self.flushed_bytes.fetch_max(self.len_bytes(), Ordering::Release);
            return Ok(());
        }
        self.is_stale.store(true, Ordering::Release);
        self.flush(closing).map_or(Ok(()), |flush| flush.write())
    }

    /// Removes the file if it is not complete.
    pub(crate) fn remove_stale(&self) -> io::Result<()> {
        if self.is_stale.load(Ordering::Acquire) { self.file.remove() } else { Ok(()) }
    }

    /// See `Indexer::is_whole`.
    pub(crate) fn is_whole(&self) -> io::Result<bool> {
        self.file.ends_with(&[], self.pending_at_bytes)
    }

    pub(crate) fn push(&mut self, entry: E) {
        self.forget_flushed();
        self.pending.push(entry);
        self.last = Some(entry);
    }

    pub(crate) fn last(&self) -> Option<E> {
        self.last
    }

    /// Bytes that the file has once all entries are flushed.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.pending_at_bytes + (self.pending.len() * E::LEN) as u64
    }

    /// Bytes of the index that can be read from the file now.
    pub(crate) fn searchable_bytes(&self) -> u64 {
        self.pending_at_bytes
    }

    /// The pending entries around the target. Without a floor, the file may have one.
    pub(crate) fn find_pending(&self, beyond: impl Fn(E) -> bool) -> Bracket<E> {
        Bracket::of(&self.pending, beyond)
    }

    /// The bytes of the pending entries, and of a `closing` one if given.
    pub(crate) fn encoded(&self, closing: Option<E>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((self.pending.len() + 1) * E::LEN);
        self.pending.iter().chain(&closing).for_each(|entry| entry.encode(&mut bytes));
        bytes
    }

    /// The job that brings the file up to date, and adds a `closing` entry if given. `None`: there
    /// is nothing to write. The tail does not count the closing entry as flushed: if the segment
    /// goes on growing, the next entry takes its place.
    pub(crate) fn flush(&self, closing: Option<E>) -> Option<EntriesFlush> {
        let is_stale = self.is_stale.load(Ordering::Acquire);
        if self.pending.is_empty() && closing.is_none() && !is_stale {
            return None;
        }
        Some(EntriesFlush {
            dir: self.file.dir.clone(),
            path: self.file.path(),
            at_bytes: self.pending_at_bytes,
            bytes: self.encoded(closing),
            end_bytes: self.len_bytes(),
            flushed_bytes: self.flushed_bytes.clone(),
            is_stale: self.is_stale.clone(),
        })
    }

    /// Frees the entries that flushes have written.
    pub(crate) fn forget_flushed(&mut self) {
        let flushed = self.flushed_bytes.load(Ordering::Acquire);
        if flushed > self.pending_at_bytes {
            let entries = (flushed - self.pending_at_bytes) as usize / E::LEN;
            self.pending.drain(..entries);
            self.pending_at_bytes = flushed;
        }
    }
}

/// Entries on their way into their file.
#[derive(Debug)]
pub(crate) struct EntriesFlush {
    dir: Arc<Directory>,
    path: PathBuf,
    at_bytes: u64,
    bytes: Vec<u8>,
    /// The bytes that count as flushed afterwards.
    end_bytes: u64,
    flushed_bytes: Arc<AtomicU64>,
    is_stale: Arc<AtomicBool>,
}

impl EntriesFlush {
    /// Blocks. A file that is gone is not made again, because its segment may have expired. One
    /// that was missing from the start is.
    pub(crate) fn write(&self) -> io::Result<()> {
        // In a stale file no other flush has written yet, so the cut takes nothing of theirs.
        let is_stale = self.is_stale.swap(false, Ordering::AcqRel);
        let written = self.write_to(is_stale);
        if is_stale && written.is_err() {
            self.is_stale.store(true, Ordering::Release);
        }
        written
    }

    fn write_to(&self, is_stale: bool) -> io::Result<()> {
        let disk = self.dir.disk();
        let file = if is_stale { disk.create(&self.path) } else { disk.open(&self.path) }?;
        if is_stale && file.len_bytes()? > self.at_bytes {
            file.set_len(self.at_bytes)?;
        }
        file.write_all_at(&self.bytes, self.at_bytes)?;
        self.flushed_bytes.fetch_max(self.end_bytes, Ordering::Release);
        Ok(())
    }

    /// Makes the written bytes survive a power cut. Blocks.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.dir.disk().open(&self.path)?.sync_data().map_err(sync_error)
    }
}
