//! A disk that fails under a reader: the reader gets an error or a closed connection, never wrong
//! bytes, and others go on.
//!
//! The disk is a loop device whose file is truncated: reads behind the cut fail with EIO.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use penstock_tests::footprint::Footprint;
use penstock_tests::records::{batch, batch_at};
use penstock_tests::rounds::Dice;
use penstock_tests::stamp::Stamp;
use penstock_tests::volume::Volume;
use penstock_tests::{Client, Metrics, Penstock, Start, fetch_request, program};
use penstock_wire::messages::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use penstock_wire::{ErrorCode, Request, Response};

const TOPIC: &str = "decaying";
const PARTITIONS: i32 = 4;
const BATCHES: usize = 80;
const VALUE_BYTES: usize = 100_000;
const DISK_BYTES: u64 = 64 << 20;

/// The cut moves down the disk in such steps until it hits a partition.
const CUT_BYTES: u64 = 1 << 20;

/// The largest answer, and so the largest piece of a log that is read.
const FETCH_BYTES: usize = 1 << 20;

/// A version of Fetch whose answers end with the records.
const VERSION: i16 = 11;

/// The timestamp of each partition's first batch. The others follow a millisecond apart. They are
/// fresh, so that retention keeps them.
static FIRST_MS: OnceLock<i64> = OnceLock::new();

/// The result of one fetch.
struct Taken {
    /// The record bytes that came.
    records: Vec<u8>,
    /// Whether the answer was complete.
    is_whole: bool,
    error_code: Option<ErrorCode>,
}

/// Fetches that did not return all their records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failures {
    /// The connection was closed in the middle of the answer.
    broken_off: usize,
    /// The answer had KAFKA_STORAGE_ERROR.
    refused: usize,
    /// The answer ended early, in front of the place that cannot be read.
    shortened: usize,
}

fn never_wrong_bytes_by(path: &str) {
    let mut dice = Dice::of(&format!("read errors by {path}"));
    let dir = tempfile::tempdir().unwrap();
    // Its journal would lie in the middle of the disk and be hit, too.
    let volume = Volume::make(dir.path(), DISK_BYTES, "^has_journal").unwrap();
    let Some(volume) = volume else { return };
    let start = Start::on(&volume.path().join("data")).with(&["--fetch-path", path]);
    let lines = dir.path().join("lines");
    let server = start.start().unwrap();
    fill(&mut server.client().unwrap(), volume.path(), &mut dice);
    server.stop().unwrap();
    let logs = segments(volume.path());
    let truth: Vec<Vec<u8>> = logs.iter().map(|log| std::fs::read(log).unwrap()).collect();

    let server = start.start_with_log("error", &lines).unwrap();
    read_log(&server, 0, &truth[0]);
    assert_eq!(server.readiness().unwrap(), "ready\n");
    let before = Footprint::of(&server);
    let is_broken = break_some(&volume, &logs);
    for (partition, truth) in (0..).zip(&truth) {
        let failures = read_log(&server, partition, truth);
        // At most one answer was on its way when it met the error. No later one is started that
        // cannot be finished.
        let is_known = failures.broken_off <= 1 && failures.refused > 0;
        let none = Failures::default();
        let is_expected = if is_broken[partition as usize] { is_known } else { failures == none };
        assert!(is_expected, "partition {partition}: {failures:?}");
    }
    is_shown(&server, &is_broken, &std::fs::read_to_string(&lines).unwrap());
    // Reads behind the cut succeed again, with other bytes.
    volume.shrink_to(DISK_BYTES).unwrap();
    let is_mended = |metrics: &Metrics| metrics.value("penstock_partitions_unreadable") == 0;
    server.until_metrics("the places can be read again", is_mended).unwrap();
    assert_eq!(server.readiness().unwrap(), "ready\n");
    before.assert_back(&server, 0);
    drop(server);
}

/// The oldest segment, the only one that retention looks at, cannot be read. Everything that reads
/// it reports the error, and all else goes on.
#[test]
fn whatever_reads_a_failing_disk_says_so_and_all_else_goes_on() {
    const VICTIM: i32 = 1;
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::make(dir.path(), DISK_BYTES, "^has_journal").unwrap();
    let Some(volume) = volume else { return };
    let data = volume.path().join("data");
    let start = Start::on(&data).set(&[
        ("log.segment.bytes", "1000000"),
        ("scrub.bytes.per.second", "1000000000"),
        ("log.retention.check.interval.ms", "50"),
    ]);
    let server = start.start().unwrap();
    fill(&mut server.client().unwrap(), volume.path(), &mut Dice::of("every kind of read"));
    server.stop().unwrap();
    let victim = segment_of(&data, VICTIM, 0);
    move_to_the_end(&victim, &volume);
    break_only(&volume, &data, &victim);

    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    for partition in [0, VICTIM] {
        let is_victim = partition == VICTIM;
        assert_eq!(refusals_of_fetches(&server, partition) > 0, is_victim, "{partition}");
        assert_eq!(refusals_of_times(&mut client, partition) > 0, is_victim, "{partition}");
    }
    let counted = |metrics: &Metrics, what: &str| {
        metrics.value(&format!("penstock_read_errors_total{{read=\"{what}\"}}"))
    };
    let is_counted = |metrics: &Metrics| {
        ["offset", "time", "scrub", "age"].iter().all(|what| counted(metrics, what) > 0)
    };
    let metrics = server.until_metrics("each kind is counted", is_counted).unwrap();
    assert_eq!(metrics.value("penstock_partitions_unreadable"), 1);
    assert_eq!(metrics.value("penstock_damaged_ranges"), 0, "what cannot be read is not damage");
    let answer = client.produce(TOPIC, VICTIM, 1, batch(&["goes on"])).unwrap();
    assert!(answer.error_code.is_none(), "{:?}", answer.error_code);
    server.kill().unwrap();

    let log = victim.display().to_string();
    let data_dir = data.display().to_string();
    for arguments in [["dump", &log].as_slice(), &["scrub", "--data-dir", &data_dir]] {
        let output = program("penstock").args(arguments).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {words}");
        assert!(words.contains("Input/output error"), "{arguments:?}: {words}");
    }
    // Without recovery points a start reads every segment.
    std::fs::remove_file(data.join("penstock-recovery-points")).unwrap();
    let server = start.start().unwrap();
    let metrics = server.metrics().unwrap();
    assert_eq!(counted(&metrics, "start"), 1);
    assert_eq!(metrics.value("penstock_partitions_offline"), 1);
    assert_eq!(refusals_of_fetches(&server, 0), 0);
}

/// A partition's segments, oldest first.
fn segments_of(data: &Path, partition: i32) -> Vec<PathBuf> {
    let dir = data.join(format!("{TOPIC}-{partition}")).read_dir().unwrap();
    let mut logs: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs
}

fn segment_of(data: &Path, partition: i32, index: usize) -> PathBuf {
    segments_of(data, partition).swap_remove(index)
}

/// Writes a file again, which usually moves it behind all others on the disk.
fn move_to_the_end(file: &Path, volume: &Volume) {
    let copy = file.with_extension("copy");
    std::fs::copy(file, &copy).unwrap();
    rustix::fs::syncfs(File::open(volume.path()).unwrap()).unwrap();
    std::fs::rename(copy, file).unwrap();
}

fn break_only(volume: &Volume, data: &Path, victim: &Path) {
    let logs: Vec<PathBuf> = (0..PARTITIONS).flat_map(|index| segments_of(data, index)).collect();
    let is_broken = break_some(volume, &logs);
    let broken: Vec<_> = logs.iter().zip(is_broken).filter(|(_, is_broken)| *is_broken).collect();
    assert!(matches!(broken[..], [(log, _)] if log == victim), "{broken:?}");
}

/// Fetches from every offset on. Returns how many fetches were refused or broken off.
fn refusals_of_fetches(server: &Penstock, partition: i32) -> usize {
    let fetch = |offset| fetch(&mut server.client().unwrap(), partition, offset);
    let is_refused =
        |taken: &Taken| !taken.is_whole || taken.error_code == Some(ErrorCode::KAFKA_STORAGE_ERROR);
    (0..BATCHES as i64).map(fetch).filter(is_refused).count()
}

/// Looks up the timestamp of each batch. Returns how many look-ups were refused.
fn refusals_of_times(client: &mut Client, partition: i32) -> usize {
    let mut refused = 0;
    for sequence in 0..BATCHES as i64 {
        let asked = ListOffsetsPartition {
            partition_index: partition,
            timestamp: FIRST_MS.get().unwrap() + sequence,
            ..Default::default()
        };
        let topic = ListOffsetsTopic { name: TOPIC.into(), partitions: vec![asked] };
        let request = ListOffsetsRequest { topics: vec![topic], ..Default::default() };
        let Response::ListOffsets(response) = client.ask(&Request::ListOffsets(request)).unwrap()
        else {
            panic!("not an answer to ListOffsets");
        };
        let found = &response.topics[0].partitions[0];
        match found.error_code {
            ErrorCode::KAFKA_STORAGE_ERROR => refused += 1,
            error => assert!(error.is_none() && found.offset == sequence, "{error:?} {sequence}"),
        }
    }
    refused
}

/// The operator sees the error: in the log within a budget, in the metrics, and in /readyz, which
/// still answers 200.
fn is_shown(server: &Penstock, is_broken: &[bool], lines: &str) {
    let names = (0..).zip(is_broken).filter(|(_, is_broken)| **is_broken);
    let names: Vec<String> = names.map(|(index, _)| format!("{TOPIC}-{index}")).collect();
    let metrics = server.metrics().unwrap();
    assert_eq!(metrics.value("penstock_partitions_unreadable"), names.len() as u64);
    let counted = |what| metrics.value(&format!("penstock_read_errors_total{{read=\"{what}\"}}"));
    let failed = counted("records") + counted("offset");
    assert!(failed >= names.len() as u64, "{failed}");
    let ready = server.readiness().unwrap();
    assert!(ready.starts_with("ready; "), "{ready}");
    let is_named = |name: &String| {
        let segment = format!("{name}/00000000000000000000.log");
        ready.contains(name) && lines.lines().any(|line| line.contains(&segment))
    };
    assert!(names.iter().any(is_named), "{ready}\n{lines}");
    let logged = lines.lines().filter(|line| line.contains("cannot read")).count();
    assert!((1..=20).contains(&logged), "{logged} lines");
}

#[test]
fn a_failing_disk_never_gives_wrong_bytes_by_chain() {
    never_wrong_bytes_by("chain");
}

#[test]
fn a_failing_disk_never_gives_wrong_bytes_by_auto() {
    never_wrong_bytes_by("auto");
}

#[test]
fn a_failing_disk_never_gives_wrong_bytes_by_sendfile() {
    never_wrong_bytes_by("sendfile");
}

#[test]
fn a_failing_disk_never_gives_wrong_bytes_by_copy() {
    never_wrong_bytes_by("copy");
}

/// Produces partition after partition, each synced before the next, so that they lie on the disk in
/// this order.
fn fill(client: &mut Client, volume: &Path, dice: &mut Dice) {
    client.create_topic(TOPIC, PARTITIONS, &[]).unwrap();
    let volume = File::open(volume).unwrap();
    let first_ms = *FIRST_MS.get_or_init(now_ms);
    for partition in 0..PARTITIONS {
        for sequence in 0..BATCHES as u64 {
            let stamp = Stamp { partition, producer: 0, sequence };
            let records = batch_at(first_ms + sequence as i64, &[stamp.value(VALUE_BYTES, dice)]);
            assert!(client.produce(TOPIC, partition, 1, records).unwrap().error_code.is_none());
        }
        rustix::fs::syncfs(&volume).unwrap();
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn segments(volume: &Path) -> Vec<PathBuf> {
    let log = |index| format!("data/{TOPIC}-{index}/00000000000000000000.log");
    (0..PARTITIONS).map(|index| volume.join(log(index))).collect()
}

/// Takes more and more of the disk away until a log cannot be read whole, and returns which one.
fn break_some(volume: &Volume, logs: &[PathBuf]) -> Vec<bool> {
    rustix::fs::syncfs(File::open(volume.path()).unwrap()).unwrap();
    let mut len_bytes = DISK_BYTES;
    loop {
        len_bytes -= CUT_BYTES;
        volume.shrink_to(len_bytes).unwrap();
        logs.iter().for_each(|log| forget(log));
        let is_broken: Vec<bool> = logs.iter().map(|log| std::fs::read(log).is_err()).collect();
        if is_broken.contains(&true) {
            assert!(is_broken.contains(&false), "nothing is left whole");
            logs.iter().for_each(|log| forget(log));
            return is_broken;
        }
    }
}

/// Drops a file from the page cache.
fn forget(log: &Path) {
    let file = File::open(log).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Fetches a log in pieces from every second batch on. All bytes that come must be those that were
/// produced.
fn read_log(server: &Penstock, partition: i32, truth: &[u8]) -> Failures {
    let batch_bytes = truth.len() / BATCHES;
    let mut failures = Failures::default();
    for offset in (0..BATCHES).step_by(2) {
        let expected = &truth[offset * batch_bytes..];
        let expected = &expected[..expected.len().min(FETCH_BYTES)];
        let taken = fetch(&mut server.client().unwrap(), partition, offset as i64);
        let is_right = expected.starts_with(&taken.records);
        assert!(is_right, "wrong bytes at offset {offset} of partition {partition}");
        match taken.records.len() {
            _ if !taken.is_whole => failures.broken_off += 1,
            0 => {
                let storage_error = ErrorCode::KAFKA_STORAGE_ERROR;
                assert_eq!(taken.error_code, Some(storage_error), "offset {offset}");
                failures.refused += 1;
            }
            // A batch that the limit would cut is left out.
            len_bytes if len_bytes < expected.len() - expected.len() % batch_bytes => {
                assert!(len_bytes >= batch_bytes, "less than a batch at offset {offset}");
                failures.shortened += 1;
            }
            _ => {}
        }
    }
    failures
}

/// Receives until the answer or the connection ends. Panics over a time-out.
fn fetch(client: &mut Client, partition: i32, offset: i64) -> Taken {
    let request = Request::Fetch(fetch_request(TOPIC, partition, offset));
    client.send(&request, VERSION).unwrap();
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let len_bytes = match client.stream().read(&mut piece) {
            Ok(len_bytes) => len_bytes,
            Err(error) => {
                penstock_tests::ClientError::from(error).assert_is_an_end();
                0
            }
        };
        answer.extend_from_slice(&piece[..len_bytes]);
        let end = answer
            .get(..4)
            .map(|prefix| 4 + u32::from_be_bytes(prefix.try_into().unwrap()) as usize);
        let is_whole = end == Some(answer.len());
        if is_whole || len_bytes == 0 {
            let head = head_len(answer.len());
            let error_code = answer.get(ERROR_CODE..ERROR_CODE + 2);
            let error_code =
                error_code.map(|code| ErrorCode(i16::from_be_bytes(code.try_into().unwrap())));
            return Taken { records: answer.split_off(head), is_whole, error_code };
        }
    }
}

const PREFIX_AND_CORRELATION: usize = 8;
const THROTTLE_ERROR_SESSION: usize = 10;
const TOPICS_NAME_PARTITIONS: usize = 4 + 2 + TOPIC.len() + 4;

/// The place of the partition's error code, behind its index.
const ERROR_CODE: usize =
    PREFIX_AND_CORRELATION + THROTTLE_ERROR_SESSION + TOPICS_NAME_PARTITIONS + 4;

/// Bytes of an answer before its records, fixed for one partition of this topic.
fn head_len(have_bytes: usize) -> usize {
    const PARTITION: usize = 4 + 2 + 8 + 8 + 8 + 4 + 4 + 4;
    (PREFIX_AND_CORRELATION + THROTTLE_ERROR_SESSION + TOPICS_NAME_PARTITIONS + PARTITION)
        .min(have_bytes)
}
