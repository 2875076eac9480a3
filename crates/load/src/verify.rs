//! Checks fetched bytes for faults. Pure: bytes in, faults out.
//!
//! Called by `fetch` with the records of one partition of one answer:
//!
//! ```text
//! asked: offset 25        ┌ must hold 25 ┐┌ must begin at 30 ┐┌ may be cut short ┐
//!                         │ batch 20..29 ││ batch 30..34     ││ batch 35.. … ────┘
//! ```

use penstock_batch::{Batches, check_crc};

use crate::measure::{Amount, Faults};

/// The contents of one answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) amount: Amount,
    pub(crate) faults: Faults,
    /// The offset behind the last whole batch. `None`: there was none.
    pub(crate) next_offset: Option<i64>,
}

/// Walks `records`, the answer to a fetch of `offset`, and checks the CRC and the offsets of each
/// batch.
pub(crate) fn check(partition: i32, offset: i64, records: &[u8]) -> Seen {
    walk(partition, records, |seen, base, last, batch| {
        if let Err(error) = check_crc(batch) {
            seen.faults.add(crc(format!("partition {partition}, batch {base}..={last}: {error}")));
        }
        if let Some(problem) = misplaced(seen.next_offset, offset, base, last) {
            seen.faults.add(gap(format!("partition {partition}: {problem}")));
        }
    })
}

/// Walks `records` only for amounts and the next offset.
pub(crate) fn skim(partition: i32, records: &[u8]) -> Seen {
    walk(partition, records, |_, _, _, _| ())
}

fn walk(partition: i32, records: &[u8], look: impl Fn(&mut Seen, i64, i64, &[u8])) -> Seen {
    let mut seen = Seen::default();
    seen.amount.bytes = records.len() as u64;
    for batch in Batches::new(records) {
        match batch {
            Ok((header, bytes)) => {
                look(&mut seen, header.base_offset, header.last_offset(), bytes);
                seen.amount.batches += 1;
                seen.amount.records += header.record_count as u64;
                seen.next_offset = Some(header.last_offset().saturating_add(1));
            }
            // A later batch may be cut. The first must be whole, whatever the limits (KIP-74).
            Err(error) if error.is_incomplete() && seen.amount.batches > 0 => {}
            Err(error) => seen.faults.add(malformed(format!(
                "partition {partition}, after {} whole batches of {} bytes: {error}",
                seen.amount.batches,
                records.len()
            ))),
        }
    }
    seen
}

/// The problem if a batch `base..=last` is not the one that must come next.
fn misplaced(previous_end: Option<i64>, asked: i64, base: i64, last: i64) -> Option<String> {
    match previous_end {
        Some(end) if base == end => None,
        Some(end) => Some(format!("offset {end} expected, batch {base}..={last} found")),
        None if (base..=last).contains(&asked) => None,
        None => Some(format!("offset {asked} requested, batch {base}..={last} found")),
    }
}

fn crc(text: String) -> Faults {
    Faults { crc_mismatches: 1, first: Some(text), ..Faults::default() }
}

fn gap(text: String) -> Faults {
    Faults { gaps: 1, first: Some(text), ..Faults::default() }
}

/// The fault of an answer that cannot be walked to its end.
pub(crate) fn malformed(text: String) -> Faults {
    Faults { malformed: 1, first: Some(text), ..Faults::default() }
}

#[cfg(test)]
mod tests {
    use penstock_batch::{BatchBuilder, NewRecord, assign};

    use super::*;

    /// A log of batches of ten records each, at these base offsets.
    fn log(base_offsets: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for base in base_offsets {
            let mut builder = BatchBuilder::new();
            (0..10).for_each(|_| {
                builder.push(NewRecord { value: Some(b"v"), ..NewRecord::default() })
            });
            let mut batch = builder.finish();
            assign(&mut batch, *base, 0);
            bytes.extend(batch);
        }
        bytes
    }

    fn counts(faults: &Faults) -> [u64; 3] {
        [faults.crc_mismatches, faults.gaps, faults.malformed]
    }

    #[test]
    fn sound_batches_have_no_fault_and_say_where_to_read_on() {
        let bytes = log(&[20, 30]);
        let seen = check(0, 25, &bytes);
        assert_eq!((seen.faults.count(), seen.next_offset), (0, Some(40)));
        let amount = Amount { batches: 2, records: 20, bytes: bytes.len() as u64 };
        assert_eq!(seen.amount, amount);
        assert_eq!(seen, skim(0, &bytes));
    }

    #[test]
    fn a_batch_cut_at_the_end_is_allowed_at_every_length() {
        let bytes = log(&[20, 30]);
        for length in bytes.len() / 2..bytes.len() {
            let seen = check(0, 20, &bytes[..length]);
            assert_eq!((seen.faults.count(), seen.next_offset), (0, Some(30)), "{length} bytes");
        }
    }

    #[test]
    fn a_first_batch_that_is_cut_is_malformed() {
        let seen = check(0, 0, &log(&[0])[..70]);
        assert_eq!((counts(&seen.faults), seen.next_offset), ([0, 0, 1], None));
    }

    #[test]
    fn a_flipped_bit_is_a_crc_mismatch_and_named_with_its_batch() {
        let mut bytes = log(&[20, 30]);
        *bytes.last_mut().unwrap() ^= 1;
        let seen = check(7, 20, &bytes);
        assert_eq!((counts(&seen.faults), seen.next_offset), ([1, 0, 0], Some(40)));
        assert!(seen.faults.first.unwrap().starts_with("partition 7, batch 30..=39: the CRC"));
        assert_eq!(skim(7, &bytes).faults.count(), 0);
    }

    #[test]
    fn a_gap_is_found_between_batches_and_before_the_first() {
        for (offset, bases) in [(20, [20, 31]), (20, [20, 20]), (19, [20, 30]), (30, [20, 30])] {
            let seen = check(0, offset, &log(&bases));
            assert_eq!(counts(&seen.faults), [0, 1, 0], "{offset} of {bases:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_batch_are_malformed() {
        let mut bytes = log(&[20, 30]);
        let second = bytes.len() / 2;
        bytes[second + 16] = 1;
        assert_eq!(counts(&check(0, 20, &bytes).faults), [0, 0, 1]);
    }
}
