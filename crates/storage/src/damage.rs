//! Damage: bytes of a segment that hold no sound batch although sound ones follow. They are not
//! cut, but recorded, reported and stepped over.
//!
//! ```text
//!   [ sound ][ ..position.. unsound ..len_bytes.. ][ sound ]
//!            first offset ▲                        ▲ end offset
//! ```
//!
//! Recovery and the scrubber find it. The partition's file `penstock-damage` keeps it for a clean
//! start, which reads no batches. Each segment has its own ranges, and look-ups carry them.

use std::{io, sync::Arc};

use crate::{
    checkpoint::checked_text,
    disk::Directory,
    units::{Offset, Position},
};

/// Kafka passes over files whose ending it does not know.
const FILE_NAME: &str = "penstock-damage";
const VERSION: &str = "1";

/// One damaged range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Base offset of the segment.
    pub segment: Offset,
    /// Its first byte in the segment.
    pub position: Position,
    /// Bytes up to the next sound batch, or up to the segment's end.
    pub len_bytes: u64,
    /// The first offset that may be lost.
    pub first: Offset,
    /// The offset after the last that may be lost; `first` if none is.
    pub end: Offset,
}

impl Damage {
    /// The first byte behind it.
    pub fn end_position(&self) -> Position {
        Position(self.position.0 + self.len_bytes)
    }

    fn holds_position(&self, position: Position) -> bool {
        (self.position..self.end_position()).contains(&position)
    }
}

/// The damaged ranges of one segment, ascending and apart. Nearly always there are none, which
/// costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct DamagedRanges(Option<Arc<Vec<Damage>>>);

impl DamagedRanges {
    /// Ranges as a scan gives them: ascending.
    pub(crate) fn new(ranges: Vec<Damage>) -> DamagedRanges {
        DamagedRanges((!ranges.is_empty()).then(|| Arc::new(ranges)))
    }

    pub(crate) fn all(&self) -> &[Damage] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The range that may have lost the offset.
    pub(crate) fn of_offset(&self, offset: Offset) -> Option<&Damage> {
        let ranges = self.all();
        let range = ranges.get(ranges.partition_point(|range| range.end <= offset))?;
        (range.first <= offset).then_some(range)
    }

    /// The range that holds the byte.
    pub(crate) fn at(&self, position: Position) -> Option<&Damage> {
        let ranges = self.all();
        let range = ranges.get(ranges.partition_point(|range| range.end_position() <= position))?;
        range.holds_position(position).then_some(range)
    }

    /// How far sound bytes reach from `position` on, at most to `limit`.
    pub(crate) fn sound_until(&self, position: Position, limit: Position) -> Position {
        let next = self.all().iter().find(|range| range.position >= position);
        next.map_or(limit, |range| range.position.min(limit))
    }

    /// Adds a range, and joins it with those it touches.
    pub(crate) fn add(&mut self, mut new: Damage) {
        let mut ranges = self.all().to_vec();
        ranges.retain(|old| {
            let apart = old.end_position() < new.position || old.position > new.end_position();
            if !apart {
                new = join(old, &new);
            }
            apart
        });
        ranges.insert(ranges.partition_point(|old| old.position < new.position), new);
        *self = DamagedRanges::new(ranges);
    }
}

fn join(a: &Damage, b: &Damage) -> Damage {
    let position = a.position.min(b.position);
    Damage {
        segment: a.segment,
        position,
        len_bytes: a.end_position().max(b.end_position()).0 - position.0,
        first: a.first.min(b.first),
        end: a.end.max(b.end),
    }
}

/// All ranges of a log on their way into the file. Dropping it loses new ranges until they are
/// found again.
#[derive(Debug)]
pub struct DamageFlush {
    dir: Arc<Directory>,
    text: String,
}

impl DamageFlush {
    pub(crate) fn new(dir: &Arc<Directory>, ranges: impl Iterator<Item = Damage>) -> DamageFlush {
        DamageFlush { dir: dir.clone(), text: format(ranges) }
    }

    /// Replaces the file. Blocks.
    pub fn write(&self) -> io::Result<()> {
        self.dir.replace_file(FILE_NAME, self.text.as_bytes())
    }
}

/// The ranges in the file; none if it is missing or has changed. Blocks.
pub(crate) fn read(dir: &Directory) -> io::Result<Vec<Damage>> {
    let bytes = match dir.read(FILE_NAME) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let ranges = checked_text::unseal(&bytes).and_then(parse);
    if ranges.is_none() {
        tracing::warn!(dir = %dir.display(), "the list of damaged ranges is itself damaged");
    }
    Ok(ranges.unwrap_or_default())
}

fn format(ranges: impl Iterator<Item = Damage>) -> String {
    let mut text = format!("{VERSION}\n");
    for Damage { segment, position, len_bytes, first, end } in ranges {
        text += &format!("{segment} {} {len_bytes} {first} {end}\n", position.0);
    }
    checked_text::seal(text)
}

fn parse(text: &str) -> Option<Vec<Damage>> {
    let mut lines = text.lines();
    lines.next().filter(|version| *version == VERSION)?;
    lines.map(parse_range).collect()
}

fn parse_range(line: &str) -> Option<Damage> {
    let mut words = line.split(' ');
    let mut offset = || Some(Offset(words.next()?.parse().ok().filter(|offset| *offset >= 0)?));
    let (segment, position, len, first, end) =
        (offset()?, offset()?, offset()?, offset()?, offset()?);
    let damage = Damage {
        segment,
        position: Position(position.0 as u64),
        len_bytes: len.0 as u64,
        first,
        end,
    };
    let possible = damage.len_bytes > 0 && segment <= first && first <= end;
    possible.then_some(damage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(position: u64, len_bytes: u64, first: i64, end: i64) -> Damage {
        let (first, end) = (Offset(first), Offset(end));
        Damage { segment: Offset(0), position: Position(position), len_bytes, first, end }
    }

    #[test]
    fn offsets_and_bytes_lead_to_their_range_and_to_no_other() {
        let ranges = DamagedRanges::new(vec![
            damage(100, 50, 10, 12),
            damage(200, 9, 20, 20),
            damage(300, 10, 30, 31),
        ]);
        let of_offset = |offset| ranges.of_offset(Offset(offset)).map(|range| range.position.0);
        let offsets = [9, 10, 11, 12, 20, 30, 31].map(of_offset);
        assert_eq!(offsets, [None, Some(100), Some(100), None, None, Some(300), None]);
        let at = |position| ranges.at(Position(position)).map(|range| range.first.0);
        let positions = [99, 100, 149, 150, 200, 208, 209, 310].map(at);
        let expected = [None, Some(10), Some(10), None, Some(20), Some(20), None, None];
        assert_eq!(positions, expected);
        let until = |position| ranges.sound_until(Position(position), Position(1000)).0;
        assert_eq!([0, 150, 209, 310].map(until), [100, 200, 300, 1000]);
        assert_eq!(ranges.sound_until(Position(0), Position(70)), Position(70));
    }

    #[test]
    fn what_touches_becomes_one_range() {
        let mut ranges = DamagedRanges::default();
        for (position, first) in [(300, 30), (100, 10), (110, 11), (500, 50)] {
            ranges.add(damage(position, 10, first, first + 1));
        }
        let expected = [damage(100, 20, 10, 12), damage(300, 10, 30, 31), damage(500, 10, 50, 51)];
        assert_eq!(ranges.all(), expected);
        ranges.add(damage(90, 500, 9, 60));
        assert_eq!(ranges.all(), [damage(90, 500, 9, 60)]);
    }

    #[test]
    fn the_file_is_its_ranges_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::from(dir.path()));
        assert_eq!(read(&directory).unwrap(), []);
        let ranges = [damage(100, 50, 10, 12), damage(i32::MAX as u64, 9, i64::MAX, i64::MAX)];
        DamageFlush::new(&directory, ranges.into_iter()).write().unwrap();
        assert_eq!(read(&directory).unwrap(), ranges);
        let path = dir.path().join(FILE_NAME);
        let torn = std::fs::read(&path).unwrap()[1..].to_vec();
        std::fs::write(&path, torn).unwrap();
        assert_eq!(read(&directory).unwrap(), [], "a torn list is none");
    }

    #[test]
    fn a_line_that_cannot_be_is_refused() {
        for line in ["0 0 0 0 0", "0 -1 5 0 0", "0 0 5 9 8", "7 0 5 6 8", "0 0 5 0", "x 0 5 0 0"] {
            assert_eq!(parse(&format!("1\n{line}\n")), None, "{line}");
        }
    }
}
