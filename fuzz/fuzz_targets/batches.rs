//! A run of record batches (first byte even), or the body of one whose header is sound (odd).

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_batch::{BatchBuilder, BatchHeader, Batches, NewRecord, Records, check_crc, records};

fuzz_target!(|input: &[u8]| {
    let [choice, bytes @ ..] = input else { return };
    if choice % 2 == 0 {
        walk_batches(bytes);
    } else {
        walk_records(Records::new(&header(i32::from(choice / 2)), bytes));
    }
});

fn walk_batches(bytes: &[u8]) {
    let mut batches = Batches::new(bytes);
    let mut sound_bytes = 0;
    for (header, batch) in batches.by_ref().map_while(Result::ok) {
        assert_eq!(batch.len(), header.len_bytes());
        sound_bytes += batch.len();
        let _ = check_crc(batch);
        if let Ok(records) = records(batch) {
            walk_records(records);
        }
    }
    assert_eq!(batches.position(), sound_bytes);
    assert!(batches.next().is_none());
}

fn walk_records(records: Records<'_>) {
    for record in records.flatten() {
        assert_eq!(record.headers.len(), record.headers.count());
    }
}

fn header(record_count: i32) -> BatchHeader {
    let mut builder = BatchBuilder::new();
    builder.push(NewRecord::default());
    let header = BatchHeader::parse(&builder.finish()).expect("we built it");
    BatchHeader { record_count, ..header }
}
