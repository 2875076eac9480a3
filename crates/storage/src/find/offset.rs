//! From an offset to the batch that holds it, without reading: the machine asks for bytes.
//!
//! ```text
//!   Index ──page──▶ Index … ──▶ Walk(from an entry) ──headers──▶ Walk … ──▶ Done
//!                                  │ not there                       │ no batch
//!                                  ├──▶ Walk(from the entry before)──┤
//!                                  └──▶ Walk(from the segment's start) ──▶ Done, or Corrupt
//! ```
//!
//! `Log::find` makes it, the server drives it. It owns all it needs, so the log may append, roll
//! and expire meanwhile. An index only leads to a place to begin: every answer was read from the
//! log.
//!
//! Which entry first? The offset lies behind the entry before it (the floor), and in or before the
//! batch of the next entry. Batches larger than the index interval have an entry each. The offset
//! then lies in the next entry's batch, and one header proves it.
//!
//! ```text
//!      floor                      next
//!        ▼                         ▼
//!   ─────┤ batch │ batch │ batch │ batch ├───    near: one read from the floor to the next's header
//!   ─────┤ batch                 │ batch ├───    far: the next's header; failing that, the floor's
//! ```
//!
//! Near entries count as far if they are about as far apart as the batch found last is long.

use std::{fs::File, sync::Arc};

use penstock_batch::HEADER_LEN;

use crate::{
    find::{
        index_search::IndexSearch,
        learned::{IndexPage, Learned},
        step::{FindError, Found, Need, Step},
    },
    segment::{
        SegmentView,
        batch_place::{BatchPlace, HeaderWalk, Seen, WINDOW_BYTES},
        index_entry::{Bracket, OffsetEntry},
    },
    units::{Offset, Position},
};

/// Entries that are no further apart are near.
const NEAR_BYTES: u64 = 8192;

/// Finds the first batch whose last offset is not before the offset sought.
#[derive(Debug)]
pub struct Lookup {
    target: Offset,
    segment: SegmentView,
    /// The next segment that holds batches, in case the offset lies in a gap at this one's end.
    next: Option<SegmentView>,
    state: State,
    failed: Option<FindError>,
    /// The cache of earlier reads, which gets this look-up's, too.
    learned: Option<Arc<Learned>>,
}

#[derive(Debug)]
enum State {
    Index { file: Arc<File>, search: IndexSearch<OffsetEntry> },
    Walk { walk: HeaderWalk, window_bytes: usize, origin: Origin },
    Done(Found),
}

/// So many batches behind the one found are remembered. More tiny ones would push out those of
/// other consumers.
const LEARNED_BEHIND: usize = 8;

/// Where a walk began, which decides what a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// An entry that is not confirmed yet. The first batch must end at or before the offset that
    /// the entry names (Kafka 3 names the last offset of a whole append), and not lie beyond the
    /// target.
    Entry {
        names: Offset,
        /// The entry to try next, if this is the one behind the target.
        floor: Option<OffsetEntry>,
    },
    /// The first batch was right, so the following ones must be.
    EntryConfirmed,
    SegmentStart,
}

/// Where to begin in a segment.
#[derive(Debug)]
pub(crate) enum Begin {
    /// An index file to search, and the page to try first.
    Index { file: Arc<File>, len_bytes: u64, guess: Option<u64> },
    /// Entries that are in memory.
    Between(Bracket<OffsetEntry>),
}

impl Lookup {
    pub(crate) fn new(
        target: Offset,
        segment: SegmentView,
        next: Option<SegmentView>,
        begin: Begin,
        learned: Option<Arc<Learned>>,
    ) -> Lookup {
        let state = match begin {
            Begin::Index { file, len_bytes, guess } => {
                State::Index { file, search: IndexSearch::new(len_bytes, guess) }
            }
            Begin::Between(bracket) => walk_between(&segment, target, bracket, learned.as_deref()),
        };
        Lookup { target, segment, next, state, failed: None, learned }
    }

    /// A look-up whose answer is known at once.
    pub(crate) fn known(target: Offset, segment: SegmentView, found: Found) -> Lookup {
        let state = State::Done(found);
        Lookup { target, segment, next: None, state, failed: None, learned: None }
    }

    /// What to read next, or the answer. Repeats itself until fed.
    pub fn step(&mut self) -> Result<Step<Found>, FindError> {
        self.skip_what_needs_no_bytes();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        Ok(match &self.state {
            State::Done(found) => Step::Done(found.clone()),
            _ => Step::Need(self.need()),
        })
    }

    /// Takes the bytes of the last `Need`: all of them, in one piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Done(_)) {
            return;
        }
        let need = self.need();
        if bytes.len() < need.len_bytes {
            self.failed = Some(FindError::Short {
                segment: self.segment.files.base,
                position: need.position,
                needed: need.len_bytes,
                got: bytes.len(),
            });
            return;
        }
        let bytes = &bytes[..need.len_bytes];
        match &mut self.state {
            State::Index { search, .. } => {
                let (files, target) = (&self.segment.files, self.target);
                search.feed(bytes, |entry| files.absolute(entry.relative_offset) > target);
                if let (None, Some(learned)) = (search.need(), &self.learned) {
                    let sealed = self.segment.sealed;
                    learned.add_page(IndexPage::read(files.base, sealed, search.page(), bytes));
                }
            }
            State::Walk { .. } => self.walk(bytes),
            State::Done(_) => {}
        }
    }

    /// Leaves an index search that is over, and at a segment's end goes on to the next segment.
    fn skip_what_needs_no_bytes(&mut self) {
        if let State::Index { search, .. } = &self.state
            && search.need().is_none()
        {
            let learned = self.learned.as_deref();
            self.state = walk_between(&self.segment, self.target, search.bracket(), learned);
        }
        if let State::Walk { walk, .. } = &self.state
            && walk.is_over()
        {
            self.state = match self.next.take() {
                Some(next) => {
                    self.segment = next;
                    walk_from_start(&self.segment)
                }
                None => State::Done(self.nothing()),
            };
        }
    }

    fn need(&self) -> Need {
        match &self.state {
            State::Index { file, search } => {
                let (position, len_bytes) = search.need().unwrap_or((0, 0));
                Need { file: file.clone(), position: Position(position), len_bytes }
            }
            State::Walk { walk, window_bytes, .. } => {
                let file = self.segment.files.log.handle().clone();
                Need { file, position: walk.position, len_bytes: *window_bytes }
            }
            State::Done(found) => {
                Need { file: found.file.clone(), position: found.position, len_bytes: 0 }
            }
        }
    }

    /// Walks over the headers that lie in `bytes`.
    fn walk(&mut self, bytes: &[u8]) {
        let State::Walk { walk, origin, .. } = &self.state else { return };
        let (mut walk, mut origin) = (walk.clone(), *origin);
        let window_at = walk.position;
        loop {
            let place = match walk.look(bytes, window_at) {
                Seen::Batch(_, place) => place,
                Seen::EndOfWindow => break,
                Seen::Unsound => return self.distrust(origin, &walk),
            };
            if let Origin::Entry { names, .. } = origin {
                if place.base > self.target || place.last > names {
                    return self.distrust(origin, &walk);
                }
                origin = Origin::EntryConfirmed;
            }
            walk.step(&place);
            if place.last >= self.target {
                self.state = State::Done(self.found(&place));
                self.learn(&place, walk, bytes, window_at);
                return;
            }
        }
        self.state = State::Walk { window_bytes: walk.window_bytes(), walk, origin };
    }

    /// Remembers the batch that was found, and those behind it whose headers were read with it: a
    /// consumer that reads on asks for them next.
    fn learn(&self, found: &BatchPlace, mut walk: HeaderWalk, bytes: &[u8], window_at: Position) {
        let Some(learned) = &self.learned else { return };
        learned.add_batch(found);
        for _ in 0..LEARNED_BEHIND {
            match walk.look(bytes, window_at) {
                Seen::Batch(_, behind) if !walk.is_over() => {
                    learned.add_batch(&behind);
                    walk.step(&behind);
                }
                _ => return,
            }
        }
    }

    /// The bytes that were read are not the batch, or no batch. If an index led here, try a longer
    /// path.
    fn distrust(&mut self, origin: Origin, walk: &HeaderWalk) {
        match origin {
            Origin::SegmentStart => {
                let segment = self.segment.files.base;
                self.failed = Some(FindError::Corrupt { segment, position: walk.position });
            }
            Origin::Entry { floor, .. } => {
                self.state = walk_from(&self.segment, self.target, floor, None, WINDOW_BYTES);
            }
            Origin::EntryConfirmed => self.state = walk_from_start(&self.segment),
        }
    }

    fn found(&self, place: &BatchPlace) -> Found {
        Found {
            segment: self.segment.files.base,
            base_offset: place.base,
            batch_len_bytes: place.len_bytes,
            file: self.segment.files.log.handle().clone(),
            position: place.position,
            committed_bytes: self.segment.sound_bytes(place.position),
            sealed: self.segment.sealed,
        }
    }

    /// The target is below the log end, but no batch reaches it.
    fn nothing(&self) -> Found {
        let end = Position(self.segment.committed_bytes);
        Found {
            segment: self.segment.files.base,
            base_offset: self.target,
            batch_len_bytes: 0,
            file: self.segment.files.log.handle().clone(),
            position: end,
            committed_bytes: end.0,
            sealed: self.segment.sealed,
        }
    }
}

/// Begins where one read is likely to be enough.
fn walk_between(
    segment: &SegmentView,
    target: Offset,
    bracket: Bracket<OffsetEntry>,
    learned: Option<&Learned>,
) -> State {
    const HEADER_BYTES: u64 = HEADER_LEN as u64;
    let Bracket { floor, next } = bracket;
    let names_target = |entry: OffsetEntry| segment.files.absolute(entry.relative_offset) == target;
    let floor_at = floor.map_or(0, |floor| floor.position.into());
    let apart = next.and_then(|next| u64::from(next.position).checked_sub(floor_at));
    match apart {
        _ if floor.is_some_and(names_target) => {
            walk_from(segment, target, floor, None, HEADER_BYTES)
        }
        None => walk_from(segment, target, floor, None, WINDOW_BYTES),
        Some(apart @ ..=NEAR_BYTES) if !has_own_entries(apart, learned) => {
            walk_from(segment, target, floor, None, apart + HEADER_BYTES)
        }
        Some(_) => walk_from(segment, target, next, floor, HEADER_BYTES),
    }
}

/// Whether every batch is likely to have an entry, so that the one behind the target leads to it.
fn has_own_entries(entries_apart: u64, learned: Option<&Learned>) -> bool {
    let usual_bytes = learned.and_then(Learned::usual_batch_bytes);
    usual_bytes.is_some_and(|usual| (usual * 2 / 3..usual * 3 / 2).contains(&entries_apart))
}

/// Walks from an entry, or from the segment's start if the entry is impossible. The first read is
/// of `first_bytes`.
fn walk_from(
    segment: &SegmentView,
    target: Offset,
    entry: Option<OffsetEntry>,
    floor: Option<OffsetEntry>,
    first_bytes: u64,
) -> State {
    let end = Position(segment.committed_bytes);
    let inside = |entry: &OffsetEntry| (Position(1)..end).contains(&entry.position());
    let entry = entry.filter(inside);
    let damage = entry.and_then(|entry| segment.damage.at(entry.position()));
    let (position, origin) = match (entry, damage) {
        (Some(entry), None) => {
            let names = segment.files.absolute(entry.relative_offset);
            (entry.position(), Origin::Entry { names, floor })
        }
        // The entry is older than the damage. A batch begins where the damage ends.
        (Some(_), Some(range)) if range.end <= target => {
            (range.end_position(), Origin::EntryConfirmed)
        }
        (Some(_), Some(_)) if floor.is_some() => {
            return walk_from(segment, target, floor, None, WINDOW_BYTES);
        }
        _ => (Position(0), Origin::SegmentStart),
    };
    let walk = HeaderWalk::new(segment.files.base, position, end).over(&segment.damage);
    State::Walk { window_bytes: walk.at_most(first_bytes), walk, origin }
}

fn walk_from_start(segment: &SegmentView) -> State {
    walk_from(segment, segment.files.base, None, None, WINDOW_BYTES)
}
