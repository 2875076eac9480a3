//! Reads a whole log, through the server and from the segment files, and compares it with a
//! journal.

use std::path::Path;

use penstock_batch::{Batches, check_crc};
use penstock_wire::ErrorCode;

use crate::Client;
use crate::journal::{Found, Journal};
use crate::records::{bytes_of, records_from};
use crate::stamp::Stamped;

/// The place of a log.
#[derive(Debug, Clone, Copy)]
pub struct Witness<'a> {
    /// The server's data directory.
    pub data_dir: &'a Path,
    /// The topic.
    pub topic: &'a str,
    /// The count of partitions.
    pub partitions: usize,
}

impl Witness<'_> {
    /// Checks of every partition that both ways to read it agree, that it has only sent records,
    /// and that no record that was acknowledged or read is missing. No producer may run.
    pub fn check(&self, client: &mut Client, journal: &Journal) -> usize {
        for partition in 0..self.partitions as i32 {
            let served = self.served(client, partition);
            assert_eq!(served, self.stored(partition), "the files hold what is served");
        }
        self.check_served(client, journal)
    }

    /// Checks the same of the served log only.
    pub fn check_served(&self, client: &mut Client, journal: &Journal) -> usize {
        let mut records = 0;
        for partition in 0..self.partitions as i32 {
            let log = self.served(client, partition);
            journal.check_log(partition, &log);
            let missing = journal.missing(partition, &log);
            assert!(missing.is_empty(), "partition {partition} lost {}", ranges(&missing));
            let end = client.offset_of(self.topic, partition, -1).expect("the log end");
            journal.saw_high_watermark(partition, journal.floor(partition), end);
            records += log.len();
        }
        records
    }

    /// Reads the log from the server, from its start to its end. Panics over a gap.
    pub fn served(&self, client: &mut Client, partition: i32) -> Vec<Found> {
        let (log, damaged) = self.sound(client, partition);
        assert!(damaged.is_empty(), "partition {partition} is damaged at {}", ranges(&damaged));
        let has_no_gap = log.windows(2).all(|pair| pair[0].offset + 1 == pair[1].offset);
        assert!(has_no_gap, "partition {partition} has a gap");
        log
    }

    /// Reads the log from the server, which may have gaps, and returns the offsets that it reports
    /// as damaged.
    pub fn sound(&self, client: &mut Client, partition: i32) -> (Vec<Found>, Vec<i64>) {
        let start = client.offset_of(self.topic, partition, -2).expect("the log start");
        let end = client.offset_of(self.topic, partition, -1).expect("the log end");
        let (mut log, mut damaged) = (Vec::new(), Vec::new());
        let mut next = start;
        while next < end {
            let answer = client.fetch(self.topic, partition, next).expect("a fetch is answered");
            if answer.error_code == ErrorCode::CORRUPT_MESSAGE {
                damaged.push(next);
                next += 1;
                continue;
            }
            assert!(answer.error_code.is_none(), "offset {next} of {end}: {}", answer.error_code);
            let bytes = bytes_of(&answer);
            let records = records_from(&bytes, next).into_iter();
            log.extend(
                records.map(|(offset, value)| Found { offset, record: Stamped::read(&value) }),
            );
            // Batches span offsets that a power cut has lost, and some of them have no record.
            let last = Batches::new(&bytes).map_while(Result::ok).last();
            let read_to = last.map_or(next, |(header, _)| header.last_offset() + 1);
            assert!(read_to > next, "nothing at offset {next} of {end}");
            next = read_to;
        }
        (log, damaged)
    }

    /// Reads the log from its segment files. Panics unless every batch is whole and sound.
    pub fn stored(&self, partition: i32) -> Vec<Found> {
        let dir = self.data_dir.join(format!("{}-{partition}", self.topic));
        let entries = std::fs::read_dir(dir).expect("the partition has a directory");
        let mut segments: Vec<_> = entries
            .map(|entry| entry.expect("a directory can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        segments.sort();
        let mut log = Vec::new();
        for segment in segments {
            let bytes = std::fs::read(&segment).expect("a segment can be read");
            for batch in Batches::new(&bytes) {
                let (_, batch) = batch.unwrap_or_else(|e| panic!("{}: {e}", segment.display()));
                check_crc(batch).unwrap_or_else(|e| panic!("{}: {e}", segment.display()));
                for record in penstock_batch::records(batch).expect("uncompressed") {
                    let record = record.expect("a sound record");
                    let value = record.value.expect("every record has a value");
                    log.push(Found { offset: record.offset, record: Stamped::read(value) });
                }
            }
        }
        log
    }
}

/// The text of ascending offsets: `3-7 9`.
pub fn ranges(offsets: &[i64]) -> String {
    let runs = offsets.chunk_by(|one, next| one + 1 == *next);
    let words = runs.map(|run| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    words.collect::<Vec<_>>().join(" ")
}
