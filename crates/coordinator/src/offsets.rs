//! The committed offsets of all groups, in memory.
//!
//! Pure. Changed by the journal's thread alone, after the change is in the file; read by
//! OffsetFetch. Offsets stay until their topic is deleted: they do not expire.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use penstock_wire::Str;

/// All groups' offsets in memory. A commit beyond it is refused.
pub const OFFSETS_MAX_BYTES: usize = 256 * 1024 * 1024;

/// An entry of a map beside its strings, rounded up.
const OVERHEAD_BYTES: usize = 96;

/// A committed offset of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the next record to read.
    pub offset: i64,
    /// The epoch of the last record read; -1: the client sent none.
    pub leader_epoch: i32,
    /// The client's own metadata.
    pub metadata: Str,
}

/// The offsets of one commit: all of them are made, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The group's id.
    pub group: Str,
    /// Topic, partition, offset.
    pub entries: Vec<(Str, i32, Committed)>,
}

/// A change of committed offsets, in the journal and in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A group commits offsets.
    Commit(Commit),
    /// A topic is deleted, and with it what all groups have committed of it.
    Forget {
        /// The topic's name.
        topic: Str,
    },
}

/// Group, topic, partition, offset.
pub type Entry<'a> = (&'a Str, &'a Str, i32, &'a Committed);

type Topics = BTreeMap<Str, BTreeMap<i32, Committed>>;

/// Group to topic to partition to offset.
#[derive(Debug, Default)]
pub struct Offsets {
    groups: BTreeMap<Str, Topics>,
    count: usize,
    size_bytes: usize,
}

impl Offsets {
    /// The offset that a group has committed of a partition.
    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&Committed> {
        self.groups.get(group)?.get(topic)?.get(&partition)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Every offset: group, topic, partition, in this order.
    pub fn all(&self) -> impl Iterator<Item = Entry<'_>> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| of_topic(group, topic, partitions))
        })
    }

    /// Every offset behind this one, whether or not it is there. So a reader of many can let go of
    /// the lock, and go on where it was.
    pub fn all_behind(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> impl Iterator<Item = Entry<'_>> {
        let of_group = self.groups.get_key_value(group);
        let in_topic = of_group.and_then(|(group, topics)| {
            let (topic, partitions) = topics.get_key_value(topic)?;
            let partitions = partitions.range((Excluded(partition), Unbounded));
            Some(partitions.map(move |(index, at)| (group, topic, *index, at)))
        });
        let in_group = of_group.into_iter().flat_map(move |(group, topics)| {
            let topics = topics.range::<str, _>((Excluded(topic), Unbounded));
            topics.flat_map(move |(topic, partitions)| of_topic(group, topic, partitions))
        });
        let groups = self.groups.range::<str, _>((Excluded(group), Unbounded));
        let others = groups.flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| of_topic(group, topic, partitions))
        });
        in_topic.into_iter().flatten().chain(in_group).chain(others)
    }

    /// The current offsets, as one commit for each group.
    pub fn snapshot(&self) -> impl Iterator<Item = Commit> {
        self.groups.iter().map(|(group, topics)| {
            let of_topic = |(topic, partitions): (&Str, &BTreeMap<i32, Committed>)| {
                let topic = topic.clone();
                let entries = partitions.iter();
                entries
                    .map(move |(index, at)| (topic.clone(), *index, at.clone()))
                    .collect::<Vec<_>>()
            };
            Commit { group: group.clone(), entries: topics.iter().flat_map(of_topic).collect() }
        })
    }

    /// Roughly the size in memory; more than a snapshot takes in the journal.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Whether a commit fits into `max_bytes`.
    pub fn has_room_for(&self, commit: &Commit, max_bytes: usize) -> bool {
        let added = |(topic, partition, at): &(Str, i32, Committed)| {
            let known = self.get(&commit.group, topic, *partition);
            size_of_entry(topic, at)
                .saturating_sub(known.map_or(0, |known| size_of_entry(topic, known)))
        };
        let added: usize = commit.entries.iter().map(added).sum();
        self.size_bytes + OVERHEAD_BYTES + commit.group.len() + added <= max_bytes
    }

    /// Topics of which any group has committed an offset.
    pub fn topics(&self) -> BTreeSet<Str> {
        self.groups.values().flat_map(|topics| topics.keys().cloned()).collect()
    }

    /// Whether any group has committed an offset of the topic.
    pub fn has_topic(&self, topic: &str) -> bool {
        self.groups.values().any(|topics| topics.contains_key(topic))
    }

    /// Makes a change that is in the journal.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Commit(commit) => self.commit(commit),
            Change::Forget { topic } => self.forget(&topic),
        }
    }

    /// A group without other commits is forgotten, too.
    fn forget(&mut self, topic: &str) {
        let (size_bytes, count) = (&mut self.size_bytes, &mut self.count);
        self.groups.retain(|group, topics| {
            for at in topics.remove(topic).iter().flat_map(BTreeMap::values) {
                *size_bytes -= size_of_entry(topic, at);
                *count -= 1;
            }
            if topics.is_empty() {
                *size_bytes -= OVERHEAD_BYTES + group.len();
            }
            !topics.is_empty()
        });
    }

    fn commit(&mut self, commit: Commit) {
        if commit.entries.is_empty() {
            return;
        }
        if !self.groups.contains_key(&commit.group) {
            self.size_bytes += OVERHEAD_BYTES + commit.group.len();
        }
        let topics = self.groups.entry(commit.group).or_default();
        for (topic, partition, at) in commit.entries {
            self.size_bytes += size_of_entry(&topic, &at);
            let name_bytes = topic.len();
            match topics.entry(topic).or_default().insert(partition, at) {
                Some(before) => {
                    self.size_bytes -= OVERHEAD_BYTES + name_bytes + before.metadata.len();
                }
                None => self.count += 1,
            }
        }
    }
}

fn of_topic<'a>(
    group: &'a Str,
    topic: &'a Str,
    partitions: &'a BTreeMap<i32, Committed>,
) -> impl Iterator<Item = Entry<'a>> {
    partitions.iter().map(move |(index, at)| (group, topic, *index, at))
}

/// Counts the topic's name with every partition: the journal has it as often.
fn size_of_entry(topic: &str, at: &Committed) -> usize {
    OVERHEAD_BYTES + topic.len() + at.metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(entries: &[(&'static str, i32, i64)]) -> Commit {
        let entry = |(topic, partition, offset): &(&'static str, i32, i64)| {
            let metadata = format!("at {offset}").into();
            (
                Str::from(*topic),
                *partition,
                Committed { offset: *offset, leader_epoch: -1, metadata },
            )
        };
        Commit { group: "g".into(), entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn the_last_commit_counts_and_takes_the_place_of_the_one_before() {
        let mut offsets = Offsets::default();
        offsets.commit(commit(&[("t", 0, 5), ("t", 1, 6), ("u", 0, 7)]));
        let size = offsets.size_bytes();
        offsets.commit(commit(&[("t", 1, 9)]));
        assert_eq!(offsets.get("g", "t", 1).unwrap().offset, 9);
        assert_eq!(offsets.get("g", "t", 0).unwrap().offset, 5);
        assert_eq!(offsets.get("other", "t", 0), None);
        assert_eq!(offsets.size_bytes(), size);
    }

    #[test]
    fn a_deleted_topic_takes_its_offsets_along_and_a_group_of_nothing_else() {
        let mut offsets = Offsets::default();
        offsets.commit(commit(&[("t", 0, 5), ("t", 1, 6), ("u", 0, 7)]));
        let other = Commit { group: "other".into(), ..commit(&[("t", 0, 8)]) };
        offsets.commit(other);
        offsets.apply(Change::Forget { topic: "t".into() });
        let left: Vec<_> = offsets.all().map(|(group, topic, ..)| (&**group, &**topic)).collect();
        assert_eq!((left, offsets.count()), (vec![("g", "u")], 1));
        assert_eq!(offsets.snapshot().count(), 1);
        offsets.apply(Change::Forget { topic: "u".into() });
        offsets.apply(Change::Forget { topic: "not-there".into() });
        assert_eq!((offsets.size_bytes(), offsets.topics().len(), offsets.count()), (0, 0, 0));
    }

    #[test]
    fn reading_goes_on_behind_any_place_there_or_not() {
        let mut offsets = Offsets::default();
        for group in ["a", "c"] {
            let entries = commit(&[("t", 0, 5), ("t", 2, 6), ("v", 1, 7)]);
            offsets.commit(Commit { group: group.into(), ..entries });
        }
        let all: Vec<_> = offsets.all().map(|(g, t, index, _)| (&**g, &**t, index)).collect();
        assert_eq!((all.len(), offsets.count()), (6, 6));
        let places = ["", "a", "b", "c", "d"].into_iter().flat_map(|group| {
            ["", "t", "u", "v", "w"]
                .into_iter()
                .flat_map(move |topic| (-1..4).map(move |partition| (group, topic, partition)))
        });
        for place in places {
            let behind = offsets.all_behind(place.0, place.1, place.2);
            let behind: Vec<_> = behind.map(|(g, t, index, _)| (&**g, &**t, index)).collect();
            let expected: Vec<_> = all.iter().copied().filter(|at| *at > place).collect();
            assert_eq!(behind, expected, "behind {place:?}");
        }
    }

    #[test]
    fn a_full_store_still_takes_new_offsets_for_what_it_knows() {
        let mut offsets = Offsets::default();
        offsets.commit(commit(&[("t", 0, 5)]));
        let room = offsets.size_bytes() + OVERHEAD_BYTES + 1;
        assert!(offsets.has_room_for(&commit(&[("t", 0, 6)]), room));
        assert!(!offsets.has_room_for(&commit(&[("t", 1, 6)]), room));
    }

    #[test]
    fn a_snapshot_makes_the_same_offsets_again() {
        let mut offsets = Offsets::default();
        offsets.commit(commit(&[("t", 0, 5), ("u", 3, 6)]));
        let mut again = Offsets::default();
        offsets.snapshot().for_each(|commit| again.commit(commit));
        assert_eq!(again.groups, offsets.groups);
        assert_eq!(again.size_bytes(), offsets.size_bytes());
    }
}
