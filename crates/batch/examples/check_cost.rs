//! Prints the time that a check of a batch's records takes, beside that of its CRC:
//! `cargo run --release -p penstock-batch --example check_cost`.

use std::hint::black_box;
use std::time::Instant;

use penstock_batch::{BatchBuilder, BatchHeader, HEADER_LEN, NewRecord, check_crc, check_records};

const ROUNDS: u32 = 20_000;

fn main() {
    println!(
        "{:>8} {:>8} {:>12} {:>12} {:>12}",
        "records", "bytes", "check ns", "a record ns", "crc ns"
    );
    for (count, value_len) in [(1, 1024), (16, 1024), (150, 100), (1000, 10), (1, 1 << 20)] {
        let batch = batch(count, value_len);
        let header = BatchHeader::parse(&batch).expect("a batch");
        let rounds = if batch.len() > 1 << 19 { ROUNDS / 20 } else { ROUNDS };
        let check = nanoseconds(rounds, || check_records(&header, black_box(&batch[HEADER_LEN..])));
        let crc = nanoseconds(rounds, || check_crc(black_box(&batch)));
        let each = check / f64::from(count);
        println!("{count:>8} {:>8} {check:>12.0} {each:>12.1} {crc:>12.0}", batch.len());
    }
}

fn batch(count: u32, value_len: usize) -> Vec<u8> {
    let value = vec![b'v'; value_len];
    let mut builder = BatchBuilder::new();
    for n in 0..count {
        let timestamp_ms = 1_700_000_000_000 + i64::from(n) / 4;
        builder.push(NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
    }
    builder.finish()
}

/// The best of ten turns, each call's share of it.
fn nanoseconds<T>(rounds: u32, mut call: impl FnMut() -> T) -> f64 {
    let turn = |_| {
        let started = Instant::now();
        for _ in 0..rounds / 10 {
            black_box(call());
        }
        started.elapsed().as_nanos() as f64 / f64::from(rounds / 10)
    };
    (0..10).map(turn).fold(f64::INFINITY, f64::min)
}
