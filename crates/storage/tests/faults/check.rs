//! Invariants of a log, whatever has happened. Reads it as consumers do.

use std::{collections::BTreeMap, ops::Range, os::unix::fs::FileExt};

use penstock_batch::{self as batch, check_crc};
use penstock_storage::{Find, FindError, Found, Log, Lookup, Need, Offset, Step, TimestampLookup};

use crate::{
    producers::{Number, Producers},
    random::Random,
};

/// The batch that begins at each offset.
pub type Batches = BTreeMap<Offset, Number>;

/// The result of reading a whole log.
#[derive(Debug, Default)]
pub struct Content {
    pub batches: Batches,
    /// Offsets that lead to damage or are passed over.
    pub gaps: Vec<Range<Offset>>,
}

impl Content {
    fn miss(&mut self, gap: Range<Offset>) {
        match self.gaps.last_mut().filter(|last| last.end >= gap.start) {
            Some(last) => last.end = last.end.max(gap.end),
            None => self.gaps.push(gap),
        }
    }
}

/// Reads everything from `from` on. Batches ascend, each is one that a producer sent, and none is
/// there more often than it was sent.
pub fn content(log: &Log, from: Offset, producers: &Producers, random: &mut Random) -> Content {
    let mut content = Content::default();
    let mut next = from.max(log.log_start());
    while next < log.log_end() {
        if let Err(FindError::Damaged { end, .. }) = log.find(next) {
            assert!(next < end, "damage at {next} ends at {end}");
            content.miss(next..end);
            next = end;
            continue;
        }
        let found = look_up(log, next);
        if found.base_offset > next {
            content.miss(next..found.base_offset);
        }
        let Some(extent) = found.extent(random.below(8000) as u64, true) else {
            next = log.log_end();
            continue;
        };
        let mut bytes = vec![0; extent.len_bytes as usize];
        extent.file.read_exact_at(&mut bytes, extent.position.0).expect("an extent can be read");
        next = found.base_offset;
        for (header, batch) in batch::Batches::new(&bytes).map_while(Result::ok) {
            check_crc(batch).expect("an extent holds sound batches");
            let base = Offset(header.base_offset);
            assert!(base >= next, "{base} comes behind {next}");
            if base > next {
                content.miss(next..base);
            }
            // Recovery puts an empty batch behind offsets that must not be used again.
            if header.record_count > 0 {
                content.batches.insert(base, producers.recognise(batch));
            }
            next = Offset(header.last_offset() + 1);
        }
        assert!(next > found.base_offset, "an extent begins with a whole batch");
    }
    let end = log.log_end().max(from);
    assert!(next == end, "reading ends at {next}, the log at {end}; {:?}", content.gaps);
    assert!(matches!(log.find(log.log_end()), Ok(Find::AtEnd)));
    each_as_often_as_sent(&content.batches, producers);
    content
}

/// Every offset in the log leads to its batch, every other one to an error.
pub fn look_ups(log: &Log, content: &Batches, producers: &Producers, random: &mut Random) {
    for (base, number) in content {
        let inside = random.below(producers.sent(*number).records as usize) as i64;
        let found = look_up(log, Offset(base.0 + inside));
        assert_eq!(found.base_offset, *base, "an offset leads to its batch");
    }
    for outside in [log.log_start().0 - 1, log.log_end().0 + 1] {
        assert!(matches!(log.find(Offset(outside)), Err(FindError::OutOfRange { .. })));
    }
}

/// Some moment, and the latest, lead to the record that a plain reading finds.
pub fn time_look_ups(log: &Log, content: &Batches, producers: &Producers, random: &mut Random) {
    let records = || {
        content.iter().flat_map(|(base, number)| {
            let sent = producers.sent(*number);
            (0..i64::from(sent.records)).map(|n| (Offset(base.0 + n), sent.first_ms + n))
        })
    };
    let Some((_, some_ms)) = records().nth(random.below(content.len().max(1))) else { return };
    let expected = records().find(|(_, ms)| *ms >= some_ms);
    assert_eq!(look_up_time(log.find_timestamp(some_ms)), expected, "from {some_ms} ms on");
    let greatest = records().map(|(_, ms)| ms).max().expect("there is a record");
    let expected = records().find(|(_, ms)| *ms == greatest);
    assert_eq!(look_up_time(log.find_max_timestamp()), expected, "the greatest is {greatest} ms");
}

pub fn look_up(log: &Log, offset: Offset) -> Found {
    match log.find(offset) {
        Ok(Find::Lookup(lookup)) => drive(lookup).unwrap_or_else(|e| {
            let damage: Vec<_> = log.damage().collect();
            panic!("{offset}: {e}; {:?} {damage:?}", log.segments().collect::<Vec<_>>())
        }),
        other => panic!("{offset} is in the log, not {other:?}"),
    }
}

fn each_as_often_as_sent(content: &Batches, producers: &Producers) {
    let mut times = BTreeMap::<Number, usize>::new();
    content.values().for_each(|number| *times.entry(*number).or_default() += 1);
    for (number, times) in times {
        let sent = producers.sent(number);
        let allowed = if sent.is_idempotent { 1 } else { sent.sends };
        assert!(times <= allowed, "{number:?} is there {times} times, sent {}", sent.sends);
    }
}

fn drive(mut lookup: Lookup) -> Result<Found, FindError> {
    loop {
        match lookup.step()? {
            Step::Done(found) => return Ok(found),
            Step::Need(need) => lookup.feed(&read(&need)),
        }
    }
}

fn look_up_time(mut lookup: TimestampLookup) -> Option<(Offset, i64)> {
    loop {
        match lookup.step().expect("a sound log can be searched by time") {
            Step::Done(found) => return found.map(|found| (found.offset, found.timestamp_ms)),
            Step::Need(need) => lookup.feed(&read(&need)),
        }
    }
}

fn read(need: &Need) -> Vec<u8> {
    let mut bytes = vec![0; need.len_bytes];
    need.file.read_exact_at(&mut bytes, need.position.0).expect("what is needed exists");
    bytes
}
