//! Which group a client reads a partition for, as the members' assignments have it.
//!
//! Made when a view of the readers is asked for, from what groups.rs copied out of its lock.

use std::collections::HashMap;

use bytes::Bytes;
use penstock_coordinator::assigned;
use penstock_wire::Str;

/// Partitions that are looked at. Beyond them readers have no group.
const PARTITIONS_MAX: usize = 100_000;

/// Client id to topic to partition to group.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<Str, HashMap<String, HashMap<i32, Str>>>);

impl Owners {
    /// From group, client id and assignment of every member.
    pub(crate) fn of(assignments: &[(Str, Str, Bytes)]) -> Owners {
        let mut owners = Owners::default();
        let partitions = assignments.iter().flat_map(|(group, client_id, bytes)| {
            assigned(bytes).map(move |(topic, partition)| (group, client_id, topic, partition))
        });
        for (group, client_id, topic, partition) in partitions.take(PARTITIONS_MAX) {
            let topics = owners.0.entry(client_id.clone()).or_default();
            let groups = match topics.get_mut(topic) {
                Some(groups) => groups,
                None => topics.entry(topic.to_owned()).or_default(),
            };
            groups.entry(partition).or_insert_with(|| group.clone());
        }
        owners
    }

    /// The group of a client that reads a partition. Of two that fit, either.
    pub(crate) fn group_of(&self, client_id: &str, topic: &str, partition: i32) -> Option<&str> {
        self.0.get(client_id)?.get(topic)?.get(&partition).map(|group| &**group)
    }
}
