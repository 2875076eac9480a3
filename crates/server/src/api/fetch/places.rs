//! The places of one waiting fetch in the queues of its partitions, kept until it is answered.
//!
//! Called by fetch. A fetch that is woken plans with its places still taken, so an append meanwhile
//! leaves a permit and is not missed. Places are of use only while the partitions are those that
//! the names stand for: a topic deleted and created again has others. Never wakes, never waits.

use std::sync::Arc;

use penstock_storage::Offset;
use penstock_wire::Few;
use penstock_wire::messages::FetchRequest;
use tokio::sync::Notify;

use crate::broker::topics::Topics;
use crate::broker::waiting::Registration;

/// See the head of this file.
pub(super) struct Places(Few<Registration>);

impl Places {
    /// Registers `fetch` with all partitions of the request that are served.
    pub(super) fn take(topics: &Topics, request: &FetchRequest, fetch: &Arc<Notify>) -> Places {
        let served = asked(request).filter_map(|(name, index)| topics.partition(name, index).ok());
        let place = |waiting| Registration::new(waiting, Arc::clone(fetch));
        Places(served.map(|partition| place(partition.waiting())).collect())
    }

    /// Whether a fetch that found the log ends `planned` is woken by whatever came after: the
    /// places are with the partitions of today, which still end there.
    pub(super) fn hold(
        &self,
        topics: &Topics,
        request: &FetchRequest,
        planned: impl Iterator<Item = Offset>,
    ) -> bool {
        let mut places = self.0.iter();
        let holds = |((name, index), end): ((&str, i32), Offset)| {
            let (Some(place), Ok(partition)) = (places.next(), topics.partition(name, index))
            else {
                return false;
            };
            place.is_with(&partition.waiting()) && partition.bounds().high_watermark == end
        };
        asked(request).zip(planned).all(holds)
    }
}

fn asked(request: &FetchRequest) -> impl Iterator<Item = (&str, i32)> {
    request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |partition| (&*topic.topic, partition.partition))
    })
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::path::Path;

    use penstock_batch::{BatchBuilder, NewRecord};
    use penstock_ring::{Ring, RingConfig};
    use penstock_storage::{DataDir, Directory, Files, LogConfig, ProducedBatch};
    use penstock_wire::messages::{FetchPartition, FetchTopic};

    use super::*;
    use crate::broker::groups::OffsetStore;
    use crate::broker::metrics::Metrics;
    use crate::config::durability::Durability;
    use crate::config::settings::Settings;

    const TOPIC: &str = "t";

    fn open(dir: &Path) -> Topics {
        let settings = Settings { data_dir: dir.to_owned(), ..Settings::default() };
        let data_dir = DataDir::open(Directory::on(Arc::new(Files), dir)).unwrap();
        let offsets = Arc::new(OffsetStore::open(dir, Durability::Os).unwrap());
        Topics::open(&settings, data_dir, &offsets, &Metrics::new()).unwrap()
    }

    fn of_partitions(indexes: impl IntoIterator<Item = i32>) -> FetchRequest {
        let asked = indexes
            .into_iter()
            .map(|partition| FetchPartition { partition, ..FetchPartition::default() });
        let topic = FetchTopic { topic: TOPIC.into(), partitions: asked.collect() };
        FetchRequest { topics: [topic].into(), ..FetchRequest::default() }
    }

    fn append(topics: &Topics, index: i32) {
        let mut builder = BatchBuilder::new();
        builder.push(NewRecord::default());
        let terms = LogConfig::default().terms(0, true);
        let batch = ProducedBatch::validate(builder.finish().into(), &terms).unwrap();
        let partition = topics.partition(TOPIC, index).unwrap();
        on_ring(async |ring| partition.append(&ring, batch).await.map(drop).unwrap());
    }

    fn on_ring<F: Future<Output = ()>>(work: impl FnOnce(Ring) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let ring = Ring::new(RingConfig::default()).unwrap();
            tokio::task::spawn_local(ring.clone().drive());
            work(ring.clone()).await;
            ring.stop().await;
        });
    }

    /// Has places taken for partitions 0 and 1 at their ends, 0, then lets `happen`, and returns
    /// whether they still hold.
    fn holds_after(happen: impl FnOnce(&Topics)) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let topics = open(dir.path());
        topics.create(TOPIC, 2, Default::default()).unwrap();
        let (request, fetch) = (of_partitions(0..2), Arc::new(Notify::new()));
        let places = Places::take(&topics, &request, &fetch);
        happen(&topics);
        places.hold(&topics, &request, [Offset(0); 2].into_iter())
    }

    #[test]
    fn places_hold_while_the_partitions_are_the_same_and_end_where_they_were_planned_to() {
        assert!(holds_after(|_| {}));
        for appended in [0, 1] {
            assert!(!holds_after(|topics| append(topics, appended)), "to partition {appended}");
        }
        let replace = |topics: &Topics| {
            topics.delete(TOPIC).unwrap();
            topics.create(TOPIC, 2, Default::default()).unwrap();
        };
        assert!(!holds_after(replace), "another topic of the name ends there, too");
        assert!(!holds_after(|topics| topics.delete(TOPIC).unwrap()));
    }

    #[test]
    fn a_fetch_of_a_partition_that_is_not_served_has_no_place_that_holds() {
        let dir = tempfile::tempdir().unwrap();
        let topics = open(dir.path());
        topics.create(TOPIC, 1, Default::default()).unwrap();
        let (request, fetch) = (of_partitions(0..2), Arc::new(Notify::new()));
        let places = Places::take(&topics, &request, &fetch);
        assert!(!places.hold(&topics, &request, [Offset(0); 2].into_iter()));
    }

    #[tokio::test]
    async fn an_append_between_a_plan_and_the_wait_leaves_a_permit() {
        let dir = tempfile::tempdir().unwrap();
        let topics = open(dir.path());
        topics.create(TOPIC, 2, Default::default()).unwrap();
        let (request, fetch) = (of_partitions(0..2), Arc::new(Notify::new()));
        let _places = Places::take(&topics, &request, &fetch);
        std::thread::scope(|scope| scope.spawn(|| append(&topics, 1)).join().unwrap());
        fetch.notified().await;
    }
}
