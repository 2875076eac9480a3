//! Fetch: from (partition, offset, limits) to file ranges, waiting until there is enough to send.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 1 | Fetch | 4-12 | 4: isolation level (KIP-98), 5: log start offset (KIP-107), 9: leader epoch (KIP-320), 10: zstd (KIP-110), 11: rack (KIP-392), 12: epoch validation (KIP-595) |
//!
//! The plan is made again from scratch each time something may have changed. It reads nothing but
//! batch headers and index pages, and holds no lock while it does. The bytes themselves are read by
//! the ring while it sends them (`transfer.rs`); `route.rs` chooses copy, inline or
//! chain for each turn.
//!
//! ```text
//!   plan ──enough, an error, old data, no time to wait──────────────────────────► answer
//!     └── register with the partitions ── has a log end moved? ──no──► sleep ── woken ──┐
//!                                               └─yes─► plan again ◄────────────────────┘
//!                                                       (deadline, stop, peer done: answer)
//! ```
//!
//! Not done: topic ids (13), sessions (7, KIP-227: none is ever opened), aborted transactions of
//! read_committed, fetching from followers, diverging epochs (12).

mod places;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_storage::{Extent, Found, Offset};
use penstock_wire::messages::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData,
};
use penstock_wire::{ErrorCode, Few, Records, RecordsSlot};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::cold_reads::{self, Granted, HOLD};
use crate::api::context::RequestContext;
use crate::api::doubles;
use crate::api::error_codes;
use crate::api::fetch::places::Places;
use crate::api::reply::Range;
use crate::broker::cold_budgets::Charge;
use crate::broker::metrics::Metrics;
use crate::broker::partition::{Bounds, Partition};
use crate::broker::read_errors::{self, What};
use crate::clock;
use crate::pace::Pace;
use crate::stop::{Stop, wait_for};

/// The longest wait of a fetch, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_secs(5 * 60);

/// No fetch session: every request names all its partitions (KIP-227 allows a server to have none).
const NO_SESSION: i32 = 0;

/// The answer to a fetch, and the file ranges that its slots stand for, by slot id.
pub(crate) struct Fetched {
    pub(crate) response: FetchResponse,
    pub(crate) ranges: Few<Range>,
    /// When a fetch that waited for data had it.
    pub(crate) woke: Option<std::time::Instant>,
}

/// Makes a fetch name each partition once: its last entry counts, at the place of its first one.
/// Kafka keeps a fetch in a map, with the same effect.
pub(crate) fn keep_last_of_each(topics: &mut Few<FetchTopic>) {
    fn named(topic: &FetchTopic) -> impl Iterator<Item = ((&str, i32), &FetchPartition)> + Clone {
        topic.partitions.iter().map(|asked| ((&*topic.topic, asked.partition), asked))
    }
    if !doubles::are_in(topics.iter().flat_map(named).map(|(name, _)| name)) {
        return;
    }
    let mut last: HashMap<_, _> = topics.iter().flat_map(named).collect();
    let kept = topics.iter().map(|topic| FetchTopic {
        topic: topic.topic.clone(),
        partitions: named(topic).filter_map(|(name, _)| last.remove(&name).cloned()).collect(),
    });
    *topics = kept.collect();
}

/// Answers a fetch, at the latest after its max_wait. The fetch names each partition once. One that
/// `holds_share` of the memory for requests waits only while no other request waits for that
/// memory.
pub(crate) async fn fetch(
    context: &RequestContext<'_>,
    client_id: &str,
    request: &FetchRequest,
    holds_share: bool,
) -> Fetched {
    if request.session_id != NO_SESSION {
        return Fetched::error(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    }
    let plan = Plan::make(context, client_id, request).await;
    if plan.answers(request) {
        return plan.into();
    }
    let (plan, woke) = wait(context, client_id, request, plan, holds_share).await;
    if plan.ranges.is_empty() {
        note_waiting(context, client_id, request).await;
    }
    Fetched { woke, ..plan.into() }
}

/// A reader that is answered with nothing is at its place still. The connection notes what is sent.
async fn note_waiting(context: &RequestContext<'_>, client_id: &str, request: &FetchRequest) {
    let (now, mut pace) = (clock::coarse_now(), Pace::default());
    for topic in request.topics.iter() {
        for asked in topic.partitions.iter() {
            if let Ok(partition) = context.broker.topics.partition(&topic.topic, asked.partition) {
                context.broker.readers.note_waiting(client_id, &partition, now);
            }
            pace.done(1).await;
        }
    }
}

/// Waits until there is enough to send or the time is over. A peer that has ended its sending side
/// is answered at once: it may have gone, or it may just have nothing more to ask.
async fn wait(
    context: &RequestContext<'_>,
    client_id: &str,
    request: &FetchRequest,
    mut plan: Plan,
    holds_share: bool,
) -> (Plan, Option<std::time::Instant>) {
    let began = Instant::now();
    let (deadline, patience) = (began + max_wait(request), began + max_wait(request).max(HOLD));
    let more = Arc::new(Notify::new());
    let _counted = Waits::count(&context.broker.metrics);
    let mut stop = context.stop.clone();
    let peer_closed = context.peer_closed();
    let (timer, stopping) = (tokio::time::sleep_until(deadline), wait_for(&mut stop, Stop::Drain));
    let uploads = &context.broker.memory.uploads;
    let shortage = uploads.shortage.notified();
    tokio::pin!(peer_closed, timer, stopping, shortage);
    let mut woke = None;
    let topics = &context.broker.topics;
    let mut places = Places::take(topics, request, &more);
    loop {
        if holds_share && uploads.missing_bytes() > 0 {
            return (plan, woke);
        }
        if places.hold(topics, request, plan.log_ends()) {
            let (waits, granted) = (plan.waits_for_budget(), plan.granted_from(patience));
            tokio::select! {
                biased;
                () = more.notified() => {}
                () = tokio::time::sleep_until(granted.unwrap_or(patience)), if granted.is_some() => {
                    if Instant::now() >= patience {
                        return (plan, Some(Instant::now().into_std()));
                    }
                }
                () = &mut timer, if !waits => return (plan, Some(Instant::now().into_std())),
                () = &mut stopping => return (plan, None),
                () = &mut peer_closed => return (plan, None),
                () = &mut shortage, if holds_share => return (plan, Some(Instant::now().into_std())),
            }
            woke = Some(Instant::now().into_std());
        } else {
            places = Places::take(topics, request, &more);
        }
        // It may hold a charge of a budget, which the next one needs.
        drop(plan);
        plan = Plan::make(context, client_id, request).await;
        if plan.answers(request) {
            return (plan, woke);
        }
    }
}

fn max_wait(request: &FetchRequest) -> Duration {
    Duration::from_millis(request.max_wait_ms.max(0) as u64).min(MAX_WAIT)
}

/// The answer as it would be now.
#[derive(Default)]
struct Plan {
    topics: Few<FetchableTopicResponse>,
    ranges: Few<Range>,
    record_bytes: u64,
    /// What the extents leave out of batches that their limits would cut.
    spared_bytes: u64,
    /// Waiting would not improve the answer: it has an error, old data, or no room for more.
    is_final: bool,
    /// A partition has less than it may give, so an append to it would make the answer larger.
    may_grow: bool,
    /// How long until the budgets allow what was left out.
    postponed: Option<Duration>,
    /// The limit of the whole answer, by the request and the server.
    limit: u64,
}

impl Plan {
    async fn make(context: &RequestContext<'_>, client_id: &str, request: &FetchRequest) -> Plan {
        let limit = context.broker.settings.fetch_max_bytes.min(request.max_bytes.max(0) as u64);
        let (mut plan, mut pace) = (Plan { limit, ..Plan::default() }, Pace::default());
        // As in Kafka, a topic without partitions in the request is not named in the answer.
        let asked_of = |topic: &&FetchTopic| !topic.partitions.is_empty();
        for topic in request.topics.iter().filter(asked_of) {
            let mut partitions = Few::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let found = context.broker.topics.partition(&topic.topic, asked.partition);
                partitions.push(match found {
                    Ok(partition) => plan.take(context, client_id, &partition, asked).await,
                    Err(why) => plan.fail(asked, error_codes::of_unserved(why), None),
                });
                pace.done(1).await;
            }
            plan.topics.push(FetchableTopicResponse { topic: topic.topic.clone(), partitions });
        }
        plan
    }

    /// The log ends that were found, of each partition asked if none has failed.
    fn log_ends(&self) -> impl Iterator<Item = Offset> {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|data| Offset(data.high_watermark))
    }

    /// Whether this is the answer to send now. `min_bytes` may lie above all limits: an answer that
    /// waiting does not make larger is sent.
    fn answers(&self, request: &FetchRequest) -> bool {
        // A limit of 0 lets one batch through, so a fetch at the end waits for it.
        let min_bytes = self.limit.max(1).min(request.min_bytes.max(0) as u64);
        let there_are = self.record_bytes + self.spared_bytes;
        let is_enough = !self.may_grow || request.max_wait_ms <= 0 || there_are >= min_bytes;
        self.is_final || (is_enough && !self.waits_for_budget())
    }

    /// Whether all that there is to send is postponed.
    fn waits_for_budget(&self) -> bool {
        self.postponed.is_some() && self.record_bytes == 0
    }

    /// When to plan again for what is postponed, at the latest.
    fn granted_from(&self, patience: Instant) -> Option<Instant> {
        self.postponed.map(|wait| patience.min(Instant::now() + wait))
    }

    /// As much of an extent as the budgets allow.
    fn within_budget(
        &mut self,
        context: &RequestContext<'_>,
        client_id: &str,
        partition: &Partition,
        found: Option<&Found>,
        extent: Option<Extent>,
    ) -> (Option<Extent>, Option<Charge>) {
        let (Some(found), Some(extent)) = (found, extent) else { return (None, None) };
        match cold_reads::grant(context, client_id, partition, &extent) {
            Granted::All => (Some(extent), None),
            Granted::UpTo(bytes, charge) if bytes < extent.len_bytes => {
                // Waiting makes it no longer.
                self.is_final = true;
                (self.extent(partition, found, bytes), Some(charge))
            }
            Granted::UpTo(_, charge) => (Some(extent), Some(charge)),
            Granted::Postponed(wait) => {
                self.postponed = Some(self.postponed.map_or(wait, |other| other.min(wait)));
                (None, None)
            }
        }
    }

    /// Adds one partition: an extent, nothing yet, or an error.
    async fn take(
        &mut self,
        context: &RequestContext<'_>,
        client_id: &str,
        partition: &Arc<Partition>,
        asked: &FetchPartition,
    ) -> PartitionData {
        let bounds = partition.bounds();
        if let Err(error) =
            error_codes::check_epoch(asked.current_leader_epoch, bounds.leader_epoch)
        {
            return self.fail(asked, error, Some(bounds));
        }
        match partition.find(context.ring, Offset(asked.fetch_offset)).await {
            Ok(found) => {
                let left = self.limit.saturating_sub(self.record_bytes + self.spared_bytes);
                let max_bytes = left.min(asked.partition_max_bytes.max(0) as u64);
                let found_one = found.as_ref();
                let extent = found_one.and_then(|found| self.extent(partition, found, max_bytes));
                let is_room = extent.is_some();
                let (mut extent, charge) =
                    self.within_budget(context, client_id, partition, found.as_ref(), extent);
                if context.broker.read_errors.is_suspect(&partition.name) {
                    let batch_bytes = found.as_ref().map_or(0, |found| found.batch_len_bytes);
                    extent = match self.prove(context, partition, extent, batch_bytes).await {
                        Ok(extent) => extent,
                        Err(error) => return self.fail(asked, error, Some(bounds)),
                    };
                }
                match &extent {
                    Some(extent) => {
                        self.may_grow |= extent.len_bytes + extent.spared_bytes < max_bytes;
                    }
                    // It is postponed, or was cut to less than a batch.
                    None if is_room || found.is_none() => self.may_grow = true,
                    // The answer has no room for more.
                    None => self.is_final |= max_bytes == left,
                }
                PartitionData {
                    records: self.slot(partition, found.as_ref(), extent, charge, asked),
                    ..partition_data(asked, bounds)
                }
            }
            Err(error) => {
                let (name, sought) = (&partition.name, asked.fetch_offset);
                read_errors::report_lookup(
                    context.broker,
                    &context.lines.fetch,
                    What::Offset,
                    name,
                    sought,
                    &error,
                );
                self.fail(asked, error_codes::of_read(&error), Some(bounds))
            }
        }
    }

    /// How much of what was found is sent. The first partition with data gives at least one batch,
    /// whatever the limits (KIP-74).
    fn extent(&self, partition: &Partition, found: &Found, max_bytes: u64) -> Option<Extent> {
        let mut extent = found.extent(max_bytes, self.record_bytes == 0)?;
        partition.end_with_a_batch(found, &mut extent);
        Some(extent)
    }

    /// Reads the extent before it is promised, of a partition that could not be read lately.
    /// Returns as much of it as can be read.
    ///
    /// # Errors
    /// Not even the first batch can be read.
    async fn prove(
        &mut self,
        context: &RequestContext<'_>,
        partition: &Partition,
        extent: Option<Extent>,
        batch_bytes: u64,
    ) -> Result<Option<Extent>, ErrorCode> {
        let Some(extent) = extent else { return Ok(None) };
        let (extent, failed) = read_errors::prove(context.ring, extent).await;
        if let Some((place, error)) = failed {
            read_errors::report(
                context.broker,
                &context.lines.fetch,
                What::Records,
                &partition.name,
                place,
                &error,
            );
            if extent.len_bytes < batch_bytes {
                return Err(ErrorCode::KAFKA_STORAGE_ERROR);
            }
            // Waiting does not make it more.
            self.is_final = true;
        }
        Ok(Some(extent))
    }

    fn slot(
        &mut self,
        partition: &Arc<Partition>,
        found: Option<&Found>,
        extent: Option<Extent>,
        charge: Option<Charge>,
        asked: &FetchPartition,
    ) -> Records {
        let (Some(extent), Some(found)) = (extent, found) else { return Records::default() };
        let len_bytes =
            u32::try_from(extent.len_bytes).expect("limited by fetch.max.bytes or a batch");
        let id = self.ranges.len() as u32;
        self.is_final |= extent.sealed;
        self.record_bytes += extent.len_bytes;
        self.spared_bytes += extent.spared_bytes;
        let (partition, asked) = (Arc::clone(partition), Offset(asked.fetch_offset));
        let (segment, first) = (found.segment, found.base_offset);
        self.ranges.push(Range { partition, extent, segment, asked, first, charge });
        Records::Slot(RecordsSlot { id, len_bytes })
    }

    fn fail(
        &mut self,
        asked: &FetchPartition,
        error: ErrorCode,
        bounds: Option<Bounds>,
    ) -> PartitionData {
        const UNKNOWN: i64 = -1;
        self.is_final = true;
        let bounds = bounds.unwrap_or(Bounds {
            log_start: Offset(UNKNOWN),
            high_watermark: Offset(UNKNOWN),
            leader_epoch: -1,
        });
        PartitionData { error_code: error, ..partition_data(asked, bounds) }
    }
}

fn partition_data(asked: &FetchPartition, bounds: Bounds) -> PartitionData {
    PartitionData {
        partition_index: asked.partition,
        high_watermark: bounds.high_watermark.0,
        last_stable_offset: bounds.high_watermark.0,
        log_start_offset: bounds.log_start.0,
        ..PartitionData::default()
    }
}

impl Fetched {
    fn error(error_code: ErrorCode) -> Self {
        let response = FetchResponse { error_code, ..FetchResponse::default() };
        Fetched { response, ranges: Few::new(), woke: None }
    }
}

impl From<Plan> for Fetched {
    fn from(plan: Plan) -> Self {
        let response = FetchResponse { responses: plan.topics, ..FetchResponse::default() };
        Fetched { response, ranges: plan.ranges, woke: None }
    }
}

/// Counts a fetch as waiting while this lives.
struct Waits<'a>(&'a Metrics);

impl<'a> Waits<'a> {
    fn count(metrics: &'a Metrics) -> Self {
        metrics.fetches_waiting.inc();
        Waits(metrics)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetches_waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_waits_only_while_waiting_can_make_it_better() {
        let request = FetchRequest { min_bytes: 10, max_wait_ms: 100, ..FetchRequest::default() };
        let (may_grow, limit) = (true, 100);
        let plan = |record_bytes, is_final| Plan {
            record_bytes,
            is_final,
            may_grow,
            limit,
            ..Plan::default()
        };
        assert!(!plan(9, false).answers(&request));
        assert!(plan(10, false).answers(&request));
        assert!(plan(0, true).answers(&request));
        let at_once = FetchRequest { max_wait_ms: 0, ..request.clone() };
        assert!(plan(0, false).answers(&at_once));
        let postponed = Plan { postponed: Some(Duration::ZERO), ..plan(0, false) };
        assert!(!postponed.answers(&at_once), "the budget allows nothing yet");
        assert!(Plan::default().answers(&request), "no partitions: nothing to wait for");
        let full = Plan { may_grow: false, ..plan(9, false) };
        assert!(full.answers(&request), "each partition gives as much as it may");
        let small = Plan { limit: 9, ..plan(9, false) };
        assert!(small.answers(&request), "min_bytes lies above the limit of the answer");
        let nothing = Plan { limit: 0, ..plan(0, false) };
        assert!(
            !nothing.answers(&request),
            "a limit of 0 lets one batch through, once it is there"
        );
    }

    #[test]
    fn of_a_partition_named_again_the_last_counts_at_the_place_of_the_first() {
        let asked = |partition, fetch_offset| FetchPartition {
            partition,
            fetch_offset,
            ..FetchPartition::default()
        };
        let topic = |name: &str, partitions: &[FetchPartition]| FetchTopic {
            topic: name.into(),
            partitions: partitions.into(),
        };
        let mut topics: Few<FetchTopic> = Few::new();
        topics.push(topic("b", &[asked(1, 10), asked(0, 20), asked(1, 30)]));
        topics.push(topic("a", &[asked(1, 40)]));
        topics.push(topic("b", &[asked(0, 50), asked(2, 60)]));
        keep_last_of_each(&mut topics);
        let expected = [
            topic("b", &[asked(1, 30), asked(0, 50)]),
            topic("a", &[asked(1, 40)]),
            topic("b", &[asked(2, 60)]),
        ];
        assert_eq!(topics[..], expected);
    }

    #[test]
    fn a_negative_or_huge_max_wait_is_bounded() {
        let with = |max_wait_ms| max_wait(&FetchRequest { max_wait_ms, ..FetchRequest::default() });
        assert_eq!(with(-1), Duration::ZERO);
        assert_eq!(with(i32::MAX), MAX_WAIT);
    }
}
