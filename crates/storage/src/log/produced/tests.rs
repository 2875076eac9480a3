//! Which batches are accepted from producers, and how they are stored.

use penstock_batch::{BatchBuilder, NewRecord};

use super::*;

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(NewRecord { timestamp_ms: 7, value: Some(b"v"), ..NewRecord::default() });
    builder.finish()
}

/// A batch with a field overwritten and the CRC made right again.
fn altered(at: usize, with: &[u8]) -> Bytes {
    sealed(batch(), at, with)
}

fn sealed(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Bytes {
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// Bit by bit, so that the tests need no package for it.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn terms() -> Terms {
    LogConfig::default().terms(NOW_MS, true)
}

fn validate(bytes: impl Into<Bytes>) -> Result<ProducedBatch, ProduceError> {
    ProducedBatch::validate(bytes.into(), &terms())
}

/// A batch whose records have these times, with a field of its header overwritten.
fn timed(timestamps: &[i64], at: usize, with: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for timestamp_ms in timestamps {
        builder.push(NewRecord { timestamp_ms: *timestamp_ms, ..NewRecord::default() });
    }
    sealed(builder.finish(), at, with)
}

fn max_timestamp_of(bytes: Bytes) -> i64 {
    validate(bytes).unwrap().header.max_timestamp
}

#[test]
fn a_sound_batch_passes_as_it_is() {
    let one = validate(batch()).unwrap();
    assert_eq!((one.record_count(), one.header.max_timestamp), (1, 7));
    assert!(one.is_checked && !one.is_restamped);
}

#[test]
fn one_batch_is_taken_at_a_time_and_nothing_behind_it() {
    for behind in [batch(), vec![0]] {
        let error = validate([batch(), behind].concat()).unwrap_err();
        assert!(matches!(error, ProduceError::Invalid(_)), "{error}");
    }
    assert!(matches!(validate(Bytes::new()), Err(ProduceError::Invalid(_))));
}

#[test]
fn a_cut_or_flipped_batch_is_corrupt() {
    let sound = batch();
    for len in 1..sound.len() {
        let error = validate(Bytes::copy_from_slice(&sound[..len])).unwrap_err();
        assert!(matches!(error, ProduceError::Corrupt(_)), "{len}: {error}");
    }
    for at in 21..sound.len() {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x40;
        assert!(validate(flipped).is_err(), "{at}");
    }
}

#[test]
fn each_kind_of_bad_batch_has_kafkas_error() {
    let invalid = [
        (21, [0, 5].as_slice()),   // codec 5
        (22, &[0x20]),             // control
        (23, &[0, 0, 0, 4]),       // last offset delta
        (43, &9i64.to_be_bytes()), // producer id without epoch
    ];
    for (at, with) in invalid {
        let error = validate(altered(at, with)).unwrap_err();
        assert!(matches!(error, ProduceError::Invalid(_)), "byte {at}: {error}");
    }
    assert_eq!(validate(altered(22, &[0x10])).unwrap_err(), ProduceError::Transactional);
    assert_eq!(validate(altered(22, &[0x30])).unwrap_err(), ProduceError::Transactional);
    let old = validate(altered(16, &[1])).unwrap_err();
    assert_eq!(old, ProduceError::UnsupportedMagic { magic: 1 });
    let small = Terms { max_message_bytes: 60, ..terms() };
    let large = ProducedBatch::validate(batch().into(), &small).unwrap_err();
    assert!(matches!(large, ProduceError::TooLarge { max_bytes: 60, .. }));
}

#[test]
fn records_that_are_not_what_the_header_says_are_refused_by_their_place() {
    let sound = timed(&[NOW_MS, NOW_MS], 61, &[]);
    let record = (sound.len() - HEADER_LEN) / 2;
    let two_more = [0, 0, 0, 3].as_slice();
    let counted = sealed(timed(&[NOW_MS, NOW_MS], 23, two_more).to_vec(), 57, &[0, 0, 0, 4]);
    let misplaced = sealed(sound.to_vec(), HEADER_LEN + record + 3, &[8]);
    let cut_short = sealed(sound.to_vec(), HEADER_LEN, &[4]);
    for (bytes, index) in [(counted, 2), (misplaced, 1), (cut_short, 0)] {
        let error = validate(bytes).unwrap_err();
        assert!(matches!(error, ProduceError::Record(_)), "{error}");
        assert_eq!(error.record_index(), Some(index), "{error}");
    }
}

#[test]
fn the_greatest_timestamp_is_that_of_the_records_whatever_the_header_says() {
    for claim in [0, -1, -2, NOW_MS - HOUR_MS, NOW_MS, i64::MAX, i64::MIN] {
        let bytes = timed(&[NOW_MS, NOW_MS + 5, NOW_MS - 3], 35, &claim.to_be_bytes());
        let batch = validate(bytes).unwrap();
        assert_eq!(batch.header.max_timestamp, NOW_MS + 5, "{claim}");
        assert!(batch.is_checked && batch.is_restamped);
    }
}

#[test]
fn the_timestamp_type_is_the_topics() {
    let bytes = timed(&[NOW_MS, NOW_MS + 5], 22, &[8]);
    let batch = validate(bytes.clone()).unwrap();
    assert_eq!(batch.header.timestamp_type(), TimestampType::CreateTime);
    assert!(batch.is_restamped);
    let stamped = Terms { timestamp_type: TimestampType::LogAppendTime, ..terms() };
    let error = ProducedBatch::validate(bytes, &stamped).unwrap_err();
    assert_eq!(error, ProduceError::TimestampType);
}

#[test]
fn times_too_far_ahead_or_back_are_refused_unless_the_broker_stamps() {
    let narrow = Terms { timestamp_before_max_ms: HOUR_MS, ..terms() };
    let far = [NOW_MS + HOUR_MS + 1, NOW_MS - HOUR_MS - 1, NOW_MS * 1000, -2, i64::MAX];
    for timestamp_ms in far {
        let bytes = timed(&[NOW_MS, timestamp_ms], 61, &[]);
        let error = ProducedBatch::validate(bytes.clone(), &narrow).unwrap_err();
        assert!(matches!(error, ProduceError::Timestamp { .. }), "{timestamp_ms}: {error}");
        assert_eq!(error.record_index(), Some(1));
        let stamped = Terms { timestamp_type: TimestampType::LogAppendTime, ..narrow };
        assert!(ProducedBatch::validate(bytes, &stamped).is_ok());
    }
    for timestamp_ms in [NOW_MS + HOUR_MS, NOW_MS - HOUR_MS, -1] {
        let bytes = timed(&[NOW_MS, timestamp_ms], 61, &[]);
        assert!(ProducedBatch::validate(bytes, &narrow).is_ok(), "{timestamp_ms}");
    }
    assert_eq!(max_timestamp_of(timed(&[0, 1], 61, &[])), 1, "1970 is no time too far back");
}

/// One record that claims to be gzip's. Nothing unwraps it here.
fn compressed(base_ms: i64, max_ms: i64) -> Bytes {
    let bytes = [&batch()[..HEADER_LEN], &[0x1f, 0x8b, 8, 0, 0]].concat();
    let length = (bytes.len() - 12) as i32;
    let bytes = sealed(bytes, 8, &length.to_be_bytes());
    let bytes = sealed(bytes.to_vec(), 22, &[1]);
    let bytes = sealed(bytes.to_vec(), 27, &base_ms.to_be_bytes());
    sealed(bytes.to_vec(), 35, &max_ms.to_be_bytes())
}

#[test]
fn of_compressed_records_a_claim_that_can_be_stays_and_another_becomes_the_time_of_the_append() {
    for (base_ms, max_ms, stored_ms) in [
        (NOW_MS - 9, NOW_MS - 5, NOW_MS - 5),
        (NOW_MS - 9, 0, NOW_MS),
        (NOW_MS - 9, -1, NOW_MS),
        (NOW_MS + 9, 0, NOW_MS + 9),
        (-1, -1, -1),
    ] {
        let batch = validate(compressed(base_ms, max_ms)).unwrap();
        assert_eq!(batch.header.max_timestamp, stored_ms, "{base_ms} {max_ms}");
        assert!(!batch.is_checked);
    }
    for (base_ms, max_ms) in [(NOW_MS * 1000, NOW_MS * 1000), (NOW_MS, NOW_MS * 1000)] {
        let error = validate(compressed(base_ms, max_ms)).unwrap_err();
        assert!(matches!(error, ProduceError::Timestamp { .. }), "{error}");
    }
}

#[test]
fn decompressed_records_are_checked_as_if_they_had_come_so() {
    let records = timed(&[NOW_MS - 1], 61, &[]).slice(HEADER_LEN..);
    let mut batch = validate(compressed(NOW_MS - 1, 0)).unwrap();
    assert_eq!(batch.compressed().unwrap().0, Codec::Gzip);
    batch.check_decompressed(&records, &terms()).unwrap();
    assert!(batch.is_checked && batch.header.max_timestamp == NOW_MS - 1);
    let error = batch.check_decompressed(&records[1..], &terms()).unwrap_err();
    assert!(matches!(error, ProduceError::Record(_)), "{error}");
}

#[test]
fn bodies_that_no_consumer_could_unwrap_and_zstd_before_its_time_are_refused() {
    let body = compressed(NOW_MS, NOW_MS).to_vec();
    for codec in 2..=4 {
        let error = validate(sealed(body.clone(), 22, &[codec])).unwrap_err();
        assert!(matches!(error, ProduceError::Invalid(_)), "{codec}: {error}");
    }
    let old = Terms { takes_zstd: false, ..terms() };
    let error = ProducedBatch::validate(sealed(body, 22, &[4]), &old).unwrap_err();
    assert_eq!(error, ProduceError::ZstdTooEarly);
}
