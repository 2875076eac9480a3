//! Values of configurations by Kafka's types: reads a value as Kafka does and writes it in one
//! form.
//!
//! Called by [`super::TopicConfig`]. Pure. Underscores in numbers are accepted, too, as in the
//! server's own file.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Kafka's numbers of types, for answers to DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// A type and its valid values.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    Boolean,
    OneOf(&'static [&'static str]),
    Int(RangeInclusive<i32>),
    /// -1, or within the range.
    IntOrDefault(RangeInclusive<i32>),
    Long(RangeInclusive<i64>),
    Double(RangeInclusive<f64>),
    /// Any of these words, separated by commas; an empty list is valid.
    Words(&'static [&'static str]),
    /// `*`, or `PARTITION:BROKER` with commas between.
    Replicas,
}

impl Rule {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Rule::Boolean => Kind::Boolean,
            Rule::OneOf(_) => Kind::String,
            Rule::Int(_) | Rule::IntOrDefault(_) => Kind::Int,
            Rule::Long(_) => Kind::Long,
            Rule::Double(_) => Kind::Double,
            Rule::Words(_) | Rule::Replicas => Kind::List,
        }
    }

    /// The value as Kafka would describe it.
    ///
    /// # Errors
    /// Why the value does not fit, worded to follow the value.
    pub(crate) fn read(&self, value: &str) -> Result<String, String> {
        match self {
            Rule::Boolean => boolean(value),
            Rule::OneOf(words) => one_of(words, value),
            Rule::Int(range) => number(value, range),
            Rule::IntOrDefault(_) if value.trim() == "-1" => Ok("-1".to_owned()),
            Rule::IntOrDefault(range) => {
                number(value, range).map_err(|reason| format!("{reason}, or -1"))
            }
            Rule::Long(range) => number(value, range),
            Rule::Double(range) => double(value, range),
            Rule::Words(words) => {
                let read: Result<Vec<_>, _> = list(value).map(|word| one_of(words, word)).collect();
                read.map(|words| words.join(","))
            }
            Rule::Replicas => replicas(value),
        }
    }
}

/// The elements of a list.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    let value = value.trim();
    // An empty value has no element; nothing between two commas is one.
    let elements = (!value.is_empty()).then(|| value.split(','));
    elements.into_iter().flatten().map(str::trim)
}

fn boolean(value: &str) -> Result<String, String> {
    let value = value.trim().to_ascii_lowercase();
    value.parse::<bool>().map(|_| value).map_err(|_| "is neither true nor false".to_owned())
}

fn one_of(words: &[&str], value: &str) -> Result<String, String> {
    match words.contains(&value) {
        true => Ok(value.to_owned()),
        false => Err(format!("is none of {}", words.join(", "))),
    }
}

fn number<T>(value: &str, range: &RangeInclusive<T>) -> Result<String, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = value.trim().replace('_', "").parse::<T>().ok().filter(|n| range.contains(n));
    let number = number.map(|number| number.to_string());
    number.ok_or_else(|| format!("is not a whole number from {} to {}", range.start(), range.end()))
}

fn double(value: &str, range: &RangeInclusive<f64>) -> Result<String, String> {
    let number = value.trim().parse::<f64>().ok().filter(|number| range.contains(number));
    let number = number.map(|number| format!("{number:?}"));
    number.ok_or_else(|| format!("is not a number from {} to {}", range.start(), range.end()))
}

fn replicas(value: &str) -> Result<String, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_replica = |element: &str| {
        element.split_once(':').is_some_and(|(p, broker)| is_number(p) && is_number(broker))
    };
    match value.trim() == "*" || list(value).all(is_replica) {
        true => Ok(list(value).collect::<Vec<_>>().join(",")),
        false => Err("is neither * nor PARTITION:BROKER,PARTITION:BROKER,…".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_kafka_reads_them() {
        let reads = |rule: Rule, pairs: &[(&str, &str)]| {
            for (value, read) in pairs {
                assert_eq!(rule.read(value).as_deref(), Ok(*read), "{value}");
            }
        };
        reads(Rule::Boolean, &[("TRUE", "true"), (" false ", "false")]);
        reads(Rule::Int(0..=10), &[("+5", "5"), (" 7 ", "7"), ("1_0", "10")]);
        reads(Rule::IntOrDefault(1..=9), &[("-1", "-1"), ("9", "9")]);
        reads(Rule::Long(-1..=i64::MAX), &[("9223372036854775807", "9223372036854775807")]);
        reads(Rule::Double(0.0..=1.0), &[("0.5", "0.5"), ("1e-1", "0.1"), ("1", "1.0")]);
        reads(Rule::Words(&["a", "b"]), &[(" b , a", "b,a"), ("", ""), ("a,a", "a,a")]);
        reads(Rule::Replicas, &[("*", "*"), ("0:1, 2:3", "0:1,2:3"), ("", "")]);
    }

    #[test]
    fn what_kafka_refuses_is_refused() {
        let refuses = |rule: Rule, values: &[&str]| {
            for value in values {
                assert!(rule.read(value).is_err(), "{value}");
            }
        };
        refuses(Rule::Boolean, &["yes", "1", ""]);
        refuses(Rule::OneOf(&["producer", "gzip"]), &["none", "", "GZIP"]);
        refuses(Rule::Int(1..=10), &["0", "11", "x", "", "1.5", "99999999999"]);
        refuses(Rule::IntOrDefault(1..=9), &["0", "-2", "10"]);
        refuses(Rule::Double(0.0..=1.0), &["1.5", "NaN", "inf", "-0.1", ""]);
        refuses(Rule::Words(&["a", "b"]), &["c", "a,c", "a,", ",", "A"]);
        refuses(Rule::Replicas, &["none", "x:1", "*,0:1", "0:", "0:1:2", "0:1,", "+0:1"]);
    }
}
