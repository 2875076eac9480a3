//! Drives storage's look-ups: reads what they need until they are done.
//!
//! The read is tried first where it cannot wait for the disk; only what is not in the page cache goes
//! through the ring, so the event loop never blocks and the common case makes no detour.

use bytes::{Bytes, BytesMut};
use penstock_ring::Ring;
use penstock_storage::{FindError, Found, Lookup, Need, Step, TimestampFound, TimestampLookup};

/// Why a place in the log could not be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The log says so.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The disk fails.
    #[error("cannot read {len_bytes} bytes at {position}: {source}")]
    Disk { position: u64, len_bytes: usize, source: std::io::Error },
}

/// A look-up that says what it needs until it is done.
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
                let bytes = read(ring, &need).await.map_err(|source| ReadError::Disk {
                    position: need.position.0,
                    len_bytes: need.len_bytes,
                    source,
                })?;
                lookup.feed(&bytes);
            }
        }
    }
}

async fn read(ring: &Ring, need: &Need) -> std::io::Result<Bytes> {
    let mut cached = BytesMut::zeroed(need.len_bytes);
    match ring.read_cached_at(&need.file, need.position.0, &mut cached)? {
        Some(read) if read == need.len_bytes => Ok(cached.freeze()),
        _ => ring.read_at(need.file.clone(), need.position.0, need.len_bytes).await,
    }
}
