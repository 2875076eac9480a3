//! The fetch workload: every connection reads one partition with each request, its partitions in
//! turn.
//!
//! Run by `run`. `cursor` chooses the offset, `verify` checks the bytes, and `discard` drops them
//! unread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Result, anyhow, bail, ensure};
use penstock_wire::messages::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use penstock_wire::{ErrorCode, Request};

use crate::cli::{FetchArgs, ReadFrom};
use crate::client::only_partition;
use crate::cursor::Cursor;
use crate::discard::Discard;
use crate::measure::Turn;
use crate::run::{Worker, Workload};
use crate::topic::{Leaders, Topic, assigned, bounds, share};
use crate::verify::{self, Seen};

/// The most empty answers in a row to requests for records that exist.
const MAX_EMPTY_ANSWERS: u32 = 100;

/// The state that all connections of a fetch run share.
#[derive(Debug)]
pub(crate) struct Fetch {
    args: FetchArgs,
    topic: Arc<Topic>,
    /// Records that readers from the earliest offset have still to read; `total` is the count at
    /// the start.
    left: Arc<AtomicU64>,
    total: u64,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Fetcher {
    request: FetchRequest,
    topic: Arc<Topic>,
    leaders: Leaders,
    readers: Vec<Reader>,
    /// The index of the reader whose turn it is.
    nth: usize,
    verify: bool,
    discard: Discard,
    left: Arc<AtomicU64>,
}

/// One partition of one connection.
#[derive(Debug)]
struct Reader {
    partition: i32,
    cursor: Cursor,
    /// The reader goes no further, even if the log does.
    limit: i64,
    empty_answers: u32,
}

impl Fetch {
    pub(crate) fn new(args: &FetchArgs, topic: Topic) -> Fetch {
        let total = topic.partitions.iter().map(|p| (p.end - p.start).max(0) as u64).sum();
        let left = Arc::new(AtomicU64::new(total));
        Fetch { args: args.clone(), topic: Arc::new(topic), left, total }
    }

    fn reader(&self, connection: u32, nth: usize) -> Reader {
        let connections = self.args.common.connections;
        let partition = &self.topic.partitions[nth];
        let share = share(connection, connections, nth, self.topic.partitions.len());
        let seed = self.args.common.run.seed ^ (u64::from(connection) << 32) ^ nth as u64;
        let log = partition.start..partition.end;
        let cursor = Cursor::new(self.args.from, log, share, seed);
        Reader { partition: partition.index, cursor, limit: partition.limit, empty_answers: 0 }
    }
}

impl Workload for Fetch {
    type Worker = Fetcher;

    async fn connect(&self, connection: u32) -> Result<Fetcher> {
        let args = &self.args;
        let assigned = assigned(connection, args.common.connections, self.topic.partitions.len());
        let partition = FetchPartition {
            partition_max_bytes: args.partition_max_bytes,
            ..FetchPartition::default()
        };
        let request = FetchRequest {
            max_wait_ms: args.max_wait_ms,
            min_bytes: args.min_bytes,
            max_bytes: args.max_bytes,
            topics: [FetchTopic { topic: self.topic.name.clone(), partitions: [partition].into() }]
                .into(),
            ..FetchRequest::default()
        };
        Ok(Fetcher {
            request,
            topic: Arc::clone(&self.topic),
            leaders: Leaders::connect(&self.topic, &assigned).await?,
            readers: assigned.iter().map(|nth| self.reader(connection, *nth)).collect(),
            nth: 0,
            verify: args.verify,
            discard: Discard::new(&self.topic.name),
            left: Arc::clone(&self.left),
        })
    }

    fn share_done(&self) -> Option<f64> {
        let done = || 1.0 - self.left.load(Relaxed) as f64 / self.total.max(1) as f64;
        (self.args.from == ReadFrom::Earliest).then(done)
    }
}

impl Worker for Fetcher {
    async fn turn(&mut self) -> Result<Option<Turn>> {
        let Some((nth, offset)) = self.next_reader() else { return Ok(None) };
        let (answer, seen) = self.fetch(nth, offset).await?;
        let before = self.readers[nth].cursor.left();
        match answer.error_code {
            ErrorCode::NONE => self.readers[nth].read_on(offset, &seen, answer.high_watermark)?,
            ErrorCode::OFFSET_OUT_OF_RANGE => self.find_place(nth, offset).await?,
            error => {
                let partition = answer.partition_index;
                bail!("fetch of partition {partition} at offset {offset}: {error}")
            }
        }
        let read = before.saturating_sub(self.readers[nth].cursor.left());
        self.left.fetch_sub(read, Relaxed);
        Ok(Some(Turn { amount: seen.amount, faults: seen.faults }))
    }
}

impl Reader {
    /// Moves past the records `seen` in the answer to a fetch of `offset`, in a log that reaches to
    /// `end`.
    fn read_on(&mut self, offset: i64, seen: &Seen, end: i64) -> Result<()> {
        self.empty_answers = match seen.amount.bytes == 0 && offset < end {
            true => self.empty_answers + 1,
            false => 0,
        };
        let end = end.min(self.limit);
        ensure!(
            self.empty_answers < MAX_EMPTY_ANSWERS,
            "partition {}: {MAX_EMPTY_ANSWERS} empty answers at offset {offset}, although the log goes \
             on to {end}",
            self.partition
        );
        self.cursor.advance(seen.next_offset, end);
        Ok(())
    }
}

impl Fetcher {
    /// The partition and the offset of the next turn.
    pub(crate) fn next(&self) -> Option<(i32, i64)> {
        let reader = &self.readers[self.nth];
        reader.cursor.offset().map(|offset| (reader.partition, offset))
    }

    /// The next reader in turn that has records to read, and its offset.
    fn next_reader(&mut self) -> Option<(usize, i64)> {
        for _ in 0..self.readers.len() {
            let nth = self.nth;
            self.nth = (nth + 1) % self.readers.len();
            if let Some(offset) = self.readers[nth].cursor.offset() {
                return Some((nth, offset));
            }
        }
        None
    }

    /// Finds the log's bounds after "out of range". Retention may have passed the reader; that is
    /// no fault, unless the offset lies within the bounds.
    async fn find_place(&mut self, nth: usize, offset: i64) -> Result<()> {
        let reader = &mut self.readers[nth];
        let partition = reader.partition;
        let found = bounds(self.leaders.of(nth), &self.topic.name, partition).await?;
        let (start, end) = found.map_err(|error| anyhow!("partition {partition}: {error}"))?;
        ensure!(
            !(start..=end).contains(&offset),
            "partition {partition}: the server answers that offset {offset} is out of range, and that \
             the log is {start}..{end}"
        );
        reader.cursor.moved(start..end.min(reader.limit).max(start));
        Ok(())
    }

    async fn fetch(&mut self, nth: usize, offset: i64) -> Result<(PartitionData, Seen)> {
        let partition = self.readers[nth].partition;
        let asked = &mut self.request.topics[0].partitions[0];
        asked.partition = partition;
        asked.fetch_offset = offset;
        let request = Request::from(self.request.clone());
        let leader = self.leaders.of(nth);
        if !self.verify {
            return self.discard.fetch(leader, &request, partition).await;
        }
        let answer = only_partition(leader.call(&request).await?, partition)?;
        let records = answer.records.bytes().map_or(&[][..], |bytes| bytes);
        let seen = verify::check(partition, offset, records);
        Ok((answer, seen))
    }
}
