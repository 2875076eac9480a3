//! One pass over the records of a producer's batch: whether they fill it and parse, and their
//! timestamps. Called by storage before an append. Nothing is allocated.
//!
//! ```text
//!   header:   count n, base timestamp t
//!   records:  offset deltas 0, 1, … n-1, timestamps t + delta; each fills its length, all the body
//! ```

use crate::{BatchError, BatchHeader, Records, TimestampType};

/// The earliest and the latest record of a batch; `None` when no record has a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckedRecords {
    /// The first of them if there are many.
    pub earliest: Option<Moment>,
    /// The first of them if there are many.
    pub latest: Option<Moment>,
}

/// A record's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The record, counted from 0.
    pub index: i32,
}

/// The value of a record without a timestamp.
const NO_TIMESTAMP: i64 = -1;

/// Checks every record in `body`, the decompressed rest of a batch with this header.
///
/// The timestamps are the records' own, whatever the header's timestamp type is.
pub fn check_records(header: &BatchHeader, body: &[u8]) -> Result<CheckedRecords, BatchError> {
    let own = BatchHeader { base_offset: 0, ..*header };
    let mut checked = CheckedRecords::default();
    let mut records = Records::new(&own.with_timestamp_type(TimestampType::CreateTime), body);
    let mut index = 0;
    loop {
        let at = records.read_bytes();
        let Some(record) = records.next() else { return Ok(checked) };
        let record = record?;
        if record.offset != i64::from(index) {
            let problem = "its offset delta is not its place in the batch";
            return Err(BatchError::Record { index, at, problem });
        }
        checked.note(Moment { timestamp_ms: record.timestamp_ms, index });
        index += 1;
    }
}

impl CheckedRecords {
    fn note(&mut self, moment: Moment) {
        if moment.timestamp_ms == NO_TIMESTAMP {
            return;
        }
        if self.earliest.is_none_or(|earliest| moment.timestamp_ms < earliest.timestamp_ms) {
            self.earliest = Some(moment);
        }
        if self.latest.is_none_or(|latest| moment.timestamp_ms > latest.timestamp_ms) {
            self.latest = Some(moment);
        }
    }

    /// The greatest timestamp, -1 without any, for the header.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.latest.map_or(NO_TIMESTAMP, |latest| latest.timestamp_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, HEADER_LEN, NewRecord};

    fn batch(timestamps: &[i64]) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for timestamp_ms in timestamps {
            builder.push(NewRecord {
                timestamp_ms: *timestamp_ms,
                value: Some(b"value"),
                headers: &[("h", None)],
                ..NewRecord::default()
            });
        }
        builder.finish()
    }

    fn check(bytes: &[u8]) -> Result<CheckedRecords, BatchError> {
        check_records(&BatchHeader::parse(bytes).unwrap(), &bytes[HEADER_LEN..])
    }

    #[test]
    fn the_first_of_the_earliest_and_of_the_latest_records_is_found() {
        let checked = check(&batch(&[50, 20, 90, 20, 90])).unwrap();
        assert_eq!(checked.earliest, Some(Moment { timestamp_ms: 20, index: 1 }));
        assert_eq!(checked.latest, Some(Moment { timestamp_ms: 90, index: 2 }));
        assert_eq!(checked.max_timestamp_ms(), 90);
    }

    #[test]
    fn records_without_a_time_count_for_none() {
        assert_eq!(check(&batch(&[-1, -1])).unwrap(), CheckedRecords::default());
        let checked = check(&batch(&[-1, 7, -1])).unwrap();
        assert_eq!(checked.earliest, Some(Moment { timestamp_ms: 7, index: 1 }));
        assert_eq!(check(&batch(&[-1])).unwrap().max_timestamp_ms(), -1);
    }

    #[test]
    fn what_the_header_claims_of_times_is_not_believed() {
        let mut bytes = batch(&[50, 60]);
        bytes[22] |= 8;
        bytes[35..43].copy_from_slice(&0i64.to_be_bytes());
        assert_eq!(check(&bytes).unwrap().max_timestamp_ms(), 60);
    }

    #[test]
    fn offset_deltas_must_count_from_zero() {
        let two = batch(&[5, 5]);
        let record = (two.len() - HEADER_LEN) / 2;
        // length, attributes, timestamp delta, then the offset delta.
        for (index, delta) in [(0, 2), (1, 0), (1, 4)] {
            let mut bytes = two.clone();
            bytes[HEADER_LEN + index * record + 3] = delta;
            let error = check(&bytes).unwrap_err();
            let at = index * record;
            assert!(
                matches!(error, BatchError::Record { index: i, at: a, .. } if (i, a) == (index as i32, at)),
                "{error}"
            );
        }
    }

    #[test]
    fn records_that_do_not_fill_the_body_are_refused() {
        let bytes = batch(&[1, 2, 3]);
        for end in HEADER_LEN..bytes.len() {
            let header = BatchHeader::parse(&bytes).unwrap();
            assert!(check_records(&header, &bytes[HEADER_LEN..end]).is_err(), "cut at {end}");
        }
        assert!(check(&[bytes.as_slice(), &[0]].concat()).is_err());
        for count in [2, 4] {
            let mut bytes = bytes.clone();
            bytes[HEADER_LEN - 1] = count;
            assert!(check(&bytes).is_err(), "{count} counted, 3 there");
        }
    }
}
