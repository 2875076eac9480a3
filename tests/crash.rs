//! `kill -9` under load: what was acknowledged or read is there, offsets have no gap, and the server is back
//! at once.

use std::time::{Duration, Instant};

use penstock_tests::Start;
use penstock_tests::load::Load;
use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::rounds::{Dice, is_soak, rounds, say};

/// Kills of one data directory, before the next one begins: every round reads the whole log.
const KILLS_OF_ONE_LIFE: usize = 10;

/// Acknowledged requests before a kill, at most.
const REQUESTS_MAX: usize = 1500;

/// And so long after the last of them, at most: a kill comes at any moment, not only after an answer.
const DELAY_MAX_US: usize = 5000;

#[test]
fn what_was_acknowledged_or_read_survives_kills_under_load() {
    let mut dice = Dice::of("kills under load");
    let lives = rounds(1, 20);
    let (mut acknowledged, mut records) = (0, 0);
    for _ in 0..lives {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Start::on(dir.path()).start().unwrap();
        let mut load = Load::create(&mut server.client().unwrap(), &mut dice);
        for _ in 0..KILLS_OF_ONE_LIFE {
            load.under(server.address(), |journal| {
                journal.wait_for_more(dice.within(1..REQUESTS_MAX));
                let delay = Duration::from_micros(dice.within(0..DELAY_MAX_US) as u64);
                std::thread::sleep(delay);
                server.kill().unwrap();
            });
            server = Start::on(dir.path()).start().unwrap();
            let mut client = server.client().unwrap();
            records = load.witness(dir.path()).check(&mut client, load.journal());
        }
        acknowledged += load.journal().acknowledgements();
    }
    let kills = lives * KILLS_OF_ONE_LIFE;
    say(format_args!(
        "{kills} kills, {acknowledged} requests acknowledged, nothing lost; {records} records in the last log"
    ));
}

/// Nothing of the active segment has been flushed when the kill comes: all of it is proved at the start.
#[test]
fn a_large_active_tail_is_served_again_within_five_seconds() {
    const BATCH_BYTES: usize = 1_000_000;
    const BOUND: Duration = Duration::from_secs(5);
    let batches = if is_soak() { 1074 } else { 32 };
    let dir = tempfile::tempdir().unwrap();
    let settings =
        [("log.segment.bytes", "2147483647"), ("flush.checkpoint.interval.ms", "86400000")];
    let start = Start::on(dir.path()).set(&settings);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("tail", 1, &[]).unwrap();
    for _ in 0..batches {
        let answer = client.produce("tail", 0, 1, batch_of(BATCH_BYTES)).unwrap();
        assert!(answer.error_code.is_none(), "{}", answer.error_code);
    }
    server.kill().unwrap();
    let started = Instant::now();
    let server = start.start().unwrap();
    let fetched = server.client().unwrap().fetch("tail", 0, batches - 1).unwrap();
    let took = started.elapsed();
    let last = records_from(&bytes_of(&fetched), batches - 1);
    assert_eq!((last[0].0, last[0].1.len()), (batches - 1, BATCH_BYTES));
    say(format_args!("an active tail of {batches} MB is served {took:?} after the start"));
    assert!(took < BOUND, "{took:?} for {batches} MB");
}
