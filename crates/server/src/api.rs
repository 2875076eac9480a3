//! One request, one reply: decodes a frame, calls the API's handler, encodes the answer.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 18 | ApiVersions | 0-4 | 3: the client's software, version 0 as the answer to an unknown version (KIP-511) |
//!
//! Called by connection, and by the thread of long requests. Adding an API is a row in `wire`'s
//! table, a file in this folder with a row like the one above in its head comment, and an arm of
//! [`respond`]. Not done: supported features in ApiVersions (KIP-584).

pub(crate) mod alter_configs;
pub(crate) mod answer_budget;
pub(crate) mod broker_configs;
pub(crate) mod cold_reads;
pub(crate) mod context;
pub(crate) mod describe_configs;
pub(crate) mod described;
pub(crate) mod doubles;
pub(crate) mod error_codes;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod group_offsets;
pub(crate) mod groups;
pub(crate) mod init_producer_id;
pub(crate) mod list_offsets;
pub(crate) mod long_requests;
pub(crate) mod metadata;
pub(crate) mod produce;
pub(crate) mod reply;
pub(crate) mod topics;
pub(crate) mod verify;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use penstock_ring::blocking;
use penstock_wire::frame::PREFIX_LEN;
use penstock_wire::messages::ApiVersionsResponse;
use penstock_wire::{
    ApiKey, ErrorCode, Few, Request, RequestError, RequestHeader, Response, Str, decode_request,
    decode_request_within,
};

use crate::api::context::RequestContext;
use crate::api::fetch::Fetched;
use crate::api::long_requests::ELEMENTS_AT_ONCE;
use crate::api::reply::{NoReply, Range, Reply};
use crate::broker::readers::kept;
use crate::stop::{Stop, wait_for};

/// Answers the request in `frame` (a whole frame without its prefix), encoding into `buffer` (see
/// [`Response::encode_into`]). `None`: no reply is expected. `received`: when the frame was whole,
/// from which the request's time counts.
///
/// # Errors
/// The connection must close; see [`NoReply`].
pub(crate) async fn answer(
    context: &RequestContext<'_>,
    frame: Bytes,
    received: Instant,
    buffer: &mut BytesMut,
) -> Result<Option<Reply>, NoReply> {
    let holds_share = frame.len() + PREFIX_LEN > context.broker.settings.receive_free_bytes;
    let (header, request) = match read(context, &frame).await {
        Ok(Ok(decoded)) => decoded,
        Ok(Err(apart)) => return answered_apart(context, apart, frame, received).await,
        // A client newer than this server asks in its newest version. It understands an answer in
        // the oldest.
        Err(NoReply::Request(RequestError::UnsupportedVersion {
            api_key, correlation_id, ..
        })) if api_key == ApiKey::ApiVersions as i16 => {
            let response =
                Response::ApiVersions(ApiVersionsResponse::ours(ErrorCode::UNSUPPORTED_VERSION));
            let answer = response.encode_into(0, correlation_id, buffer);
            let (ranges, client_id) = (Few::new(), Str::new());
            return Ok(Some(Reply { answer, ranges, client_id, since: received }));
        }
        Err(error) => return Err(error),
    };
    let _share = answer_budget::share(context.broker, &request).await?;
    let client_id = header.client_id.unwrap_or_default();
    // What outlives a large request is copied out of its frame.
    let client_id = if holds_share { Str::from(kept(&client_id)) } else { client_id };
    let responded = respond(context, header.api_version, &client_id, request, holds_share);
    let Responded { response, ranges, woke } = match responded.await? {
        Some(responded) => responded,
        None => {
            context.broker.metrics.request_done(header.api_key, received.elapsed());
            return Ok(None);
        }
    };
    let answer = response.encode_into(header.api_version, header.correlation_id, buffer);
    context.broker.metrics.request_done(header.api_key, received.elapsed());
    Ok(Some(Reply { answer, ranges, client_id, since: woke.unwrap_or(received) }))
}

/// Why a request is not answered between those of other connections.
enum Apart {
    /// It takes long by itself.
    Long,
    /// It is long and waits for other members of its group, too.
    LongAndWaits,
}

/// Decodes a frame, unless it is to be answered apart. On a worker that takes no longer than
/// decoding a short request.
async fn read(
    context: &RequestContext<'_>,
    frame: &Bytes,
) -> Result<Result<Decoded, Apart>, NoReply> {
    if context.connection.is_none() {
        return Ok(Ok(decode(frame.clone())?));
    }
    let error = match decode_request_within(frame.clone(), ELEMENTS_AT_ONCE).map(without_doubles) {
        Ok((_, request)) if answer_budget::counts(context.broker, &request) => {
            return Ok(Err(Apart::Long));
        }
        Ok(decoded) => return Ok(Ok(decoded)),
        Err(error) => error,
    };
    match error.too_many_elements_of() {
        // What follows is bound to the worker's ring.
        Some(ApiKey::Fetch | ApiKey::Produce) => {
            let frame = frame.clone();
            let decoded = blocking::run(move || decode(frame)).await;
            Ok(Ok(decoded.map_err(|_| NoReply::Lost)??))
        }
        Some(ApiKey::JoinGroup | ApiKey::SyncGroup) => Ok(Err(Apart::LongAndWaits)),
        Some(_) => Ok(Err(Apart::Long)),
        None => Err(error.into()),
    }
}

type Decoded = (RequestHeader, Request);

/// Decodes a frame, however long.
fn decode(frame: Bytes) -> Result<Decoded, RequestError> {
    decode_request(frame).map(without_doubles)
}

fn without_doubles((header, mut request): Decoded) -> Decoded {
    if let Request::Fetch(request) = &mut request {
        fetch::keep_last_of_each(&mut request.topics);
    }
    (header, request)
}

/// Has a request answered by the thread of long requests. One that was received whole is carried
/// out, like a short one, even if its peer has left or has nothing more to ask.
async fn answered_apart(
    context: &RequestContext<'_>,
    apart: Apart,
    frame: Bytes,
    received: Instant,
) -> Result<Option<Reply>, NoReply> {
    let Some(connection) = &context.connection else { return Err(NoReply::Lost) };
    let answer = connection.long.answer(frame, received);
    match apart {
        Apart::Long => answer.await,
        Apart::LongAndWaits => while_peer_stays(context, answer).await?,
    }
}

/// An answer that is yet to be encoded.
struct Responded {
    response: Response,
    ranges: Few<Range>,
    /// When a fetch that waited for data had it.
    woke: Option<Instant>,
}

async fn respond(
    context: &RequestContext<'_>,
    api_version: i16,
    client_id: &str,
    request: Request,
    holds_share: bool,
) -> Result<Option<Responded>, NoReply> {
    let response = match request {
        Request::Fetch(request) => {
            let fetched = fetch::fetch(context, client_id, &request, holds_share).await;
            let Fetched { response, ranges, woke } = fetched;
            return Ok(Some(Responded { response: Response::Fetch(response), ranges, woke }));
        }
        Request::Produce(request) => {
            let produced = produce::produce(context, api_version, request).await;
            match produced.map_err(NoReply::Unacknowledged)? {
                Some(response) => Response::Produce(response),
                None => return Ok(None),
            }
        }
        Request::ListOffsets(request) => {
            Response::ListOffsets(list_offsets::list_offsets(context, request).await)
        }
        Request::Metadata(request) => {
            Response::Metadata(metadata::metadata(context, request).await)
        }
        Request::DescribeCluster(_) => {
            Response::DescribeCluster(metadata::describe_cluster(context))
        }
        Request::FindCoordinator(request) => {
            let found = find_coordinator::find_coordinator(context, api_version, request);
            Response::FindCoordinator(found.await)
        }
        Request::JoinGroup(request) => {
            let joined =
                groups::join_group(&context.broker.groups, api_version, client_id, request);
            Response::JoinGroup(while_peer_stays(context, joined).await?)
        }
        Request::SyncGroup(request) => {
            let synced = groups::sync_group(&context.broker.groups, request);
            Response::SyncGroup(while_peer_stays(context, synced).await?)
        }
        Request::Heartbeat(request) => {
            Response::Heartbeat(groups::heartbeat_group(&context.broker.groups, &request))
        }
        Request::LeaveGroup(request) => {
            Response::LeaveGroup(groups::leave_group(&context.broker.groups, request))
        }
        Request::OffsetCommit(request) => {
            Response::OffsetCommit(group_offsets::commit(context, request).await)
        }
        Request::OffsetFetch(request) => {
            Response::OffsetFetch(group_offsets::fetch(context, request))
        }
        Request::ApiVersions(_) => {
            Response::ApiVersions(ApiVersionsResponse::ours(ErrorCode::NONE))
        }
        Request::CreateTopics(request) => {
            Response::CreateTopics(topics::create_topics(context, request).await)
        }
        Request::DeleteTopics(request) => {
            Response::DeleteTopics(topics::delete_topics(context, request).await)
        }
        Request::CreatePartitions(request) => {
            Response::CreatePartitions(topics::create_partitions(context, request).await)
        }
        Request::DescribeConfigs(request) => {
            Response::DescribeConfigs(describe_configs::describe(context, request).await)
        }
        Request::IncrementalAlterConfigs(request) => {
            Response::IncrementalAlterConfigs(alter_configs::alter(context, request).await)
        }
        Request::InitProducerId(request) => {
            Response::InitProducerId(init_producer_id::init(context, &request).await)
        }
    };
    Ok(Some(Responded { response, ranges: Few::new(), woke: None }))
}

/// Waits for an answer that may take long. A peer that leaves meanwhile needs none. A stop ends
/// receiving on every connection, which looks as if the peers had left; the coordinator answers all
/// that wait then.
async fn while_peer_stays<T>(
    context: &RequestContext<'_>,
    answer: impl Future<Output = T>,
) -> Result<T, NoReply> {
    let mut stop = context.stop.clone();
    let peer_left = async {
        context.peer_closed().await;
        if *stop.borrow() >= Stop::Drain {
            wait_for(&mut stop, Stop::Cut).await;
        }
    };
    tokio::select! {
        biased;
        answer = answer => Ok(answer),
        () = peer_left => Err(NoReply::PeerGone),
    }
}
