//! A partition whose Kafka was killed while it exchanged, split or deleted segments. Each moment is
//! a row of the table in docs/FORMAT.md, and each row a test here.
//!
//! ```text
//!   write .cleaned │ rename each to .swap │ old ones to .deleted │ .swap to its name │ unlink
//!   └─ killed here: the old log ─────────┴─ here: the new one ────────────────────────────────┘
//! ```
//!
//! The steps are those of Kafka 4.4. Of a segment's files the log comes first, of new segments the
//! highest, of old ones the lowest. Every start is tried on the disk that the kill left, then with
//! each of its own calls failing, then with a power cut at each.

use std::{collections::BTreeMap, os::unix::fs::FileExt, path::Path, sync::Arc};

use penstock_batch::{BatchBuilder, Batches, NewRecord, assign};
use penstock_storage::{
    Directory, Disk, Find, LastStop, Log, LogConfig, LogError, Offset, Recovery, RecoveryPoint,
    TopicId,
};
use rustix::io::Errno;

use crate::{
    check::look_up,
    random::Random,
    simulated_disk::{Kind, SimulatedDisk},
    world::LOG_DIR,
};

const KINDS: [&str; 4] = ["log", "index", "timeindex", "txnindex"];

/// Files of a partition, by name.
type Files = BTreeMap<String, Vec<u8>>;

/// One step of Kafka with a name.
#[derive(Clone, Debug)]
enum Act {
    Write(String, Vec<u8>),
    Rename(String, String),
    Unlink(String),
}

/// A log of four segments, and the segments that are to replace some of them.
struct Exchange {
    old: Files,
    replaced: Vec<i64>,
    new: Vec<(i64, Files)>,
}

/// The cleaner keeps every other batch of two segments, in one.
fn compaction() -> Exchange {
    let kept = (0..20).filter(|offset| offset % 2 == 1);
    Exchange { old: log_of(&[0, 10, 20, 30]), replaced: vec![0, 10], new: vec![segment(0, kept)] }
}

/// The cleaner keeps nothing of the first segment.
fn compaction_to_nothing() -> Exchange {
    Exchange { old: log_of(&[0, 10, 20, 30]), replaced: vec![0], new: vec![segment(0, 0..0)] }
}

/// A segment is split in three. Its batches do not change.
fn split() -> Exchange {
    let new = [20..23, 23..26, 26..30].map(|offsets| segment(offsets.start, offsets));
    Exchange { old: log_of(&[0, 10, 20, 30]), replaced: vec![20], new: new.into() }
}

impl Exchange {
    fn write_cleaned(&self) -> Vec<Act> {
        let files = self.new.iter().flat_map(|(_, files)| files);
        files.map(|(name, bytes)| Act::Write(format!("{name}.cleaned"), bytes.clone())).collect()
    }

    fn cleaned_to_swap(&self) -> Vec<Act> {
        let renamed = |(base, files): &(i64, Files)| renames(*base, files, ".cleaned", ".swap");
        self.new.iter().rev().flat_map(renamed).collect()
    }

    fn old_to_deleted(&self) -> Vec<Act> {
        self.replaced.iter().flat_map(|base| renames(*base, &self.old, "", ".deleted")).collect()
    }

    fn swap_to_name(&self) -> Vec<Act> {
        let renamed = |(base, files): &(i64, Files)| renames(*base, files, ".swap", "");
        self.new.iter().rev().flat_map(renamed).collect()
    }

    fn unlink_deleted(&self) -> Vec<Act> {
        let unlinked = |base: &i64| renames(*base, &self.old, ".deleted", "");
        let unlink = |act| match act {
            Act::Rename(name, _) => Act::Unlink(name),
            act => act,
        };
        self.replaced.iter().flat_map(unlinked).map(unlink).collect()
    }

    /// All files are complete and none is in place.
    fn prepared(&self) -> Files {
        after(&self.old, &[self.write_cleaned(), self.cleaned_to_swap()].concat())
    }

    /// The files as if Kafka had not been killed.
    fn done(&self) -> Files {
        let acts = [self.old_to_deleted(), self.swap_to_name(), self.unlink_deleted()];
        after(&self.prepared(), &acts.concat())
    }
}

#[test]
fn while_a_cleaner_writes_its_segment_the_old_ones_count() {
    for exchange in [compaction(), compaction_to_nothing(), split()] {
        for files in moments(&exchange.old, &exchange.write_cleaned()) {
            starts_as(&files, &exchange.old);
        }
        let (base, new) = exchange.new.last().unwrap();
        let mut files = exchange.old.clone();
        let half = new[&name(*base, "log")].len() / 2;
        files.insert(
            format!("{}.cleaned", name(*base, "log")),
            new[&name(*base, "log")][..half].into(),
        );
        starts_as(&files, &exchange.old);
    }
}

#[test]
fn until_every_new_file_is_a_swap_the_old_segments_count() {
    for exchange in [compaction(), compaction_to_nothing(), split()] {
        let written = after(&exchange.old, &exchange.write_cleaned());
        let mut states = moments(&written, &exchange.cleaned_to_swap());
        states.pop();
        for files in states {
            starts_as(&files, &exchange.old);
        }
    }
}

#[test]
fn once_every_new_file_is_a_swap_it_takes_the_place_of_the_old_segments() {
    for exchange in [compaction(), compaction_to_nothing(), split()] {
        starts_as(&exchange.prepared(), &exchange.done());
    }
}

#[test]
fn old_segments_that_are_partly_renamed_to_deleted_are_replaced_all_the_same() {
    for exchange in [compaction(), split()] {
        for files in moments(&exchange.prepared(), &exchange.old_to_deleted()) {
            starts_as(&files, &exchange.done());
        }
    }
}

#[test]
fn swaps_that_have_partly_got_their_names_are_finished() {
    for exchange in [compaction(), compaction_to_nothing(), split()] {
        let files = after(&exchange.prepared(), &exchange.old_to_deleted());
        for files in moments(&files, &exchange.swap_to_name()) {
            starts_as(&files, &exchange.done());
        }
    }
}

#[test]
fn deleted_files_that_wait_to_be_unlinked_go_whether_the_stop_was_clean_or_not() {
    let exchange = compaction();
    let waiting = after(&exchange.prepared(), &exchange.old_to_deleted());
    let waiting = after(&waiting, &exchange.swap_to_name());
    for mut files in moments(&waiting, &exchange.unlink_deleted()) {
        files.insert(format!("{}.deleted", name(10, "snapshot")), vec![7; 56]);
        starts_as(&files, &exchange.done());
        let disk = disk_of(&files);
        let (log, _) = open(&disk, LastStop::Clean).unwrap();
        assert_eq!(
            bases(&log),
            bases(&open(&disk_of(&exchange.done()), LastStop::Clean).unwrap().0)
        );
        assert!(staged(&disk).is_empty());
    }
}

/// Kafka's own start deletes the replaced files and renames their replacements, in the order of a
/// listing, which may be any.
#[test]
fn a_start_of_kafka_that_was_killed_itself_is_finished() {
    for exchange in [compaction(), split()] {
        let prepared = exchange.prepared();
        let unlinks =
            exchange.replaced.iter().flat_map(|base| renames(*base, &exchange.old, "", ""));
        let mut unlinks: Vec<Act> = unlinks
            .map(|act| match act {
                Act::Rename(name, _) => Act::Unlink(name),
                act => act,
            })
            .collect();
        let mut renames = exchange.swap_to_name();
        let done = content(&disk_of(&exchange.done()));
        for seed in 0..40 {
            let mut random = Random::new(seed);
            shuffle(&mut unlinks, &mut random);
            shuffle(&mut renames, &mut random);
            // An index that gets its name before its log does counts as the old log's, and is
            // rebuilt.
            for files in moments(&prepared, &[unlinks.clone(), renames.clone()].concat()) {
                assert_eq!(content(&disk_of(&files)), done, "{:?}", files.keys());
            }
        }
    }
}

/// Retention and truncation rename a segment's files one by one, and unlink them later.
#[test]
fn a_deletion_that_was_cut_short_leaves_the_segments_behind_it() {
    let old = log_of(&[0, 10, 20, 30]);
    let acts = [renames(0, &old, "", ".deleted"), renames(10, &old, "", ".deleted")].concat();
    let done = without(&without(&old, 0), 10);
    let mut states = moments(&old, &acts);
    let whole = states.remove(0);
    starts_as(&whole, &old);
    for files in states {
        let expected =
            if files.contains_key(&name(10, "log")) { without(&old, 0) } else { done.clone() };
        starts_as(&files, &expected);
    }
}

#[test]
fn indexes_of_a_segment_that_is_gone_are_removed() {
    let old = log_of(&[0, 10]);
    let mut files = without(&old, 0);
    for kind in &KINDS[1..] {
        files.insert(name(0, kind), vec![0; 34]);
    }
    starts_as(&files, &without(&old, 0));
}

#[test]
fn a_swap_that_is_not_sound_replaces_nothing_and_nothing_is_removed() {
    let exchange = compaction();
    let log = format!("{}.swap", name(0, "log"));
    for flip in [17, 70, 400] {
        let mut files = exchange.prepared();
        files.get_mut(&log).unwrap()[flip] ^= 1;
        files.insert(format!("{}.deleted", name(500, "log")), Vec::new());
        let disk = disk_of(&files);
        let error = open(&disk, LastStop::Unclean).unwrap_err();
        assert!(
            matches!(&error, LogError::Metadata { path, .. } if path.ends_with(&log)),
            "{error}"
        );
        assert_eq!(files_of(&disk), files);
    }
}

/// The point was written when the log had other bytes. Those are no longer there.
#[test]
fn nothing_is_believed_of_a_log_of_which_segments_were_exchanged() {
    let exchange = compaction();
    let topic_id = Some(TopicId([7; 16]));
    let mut files = exchange.prepared();
    files.insert(
        "partition.metadata".into(),
        format!("version: 0\ntopic_id: {}\n", TopicId([7; 16])).into(),
    );
    // The point's offsets are used, but the new log does not have all of them.
    let point = RecoveryPoint { topic_id, offset: Offset(35) };
    for stop in [LastStop::Clean, LastStop::Unclean] {
        let directory = Directory::on(Arc::new(disk_of(&files)), LOG_DIR);
        let (_, recovery) = Log::open_from(directory, config(), stop, point).unwrap();
        assert_eq!((recovery.segments_scanned, recovery.swapped_files > 0), (3, true));
    }
}

#[test]
fn a_file_of_another_name_is_left_alone() {
    let old = log_of(&[0, 10]);
    let others =
        ["0.log.swap", "readme.deleted", "00000000000000000000.log.swap.old", ".swap", "x.cleaned"];
    let files: Files =
        old.clone().into_iter().chain(others.map(|name| (name.into(), vec![1]))).collect();
    let disk = disk_of(&files);
    open(&disk, LastStop::Unclean).unwrap();
    let left = files_of(&disk);
    assert!(others.iter().all(|name| left.contains_key(*name)));
}

/// A start on `files` ends with the log that a start on `expected` opens. So does a second start,
/// if a call of the first fails, or the power fails with it.
fn starts_as(files: &Files, expected: &Files) {
    let expected = content(&disk_of(expected));
    let disk = disk_of(files);
    let names = || files.keys().collect::<Vec<_>>();
    assert_eq!(content(&disk), expected, "{:?}", names());
    assert!(staged(&disk).is_empty());
    for kind in Kind::ALL {
        // Reads change nothing, so some of them are enough.
        for nth in (0..).step_by(if kind == Kind::Read { 9 } else { 1 }) {
            let disk = disk_of(files);
            disk.fail(kind, nth, Errno::IO);
            let _ = open(&disk, LastStop::Unclean);
            disk.stop_failing();
            if disk.failed() == 0 {
                break;
            }
            // Any of the names that were not synced may have got to the disk.
            let cuts = if kind == Kind::Sync { 12 } else { 1 };
            let mut random = Random::new(nth);
            let found = (0..cuts).map(|_| disk.after_power_cut(&mut random)).collect::<Vec<_>>();
            for disk in found.into_iter().chain([disk]) {
                assert_eq!(content(&disk), expected, "{kind:?} {nth} of {:?}", names());
            }
        }
    }
}

/// What consumers see: the segments, and each batch's first offset and place.
fn content(disk: &SimulatedDisk) -> (Vec<i64>, Vec<(i64, u64)>) {
    let (log, _) = open(disk, LastStop::Unclean).unwrap();
    let (mut batches, mut next) = (Vec::new(), log.log_start());
    while let Find::Lookup(_) = log.find(next).unwrap() {
        let found = look_up(&log, next);
        let Some(extent) = found.extent(1, true) else { break };
        let mut bytes = vec![0; extent.len_bytes as usize];
        extent.file.read_exact_at(&mut bytes, extent.position.0).unwrap();
        let (header, batch) = Batches::new(&bytes).next().unwrap().unwrap();
        penstock_batch::check_crc(batch).unwrap();
        batches.push((header.base_offset, extent.position.0));
        next = Offset(header.last_offset() + 1);
    }
    (bases(&log), batches)
}

fn bases(log: &Log) -> Vec<i64> {
    log.segments().map(|segment| segment.base_offset.0).collect()
}

fn open(disk: &SimulatedDisk, stop: LastStop) -> Result<(Log, Recovery), LogError> {
    Log::open(Directory::on(Arc::new(disk.clone()), LOG_DIR), config(), stop)
}

fn config() -> LogConfig {
    LogConfig { index_interval_bytes: 300, ..LogConfig::default() }
}

fn name(base: i64, kind: &str) -> String {
    format!("{base:020}.{kind}")
}

/// Segments from each of those offsets to the next, the last one to 40, and an aborted transaction
/// in the second.
fn log_of(begins: &[i64]) -> Files {
    let ends = begins.iter().skip(1).chain([&40]);
    let mut files = Files::new();
    for (begin, end) in begins.iter().zip(ends) {
        files.extend(segment(*begin, *begin..*end).1);
    }
    files.insert(name(10, "txnindex"), vec![0; 34]);
    files
}

/// A segment with batches of one record at those offsets, and the indexes that a start builds.
fn segment(base: i64, offsets: impl IntoIterator<Item = i64>) -> (i64, Files) {
    let mut log = Vec::new();
    for offset in offsets {
        let mut builder = BatchBuilder::new();
        let value = vec![b'v'; 100];
        let timestamp_ms = 1_700_000_000_000 + offset;
        builder.push(NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
        let mut batch = builder.finish();
        assign(&mut batch, offset, 0);
        log.extend(batch);
    }
    let disk = disk_of(&Files::from([(name(base, "log"), log)]));
    open(&disk, LastStop::Unclean).unwrap();
    let files = files_of(&disk).into_iter().filter(|(name, _)| name.starts_with("0"));
    (base, files.collect())
}

fn without(files: &Files, base: i64) -> Files {
    let digits = name(base, "");
    files
        .iter()
        .filter(|(name, _)| !name.starts_with(&digits))
        .map(|(n, b)| (n.clone(), b.clone()))
        .collect()
}

/// Renames a segment's files one after the other, as far as there are any.
fn renames(base: i64, files: &Files, from: &str, to: &str) -> Vec<Act> {
    let names =
        KINDS.map(|kind| name(base, kind)).into_iter().filter(|name| files.contains_key(name));
    names.map(|name| Act::Rename(format!("{name}{from}"), format!("{name}{to}"))).collect()
}

/// The files before the first act, and after each.
fn moments(files: &Files, acts: &[Act]) -> Vec<Files> {
    (0..=acts.len()).map(|done| after(files, &acts[..done])).collect()
}

fn after(files: &Files, acts: &[Act]) -> Files {
    let mut files = files.clone();
    for act in acts {
        match act.clone() {
            Act::Write(name, bytes) => drop(files.insert(name, bytes)),
            Act::Rename(from, to) => {
                let bytes = files.remove(&from).expect("Kafka renames what there is");
                files.insert(to, bytes);
            }
            Act::Unlink(name) => drop(files.remove(&name).expect("Kafka unlinks what there is")),
        }
    }
    files
}

fn shuffle(acts: &mut [Act], random: &mut Random) {
    for n in (1..acts.len()).rev() {
        acts.swap(n, random.below(n + 1));
    }
}

fn disk_of(files: &Files) -> SimulatedDisk {
    let disk = SimulatedDisk::new(Random::new(1));
    disk.create_dir_all(Path::new(LOG_DIR)).unwrap();
    for dir in ["/", "/data"] {
        disk.sync_dir(Path::new(dir)).unwrap();
    }
    for (name, bytes) in files {
        disk.put(&Path::new(LOG_DIR).join(name), bytes);
    }
    disk
}

fn files_of(disk: &SimulatedDisk) -> Files {
    let entries = disk.list(Path::new(LOG_DIR)).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.iter().map(|entry| (name(&entry.path), disk.content(&entry.path).unwrap())).collect()
}

/// Names of files that are not in use.
fn staged(disk: &SimulatedDisk) -> Vec<String> {
    let endings = [".cleaned", ".swap", ".deleted"];
    let names = files_of(disk).into_keys();
    names.filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect()
}
