//! Signs that a log from a Kafka has transactions. They are not served as such: a consumer gets the
//! records of aborted and open transactions like any other, whatever its isolation level. So
//! opening reports the signs it has seen.
//!
//! ```text
//!   <base>.txnindex     an entry for each aborted transaction; no file if there is none
//!   <offset>.snapshot   where a producer's open transaction began; the batches behind it tell the rest
//!   control batches     an end, good or bad, as far as batches are read anyway
//! ```

use std::collections::BTreeSet;

use penstock_batch::BatchHeader;

use crate::{
    disk::Directory,
    error::LogError,
    segment::listing::{TXN_INDEX, segment_file},
    units::Offset,
};

/// Version, producer id, first and last offset, last stable offset.
const ENTRY_LEN: u64 = 2 + 8 + 8 + 8 + 8;

/// The signs of transactions that opening saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    /// Aborted transactions whose records may still be there.
    pub aborted: u64,
    /// Producers whose transaction has not ended.
    pub open: u64,
    /// Some transactions have ended.
    pub has_ended: bool,
}

impl Transactions {
    /// Whether there are, or were, transactions.
    pub fn any(&self) -> bool {
        *self != Transactions::default()
    }

    pub(crate) fn note(&mut self, header: &BatchHeader) {
        self.has_ended |= header.is_control();
    }
}

/// How many aborted transactions the segments list. A torn entry counts, too. Blocks.
pub(crate) fn aborted(dir: &Directory, segments: &BTreeSet<Offset>) -> Result<u64, LogError> {
    let mut aborted = 0;
    for base in segments {
        let path = segment_file(dir, *base, TXN_INDEX);
        let len_bytes = dir.disk().open(&path).and_then(|file| file.len_bytes());
        aborted += len_bytes.map_err(LogError::io(&path))?.div_ceil(ENTRY_LEN);
    }
    Ok(aborted)
}
