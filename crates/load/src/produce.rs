//! The produce workload: every connection appends one batch with each request, to its partitions in
//! turn.
//!
//! Run by `run`. All connections share a budget of bytes. The batches come from `payload`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use penstock_wire::messages::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use penstock_wire::{ApiKey, Request, Response};

use crate::cli::{Acks, MIN_BATCH_BYTES, ProduceArgs};
use crate::measure::{Amount, Turn};
use crate::payload::{Payload, Recipe};
use crate::run::{Worker, Workload};
use crate::topic::{Leaders, Topic, assigned};

/// The state that all connections of a produce run share.
#[derive(Debug)]
pub(crate) struct Produce {
    args: ProduceArgs,
    topic: Arc<Topic>,
    payload: Payload,
    budget: Arc<Budget>,
}

/// The bytes still to be sent, before compression.
#[derive(Debug)]
struct Budget {
    total: Option<u64>,
    left: AtomicU64,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Producer {
    request: ProduceRequest,
    batch_bytes: u64,
    acks: Acks,
    payload: Payload,
    budget: Arc<Budget>,
    leaders: Leaders,
    partitions: Vec<i32>,
    /// The number of the next batch. Connections take turns in the payload's batches.
    nth_batch: u64,
    step: u64,
}

impl Produce {
    /// # Errors
    /// The library of a codec failed.
    pub(crate) fn new(args: &ProduceArgs, topic: Topic) -> Result<Produce> {
        let payload = Payload::new(Recipe {
            seed: args.common.run.seed,
            record_bytes: args.record_bytes,
            batch_bytes: args.batch_bytes,
            codec: args.codec,
        })?;
        let left = AtomicU64::new(args.total_bytes.unwrap_or(u64::MAX));
        let budget = Arc::new(Budget { total: args.total_bytes, left });
        Ok(Produce { args: args.clone(), topic: Arc::new(topic), payload, budget })
    }
}

impl Workload for Produce {
    type Worker = Producer;

    async fn connect(&self, connection: u32) -> Result<Producer> {
        let ProduceArgs { common, batch_bytes, acks, .. } = &self.args;
        let assigned = assigned(connection, common.connections, self.topic.partitions.len());
        let partitions = assigned.iter().map(|nth| self.topic.partitions[*nth].index).collect();
        let request = ProduceRequest {
            acks: *acks as i16,
            timeout_ms: common.target.timeout.as_millis().try_into().unwrap_or(i32::MAX),
            topic_data: [TopicProduceData {
                name: self.topic.name.clone(),
                partition_data: [PartitionProduceData::default()].into(),
            }]
            .into(),
            ..ProduceRequest::default()
        };
        Ok(Producer {
            request,
            batch_bytes: *batch_bytes,
            acks: *acks,
            payload: self.payload.clone(),
            budget: Arc::clone(&self.budget),
            leaders: Leaders::connect(&self.topic, &assigned).await?,
            partitions,
            nth_batch: connection.into(),
            step: common.connections.into(),
        })
    }

    fn share_done(&self) -> Option<f64> {
        let total = self.budget.total?;
        Some(1.0 - self.budget.left.load(Relaxed) as f64 / total as f64)
    }
}

impl Worker for Producer {
    async fn turn(&mut self) -> Result<Option<Turn>> {
        let Some(plain_bytes) = self.budget.claim(self.batch_bytes) else { return Ok(None) };
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        let batch = self.payload.batch(self.nth_batch, plain_bytes, since_1970)?;
        let nth = (self.nth_batch / self.step) as usize % self.partitions.len();
        self.nth_batch += self.step;
        let index = self.partitions[nth];
        let amount = Amount { batches: 1, records: batch.records, bytes: batch.bytes.len() as u64 };

        let data = PartitionProduceData { index, records: batch.bytes.into() };
        self.request.topic_data[0].partition_data[0] = data;
        let request = Request::from(self.request.clone());
        let leader = self.leaders.of(nth);
        if self.acks == Acks::None {
            leader.send(leader.version(ApiKey::Produce)?, &request).await?;
        } else {
            match leader.call(&request).await? {
                Response::Produce(answer) => acknowledged(index, answer)?,
                other => bail!("unexpected answer to Produce: {other:?}"),
            }
        }
        Ok(Some(Turn { amount, ..Turn::default() }))
    }
}

/// Checks that the server has acknowledged the batch.
pub(crate) fn acknowledged(partition: i32, answer: ProduceResponse) -> Result<()> {
    let answered = answer.responses.into_iter().flat_map(|topic| topic.partition_responses).next();
    let answered = answered.context("an answer to Produce without a partition")?;
    if !answered.error_code.is_none() {
        let reason = answered.error_message.map_or(String::new(), |text| format!(": {text}"));
        bail!("produce to partition {partition}: {}{reason}", answered.error_code);
    }
    if answered.index != partition || answered.base_offset < 0 {
        bail!(
            "produce to partition {partition}: acknowledged for partition {} at offset {}",
            answered.index,
            answered.base_offset
        );
    }
    Ok(())
}

impl Budget {
    /// Takes the length of the next batch from the budget. `None`: the budget is spent.
    fn claim(&self, batch_bytes: u64) -> Option<u64> {
        if self.total.is_none() {
            return Some(batch_bytes);
        }
        let claimed = |left| left - next_batch(left, batch_bytes);
        let before =
            self.left.fetch_update(Relaxed, Relaxed, |left| (left > 0).then(|| claimed(left)));
        before.ok().map(|left| next_batch(left, batch_bytes))
    }
}

/// The length of the next batch when `left` bytes are to be sent. It never leaves a rest too short
/// for a batch.
fn next_batch(left: u64, batch_bytes: u64) -> u64 {
    match left.checked_sub(batch_bytes) {
        None | Some(0) => left,
        Some(rest) if rest < MIN_BATCH_BYTES => batch_bytes - MIN_BATCH_BYTES,
        Some(_) => batch_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_to_the_byte_in_batches_that_can_be_made() {
        for total in [128, 129, 256, 257, 300, 4096, 4100, 1 << 20, (1 << 20) + 1] {
            let budget = Budget { total: Some(total), left: AtomicU64::new(total) };
            let claims: Vec<u64> = std::iter::from_fn(|| budget.claim(256)).collect();
            assert_eq!(claims.iter().sum::<u64>(), total);
            assert!(
                claims.iter().all(|claim| (MIN_BATCH_BYTES..=256).contains(claim)),
                "{claims:?}"
            );
        }
    }

    #[test]
    fn without_a_total_there_is_always_a_batch() {
        let budget = Budget { total: None, left: AtomicU64::new(u64::MAX) };
        assert!((0..100).all(|_| budget.claim(1 << 20) == Some(1 << 20)));
    }
}
