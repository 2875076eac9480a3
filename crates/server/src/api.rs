//! One request, one reply: decodes a frame, hands it to who answers it, encodes the answer.
//!
//! Called by connection. Adding an API is a row in `wire`'s table and an arm here.

pub(crate) mod alter_configs;
pub(crate) mod answer_budget;
pub(crate) mod broker_configs;
pub(crate) mod describe_configs;
pub(crate) mod doubles;
pub(crate) mod error_codes;
pub(crate) mod fetch;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod pace;
pub(crate) mod produce;
pub(crate) mod topics;
pub(crate) mod verify;

use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use penstock_ring::Socket;
use penstock_wire::messages::ApiVersionsResponse;
use penstock_wire::{
    Answer, ApiKey, ErrorCode, Few, Request, RequestError, Response, decode_request,
};

use crate::api::fetch::Range;
use crate::broker::groups;
use crate::broker::producer_ids;
use crate::net::worker::Worker;

/// A laid-out answer and the file ranges its slots stand for.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) ranges: Few<Range>,
}

/// Why a request gets no reply and its connection no second chance.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReply {
    #[error("not a request that can be answered: {0}")]
    Request(#[from] RequestError),
    #[error("answers that are being made take all the memory they may")]
    Overloaded(#[from] tokio::time::error::Elapsed),
    #[error("the peer left while its request waited")]
    PeerGone,
    #[error("records sent with acks=0 were not taken: error {0}")]
    Unacknowledged(ErrorCode),
}

/// Answers the request in `frame` (a whole frame without its prefix), encoding into `buffer` (see
/// [`Response::encode_into`]). `None`: no reply is expected.
///
/// # Errors
/// The connection must close; see [`NoReply`].
pub(crate) async fn answer(
    worker: &Worker,
    socket: &Rc<Socket>,
    frame: Bytes,
    buffer: &mut BytesMut,
) -> Result<Option<Reply>, NoReply> {
    let started = Instant::now();
    let (header, request) = match decode_request(frame) {
        Ok(decoded) => decoded,
        // A client newer than us asks in its newest version what there is: it is told in the oldest.
        Err(RequestError::UnsupportedVersion { api_key, correlation_id, .. })
            if api_key == ApiKey::ApiVersions as i16 =>
        {
            let response =
                Response::ApiVersions(ApiVersionsResponse::ours(ErrorCode::UNSUPPORTED_VERSION));
            let answer = response.encode_into(0, correlation_id, buffer);
            return Ok(Some(Reply { answer, ranges: Few::new() }));
        }
        Err(error) => return Err(error.into()),
    };
    let _share = answer_budget::share(&worker.broker, &request).await?;
    let (response, ranges) = match respond(worker, socket, header.api_version, request).await? {
        Some(responded) => responded,
        None => {
            worker.broker.metrics.request_done(header.api_key, started.elapsed());
            return Ok(None);
        }
    };
    let answer = response.encode_into(header.api_version, header.correlation_id, buffer);
    worker.broker.metrics.request_done(header.api_key, started.elapsed());
    Ok(Some(Reply { answer, ranges }))
}

async fn respond(
    worker: &Worker,
    socket: &Rc<Socket>,
    api_version: i16,
    request: Request,
) -> Result<Option<(Response, Few<Range>)>, NoReply> {
    let response = match request {
        Request::Fetch(mut request) => {
            fetch::keep_last_of_each(&mut request.topics);
            let fetched = fetch::fetch(worker, socket, &request).await;
            return Ok(Some((Response::Fetch(fetched.response), fetched.ranges)));
        }
        Request::Produce(request) => {
            let produced = produce::produce(worker, api_version, request).await;
            match produced.map_err(NoReply::Unacknowledged)? {
                Some(response) => Response::Produce(response),
                None => return Ok(None),
            }
        }
        Request::ListOffsets(request) => {
            Response::ListOffsets(list_offsets::list_offsets(worker, request).await)
        }
        Request::Metadata(request) => Response::Metadata(metadata::metadata(worker, request).await),
        Request::DescribeCluster(_) => {
            Response::DescribeCluster(metadata::describe_cluster(worker))
        }
        Request::FindCoordinator(request) => {
            let (cluster, left_bytes) =
                (&worker.broker.cluster, worker.broker.settings.answer_max_bytes);
            let found = groups::find_coordinator(cluster, api_version, request, left_bytes);
            Response::FindCoordinator(found.await)
        }
        Request::JoinGroup(request) => {
            let joined = worker.broker.groups.join_group(api_version, request);
            Response::JoinGroup(while_peer_stays(worker, socket, joined).await?)
        }
        Request::SyncGroup(request) => {
            let synced = worker.broker.groups.sync_group(request);
            Response::SyncGroup(while_peer_stays(worker, socket, synced).await?)
        }
        Request::Heartbeat(request) => {
            Response::Heartbeat(worker.broker.groups.heartbeat_group(&request))
        }
        Request::LeaveGroup(request) => {
            Response::LeaveGroup(worker.broker.groups.leave_group(request))
        }
        Request::OffsetCommit(request) => {
            let begin = |exists: &dyn Fn(&str, i32) -> bool| {
                worker.broker.groups.begin_commit(request, exists)
            };
            let begun = worker.broker.topics.while_none_goes(begin);
            Response::OffsetCommit(begun.answered().await)
        }
        Request::OffsetFetch(request) => {
            let left_bytes = worker.broker.settings.answer_max_bytes;
            Response::OffsetFetch(worker.broker.groups.fetch_offsets(request, left_bytes))
        }
        Request::ApiVersions(_) => {
            Response::ApiVersions(ApiVersionsResponse::ours(ErrorCode::NONE))
        }
        Request::CreateTopics(request) => {
            Response::CreateTopics(topics::create_topics(worker, request).await)
        }
        Request::DeleteTopics(request) => {
            Response::DeleteTopics(topics::delete_topics(worker, request).await)
        }
        Request::CreatePartitions(request) => {
            Response::CreatePartitions(topics::create_partitions(worker, request).await)
        }
        Request::DescribeConfigs(request) => {
            Response::DescribeConfigs(describe_configs::describe(worker, request).await)
        }
        Request::IncrementalAlterConfigs(request) => {
            Response::IncrementalAlterConfigs(alter_configs::alter(worker, request).await)
        }
        Request::InitProducerId(request) => {
            Response::InitProducerId(producer_ids::init(worker, &request).await)
        }
    };
    Ok(Some((response, Few::new())))
}

/// Waits for an answer that may take long; a peer that leaves meanwhile needs none.
async fn while_peer_stays<T>(
    worker: &Worker,
    socket: &Rc<Socket>,
    answer: impl Future<Output = T>,
) -> Result<T, NoReply> {
    tokio::select! {
        biased;
        answer = answer => Ok(answer),
        _ = worker.ring.peer_closed(socket) => Err(NoReply::PeerGone),
    }
}
