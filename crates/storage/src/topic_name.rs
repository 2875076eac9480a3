//! Names and ids of topics and of the directories that hold their partitions. Pure.

use std::{fmt, str::FromStr};

use uuid::Uuid;

const MAX_NAME_LEN_BYTES: usize = 249;
/// The most partitions of a topic. So `logs-20240101` is a directory of another kind, and not a
/// partition with number 20 million.
pub const MAX_PARTITIONS: i32 = 100_000;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A topic's lasting identity (KIP-516), written as 22 characters of url-safe base64 as Kafka does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// A new random id.
    pub fn random() -> TopicId {
        loop {
            let id = TopicId(*Uuid::new_v4().as_bytes());
            // Kafka avoids a leading dash, so that ids can be given to commands as they are.
            if !id.to_string().starts_with('-') {
                return id;
            }
        }
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..22 {
            // 22 digits of 6 bits hold 132: the last digit carries the low 2 bits and 4 zeros.
            let sextet = if digit < 21 { bits >> (122 - 6 * digit) } else { bits << 4 };
            write!(f, "{}", ALPHABET[(sextet & 63) as usize] as char)?;
        }
        Ok(())
    }
}

impl FromStr for TopicId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<TopicId, NameError> {
        let bad = || NameError::TopicId { text: text.chars().take(40).collect() };
        let text = text.strip_suffix("==").unwrap_or(text);
        if text.len() != 22 {
            return Err(bad());
        }
        let mut bits = 0u128;
        for (digit, byte) in text.bytes().enumerate() {
            let sextet = ALPHABET.iter().position(|&c| c == byte).ok_or_else(bad)? as u128;
            bits = if digit < 21 { bits << 6 | sextet } else { bits << 2 | sextet >> 4 };
        }
        Ok(TopicId(bits.to_be_bytes()))
    }
}

/// Why a name or an id is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or longer than 249 bytes.
    #[error("a topic name has 1 to {MAX_NAME_LEN_BYTES} characters, not {len_bytes}")]
    Length {
        /// Its length.
        len_bytes: usize,
    },
    /// `.` and `..` mean directories.
    #[error("a topic cannot be named . or ..")]
    Dots,
    /// A character outside of `[a-zA-Z0-9._-]`.
    #[error("a topic name is made of letters, digits, '.', '_' and '-', not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
    /// Not 22 characters of url-safe base64.
    #[error("{text:?} is not a topic id")]
    TopicId {
        /// Its beginning.
        text: String,
    },
}

/// Kafka's rule for topic names.
pub fn validate_topic_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN_BYTES {
        return Err(NameError::Length { len_bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        Some(found) => Err(NameError::Character { found }),
        None => Ok(()),
    }
}

/// One partition of one topic; its directory is named `<topic>-<partition>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionName {
    /// A valid topic name.
    pub topic: String,
    /// 0 and up.
    pub partition: i32,
}

impl PartitionName {
    /// Parses a directory's name. `None` for directories that are no partition to serve: deleted
    /// ones (`-delete`), Kafka's leftovers (`-stray`, `-future`), its metadata log, and numbers
    /// that no partition has.
    pub fn parse(directory: &str) -> Option<PartitionName> {
        let (topic, digits) = directory.rsplit_once('-')?;
        let canonical = digits == "0" || !digits.starts_with('0');
        if !canonical || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        if topic == "__cluster_metadata" || validate_topic_name(topic).is_err() {
            return None;
        }
        let partition = digits.parse().ok().filter(|number| *number < MAX_PARTITIONS)?;
        Some(PartitionName { topic: topic.to_owned(), partition })
    }

    /// The name a partition's directory takes before it is removed:
    /// `<topic>-<partition>.<id>-delete`, shortened as Kafka does where the file system's 255 bytes
    /// would not hold it.
    pub(crate) fn deleted(&self) -> String {
        let suffix = format!("-{}.{}-delete", self.partition, Uuid::new_v4().simple());
        let kept = self.topic.len().min(255 - suffix.len());
        format!("{}{suffix}", &self.topic[..kept])
    }
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_is_written_as_kafka_writes_it() {
        // Kafka's Uuid.ONE_UUID and its metadata topic id, as its tools print them.
        assert_eq!(TopicId(1u128.to_be_bytes()).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        let id = TopicId(*b"\x00\x01\x02\x03\xfb\xff\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff");
        assert_eq!(id.to_string(), "AAECA_v_BgcICQoLDA0O_w");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("AAECA_v_BgcICQoLDA0O".parse::<TopicId>().is_err());
        assert!("AAECA+v_BgcICQoLDA0O_w".parse::<TopicId>().is_err());
    }

    #[test]
    fn directories_that_are_not_partitions_are_passed_over() {
        let parsed = |name| PartitionName::parse(name).map(|p| (p.topic, p.partition));
        assert_eq!(parsed("a-b-12"), Some(("a-b".to_owned(), 12)));
        for name in [
            "a",
            "a-",
            "-0",
            "a-01",
            "a-x",
            "a-+1",
            "a-99999999999",
            "a-20240101",
            "__cluster_metadata-0",
            "a-0.0123456789abcdef0123456789abcdef-delete",
            "a-0.x-stray",
            "a-0.x-future",
            "..-0",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
    }

    #[test]
    fn topic_names_follow_kafkas_rule() {
        assert_eq!(validate_topic_name("a.b_c-D9"), Ok(()));
        assert_eq!(validate_topic_name(&"x".repeat(249)), Ok(()));
        assert_eq!(
            validate_topic_name(&"x".repeat(250)),
            Err(NameError::Length { len_bytes: 250 })
        );
        assert_eq!(validate_topic_name(".."), Err(NameError::Dots));
        assert_eq!(validate_topic_name("a/b"), Err(NameError::Character { found: '/' }));
        assert_eq!(validate_topic_name("é"), Err(NameError::Character { found: 'é' }));
    }

    #[test]
    fn a_deleted_directory_fits_the_file_system_and_is_not_a_partition() {
        let name = PartitionName { topic: "x".repeat(249), partition: 7 }.deleted();
        assert!(name.len() <= 255 && name.ends_with("-delete"));
        assert_eq!(PartitionName::parse(&name), None);
    }
}
