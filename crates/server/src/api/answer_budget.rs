//! A budget for the memory of answers in the making, all connections together.
//!
//! Taken by api between decoding and answering. Work on a long answer yields, so many may be in the
//! making at once; large ones wait for their share. Small ones go free, and so do those that wait
//! for data or for other members. A share is given back once the answer is encoded: a peer that
//! does not read keeps no other one waiting.

use std::sync::Arc;

use penstock_wire::Request;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{error::Elapsed, timeout};

use crate::broker::Broker;
use crate::broker::topics::Topics;
use crate::config::limits::{ANSWER_FREE_BYTES, ANSWER_MAX_BYTES, PARTITIONS_PER_REQUEST_MAX};

/// What one element of a request may take as part of an answer, in memory and encoded.
const NAMED_BYTES: usize = 256;

/// A partition in Metadata.
const PARTITION_BYTES: usize = 128;

/// The configs of a topic; and with documentation and synonyms.
const CONFIGS_BYTES: usize = 8 * 1024;
const CONFIGS_IN_FULL_BYTES: usize = 16 * 1024;

/// Whether the answer to a request needs a share of the budget.
pub(crate) fn counts(broker: &Broker, request: &Request) -> bool {
    cost_bytes(request, &broker.topics) > ANSWER_FREE_BYTES
}

/// Takes a share of the budget, if the request needs one.
///
/// # Errors
/// No share came free in time.
pub(crate) async fn share(
    broker: &Broker,
    request: &Request,
) -> Result<Option<OwnedSemaphorePermit>, Elapsed> {
    let bytes = cost_bytes(request, &broker.topics).min(broker.settings.answer_max_bytes);
    if bytes <= ANSWER_FREE_BYTES {
        return Ok(None);
    }
    let budget = Arc::clone(&broker.answers_in_flight);
    if let Ok(share) = Arc::clone(&budget).try_acquire_many_owned(bytes as u32) {
        return Ok(Some(share));
    }
    // Boxed, so that requests without a share have no room for it in their futures.
    let share =
        Box::pin(timeout(broker.settings.frame_timeout, budget.acquire_many_owned(bytes as u32)));
    // The semaphore is never closed.
    Ok(share.await?.ok())
}

fn cost_bytes(request: &Request, topics: &Topics) -> usize {
    match request {
        Request::Metadata(request) => match &request.topics {
            None => topics.partition_count() * PARTITION_BYTES,
            Some(asked) => {
                let mut bytes = asked.len() * NAMED_BYTES;
                for topic in asked {
                    if bytes > ANSWER_MAX_BYTES {
                        // Enough: counting a topic that is named again and again could take long.
                        break;
                    }
                    let partitions = topics.get(&topic.name).map_or(0, |t| t.partition_count());
                    bytes += partitions as usize * PARTITION_BYTES;
                }
                bytes
            }
        },
        Request::CreateTopics(request) => {
            let described = request.topics.len().min(PARTITIONS_PER_REQUEST_MAX as usize);
            request.topics.len() * NAMED_BYTES + described * CONFIGS_BYTES
        }
        Request::DescribeConfigs(request) => request.resources.len() * CONFIGS_IN_FULL_BYTES,
        Request::ListOffsets(request) => {
            let partitions = request.topics.iter().map(|topic| 1 + topic.partitions.len());
            partitions.sum::<usize>() * NAMED_BYTES
        }
        Request::FindCoordinator(request) => request.coordinator_keys.len() * NAMED_BYTES,
        Request::DeleteTopics(request) => request.topic_names.len() * NAMED_BYTES,
        Request::CreatePartitions(request) => request.topics.len() * NAMED_BYTES,
        Request::IncrementalAlterConfigs(request) => request.resources.len() * NAMED_BYTES,
        // Either made without a pause, so one at a time in a worker, or they wait for other
        // requests, which must not wait for them.
        _ => 0,
    }
}
