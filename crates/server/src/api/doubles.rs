//! Names that a request names more than once.
//!
//! Called by handlers of requests whose arrays name topics or partitions. A small request that
//! repeats one name must not cost an answer each time. Kafka's answer to a repeated name differs by
//! API (docs/PROTOCOL.md).

use std::collections::HashMap;
use std::hash::Hash;

/// Whether a name comes twice. Names in ascending order, or a single one, cost no memory.
pub(crate) fn are_in<K: Ord>(names: impl Iterator<Item = K> + Clone) -> bool {
    !names.clone().is_sorted_by(|a, b| a < b)
        && sorted(names).windows(2).any(|two| two[0] == two[1])
}

fn sorted<K: Ord>(names: impl Iterator<Item = K>) -> Vec<K> {
    let mut names: Vec<K> = names.collect();
    names.sort_unstable();
    names
}

/// The repeated names, and whether each has been answered.
#[derive(Debug)]
pub(crate) struct Doubles<K>(HashMap<K, bool>);

/// How often a request has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Once,
    /// More than once; this is the first time.
    First,
    Again,
}

impl<K: Ord + Hash + Copy> Doubles<K> {
    pub(crate) fn of(names: impl Iterator<Item = K>) -> Doubles<K> {
        let names = sorted(names);
        let twice = names.windows(2).filter(|two| two[0] == two[1]);
        Doubles(twice.map(|two| (two[0], false)).collect())
    }

    /// Called once for each name, in the order of the request.
    pub(crate) fn next(&mut self, name: K) -> Named {
        match self.0.get_mut(&name).map(|is_answered| std::mem::replace(is_answered, true)) {
            None => Named::Once,
            Some(false) => Named::First,
            Some(true) => Named::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_found_in_any_order_and_across_topics() {
        assert!(!are_in([("a", 0)].iter()));
        assert!(!are_in([("b", 0), ("a", 0), ("a", 1)].iter()));
        assert!(are_in([("a", 0), ("a", 0)].iter()));
        assert!(are_in([("a", 0), ("b", 0), ("a", 1), ("a", 0)].iter()));
        assert!(!are_in([("", 0); 0].iter()));
    }

    #[test]
    fn names_in_ascending_order_are_looked_through_without_an_allocation() {
        let many: Vec<(&str, i32)> = (0..1000).map(|index| ("topic", index)).collect();
        for names in [&many[..], &many[..1]] {
            let measured = allocation_counter::measure(|| assert!(!are_in(names.iter())));
            assert_eq!(measured.count_total, 0);
        }
    }

    #[test]
    fn each_double_is_answered_where_it_stands_first() {
        let names = ["b", "a", "b", "c", "b"];
        let mut doubles = Doubles::of(names.into_iter());
        let named = names.map(|name| doubles.next(name));
        assert_eq!(named, [Named::First, Named::Once, Named::Again, Named::Once, Named::Again]);
    }
}
