//! ListOffsets: where a partition starts and ends, and the offset of a time.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 2 | ListOffsets | 1-7 | 1: one offset, with its timestamp (KIP-79), 2: isolation level (KIP-98), 4: leader epoch (KIP-320), 7: largest timestamp (KIP-734) |
//!
//! Times are looked up through the ring like fetches. Not done: exact records of compressed
//! batches, offsets of tiered storage (8 and later).

use penstock_wire::ErrorCode;
use penstock_wire::messages::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

use crate::api::context::RequestContext;
use crate::api::doubles::{Doubles, Named};
use crate::api::error_codes;
use crate::broker::read::ReadError;
use crate::broker::read_errors::{self, What};
use crate::pace::Pace;

/// Timestamps with a meaning of their own (KIP-734 for the last).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// An offset, timestamp or epoch that is not known.
const NONE: i64 = -1;

/// Answers a ListOffsets request. As in Kafka, a partition that it names twice is refused once: the
/// two entries may differ.
pub(crate) async fn list_offsets(
    context: &RequestContext<'_>,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let named = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|asked| (&*topic.name, asked.partition_index))
    });
    let mut doubles = Doubles::of(named);
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut pace = Pace::default();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let found = match doubles.next((&*topic.name, asked.partition_index)) {
                Named::Once => find(context, &topic.name, asked).await,
                Named::First => Err(ErrorCode::INVALID_REQUEST),
                Named::Again => continue,
            };
            partitions.push(answer(asked.partition_index, found));
            pace.done(1).await;
        }
        if !partitions.is_empty() {
            topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
        }
    }
    ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
}

fn answer(partition_index: i32, found: Result<Place, ErrorCode>) -> ListOffsetsPartitionResponse {
    let (error_code, place) = match found {
        Ok(place) => (ErrorCode::NONE, place),
        Err(error_code) => (error_code, Place::NOWHERE),
    };
    ListOffsetsPartitionResponse {
        partition_index,
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
    context: &RequestContext<'_>,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> Result<Place, ErrorCode> {
    let partition = context
        .broker
        .topics
        .partition(topic, asked.partition_index)
        .map_err(error_codes::of_unserved)?;
    let bounds = partition.bounds();
    error_codes::check_epoch(asked.current_leader_epoch, bounds.leader_epoch)?;
    let end_of_log = |offset: penstock_storage::Offset| Place {
        offset: offset.0,
        timestamp_ms: NONE,
        leader_epoch: bounds.leader_epoch,
    };
    let found = match asked.timestamp {
        LATEST => return Ok(end_of_log(bounds.high_watermark)),
        EARLIEST => return Ok(end_of_log(bounds.log_start)),
        MAX_TIMESTAMP => partition.find_max_timestamp(context.ring).await,
        time if time >= 0 => partition.find_timestamp(context.ring, time).await,
        _ => return Err(ErrorCode::INVALID_REQUEST),
    };
    let found = found.map_err(|error: ReadError| {
        read_errors::report_lookup(
            context.broker,
            &context.lines.fetch,
            What::Time,
            &partition.name,
            asked.timestamp,
            &error,
        );
        error_codes::of_read(&error)
    })?;
    Ok(found.map_or(Place::NOWHERE, |found| Place {
        offset: found.offset.0,
        timestamp_ms: found.timestamp_ms,
        leader_epoch: found.leader_epoch,
    }))
}
