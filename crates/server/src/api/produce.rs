//! Produce: from a request's batches to offsets.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 0 | Produce | 3-8 | 3: record format 2, idempotence (KIP-98), 7: zstd (KIP-110), 8: the record to blame (KIP-467) |
//!
//! A connection's task is never dropped before its request is answered, so an append that has begun
//! also ends. A full disk, a failed write and a disk below its reserve all answer
//! KAFKA_STORAGE_ERROR; `broker/partition/group_commit.rs` has what becomes of the log. Not done:
//! transactions, topic ids (13).

use std::sync::Arc;
use std::time::Instant;

use penstock_storage::{AppendError, Appended, Offset, ProduceError, ProducedBatch, Terms};
use penstock_wire::messages::{
    BatchIndexAndErrorMessage, PartitionProduceData, PartitionProduceResponse, ProduceRequest,
    ProduceResponse, TopicProduceResponse,
};
use penstock_wire::{ErrorCode, Few, Records};

use crate::api::context::RequestContext;
use crate::api::error_codes;
use crate::api::verify;
use crate::broker::partition::{Partition, ProduceFailure};
use crate::broker::topics::INTERNAL_TOPICS;
use crate::clock;

/// The first version of Produce whose clients may send zstd (KIP-110).
const ZSTD_SINCE: i16 = 7;

/// What producers may ask to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acks {
    /// No answer at all.
    None,
    /// The leader, or all in sync: the same while there are no followers.
    Leader,
}

/// Appends the request's batches. Returns no answer if acks=0 and all went well.
///
/// # Errors
/// The first error, if acks=0. No answer could carry it, so the connection must close for the
/// producer to notice, as in Kafka.
pub(crate) async fn produce(
    context: &RequestContext<'_>,
    api_version: i16,
    request: ProduceRequest,
) -> Result<Option<ProduceResponse>, ErrorCode> {
    let acks = acks_of(request.acks);
    let refused = refusal(context, &request, acks);
    let mut responses = Few::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let mut partition_responses = Few::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let index = data.index;
            let outcome = match &refused {
                Some(refused) => Err(refused.clone()),
                None => append(context, api_version, &topic.name, data).await,
            };
            partition_responses.push(response_of(index, outcome));
        }
        responses.push(TopicProduceResponse { name: topic.name, partition_responses });
    }
    if acks == Some(Acks::None) {
        let errors = responses.iter().flat_map(|topic| &topic.partition_responses);
        let first = errors.map(|partition| partition.error_code).find(|e| *e != ErrorCode::NONE);
        return first.map_or(Ok(None), Err);
    }
    Ok(Some(ProduceResponse { responses, ..ProduceResponse::default() }))
}

/// Why records of one partition were not taken, as code and message.
#[derive(Debug, Clone)]
struct Refused {
    code: ErrorCode,
    words: String,
    /// The record to blame, if there is one (KIP-467).
    record_index: Option<i32>,
}

fn refused(code: ErrorCode, words: impl std::fmt::Display) -> Refused {
    Refused { code, words: words.to_string(), record_index: None }
}

fn refused_batch(error: &ProduceError) -> Refused {
    let record_index = error.record_index();
    Refused { record_index, ..refused(error_codes::of_validation(error), error) }
}

fn acks_of(acks: i16) -> Option<Acks> {
    match acks {
        0 => Some(Acks::None),
        1 | -1 => Some(Acks::Leader),
        _ => None,
    }
}

/// Refuses the request as a whole, if something does.
fn refusal(
    context: &RequestContext<'_>,
    request: &ProduceRequest,
    acks: Option<Acks>,
) -> Option<Refused> {
    if acks.is_none() {
        let words = format!("acks {} is none of 0, 1 and -1 (all)", request.acks);
        return Some(refused(ErrorCode::INVALID_REQUIRED_ACKS, words));
    }
    if request.transactional_id.is_some() {
        return Some(refused(ErrorCode::INVALID_REQUEST, "transactions are not supported"));
    }
    context
        .broker
        .disk
        .is_short()
        .then(|| refused(ErrorCode::KAFKA_STORAGE_ERROR, "the disk is below its reserve"))
}

async fn append(
    context: &RequestContext<'_>,
    api_version: i16,
    topic: &str,
    data: PartitionProduceData,
) -> Result<(Arc<Partition>, Appended), Refused> {
    if INTERNAL_TOPICS.contains(&topic) {
        // As in Kafka. A Kafka that gets the directory back finds the topic unchanged.
        let words = "the topic is Kafka's own, and is kept as it came";
        return Err(refused(ErrorCode::INVALID_TOPIC_EXCEPTION, words));
    }
    let partition = context.broker.topics.partition(topic, data.index);
    let partition = partition.map_err(|why| refused(error_codes::of_unserved(why), why))?;
    let Records::Bytes(Some(bytes)) = data.records else {
        return Err(refused(ErrorCode::INVALID_RECORD, "no records"));
    };
    let (now_ms, takes_zstd) = (clock::now_ms(), api_version >= ZSTD_SINCE);
    let (terms, verifies) = {
        let log = partition.log();
        (log.config().terms(now_ms, takes_zstd), log.config().verify_compressed)
    };
    let mut batch =
        ProducedBatch::validate(bytes, &terms).map_err(|error| refused_batch(&error))?;
    if verifies && batch.compressed().is_some() {
        // Boxed, so that requests without verification have no room for it in their futures.
        batch = Box::pin(verified(batch, terms)).await?;
    }
    let len_bytes = batch.len_bytes();
    match partition.append(context.ring, batch).await {
        Ok(appended) => {
            context.broker.metrics.produced_bytes.inc_by(len_bytes);
            Ok((partition, appended))
        }
        // A repeated batch gets its first answer again: the producer did not receive it.
        Err(ProduceFailure::Refused(AppendError::Duplicate { base_offset, last_offset })) => {
            Ok((partition, Appended { base_offset, last_offset, log_append_time_ms: -1 }))
        }
        Err(failure) => {
            report(context, &partition, &failure);
            Err(refused(error_codes::of_produce(&failure), failure))
        }
    }
}

/// Checks the compressed records of a batch.
async fn verified(batch: ProducedBatch, terms: Terms) -> Result<ProducedBatch, Refused> {
    verify::verified(batch, terms).await.map_err(|error| match error {
        verify::VerifyError::Records(error) => refused_batch(&error),
        verify::VerifyError::Decompress(error) => refused(ErrorCode::INVALID_RECORD, error),
        verify::VerifyError::GivenUp => refused(ErrorCode::UNKNOWN_SERVER_ERROR, error),
    })
}

/// Logs a failure to append. The log itself has logged that its partition went offline. A full disk
/// refuses every request, so it is logged within a budget.
fn report(context: &RequestContext<'_>, partition: &Partition, failure: &ProduceFailure) {
    match failure {
        ProduceFailure::NoRoom(_) | ProduceFailure::Roll(_) => {
            if let Some(held_back) = context.lines.append.take(Instant::now()) {
                tracing::error!(partition = %partition.name, held_back, error = %failure, "refused records");
            }
        }
        _ => tracing::debug!(partition = %partition.name, error = %failure, "refused records"),
    }
}

fn response_of(
    index: i32,
    outcome: Result<(Arc<Partition>, Appended), Refused>,
) -> PartitionProduceResponse {
    const NONE: i64 = -1;
    match outcome {
        Ok((partition, appended)) => PartitionProduceResponse {
            index,
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: partition.bounds().log_start.0,
            ..PartitionProduceResponse::default()
        },
        Err(refused) => PartitionProduceResponse {
            index,
            error_code: refused.code,
            record_errors: refused
                .record_index
                .map(|index| blame(index, &refused.words))
                .into_iter()
                .collect(),
            error_message: Some(refused.words.into()),
            base_offset: Offset(NONE).0,
            log_append_time_ms: NONE,
            log_start_offset: NONE,
        },
    }
}

fn blame(batch_index: i32, words: &str) -> BatchIndexAndErrorMessage {
    let batch_index_error_message = Some(words.into());
    BatchIndexAndErrorMessage { batch_index, batch_index_error_message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_beyond_those_of_the_protocol_are_refused() {
        assert_eq!(acks_of(0), Some(Acks::None));
        assert_eq!(acks_of(1), Some(Acks::Leader));
        assert_eq!(acks_of(-1), Some(Acks::Leader));
        for other in [2, -2, i16::MIN, i16::MAX] {
            assert_eq!(acks_of(other), None);
        }
    }
}
