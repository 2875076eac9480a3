//! Peers that reset in the middle of an answer: bytes on their way to one never reach another.
//!
//! The records of each partition bear its index, so a foreign byte shows on every path.

use std::io::Read;

use bytes::Bytes;
use penstock_tests::consumer::proved;
use penstock_tests::footprint::Footprint;
use penstock_tests::records::batch;
use penstock_tests::rounds::{Dice, rounds};
use penstock_tests::stamp::Stamp;
use penstock_tests::{Client, Penstock, Start, fetch_request};
use penstock_wire::messages::{FetchPartition, FetchRequest, FetchTopic};
use penstock_wire::{Request, Response};

const TOPIC: &str = "numbered";
const PARTITIONS: usize = 4;
const BATCHES: i64 = 24;
const VALUE_BYTES: usize = 100_000;

/// Bytes read before a reset, while the server still has most of the answer.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Answers on their way at once.
const PEERS_AT_ONCE: usize = 50;

fn not_one_foreign_byte_by(path: &str) {
    let mut dice = Dice::of(&format!("resets by {path}"));
    let peers = rounds(100, 1000);
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).with(&["--fetch-path", path]);
    let server = start.set(&[("socket.send.buffer.bytes", "131072")]).start().unwrap();
    fill(&mut server.client().unwrap(), &mut dice);
    read_all(&mut server.client().unwrap(), &mut dice);
    let before = Footprint::of(&server);

    let mut left = peers;
    while left > 0 {
        let at_once = left.min(PEERS_AT_ONCE);
        let asking: Vec<_> = (0..at_once).map(|_| ask(&server, &mut dice)).collect();
        for mut peer in asking {
            let mut taken = vec![0; dice.within(1..200_000)];
            peer.stream().read_exact(&mut taken).unwrap();
            peer.reset().unwrap();
        }
        left -= at_once;
    }
    for _ in 0..peers {
        read_all(&mut server.client().unwrap(), &mut dice);
    }
    before.assert_back(&server, 0);
    server.stop().unwrap();
}

#[test]
fn not_one_foreign_byte_after_resets_by_chain() {
    not_one_foreign_byte_by("chain");
}

#[test]
fn not_one_foreign_byte_after_resets_by_sendfile() {
    not_one_foreign_byte_by("sendfile");
}

#[test]
fn not_one_foreign_byte_after_resets_by_copy() {
    not_one_foreign_byte_by("copy");
}

#[test]
fn not_one_foreign_byte_after_resets_by_auto() {
    not_one_foreign_byte_by("auto");
}

fn fill(client: &mut Client, dice: &mut Dice) {
    client.create_topic(TOPIC, PARTITIONS as i32, &[]).unwrap();
    for partition in 0..PARTITIONS as i32 {
        for sequence in 0..BATCHES as u64 {
            let stamp = Stamp { partition, producer: partition as u64, sequence };
            let records: Bytes = batch(&[stamp.value(VALUE_BYTES, dice)]);
            assert!(client.produce(TOPIC, partition, 1, records).unwrap().error_code.is_none());
        }
    }
}

/// A fetch of all partitions from a place near their start, whose answer is not read.
fn ask(server: &Penstock, dice: &mut Dice) -> Client {
    let mut peer = Client::connect_narrow(server.address(), RECEIVE_BUFFER_BYTES).unwrap();
    let (request, _) = fetch_all(dice);
    peer.send(&request, 11).unwrap();
    peer
}

/// Checks the whole answer to a fetch of all partitions: each partition has its own records, and
/// each record its own bytes.
fn read_all(client: &mut Client, dice: &mut Dice) {
    let (request, offset) = fetch_all(dice);
    let Response::Fetch(answer) = client.ask(&request).unwrap() else { panic!() };
    for (partition, data) in (0..).zip(&answer.responses[0].partitions) {
        assert_eq!((data.partition_index, data.high_watermark), (partition, BATCHES));
        let records = proved(data, offset);
        assert!(records.len() >= 4, "half a megabyte holds more than {} records", records.len());
        for found in records {
            let (producer, sequence) = (partition as u64, found.offset as u64);
            assert_eq!(found.record.stamp, Stamp { partition, producer, sequence });
        }
    }
}

fn fetch_all(dice: &mut Dice) -> (Request, i64) {
    let offset = dice.within(0..12) as i64;
    let partition = |partition| FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 512 << 10,
        ..FetchPartition::default()
    };
    let partitions = (0..PARTITIONS as i32).map(partition).collect();
    let topics = [FetchTopic { topic: TOPIC.into(), partitions }].into();
    (Request::Fetch(FetchRequest { topics, ..fetch_request(TOPIC, 0, 0) }), offset)
}
