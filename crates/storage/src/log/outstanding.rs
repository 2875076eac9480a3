//! The appends that have begun and not yet ended. One write carries them.
//!
//! ```text
//!   committed            outstanding
//!   … [batch][batch] │ [append 1][append 2][append 3] │
//!                    ▲ log end                        ▲ where the next one begins
//! ```
//!
//! Kept by `Log` between `begin_append` and the end of the last of them; see append.rs. Pure.

use crate::{
    log::produced::ProducedBatch,
    units::{Offset, Position},
};

/// Appends planned one behind the other, in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outstanding {
    /// Where the next append begins: position in the segment, and offset.
    pub(crate) end: (Position, Offset),
    /// Their idempotent producers. Each may have one append in a write: whether a second is in
    /// sequence depends on the first, which may fail.
    producer_ids: Vec<i64>,
}

impl Outstanding {
    pub(crate) fn first(batch: &ProducedBatch, end: (Position, Offset)) -> Outstanding {
        Outstanding { end, producer_ids: batch.producer_id().into_iter().collect() }
    }

    pub(crate) fn add(&mut self, batch: &ProducedBatch, end: (Position, Offset)) {
        self.end = end;
        self.producer_ids.extend(batch.producer_id());
    }

    pub(crate) fn has_producer_of(&self, batch: &ProducedBatch) -> bool {
        batch.producer_id().is_some_and(|id| self.producer_ids.contains(&id))
    }
}
