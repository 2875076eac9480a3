//! Retention under readers: segments are deleted while answers read them.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use penstock_tests::consumer::proved;
use penstock_tests::footprint::Footprint;
use penstock_tests::records::batch;
use penstock_tests::rounds::{Dice, rounds, say};
use penstock_tests::stamp::Stamp;
use penstock_tests::{Client, ClientError, Penstock, Start, fetch_request};
use penstock_wire::messages::{FetchResponse, PartitionData};
use penstock_wire::{ApiKey, ErrorCode, Request, Response, decode_response};

const TOPIC: &str = "passing";
const READERS: usize = 45;
const SLOW_READERS: usize = 5;
const VALUE_BYTES: usize = 20_000;

/// Bytes read before the segment is deleted, while the server still has most of the answer.
const RECEIVE_BUFFER_BYTES: usize = 32 << 10;

/// The log keeps four segments of a megabyte. Retention runs five times a second.
const SETTINGS: [(&str, &str); 5] = [
    ("log.segment.bytes", "1048576"),
    ("log.retention.bytes", "4194304"),
    ("log.retention.ms", "-1"),
    ("log.retention.check.interval.ms", "200"),
    ("socket.send.buffer.bytes", "65536"),
];

/// The counts of all readers.
#[derive(Debug, Default)]
struct Met {
    records: AtomicUsize,
    out_of_range: AtomicUsize,
    recovered: AtomicUsize,
    /// Answers read to their end after their segment had been deleted.
    outlived: AtomicUsize,
}

#[test]
fn readers_inside_of_a_deleted_segment_finish_and_the_others_are_told() {
    let mut dice = Dice::of("retention under readers");
    // Each is an answer read to its end after its segment was deleted.
    let outlived = rounds(10, 200);
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).set(&SETTINGS).start().unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    let mut producer = server.client().unwrap();
    let mut sequence = 0;
    while sequence < 300 {
        produce(&mut producer, sequence, &mut dice);
        sequence += 1;
    }
    let before = Footprint::of(&server);
    let (met, stop) = (Met::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (met, stop, server, dir) = (&met, &stop, &server, dir.path());
        let mut threads = Vec::new();
        for reader in 0..READERS {
            threads.push(scope.spawn(move || read(server, reader, met, stop)));
        }
        for _ in 0..SLOW_READERS {
            threads.push(scope.spawn(move || read_slowly(server, dir, met, stop)));
        }
        let is_enough = || {
            met.outlived.load(Ordering::Relaxed) >= outlived
                && met.recovered.load(Ordering::Relaxed) >= outlived
        };
        while !is_enough() && threads.iter().all(|thread| !thread.is_finished()) {
            produce(&mut producer, sequence, &mut dice);
            sequence += 1;
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("no reader panicked"));
    });
    before.assert_back(&server, 0);
    say(format_args!("{sequence} records of {VALUE_BYTES} bytes; {met:?}"));
    server.stop().unwrap();
}

#[test]
fn each_expiry_is_logged_with_its_reason_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let lines = tempfile::NamedTempFile::new().unwrap();
    let start = Start::on(dir.path()).set(&SETTINGS);
    let server = start.start_with_log("info", lines.path()).unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[("retention.bytes", "100000")]).unwrap();
    for sequence in 0..120 {
        produce(&mut client, sequence, &mut Dice::of("expiry"));
    }
    while client.offset_of(TOPIC, 0, -2).unwrap() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The metric and the log line follow the move of the log start.
    let series = "penstock_expired_segments_total{reason=\"size\"}";
    while server.metrics().unwrap().value(series) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let metrics = server.metrics().unwrap();
    assert!(metrics.value("penstock_expired_bytes_total{reason=\"size\"}") > 1_000_000);
    server.stop().unwrap();
    let lines = std::fs::read_to_string(lines.path()).unwrap();
    let line = lines.lines().find(|line| line.contains("expired segments")).unwrap();
    for word in ["partition=passing-0", "segments=", "bytes=", "retention.bytes is 100000"] {
        assert!(line.contains(word), "{line}");
    }
}

fn produce(client: &mut Client, sequence: u64, dice: &mut Dice) {
    let stamp = Stamp { partition: 0, producer: 0, sequence };
    let answer = client.produce(TOPIC, 0, 1, batch(&[stamp.value(VALUE_BYTES, dice)])).unwrap();
    assert_eq!((answer.error_code, answer.base_offset), (ErrorCode::NONE, sequence as i64));
}

/// Reads on from the oldest record. Every fifth reader waits until the log start has overtaken it.
fn read(server: &Penstock, reader: usize, met: &Met, stop: &AtomicBool) {
    let mut client = server.client().unwrap();
    let mut position = 0;
    let mut was_told = false;
    while !stop.load(Ordering::Relaxed) {
        let answer = client.fetch(TOPIC, 0, position).unwrap();
        if answer.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
            assert!(position < answer.log_start_offset, "{position} is not below the log start");
            met.out_of_range.fetch_add(1, Ordering::Relaxed);
            position = client.offset_of(TOPIC, 0, -2).unwrap();
            was_told = true;
            continue;
        }
        position = check(&answer, position, met);
        met.recovered.fetch_add(usize::from(was_told), Ordering::Relaxed);
        was_told = false;
        std::thread::sleep(Duration::from_millis(20));
        let is_overtaken = |client: &mut Client| client.offset_of(TOPIC, 0, -2).unwrap() > position;
        while reader.is_multiple_of(5)
            && !is_overtaken(&mut client)
            && !stop.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Fetches the oldest records, and reads the end of the answer only after their segment has been
/// deleted.
fn read_slowly(server: &Penstock, data_dir: &Path, met: &Met, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = read_one_slowly(server, data_dir, met, stop) {
            panic!("an answer that had begun did not end: {error}");
        }
    }
}

fn read_one_slowly(
    server: &Penstock,
    data_dir: &Path,
    met: &Met,
    stop: &AtomicBool,
) -> Result<(), ClientError> {
    let mut client = Client::connect_narrow(server.address(), RECEIVE_BUFFER_BYTES)?;
    let position = client.offset_of(TOPIC, 0, -2)?;
    let segment = data_dir.join(format!("{TOPIC}-0/{position:020}.log"));
    client.send(&Request::Fetch(fetch_request(TOPIC, 0, position)), 11)?;
    let mut prefix = [0; 4];
    client.stream().read_exact(&mut prefix)?;
    let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
    let asked = Instant::now();
    while segment.exists() && !stop.load(Ordering::Relaxed) {
        assert!(asked.elapsed() < Duration::from_secs(60), "{} stays", segment.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    client.stream().read_exact(&mut frame)?;
    let (_, answer) =
        decode_response(ApiKey::Fetch, 11, frame.into()).map_err(ClientError::Answer)?;
    let Response::Fetch(FetchResponse { mut responses, .. }) = answer else { panic!() };
    let answer = responses.remove(0).partitions.remove(0);
    // The segment may have been deleted between the two requests.
    if answer.error_code != ErrorCode::OFFSET_OUT_OF_RANGE {
        check(&answer, position, met);
        met.outlived.fetch_add(usize::from(!segment.exists()), Ordering::Relaxed);
    }
    Ok(())
}

/// Checks that every record is the one that was produced at its offset. Returns the next offset.
fn check(answer: &PartitionData, position: i64, met: &Met) -> i64 {
    assert!(answer.error_code.is_none(), "{}", answer.error_code);
    let records = proved(answer, position);
    for found in &records {
        let sequence = found.offset as u64;
        assert_eq!(found.record.stamp, Stamp { partition: 0, producer: 0, sequence });
    }
    met.records.fetch_add(records.len(), Ordering::Relaxed);
    position + records.len() as i64
}
