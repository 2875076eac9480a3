//! From a timestamp to a record, in the same ask-and-feed shape as `Lookup`.
//!
//! ```text
//!   for each segment, oldest first:
//!     Claim ──▶ its greatest timestamp is too early: next segment
//!       └────▶ Times (search .timeindex) ──▶ Place (Lookup of that offset) ──▶ Walk (headers)
//!                                                                              └──▶ Records ──▶ Done
//! ```
//!
//! The greatest timestamp takes two rounds: the first collects every segment's claim, the second
//! looks for the first record that has the greatest of them.
//!
//! Look-ups do not decompress, so a compressed batch answers with its base offset and its greatest
//! timestamp. A consumer that seeks there reads a few records too many, never one too few. A
//! `.timeindex` that calls a whole segment too early is believed. All its other claims are
//! confirmed by the log.

use std::{collections::VecDeque, fs::File, sync::Arc};

use penstock_batch::{BatchHeader, Codec, TimestampType, records};

use crate::{
    find::{
        index_search::IndexSearch,
        offset::{Begin, Lookup},
        step::{FindError, Need, Step},
        timestamp_source::TimestampSource,
    },
    segment::{
        batch_place::{
            BatchPlace, HeaderWalk, Seen, hides_max_timestamp, max_timestamp_of_records,
        },
        index_entry::{Bracket, Entry, OffsetEntry, TimeEntry},
    },
    units::{Offset, Position},
};

/// Larger batches are not read for their records. They answer as if they were compressed.
const LARGEST_BATCH_READ_BYTES: u64 = 16 << 20;

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampFound {
    /// The record, or the first one of its batch if that is compressed.
    pub offset: Offset,
    /// Its timestamp, or the greatest one of its batch if that is compressed.
    pub timestamp_ms: i64,
    /// The leader epoch of its batch.
    pub leader_epoch: i32,
}

/// Finds a record by time.
#[derive(Debug)]
pub struct TimestampLookup {
    wanted: Wanted,
    log_start: Offset,
    /// The front segment is the one being looked at.
    sources: VecDeque<TimestampSource>,
    state: State,
    failed: Option<FindError>,
}

#[derive(Debug)]
enum Wanted {
    AtLeast(i64),
    /// The greatest claim so far, and its segment.
    Newest(Option<(TimeEntry, TimestampSource)>),
}

#[derive(Debug)]
enum State {
    /// Decide what to do with the front segment.
    Enter,
    Claim {
        file: Arc<File>,
        position: Position,
    },
    Times {
        file: Arc<File>,
        search: IndexSearch<TimeEntry>,
    },
    Place {
        lookup: Box<Lookup>,
        mark: TimeEntry,
    },
    /// Go through headers. The first one must confirm `mark`.
    Walk {
        walk: HeaderWalk,
        mark: Option<TimeEntry>,
        origin: Origin,
    },
    Records {
        walk: HeaderWalk,
        place: BatchPlace,
    },
    Done(Option<TimestampFound>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Index,
    SegmentStart,
}

impl TimestampLookup {
    pub(crate) fn at_least(
        timestamp_ms: i64,
        sources: VecDeque<TimestampSource>,
        log_start: Offset,
    ) -> TimestampLookup {
        let wanted = Wanted::AtLeast(timestamp_ms);
        TimestampLookup { wanted, log_start, sources, state: State::Enter, failed: None }
    }

    pub(crate) fn newest(sources: VecDeque<TimestampSource>, log_start: Offset) -> TimestampLookup {
        let wanted = Wanted::Newest(None);
        TimestampLookup { wanted, log_start, sources, state: State::Enter, failed: None }
    }

    /// What to read next, or the answer; `None` is "no such record". May open index files.
    pub fn step(&mut self) -> Result<Step<Option<TimestampFound>>, FindError> {
        loop {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if let State::Done(found) = self.state {
                return Ok(Step::Done(found));
            }
            if let Some(need) = self.advance()? {
                return Ok(Step::Need(need));
            }
        }
    }

    /// Takes the bytes of the last `Need`: all of them, in one piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        match std::mem::replace(&mut self.state, State::Enter) {
            State::Claim { .. } => {
                let claim = (bytes.len() >= TimeEntry::LEN).then(|| TimeEntry::decode(bytes));
                self.take_claim(claim.filter(|claim| claim.relative_offset > 0));
            }
            State::Times { file, mut search } => {
                let wanted = self.wanted_ms();
                search.feed(bytes, |entry| entry.timestamp_ms >= wanted);
                self.state = State::Times { file, search };
            }
            State::Place { mut lookup, mark } => {
                lookup.feed(bytes);
                self.state = State::Place { lookup, mark };
            }
            State::Walk { walk, mark, origin } => self.walk(bytes, walk, mark, origin),
            State::Records { walk, place } => self.search_records(bytes, walk, &place),
            state @ (State::Enter | State::Done(_)) => self.state = state,
        }
    }

    /// Takes one step. Returns the bytes without which it cannot go on.
    fn advance(&mut self) -> Result<Option<Need>, FindError> {
        match &mut self.state {
            State::Enter => self.enter()?,
            State::Claim { file, position } => {
                let (file, position) = (file.clone(), *position);
                return Ok(Some(Need { file, position, len_bytes: TimeEntry::LEN }));
            }
            State::Times { file, search } => {
                if let Some((position, len_bytes)) = search.need() {
                    let position = Position(position);
                    return Ok(Some(Need { file: file.clone(), position, len_bytes }));
                }
                match search.bracket().floor {
                    Some(mark) => self.place(mark, None)?,
                    None => self.walk_from_start(),
                }
            }
            State::Place { lookup, mark } => match lookup.step()? {
                Step::Need(need) => return Ok(Some(need)),
                Step::Done(found) => {
                    let mark = Some(*mark);
                    let walk = self.front().walk_from(found.position());
                    self.state = State::Walk { walk, mark, origin: Origin::Index };
                }
            },
            State::Walk { walk, .. } if walk.is_over() => self.leave(None),
            State::Walk { walk, .. } => {
                let (position, len_bytes) = (walk.position, walk.window_bytes());
                let file = self.front().view.files.log.handle().clone();
                return Ok(Some(Need { file, position, len_bytes }));
            }
            State::Records { place, .. } => {
                let (position, len_bytes) = (place.position, place.len_bytes as usize);
                let file = self.front().view.files.log.handle().clone();
                return Ok(Some(Need { file, position, len_bytes }));
            }
            State::Done(_) => {}
        }
        Ok(None)
    }

    /// Enters the front segment, whose greatest timestamp is known or must be read.
    fn enter(&mut self) -> Result<(), FindError> {
        let Some(source) = self.sources.front() else {
            self.finish_round();
            return Ok(());
        };
        if source.newest.is_some() {
            self.take_claim(source.newest);
            return Ok(());
        }
        let times = source.view.files.times.open().map_err(source.io())?;
        let last = times.and_then(|(file, len_bytes)| {
            let len_bytes = len_bytes.min(source.times_bytes);
            Some((file, Position(len_bytes.checked_sub(TimeEntry::LEN as u64)?)))
        });
        match last {
            Some((file, position)) => self.state = State::Claim { file, position },
            None => self.take_claim(None),
        }
        Ok(())
    }

    /// Takes the front segment's greatest timestamp, as far as its index has it.
    fn take_claim(&mut self, claim: Option<TimeEntry>) {
        let Some(claim) = claim else { return self.walk_from_start() };
        match &self.wanted {
            Wanted::AtLeast(wanted) if claim.timestamp_ms < *wanted => self.leave(None),
            Wanted::AtLeast(_) => self.search_times(),
            Wanted::Newest(_) => self.leave(Some(claim)),
        }
    }

    /// The front segment has the record. Decides where the search in it begins.
    fn search_times(&mut self) {
        let source = self.front();
        let begun = match source.mark {
            Some((mark, place)) => self.place(mark, place),
            None => match source.view.files.times.open().map_err(source.io()) {
                Ok(Some((file, len_bytes))) => {
                    let search = IndexSearch::new(len_bytes.min(source.times_bytes), None);
                    self.state = State::Times { file, search };
                    Ok(())
                }
                Ok(None) => {
                    self.walk_from_start();
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        self.failed = begun.err();
    }

    /// Everything before the mark's batch is too early. Goes to that batch.
    fn place(&mut self, mark: TimeEntry, near: Option<OffsetEntry>) -> Result<(), FindError> {
        let source = self.front();
        let files = &source.view.files;
        let start = match near {
            Some(entry) => Begin::Between(Bracket { floor: Some(entry), next: None }),
            None => match files.offsets.open().map_err(source.io())? {
                Some((file, len_bytes)) => {
                    let len_bytes = len_bytes.min(source.offsets_bytes);
                    Begin::Index { file, len_bytes, guess: None }
                }
                None => Begin::Between(Bracket::NONE),
            },
        };
        let target = files.absolute(mark.relative_offset);
        let lookup = Box::new(Lookup::new(target, source.view.clone(), None, start, None));
        self.state = State::Place { lookup, mark };
        Ok(())
    }

    fn walk_from_start(&mut self) {
        let walk = self.front().walk_from(Position(0));
        self.state = State::Walk { walk, mark: None, origin: Origin::SegmentStart };
    }

    /// Walks over the headers in `bytes` up to the one that is wanted.
    fn walk(
        &mut self,
        bytes: &[u8],
        mut walk: HeaderWalk,
        mut mark: Option<TimeEntry>,
        origin: Origin,
    ) {
        let window_at = walk.position;
        loop {
            let (header, place) = match walk.look(bytes, window_at) {
                Seen::Batch(header, place) => (header, place),
                Seen::EndOfWindow => break,
                Seen::Unsound => return self.distrust(origin, &walk),
            };
            // An index may have the timestamp that a header hides.
            let is_wrong = |mark: TimeEntry| mark.timestamp_ms != place.max_timestamp_ms;
            if mark.take().is_some_and(is_wrong) && !hides_max_timestamp(&header) {
                return self.distrust(origin, &walk);
            }
            if self.consider(&header, &place, &walk) {
                return;
            }
            walk.step(&place);
        }
        self.state = State::Walk { walk, mark, origin };
    }

    /// Whether this batch ends the walk, or has to be read before it can go on.
    fn consider(&mut self, header: &BatchHeader, place: &BatchPlace, walk: &HeaderWalk) -> bool {
        let is_readable = place.len_bytes <= LARGEST_BATCH_READ_BYTES;
        let must_be_read = is_readable && hides_max_timestamp(header);
        let is_late_enough = match &self.wanted {
            _ if place.last < self.log_start => return false,
            Wanted::AtLeast(wanted) => place.max_timestamp_ms >= *wanted,
            Wanted::Newest(_) if must_be_read => false,
            Wanted::Newest(_) => {
                self.survey(place, place.max_timestamp_ms);
                return false;
            }
        };
        let has_one_time = header.timestamp_type() == TimestampType::LogAppendTime;
        let has_records = header.codec() == Some(Codec::None) && is_readable && !has_one_time;
        if must_be_read || is_late_enough && has_records {
            self.state = State::Records { walk: walk.clone(), place: *place };
        } else if is_late_enough {
            self.state = State::Done(Some(self.whole_batch(header)));
        }
        must_be_read || is_late_enough
    }

    /// Takes the greatest timestamp of the front segment so far.
    fn survey(&mut self, place: &BatchPlace, timestamp_ms: i64) {
        let front = self.front_mut();
        let known = front.newest.map_or(-1, |newest| newest.timestamp_ms);
        if timestamp_ms > known
            && let Some(relative_offset) = front.view.files.relative(place.last)
        {
            front.newest = Some(TimeEntry { timestamp_ms, relative_offset });
        }
    }

    /// Answers with the first record of the batch that is late enough. Without one the walk goes on
    /// behind the batch.
    fn search_records(&mut self, bytes: &[u8], mut walk: HeaderWalk, place: &BatchPlace) {
        let header = match BatchHeader::parse(bytes) {
            Ok(header) if bytes.len() as u64 >= place.len_bytes => header,
            _ => return self.distrust(Origin::SegmentStart, &walk),
        };
        if let Wanted::Newest(_) = self.wanted {
            self.survey(place, max_timestamp_of_records(bytes).unwrap_or(place.max_timestamp_ms));
            walk.step(place);
            self.state = State::Walk { walk, mark: None, origin: Origin::SegmentStart };
            return;
        }
        let wanted = self.wanted_ms();
        let mut all = records(bytes).into_iter().flatten();
        let hit = all.find_map(|record| match record {
            Ok(record) if record.timestamp_ms < wanted => None,
            Ok(record) if record.offset < self.log_start.0 => None,
            Ok(record) => Some(TimestampFound {
                offset: Offset(record.offset),
                timestamp_ms: record.timestamp_ms,
                leader_epoch: header.leader_epoch,
            }),
            Err(_) => Some(self.whole_batch(&header)),
        });
        walk.step(place);
        self.state = match hit {
            Some(found) => State::Done(Some(found)),
            None => State::Walk { walk, mark: None, origin: Origin::SegmentStart },
        };
    }

    fn whole_batch(&self, header: &BatchHeader) -> TimestampFound {
        TimestampFound {
            offset: Offset(header.base_offset).max(self.log_start),
            timestamp_ms: BatchPlace::of(header, Position(0)).max_timestamp_ms,
            leader_epoch: header.leader_epoch,
        }
    }

    /// The bytes that were read do not fit. If an index led here, it was wrong: walk from the
    /// segment's start.
    fn distrust(&mut self, origin: Origin, walk: &HeaderWalk) {
        if origin == Origin::Index {
            return self.walk_from_start();
        }
        let segment = self.front().view.files.base;
        self.failed = Some(FindError::Corrupt { segment, position: walk.position });
    }

    /// Leaves the front segment, whose greatest timestamp is `claim` if that was asked.
    fn leave(&mut self, claim: Option<TimeEntry>) {
        self.state = State::Enter;
        let Some(mut source) = self.sources.pop_front() else { return };
        let Wanted::Newest(best) = &mut self.wanted else { return };
        let Some(claim) = claim.or(source.newest) else { return };
        if best.as_ref().is_none_or(|(best, _)| claim.timestamp_ms > best.timestamp_ms) {
            let place = source.mark.take().and_then(|(_, place)| place);
            source.mark = Some((claim, place));
            *best = Some((claim, source));
        }
    }

    /// No segment is left. A search for the greatest timestamp begins its second round.
    fn finish_round(&mut self) {
        self.state = State::Done(None);
        if let Wanted::Newest(Some((claim, source))) =
            std::mem::replace(&mut self.wanted, Wanted::AtLeast(i64::MAX))
        {
            self.wanted = Wanted::AtLeast(claim.timestamp_ms);
            self.sources.push_back(source);
            self.search_times();
        }
    }

    /// The timestamp sought. Not asked in a search for the greatest.
    fn wanted_ms(&self) -> i64 {
        if let Wanted::AtLeast(wanted) = self.wanted { wanted } else { i64::MAX }
    }

    fn front(&self) -> &TimestampSource {
        self.sources.front().expect("only Enter and Done have no segment")
    }

    fn front_mut(&mut self) -> &mut TimestampSource {
        self.sources.front_mut().expect("only Enter and Done have no segment")
    }
}
