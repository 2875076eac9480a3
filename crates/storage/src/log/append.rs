//! Appending: the log decides what to write where, the caller writes, the log records the outcome.
//!
//! ```text
//!         begin_append                    finish_append, of the last
//!   Idle ──────────────▶ Outstanding ──────────────────────────────▶ Idle      log end has moved
//!                          ▲    │ │ cancel_append
//!             begin_append └────┘ ├────────────────────────────────▶ Idle      as if it had never begun
//!                                 │ leave_append
//!                                 ├────────────────────────────────▶ Idle      the same, once cut (torn.rs)
//!                                 │ fail_append
//!                                 └────────────────────────────────▶ Offline   until opened again
//! ```
//!
//! One write at a time: the server holds the partition's append lock from `begin_append` (and
//! `needs_roll` before it) to the end. A write may carry several appends, begun one after the other
//! while `may_join` allows it. They finish in that order, or all of them fail. Readers see nothing
//! of an append before it has finished, and never anything of one that failed: the next start cuts
//! the bytes it may have left behind the committed end, before it serves anything.

use std::{fs::File, io, sync::Arc};

use bytes::{Bytes, BytesMut};
use penstock_batch::{
    BatchHeader, HEADER_LEN, PLACE_LEN, TimestampType, assign, set_max_timestamp,
};

use crate::{
    error::AppendError,
    log::{Log, Writing, outstanding::Outstanding, produced::ProducedBatch},
    segment::batch_place::BatchPlace,
    units::{Offset, Position},
};

/// What to write where. The caller writes the `pieces`, one behind the other, at `position`. It
/// then reports the outcome by `Log::finish_append`, `cancel_append`, `leave_append` or
/// `fail_append`.
#[derive(Debug)]
pub struct Append {
    /// The active segment.
    pub file: Arc<File>,
    /// The end of the file, or of the append begun before.
    pub position: Position,
    /// A whole batch with its offsets: a patched head, then the rest as the producer sent it.
    /// Cheap to clone for the write.
    pub pieces: Vec<Bytes>,
    header: BatchHeader,
    place: BatchPlace,
    /// The batch's greatest timestamp is that of its records.
    is_checked: bool,
    begun_ms: i64,
    log_append_time_ms: i64,
}

/// The place that an append has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The stamp given with LogAppendTime, else -1.
    pub log_append_time_ms: i64,
}

impl Log {
    /// Whether the write under way can carry this batch too: appends are outstanding, the segment
    /// has room behind them, and the batch is another producer's.
    pub fn may_join(&self, batch: &ProducedBatch, now_ms: i64) -> bool {
        let Writing::Outstanding(outstanding) = &self.writing else { return false };
        self.fits(batch, now_ms) && !outstanding.has_producer_of(batch)
    }

    /// Gives the batch its offsets, and returns where to write it.
    ///
    /// The offsets are written into a copy of the batch's first 16 bytes, or of its 61-byte header
    /// where the greatest timestamp is not the producer's. The records are not copied. The caller
    /// must have rolled if `needs_roll` asked for it.
    ///
    /// # Panics
    /// If the batch may not join an outstanding append, or a needed roll was left out: bugs of the
    /// caller.
    pub fn begin_append(
        &mut self,
        batch: ProducedBatch,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Result<Append, AppendError> {
        self.check_append(&batch)?;
        assert!(self.writing != Writing::Rolling, "a needed roll was left out");
        assert!(!self.is_torn, "a needed cut was left out");
        let (position, base) = self.append_point();
        let end = (Position(position.0 + batch.len_bytes()), Offset(base.0 + batch.record_count()));
        match &mut self.writing {
            Writing::Outstanding(outstanding) => {
                assert!(!outstanding.has_producer_of(&batch), "a producer joined its own append");
                outstanding.add(&batch, end);
            }
            writing => *writing = Writing::Outstanding(Outstanding::first(&batch, end)),
        }
        let ProducedBatch { bytes, header, is_restamped, is_checked } = batch;
        let is_stamped = self.config.timestamp_type == TimestampType::LogAppendTime;
        let mut header = BatchHeader { base_offset: base.0, leader_epoch, ..header };
        if is_stamped {
            header.max_timestamp = now_ms;
            header = header.with_timestamp_type(TimestampType::LogAppendTime);
        }
        let is_checked = is_checked || is_stamped;
        let mut place = BatchPlace::of(&header, position);
        if is_checked {
            // Not the base timestamp, which may be that of no record.
            place.max_timestamp_ms = header.max_timestamp;
        }
        let segment = &self.active.segment;
        assert!(segment.files.relative(place.last).is_some(), "a needed roll was left out");
        Ok(Append {
            file: segment.files.log.handle().clone(),
            position,
            pieces: patched(&bytes, &header, is_stamped || is_restamped).into(),
            header,
            place,
            is_checked,
            begun_ms: now_ms,
            log_append_time_ms: if is_stamped { now_ms } else { -1 },
        })
    }

    /// The bytes are written, and are part of the log from here on. Appends finish in the order in
    /// which they began.
    pub fn finish_append(&mut self, append: Append) -> Appended {
        self.assert_first_outstanding(&append);
        let Append { header, place, is_checked, begun_ms, .. } = &append;
        let interval_bytes = self.config.index_interval_bytes;
        self.active.append(place, *is_checked, *begun_ms, interval_bytes);
        self.recent.push(place);
        self.epochs.note(header.leader_epoch, place.base);
        self.producers.note(header, place.base);
        self.log_end = Offset(place.last.0 + 1);
        let is_last = matches!(&self.writing, Writing::Outstanding(o) if o.end.1 == self.log_end);
        if is_last {
            self.writing = Writing::Idle;
        }
        Appended {
            base_offset: place.base,
            last_offset: place.last,
            log_append_time_ms: append.log_append_time_ms,
        }
    }

    /// There was no room, and the caller has cut the file back: nothing of this append, nor of
    /// later ones, is in it. The log goes on as if they had never begun.
    pub fn cancel_append(&mut self, append: Append) {
        self.assert_first_outstanding(&append);
        self.changes += 1;
        self.writing = Writing::Idle;
    }

    /// The write, or the sync after it, failed. The log goes offline, and appends begun after this
    /// one have failed too. Committed records can still be read.
    pub fn fail_append(&mut self, append: Append, error: io::Error) {
        self.assert_first_outstanding(&append);
        self.writing = Writing::Offline;
        tracing::error!(
            dir = %self.dir.display(),
            position = append.position.0,
            %error,
            "records could not be written; the partition takes no more appends until the server is restarted"
        );
    }

    fn check_append(&self, batch: &ProducedBatch) -> Result<(), AppendError> {
        if self.is_offline() {
            return Err(AppendError::Offline);
        }
        let (log_end, count) = (self.append_point().1, batch.record_count());
        if log_end.0.checked_add(count).is_none() {
            return Err(AppendError::OffsetsExhausted { log_end, count });
        }
        self.producers.check(&batch.header)
    }

    /// Position and offset at which the next append begins.
    pub(crate) fn append_point(&self) -> (Position, Offset) {
        match &self.writing {
            Writing::Outstanding(outstanding) => outstanding.end,
            _ => (Position(self.active.segment.size_bytes), self.log_end),
        }
    }

    fn assert_first_outstanding(&self, append: &Append) {
        let here = Position(self.active.segment.size_bytes) == append.position;
        let outstanding = matches!(self.writing, Writing::Outstanding(_));
        assert!(outstanding && here, "an append ended that never began, or out of turn");
    }
}

/// A batch's head with its place in the log, and the untouched rest. `is_stamped`: the head also
/// gets the greatest timestamp and the timestamp type.
fn patched(batch: &Bytes, header: &BatchHeader, is_stamped: bool) -> [Bytes; 2] {
    let head_len = if is_stamped { HEADER_LEN } else { PLACE_LEN };
    let rest = batch.slice(head_len..);
    let mut head = BytesMut::from(&batch[..head_len]);
    assign(&mut head, header.base_offset, header.leader_epoch);
    if is_stamped {
        set_max_timestamp(&mut head, &rest, header.timestamp_type(), header.max_timestamp);
    }
    [head.freeze(), rest]
}
