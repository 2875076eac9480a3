//! Where sound batches begin again behind unsound bytes.
//!
//! ```text
//!   [ unsound: its length may be right ][ unsound, too ][ sound ]     first: from length to length
//!   [ unsound: its length is wrong … . . . . . . . . . .][ sound ]     else: byte by byte
//! ```
//!
//! Lengths go first because a record may hold a whole batch as its value, which a search by bytes
//! would take for one of the log's. What is found by bytes must have an offset near enough to what
//! is missing, or be followed by what can follow it. No batch is without an offset, so the unsound
//! ones had one at least: what has the first that is missing is no batch behind them, but one whose
//! offset was lost with them.
//!
//! The work is bounded whatever the bytes are: the magic byte, a header that can be one and an
//! offset that may follow come before a CRC, and all CRCs that turn out wrong together are of at
//! most 128 MiB and 4 times the bytes searched.

use std::io;

use penstock_batch::{BatchHeader, HEADER_LEN};

use crate::{
    segment::{
        batch_place::{BatchPlace, HeaderWalk, LARGEST_BATCH_BYTES, Seen},
        window::WindowOn,
    },
    units::{Offset, Position},
};

/// Base offset and length, which the length does not count.
const PREFIX_LEN: u64 = 12;
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;

/// Attribute bits that mean something: codec, timestamp type, transactional, control, delete
/// horizon.
const KNOWN_ATTRIBUTES: i16 = 0x7f;

/// Searched at once.
const STRETCH_BYTES: u64 = 64 << 10;

/// The first sound batch behind the walk's place, where there is none.
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

/// A wrong length may lead past sound batches to another one: where all are of one size, one bit is
/// enough. So if the offset there is not the one that the unsound header leads to, that one is
/// searched for on the way.
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

/// Believes the length of what is unsound, as long as there is one that could be.
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

/// Bytes of the batch that begins with `prefix`, if it says how many.
fn claimed_len(prefix: &[u8]) -> Option<u64> {
    let length = u32::from_be_bytes(*prefix.get(8..)?.first_chunk()?);
    let len_bytes = PREFIX_LEN + u64::from(length);
    (HEADER_LEN as u64..=LARGEST_BATCH_BYTES).contains(&len_bytes).then_some(len_bytes)
}

/// Tries every place where the magic byte stands.
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

/// How far ahead a batch could begin, by its magic byte alone.
fn next_magic(bytes: &[u8]) -> Option<usize> {
    bytes.get(MAGIC_AT..)?.iter().position(|byte| *byte == MAGIC)
}

/// A header as this server or a Kafka writes it, with an offset that may follow.
fn plausible(window: &mut WindowOn<'_>, candidate: &HeaderWalk) -> io::Result<Option<BatchPlace>> {
    let bytes = window.at(candidate.position, HEADER_LEN as u64)?;
    let Seen::Batch(header, place) = candidate.look(bytes, candidate.position) else {
        return Ok(None);
    };
    let counts_fit = header.record_count <= header.last_offset_delta.saturating_add(1);
    let known = header.attributes & !KNOWN_ATTRIBUTES == 0;
    Ok((counts_fit && known).then_some(place))
}

/// Whether the bytes end behind the batch, or go on with a header that can follow.
fn is_followed(
    window: &mut WindowOn<'_>,
    mut walk: HeaderWalk,
    place: &BatchPlace,
) -> io::Result<bool> {
    walk.step(place);
    Ok(walk.is_over() || plausible(window, &walk)?.is_some())
}
