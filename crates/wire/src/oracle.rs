//! Checks this crate's frames against the `kafka-protocol` crate, which is generated from Kafka's
//! own definitions. That crate sees only frames that were encoded here: hostile ones could abort
//! it.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;

use crate::messages::*;
use crate::sample::{every_version, pair, unframed, whole};
use crate::schema::Version;
use crate::*;

const CORRELATION_ID: i32 = 0x0102_0304;

/// The other decoder reads the whole frame, and the other encoder writes the same bytes.
fn request_is_theirs(key: ApiKey, version: Version, frame: &Bytes) {
    let their_key = theirs::ApiKey::try_from(key as i16).unwrap();
    let header_version = their_key.request_header_version(version.number);
    let mut bytes = frame.clone();
    let header = theirs::RequestHeader::decode(&mut bytes, header_version).unwrap();
    let body = theirs::RequestKind::decode(their_key, &mut bytes, version.number).unwrap();
    assert!(bytes.is_empty(), "{key:?} {version:?}: {} bytes left", bytes.len());

    let mut again = BytesMut::new();
    header.encode(&mut again, header_version).unwrap();
    body.encode(&mut again, version.number).unwrap();
    assert_eq!(again, frame, "{key:?} {version:?}");
}

fn response_is_theirs(key: ApiKey, version: Version, frame: &Bytes) {
    let their_key = theirs::ApiKey::try_from(key as i16).unwrap();
    let header_version = their_key.response_header_version(version.number);
    let mut bytes = frame.clone();
    let header = theirs::ResponseHeader::decode(&mut bytes, header_version).unwrap();
    let body = theirs::ResponseKind::decode(their_key, &mut bytes, version.number).unwrap();
    assert!(bytes.is_empty(), "{key:?} {version:?}: {} bytes left", bytes.len());

    let mut again = BytesMut::new();
    header.encode(&mut again, header_version).unwrap();
    body.encode(&mut again, version.number).unwrap();
    assert_eq!(again, frame, "{key:?} {version:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_version_of_every_message_has_kafkas_bytes_and_comes_back(seed: u64) {
        for (key, version) in every_version() {
            let (request, response) = pair(key, version, seed);

            let frame = unframed(request.encode(version.number, CORRELATION_ID, "tester"));
            request_is_theirs(key, version, &frame);
            let (header, decoded) = decode_request(frame).unwrap();
            prop_assert_eq!(decoded, request);
            prop_assert_eq!(header.api_key, key);
            prop_assert_eq!(header.api_version, version.number);
            prop_assert_eq!(header.correlation_id, CORRELATION_ID);
            prop_assert_eq!(header.client_id, Some(Str::from("tester")));

            // An ApiVersions response with "unsupported version" is in version 0 by rule.
            if matches!(&response, Response::ApiVersions(body)
                if body.error_code == ErrorCode::UNSUPPORTED_VERSION) {
                continue;
            }
            let frame = unframed(whole(response.encode(version.number, CORRELATION_ID)));
            response_is_theirs(key, version, &frame);
            let decoded = decode_response(key, version.number, frame).unwrap();
            prop_assert_eq!(decoded, (CORRELATION_ID, response));
        }
    }
}

/// Bytes alone would not show that two fields of one type are swapped.
#[test]
fn the_fields_of_a_fetch_request_are_kafkas_by_name() {
    let ours = FetchRequest {
        cluster_id: Some("cluster".into()),
        replica_id: 1,
        max_wait_ms: 2,
        min_bytes: 3,
        max_bytes: 4,
        isolation_level: 1,
        session_id: 5,
        session_epoch: 6,
        topics: [FetchTopic {
            topic: "topic".into(),
            partitions: [FetchPartition {
                partition: 7,
                current_leader_epoch: 8,
                fetch_offset: 9,
                last_fetched_epoch: 10,
                log_start_offset: 11,
                partition_max_bytes: 12,
            }]
            .into(),
        }]
        .into(),
        forgotten_topics_data: vec![],
        rack_id: "rack".into(),
    };
    let mut bytes = unframed(Request::from(ours).encode(12, 0, ""));
    theirs::RequestHeader::decode(&mut bytes, 2).unwrap();
    let theirs = theirs::FetchRequest::decode(&mut bytes, 12).unwrap();
    assert_eq!(theirs.cluster_id.as_deref(), Some("cluster"));
    assert_eq!((theirs.replica_id.0, theirs.max_wait_ms, theirs.min_bytes), (1, 2, 3));
    assert_eq!((theirs.max_bytes, theirs.isolation_level), (4, 1));
    assert_eq!((theirs.session_id, theirs.session_epoch), (5, 6));
    assert_eq!(&*theirs.rack_id, "rack");
    assert_eq!(&*theirs.topics[0].topic.0, "topic");
    let partition = &theirs.topics[0].partitions[0];
    assert_eq!((partition.partition, partition.current_leader_epoch), (7, 8));
    assert_eq!((partition.fetch_offset, partition.last_fetched_epoch), (9, 10));
    assert_eq!((partition.log_start_offset, partition.partition_max_bytes), (11, 12));
}

#[test]
fn the_fields_of_a_fetch_response_are_kafkas_by_name() {
    let ours = FetchResponse {
        throttle_time_ms: 1,
        error_code: ErrorCode(2),
        session_id: 3,
        responses: [FetchableTopicResponse {
            topic: "topic".into(),
            partitions: [PartitionData {
                partition_index: 4,
                error_code: ErrorCode(5),
                high_watermark: 6,
                last_stable_offset: 7,
                log_start_offset: 8,
                diverging_epoch: EpochEndOffset { epoch: 9, end_offset: 10 },
                current_leader: LeaderIdAndEpoch { leader_id: 11, leader_epoch: 12 },
                snapshot_id: SnapshotId { end_offset: 13, epoch: 14 },
                aborted_transactions: Some(vec![AbortedTransaction {
                    producer_id: 15,
                    first_offset: 16,
                }]),
                preferred_read_replica: 17,
                records: Bytes::from_static(b"records").into(),
            }]
            .into(),
        }]
        .into(),
    };
    let mut bytes = unframed(whole(Response::from(ours).encode(12, 0)));
    theirs::ResponseHeader::decode(&mut bytes, 1).unwrap();
    let theirs = theirs::FetchResponse::decode(&mut bytes, 12).unwrap();
    assert_eq!((theirs.throttle_time_ms, theirs.error_code, theirs.session_id), (1, 2, 3));
    let partition = &theirs.responses[0].partitions[0];
    assert_eq!((partition.partition_index, partition.error_code), (4, 5));
    assert_eq!((partition.high_watermark, partition.last_stable_offset), (6, 7));
    assert_eq!(partition.log_start_offset, 8);
    assert_eq!((partition.diverging_epoch.epoch, partition.diverging_epoch.end_offset), (9, 10));
    assert_eq!(partition.current_leader.leader_id.0, 11);
    assert_eq!(partition.current_leader.leader_epoch, 12);
    assert_eq!((partition.snapshot_id.end_offset, partition.snapshot_id.epoch), (13, 14));
    let aborted = &partition.aborted_transactions.as_ref().unwrap()[0];
    assert_eq!((aborted.producer_id.0, aborted.first_offset), (15, 16));
    assert_eq!(partition.preferred_read_replica.0, 17);
    assert_eq!(partition.records.as_deref(), Some(&b"records"[..]));
}

#[test]
fn the_fields_of_a_produce_response_are_kafkas_by_name() {
    let ours = ProduceResponse {
        responses: [TopicProduceResponse {
            name: "topic".into(),
            partition_responses: [PartitionProduceResponse {
                index: 1,
                error_code: ErrorCode(2),
                base_offset: 3,
                log_append_time_ms: 4,
                log_start_offset: 5,
                record_errors: vec![],
                error_message: Some("why".into()),
            }]
            .into(),
        }]
        .into(),
        throttle_time_ms: 6,
    };
    let mut bytes = unframed(whole(Response::from(ours).encode(8, 0)));
    theirs::ResponseHeader::decode(&mut bytes, 0).unwrap();
    let theirs = theirs::ProduceResponse::decode(&mut bytes, 8).unwrap();
    let partition = &theirs.responses[0].partition_responses[0];
    assert_eq!((partition.index, partition.error_code, partition.base_offset), (1, 2, 3));
    assert_eq!((partition.log_append_time_ms, partition.log_start_offset), (4, 5));
    assert_eq!(partition.error_message.as_deref(), Some("why"));
    assert_eq!(theirs.throttle_time_ms, 6);
}

/// Compares two structs field by field, by their printed form.
macro_rules! same_fields {
    ($ours:expr, $theirs:expr, $($field:ident)*) => { $(
        assert_eq!(
            format!("{:?}", $ours.$field),
            format!("{:?}", $theirs.$field),
            concat!(stringify!($theirs), ".", stringify!($field))
        );
    )* };
}

#[test]
fn numbers_that_a_version_does_not_have_are_decoded_as_kafkas_defaults() {
    let (ours, theirs) = (
        PartitionProduceResponse::default(),
        theirs::produce_response::PartitionProduceResponse::default(),
    );
    same_fields!(ours, theirs, index base_offset log_append_time_ms log_start_offset error_message);
    let (ours, theirs) =
        (FetchPartition::default(), theirs::fetch_request::FetchPartition::default());
    same_fields!(ours, theirs, current_leader_epoch last_fetched_epoch log_start_offset partition_max_bytes);
    let (ours, theirs) = (FetchRequest::default(), theirs::FetchRequest::default());
    same_fields!(ours, theirs, max_bytes isolation_level session_id session_epoch);
    let (ours, theirs) =
        (PartitionData::default(), theirs::fetch_response::PartitionData::default());
    same_fields!(ours, theirs, last_stable_offset log_start_offset);
    let (ours, theirs) = (
        ListOffsetsPartitionResponse::default(),
        theirs::list_offsets_response::ListOffsetsPartitionResponse::default(),
    );
    same_fields!(ours, theirs, timestamp offset leader_epoch);
    let (ours, theirs) = (MetadataRequest::default(), theirs::MetadataRequest::default());
    same_fields!(ours, theirs, allow_auto_topic_creation include_topic_authorized_operations);
    let (ours, theirs) = (MetadataResponse::default(), theirs::MetadataResponse::default());
    same_fields!(ours, theirs, cluster_authorized_operations cluster_id);
    let (ours, theirs) = (CreateTopicsRequest::default(), theirs::CreateTopicsRequest::default());
    same_fields!(ours, theirs, timeout_ms validate_only);
    let (ours, theirs) = (
        CreatableTopicResult::default(),
        theirs::create_topics_response::CreatableTopicResult::default(),
    );
    same_fields!(ours, theirs, num_partitions replication_factor);
    let (ours, theirs) =
        (InitProducerIdRequest::default(), theirs::InitProducerIdRequest::default());
    same_fields!(ours, theirs, producer_epoch);
    let (ours, theirs) =
        (DescribeClusterRequest::default(), theirs::DescribeClusterRequest::default());
    same_fields!(ours, theirs, endpoint_type);
    let (ours, theirs) =
        (DescribeClusterResponse::default(), theirs::DescribeClusterResponse::default());
    same_fields!(ours, theirs, endpoint_type cluster_authorized_operations error_message);
    let (ours, theirs) = (OffsetCommitRequest::default(), theirs::OffsetCommitRequest::default());
    same_fields!(ours, theirs, generation_id_or_member_epoch retention_time_ms group_instance_id);
    let (ours, theirs) = (JoinGroupRequest::default(), theirs::JoinGroupRequest::default());
    same_fields!(ours, theirs, rebalance_timeout_ms group_instance_id reason);
    let (ours, theirs) = (JoinGroupResponse::default(), theirs::JoinGroupResponse::default());
    same_fields!(ours, theirs, generation_id protocol_type skip_assignment);
}

#[test]
fn error_codes_have_kafkas_names() {
    for code in -1..=115 {
        let theirs = kafka_protocol::ResponseError::try_from_code(code);
        let theirs = theirs.map_or("None".to_owned(), |error| format!("{error:?}"));
        let ours = ErrorCode(code).name().unwrap_or_else(|| panic!("{code} has no name"));
        let same = |name: &str| name.replace('_', "").to_lowercase();
        assert_eq!(same(ours), same(&theirs), "{code}");
    }
}
