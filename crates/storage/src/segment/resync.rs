//! Finds the first sound batch behind unsound bytes.
//!
//! ```text
//!   [ unsound: its length may be right ][ unsound, too ][ sound ]     first: from length to length
//!   [ unsound: its length is wrong … . . . . . . . . . .][ sound ]     else: byte by byte
//! ```
//!
//! The search by lengths goes first. A record may hold a whole batch as its value, which the search
//! by bytes would take for one of the log's. A batch found by bytes must have an offset near the
//! missing ones, or be followed by a batch that can follow it. Every batch has at least one offset,
//! so the unsound ones had one, too. A batch behind them that claims the first missing offset is
//! therefore not believed: its base offset was torn along with them.
//!
//! The work is bounded whatever the bytes are. A CRC is computed only behind the magic byte, a
//! possible header and an offset that may follow. All wrong CRCs together cover at most 128 MiB and
//! 4 times the bytes searched.

use std::io;

use penstock_batch::{BatchHeader, HEADER_LEN};

use crate::{
    segment::{
        batch_place::{BatchPlace, HeaderWalk, LARGEST_BATCH_BYTES, Seen},
        window::WindowOn,
    },
    units::{Offset, Position},
};

/// Bytes of base offset and length, which the length does not count.
const PREFIX_LEN: u64 = 12;
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;

/// Attribute bits with a meaning: codec, timestamp type, transactional, control, delete horizon.
const KNOWN_ATTRIBUTES: i16 = 0x7f;

/// Bytes searched at once.
const STRETCH_BYTES: u64 = 64 << 10;

/// The first sound batch behind the walk's place, which has none.
pub(crate) fn next_sound(
    window: &mut WindowOn<'_>,
    walk: &HeaderWalk,
) -> io::Result<Option<BatchPlace>> {
    let behind = walk.clone().not_below(Offset(walk.lowest.0.saturating_add(1)));
    match by_lengths(window, &behind)? {
        Some(place) => Ok(passed_over(window, walk, &place)?.or(Some(place))),
        None => by_bytes(window, &behind),
    }
}

/// A wrong length may lead past sound batches to a later one; where all have one size, one flipped
/// bit is enough. If the offset found is not the one that follows the unsound header, the bytes
/// between are searched for that one.
fn passed_over(
    window: &mut WindowOn<'_>,
    walk: &HeaderWalk,
    found: &BatchPlace,
) -> io::Result<Option<BatchPlace>> {
    let Ok(unsound) = BatchHeader::parse(window.at(walk.position, HEADER_LEN as u64)?) else {
        return Ok(None);
    };
    let follows = walk.lowest.0.checked_add(i64::from(unsound.last_offset_delta) + 1).map(Offset);
    if follows == Some(found.base) {
        return Ok(None);
    }
    let mut way = walk.clone();
    way.end = found.position;
    Ok(by_bytes(window, &way)?.filter(|passed| Some(passed.base) == follows))
}

/// Follows the lengths of unsound batches, as long as they are possible.
fn by_lengths(window: &mut WindowOn<'_>, walk: &HeaderWalk) -> io::Result<Option<BatchPlace>> {
    let mut walk = walk.clone();
    while let Some(len_bytes) = claimed_len(window.at(walk.position, PREFIX_LEN)?) {
        walk.position.0 += len_bytes;
        if walk.is_over() {
            break;
        }
        if let Some((_, place)) = window.sound(&walk, |_| false)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The bytes of the batch that begins with `prefix`, if its length is possible.
fn claimed_len(prefix: &[u8]) -> Option<u64> {
    let length = u32::from_be_bytes(*prefix.get(8..)?.first_chunk()?);
    let len_bytes = PREFIX_LEN + u64::from(length);
    (HEADER_LEN as u64..=LARGEST_BATCH_BYTES).contains(&len_bytes).then_some(len_bytes)
}

/// Tries every place that has the magic byte.
fn by_bytes(window: &mut WindowOn<'_>, walk: &HeaderWalk) -> io::Result<Option<BatchPlace>> {
    let mut at = Position(walk.position.0 + 1);
    let mut wasted_bytes = 0;
    while at.0 + HEADER_LEN as u64 <= walk.end.0 {
        let stretch = window.at(at, STRETCH_BYTES)?;
        let Some(ahead) = next_magic(stretch) else {
            at.0 += (stretch.len() - MAGIC_AT) as u64;
            continue;
        };
        at.0 += ahead as u64;
        let candidate = walk.moved_to(at);
        if let Some(place) = plausible(window, &candidate)? {
            let searched_bytes = at.0 - walk.position.0;
            let affordable =
                wasted_bytes + place.len_bytes <= LARGEST_BATCH_BYTES + 4 * searched_bytes;
            let near = place.base.0 - walk.lowest.0 <= searched_bytes as i64;
            if affordable && window.sound(&candidate, |_| false)?.is_some() {
                if near || is_followed(window, candidate, &place)? {
                    return Ok(Some(place));
                }
            } else if affordable {
                wasted_bytes += place.len_bytes;
            }
        }
        at.0 += 1;
    }
    Ok(None)
}

/// How far ahead a batch may begin, by the magic byte alone.
fn next_magic(bytes: &[u8]) -> Option<usize> {
    bytes.get(MAGIC_AT..)?.iter().position(|byte| *byte == MAGIC)
}

/// The place of a batch, if its header is one that this server or a Kafka writes, with an offset
/// that may follow.
fn plausible(window: &mut WindowOn<'_>, candidate: &HeaderWalk) -> io::Result<Option<BatchPlace>> {
    let bytes = window.at(candidate.position, HEADER_LEN as u64)?;
    let Seen::Batch(header, place) = candidate.look(bytes, candidate.position) else {
        return Ok(None);
    };
    let counts_fit = header.record_count <= header.last_offset_delta.saturating_add(1);
    let known = header.attributes & !KNOWN_ATTRIBUTES == 0;
    Ok((counts_fit && known).then_some(place))
}

/// Whether the batch ends the bytes, or a header that can follow it stands behind it.
fn is_followed(
    window: &mut WindowOn<'_>,
    mut walk: HeaderWalk,
    place: &BatchPlace,
) -> io::Result<bool> {
    walk.step(place);
    Ok(walk.is_over() || plausible(window, &walk)?.is_some())
}
