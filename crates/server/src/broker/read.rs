//! Runs storage's look-ups: reads what they need until they are done.
//!
//! Each read is first tried from the page cache alone. Only what is not cached goes through the
//! ring, so the event loop never blocks, and the common case allocates nothing.

use std::fs::File;
use std::io;
use std::sync::Arc;

use penstock_ring::Ring;
use penstock_storage::{FindError, Found, Lookup, Need, Step, TimestampFound, TimestampLookup};

/// The largest reads into stack buffers, which are cleared before each read: a batch header; and
/// two pages and a bit, which is more than anything but records.
const TINY_BYTES: usize = 64;
const SMALL_BYTES: usize = 8320;

/// Why a look-up failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The log's own error.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The disk fails.
    #[error("cannot read {len_bytes} bytes at {position}: {source}")]
    Disk { file: Arc<File>, position: u64, len_bytes: usize, source: io::Error },
}

/// A look-up that returns what it needs until it is done.
pub(crate) trait Steps {
    type Outcome;
    fn step(&mut self) -> Result<Step<Self::Outcome>, FindError>;
    fn feed(&mut self, bytes: &[u8]);
}

impl Steps for Lookup {
    type Outcome = Found;
    fn step(&mut self) -> Result<Step<Found>, FindError> {
        self.step()
    }
    fn feed(&mut self, bytes: &[u8]) {
        self.feed(bytes);
    }
}

impl Steps for TimestampLookup {
    type Outcome = Option<TimestampFound>;
    fn step(&mut self) -> Result<Step<Option<TimestampFound>>, FindError> {
        self.step()
    }
    fn feed(&mut self, bytes: &[u8]) {
        self.feed(bytes);
    }
}

/// Runs a look-up to its end.
///
/// # Errors
/// Those of the look-up, and those of the disk.
pub(crate) async fn resolve<L: Steps>(ring: &Ring, mut lookup: L) -> Result<L::Outcome, ReadError> {
    loop {
        match lookup.step()? {
            Step::Done(outcome) => return Ok(outcome),
            Step::Need(need) => {
                let read = feed(ring, &mut lookup, &need).await;
                let (position, len_bytes) = (need.position.0, need.len_bytes);
                read.map_err(|source| ReadError::Disk {
                    file: need.file,
                    position,
                    len_bytes,
                    source,
                })?;
            }
        }
    }
}

async fn feed<L: Steps>(ring: &Ring, lookup: &mut L, need: &Need) -> io::Result<()> {
    if !feed_cached(ring, lookup, need)? {
        lookup.feed(&ring.read_at(need.file.clone(), need.position.0, need.len_bytes).await?);
    }
    Ok(())
}

/// Reads from the page cache; returns whether everything was there.
fn feed_cached<L: Steps>(ring: &Ring, lookup: &mut L, need: &Need) -> io::Result<bool> {
    let (mut tiny, mut small, mut large);
    let buffer: &mut [u8] = match need.len_bytes {
        len_bytes @ ..=TINY_BYTES => {
            tiny = [0; TINY_BYTES];
            &mut tiny[..len_bytes]
        }
        len_bytes @ ..=SMALL_BYTES => {
            small = [0; SMALL_BYTES];
            &mut small[..len_bytes]
        }
        len_bytes => {
            large = vec![0; len_bytes];
            &mut large
        }
    };
    let is_cached =
        ring.read_cached_at(&need.file, need.position.0, buffer)? == Some(need.len_bytes);
    if is_cached {
        lookup.feed(buffer);
    }
    Ok(is_cached)
}
