//! The age of a segment, as far as it is known, and the reading that it still needs. Pure.
//!
//! ```text
//!   │◀─── there when the log was opened ───▶│◀── appended since ──▶│
//!      Unread ─▶ Between ─▶ Known               always known
//!         claims     records
//! ```
//!
//! A segment expires by the greatest timestamp of its records. It is known for batches appended
//! since the log was opened, or bounded by the time of their append. For older batches there are
//! two bounds. The headers' claims may be too early: an earlier Penstock stored the producers'
//! claims, and compressed batches are not looked into. The last write of the file may be too late:
//! the file may be a copy, or its records were old when they came. A segment does not expire
//! between the two. Its records are read only if the two bounds disagree on whether it is old.
//! `Segment` keeps it; expiry.rs and roll.rs ask it.

/// A segment's age, as far as it is known. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentAge {
    before: Before,
    /// From then on `before` does not count, because our clock was behind the file's when it was
    /// read.
    doubted_from_ms: i64,
    /// The latest timestamp appended since the log was opened.
    since_ms: Option<i64>,
}

/// The age of the batches that were there when the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    Unread,
    /// Bounded: by the headers below, by the last write above.
    Between {
        least_ms: i64,
        most_ms: i64,
    },
    Known(i64),
}

/// What has to be read to know more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgeNeeds {
    /// The greatest timestamp that headers claim, and the time of the last write.
    Claims,
    /// Every record.
    Records,
}

impl SegmentAge {
    /// The age of a segment that has just been made.
    pub(crate) const NEW: SegmentAge = SegmentAge::with(Before::Nothing);

    /// The age of a segment that was found.
    pub(crate) const UNREAD: SegmentAge = SegmentAge::with(Before::Unread);

    const fn with(before: Before) -> SegmentAge {
        SegmentAge { before, doubted_from_ms: i64::MAX, since_ms: None }
    }

    /// Takes an appended batch. `is_checked`: its greatest timestamp is that of its records.
    pub(crate) fn append(&mut self, max_timestamp_ms: i64, is_checked: bool, now_ms: i64) {
        let has_time = max_timestamp_ms >= 0 && is_checked;
        let latest_ms = if has_time { max_timestamp_ms } else { max_timestamp_ms.max(now_ms) };
        self.since_ms = self.since_ms.max(Some(latest_ms));
    }

    /// Takes an age that was read, and when it has to be read again.
    pub(crate) fn learn(&mut self, before: Before, doubted_from_ms: i64) {
        (self.before, self.doubted_from_ms) = (before, doubted_from_ms);
    }

    fn before(&self, now_ms: i64) -> Before {
        if now_ms >= self.doubted_from_ms { Before::Unread } else { self.before }
    }

    /// Whether all records are known to be older than that.
    pub(crate) fn is_older(&self, than_ms: i64, now_ms: i64) -> bool {
        let before_ms = match self.before(now_ms) {
            Before::Nothing => None,
            Before::Unread => return false,
            Before::Between { most_ms, .. } => Some(most_ms),
            Before::Known(ms) => Some(ms),
        };
        before_ms.max(self.since_ms).is_some_and(|ms| now_ms.saturating_sub(ms) > than_ms)
    }

    /// What must be read to know whether all records are older than that. `None`: it is known.
    pub(crate) fn needs(&self, than_ms: i64, now_ms: i64) -> Option<AgeNeeds> {
        let is_older = |ms: i64| now_ms.saturating_sub(ms) > than_ms;
        if self.since_ms.is_some_and(|ms| !is_older(ms)) {
            return None;
        }
        match self.before(now_ms) {
            Before::Unread => Some(AgeNeeds::Claims),
            Before::Between { least_ms, most_ms } if is_older(least_ms) && !is_older(most_ms) => {
                Some(AgeNeeds::Records)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const NOW_MS: i64 = 20_000 * DAY_MS;

    fn between(least_ms: i64, most_ms: i64) -> SegmentAge {
        SegmentAge::with(Before::Between { least_ms, most_ms })
    }

    #[test]
    fn what_is_appended_is_as_old_as_its_records_or_at_most_as_its_append() {
        for (timestamp_ms, is_checked, is_old) in [
            (NOW_MS - 9 * DAY_MS, true, true),
            (NOW_MS - 9 * DAY_MS, false, false),
            (0, true, true),
            (0, false, false),
            (-1, true, false),
        ] {
            let mut age = SegmentAge::NEW;
            age.append(timestamp_ms, is_checked, NOW_MS);
            assert_eq!(age.is_older(DAY_MS, NOW_MS), is_old, "{timestamp_ms} {is_checked}");
            assert!(age.is_older(DAY_MS, NOW_MS + DAY_MS + 1), "each is old one day");
            assert_eq!(age.needs(DAY_MS, NOW_MS), None);
        }
    }

    #[test]
    fn one_old_batch_beside_a_fresh_one_makes_nothing_old() {
        let mut age = SegmentAge::NEW;
        age.append(NOW_MS, true, NOW_MS);
        age.append(NOW_MS - 9 * DAY_MS, true, NOW_MS);
        assert!(!age.is_older(DAY_MS, NOW_MS + DAY_MS));
    }

    #[test]
    fn records_are_read_only_where_claims_and_last_write_disagree() {
        assert_eq!(SegmentAge::UNREAD.needs(DAY_MS, NOW_MS), Some(AgeNeeds::Claims));
        let (old, fresh) = (NOW_MS - 2 * DAY_MS, NOW_MS);
        for (least, most, needs, is_old) in [
            (old, fresh, Some(AgeNeeds::Records), false),
            (old, old + 1, None, true),
            (fresh - 1, fresh, None, false),
        ] {
            assert_eq!(between(least, most).needs(DAY_MS, NOW_MS), needs);
            assert_eq!(between(least, most).is_older(DAY_MS, NOW_MS), is_old);
        }
    }

    #[test]
    fn a_fresh_append_leaves_nothing_to_be_read() {
        let mut age = SegmentAge::UNREAD;
        age.append(NOW_MS, true, NOW_MS);
        assert_eq!(age.needs(DAY_MS, NOW_MS), None);
        assert_eq!(age.needs(DAY_MS, NOW_MS + DAY_MS + 1), Some(AgeNeeds::Claims));
        age.learn(Before::Known(0), i64::MAX);
        assert!(age.is_older(DAY_MS, NOW_MS + DAY_MS + 1) && !age.is_older(DAY_MS, NOW_MS));
    }

    #[test]
    fn what_was_read_while_the_clock_was_behind_is_read_again() {
        let mut age = SegmentAge::UNREAD;
        age.learn(Before::Known(0), NOW_MS);
        assert_eq!(age.needs(DAY_MS, NOW_MS - 1), None);
        assert!(age.is_older(DAY_MS, NOW_MS - 1));
        assert_eq!(age.needs(DAY_MS, NOW_MS), Some(AgeNeeds::Claims));
        assert!(!age.is_older(DAY_MS, NOW_MS));
    }
}
