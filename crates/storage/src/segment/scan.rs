//! Reads the batches of a segment with plain blocking reads, and finds sound batches behind unsound
//! bytes. Called by recovery, by the rebuilding of indexes and by the scrubber.
//!
//! ```text
//!   [ sound ][ sound ][ unsound ……… ][ sound ][ unsound ……… end of the file
//!    Batch    Batch    Damage         Batch    Tail, and then always Tail
//! ```

use std::io;

use penstock_batch::BatchHeader;

use crate::{
    damage::Damage,
    disk::DiskFile,
    segment::{
        batch_place::{BatchPlace, HeaderWalk, WINDOW_BYTES},
        resync,
        window::{Window, WindowOn},
    },
    units::{Offset, Position},
};

/// Bytes read at once if every byte is looked at.
const CHUNK_BYTES: u64 = 1 << 20;

/// Goes through a segment, batch by batch.
#[derive(Debug)]
pub(crate) struct Scan {
    segment: Offset,
    walk: HeaderWalk,
    /// Headers of batches that end below this offset are believed.
    proven: Offset,
    window: Window,
}

/// The next piece of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scanned {
    Batch(BatchHeader, BatchPlace),
    /// No sound batch, but one follows.
    Damage(Damage),
    /// Nothing is sound from here to the end. There may be no bytes left.
    Tail,
}

impl Scan {
    /// A scan of the segment with this base offset, up to `walk`'s end. Batches that end below
    /// `proven` are not compared with their CRC.
    pub(crate) fn new(segment: Offset, walk: HeaderWalk, proven: Offset) -> Scan {
        Scan { segment, walk, proven, window: Window::default() }
    }

    /// The next batch, or what stands in its place. Blocks.
    pub(crate) fn next(&mut self, file: &dyn DiskFile) -> io::Result<Scanned> {
        if self.walk.is_over() {
            return Ok(Scanned::Tail);
        }
        let believed = self.walk.lowest < self.proven;
        self.window.chunk_bytes = if believed { WINDOW_BYTES } else { CHUNK_BYTES };
        let mut view = self.window.of(file, self.walk.end);
        let proven = self.proven;
        if let Some((header, place)) = view.sound(&self.walk, |place| place.last < proven)?
            && !is_displaced(&mut view, &self.walk, &place)?
        {
            self.walk.step(&place);
            return Ok(Scanned::Batch(header, view.with_true_time(&header, place)?));
        }
        self.window.chunk_bytes = CHUNK_BYTES;
        let mut view = self.window.of(file, self.walk.end);
        let mut search = self.walk.clone();
        while let Some(next) = resync::next_sound(&mut view, &search)? {
            search.position = next.position;
            if !is_displaced(&mut view, &search, &next)? {
                let damage = self.damage_before(&next);
                self.walk.position = next.position;
                return Ok(Scanned::Damage(damage));
            }
        }
        Ok(Scanned::Tail)
    }

    fn damage_before(&self, next: &BatchPlace) -> Damage {
        let HeaderWalk { position, lowest: first, .. } = self.walk;
        let len_bytes = next.position.0 - position.0;
        Damage { segment: self.segment, position, len_bytes, first, end: next.base }
    }

    /// The end of the last batch, or of the damage behind it.
    pub(crate) fn position(&self) -> Position {
        self.walk.position
    }

    /// The lowest offset that the next batch may have.
    pub(crate) fn lowest(&self) -> Offset {
        self.walk.lowest
    }

    /// Bytes read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.window.read_bytes
    }
}

/// Whether a batch's base offset is wrong, which its CRC does not cover. A leap alone is not: Kafka
/// compacts. It is wrong if the following batch could follow the one before, but not this one.
fn is_displaced(
    view: &mut WindowOn<'_>,
    walk: &HeaderWalk,
    place: &BatchPlace,
) -> io::Result<bool> {
    let rest = walk.moved_to(place.end());
    if place.base == walk.lowest || rest.is_over() {
        return Ok(false);
    }
    let next = match view.sound(&rest, |_| false)? {
        Some((_, next)) => Some(next),
        None => resync::next_sound(view, &rest)?,
    };
    Ok(next.is_some_and(|next| next.base <= place.last))
}
