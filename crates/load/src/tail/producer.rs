//! The producer of a `tail` run: sends each batch when it is due, whatever answers are outstanding.
//!
//! ```text
//! a lane for each leader    send 0, send 3, send 6 …       when due; late ones at once
//!                           answer 0, answer 3 …           in the order of the requests
//! ```
//!
//! Run by `tail` on a thread of its own, so that consumers at work do not delay what is due. One
//! connection has all batches of a partition, so a server appends them in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use penstock_wire::messages::{PartitionProduceData, ProduceRequest, TopicProduceData};
use penstock_wire::{ApiKey, Request, Response};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{timeout, timeout_at};

use crate::cli::{Acks, Codec};
use crate::client::{Connection, decode};
use crate::pace::Pacer;
use crate::payload::{Payload, Recipe};
use crate::produce::acknowledged;
use crate::tail::args::TailArgs;
use crate::tail::course::Course;
use crate::topic::Topic;

/// The most requests of one lane that wait for their answers. Batches beyond it are sent late.
const MAX_IN_FLIGHT: usize = 1024;

/// The result of production, however it ended.
#[derive(Debug, Default)]
pub(crate) struct Produced {
    /// Batches acknowledged (with acks=0: sent) that were due after the warm-up.
    pub(crate) batches: u64,
    /// Batches that were due and never went out, because answers were late.
    pub(crate) unsent: u64,
    /// Processor time of the producer's thread.
    pub(crate) cpu: Duration,
    pub(crate) error: Option<anyhow::Error>,
}

/// Produces until `duration` after the start, or until the course stops. Always reports the end of
/// production to the consumers.
pub(crate) fn run(
    args: &TailArgs,
    topic: &Topic,
    course: &Arc<Course>,
    duration: Duration,
) -> Produced {
    let produced = produce_all(args, topic, course, duration).unwrap_or_else(|error| {
        // Consumers would wait for batches that nobody sends.
        course.abandon();
        Produced { error: Some(error), ..Produced::default() }
    });
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Produced { cpu: Duration::new(time.tv_sec as u64, time.tv_nsec as u32), ..produced }
}

fn produce_all(
    args: &TailArgs,
    topic: &Topic,
    course: &Arc<Course>,
    duration: Duration,
) -> Result<Produced> {
    let recipe = Recipe {
        seed: args.run.seed,
        record_bytes: args.record_bytes,
        batch_bytes: args.batch_bytes,
        codec: Codec::None,
    };
    let payload = Payload::new(recipe)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut lanes = Vec::new();
        for leader in topic.leaders() {
            let lane = Lane::connect(args, topic, leader, course, &payload);
            let lane = timeout(args.target.timeout, lane).await;
            lanes.push(lane.with_context(|| format!("{leader}: not ready in time"))??);
        }
        let mut stopping = course.stopping();
        let start = tokio::select! {
            start = course.begun() => start,
            _ = stopping.wait_for(|stop| *stop) => return Ok(Produced::default()),
        };
        drive_all(lanes, course, start, duration).await
    })
}

/// Drives all lanes to their ends. The first that fails stops the others.
async fn drive_all(
    lanes: Vec<Lane>,
    course: &Course,
    start: Instant,
    duration: Duration,
) -> Result<Produced> {
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn_local(lane.drive(start, start + duration));
    }
    let (mut produced, mut sent, mut result) = (Produced::default(), 0, Ok(()));
    let mut ends = vec![0; course.step() as usize];
    while let Some(ended) = tasks.join_next().await {
        match ended.expect("a lane does not panic") {
            Ok(lane) => {
                produced.batches += lane.measured;
                sent += lane.sent;
                for (end, _) in ends.iter_mut().zip(&lane.leads).filter(|(_, leads)| **leads) {
                    *end = lane.next;
                }
            }
            Err(error) => {
                course.stop();
                result = result.and(Err(error));
            }
        }
    }
    result?;
    course.end(ends.into());
    produced.unsent = course.due_before(duration.min(start.elapsed())).saturating_sub(sent);
    Ok(produced)
}

/// The connection to one leader.
struct Lane {
    course: Arc<Course>,
    leader: Connection,
    version: i16,
    request: ProduceRequest,
    /// The indices of all partitions, and whether this leader has them.
    partitions: Vec<i32>,
    leads: Vec<bool>,
    payload: Payload,
    batch_bytes: u64,
    limit: Duration,
    pacer: Pacer,
    /// The number of the next batch for this leader.
    next: u64,
    sent: u64,
    measured: u64,
    in_flight: VecDeque<InFlight>,
}

/// A request that waits for its answer.
struct InFlight {
    number: u64,
    correlation_id: i32,
    sent: Instant,
}

impl Lane {
    async fn connect(
        args: &TailArgs,
        topic: &Topic,
        leader: &str,
        course: &Arc<Course>,
        payload: &Payload,
    ) -> Result<Lane> {
        let connection = Connection::open(leader).await?;
        let request = ProduceRequest {
            acks: args.acks as i16,
            timeout_ms: args.target.timeout.as_millis().try_into().unwrap_or(i32::MAX),
            topic_data: [TopicProduceData {
                name: topic.name.clone(),
                partition_data: [PartitionProduceData::default()].into(),
            }]
            .into(),
            ..ProduceRequest::default()
        };
        let mut lane = Lane {
            course: Arc::clone(course),
            version: connection.version(ApiKey::Produce)?,
            leader: connection,
            request,
            partitions: topic.partitions.iter().map(|p| p.index).collect(),
            leads: topic.partitions.iter().map(|p| p.leader == leader).collect(),
            payload: payload.clone(),
            batch_bytes: args.batch_bytes,
            limit: args.target.timeout,
            pacer: Pacer::new().context("no timer")?,
            next: 0,
            sent: 0,
            measured: 0,
            in_flight: VecDeque::new(),
        };
        lane.next = own_from(&lane.leads, 0);
        Ok(lane)
    }

    /// Produces until `end` or until the course stops.
    async fn drive(mut self, start: Instant, end: Instant) -> Result<Lane> {
        let mut stopping = self.course.stopping();
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => {}
            produced = self.produce(start, end) => produced?,
        }
        Ok(self)
    }

    /// Sends what is due before `end`, and waits for the answers.
    async fn produce(&mut self, start: Instant, end: Instant) -> Result<()> {
        loop {
            let due = start + self.course.due(self.next);
            if due.max(Instant::now()) >= end {
                break;
            }
            let has_room = self.in_flight.len() < MAX_IN_FLIGHT;
            tokio::select! {
                biased;
                answer = next_answer(&mut self.leader, self.in_flight.front(), self.limit) => {
                    self.acknowledge(answer?)?;
                }
                paced = self.pacer.until(due), if has_room => {
                    paced?;
                    self.send().await?;
                }
            }
        }
        while !self.in_flight.is_empty() {
            let answer = next_answer(&mut self.leader, self.in_flight.front(), self.limit).await;
            self.acknowledge(answer?)?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let number = self.next;
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        let mark = self.course.mark(number);
        let write = |batch: &mut [u8]| mark.write(batch);
        let batch = self.payload.marked(number, self.batch_bytes, since_1970, write)?;
        let index = self.partitions[self.course.partition_of(number)];
        let data = PartitionProduceData { index, records: batch.bytes.into() };
        self.request.topic_data[0].partition_data[0] = data;
        let request = Request::from(self.request.clone());
        let sent = timeout(self.limit, self.leader.send(self.version, &request)).await;
        let correlation_id = sent.map_err(|_| anyhow!("not sent within {:?}", self.limit))??;
        self.sent += 1;
        self.next = own_from(&self.leads, number + 1);
        match self.request.acks == Acks::None as i16 {
            true => self.measured += u64::from(self.course.is_measured(number)),
            false => {
                let sent = Instant::now();
                self.in_flight.push_back(InFlight { number, correlation_id, sent });
            }
        }
        Ok(())
    }

    /// Checks the answer to the oldest request in flight.
    fn acknowledge(&mut self, frame: Bytes) -> Result<()> {
        let request = self.in_flight.pop_front().context("an answer to no request")?;
        let InFlight { number, correlation_id, .. } = request;
        match decode(ApiKey::Produce, self.version, correlation_id, frame)? {
            Response::Produce(answer) => {
                acknowledged(self.partitions[self.course.partition_of(number)], answer)?;
            }
            other => bail!("unexpected answer to Produce: {other:?}"),
        }
        self.measured += u64::from(self.course.is_measured(number));
        Ok(())
    }
}

/// The first number from `number` on of a partition that the leader has. Numbers go to the
/// partitions in turn.
fn own_from(leads: &[bool], number: u64) -> u64 {
    let mut numbers = number..;
    let own = numbers.find(|number| leads[(number % leads.len() as u64) as usize]);
    own.expect("the leader has a partition")
}

/// The next answer, or an error once the oldest request has waited for `limit`. Pending while no
/// request is in flight. Dropping the future loses nothing.
async fn next_answer(
    leader: &mut Connection,
    oldest: Option<&InFlight>,
    limit: Duration,
) -> Result<Bytes> {
    let Some(oldest) = oldest else { return std::future::pending().await };
    match timeout_at((oldest.sent + limit).into(), leader.receive()).await {
        Ok(frame) => frame.context("no answer to Produce"),
        Err(_) => bail!("no answer to Produce within {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_divide_the_numbers_by_their_partitions() {
        let numbers = |leads: &[bool]| -> Vec<u64> {
            let first = own_from(leads, 0);
            std::iter::successors(Some(first), |n| Some(own_from(leads, n + 1))).take(4).collect()
        };
        assert_eq!(numbers(&[true]), [0, 1, 2, 3]);
        assert_eq!(numbers(&[true, false, true]), [0, 2, 3, 5]);
        assert_eq!(numbers(&[false, true, false]), [1, 4, 7, 10]);
    }
}
