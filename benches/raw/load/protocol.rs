//! The three protocols of the generator: the request for a range, and the head of its answer.
//!
//! ```text
//! raw     16 bytes                                → 16 bytes · range
//! kafka   Fetch 11 of the batch at the position   → head · records
//! http    GET with a Range, keep-alive            → 206 and headers · range
//! ```
//!
//! Pure: bytes in, bytes out. An answer is good only if it has exactly the requested range, so all
//! three name a range by its place in the file. For Kafka that needs a partition of one segment
//! whose batches all have one length and one number of records, as `penstock-load produce` writes
//! it.

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use penstock_wire::Request;
use penstock_wire::messages::{FetchPartition, FetchRequest, FetchTopic};

const RAW_HEAD_LEN: usize = 16;
/// The last version whose answers end with the records.
const FETCH_VERSION: i16 = 11;
/// Bytes behind fetch_offset in a request of one partition: log start offset, partition max bytes,
/// number of forgotten topics, length of the rack.
const AFTER_FETCH_OFFSET: usize = 8 + 4 + 4 + 2;
/// The longest head.
const HTTP_HEAD_MAX: usize = 4096;

/// Bytes of the served file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) position: u64,
    pub(crate) len_bytes: u32,
}

/// The layout of batches in the partition's only segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batches {
    pub(crate) len_bytes: u64,
    pub(crate) records: u64,
}

/// The dialect of the requests.
#[derive(Debug)]
pub(crate) enum Protocol {
    Raw,
    Kafka { topic: String, batches: Batches },
    Http { path: String },
}

impl Protocol {
    /// The bytes to send for a range.
    pub(crate) fn request(&self, range: Range) -> Bytes {
        match self {
            Protocol::Raw => {
                let mut request = BytesMut::with_capacity(RAW_HEAD_LEN);
                request.extend_from_slice(&range.position.to_le_bytes());
                request.extend_from_slice(&range.len_bytes.to_le_bytes());
                request.extend_from_slice(&[0; 4]);
                request.freeze()
            }
            Protocol::Kafka { topic, batches } => {
                let offset = range.position / batches.len_bytes * batches.records;
                fetch_request(topic, offset, range.len_bytes)
            }
            Protocol::Http { path } => {
                let last = range.position + u64::from(range.len_bytes) - 1;
                let range = format!("bytes={}-{last}", range.position);
                format!("GET {path} HTTP/1.1\r\nHost: bench\r\nRange: {range}\r\n\r\n").into()
            }
        }
    }

    /// Changes an earlier request to another position. An HTTP request may change its length.
    pub(crate) fn aim(&self, request: &mut BytesMut, range: Range) {
        match self {
            Protocol::Raw => request[..8].copy_from_slice(&range.position.to_le_bytes()),
            Protocol::Kafka { batches, .. } => {
                let offset = range.position / batches.len_bytes * batches.records;
                let at = request.len() - AFTER_FETCH_OFFSET - 8;
                request[at..at + 8].copy_from_slice(&offset.to_be_bytes());
            }
            Protocol::Http { .. } => *request = BytesMut::from(self.request(range)),
        }
    }

    /// The length of the head at the start of `received`. `None`: the head is not complete.
    ///
    /// # Errors
    /// The answer is not the whole `range`.
    pub(crate) fn head_len(&self, received: &[u8], range: Range) -> anyhow::Result<Option<usize>> {
        match self {
            Protocol::Raw => raw_head(received, range),
            Protocol::Kafka { topic, .. } => kafka_head(received, topic.len(), range),
            Protocol::Http { .. } => http_head(received, range),
        }
    }
}

fn fetch_request(topic: &str, offset: u64, len_bytes: u32) -> Bytes {
    let partition = FetchPartition {
        fetch_offset: offset as i64,
        partition_max_bytes: len_bytes as i32,
        ..FetchPartition::default()
    };
    let topics = [FetchTopic { topic: topic.into(), partitions: [partition].into() }].into();
    let request = FetchRequest { max_wait_ms: 500, min_bytes: 1, topics, ..Default::default() };
    Request::Fetch(request).encode(FETCH_VERSION, 0, "raw")
}

fn raw_head(received: &[u8], range: Range) -> anyhow::Result<Option<usize>> {
    let Some(head) = received.get(..RAW_HEAD_LEN) else { return Ok(None) };
    let position = u64::from_le_bytes(head[..8].try_into()?);
    let len_bytes = u32::from_le_bytes(head[8..12].try_into()?);
    ensure!(range == Range { position, len_bytes }, "an answer to another request than {range:?}");
    Ok(Some(RAW_HEAD_LEN))
}

/// ```text
/// length 4 · correlation 4 · throttle 4 · error 2 · session 4 · topics 4 · name 2+n · partitions 4 ·
/// partition 4 · error 2 · high watermark 8 · stable 8 · start 8 · aborted 4 · replica 4 · records 4
/// ```
fn kafka_head(received: &[u8], name: usize, range: Range) -> anyhow::Result<Option<usize>> {
    let (partition_error, size) = (32 + name, 32 + name + 2 + 32);
    let number = |at: usize| i32::from_be_bytes([0, 1, 2, 3].map(|byte| received[at + byte]));
    let short = |at: usize| i16::from_be_bytes([0, 1].map(|byte| received[at + byte]));
    if received.len() >= 14 {
        ensure!(short(12) == 0, "the fetch was answered with error {}", short(12));
    }
    if received.len() < size + 4 {
        return Ok(None);
    }
    let error = short(partition_error);
    ensure!(error == 0, "the fetch of {range:?} was answered with error {error}");
    let (frame, records) = (number(0), number(size));
    ensure!(
        records == range.len_bytes as i32 && frame as usize == size + records as usize,
        "{range:?} brought {records} bytes of records in a frame of {frame}"
    );
    Ok(Some(size + 4))
}

fn http_head(received: &[u8], range: Range) -> anyhow::Result<Option<usize>> {
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        ensure!(received.len() < HTTP_HEAD_MAX, "no end of the head in {HTTP_HEAD_MAX} bytes");
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end]).context("the head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 206 ") {
        bail!("{range:?} was answered with {status}");
    }
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
    let length: u64 = length.context("no Content-Length")?.parse()?;
    ensure!(length == u64::from(range.len_bytes), "the answer to {range:?} has {length} bytes");
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use penstock_wire::messages::{FetchResponse, FetchableTopicResponse, PartitionData};
    use penstock_wire::{ErrorCode, Records, Response};

    use super::*;

    const RANGE: Range = Range { position: 3 * 4096, len_bytes: 8192 };

    fn kafka() -> Protocol {
        let batches = Batches { len_bytes: 4096, records: 3 };
        Protocol::Kafka { topic: "bench".into(), batches }
    }

    fn answer(records_len: usize, error_code: ErrorCode) -> Bytes {
        let records = Records::from(Bytes::from(vec![7; records_len]));
        let partitions = [PartitionData { records, error_code, ..PartitionData::default() }].into();
        let responses = [FetchableTopicResponse { topic: "bench".into(), partitions }].into();
        let answer = Response::from(FetchResponse { responses, ..FetchResponse::default() });
        answer.encode(FETCH_VERSION, 1).into_bytes(|slot| panic!("{slot:?}"))
    }

    #[test]
    fn an_aimed_request_is_the_one_that_would_have_been_made() {
        let http = Protocol::Http { path: "/segment".into() };
        for protocol in [Protocol::Raw, kafka(), http] {
            let mut request = BytesMut::from(protocol.request(Range { position: 0, ..RANGE }));
            protocol.aim(&mut request, RANGE);
            assert_eq!(request, protocol.request(RANGE), "{protocol:?}");
        }
    }

    #[test]
    fn a_position_is_the_first_offset_of_its_batch() {
        assert_eq!(kafka().request(RANGE), fetch_request("bench", 9, 8192));
    }

    #[test]
    fn a_kafka_head_ends_where_the_records_begin() {
        let whole = answer(8192, ErrorCode::NONE);
        let head_len = whole.len() - 8192;
        for received in 0..whole.len() {
            let expected = (received >= head_len).then_some(head_len);
            assert_eq!(kafka().head_len(&whole[..received], RANGE).unwrap(), expected);
        }
    }

    #[test]
    fn an_answer_of_another_length_or_with_an_error_is_refused() {
        let offset_out_of_range = answer(0, ErrorCode::OFFSET_OUT_OF_RANGE);
        for wrong in [answer(4096, ErrorCode::NONE), offset_out_of_range] {
            assert!(kafka().head_len(&wrong, RANGE).is_err());
        }
        let mut raw = Protocol::Raw.request(RANGE).to_vec();
        assert_eq!(Protocol::Raw.head_len(&raw, RANGE).unwrap(), Some(16));
        raw[9] ^= 1;
        assert!(Protocol::Raw.head_len(&raw, RANGE).is_err());
    }

    #[test]
    fn only_a_partial_content_of_the_right_length_is_an_http_answer() {
        let http = Protocol::Http { path: "/segment".into() };
        let good = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 8192\r\n\r\nbody";
        assert_eq!(http.head_len(good, RANGE).unwrap(), Some(good.len() - 4));
        assert_eq!(http.head_len(&good[..50], RANGE).unwrap(), None);
        for wrong in [
            "HTTP/1.1 200 OK\r\nContent-Length: 8192\r\n\r\n",
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 8191\r\n\r\n",
        ] {
            assert!(http.head_len(wrong.as_bytes(), RANGE).is_err());
        }
    }
}
