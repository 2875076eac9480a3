//! The place of a batch, and the rules by which a header is believed. Pure.

use penstock_batch::{BatchHeader, Codec, HEADER_LEN, Records, TimestampType};

use crate::{
    damage::DamagedRanges,
    units::{Offset, Position},
};

/// The largest batch: no request that could bring a larger one is accepted.
pub(crate) const LARGEST_BATCH_BYTES: u64 = 128 << 20;

/// Bytes to read at a batch if its length is not known.
pub(crate) const WINDOW_BYTES: u64 = 4096 + HEADER_LEN as u64;

/// A batch and where it stands in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchPlace {
    pub(crate) base: Offset,
    pub(crate) last: Offset,
    pub(crate) position: Position,
    pub(crate) len_bytes: u64,
    /// The header's greatest timestamp. If that is impossible, the base timestamp, which is that of
    /// a record.
    pub(crate) max_timestamp_ms: i64,
}

/// Whether the greatest timestamp must be read from the records, and can be. An append corrects
/// producers that never set it; an earlier Penstock stored their claims.
pub(crate) fn hides_max_timestamp(header: &BatchHeader) -> bool {
    !header.is_max_timestamp_plausible() && header.codec() == Some(Codec::None)
}

/// The greatest timestamp of an uncompressed batch's records, whatever its header claims; -1
/// without any. `None` if they cannot be read.
pub(crate) fn max_timestamp_of_records(batch: &[u8]) -> Option<i64> {
    let header = BatchHeader::parse(batch).ok()?;
    let header = header.with_timestamp_type(TimestampType::CreateTime);
    let body = batch.get(HEADER_LEN..header.len_bytes())?;
    Records::new(&header, body)
        .try_fold(-1, |newest_ms, record| record.map(|record| record.timestamp_ms.max(newest_ms)))
        .ok()
}

impl BatchPlace {
    pub(crate) fn of(header: &BatchHeader, position: Position) -> BatchPlace {
        BatchPlace {
            base: Offset(header.base_offset),
            last: Offset(header.last_offset()),
            position,
            len_bytes: header.len_bytes() as u64,
            max_timestamp_ms: match header.is_max_timestamp_plausible() {
                true => header.max_timestamp,
                false => header.base_timestamp,
            },
        }
    }

    pub(crate) fn end(&self) -> Position {
        Position(self.position.0 + self.len_bytes)
    }
}

/// Reads headers one after the other. A header is believed only if it can follow the one before.
/// Steps over known damage.
#[derive(Clone, Debug)]
pub(crate) struct HeaderWalk {
    /// Where the next batch starts.
    pub(crate) position: Position,
    /// The lowest offset it may have.
    pub(crate) lowest: Offset,
    /// The highest offset that any batch may have.
    highest: Offset,
    pub(crate) end: Position,
    damage: DamagedRanges,
}

impl HeaderWalk {
    /// A walk from the start of a batch, in the segment with base offset `segment`, whose bytes end
    /// at `end`.
    pub(crate) fn new(segment: Offset, position: Position, end: Position) -> HeaderWalk {
        // The offset after the last must be a valid one, too.
        let highest = Offset(segment.0.saturating_add(i32::MAX.into()).min(i64::MAX - 1));
        HeaderWalk { position, lowest: segment, highest, end, damage: DamagedRanges::default() }
    }

    /// The same walk, with this lowest offset for the first batch.
    pub(crate) fn not_below(self, lowest: Offset) -> HeaderWalk {
        HeaderWalk { lowest, ..self }
    }

    /// The same walk, in a segment with this next base offset behind it.
    pub(crate) fn before(self, next: Option<Offset>) -> HeaderWalk {
        let last = next.map_or(self.highest, |next| Offset(next.0 - 1));
        HeaderWalk { highest: self.highest.min(last), ..self }
    }

    /// The same walk, stepping over this damage.
    pub(crate) fn over(self, damage: &DamagedRanges) -> HeaderWalk {
        let mut walk = HeaderWalk { damage: damage.clone(), ..self };
        walk.skip_damage();
        walk
    }

    /// The same walk, moved to `position` without seeing the bytes between.
    pub(crate) fn moved_to(&self, position: Position) -> HeaderWalk {
        HeaderWalk { position, ..self.clone() }
    }

    /// Whether all batches have been walked over.
    pub(crate) fn is_over(&self) -> bool {
        self.position >= self.end
    }

    /// How many bytes to read at the next batch: its header, and perhaps those of some that follow.
    pub(crate) fn window_bytes(&self) -> usize {
        self.at_most(WINDOW_BYTES)
    }

    /// So many bytes, or as many as are left.
    pub(crate) fn at_most(&self, len_bytes: u64) -> usize {
        self.end.0.saturating_sub(self.position.0).min(len_bytes) as usize
    }

    /// The next batch, if its header lies in `window`, which was read at `window_at`.
    pub(crate) fn look(&self, window: &[u8], window_at: Position) -> Seen {
        let at = (self.position.0 - window_at.0) as usize;
        let bytes = window.get(at..).unwrap_or_default();
        if at > 0 && bytes.len() < HEADER_LEN {
            return Seen::EndOfWindow;
        }
        let Ok(header) = BatchHeader::parse(bytes) else { return Seen::Unsound };
        let place = BatchPlace::of(&header, self.position);
        let sound = place.base >= self.lowest
            && place.last <= self.highest
            && place.len_bytes <= LARGEST_BATCH_BYTES
            && place.end() <= self.end;
        if sound { Seen::Batch(header, place) } else { Seen::Unsound }
    }

    /// Goes on behind a batch that `look` returned.
    pub(crate) fn step(&mut self, place: &BatchPlace) {
        self.position = place.end();
        self.lowest = Offset(place.last.0.saturating_add(1));
        self.skip_damage();
    }

    fn skip_damage(&mut self) {
        if let Some(range) = self.damage.at(self.position) {
            self.position = range.end_position();
            self.lowest = self.lowest.max(range.end);
        }
    }
}

/// What stands at the place where the next batch should start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    Batch(BatchHeader, BatchPlace),
    /// The place lies behind the bytes that were read.
    EndOfWindow,
    /// Nothing that can be the next batch.
    Unsound,
}
