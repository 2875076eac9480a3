//! The entries of Kafka's two sparse indexes, as bytes. Pure.
//!
//! ```text
//! .index      │ relative offset u32 │ position u32 │           8 bytes, big-endian
//! .timeindex  │ timestamp i64 │ relative offset u32 │        12 bytes, big-endian
//! ```
//!
//! Relative offsets count from the segment's base offset. An offset entry names the *last* offset
//! of the batch that starts at its position. A time entry names the greatest timestamp up to its
//! place, and the last offset of the batch that has it.

use crate::units::Position;

/// Both kinds of entry.
pub(crate) trait Entry: Copy {
    /// Bytes of one entry.
    const LEN: usize;
    /// Ending of the file's name.
    const SUFFIX: &'static str;
    /// `bytes` has `LEN` bytes.
    fn decode(bytes: &[u8]) -> Self;
    fn encode(self, out: &mut Vec<u8>);
    fn relative_offset(self) -> u32;
}

/// An entry of `.index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    pub(crate) relative_offset: u32,
    pub(crate) position: u32,
}

/// An entry of `.timeindex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp_ms: i64,
    pub(crate) relative_offset: u32,
}

/// The two entries between which the target lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bracket<E> {
    /// The last entry that is not beyond the target; `None`: all are.
    pub(crate) floor: Option<E>,
    /// The entry after it; `None`: there is none, or it is not known.
    pub(crate) next: Option<E>,
}

impl OffsetEntry {
    pub(crate) fn position(self) -> Position {
        Position(self.position.into())
    }
}

impl Entry for OffsetEntry {
    const LEN: usize = 8;
    const SUFFIX: &'static str = "index";

    fn decode(bytes: &[u8]) -> OffsetEntry {
        OffsetEntry { relative_offset: be_u32(bytes, 0), position: be_u32(bytes, 4) }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.extend(self.relative_offset.to_be_bytes());
        out.extend(self.position.to_be_bytes());
    }

    fn relative_offset(self) -> u32 {
        self.relative_offset
    }
}

impl Entry for TimeEntry {
    const LEN: usize = 12;
    const SUFFIX: &'static str = "timeindex";

    fn decode(bytes: &[u8]) -> TimeEntry {
        let timestamp = u64::from(be_u32(bytes, 0)) << 32 | u64::from(be_u32(bytes, 4));
        TimeEntry { timestamp_ms: timestamp as i64, relative_offset: be_u32(bytes, 8) }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.extend(self.timestamp_ms.to_be_bytes());
        out.extend(self.relative_offset.to_be_bytes());
    }

    fn relative_offset(self) -> u32 {
        self.relative_offset
    }
}

impl<E> Bracket<E> {
    /// No entry is known. Begin at the segment's start.
    pub(crate) const NONE: Bracket<E> = Bracket { floor: None, next: None };
}

impl<E: Entry> Bracket<E> {
    /// The bracket in sorted entries. `beyond`: whether an entry lies past the target.
    pub(crate) fn of(entries: &[E], beyond: impl Fn(E) -> bool) -> Bracket<E> {
        let (floors, nexts) = entries.split_at(entries.partition_point(|entry| !beyond(*entry)));
        Bracket { floor: floors.last().copied(), next: nexts.first().copied() }
    }
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_their_bytes_and_back() {
        let offset = OffsetEntry { relative_offset: 0x0102_0304, position: 0x7fff_fffe };
        let time = TimeEntry { timestamp_ms: -2, relative_offset: 9 };
        let mut bytes = Vec::new();
        offset.encode(&mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(OffsetEntry::decode(&bytes), offset);
        bytes.clear();
        time.encode(&mut bytes);
        assert_eq!(bytes.len(), TimeEntry::LEN);
        assert_eq!(TimeEntry::decode(&bytes), time);
    }
}
