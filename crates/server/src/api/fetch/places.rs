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
