//! Wrong batches of producers, over a real connection to a real server: a batch that would stop
//! consumers or retention is refused with Kafka's error code, and the broker corrects those that it
//! can.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use penstock_batch::{
    BatchBuilder, BatchHeader, Batches, Codec, HEADER_LEN, NewRecord, TimestampType, check_crc,
    set_max_timestamp,
};
use penstock_tests::records::{batch, batch_at, bytes_of};
use penstock_tests::{Client, Penstock, Start, produce_request};
use penstock_wire::messages::PartitionProduceResponse;
use penstock_wire::{ErrorCode, Response};
use tempfile::TempDir;

const TOPIC: &str = "events";
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

const ATTRIBUTES_AT: usize = 22;
const LAST_OFFSET_DELTA_AT: usize = 23;
const PRODUCER_ID_AT: usize = 43;
const COUNT_AT: usize = 57;

fn with_topic(configs: &[(&str, &str)]) -> (TempDir, Penstock, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, configs).unwrap();
    (dir, server, client)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// One batch whose records have these timestamps.
fn timed(timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for timestamp_ms in timestamps {
        builder.push(NewRecord { timestamp_ms: *timestamp_ms, ..NewRecord::default() });
    }
    builder.finish().into()
}

/// The batch with these bytes at that place, and a correct CRC.
fn altered(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    let header = BatchHeader::parse(&bytes).unwrap();
    let (head, records) = bytes.split_at_mut(HEADER_LEN);
    set_max_timestamp(head, records, header.timestamp_type(), header.max_timestamp);
    bytes.into()
}

/// The batch with another max timestamp in its header.
fn claiming(batch: &Bytes, max_timestamp_ms: i64) -> Bytes {
    altered(batch, 35, &max_timestamp_ms.to_be_bytes())
}

/// One batch of one record, marked as compressed. `pack` makes its body of the record.
fn compressed(codec: Codec, pack: impl Fn(&[u8]) -> Vec<u8>) -> Bytes {
    let mut builder = BatchBuilder::new();
    let record = NewRecord { timestamp_ms: now_ms(), value: Some(b"v"), ..NewRecord::default() };
    builder.push(record);
    let packed = builder.finish_with(codec, |plain, out| {
        out.extend(pack(plain));
        Ok::<(), std::convert::Infallible>(())
    });
    packed.unwrap().into()
}

/// A zstd frame of raw blocks, or of blocks that repeat one byte.
fn zstd_frame(blocks: &[(&[u8], usize)]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68];
    for (n, (content, repeated)) in blocks.iter().enumerate() {
        let is_last = u32::from(n + 1 == blocks.len());
        let (kind, size) = if *repeated > 0 { (1, *repeated) } else { (0, content.len()) };
        let header = is_last | kind << 1 | (size as u32) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(*content);
    }
    frame
}

fn error_of(client: &mut Client, batch: Bytes) -> ErrorCode {
    client.produce(TOPIC, 0, 1, batch).unwrap().error_code
}

fn produce_in(client: &mut Client, version: i16, batch: Bytes) -> PartitionProduceResponse {
    match client.ask_in(version, &produce_request(TOPIC, 0, 1, batch)).unwrap() {
        Response::Produce(mut response) => {
            response.responses.remove(0).partition_responses.remove(0)
        }
        other => panic!("not an answer to Produce: {other:?}"),
    }
}

#[test]
fn a_record_far_ahead_or_too_far_back_is_refused_by_its_number() {
    let (_dir, _server, mut client) =
        with_topic(&[("message.timestamp.before.max.ms", "86400000")]);
    let now = now_ms();
    for far in [now + 365 * DAY_MS, now * 1000, now * 1_000_000, now - 2 * DAY_MS] {
        let refused = client.produce(TOPIC, 0, 1, timed(&[now, far])).unwrap();
        assert_eq!(refused.error_code, ErrorCode::INVALID_TIMESTAMP, "{far}");
        assert_eq!(refused.record_errors[0].batch_index, 1);
        let gzip = compressed(Codec::Gzip, |_| vec![0x1f, 0x8b, 8, 0]);
        let claims = claiming(&altered(&gzip, 27, &far.to_be_bytes()), far);
        assert_eq!(error_of(&mut client, claims), ErrorCode::INVALID_TIMESTAMP, "compressed");
    }
    for near in [now + HOUR_MS / 2, now - DAY_MS / 2] {
        assert_eq!(error_of(&mut client, timed(&[near])), ErrorCode::NONE);
    }
}

#[test]
fn a_topic_may_take_records_from_any_time_and_one_with_the_brokers_takes_all() {
    for config in [
        ("message.timestamp.after.max.ms", "9223372036854775807"),
        ("message.timestamp.type", "LogAppendTime"),
    ] {
        let (_dir, _server, mut client) = with_topic(&[config]);
        assert_eq!(error_of(&mut client, timed(&[now_ms() * 1000])), ErrorCode::NONE, "{config:?}");
    }
}

#[test]
fn a_header_that_leaves_the_greatest_timestamp_unset_is_put_right() {
    let (_dir, _server, mut client) = with_topic(&[]);
    let then = now_ms() - 60_000;
    let times = [0, 10, 20, 40, 30].map(|after| then + after);
    for claim in [-1, 0, then - DAY_MS, then * 1000] {
        let base = client.produce(TOPIC, 0, 1, claiming(&timed(&times), claim)).unwrap();
        assert_eq!(base.error_code, ErrorCode::NONE);
        let fetched = bytes_of(&client.fetch(TOPIC, 0, base.base_offset).unwrap());
        let (header, bytes) = Batches::new(&fetched).next().unwrap().unwrap();
        assert_eq!(header.max_timestamp, then + 40, "claimed {claim}");
        check_crc(bytes).expect("sealed again");
    }
    for (after, offset) in [(0, 0), (10, 1), (20, 2), (30, 3), (40, 3)] {
        assert_eq!(client.offset_of(TOPIC, 0, then + after).unwrap(), offset);
    }
    assert_eq!(client.offset_of(TOPIC, 0, -3).unwrap(), 3, "the record with the greatest");
}

#[test]
fn whose_clock_it_is_the_topic_says_and_not_the_producer() {
    let (_dir, server, mut client) = with_topic(&[]);
    let now = now_ms();
    let stamped = altered(&timed(&[now - 5, now - 9]), ATTRIBUTES_AT, &[8]);
    assert_eq!(error_of(&mut client, stamped.clone()), ErrorCode::NONE);
    let fetched = bytes_of(&client.fetch(TOPIC, 0, 0).unwrap());
    let header = BatchHeader::parse(&fetched).unwrap();
    assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
    let mut client = server.client().unwrap();
    let config = [("message.timestamp.type", "LogAppendTime")];
    client.create_topic("stamped", 1, &config).unwrap();
    let refused = client.produce("stamped", 0, 1, stamped).unwrap();
    assert_eq!(refused.error_code, ErrorCode::INVALID_TIMESTAMP);
}

/// Once retention deleted fresh records beside an old one, or under a header with a timestamp of
/// 1970.
#[test]
fn fresh_records_stay_whatever_their_headers_say_while_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("log.retention.check.interval.ms", "100")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    let mut client = server.client().unwrap();
    let now = now_ms();
    let value = vec![b'x'; 100_000];
    let fresh = batch_at(now, &[&value]);
    let packed = compressed(Codec::Zstd, |_| zstd_frame(&[(&value, 0)]));
    let topics = ["zero", "unset", "mixed", "compressed"];
    for topic in topics.into_iter().chain(["old"]) {
        let config = [("segment.bytes", "1048576"), ("retention.ms", "3600000")];
        client.create_topic(topic, 1, &config).unwrap();
        for n in 0..31 {
            let old = batch_at(now - DAY_MS, &[&value]);
            let batch = match topic {
                "zero" => claiming(&fresh, 0),
                "unset" => claiming(&fresh, -1),
                "mixed" if n != 5 => claiming(&fresh, -1),
                "compressed" => claiming(&packed, 0),
                _ => old,
            };
            assert_eq!(client.produce(topic, 0, 1, batch).unwrap().error_code, ErrorCode::NONE);
        }
    }
    let started = Instant::now();
    while client.offset_of("old", 0, -2).unwrap() < 31 {
        assert!(started.elapsed() < Duration::from_secs(60), "what is old goes");
    }
    for topic in topics {
        assert_eq!(client.offset_of(topic, 0, -2).unwrap(), 0, "{topic}");
    }
    server.kill().unwrap();
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("old-again", 1, &[("retention.ms", "3600000")]).unwrap();
    client.produce("old-again", 0, 1, batch_at(now - DAY_MS, &[b"v"])).unwrap();
    while client.offset_of("old-again", 0, -2).unwrap() < 1 {
        assert!(started.elapsed() < Duration::from_secs(60), "retention runs");
    }
    for topic in topics {
        assert_eq!(client.offset_of(topic, 0, -2).unwrap(), 0, "{topic} after a kill");
    }
}

#[test]
fn records_that_are_not_what_their_header_says_are_refused() {
    let (_dir, _server, mut client) = with_topic(&[]);
    let three = batch(&["a", "b", "c"]);
    let record_len = (three.len() - HEADER_LEN) / 3;
    let counted =
        altered(&altered(&three, LAST_OFFSET_DELTA_AT, &[0, 0, 0, 3]), COUNT_AT, &[0, 0, 0, 4]);
    let uncounted =
        altered(&altered(&three, LAST_OFFSET_DELTA_AT, &[0; 4]), COUNT_AT, &[0, 0, 0, 1]);
    let misplaced = altered(&three, HEADER_LEN + record_len + 3, &[10]);
    let garbage = altered(&three, HEADER_LEN, &[0xff; 9]);
    for (batch, index) in [(counted, 3), (uncounted, 1), (misplaced, 1), (garbage, 0)] {
        let refused = client.produce(TOPIC, 0, 1, batch).unwrap();
        assert_eq!(refused.error_code, ErrorCode::INVALID_RECORD);
        assert_eq!(refused.record_errors[0].batch_index, index, "{:?}", refused.error_message);
    }
    let two = Bytes::from([batch(&["a"]), batch(&["b"])].concat());
    assert_eq!(error_of(&mut client, two), ErrorCode::INVALID_RECORD, "one batch at a time");
    for codec in 5..8 {
        let unknown = altered(&three, ATTRIBUTES_AT, &[codec]);
        assert_eq!(error_of(&mut client, unknown), ErrorCode::INVALID_RECORD, "codec {codec}");
    }
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 0, "nothing of them was appended");
    assert_eq!(error_of(&mut client, three), ErrorCode::NONE);
}

#[test]
fn a_batch_of_a_transaction_that_nobody_began_is_refused() {
    let (_dir, _server, mut client) = with_topic(&[]);
    let producer = [0, 0, 0, 0, 0, 0, 0x0f, 0xa0, 0, 0, 0, 0, 0, 0];
    for batch in [batch(&["v"]), altered(&batch(&["v"]), PRODUCER_ID_AT, &producer)] {
        let transactional = altered(&batch, ATTRIBUTES_AT, &[0x10]);
        let expected = ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
        assert_eq!(error_of(&mut client, transactional), expected);
        let control = altered(&batch, ATTRIBUTES_AT, &[0x20]);
        assert_eq!(error_of(&mut client, control), ErrorCode::INVALID_RECORD);
    }
}

#[test]
fn zstd_is_for_those_who_speak_a_version_that_has_it() {
    let (_dir, _server, mut client) = with_topic(&[]);
    let zstd = compressed(Codec::Zstd, |plain| zstd_frame(&[(plain, 0)]));
    for version in 3..=8 {
        let answer = produce_in(&mut client, version, zstd.clone());
        let expected = match version {
            ..7 => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
            _ => ErrorCode::NONE,
        };
        assert_eq!(answer.error_code, expected, "version {version}");
    }
}

#[test]
fn a_body_that_does_not_begin_as_its_codec_does_is_refused() {
    let (_dir, _server, mut client) = with_topic(&[]);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let plain = compressed(codec, |plain| [b"\xff\xff", plain].concat());
        assert_eq!(error_of(&mut client, plain), ErrorCode::INVALID_RECORD, "{codec:?}");
    }
}

#[test]
fn a_topic_that_verifies_takes_no_compressed_batch_that_consumers_cannot_read() {
    let (_dir, _server, mut client) = with_topic(&[("penstock.verify.compressed", "true")]);
    let bomb = vec![(b"\0".as_slice(), 128 << 10); 10_000];
    type Pack = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    let packs: [(&str, Pack); 5] = [
        ("a frame that is cut", Box::new(|plain| zstd_frame(&[(plain, 0)])[..9].to_vec())),
        ("bytes behind the frame", Box::new(|plain| [&zstd_frame(&[(plain, 0)]), plain].concat())),
        ("more than the records", Box::new(|plain| zstd_frame(&[(plain, 0), (b"\0", 0)]))),
        ("no records", Box::new(|_| zstd_frame(&[(b"garbage", 0)]))),
        ("more than a gigabyte", Box::new(move |_| zstd_frame(&bomb))),
    ];
    for (what, pack) in packs {
        let refused = client.produce(TOPIC, 0, 1, compressed(Codec::Zstd, pack)).unwrap();
        assert_eq!(refused.error_code, ErrorCode::INVALID_RECORD, "{what}");
    }
    let sound = compressed(Codec::Zstd, |plain| zstd_frame(&[(plain, 0)]));
    let newest = BatchHeader::parse(&sound).unwrap().max_timestamp;
    assert_eq!(error_of(&mut client, claiming(&sound, 0)), ErrorCode::NONE);
    let fetched = bytes_of(&client.fetch(TOPIC, 0, 0).unwrap());
    assert_eq!(BatchHeader::parse(&fetched).unwrap().max_timestamp, newest);
}
