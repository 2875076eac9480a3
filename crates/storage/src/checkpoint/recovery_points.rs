//! How far each log is known to be on the disk: one file in the data directory for all of them.
//! Pure.
//!
//! ```text
//!   1                                            version
//!   events 0 AAECA_v_BgcICQoLDA0O_w 4711         topic, partition, topic id, offset
//!   crc32c 0a1b2c3d                              of the lines above
//! ```
//!
//! A topic that was deleted and made again has another id, so the point of the former topic does
//! not count for it. A file that is missing or has changed means that nothing is known to be on the
//! disk.

use std::collections::{BTreeMap, HashMap};

use crate::{
    checkpoint::checked_text,
    topic_name::{PartitionName, TopicId},
    units::Offset,
};

pub(crate) const FILE_NAME: &str = "penstock-recovery-points";
const VERSION: &str = "1";

/// The offset below which a log is on the disk, and the topic it was recorded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// The topic's id; `None` for logs from before Kafka 2.8.
    pub topic_id: Option<TopicId>,
    /// Everything below it is on the disk: batches, indexes, epochs, producers.
    pub offset: Offset,
}

impl RecoveryPoint {
    /// Nothing is known to be on the disk.
    pub const NONE: RecoveryPoint = RecoveryPoint { topic_id: None, offset: Offset(0) };

    /// The offset, if the point was recorded for this topic; else 0.
    pub(crate) fn of(&self, topic_id: Option<TopicId>) -> Offset {
        if self.topic_id == topic_id { self.offset } else { Offset(0) }
    }

    /// Whether a file with this point may stay although the point is `now`. A start that believes
    /// an older point reads more than it must, never less. A point beyond the log's end may not
    /// stay: it would be believed once the log has grown past it.
    pub fn holds(&self, now: &RecoveryPoint) -> bool {
        self.of(now.topic_id) <= now.offset
    }
}

pub(crate) fn format(points: &BTreeMap<PartitionName, RecoveryPoint>) -> String {
    let mut text = format!("{VERSION}\n");
    for (name, point) in points {
        let id = point.topic_id.map_or("-".to_owned(), |id| id.to_string());
        text += &format!("{} {} {id} {}\n", name.topic, name.partition, point.offset);
    }
    checked_text::seal(text)
}

pub(crate) fn parse(bytes: &[u8]) -> Option<HashMap<PartitionName, RecoveryPoint>> {
    let mut lines = checked_text::unseal(bytes)?.lines();
    lines.next().filter(|version| *version == VERSION)?;
    lines.map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(PartitionName, RecoveryPoint)> {
    let mut words = line.split(' ');
    let topic = words.next()?.to_owned();
    let partition = words.next()?.parse().ok()?;
    let topic_id = match words.next()? {
        "-" => None,
        id => Some(id.parse().ok()?),
    };
    let offset = Offset(words.next()?.parse().ok()?);
    Some((PartitionName { topic, partition }, RecoveryPoint { topic_id, offset }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> BTreeMap<PartitionName, RecoveryPoint> {
        let point = |topic: &str, topic_id, offset| {
            let name = PartitionName { topic: topic.to_owned(), partition: 3 };
            (name, RecoveryPoint { topic_id, offset: Offset(offset) })
        };
        [point("a-b", Some(TopicId([7; 16])), 77), point("old", None, i64::MAX)].into()
    }

    #[test]
    fn points_are_their_text_and_back() {
        let text = format(&points());
        assert!(
            text.starts_with("1\na-b 3 BwcHBwcHBwcHBwcHBwcHBw 77\nold 3 - 9223372036854775807\n")
        );
        assert_eq!(parse(text.as_bytes()).unwrap(), points().into_iter().collect());
    }

    #[test]
    fn a_file_of_another_version_or_a_torn_one_has_no_points() {
        let text = format(&points());
        assert_eq!(parse(&text.as_bytes()[..text.len() - 1]), None);
        assert_eq!(parse(checked_text::seal("2\n".to_owned()).as_bytes()), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_point_of_another_topic_is_none() {
        let point = RecoveryPoint { topic_id: Some(TopicId([7; 16])), offset: Offset(5) };
        assert_eq!(point.of(Some(TopicId([7; 16]))), Offset(5));
        assert_eq!(point.of(Some(TopicId([8; 16]))), Offset(0));
        assert_eq!(point.of(None), Offset(0));
    }

    #[test]
    fn a_point_holds_unless_it_lies_beyond_the_same_logs() {
        let point =
            |id, offset| RecoveryPoint { topic_id: Some(TopicId(id)), offset: Offset(offset) };
        let held = [(7, 4), (7, 5), (7, 6), (8, 4)];
        let held = held.map(|(id, now)| point([7; 16], 5).holds(&point([id; 16], now)));
        assert_eq!(held, [false, true, true, true]);
    }
}
