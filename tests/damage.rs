//! A flipped bit on the disk, as seen by `penstock scrub`, `penstock dump`, the server's scrubber,
//! and consumers, which get all but the damaged batch.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use penstock_tests::records::{batch, bytes_of, records_from};
use penstock_tests::{Metrics, Start, program};
use penstock_wire::ErrorCode;

const BATCHES: i64 = 12;
/// Base offset of the damaged batch, in the first segment of several.
const HIT: i64 = 2;

/// A topic of several segments with one record in each batch, after a clean stop.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).set(&[("log.segment.bytes", "4096")]).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", 1, &[]).unwrap();
    for n in 0..BATCHES {
        let answer = client.produce("t", 0, 1, batch(&[vec![n as u8; 900]])).unwrap();
        assert!(answer.error_code.is_none());
    }
    server.stop().unwrap();
    dir
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("t-0/00000000000000000000.log")
}

/// Flips a bit in the records of the batch at offset `HIT`. All batches have one size.
fn hit(dir: &Path) {
    let segment = first_segment(dir);
    let mut bytes = std::fs::read(&segment).unwrap();
    let len_bytes = 12 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
    bytes[HIT as usize * len_bytes + 500] ^= 1;
    std::fs::write(segment, bytes).unwrap();
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = program("penstock").args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Checks that all records are served but the damaged one, which is refused with its error code.
fn check_fetches(start: &Start) {
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    for offset in 0..BATCHES {
        let fetched = client.fetch("t", 0, offset).unwrap();
        if offset == HIT {
            assert_eq!(fetched.error_code, ErrorCode::CORRUPT_MESSAGE);
            continue;
        }
        assert!(fetched.error_code.is_none(), "{offset}: {}", fetched.error_code);
        for (found, value) in records_from(&bytes_of(&fetched), offset) {
            assert!(found != HIT && value == vec![found as u8; 900], "{offset}: {found}");
        }
    }
    let metrics = server.metrics().unwrap();
    assert_eq!(metrics.value("penstock_damaged_ranges"), 1);
    server.stop().unwrap();
}

#[test]
fn scrub_finds_a_flipped_bit_and_the_server_then_serves_all_but_its_batch() {
    let dir = filled();
    let data_dir = dir.path().to_str().unwrap();
    let (code, printed) = run(&["scrub", "--data-dir", data_dir]);
    assert_eq!(code, 0, "{printed}");
    hit(dir.path());
    let (code, printed) = run(&["scrub", "--data-dir", data_dir]);
    assert_eq!(code, 1);
    assert!(printed.contains(&format!("offsets {HIT} to before {}", HIT + 1)), "{printed}");
    check_fetches(&Start::on(dir.path()));
    check_fetches(&Start::on(dir.path()));
}

#[test]
fn scrub_makes_wrong_indexes_anew_only_when_told_to() {
    let dir = filled();
    let data_dir = dir.path().to_str().unwrap();
    let index = first_segment(dir.path()).with_extension("timeindex");
    let sound = std::fs::read(&index).unwrap();
    std::fs::write(&index, [&sound[..], &[9; 12]].concat()).unwrap();
    assert_eq!(run(&["scrub", "--data-dir", data_dir]).0, 1);
    assert_eq!(run(&["scrub", "--data-dir", data_dir, "--repair-indexes"]).0, 0);
    assert_eq!(std::fs::read(&index).unwrap(), sound);
    assert_eq!(run(&["scrub", "--data-dir", data_dir]).0, 0);
}

/// A link to itself cannot be opened, like a file on a bad sector.
#[test]
fn scrub_says_what_cannot_be_read_and_reads_all_else() {
    let dir = filled();
    hit(dir.path());
    let bad = dir.path().join("bad-0");
    std::fs::create_dir(&bad).unwrap();
    let segment = bad.join(first_segment(dir.path()).file_name().unwrap());
    std::os::unix::fs::symlink(&segment, &segment).unwrap();
    let scrub = ["scrub", "--data-dir", dir.path().to_str().unwrap()];
    let output = program("penstock").args(scrub).output().unwrap();
    let (printed, failed) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (printed, failed) = (printed.unwrap(), failed.unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(printed.contains(&format!("offsets {HIT} to before {}", HIT + 1)), "{printed}");
    assert!(failed.contains(bad.to_str().unwrap()), "{failed}");
    assert!(failed.contains("symbolic links"), "the cause: {failed}");
    assert!(failed.contains("2 partitions are not sound"), "{failed}");
}

#[test]
fn scrub_is_refused_while_a_server_has_the_directory() {
    let dir = filled();
    let server = Start::on(dir.path()).start().unwrap();
    assert_eq!(run(&["scrub", "--data-dir", dir.path().to_str().unwrap()]).0, 1);
    server.stop().unwrap();
}

#[test]
fn dump_goes_on_behind_damage() {
    let dir = filled();
    let segment = first_segment(dir.path());
    let segment = segment.to_str().unwrap();
    let (code, whole) = run(&["dump", "--batches", segment]);
    assert_eq!(code, 0);
    hit(dir.path());
    let (code, printed) = run(&["dump", "--batches", segment]);
    assert_eq!(code, 1);
    let is_batch = |line: &&str| line.starts_with("position") && line.ends_with(" sound");
    let expected: Vec<_> = whole.lines().filter(is_batch).collect();
    let shown: Vec<_> = printed.lines().filter(is_batch).collect();
    assert_eq!(shown.len() + 1, expected.len(), "{printed}");
    assert_eq!(shown.last(), expected.last(), "what is behind the damage is shown");
    assert!(printed.contains(&format!("DAMAGED offsets {HIT} to before {}", HIT + 1)), "{printed}");
}

#[test]
fn the_servers_scrubber_finds_what_nobody_fetches() {
    let dir = filled();
    hit(dir.path());
    let start = Start::on(dir.path()).set(&[("scrub.bytes.per.second", "100000000")]);
    let server = start.start().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let metrics: Metrics = loop {
        let metrics = server.metrics().unwrap();
        if metrics.value("penstock_damaged_ranges") > 0 {
            break metrics;
        }
        assert!(Instant::now() < deadline, "nothing was found");
        std::thread::yield_now();
    };
    assert!(metrics.value("penstock_scrubbed_bytes_total") > 0);
    server.stop().unwrap();
    check_fetches(&Start::on(dir.path()));
}
