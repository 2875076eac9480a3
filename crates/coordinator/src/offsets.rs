//! The committed offsets of all groups, in memory.
//!
//! Pure. Changed by the journal's thread alone, after the change is in the file; read by
//! OffsetFetch. Offsets stay until their topic is deleted: they do not expire.

use std::collections::{BTreeMap, BTreeSet};

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

type Topics = BTreeMap<Str, BTreeMap<i32, Committed>>;

/// Group to topic to partition to offset.
#[derive(Debug, Default)]
pub struct Offsets {
    groups: BTreeMap<Str, Topics>,
    size_bytes: usize,
}

impl Offsets {
    /// The offset that a group has committed of a partition.
    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&Committed> {
        self.groups.get(group)?.get(topic)?.get(&partition)
    }

    /// All offsets of a group, by topic.
    pub fn of_group(&self, group: &str) -> impl Iterator<Item = (&Str, &BTreeMap<i32, Committed>)> {
        self.groups.get(group).into_iter().flatten()
    }

    /// Every offset: group, topic, partition.
    pub fn all(&self) -> impl Iterator<Item = (&Str, &Str, i32, &Committed)> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(index, at)| (group, topic, *index, at))
            })
        })
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
        let size_bytes = &mut self.size_bytes;
        self.groups.retain(|group, topics| {
            for at in topics.remove(topic).iter().flat_map(BTreeMap::values) {
                *size_bytes -= size_of_entry(topic, at);
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
            if let Some(before) = topics.entry(topic).or_default().insert(partition, at) {
                self.size_bytes -= OVERHEAD_BYTES + name_bytes + before.metadata.len();
            }
        }
    }
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
        assert_eq!(offsets.of_group("g").map(|(topic, _)| &**topic).collect::<Vec<_>>(), ["u"]);
        assert_eq!(offsets.snapshot().count(), 1);
        offsets.apply(Change::Forget { topic: "u".into() });
        offsets.apply(Change::Forget { topic: "not-there".into() });
        assert_eq!((offsets.size_bytes(), offsets.topics().len()), (0, 0));
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
