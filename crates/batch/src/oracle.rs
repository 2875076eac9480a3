//! Tests that compare this crate with the `kafka-protocol` crate, and feed it random bytes.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::header::{ATTRIBUTES_AT, CRC_AT};
use crate::*;

type Blob = Option<Vec<u8>>;

#[derive(Debug, Clone)]
struct Sample {
    timestamp_ms: i64,
    key: Blob,
    value: Blob,
    headers: Vec<(String, Blob)>,
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let blob = || option::of(vec(any::<u8>(), 0..40));
    // Its header map keeps one value for each key, so the keys differ.
    let headers = vec(blob(), 0..4).prop_map(|values| {
        values.into_iter().enumerate().map(|(i, value)| (format!("key-{i}"), value)).collect()
    });
    let sample = (0..4_000_000_000_000i64, blob(), blob(), headers).prop_map(
        |(timestamp_ms, key, value, headers)| Sample { timestamp_ms, key, value, headers },
    );
    vec(sample, 1..20)
}

fn build(samples: &[Sample]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for sample in samples {
        let headers: Vec<_> =
            sample.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        builder.push(NewRecord {
            timestamp_ms: sample.timestamp_ms,
            key: sample.key.as_deref(),
            value: sample.value.as_deref(),
            headers: &headers,
        });
    }
    builder.finish()
}

fn read(batch: &[u8]) -> Vec<(i64, Sample)> {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    records(batch)
        .unwrap()
        .map(|record| {
            let Record { offset, timestamp_ms, key, value, headers } = record.unwrap();
            let headers = headers
                .map(|h| (String::from_utf8(h.key.to_vec()).unwrap(), owned(h.value)))
                .collect();
            (offset, Sample { timestamp_ms, key: owned(key), value: owned(value), headers })
        })
        .collect()
}

fn their_record(offset: i64, sample: &Sample) -> theirs::Record {
    theirs::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: theirs::TimestampType::Creation,
        offset,
        sequence: offset as i32 - 1,
        timestamp: sample.timestamp_ms,
        key: sample.key.clone().map(Bytes::from),
        value: sample.value.clone().map(Bytes::from),
        headers: sample
            .headers
            .iter()
            .map(|(key, value)| {
                (StrBytes::from_string(key.clone()), value.clone().map(Bytes::from))
            })
            .collect(),
    }
}

fn assert_same(ours: &[(i64, Sample)], samples: &[Sample]) {
    assert_eq!(ours.len(), samples.len());
    for (index, ((offset, ours), sample)) in ours.iter().zip(samples).enumerate() {
        assert_eq!(*offset, index as i64);
        assert_eq!(format!("{ours:?}"), format!("{sample:?}"));
    }
}

proptest! {
    #[test]
    fn what_we_build_another_implementation_reads(samples in samples()) {
        let batch = build(&samples);
        let mut bytes = BytesMut::from(&batch[..]).freeze();
        let set = theirs::RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert_eq!(set.records.len(), samples.len());
        for (index, (record, sample)) in set.records.iter().zip(&samples).enumerate() {
            let expected = their_record(index as i64, sample);
            prop_assert_eq!(record.offset, expected.offset);
            prop_assert_eq!(record.timestamp, expected.timestamp);
            prop_assert_eq!(&record.key, &expected.key);
            prop_assert_eq!(&record.value, &expected.value);
            prop_assert_eq!(&record.headers, &expected.headers);
        }
    }

    #[test]
    fn what_another_implementation_builds_we_read(samples in samples()) {
        let records: Vec<_> =
            samples.iter().enumerate().map(|(i, s)| their_record(i as i64, s)).collect();
        let mut bytes = BytesMut::new();
        let options = theirs::RecordEncodeOptions {
            version: 2,
            compression: theirs::Compression::None,
        };
        theirs::RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        let all: Vec<_> = Batches::new(&bytes)
            .flat_map(|batch| {
                let (_, batch) = batch.unwrap();
                check_crc(batch).unwrap();
                read(batch)
            })
            .collect();
        assert_same(&all, &samples);
    }

    #[test]
    fn the_crc_is_what_other_code_computes(mut batch in vec(any::<u8>(), HEADER_LEN..20_000)) {
        let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        prop_assert_eq!(check_crc(&batch), Ok(()));
    }

    #[test]
    fn what_we_build_we_read_and_the_crc_holds(samples in samples()) {
        let batch = build(&samples);
        prop_assert!(crc_is_valid(&batch));
        assert_same(&read(&batch), &samples);
    }

    #[test]
    fn any_bytes_end_in_records_or_an_error(mut bytes in vec(any::<u8>(), 0..300), v2: bool) {
        if v2 && bytes.len() >= HEADER_LEN {
            let length = bytes.len() as i32 - 12;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[16] = 2;
            bytes[22] &= !7;
            bytes[23] &= 0x7f;
            bytes[57..60].fill(0);
        }
        for batch in Batches::new(&bytes).flatten() {
            crc_is_valid(batch.1);
            for record in records(batch.1).into_iter().flatten().flatten() {
                prop_assert_eq!(record.headers.len(), record.headers.count());
            }
        }
    }

    #[test]
    fn a_sound_batch_with_any_byte_changed_is_read_or_refused(
        samples in samples(), at: prop::sample::Index, byte: u8,
    ) {
        let mut batch = build(&samples);
        let at = at.index(batch.len());
        batch[at] = byte;
        for batch in Batches::new(&batch).flatten() {
            records(batch.1).into_iter().flatten().for_each(drop);
        }
    }
}
