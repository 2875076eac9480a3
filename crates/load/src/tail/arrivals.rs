//! The order in which one consumer gets the batches of one partition. Pure: numbers in, strays out.
//!
//! Batches go to the partitions in turn, so a partition has every so many-th number:
//!
//! ```text
//! 3 partitions, partition 1:   1  4  7  13  10  10        7 then 13: 10 is skipped
//!                                       │   │   └ again   (a duplicate)
//!                                       │   └ late        (out of order)
//!                                       └ skips 10        (lost, unless it comes late)
//! ```

use std::ops::Range;

use serde::Serialize;

/// The most stretches of skipped numbers that are kept. A batch of a forgotten one that comes after
/// all counts as a duplicate.
const MAX_SKIPPED: usize = 1024;

/// The batches that one consumer has got from one partition.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// The number that must come next.
    next: u64,
    /// The distance from number to number.
    step: u64,
    /// Skipped numbers, from the first of them to behind the last, oldest first.
    skipped: Vec<Range<u64>>,
}

/// Batches that did not come once and in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Strays {
    /// Batches that later ones overtook, or that never came.
    #[serde(skip)]
    skipped: u64,
    /// Skipped ones that came after all.
    out_of_order: u64,
    duplicates: u64,
    /// The first stray in words.
    first: Option<String>,
}

impl Arrivals {
    /// The arrivals of the partition with numbers `first`, `first + step`, and so on.
    pub(crate) fn new(first: u64, step: u64) -> Arrivals {
        Arrivals { next: first, step, skipped: Vec::new() }
    }

    /// Takes note of the batch `number`.
    pub(crate) fn take(&mut self, number: u64) -> Strays {
        let expected = self.next;
        if number >= expected {
            self.next = number.saturating_add(self.step);
            return self.skip(expected..number);
        }
        let first = |problem| Some(format!("batch {number} came {problem}"));
        match self.skipped.iter().position(|range| range.contains(&number)) {
            Some(at) => {
                self.fill(at, number);
                Strays { out_of_order: 1, first: first("out of order"), ..Strays::default() }
            }
            None => Strays { duplicates: 1, first: first("twice"), ..Strays::default() },
        }
    }

    /// Whether any number has come.
    pub(crate) fn have_begun(&self) -> bool {
        // The first number is smaller than the step.
        self.next >= self.step
    }

    /// Whether all numbers before `end` have come or been skipped.
    pub(crate) fn have_reached(&self, end: u64) -> bool {
        self.next >= end
    }

    /// Gives up on what has not come of the numbers before `end`.
    pub(crate) fn give_up(&mut self, end: u64) -> Strays {
        let missing = self.next..end.max(self.next);
        self.next = missing.end;
        self.skip(missing)
    }

    /// Skips the numbers in `range`, whose first is one of the partition's.
    fn skip(&mut self, range: Range<u64>) -> Strays {
        if range.is_empty() {
            return Strays::default();
        }
        let first = Some(format!("batch {} did not come before batch {}", range.start, range.end));
        let skipped = (range.end - range.start).div_ceil(self.step);
        if self.skipped.len() == MAX_SKIPPED {
            self.skipped.remove(0);
        }
        self.skipped.push(range);
        Strays { skipped, first, ..Strays::default() }
    }

    /// Takes `number` out of the skipped range at `at`.
    fn fill(&mut self, at: usize, number: u64) {
        let Range { start, end } = self.skipped[at];
        let rest = [start..number, number + self.step..end].into_iter().filter(|r| !r.is_empty());
        self.skipped.splice(at..=at, rest);
    }
}

impl Strays {
    /// Batches that never came.
    pub(crate) fn lost(&self) -> u64 {
        self.skipped - self.out_of_order
    }

    /// Whether everything came once and in order.
    pub(crate) fn is_none(&self) -> bool {
        self.skipped == 0 && self.duplicates == 0 && self.out_of_order == 0
    }

    /// Adds `other`, which came later and is `whose`.
    pub(crate) fn add(&mut self, other: Strays, whose: impl FnOnce() -> String) {
        self.skipped += other.skipped;
        self.out_of_order += other.out_of_order;
        self.duplicates += other.duplicates;
        if self.first.is_none() {
            self.first = other.first.map(|first| format!("{}: {first}", whose()));
        }
    }

    /// The strays in words.
    pub(crate) fn words(&self) -> String {
        format!(
            "{} deliveries lost, {} twice, {} out of order; first: {}",
            self.lost(),
            self.duplicates,
            self.out_of_order,
            self.first.as_deref().unwrap_or("not recorded")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lost, duplicates and out of order, after these numbers of one of three partitions.
    fn strays(numbers: &[u64], end: u64) -> [u64; 3] {
        let mut arrivals = Arrivals::new(1, 3);
        let mut all = Strays::default();
        for number in numbers {
            all.add(arrivals.take(*number), String::new);
        }
        assert_eq!(arrivals.have_reached(end), arrivals.next >= end);
        all.add(arrivals.give_up(end), String::new);
        [all.lost(), all.duplicates, all.out_of_order]
    }

    #[test]
    fn numbers_that_come_once_and_in_order_are_no_strays() {
        assert_eq!(strays(&[1, 4, 7, 10], 11), [0, 0, 0]);
        assert_eq!(strays(&[], 0), [0, 0, 0]);
        assert_eq!(strays(&[1], 2), [0, 0, 0], "2 and 3 are in other partitions");
    }

    #[test]
    fn arrivals_have_begun_with_the_first_number() {
        for first in 0..3 {
            let mut arrivals = Arrivals::new(first, 3);
            assert!(!arrivals.have_begun());
            arrivals.take(first);
            assert!(arrivals.have_begun());
        }
    }

    #[test]
    fn numbers_that_never_come_are_lost_in_the_middle_and_at_the_end() {
        assert_eq!(strays(&[1, 10], 11), [2, 0, 0]);
        assert_eq!(strays(&[1, 4], 11), [2, 0, 0]);
        assert_eq!(strays(&[7, 13], 20), [2 + 1 + 2, 0, 0]);
    }

    #[test]
    fn a_skipped_number_that_comes_late_is_out_of_order_and_not_lost() {
        assert_eq!(strays(&[1, 13, 7], 14), [2, 0, 1]);
        assert_eq!(strays(&[1, 13, 4, 7, 10], 14), [0, 0, 3]);
        assert_eq!(strays(&[1, 13, 10, 7, 4], 14), [0, 0, 3]);
    }

    #[test]
    fn a_number_that_comes_again_is_a_duplicate_even_after_it_came_late() {
        assert_eq!(strays(&[1, 1, 4, 1], 5), [0, 2, 0]);
        assert_eq!(strays(&[1, 7, 4, 4, 7], 8), [0, 2, 1]);
    }

    #[test]
    fn skipped_numbers_without_end_take_bounded_memory_and_are_all_counted() {
        let mut arrivals = Arrivals::new(0, 1);
        let mut all = Strays::default();
        for nth in 0..10_000 {
            all.add(arrivals.take(2 * nth), String::new);
        }
        assert_eq!(all.lost(), 9_999);
        assert!(arrivals.skipped.len() <= MAX_SKIPPED);
    }

    #[test]
    fn the_first_stray_is_named_with_its_consumer() {
        let mut all = Strays::default();
        let mut arrivals = Arrivals::new(0, 2);
        all.add(arrivals.take(0), || panic!("no stray"));
        all.add(arrivals.take(4), || "consumer 7, partition 3".into());
        all.add(arrivals.take(4), || panic!("the first one is kept"));
        let words = all.words();
        assert!(words.starts_with("1 deliveries lost, 1 twice, 0 out of order"), "{words}");
        assert!(words.ends_with("consumer 7, partition 3: batch 2 did not come before batch 4"));
    }
}
