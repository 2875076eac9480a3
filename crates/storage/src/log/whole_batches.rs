//! Where an answer that a limit ends is to end: with a batch, if the end of one is known.
//!
//! ```text
//!                    extent by its limit ─────────────┐
//!   │ batch found │ batch │ batch │ batch │ bat┊ch │  ▼
//!                                         ▲ the answer ends here; the client would drop the rest
//! ```
//!
//! Called for each fetch of which the log has more than the limit allows. Reads memory only: the
//! latest batches, and the index pages of earlier look-ups. A page is a hint, so an entry that is
//! wrong cuts a batch, as the limit would have.

use std::sync::Arc;

use crate::{
    find::step::{Extent, Found},
    log::Log,
    units::{Offset, Position},
};

impl Log {
    /// Ends an extent of `found` with its last whole batch, as far as the log knows where batches
    /// begin. Leaves it as it is where the log has no more.
    pub fn end_with_a_batch(&self, found: &Found, extent: &mut Extent) {
        if !found.has_more_than(extent) {
            return;
        }
        let Some(border) = self.batch_border(found, extent) else { return };
        if border.0 >= found.position.0 + found.batch_len_bytes {
            extent.spared_bytes = extent.end().0 - border.0;
            extent.len_bytes -= extent.spared_bytes;
        }
    }

    /// The last known place in an extent where one batch ends and another begins.
    fn batch_border(&self, found: &Found, extent: &Extent) -> Option<Position> {
        let (segment, sealed) = self.segment_of(found.base_offset)?;
        if !Arc::ptr_eq(segment.files.log.handle(), &found.file) {
            return None;
        }
        let (base, until) = (segment.base(), extent.end());
        let end = if sealed { self.segment_after(base) } else { self.log_end };
        let half = Position(until.0 - extent.len_bytes / 2);
        let appended = self.recent.border(base..end, until);
        appended.or_else(|| self.learned.border(base, half, until))
    }

    /// The base offset of the segment behind a sealed one.
    fn segment_after(&self, base: Offset) -> Offset {
        let later = self.sealed.partition_point(|other| other.base() <= base);
        self.sealed.get(later).unwrap_or(&self.active.segment).base()
    }
}
