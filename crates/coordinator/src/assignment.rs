//! What an assignment of the protocol type "consumer" holds: partitions by topic.
//!
//! ```text
//!   | version 2 | topics 4 | name length 2, name | partitions 4 | partition 4, … | … | user data |
//! ```
//!
//! The coordinator hands assignments on as they are. Only a view of who reads what looks inside.
//! The bytes come from a client, so every count is checked against the bytes that are left.

/// The topics and partitions in an assignment. Ends where the bytes are no such thing.
pub fn assigned(bytes: &[u8]) -> impl Iterator<Item = (&str, i32)> {
    let mut rest = bytes;
    let topics = version_and_count(&mut rest).unwrap_or(0);
    let (mut name, mut topics_left, mut partitions_left) = ("", topics, 0);
    std::iter::from_fn(move || {
        while partitions_left == 0 {
            topics_left = topics_left.checked_sub(1)?;
            name = text(&mut rest)?;
            partitions_left = count(&mut rest)?;
        }
        partitions_left -= 1;
        Some((name, i32::from_be_bytes(take(&mut rest)?)))
    })
    .fuse()
}

fn version_and_count(rest: &mut &[u8]) -> Option<u32> {
    let _version: [u8; 2] = take(rest)?;
    count(rest)
}

fn count(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(i32::from_be_bytes(take(rest)?)).ok()
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len_bytes = usize::try_from(i16::from_be_bytes(take(rest)?)).ok()?;
    let (text, behind) = rest.split_at_checked(len_bytes)?;
    *rest = behind;
    std::str::from_utf8(text).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_TOPICS: &[u8] =
        b"\0\x01\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\x07\0\0\0\x08\0\x02bc\0\0\0\x01\0\0\0\0\xff\xff\xff\xff";

    #[test]
    fn every_partition_of_every_topic_is_found() {
        let found: Vec<_> = assigned(TWO_TOPICS).collect();
        assert_eq!(found, [("a", 7), ("a", 8), ("bc", 0)]);
    }

    #[test]
    fn an_assignment_that_ends_early_or_claims_more_gives_what_is_there() {
        for end in 0..TWO_TOPICS.len() {
            assert!(assigned(&TWO_TOPICS[..end]).count() <= 3);
        }
        assert_eq!(assigned(b"\0\x01\x7f\xff\xff\xff").count(), 0);
        assert_eq!(assigned(b"\0\x01\0\0\0\x01\0\x01a\x7f\xff\xff\xff\0\0\0\x05").count(), 1);
        // Topics without partitions cost no more steps than there are bytes.
        assert_eq!(assigned(b"\0\x01\x7f\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0").count(), 0);
    }
}
