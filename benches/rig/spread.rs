//! Medians with their spread, and ratios with their range, because one number of a noisy machine
//! proves little.

use serde_json::{Value, json};

/// Several measurements of one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest value.
    pub min: f64,
    /// The highest value.
    pub max: f64,
}

/// The ratio of one spread to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(pub Spread);

impl Spread {
    /// The spread of at least one value.
    ///
    /// # Panics
    /// There is no value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            panic!("nothing was measured");
        };
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Spread { median: f64::midpoint(lower, upper), min, max }
    }

    /// The ratio of the medians. Its range reaches from the worst pair of rounds to the best.
    pub fn over(&self, other: &Spread) -> Ratio {
        Ratio(Spread {
            median: self.median / other.median,
            min: self.min / other.max,
            max: self.max / other.min,
        })
    }

    /// The values for a result file.
    pub fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl Ratio {
    /// Whether all rounds of one lie on the same side of all rounds of the other.
    pub fn is_clear(&self) -> bool {
        self.0.min > 1.0 || self.0.max < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value_or_between_the_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([5.0]), Spread { median: 5.0, min: 5.0, max: 5.0 });
    }

    #[test]
    fn a_ratio_is_clear_only_when_the_rounds_do_not_overlap() {
        let (low, high) = (Spread::of([1.0, 1.5, 2.0]), Spread::of([2.5, 3.0, 4.0]));
        let ratio = high.over(&low);
        assert_eq!(ratio.0, Spread { median: 2.0, min: 1.25, max: 4.0 });
        assert!(ratio.is_clear() && low.over(&high).is_clear());
        let between = Spread::of([1.9, 2.2, 2.6]);
        assert!(!between.over(&low).is_clear() && !between.over(&high).is_clear());
    }
}
