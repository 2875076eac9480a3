//! The consumers of a `tail` run: each fetches at the ends of its partitions, one request at a time
//! on a connection to each leader.
//!
//! Run by `run` as a closed loop: a consumer asks again as soon as it has an answer, and the server
//! holds the fetch until there is a batch. What comes is matched by the number that each batch
//! carries (`course`), checked for its order (`arrivals`) and summed up (`tally`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use penstock_batch::{Batches, Codec};
use penstock_wire::messages::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use penstock_wire::{ApiKey, Request, Response};
use tokio::sync::watch;

use crate::client::{Connection, decode};
use crate::measure::Turn;
use crate::run::{Worker, Workload};
use crate::tail::args::TailArgs;
use crate::tail::arrivals::Arrivals;
use crate::tail::course::{Course, Ends};
use crate::tail::tally::{Delivery, Tally};
use crate::topic::Topic;
use crate::verify::{self, Seen};

/// The most bytes of an answer and of a partition in it, as Kafka's consumers ask by default.
const MAX_BYTES: i32 = 50 << 20;
const PARTITION_MAX_BYTES: i32 = 1 << 20;

/// All consumers of a run.
#[derive(Debug)]
pub(crate) struct Consumers {
    args: TailArgs,
    topic: Arc<Topic>,
    course: Arc<Course>,
    /// One for each connection.
    seats: Vec<Seat>,
    duration: Duration,
}

/// What one connection reads: the partitions of one consumer that one leader has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    consumer: u32,
    leader: String,
    /// Indices into the topic's partitions.
    partitions: Vec<usize>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Tailer {
    consumer: u32,
    leader: Connection,
    version: i16,
    request: FetchRequest,
    /// The partitions of the request, in its order.
    followed: Vec<Followed>,
    course: Arc<Course>,
    ends: watch::Receiver<Option<Ends>>,
    verify: bool,
    /// How long to wait for a missing batch once production has ended.
    patience: Duration,
    quiet_since: Instant,
}

/// One partition of one connection.
#[derive(Debug)]
struct Followed {
    /// Its place in the topic.
    nth: usize,
    arrivals: Arrivals,
}

impl Consumers {
    /// # Errors
    /// A consumer is to read more partitions than there are.
    pub(crate) fn new(
        args: &TailArgs,
        topic: &Arc<Topic>,
        course: &Arc<Course>,
        duration: Duration,
    ) -> Result<Consumers> {
        let all = topic.partitions.len();
        let each = args.partitions_per_consumer.map_or(all, |each| each as usize);
        ensure!(
            each <= all,
            "--partitions-per-consumer {each}: topic {} has {all} partitions",
            topic.name
        );
        let seats = (0..args.consumers).flat_map(|consumer| seats(consumer, each, topic)).collect();
        let (topic, course) = (Arc::clone(topic), Arc::clone(course));
        Ok(Consumers { args: args.clone(), topic, course, seats, duration })
    }

    /// The count of their connections.
    pub(crate) fn connections(&self) -> u32 {
        self.seats.len() as u32
    }
}

/// The seats of one consumer that reads `each` partitions.
fn seats(consumer: u32, each: usize, topic: &Topic) -> Vec<Seat> {
    let mut seats: Vec<Seat> = Vec::new();
    for nth in (0..each).map(|more| (consumer as usize + more) % topic.partitions.len()) {
        let leader = &topic.partitions[nth].leader;
        match seats.iter_mut().find(|seat| seat.leader == *leader) {
            Some(seat) => seat.partitions.push(nth),
            None => {
                let (leader, partitions) = (leader.clone(), vec![nth]);
                seats.push(Seat { consumer, leader, partitions });
            }
        }
    }
    seats
}

impl Workload for Consumers {
    type Worker = Tailer;

    async fn connect(&self, connection: u32) -> Result<Tailer> {
        let seat = &self.seats[connection as usize];
        let leader = Connection::open(&seat.leader).await?;
        let partitions = seat.partitions.iter().map(|nth| FetchPartition {
            partition: self.topic.partitions[*nth].index,
            fetch_offset: self.topic.partitions[*nth].end,
            partition_max_bytes: PARTITION_MAX_BYTES,
            ..FetchPartition::default()
        });
        let topic = self.topic.name.clone();
        let request = FetchRequest {
            max_wait_ms: self.args.max_wait_ms,
            min_bytes: 1,
            max_bytes: MAX_BYTES,
            topics: [FetchTopic { topic, partitions: partitions.collect() }].into(),
            ..FetchRequest::default()
        };
        let followed = |nth: &usize| Followed {
            nth: *nth,
            arrivals: Arrivals::new(*nth as u64, self.course.step()),
        };
        Ok(Tailer {
            consumer: seat.consumer,
            version: leader.version(ApiKey::Fetch)?,
            leader,
            request,
            followed: seat.partitions.iter().map(followed).collect(),
            course: Arc::clone(&self.course),
            ends: self.course.ends(),
            verify: self.args.verify,
            patience: self.args.target.timeout,
            quiet_since: Instant::now(),
        })
    }

    fn share_done(&self) -> Option<f64> {
        let elapsed = self.course.elapsed().as_secs_f64();
        Some((elapsed / self.duration.as_secs_f64()).min(1.0))
    }
}

impl Worker for Tailer {
    async fn turn(&mut self) -> Result<Option<Turn>> {
        let start = self.course.begin();
        if self.is_done() {
            return Ok(None);
        }
        let Some((response, received)) = self.fetch().await? else { return Ok(None) };
        let Response::Fetch(FetchResponse { error_code, responses, .. }) = response else {
            bail!("no answer to Fetch");
        };
        ensure!(error_code.is_none(), "fetch: {error_code}");
        let (mut turn, mut deliveries) = (Turn::default(), Vec::new());
        let answered = responses.into_iter().flat_map(|topic| topic.partitions);
        for (at, data) in answered.enumerate() {
            let seen = self.take(at, &data, start, &mut deliveries)?;
            turn.amount.add(&seen.amount);
            turn.faults.add(seen.faults);
        }
        if !deliveries.is_empty() {
            self.quiet_since = received;
        }
        self.tally(|tally| tally.answer(received, &deliveries));
        Ok(Some(turn))
    }
}

impl Tailer {
    /// Whether everything has come that was produced, or too much time has passed without it.
    fn is_done(&mut self) -> bool {
        let Some(ends) = self.ends.borrow().clone() else { return false };
        if self.followed.iter().all(|followed| followed.arrivals.have_reached(ends[followed.nth])) {
            return true;
        }
        let is_over = self.quiet_since.elapsed() > self.patience;
        if is_over {
            for at in 0..self.followed.len() {
                let Followed { nth, arrivals } = &mut self.followed[at];
                let strays = arrivals.give_up(ends[*nth]);
                let whose = || self.whose(at);
                self.tally(|tally| tally.strays.add(strays, whose));
            }
        }
        is_over
    }

    /// Makes one fetch. Returns its answer and when its last byte came. `None`: nothing is left to
    /// wait for.
    async fn fetch(&mut self) -> Result<Option<(Response, Instant)>> {
        let request = Request::from(self.request.clone());
        let correlation_id = self.leader.send(self.version, &request).await?;
        let frame = loop {
            let frame: Result<Bytes> = tokio::select! {
                biased;
                frame = self.leader.receive() => frame,
                changed = self.ends.changed() => {
                    changed.context("the course is there as long as its consumers")?;
                    self.quiet_since = Instant::now();
                    if self.is_done() {
                        return Ok(None);
                    }
                    continue;
                }
            };
            break frame.context("no answer to Fetch")?;
        };
        let received = Instant::now();
        Ok(Some((decode(ApiKey::Fetch, self.version, correlation_id, frame)?, received)))
    }

    /// Takes the `at`-th partition of an answer, and moves on behind what came.
    fn take(
        &mut self,
        at: usize,
        data: &PartitionData,
        start: Instant,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<Seen> {
        let at = self.place_of(at, data.partition_index)?;
        let asked = &mut self.request.topics[0].partitions[at];
        let (partition, offset) = (asked.partition, asked.fetch_offset);
        if !data.error_code.is_none() {
            let (consumer, error) = (self.consumer, data.error_code);
            bail!(
                "consumer {consumer}: fetch of partition {partition} at offset {offset}: {error}"
            );
        }
        let records = data.records.bytes().map_or(&[][..], |bytes| bytes);
        let seen = match self.verify {
            true => verify::check(partition, offset, records),
            false => verify::skim(partition, records),
        };
        // A server that sends old batches does not make its consumer go back.
        asked.fetch_offset = seen.next_offset.map_or(offset, |next| next.max(offset));
        self.deliver(at, records, start, deliveries)?;
        Ok(seen)
    }

    /// Matches the batches in `records`.
    ///
    /// # Errors
    /// The server compresses, so that no number could ever be read.
    fn deliver(
        &mut self,
        at: usize,
        records: &[u8],
        start: Instant,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<()> {
        for (header, batch) in Batches::new(records).map_while(Result::ok) {
            let Followed { nth, arrivals } = &mut self.followed[at];
            let Some(number) = self.course.number_in(batch, *nth) else {
                let is_readable = header.codec() == Some(Codec::None) || arrivals.have_begun();
                ensure!(
                    is_readable,
                    "{}: the batch at offset {} is compressed, so its number cannot be read: use a \
                     topic whose compression.type is producer or uncompressed",
                    self.whose(at),
                    header.base_offset
                );
                self.tally(|tally| tally.foreign += 1);
                continue;
            };
            let strays = arrivals.take(number);
            if !strays.is_none() {
                self.tally(|tally| tally.strays.add(strays, || self.whose(at)));
            }
            deliveries.push(Delivery {
                intended: start + self.course.due(number),
                records: header.record_count as u64,
                bytes: batch.len() as u64,
            });
        }
        Ok(())
    }

    /// The place of `partition` in the request, which is most likely its place in the answer.
    fn place_of(&self, at: usize, partition: i32) -> Result<usize> {
        let asked = &self.request.topics[0].partitions;
        if asked.get(at).is_some_and(|asked| asked.partition == partition) {
            return Ok(at);
        }
        let place = asked.iter().position(|asked| asked.partition == partition);
        place.with_context(|| format!("partition {partition} was answered and not requested"))
    }

    fn whose(&self, at: usize) -> String {
        let partition = self.request.topics[0].partitions[at].partition;
        format!("consumer {}, partition {partition}", self.consumer)
    }

    fn tally(&self, change: impl FnOnce(&mut Tally)) {
        if let Some(tally) = &mut *self.course.tally() {
            change(tally);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Partition;

    /// A topic whose partitions have these leaders.
    fn topic(leaders: &[&str]) -> Topic {
        let partition = |(index, leader): (usize, &&str)| Partition {
            index: index as i32,
            leader: (*leader).to_owned(),
            start: 0,
            end: 0,
            limit: i64::MAX,
        };
        Topic { name: "t".into(), partitions: leaders.iter().enumerate().map(partition).collect() }
    }

    fn seat(consumer: u32, leader: &str, partitions: &[usize]) -> Seat {
        Seat { consumer, leader: leader.to_owned(), partitions: partitions.to_vec() }
    }

    #[test]
    fn a_consumer_has_a_connection_to_each_leader_of_its_partitions() {
        let topic = topic(&["a:1", "b:1", "a:1", "c:1"]);
        let all = [seat(7, "c:1", &[3]), seat(7, "a:1", &[0, 2]), seat(7, "b:1", &[1])];
        assert_eq!(seats(7, 4, &topic), all);
        assert_eq!(seats(2, 1, &topic), [seat(2, "a:1", &[2])]);
    }

    #[test]
    fn consumers_of_some_partitions_share_them_evenly() {
        let topic = topic(&["a:1"; 4]);
        let mut readers = [0; 4];
        for seat in (0..20).flat_map(|consumer| seats(consumer, 3, &topic)) {
            seat.partitions.iter().for_each(|nth| readers[*nth] += 1);
        }
        assert_eq!(readers, [15; 4]);
    }
}
