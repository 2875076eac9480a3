//! The table of APIs, from which advertising, decoding and dispatch follow.

use bytes::{Bytes, BytesMut};

use crate::answer::Answer;
use crate::field::Field;
use crate::header::{
    RequestError, RequestHeader, RequestStart, encode_request_header, response_header_has_tags,
};
use crate::messages::*;
use crate::reader::{DecodeError, Reader};
use crate::schema::{Version, apis};
use crate::writer::Writer;

/// The most array elements of a request: 262 144 partitions are more than any client fetches.
const MAX_REQUEST_ELEMENTS: usize = 1 << 18;

/// The most of a response: the metadata of a large cluster has every replica of every partition.
const MAX_RESPONSE_ELEMENTS: usize = 1 << 22;

apis! {
    // key => name(request, response) versions, first flexible version
    0  => Produce(ProduceRequest, ProduceResponse) 3..=8, flexible 9;
    1  => Fetch(FetchRequest, FetchResponse) 4..=12, flexible 12;
    2  => ListOffsets(ListOffsetsRequest, ListOffsetsResponse) 1..=7, flexible 6;
    3  => Metadata(MetadataRequest, MetadataResponse) 0..=9, flexible 9;
    8  => OffsetCommit(OffsetCommitRequest, OffsetCommitResponse) 2..=8, flexible 8;
    9  => OffsetFetch(OffsetFetchRequest, OffsetFetchResponse) 1..=8, flexible 6;
    10 => FindCoordinator(FindCoordinatorRequest, FindCoordinatorResponse) 0..=4, flexible 3;
    11 => JoinGroup(JoinGroupRequest, JoinGroupResponse) 0..=9, flexible 6;
    12 => Heartbeat(HeartbeatRequest, HeartbeatResponse) 0..=4, flexible 4;
    13 => LeaveGroup(LeaveGroupRequest, LeaveGroupResponse) 0..=5, flexible 4;
    14 => SyncGroup(SyncGroupRequest, SyncGroupResponse) 0..=5, flexible 4;
    18 => ApiVersions(ApiVersionsRequest, ApiVersionsResponse) 0..=4, flexible 3;
    19 => CreateTopics(CreateTopicsRequest, CreateTopicsResponse) 2..=7, flexible 5;
    20 => DeleteTopics(DeleteTopicsRequest, DeleteTopicsResponse) 1..=5, flexible 4;
    22 => InitProducerId(InitProducerIdRequest, InitProducerIdResponse) 0..=4, flexible 2;
    32 => DescribeConfigs(DescribeConfigsRequest, DescribeConfigsResponse) 1..=4, flexible 4;
    37 => CreatePartitions(CreatePartitionsRequest, CreatePartitionsResponse) 0..=3, flexible 2;
    44 => IncrementalAlterConfigs(IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse) 0..=1, flexible 1;
    60 => DescribeCluster(DescribeClusterRequest, DescribeClusterResponse) 0..=1, flexible 0;
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupportedApi {
    /// The API.
    pub key: ApiKey,
    /// The lowest version decoded.
    pub min_version: i16,
    /// The highest version decoded.
    pub max_version: i16,
    flexible_from: i16,
}

impl SupportedApi {
    /// The lowest version that is advertised. Produce advertises 0 although 3 is the lowest served,
    /// as Kafka 4 does. librdkafka up to 2.10 takes any other minimum for a broker that cannot
    /// decompress gzip, snappy and lz4, and silently sends uncompressed data.
    pub fn advertised_min_version(&self) -> i16 {
        if self.key == ApiKey::Produce { 0 } else { self.min_version }
    }

    pub(crate) fn version(&self, number: i16) -> Option<Version> {
        (self.min_version..=self.max_version)
            .contains(&number)
            .then_some(Version { number, flexible: number >= self.flexible_from })
    }
}

impl ApiKey {
    /// The API with a number, if it is in the table.
    pub fn from_number(number: i16) -> Option<ApiKey> {
        SUPPORTED.iter().map(|api| api.key).find(|key| *key as i16 == number)
    }

    /// Its row of the table.
    pub fn supported(self) -> &'static SupportedApi {
        let row = SUPPORTED.iter().find(|api| api.key == self);
        row.expect("every key has a row, they are declared together")
    }

    /// The encoding of a version that this side chose. A version outside of the table is a bug.
    fn chosen(self, api_version: i16) -> Version {
        let version = self.supported().version(api_version);
        version.unwrap_or_else(|| panic!("{self:?} has no version {api_version} here"))
    }
}

/// The highest version of `key` that both sides speak. The peer's range is inclusive.
pub fn negotiate(key: ApiKey, peer_min: i16, peer_max: i16) -> Option<i16> {
    let ours = key.supported();
    let version = ours.max_version.min(peer_max);
    (version >= ours.min_version.max(peer_min)).then_some(version)
}

/// Decodes a request frame without its length prefix. Strings and bytes are slices of `frame`.
pub fn decode_request(frame: Bytes) -> Result<(RequestHeader, Request), RequestError> {
    decode_request_within(frame, MAX_REQUEST_ELEMENTS)
}

/// Like [`decode_request`], for a caller that has time for a short request only. One of more than
/// `max_elements` array elements is refused ([`RequestError::too_many_elements_of`]) after as
/// much work as a short one.
pub fn decode_request_within(
    frame: Bytes,
    max_elements: usize,
) -> Result<(RequestHeader, Request), RequestError> {
    let unknown = Version { number: 0, flexible: false };
    let mut reader = Reader::new(frame, unknown, max_elements.min(MAX_REQUEST_ELEMENTS));
    let RequestStart { api_key: number, api_version, correlation_id } =
        RequestStart::decode(&mut reader).map_err(RequestError::Header)?;

    let api = ApiKey::from_number(number)
        .and_then(|key| Some((key, key.supported().version(api_version)?)));
    let Some((api_key, version)) = api else {
        return Err(RequestError::UnsupportedVersion {
            api_key: number,
            api_version,
            correlation_id,
        });
    };
    reader.version = version;
    let body = |error| RequestError::Body { api_key, api_version, correlation_id, error };
    let client_id = RequestStart::decode_rest(&mut reader).map_err(body)?;
    let mut request = Request::decode_body(api_key, reader).map_err(body)?;
    if let (Request::Metadata(metadata), 0) = (&mut request, api_version) {
        metadata.empty_means_all();
    }
    Ok((RequestHeader { api_key, api_version, correlation_id, client_id }, request))
}

/// Decodes a response frame without its length prefix. Returns the correlation id, too.
///
/// `api_version` is that of the request; a version outside of the table is a bug. A server that
/// does not know a version of ApiVersions answers in version 0 with error 35 (KIP-511); such an
/// answer is decoded, too.
pub fn decode_response(
    api_key: ApiKey,
    api_version: i16,
    frame: Bytes,
) -> Result<(i32, Response), DecodeError> {
    let mut version = api_key.chosen(api_version);
    let mut reader = Reader::new(frame, version, MAX_RESPONSE_ELEMENTS);
    let correlation_id = i32::from_be_bytes(reader.array()?);
    if response_header_has_tags(api_key, version) {
        reader.skip_tagged()?;
    }
    let refused = crate::ErrorCode::UNSUPPORTED_VERSION.0.to_be_bytes();
    if api_key == ApiKey::ApiVersions && reader.peek().starts_with(&refused) {
        version = api_key.chosen(0);
    }
    reader.version = version;
    Ok((correlation_id, Response::decode_body(api_key, reader)?))
}

impl Request {
    /// The frame with its length prefix. A version outside of the table is a bug, and so are slots.
    pub fn encode(&self, api_version: i16, correlation_id: i32, client_id: &str) -> Bytes {
        let api_key = self.api_key();
        let mut writer = Writer::new(api_key.chosen(api_version), BytesMut::new());
        encode_request_header(&mut writer, api_key, correlation_id, client_id);
        self.encode_body(&mut writer);
        let (frame, _) = writer.finish();
        frame.into_bytes(|slot| panic!("slot {} in a request", slot.id))
    }
}

impl Response {
    /// The frame in pieces, with its length prefix, cut where
    /// [`Records::Slot`](crate::Records::Slot) stands. The version is that of the request, or 0 for
    /// an unknown version of ApiVersions. A version outside of the table is a bug.
    pub fn encode(&self, api_version: i16, correlation_id: i32) -> Answer {
        self.encode_into(api_version, correlation_id, &mut BytesMut::new())
    }

    /// Like [`Response::encode`], in the memory of `buffer`, which must be empty. The buffer gets
    /// back the memory that can be used again once the answer is dropped. Memory is allocated for
    /// large answers, for the first one, and for the next one after a large one.
    pub fn encode_into(
        &self,
        api_version: i16,
        correlation_id: i32,
        buffer: &mut BytesMut,
    ) -> Answer {
        let api_key = self.api_key();
        let version = api_key.chosen(api_version);
        let mut writer = Writer::new(version, std::mem::take(buffer));
        writer.put(&correlation_id.to_be_bytes());
        if response_header_has_tags(api_key, version) {
            writer.put_unsigned_varint(0);
        }
        self.encode_body(&mut writer);
        let answer;
        (answer, *buffer) = writer.finish();
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{unframed, whole};
    use crate::{ErrorCode, Problem, Records, RecordsSlot};

    #[test]
    fn produced_records_are_a_slice_of_the_frame() {
        let partition = PartitionProduceData { index: 0, records: Bytes::from("batch").into() };
        let topic = TopicProduceData { name: "t".into(), partition_data: [partition].into() };
        let request = ProduceRequest { topic_data: [topic].into(), ..ProduceRequest::default() };
        let frame = unframed(Request::from(request).encode(8, 1, "c"));
        let Ok((_, Request::Produce(decoded))) = decode_request(frame.clone()) else {
            panic!("another message");
        };
        let Records::Bytes(Some(records)) = &decoded.topic_data[0].partition_data[0].records else {
            panic!("no records");
        };
        assert!(frame.as_ptr_range().contains(&records.as_ptr()));
        assert!(frame.as_ptr_range().contains(&decoded.topic_data[0].name.as_ptr()));
    }

    #[test]
    fn tagged_fields_nobody_knows_are_passed_over() {
        let frame = [
            &[0, 60, 0, 0, 0, 0, 0, 7, 0xff, 0xff][..], // DescribeCluster 0, no client id
            &[1, 99, 2, 0xaa, 0xbb],                    // header: tag 99 of two bytes
            &[1],                                       // include_cluster_authorized_operations
            &[2, 5, 0, 100, 1, 0xcc],                   // body: tag 5 of none, tag 100 of one byte
        ]
        .concat();
        let (header, request) = decode_request(frame.into()).unwrap();
        assert_eq!((header.correlation_id, header.client_id), (7, None));
        let expected = DescribeClusterRequest {
            include_cluster_authorized_operations: true,
            ..DescribeClusterRequest::default()
        };
        assert_eq!(request, Request::DescribeCluster(expected));
    }

    #[test]
    fn labels_that_are_no_utf_8_are_taken_and_names_are_not() {
        let frame = |client_id: &[u8], software: &[u8]| {
            let mut frame = vec![0, 18, 0, 3, 0, 0, 0, 7, 0, client_id.len() as u8];
            frame.extend_from_slice(client_id);
            frame.extend([0, software.len() as u8 + 1]);
            frame.extend_from_slice(software);
            frame.extend([2, b'1', 0]);
            frame.into()
        };
        let (header, request) = decode_request(frame(b"Z\xfcrich", b"caf\xe9")).unwrap();
        assert_eq!(header.client_id.as_deref(), Some("Z\u{fffd}rich"));
        let Request::ApiVersions(request) = request else { panic!("another message") };
        assert_eq!(&**request.client_software_name, "caf\u{fffd}");
        let (header, _) = decode_request(frame("Zürich".as_bytes(), b"")).unwrap();
        assert_eq!(header.client_id.as_deref(), Some("Zürich"));

        let latin = [0, 10, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0, 2, b'g', 0xfc];
        let Err(RequestError::Body { error, .. }) = decode_request(latin[..].to_vec().into())
        else {
            panic!("two groups may become one");
        };
        assert_eq!(error, DecodeError { field: "key", problem: Problem::Utf8 });
    }

    #[test]
    fn null_where_the_version_has_none_is_refused_with_the_fields_name() {
        let null_topics = Request::from(MetadataRequest { topics: None, ..Default::default() });
        let frame = null_topics.encode(1, 0, "c");
        let decoded = decode_request(unframed(frame.clone())).unwrap().1;
        assert!(matches!(decoded, Request::Metadata(MetadataRequest { topics: None, .. })));

        let mut in_version_0 = unframed(frame).to_vec();
        in_version_0[3] = 0;
        let Err(RequestError::Body { error, .. }) = decode_request(in_version_0.into()) else {
            panic!("it was decoded");
        };
        assert_eq!(error, DecodeError { field: "topics", problem: Problem::Null });
    }

    #[test]
    fn all_topics_is_an_empty_array_in_version_0_of_metadata_and_null_in_later_ones() {
        let frame = |version, topics| {
            let request = MetadataRequest { topics, ..MetadataRequest::default() };
            unframed(Request::from(request).encode(version, 0, ""))
        };
        let topics = |frame| match decode_request(frame).unwrap().1 {
            Request::Metadata(decoded) => decoded.topics,
            _ => panic!("another message"),
        };
        assert!(frame(0, None).ends_with(&[0, 0, 0, 0]));
        assert_eq!(topics(frame(0, None)), None);
        assert!(frame(1, None).ends_with(&[0xff; 4]));
        assert_eq!(topics(frame(1, None)), None);
        assert_eq!(topics(frame(1, Some(vec![]))), Some(vec![]));
    }

    #[test]
    fn a_refused_api_versions_request_is_answered_so_that_the_client_can_read_it() {
        let refusal = ApiVersionsResponse::ours(ErrorCode::UNSUPPORTED_VERSION);
        let frame = unframed(whole(Response::from(refusal.clone()).encode(0, 5)));
        let decoded = decode_response(ApiKey::ApiVersions, 4, frame).unwrap();
        assert_eq!(decoded, (5, Response::ApiVersions(refusal)));
    }

    #[test]
    fn produce_claims_version_0_and_serves_from_3() {
        let ours = ApiVersionsResponse::ours(ErrorCode::NONE);
        let range = |key| ours.api_keys.iter().find(|api| api.api_key == key as i16).unwrap();
        assert_eq!(
            (range(ApiKey::Produce).min_version, range(ApiKey::Produce).max_version),
            (0, 8)
        );
        assert_eq!((range(ApiKey::Fetch).min_version, range(ApiKey::Fetch).max_version), (4, 12));
        assert_eq!(ApiKey::Produce.supported().min_version, 3);
    }

    #[test]
    fn the_highest_common_version_is_negotiated_if_there_is_one() {
        assert_eq!(negotiate(ApiKey::Fetch, 0, 17), Some(12));
        assert_eq!(negotiate(ApiKey::Fetch, 0, 11), Some(11));
        assert_eq!(negotiate(ApiKey::Fetch, 13, 17), None);
        assert_eq!(negotiate(ApiKey::Fetch, 0, 3), None);
    }

    #[test]
    fn a_fetch_of_one_partition_is_decoded_and_answered_without_an_allocation() {
        let partition = FetchPartition::default();
        let topic = FetchTopic { topic: "topic".into(), partitions: [partition].into() };
        let request = FetchRequest { topics: [topic].into(), ..FetchRequest::default() };
        let frame = unframed(Request::from(request).encode(12, 1, "c"));
        let mut buffer = BytesMut::new();
        let mut serve = || {
            let Request::Fetch(asked) = decode_request(frame.clone()).unwrap().1 else {
                panic!("another message");
            };
            let records = Records::Slot(RecordsSlot { id: 0, len_bytes: 65_536 });
            let partition = PartitionData { records, ..PartitionData::default() };
            let topic = asked.topics.into_iter().next().unwrap().topic;
            let topic = FetchableTopicResponse { topic, partitions: [partition].into() };
            let response = FetchResponse { responses: [topic].into(), ..FetchResponse::default() };
            let answer = Response::from(response).encode_into(12, 1, &mut buffer);
            assert_eq!(answer.pieces.len(), 3);
        };
        serve();
        assert_eq!(allocation_counter::measure(serve).count_total, 0);
    }

    #[test]
    fn an_answer_that_outgrew_its_buffer_keeps_it() {
        let mut buffer = BytesMut::new();
        let mut left = |topic: &str| {
            let topic = FetchableTopicResponse { topic: topic.into(), ..Default::default() };
            let response = FetchResponse { responses: [topic].into(), ..FetchResponse::default() };
            drop(Response::from(response).encode_into(12, 1, &mut buffer));
            buffer.reserve(1);
            buffer.capacity()
        };
        assert!(left("topic") <= 512);
        assert!(left(&"t".repeat(9000)) <= 512);
    }
}
