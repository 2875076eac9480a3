//! `kill -9` under load: no record that was acknowledged or read is missing, offsets have no gap,
//! and the server is back at once.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use penstock_tests::load::Load;
use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::rounds::{Dice, is_soak, rounds, say};
use penstock_tests::{Penstock, Start, program};

/// Kills of one data directory before a fresh one, because every round reads the whole log.
const KILLS_OF_ONE_LIFE: usize = 10;

/// The most acknowledged requests before a kill.
const REQUESTS_MAX: usize = 1500;

/// The longest time from the last of them to the kill, so that kills come at any moment, not only
/// after an answer.
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

/// No byte of the active segment has been flushed before the kill, so the start proves all of it.
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

/// The kernel ends a killed server's pending accept some milliseconds after the process is gone.
/// The listener exists until then.
#[test]
fn a_server_is_back_on_its_port_right_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path());
    let mut server = start.start().unwrap();
    let address = server.address();
    server.client().unwrap().create_topic("events", 1, &[]).unwrap();
    for _ in 0..10 {
        server.client().unwrap().offset_of("events", 0, -1).unwrap();
        server.kill().unwrap();
        server = Penstock::start(serve_at(&start, address)).unwrap();
        assert_eq!(server.address(), address);
    }
}

#[test]
fn a_port_that_another_server_holds_is_refused_after_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let started = Instant::now();
    let refused =
        serve_at(&Start::on(dir.path()), address).stderr(Stdio::piped()).output().unwrap();
    let (lasted, words) = (started.elapsed(), String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(1), "{words}");
    assert!(
        words.contains(&format!("cannot listen on {address}: Address already in use")),
        "{words}"
    );
    assert!(lasted < Duration::from_secs(5), "it took {lasted:?}");
}

/// The server's command with this address instead of any port.
fn serve_at(start: &Start, address: SocketAddr) -> Command {
    let mut arguments = start.arguments();
    let listen = arguments.iter().position(|argument| argument == "--listen").unwrap();
    arguments[listen + 1] = address.to_string();
    let mut command = program("penstock");
    command.args(arguments);
    command
}
