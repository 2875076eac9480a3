//! Hostile frames: none may panic, and none may reserve memory by its claims.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::sample::{every_version, pair, unframed, whole};
use crate::schema::Version;
use crate::*;

/// Frames are small here, and decoding must take as little.
const FRAME_BYTES: usize = 2_000;
const MEMORY_BYTES: u64 = 1 << 20;

/// 2^31-1 as four bytes and as a variable-length integer (plus one, as lengths are encoded).
const HUGE_COUNTS: [&[u8]; 2] = [&[0x7f, 0xff, 0xff, 0xff], &[0x80, 0x80, 0x80, 0x80, 0x08]];

/// A request and a response frame of every version, with most fields filled.
fn every_frame() -> impl Iterator<Item = (ApiKey, Version, Bytes, Bytes)> {
    every_version().map(|(key, version)| {
        let frames = (0..).map(|seed| {
            let (request, response) = pair(key, version, seed);
            let request = unframed(request.encode(version.number, 1, "tester"));
            (request, unframed(whole(response.encode(version.number, 1))))
        });
        let small = |(a, b): &(Bytes, Bytes)| a.len().max(b.len()) <= FRAME_BYTES;
        let largest = frames.filter(small).take(5).max_by_key(|(a, b)| a.len() + b.len());
        let (request, response) = largest.expect("five of them");
        (key, version, request, response)
    })
}

#[test]
fn a_count_of_two_to_the_31_anywhere_reserves_no_memory() {
    for (key, version, request, response) in every_frame() {
        for huge in HUGE_COUNTS {
            for at in 8..request.len() {
                let frame = overwritten(&request, at, huge);
                let used = allocation_counter::measure(|| drop(decode_request(frame)));
                assert!(used.bytes_max < MEMORY_BYTES, "{key:?} {version:?} at {at}: {used:?}");
            }
            for at in 4..response.len() {
                let frame = overwritten(&response, at, huge);
                let used = allocation_counter::measure(|| {
                    drop(decode_response(key, version.number, frame));
                });
                assert!(used.bytes_max < MEMORY_BYTES, "{key:?} {version:?} at {at}: {used:?}");
            }
        }
    }
}

fn overwritten(frame: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut frame = BytesMut::from(&frame[..]);
    frame.truncate(at);
    frame.extend_from_slice(with);
    frame.extend_from_slice(&[0; 64]);
    frame.freeze()
}

#[test]
fn a_frame_cut_anywhere_is_an_error() {
    for (key, version, request, response) in every_frame() {
        for end in 0..request.len() {
            let cut = decode_request(request.slice(..end));
            assert!(cut.is_err(), "{key:?} {version:?} cut at {end}: {cut:?}");
        }
        for end in 0..response.len() {
            let cut = decode_response(key, version.number, response.slice(..end));
            assert!(cut.is_err(), "{key:?} {version:?} cut at {end}: {cut:?}");
        }
    }
}

/// A real client was refused once: librdkafka leaves a placeholder's bytes behind its Metadata 9.
/// Kafka does not look there.
#[test]
fn what_follows_a_body_is_passed_over() {
    for (key, version, request, response) in every_frame() {
        let longer = |frame: &Bytes| Bytes::from([frame, &b"\0\x01\0\0\0"[..]].concat());
        assert_eq!(decode_request(longer(&request)), decode_request(request));
        let decoded = decode_response(key, version.number, longer(&response));
        assert_eq!(decoded, decode_response(key, version.number, response));
    }
}

#[test]
fn more_array_elements_than_anybody_needs_are_refused() {
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&[0, 20, 0, 1, 0, 0, 0, 7, 0xff, 0xff]); // DeleteTopics 1
    let count = (1 << 18) + 1;
    frame.extend_from_slice(&i32::to_be_bytes(count));
    frame.extend(std::iter::repeat_n(0, 2 * count as usize + 4));
    let used = allocation_counter::measure(|| {
        let error = decode_request(frame.clone().freeze()).unwrap_err();
        assert!(error.to_string().contains("262144"), "{error}");
    });
    assert!(used.bytes_max < 2 * frame.len() as u64);
}

/// They are passed over, each with as much work as an element.
#[test]
fn tagged_fields_count_as_elements() {
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&[0, 60, 0, 0, 0, 0, 0, 7, 0xff, 0xff]); // DescribeCluster 0
    frame.extend_from_slice(&[10]); // tagged fields of the header
    frame.extend(std::iter::repeat_n([99, 0], 10).flatten());
    frame.extend_from_slice(&[1, 0]);
    let frame = frame.freeze();
    assert!(decode_request_within(frame.clone(), 10).is_ok());
    let error = decode_request_within(frame, 9).unwrap_err();
    assert_eq!(error.too_many_elements_of(), Some(ApiKey::DescribeCluster), "{error}");
}

#[test]
fn a_request_of_an_unknown_kind_says_whom_to_answer() {
    for (key, version) in [(18i16, 5i16), (18, -1), (0, 2), (1, 13), (999, 0), (-1, 0)] {
        let mut frame = [key.to_be_bytes(), version.to_be_bytes()].concat();
        frame.extend([0, 0, 0, 42, 0xde, 0xad]);
        assert_eq!(
            decode_request(frame.into()),
            Err(RequestError::UnsupportedVersion {
                api_key: key,
                api_version: version,
                correlation_id: 42
            })
        );
    }
}

#[test]
fn fewer_bytes_than_a_header_are_no_request() {
    for length in 0..8 {
        let error = decode_request(vec![0; length].into()).unwrap_err();
        assert!(matches!(error, RequestError::Header(_)), "{error}");
    }
}

proptest! {
    #[test]
    fn any_body_of_any_version_is_decoded_or_refused(body in vec(any::<u8>(), 0..200)) {
        for (key, version) in every_version() {
            let mut frame = BytesMut::new();
            frame.extend_from_slice(&(key as i16).to_be_bytes());
            frame.extend_from_slice(&version.number.to_be_bytes());
            frame.extend_from_slice(&body);
            drop(decode_request(frame.freeze()));
            drop(decode_response(key, version.number, Bytes::from(body.clone())));
        }
    }

    #[test]
    fn what_survives_a_changed_byte_can_be_encoded_again(
        seed: u64, at: prop::sample::Index, byte: u8,
    ) {
        for (key, version) in every_version() {
            let (request, response) = pair(key, version, seed);
            let mut frame = BytesMut::from(&unframed(request.encode(version.number, 1, "t"))[..]);
            let position = at.index(frame.len());
            frame[position] = byte;
            if let Ok((header, request)) = decode_request(frame.freeze()) {
                request.encode(header.api_version, header.correlation_id, "t");
            }
            let response = unframed(whole(response.encode(version.number, 1)));
            let mut frame = BytesMut::from(&response[..]);
            let position = at.index(frame.len());
            frame[position] = byte;
            if let Ok((_, response)) = decode_response(key, version.number, frame.freeze()) {
                response.encode(version.number, 1);
            }
        }
    }
}
