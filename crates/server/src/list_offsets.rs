//! ListOffsets: where a partition starts and ends, and where a time is.
//!
//! Called by api. Times are looked up through the ring like fetches.

use penstock_wire::ErrorCode;
use penstock_wire::messages::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

use crate::errors;
use crate::fetch::check_epoch;
use crate::lookup::ReadError;
use crate::worker::Worker;

/// Timestamps that are not times (KIP-734 for the last).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// What "not known" looks like in an offset, a timestamp and an epoch.
const NONE: i64 = -1;

/// Answers a ListOffsets request.
pub(crate) async fn list_offsets(
    worker: &Worker,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            partitions.push(list_one(worker, &topic.name, asked).await);
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
}

async fn list_one(
    worker: &Worker,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let found = find(worker, topic, asked).await;
    let (error_code, place) = match found {
        Ok(place) => (ErrorCode::NONE, place),
        Err(error_code) => (error_code, Place::NOWHERE),
    };
    ListOffsetsPartitionResponse {
        partition_index: asked.partition_index,
        error_code,
        timestamp: place.timestamp_ms,
        offset: place.offset,
        leader_epoch: place.leader_epoch,
    }
}

struct Place {
    offset: i64,
    timestamp_ms: i64,
    leader_epoch: i32,
}

impl Place {
    const NOWHERE: Place = Place { offset: NONE, timestamp_ms: NONE, leader_epoch: NONE as i32 };
}

async fn find(
    worker: &Worker,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> Result<Place, ErrorCode> {
    let partition = worker
        .server
        .topics
        .partition(topic, asked.partition_index)
        .map_err(errors::of_unserved)?;
    let bounds = partition.bounds();
    check_epoch(asked.current_leader_epoch, bounds.leader_epoch)?;
    let end_of_log = |offset: penstock_storage::Offset| Place {
        offset: offset.0,
        timestamp_ms: NONE,
        leader_epoch: bounds.leader_epoch,
    };
    let found = match asked.timestamp {
        LATEST => return Ok(end_of_log(bounds.high_watermark)),
        EARLIEST => return Ok(end_of_log(bounds.log_start)),
        MAX_TIMESTAMP => partition.find_max_timestamp(&worker.ring).await,
        time if time >= 0 => partition.find_timestamp(&worker.ring, time).await,
        _ => return Err(ErrorCode::INVALID_REQUEST),
    };
    let found = found.map_err(|error: ReadError| {
        tracing::error!(partition = %partition.name, %error, "cannot look up a time");
        errors::of_read(&error)
    })?;
    Ok(found.map_or(Place::NOWHERE, |found| Place {
        offset: found.offset.0,
        timestamp_ms: found.timestamp_ms,
        leader_epoch: found.leader_epoch,
    }))
}
