//! A consumer that proves every byte it reads and notes it in the journal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use penstock_wire::messages::{FetchRequest, PartitionData};
use penstock_wire::{ErrorCode, Request, Response};

use crate::journal::{Found, Journal};
use crate::producer::End;
use crate::records::{bytes_of, records_from};
use crate::stamp::Stamped;
use crate::{Client, ClientError, fetch_request};

const MAX_WAIT_MS: i32 = 20;

/// One consumer of some partitions. It reads on from run to run.
#[derive(Debug)]
pub struct Consumer {
    topic: String,
    /// The next offset of each partition.
    positions: Vec<i64>,
    journal: Arc<Journal>,
}

/// The records of a fetched partition from `offset` on, after a proof of their CRCs and stamps, and
/// that there is no gap.
pub fn proved(partition: &PartitionData, offset: i64) -> Vec<Found> {
    let records = records_from(&bytes_of(partition), offset);
    let proved = |(at, (offset, value)): (i64, (i64, Vec<u8>))| {
        assert_eq!(offset, at, "offsets have no gap");
        Found { offset, record: Stamped::read(&value) }
    };
    (offset..).zip(records).map(proved).collect()
}

impl Consumer {
    /// A consumer of all partitions of a topic, from these offsets on.
    pub fn new(journal: &Arc<Journal>, topic: &str, offsets: &[i64]) -> Consumer {
        let (topic, positions) = (topic.to_owned(), offsets.to_vec());
        Consumer { topic, positions, journal: Arc::clone(journal) }
    }

    /// Reads until stopped or until the connection breaks.
    pub fn run(&mut self, server: SocketAddr, stop: &AtomicBool) -> End {
        match self.try_run(server, stop) {
            Ok(end) => end,
            Err(error) => {
                error.assert_is_an_end();
                End::Broken
            }
        }
    }

    fn try_run(&mut self, server: SocketAddr, stop: &AtomicBool) -> Result<End, ClientError> {
        let mut client = Client::connect(server)?;
        while !stop.load(Ordering::Relaxed) {
            for partition in 0..self.positions.len() {
                let error = self.fetch(&mut client, partition)?;
                if !error.is_none() {
                    return Ok(End::Refused(error));
                }
            }
        }
        Ok(End::Stopped)
    }

    fn fetch(&mut self, client: &mut Client, at: usize) -> Result<ErrorCode, ClientError> {
        let (partition, position) = (at as i32, self.positions[at]);
        let floor = self.journal.floor(partition);
        let request = FetchRequest {
            max_wait_ms: MAX_WAIT_MS,
            ..fetch_request(&self.topic, partition, position)
        };
        let Response::Fetch(mut answer) = client.ask(&Request::Fetch(request))? else {
            panic!("not an answer to Fetch")
        };
        let answer = answer.responses.remove(0).partitions.remove(0);
        assert_eq!(answer.partition_index, partition);
        if !answer.error_code.is_none() {
            return Ok(answer.error_code);
        }
        self.journal.saw_high_watermark(partition, floor, answer.high_watermark);
        for found in proved(&answer, position) {
            assert!(found.offset < answer.high_watermark, "{found:?} beyond the high watermark");
            self.journal.saw(partition, found);
            self.positions[at] = found.offset + 1;
        }
        Ok(ErrorCode::NONE)
    }
}
