//! Fetches without reading the records, which are dropped inside the kernel.
//!
//! Called by `fetch` for `--no-verify`. The generator shares a machine with the server it measures,
//! so the cost of copying unread records would count against the server. With `MSG_TRUNC` the
//! kernel drops bytes of a TCP stream uncopied (tcp(7)). Only the answer's head and the batch
//! headers are read: they have the count of records and the next offset.
//!
//! ```text
//! answer:  head · size i32 │ batch header 61 · records ········ │ batch header 61 · records ···│
//!          └ read ─────────┘ └ read ───────┘   └ dropped ─────┘   └ read ───────┘   └ dropped ─┘
//! ```

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use penstock_batch::BatchHeader;
use penstock_wire::messages::{FetchResponse, FetchableTopicResponse, PartitionData};
use penstock_wire::{ApiKey, Records, Request, Response, Str, frame};
use rustix::net::RecvFlags;
use tokio::io::Interest;

use crate::client::{Connection, MAX_FRAME_BYTES, decode, only_partition};
use crate::verify::{self, Seen};

/// The last version whose answers end with the records. Later, flexible versions have tags after
/// them.
const LAST_VERSION: i16 = 11;
/// Shorter stretches are received as usual, since a copy is cheaper than another system call.
const DROP_BYTES: u64 = 16 << 10;
/// The most bytes that one call drops.
const DROP_AT_ONCE_BYTES: usize = 1 << 20;
/// Bytes received at once where large batches are expected: a head and a batch header.
const HEAD_BYTES: usize = 512;
/// Bytes received at once where small batches are expected.
const CHUNK_BYTES: usize = 64 << 10;

/// The state of one worker that fetches from one partition at a time.
#[derive(Debug)]
pub(crate) struct Discard {
    /// By version: bytes of an answer before the records, length prefix included.
    head_len_bytes: [usize; LAST_VERSION as usize + 1],
    /// The length of the last batch. The next ones are likely to be like it.
    batch_bytes: u64,
    /// The buffer passed to the kernel, which writes nothing to it.
    nowhere: Vec<u8>,
}

impl Discard {
    pub(crate) fn new(topic: &Str) -> Discard {
        let supported = ApiKey::Fetch.supported();
        let mut head_len_bytes = [0; LAST_VERSION as usize + 1];
        for version in supported.min_version..=LAST_VERSION.min(supported.max_version) {
            head_len_bytes[version as usize] = head_len(topic, version);
        }
        Discard { head_len_bytes, batch_bytes: 0, nowhere: vec![0; DROP_AT_ONCE_BYTES] }
    }

    /// Like `Connection::call`, but the records of the answer are counted and dropped.
    ///
    /// # Errors
    /// Those of `Connection::call`.
    pub(crate) async fn fetch(
        &mut self,
        leader: &mut Connection,
        request: &Request,
        partition: i32,
    ) -> Result<(PartitionData, Seen)> {
        let version = leader.version(ApiKey::Fetch)?.min(LAST_VERSION);
        let correlation_id = leader.send(version, request).await?;
        let head_len = self.head_len_bytes[version as usize];
        let Some(left) = self.records_len(leader, head_len).await? else {
            // An error, transactions or no records: the fast path takes none of these answers.
            let response = decode(ApiKey::Fetch, version, correlation_id, leader.receive().await?)?;
            let answer = only_partition(response, partition)?;
            let seen = verify::skim(partition, answer.records.bytes().map_or(&[], |bytes| bytes));
            return Ok((answer, seen));
        };
        // The rest is a sound answer without records.
        let mut head = leader.received.split_to(head_len);
        head[head_len - 4..].fill(0);
        head.advance(frame::PREFIX_LEN);
        let response = decode(ApiKey::Fetch, version, correlation_id, head.freeze())?;
        let seen = self.skim(leader, Skim::new(partition, left)).await?;
        Ok((only_partition(response, partition)?, seen))
    }

    /// Receives the head. Returns how many bytes of records follow, if the head is as expected.
    async fn records_len(&self, leader: &mut Connection, head_len: usize) -> Result<Option<u64>> {
        loop {
            if let Some(length) = frame::length(&leader.received, MAX_FRAME_BYTES)? {
                let whole = frame::PREFIX_LEN + length as usize;
                let Some(after_head) = whole.checked_sub(head_len).filter(|len| *len > 0) else {
                    return Ok(None);
                };
                if let Some(size) = leader.received.get(head_len - 4..head_len) {
                    let fits = size == (after_head as u32).to_be_bytes();
                    return Ok(fits.then_some(after_head as u64));
                }
            }
            leader.fill(self.chunk_bytes()).await?;
        }
    }

    async fn skim(&mut self, leader: &mut Connection, mut skim: Skim) -> Result<Seen> {
        loop {
            skim.take(&mut leader.received);
            if skim.batch_bytes > 0 {
                self.batch_bytes = skim.batch_bytes;
            }
            if skim.left == 0 {
                return Ok(skim.seen);
            }
            if skim.skip >= DROP_BYTES {
                let limit = skim.skip.min(DROP_AT_ONCE_BYTES as u64) as usize;
                skim.dropped(drop_received(leader, &mut self.nowhere[..limit]).await?);
            } else {
                let rest = skim.left.min(self.chunk_bytes() as u64 + skim.skip);
                leader.fill(rest as usize).await?;
            }
        }
    }

    fn chunk_bytes(&self) -> usize {
        if self.batch_bytes >= DROP_BYTES { HEAD_BYTES } else { CHUNK_BYTES }
    }
}

/// Encodes an answer with one byte of records to learn how many bytes precede it.
fn head_len(topic: &Str, version: i16) -> usize {
    let records = Records::from(Bytes::from_static(&[0]));
    let partitions = [PartitionData { records, ..PartitionData::default() }].into();
    let responses = [FetchableTopicResponse { topic: topic.clone(), partitions }].into();
    let answer = FetchResponse { responses, ..FetchResponse::default() };
    Response::from(answer).encode(version, 0).len_bytes as usize - 1
}

/// Drops at least one and at most `nowhere.len()` of the next bytes.
async fn drop_received(leader: &Connection, nowhere: &mut [u8]) -> Result<u64> {
    let dropped = leader
        .stream
        .async_io(Interest::READABLE, || {
            let (_, count) = rustix::net::recv(&leader.stream, &mut *nowhere, RecvFlags::TRUNC)?;
            Ok(count)
        })
        .await
        .context("cannot receive")?;
    ensure!(dropped > 0, "the server closed the connection in the middle of an answer");
    if dropped > nowhere.len() {
        bail!(
            "{dropped} bytes dropped of {}: this kernel does not support MSG_TRUNC on TCP as Linux does",
            nowhere.len()
        );
    }
    Ok(dropped as u64)
}

/// Walks an answer's records, of which only the batch headers are needed.
#[derive(Debug)]
struct Skim {
    partition: i32,
    seen: Seen,
    /// Bytes of records that are still to come, or received and not yet consumed.
    left: u64,
    /// How many of them precede the next batch header.
    skip: u64,
    /// The length of the last whole batch; 0 before the first.
    batch_bytes: u64,
}

impl Skim {
    fn new(partition: i32, len_bytes: u64) -> Skim {
        let mut seen = Seen::default();
        seen.amount.bytes = len_bytes;
        Skim { partition, seen, left: len_bytes, skip: 0, batch_bytes: 0 }
    }

    /// Consumes what it can from the front of `received`, which holds only records.
    fn take(&mut self, received: &mut BytesMut) {
        loop {
            let skipped = self.skip.min(received.len() as u64);
            received.advance(skipped as usize);
            self.dropped(skipped);
            if self.skip > 0 || self.left == 0 || !self.header(received) {
                return;
            }
        }
    }

    fn dropped(&mut self, count: u64) {
        self.skip -= count;
        self.left -= count;
    }

    /// Reads the header of the batch at the start of `received`. False: more bytes must come first.
    fn header(&mut self, received: &[u8]) -> bool {
        let whole = match BatchHeader::parse(received) {
            Err(error) if error.is_incomplete() && (received.len() as u64) < self.left => {
                return false;
            }
            // A later batch may be cut. The first must be whole, whatever the limits (KIP-74).
            Ok(header) if header.len_bytes() as u64 > self.left => None,
            Err(error) if error.is_incomplete() && self.seen.amount.batches > 0 => None,
            Err(error) => {
                self.malformed(&error.to_string());
                None
            }
            Ok(header) => Some(header),
        };
        let Some(header) = whole else {
            if self.seen.amount.batches == 0 && self.seen.faults.count() == 0 {
                self.malformed("the first batch is cut");
            }
            self.skip = self.left;
            return true;
        };
        self.skip = header.len_bytes() as u64;
        self.batch_bytes = self.skip;
        self.seen.amount.batches += 1;
        self.seen.amount.records += header.record_count as u64;
        self.seen.next_offset = Some(header.last_offset().saturating_add(1));
        true
    }

    fn malformed(&mut self, problem: &str) {
        let Skim { partition, seen, left, .. } = self;
        let batches = seen.amount.batches;
        seen.faults.add(verify::malformed(format!(
            "partition {partition}, after {batches} whole batches, {left} bytes before the end: \
             {problem}"
        )));
    }
}

#[cfg(test)]
mod tests {
    use penstock_batch::{BatchBuilder, NewRecord, assign};

    use super::*;

    fn log(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (base, length) in lengths.iter().enumerate() {
            let mut builder = BatchBuilder::new();
            builder.push(NewRecord { value: Some(&vec![7; *length]), ..NewRecord::default() });
            let mut batch = builder.finish();
            assign(&mut batch, base as i64, 0);
            bytes.extend(batch);
        }
        bytes
    }

    /// Feeds `records` in pieces of `piece` bytes, or drops them where allowed.
    fn skimmed(records: &[u8], piece: usize, drop: bool) -> Seen {
        let mut skim = Skim::new(3, records.len() as u64);
        let mut received = BytesMut::new();
        let mut rest = records;
        loop {
            skim.take(&mut received);
            if skim.left == 0 {
                return skim.seen;
            }
            if drop && skim.skip > 0 {
                rest = &rest[skim.skip as usize..];
                skim.dropped(skim.skip);
            } else {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                received.extend_from_slice(now);
                rest = later;
            }
        }
    }

    #[test]
    fn skimming_in_pieces_sees_what_reading_the_whole_sees() {
        let whole = log(&[5, 300, 1, 4000]);
        for length in [whole.len(), whole.len() - 1, whole.len() - 3950, whole.len() - 4040] {
            let records = &whole[..length];
            for piece in [1, 60, 61, 62, 100, 5000] {
                let seen = skimmed(records, piece, false);
                assert_eq!(seen, verify::skim(3, records), "{length} bytes by {piece}");
                assert_eq!(seen, skimmed(records, piece.max(61), true));
            }
        }
    }

    #[test]
    fn a_cut_first_batch_and_bytes_that_are_no_batch_are_malformed() {
        let mut records = log(&[5, 300]);
        assert_eq!(skimmed(&records[..64], 10, false).faults.malformed, 1);
        assert_eq!(skimmed(&records[..30], 10, false).faults.malformed, 1);
        let second = records.len() - 300;
        records[second - 70 + 4] = 0x80;
        records[16] = 0;
        let seen = skimmed(&records, 10, false);
        assert_eq!((seen.faults.malformed, seen.next_offset), (1, None));
    }

    #[test]
    fn the_head_ends_with_the_size_of_the_records_in_every_version_used() {
        let topic = Str::from("load");
        for version in 4..=LAST_VERSION {
            let records = Records::from(Bytes::from_static(b"12345"));
            let partitions = [PartitionData { records, ..PartitionData::default() }].into();
            let responses = [FetchableTopicResponse { topic: topic.clone(), partitions }].into();
            let answer = FetchResponse { responses, ..FetchResponse::default() };
            let answer = Response::from(answer).encode(version, 1);
            let frame = answer.into_bytes(|slot| panic!("{slot:?}"));
            let head_len = head_len(&topic, version);
            assert_eq!(&frame[head_len - 4..], b"\0\0\0\x0512345", "version {version}");
        }
    }
}
