//! A partition's directory as a broken disk may leave it: opened, read, written on, opened again.
//!
//! Of each segment the log is made of parts: sound batches, so that recovery has something to find, and
//! junk. Indexes and the two text files are any bytes at all. What must hold whatever they are:
//!
//! - opening ends, with a log or an error; look-ups end, after a bounded number of reads below the end;
//! - offsets ascend: from batch to batch, from segment to segment, from start to end, over a reopening;
//! - an append is found where it was acknowledged, also after the next start;
//! - after an unclean stop of which no recovery point is known, every batch has been proved, so that all can
//!   be read that is not said to be damaged.

#![no_main]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use libfuzzer_sys::{arbitrary, arbitrary::Arbitrary, fuzz_target};
use penstock_batch::{BatchBuilder, BatchHeader, NewRecord, assign};
use penstock_storage::{
    Find, FindError, Found, LastStop, Log, LogConfig, Lookup, Need, Offset, ProducedBatch, Step,
};

/// More than any look-up into some KiB of log and index has reason to read.
const READS_MAX: usize = 2_000;

const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Arbitrary, Debug)]
struct Directory<'a> {
    first: Segment<'a>,
    second: Option<Segment<'a>>,
    epochs: Epochs<'a>,
    metadata: Metadata<'a>,
    was_clean: bool,
    next_is_clean: bool,
    index_interval_bytes: u8,
    segment_bytes: u16,
    offsets: [i64; 2],
    timestamps: [i64; 2],
}

#[derive(Arbitrary, Debug)]
struct Segment<'a> {
    base: Base,
    log: Vec<Part<'a>>,
    offsets: Index<'a>,
    times: Index<'a>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Base {
    Low(u8),
    FromTheTop(u8),
}

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    Batch { offset: i16, records: u8, timestamp_ms: i16, leader_epoch: i8 },
    Damaged { at: u8, by: u8 },
    Junk(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Index<'a> {
    Missing,
    Any(&'a [u8]),
    Entries(Vec<(u8, u16)>),
}

/// `leader-epoch-checkpoint`.
#[derive(Arbitrary, Debug)]
enum Epochs<'a> {
    Missing,
    Any(&'a [u8]),
    /// Each epoch and where it began, in whatever order.
    Lines(Vec<(u8, u16)>),
}

/// `partition.metadata`.
#[derive(Arbitrary, Debug)]
enum Metadata<'a> {
    Missing,
    Any(&'a [u8]),
    Sound,
}

fuzz_target!(|given: Directory<'_>| {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(root).expect("room for a directory");
    given.lay_out(dir.path()).expect("room for a few KiB");
    let config = LogConfig {
        index_interval_bytes: given.index_interval_bytes.into(),
        segment_bytes: given.segment_bytes.into(),
        ..LogConfig::default()
    };
    let was = stop(given.was_clean);
    let Ok((mut log, _)) = Log::open(dir.path(), config.clone(), was) else { return };
    check_shape(&log);
    let is_proved = !given.was_clean;
    read_all(&log, is_proved);
    given.look_up(&log);

    let appended = append(&mut log);
    check_shape(&log);
    let end = log.log_end();
    if given.next_is_clean {
        log.close().expect("nothing is in its way");
    }
    drop(log);
    let reopened = Log::open(dir.path(), config, stop(given.next_is_clean));
    let (log, recovery) = reopened.expect("it opened before");
    check_shape(&log);
    if given.next_is_clean || !given.was_clean {
        assert_eq!((log.log_end(), recovery.truncated_bytes), (end, 0));
        appended.inspect(|offset| assert_eq!(find(&log, *offset).base_offset, *offset));
    }
    read_all(&log, is_proved);
    given.look_up(&log);
});

impl Directory<'_> {
    fn lay_out(&self, dir: &Path) -> std::io::Result<()> {
        for segment in std::iter::once(&self.first).chain(&self.second) {
            segment.lay_out(dir)?;
        }
        if let Some(text) = self.epochs.text() {
            fs::write(dir.join("leader-epoch-checkpoint"), text)?;
        }
        if let Some(text) = self.metadata.text() {
            fs::write(dir.join("partition.metadata"), text)?;
        }
        Ok(())
    }

    fn look_up(&self, log: &Log) {
        for offset in self.offsets {
            let end = log.log_end().0;
            for offset in [offset, offset.checked_rem(end).unwrap_or(0)] {
                if let Ok(Find::Lookup(lookup)) = log.find(Offset(offset)) {
                    let _ = drive(lookup);
                }
            }
        }
        for timestamp_ms in self.timestamps.into_iter().chain([0, i64::MIN, i64::MAX]) {
            if let Ok(Some(found)) = drive(log.find_timestamp(timestamp_ms)) {
                assert!(found.offset >= log.log_start());
            }
        }
        let _ = drive(log.find_max_timestamp());
    }
}

impl Segment<'_> {
    fn lay_out(&self, dir: &Path) -> std::io::Result<()> {
        let base = match self.base {
            Base::Low(base) => base.into(),
            Base::FromTheTop(below) => i64::MAX - i64::from(below),
        };
        let create = |suffix| File::create(dir.join(format!("{base:020}.{suffix}")));
        create("log")?.write_all(&self.log_bytes(base))?;
        if let Some(bytes) = self.offsets.bytes(|offset, at| [offset, at].concat()) {
            create("index")?.write_all(&bytes)?;
        }
        let with_time = |offset: &[u8], at: &[u8]| [&[0; 4], at, offset].concat();
        if let Some(bytes) = self.times.bytes(with_time) {
            create("timeindex")?.write_all(&bytes)?;
        }
        Ok(())
    }

    fn log_bytes(&self, base: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut start = 0;
        for part in &self.log {
            match *part {
                Part::Batch { offset, records, timestamp_ms, leader_epoch } => {
                    start = bytes.len();
                    bytes.extend(batch(records % 8 + 1, timestamp_ms.into()));
                    assign(
                        &mut bytes[start..],
                        base.wrapping_add(offset.into()),
                        leader_epoch.into(),
                    );
                }
                Part::Damaged { at, by } => {
                    let last_batch = &mut bytes[start..];
                    let byte = last_batch.get_mut(usize::from(at));
                    byte.into_iter().for_each(|byte| *byte ^= by);
                }
                Part::Junk(junk) => bytes.extend(junk),
            }
        }
        bytes
    }
}

impl Index<'_> {
    fn bytes(&self, entry: impl Fn(&[u8], &[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Index::Missing => None,
            Index::Any(bytes) => Some(bytes.to_vec()),
            Index::Entries(entries) => Some(
                entries
                    .iter()
                    .flat_map(|(offset, at)| {
                        entry(&u32::from(*offset).to_be_bytes(), &u32::from(*at).to_be_bytes())
                    })
                    .collect(),
            ),
        }
    }
}

impl Epochs<'_> {
    fn text(&self) -> Option<Vec<u8>> {
        match self {
            Epochs::Missing => None,
            Epochs::Any(bytes) => Some(bytes.to_vec()),
            Epochs::Lines(lines) => {
                let listed = lines.iter().map(|(epoch, start)| format!("{epoch} {start}\n"));
                Some(format!("0\n{}\n{}", lines.len(), listed.collect::<String>()).into())
            }
        }
    }
}

impl Metadata<'_> {
    fn text(&self) -> Option<Vec<u8>> {
        match self {
            Metadata::Missing => None,
            Metadata::Any(bytes) => Some(bytes.to_vec()),
            Metadata::Sound => Some(b"version: 0\ntopic_id: AAECA_v_BgcICQoLDA0O_w\n".to_vec()),
        }
    }
}

fn stop(clean: bool) -> LastStop {
    if clean { LastStop::Clean } else { LastStop::Unclean }
}

fn batch(records: u8, timestamp_ms: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.push(NewRecord { timestamp_ms, ..NewRecord::default() });
    }
    builder.finish()
}

fn check_shape(log: &Log) {
    assert!(log.log_start() <= log.log_end());
    let segments: Vec<_> = log.segments().collect();
    assert!(segments.is_sorted_by(|a, b| a.base_offset < b.base_offset));
    assert_eq!(segments.iter().map(|segment| segment.size_bytes).sum::<u64>(), log.size_bytes());
    assert!(segments.last().is_some_and(|active| active.base_offset <= log.log_end()));
    let epochs = log.leader_epochs();
    assert!(epochs.is_sorted_by(|a, b| a.leader_epoch < b.leader_epoch && a.start <= b.start));
}

/// Reads as a consumer does that goes on behind damage, from the start to the end or to what cannot be read.
fn read_all(log: &Log, must_succeed: bool) {
    let mut offset = log.log_start();
    loop {
        let lookup = match log.find(offset) {
            Ok(Find::Lookup(lookup)) => lookup,
            Err(FindError::Damaged { end, .. }) => {
                assert!(end > offset);
                offset = end;
                continue;
            }
            Ok(Find::AtEnd) | Err(_) => break,
        };
        let next = drive(lookup).map(|found| next_offset(&found, offset));
        match next {
            Ok(Some(next)) => offset = next,
            Ok(None) => {
                let mut behind = log.segments().filter(|segment| segment.base_offset > offset);
                assert!(behind.all(|segment| segment.size_bytes == 0), "batches behind a gap");
                return;
            }
            Err(error) if must_succeed => panic!("at {offset}: {error}"),
            Err(_) => return,
        }
    }
    assert!(!must_succeed || offset == log.log_end(), "{offset} of {}", log.log_end());
}

/// What comes after the batch that was found; `None` when there was nothing but a gap.
fn next_offset(found: &Found, asked: Offset) -> Option<Offset> {
    let extent = found.extent(u64::MAX, true)?;
    let mut bytes = vec![0; extent.len_bytes as usize];
    extent.file.read_exact_at(&mut bytes, extent.position.0).expect("committed bytes exist");
    let header = BatchHeader::parse(&bytes).expect("an extent begins with a batch");
    assert_eq!(header.base_offset, found.base_offset.0);
    assert!(header.last_offset() >= asked.0);
    Some(Offset(header.last_offset().saturating_add(1)))
}

/// Appends a batch as the server would; its offset, or `None` when the log is full to the last offset.
fn append(log: &mut Log) -> Option<Offset> {
    let sent = Bytes::from(batch(3, NOW_MS));
    let terms = LogConfig::default().terms(NOW_MS, true);
    let batches = ProducedBatch::validate(sent, &terms).expect("we built it");
    if let Some(roll) = log.needs_roll(&batches, NOW_MS) {
        log.install_roll(roll.create().ok()?);
    }
    let expected = log.log_end();
    let append = log.begin_append(batches, 7, NOW_MS).ok()?;
    let mut position = append.position.0;
    for piece in &append.pieces {
        append.file.write_all_at(piece, position).expect("room for a batch");
        position += piece.len() as u64;
    }
    let appended = log.finish_append(append);
    assert_eq!((appended.base_offset, appended.last_offset.0), (expected, expected.0 + 2));
    assert_eq!(log.log_end().0, expected.0 + 3);
    assert_eq!(find(log, expected).base_offset, expected);
    Some(expected)
}

fn find(log: &Log, offset: Offset) -> Found {
    match log.find(offset).expect("it is in range") {
        Find::Lookup(lookup) => drive(lookup).expect("it was acknowledged"),
        Find::AtEnd => panic!("{offset} was acknowledged"),
    }
}

/// What can be driven: both look-ups have this shape.
trait Machine {
    type Answer;
    fn step(&mut self) -> Result<Step<Self::Answer>, FindError>;
    fn feed(&mut self, bytes: &[u8]);
}

macro_rules! machine {
    ($machine:ty, $answer:ty) => {
        impl Machine for $machine {
            type Answer = $answer;
            fn step(&mut self) -> Result<Step<$answer>, FindError> {
                self.step()
            }
            fn feed(&mut self, bytes: &[u8]) {
                self.feed(bytes)
            }
        }
    };
}

machine!(Lookup, Found);
machine!(penstock_storage::TimestampLookup, Option<penstock_storage::TimestampFound>);

fn drive<M: Machine>(mut machine: M) -> Result<M::Answer, FindError> {
    for _ in 0..READS_MAX {
        match machine.step() {
            Ok(Step::Need(need)) => machine.feed(&read(&need)),
            Ok(Step::Done(answer)) => return Ok(answer),
            Err(short @ FindError::Short { .. }) => panic!("all was fed: {short}"),
            Err(error) => return Err(error),
        }
    }
    panic!("{READS_MAX} reads and no end")
}

fn read(need: &Need) -> Vec<u8> {
    let mut bytes = vec![0; need.len_bytes];
    need.file.read_exact_at(&mut bytes, need.position.0).expect("what is needed exists");
    bytes
}
