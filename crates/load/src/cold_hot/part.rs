//! Divides the offsets into hot and cold ones. Pure: partitions and file names in, partitions out.
//!
//! Called by `cold_hot` once, before the first phase.
//!
//! ```text
//! one topic   │ 0.log │ 500.log │ 900.log │ 1400.log ──►     --cold-files 0.log 500.log
//!             └──── cold ──────┘└───────── hot ─────────►
//! ```

use anyhow::{Result, ensure};

use crate::cold_hot::files::{LogFile, Place};
use crate::topic::{Partition, Topic};

/// The offsets for each kind of reader.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) hot: Topic,
    pub(crate) cold: Topic,
}

impl Parts {
    /// Divides one topic: records in `cold_files` are cold, those after them hot.
    ///
    /// # Errors
    /// One of the parts is empty.
    pub(crate) fn of_one(topic: &Topic, cold_files: &[LogFile]) -> Result<Parts> {
        let places: Vec<&Place> = places(cold_files);
        let cold = cold(topic, &places)?;
        let mut hot = topic.clone();
        for partition in &mut hot.partitions {
            let cold = cold.partitions.iter().find(|cold| cold.index == partition.index);
            partition.start = cold.map_or(partition.start, |cold| cold.end);
        }
        Parts { hot, cold }.checked()
    }

    /// Uses two topics: all of `hot`, and the records of `topic` in `cold_files`, or all of it if
    /// the names of the files do not tell.
    ///
    /// # Errors
    /// One of the parts is empty.
    pub(crate) fn of_two(hot: Topic, topic: &Topic, cold_files: &[LogFile]) -> Result<Parts> {
        let places = places(cold_files);
        let cold = if places.is_empty() { topic.clone() } else { cold(topic, &places)? };
        Parts { hot, cold }.checked()
    }

    fn checked(mut self) -> Result<Parts> {
        for (part, kind) in [(&mut self.hot, "hot"), (&mut self.cold, "cold")] {
            part.partitions.retain(|partition| partition.start < partition.end);
            ensure!(!part.partitions.is_empty(), "topic {} has no {kind} records", part.name);
        }
        Ok(self)
    }
}

fn places(files: &[LogFile]) -> Vec<&Place> {
    files.iter().filter_map(|file| file.place.as_ref()).collect()
}

/// The offsets of `topic` that lie in files at `places`, from the first to the last.
fn cold(topic: &Topic, places: &[&Place]) -> Result<Topic> {
    let mut cold = topic.clone();
    cold.partitions.retain_mut(|partition| {
        let here =
            |place: &&&Place| *place.topic == *topic.name && place.partition == partition.index;
        let places: Vec<&&Place> = places.iter().filter(here).collect();
        let Some(first) = places.iter().map(|place| place.base).min() else { return false };
        let last = places.iter().map(|place| place.next_base.unwrap_or(i64::MAX)).max();
        let end = last.map_or(partition.end, |last| last.min(partition.end));
        *partition =
            Partition { start: first.max(partition.start), end, limit: end, ..partition.clone() };
        true
    });
    ensure!(
        !cold.partitions.is_empty(),
        "none of the cold files is a segment of topic {}: <topic>-<partition>/<offset>.log",
        topic.name
    );
    Ok(cold)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        let partition =
            |index| Partition { index, leader: "h:1".into(), start: 5, end: 1500, limit: i64::MAX };
        Topic { name: name.into(), partitions: vec![partition(0), partition(1)] }
    }

    fn segment(base: i64, next_base: Option<i64>) -> Place {
        Place { topic: "t".into(), partition: 0, base, next_base }
    }

    fn ranges(topic: &Topic) -> Vec<(i32, i64, i64, i64)> {
        topic.partitions.iter().map(|p| (p.index, p.start, p.end, p.limit)).collect()
    }

    #[test]
    fn the_cold_part_reaches_from_the_first_to_the_last_of_its_files_within_the_log() {
        let (first, second) = (segment(0, Some(500)), segment(500, Some(900)));
        let part = cold(&topic("t"), &[&second, &first]).unwrap();
        assert_eq!(ranges(&part), [(0, 5, 900, 900)]);
        let part = cold(&topic("t"), &[&segment(900, None)]).unwrap();
        assert_eq!(ranges(&part), [(0, 900, 1500, 1500)]);
    }

    #[test]
    fn files_of_another_topic_are_not_taken_for_cold_ones() {
        let problem = cold(&topic("u"), &[&segment(0, None)]).unwrap_err().to_string();
        assert!(problem.contains("segment of topic u"), "{problem}");
    }

    #[test]
    fn two_topics_are_read_whole_where_names_say_nothing_and_one_has_no_cold_part_then() {
        let parts = Parts::of_two(topic("t"), &topic("u"), &[]).unwrap();
        assert_eq!(ranges(&parts.cold), ranges(&topic("u")));
        assert_eq!(ranges(&parts.hot), ranges(&topic("t")));
        assert!(Parts::of_one(&topic("t"), &[]).is_err());
    }
}
