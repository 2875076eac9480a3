//! `kill -9` in the middle of producing: what was acknowledged is there, and offsets have no gap.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock_tests::records::{batch, bytes_of, records_from};
use penstock_tests::{Client, Start};

const KILLS: usize = 20;
const PRODUCERS: usize = 4;
const TOPIC: &str = "acknowledged";

/// Offset and value of every record whose produce was answered.
type Journal = Arc<Mutex<Vec<(i64, Vec<u8>)>>>;

#[test]
fn acknowledged_records_survive_twenty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::default();
    for round in 0..KILLS {
        let server = Start::on(dir.path()).start().unwrap();
        if round == 0 {
            // Small segments, so that kills meet rolls too.
            let configs = [("segment.bytes", "65536")];
            server.client().unwrap().create_topic(TOPIC, 1, &configs).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let client = server.client().unwrap();
                let (journal, stop) = (Arc::clone(&journal), Arc::clone(&stop));
                let name = format!("{round}-{producer}");
                std::thread::spawn(move || produce(client, &name, &journal, &stop))
            })
            .collect();
        // A different moment each round; what counts is that producers are in the middle of it.
        std::thread::sleep(Duration::from_millis(40 + 13 * round as u64));
        server.kill().unwrap();
        stop.store(true, Ordering::Relaxed);
        producers.into_iter().for_each(|producer| producer.join().unwrap());
    }
    let server = Start::on(dir.path()).start().unwrap();
    check(&mut server.client().unwrap(), &journal.lock().unwrap());
}

/// Produces until the connection breaks.
fn produce(mut client: Client, name: &str, journal: &Journal, stop: &AtomicBool) {
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let values: Vec<Vec<u8>> = (0..3)
            .map(|n| {
                let mut value = format!("{name} {} ", sequence + n).into_bytes();
                value.resize(300, b'.');
                value
            })
            .collect();
        let Ok(answer) = client.produce(TOPIC, 0, 1, batch(&values)) else { return };
        assert!(answer.error_code.is_none(), "{:?}", answer.error_message);
        let offsets = answer.base_offset..;
        journal.lock().unwrap().extend(offsets.zip(values));
        sequence += 3;
    }
}

fn check(client: &mut Client, journal: &[(i64, Vec<u8>)]) {
    assert!(journal.len() > KILLS * PRODUCERS, "only {} records were acknowledged", journal.len());
    let end = client.offset_of(TOPIC, 0, -1).unwrap();
    let mut log = Vec::new();
    while (log.len() as i64) < end {
        let from = log.len() as i64;
        let records = records_from(&bytes_of(&client.fetch(TOPIC, 0, from).unwrap()), from);
        assert!(!records.is_empty(), "nothing at offset {from} of {end}");
        for (offset, value) in records {
            assert_eq!(offset, log.len() as i64, "offsets have no gap");
            log.push(value);
        }
    }
    for (offset, value) in journal {
        assert!(log.get(*offset as usize) == Some(value), "offset {offset} was acknowledged");
    }
}
