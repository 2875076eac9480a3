//! The table of APIs: what is advertised, what is decoded, and the dispatch that follows from it.

use bytes::Bytes;

use crate::answer::Answer;
use crate::field::Field;
use crate::header::{
    RequestError, RequestHeader, RequestStart, encode_request_header, response_header_has_tags,
};
use crate::messages::*;
use crate::reader::{DecodeError, Reader};
use crate::schema::{Version, apis};
use crate::writer::Writer;

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
    /// Which API.
    pub key: ApiKey,
    /// The lowest version decoded.
    pub min_version: i16,
    /// The highest version decoded.
    pub max_version: i16,
    flexible_from: i16,
}

impl SupportedApi {
    /// The lowest version to tell clients. Produce claims 0 although 3 is the least served, as
    /// Kafka 4 does: librdkafka up to 2.10 takes any other minimum for a broker that cannot
    /// decompress gzip, snappy and lz4, and silently sends its data uncompressed.
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
    /// The API of a number, if it is in the table.
    pub fn from_number(number: i16) -> Option<ApiKey> {
        SUPPORTED.iter().map(|api| api.key).find(|key| *key as i16 == number)
    }

    /// Its row of the table.
    pub fn supported(self) -> &'static SupportedApi {
        let row = SUPPORTED.iter().find(|api| api.key == self);
        row.expect("every key has a row, they are declared together")
    }

    /// How it is encoded in a version that this side chose: one out of the table is a bug.
    fn chosen(self, api_version: i16) -> Version {
        let version = self.supported().version(api_version);
        version.unwrap_or_else(|| panic!("{self:?} has no version {api_version} here"))
    }
}

/// The highest version of `key` that we and a peer speak, whose range is inclusive.
pub fn negotiate(key: ApiKey, peer_min: i16, peer_max: i16) -> Option<i16> {
    let ours = key.supported();
    let version = ours.max_version.min(peer_max);
    (version >= ours.min_version.max(peer_min)).then_some(version)
}

/// Decodes a request frame without its length prefix. Strings and bytes are slices of `frame`.
pub fn decode_request(frame: Bytes) -> Result<(RequestHeader, Request), RequestError> {
    let unknown = Version { number: 0, flexible: false };
    let mut reader = Reader::new(frame, unknown);
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
    let request = Request::decode_body(api_key, reader).map_err(body)?;
    Ok((RequestHeader { api_key, api_version, correlation_id, client_id }, request))
}

/// Decodes a response frame without its length prefix; gives the correlation id with it.
///
/// `api_version` is the one the request was sent in, and so of the table: another one is a bug.
/// A server that did not know the ApiVersions version asked answers in version 0 with error 35
/// (KIP-511); that is decoded too.
pub fn decode_response(
    api_key: ApiKey,
    api_version: i16,
    frame: Bytes,
) -> Result<(i32, Response), DecodeError> {
    let mut version = api_key.chosen(api_version);
    let mut reader = Reader::new(frame, version);
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
    /// The frame, length prefix included. A version out of the table is a bug, and so are slots.
    pub fn encode(&self, api_version: i16, correlation_id: i32, client_id: &str) -> Bytes {
        let api_key = self.api_key();
        let mut writer = Writer::new(api_key.chosen(api_version));
        encode_request_header(&mut writer, api_key, correlation_id, client_id);
        self.encode_body(&mut writer);
        writer.finish().into_bytes(|slot| panic!("slot {} in a request", slot.id))
    }
}

impl Response {
    /// The frame in pieces, length prefix included, cut where [`Records::Slot`](crate::Records::Slot) stands. The version
    /// is that of the request (0 for ApiVersions in a version not known); one out of the table is
    /// a bug.
    pub fn encode(&self, api_version: i16, correlation_id: i32) -> Answer {
        let api_key = self.api_key();
        let version = api_key.chosen(api_version);
        let mut writer = Writer::new(version);
        writer.put(&correlation_id.to_be_bytes());
        if response_header_has_tags(api_key, version) {
            writer.put_unsigned_varint(0);
        }
        self.encode_body(&mut writer);
        writer.finish()
    }
}
