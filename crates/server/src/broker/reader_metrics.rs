//! Readers and groups in /metrics, with bounded cardinality.
//!
//! ```text
//!   Readers::report ──► by client ─┐
//!                   ├─► by group  ─┼─ each: NAMES_MAX names, and `other` for the rest
//!                   └─► by topic  ─┘
//!   Lags::look ───────► by group, topic, partition: LAGS_MAX rows, and `other` for the rest
//! ```
//!
//! Counters grow by what readers were sent since the last scrape, under the name that has a place
//! then. So each series only rises while it is there, `other` included, whoever comes and goes. A
//! name that had no place gets one from a quieter name when it reads more than twice as much.
//! Filled by http.rs before each answer, encoded by metrics.rs's registry.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::broker::lags::Lag;
use crate::broker::readers::{ReaderView, Totals};

/// Names of each kind that have series of their own.
const NAMES_MAX: usize = 50;

/// Rows of a group and a partition that have series of their own.
const LAGS_MAX: usize = 1000;

/// The name of all others together.
const OTHER: &str = "other";

/// What /metrics shows of readers. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReaderMetrics(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    readers: usize,
    clients: Names,
    groups: Names,
    topics: Names,
    lags: Vec<Lag>,
}

/// One kind of names.
#[derive(Debug, Default)]
struct Names {
    named: HashMap<String, Series>,
    other: Series,
}

/// What is shown of one name.
#[derive(Debug, Clone, Copy, Default)]
struct Series {
    totals: Totals,
    behind: Behind,
}

/// How far the readers of one name are behind: the sum, of seconds the most.
#[derive(Debug, Clone, Copy, Default)]
struct Behind {
    bytes: u64,
    records: u64,
    seconds: Option<f64>,
}

impl ReaderMetrics {
    /// Takes over what [`Readers::report`](crate::broker::readers::Readers::report) returned, and
    /// the lags.
    pub(crate) fn show(
        &self,
        (readers, forgotten): (Vec<(ReaderView, Totals)>, Totals),
        lags: Vec<Lag>,
    ) {
        let shown = &mut *self.0.lock();
        shown.readers = readers.len();
        shown.clients.show(&readers, forgotten, |reader| Some(&reader.client_id));
        shown.groups.show(&readers, Totals::default(), |reader| reader.group.as_deref());
        shown.topics.show(&readers, forgotten, |reader| Some(&reader.topic));
        shown.lags = bounded(lags);
    }
}

impl Names {
    fn show<'a>(
        &mut self,
        readers: &'a [(ReaderView, Totals)],
        forgotten: Totals,
        name: impl Fn(&'a ReaderView) -> Option<&'a str>,
    ) {
        let mut now: HashMap<&str, Series> = HashMap::new();
        for (reader, more) in readers {
            let Some(name) = name(reader) else { continue };
            let series = now.entry(name).or_default();
            series.totals += *more;
            series.behind.add(Behind {
                bytes: reader.behind_bytes,
                records: reader.behind_records,
                seconds: reader.behind_seconds,
            });
        }
        self.make_places(&now);
        self.other.totals += forgotten;
        self.other.behind = Behind::default();
        self.named.values_mut().for_each(|series| series.behind = Behind::default());
        for (name, more) in now {
            let series = self.named.get_mut(name).unwrap_or(&mut self.other);
            series.totals += more.totals;
            series.behind.add(more.behind);
        }
    }

    /// Decides which names have a place.
    fn make_places(&mut self, now: &HashMap<&str, Series>) {
        let weight = |series: &Series| (series.totals.cold_bytes, series.totals.sent_bytes);
        let mut without: Vec<_> = now
            .iter()
            .filter(|(name, _)| **name != OTHER && !self.named.contains_key(**name))
            .map(|(name, series)| (weight(series), *name))
            .collect();
        without.sort_unstable_by(|a, b| b.cmp(a));
        for (wants, name) in without {
            if self.named.len() >= NAMES_MAX {
                // A name without a reader is the quietest.
                let of = |name: &String| now.get(&**name).map(weight);
                let quietest = self.named.keys().map(|name| (of(name), name)).min();
                let Some((has, leaves)) = quietest else { return };
                if has.is_some_and(|(cold_bytes, _)| wants.0 <= 2 * cold_bytes) {
                    return;
                }
                let leaves = leaves.clone();
                self.named.remove(&leaves);
            }
            self.named.insert(name.to_owned(), Series::default());
        }
    }

    /// Each series with its name, in the order of names; `other` last, where it counts anything.
    fn all(&self) -> Vec<(&str, &Series)> {
        let mut all: Vec<_> = self.named.iter().map(|(name, series)| (&**name, series)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        if self.other.totals != Totals::default() || self.other.behind.bytes > 0 {
            all.push((OTHER, &self.other));
        }
        all
    }
}

impl Behind {
    fn add(&mut self, more: Behind) {
        self.bytes += more.bytes;
        self.records += more.records;
        self.seconds = match (self.seconds, more.seconds) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }
}

/// The greatest lags. The last row has the sum of the rest, and the most of its seconds.
fn bounded(mut lags: Vec<Lag>) -> Vec<Lag> {
    lags.sort_by_key(|lag| std::cmp::Reverse(lag.lag_records));
    if lags.len() > LAGS_MAX {
        let rest = lags.split_off(LAGS_MAX);
        let seconds = rest.iter().filter_map(|lag| lag.lag_seconds);
        lags.push(Lag {
            group: OTHER.to_owned(),
            topic: OTHER.to_owned(),
            partition: -1,
            committed_offset: -1,
            log_end_offset: -1,
            lag_records: rest.iter().map(|lag| lag.lag_records).sum(),
            lag_seconds: seconds.reduce(f64::max),
        });
    }
    lags
}

/// A value that a client chose: quotes, line ends and backslashes are escaped, as the text format
/// demands.
#[derive(Debug)]
struct Chosen<'a>(&'a str);

impl EncodeLabelValue for Chosen<'_> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.chars().try_for_each(|c| match c {
            '"' => encoder.write_str("\\\""),
            '\\' => encoder.write_str("\\\\"),
            '\n' => encoder.write_str("\\n"),
            c => encoder.write_char(c),
        })
    }
}

impl Collector for ReaderMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shown = self.0.lock();
        let help = "Readers (a client id and a partition) that are remembered";
        let described = encoder.encode_descriptor("readers", help, None, MetricType::Gauge)?;
        ConstGauge::new(shown.readers as i64).encode(described)?;
        let kinds = [
            ("client", "client_id", &shown.clients),
            ("group", "group", &shown.groups),
            ("topic", "topic", &shown.topics),
        ];
        for (kind, label, names) in kinds {
            encode_names(&mut encoder, kind, label, &names.all())?;
        }
        encode_lags(&mut encoder, &shown.lags)
    }
}

/// How a series is written; nothing where it has no value.
type Write = fn(&Series, MetricEncoder<'_>) -> fmt::Result;
type Has = fn(&Series) -> bool;

fn encode_names(
    encoder: &mut DescriptorEncoder<'_>,
    kind: &str,
    label: &'static str,
    all: &[(&str, &Series)],
) -> Result<(), fmt::Error> {
    let counter = MetricType::Counter;
    let gauge = MetricType::Gauge;
    let always: Has = |_| true;
    let rows: [(&str, &str, MetricType, Has, Write); 6] = [
        ("sent_bytes", "Record bytes sent", counter, always, |s, to| {
            ConstCounter::new(s.totals.sent_bytes).encode(to)
        }),
        ("disk_bytes", "Record bytes sent that came from the disk", counter, always, |s, to| {
            ConstCounter::new(s.totals.cold_bytes).encode(to)
        }),
        ("disk_wait_seconds", "Time that answers waited for the disk", counter, always, |s, to| {
            ConstCounter::new(s.totals.disk_wait.as_secs_f64()).encode(to)
        }),
        ("behind_bytes", "Bytes between readers and the log end", gauge, always, |s, to| {
            ConstGauge::new(s.behind.bytes as i64).encode(to)
        }),
        ("behind_records", "Records between readers and the log end", gauge, always, |s, to| {
            ConstGauge::new(s.behind.records as i64).encode(to)
        }),
        (
            "behind_seconds",
            "Age of the batch that the reader farthest behind reads next",
            gauge,
            |s| s.behind.seconds.is_some(),
            |s, to| ConstGauge::new(s.behind.seconds.unwrap_or_default()).encode(to),
        ),
    ];
    for (name, help, kind_of, has, write) in rows {
        let (name, help) = (format!("{kind}_{name}"), format!("{help}, by {label}"));
        let mut described = encoder.encode_descriptor(&name, &help, None, kind_of)?;
        for (value, series) in all.iter().filter(|(_, series)| has(series)) {
            let labels = [(label, Chosen(value))];
            write(series, described.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_lags(encoder: &mut DescriptorEncoder<'_>, lags: &[Lag]) -> Result<(), fmt::Error> {
    let labels = |lag: &Lag| -> [(&'static str, String); 3] {
        let partition =
            if lag.partition < 0 { OTHER.to_owned() } else { lag.partition.to_string() };
        [("group", lag.group.clone()), ("topic", lag.topic.clone()), ("partition", partition)]
    };
    let help = "Log end minus committed offset, by group and partition";
    let mut described =
        encoder.encode_descriptor("group_lag_records", help, None, MetricType::Gauge)?;
    for lag in lags {
        let labels = labels(lag);
        let labels = labels.each_ref().map(|(name, value)| (*name, Chosen(value)));
        ConstGauge::new(lag.lag_records as i64).encode(described.encode_family(&labels)?)?;
    }
    let help = "Age of the batch at the committed offset, by group and partition; 0 without lag";
    let mut described =
        encoder.encode_descriptor("group_lag_seconds", help, None, MetricType::Gauge)?;
    for (lag, seconds) in lags.iter().filter_map(|lag| Some((lag, lag.lag_seconds?))) {
        let labels = labels(lag);
        let labels = labels.each_ref().map(|(name, value)| (*name, Chosen(value)));
        ConstGauge::new(seconds).encode(described.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use prometheus_client::registry::Registry;

    use super::*;

    fn reader(client_id: &str, cold_bytes: u64) -> (ReaderView, Totals) {
        let disk_wait = Duration::from_millis(cold_bytes);
        let view = ReaderView {
            client_id: client_id.to_owned(),
            group: None,
            topic: "t".to_owned(),
            partition: 0,
            next_offset: 1,
            log_end_offset: 3,
            behind_bytes: 20,
            behind_records: 2,
            behind_seconds: Some(1.5),
            path: "chain",
            sent_bytes: cold_bytes,
            cold_bytes,
            disk_wait,
            last_seen: Instant::now(),
        };
        (view, Totals { sent_bytes: cold_bytes, cold_bytes, disk_wait })
    }

    fn text(metrics: &ReaderMetrics) -> String {
        let mut registry = Registry::with_prefix("penstock");
        registry.register_collector(Box::new(metrics.clone()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn disk_bytes(text: &str) -> HashMap<&str, u64> {
        let lines = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("penstock_client_disk_bytes_total{client_id=\"")?;
            let (name, value) = rest.rsplit_once("\"} ")?;
            Some((name, value.parse().unwrap()))
        });
        lines.collect()
    }

    #[test]
    fn ten_thousand_clients_are_a_few_series_and_every_byte_is_in_one() {
        let metrics = ReaderMetrics::default();
        let readers = |each| (0..10_000).map(|n: u64| reader(&format!("c{n}"), each + n)).collect();
        for each in [1, 5] {
            metrics.show((readers(each), Totals::default()), Vec::new());
        }
        let text = text(&metrics);
        let shown = disk_bytes(&text);
        assert_eq!(shown.len(), NAMES_MAX + 1);
        assert_eq!(shown.values().sum::<u64>(), 2 * (0..10_000).sum::<u64>() + 60_000);
        assert!(shown.contains_key("c9999") && shown.contains_key(OTHER));
        assert!(text.contains("penstock_client_behind_records{client_id=\"c9999\"} 2\n"));
        assert!(text.contains("penstock_topic_behind_seconds{topic=\"t\"} 1.5\n"));
    }

    #[test]
    fn a_series_never_falls_while_it_is_there() {
        let metrics = ReaderMetrics::default();
        let mut before = HashMap::<String, u64>::new();
        for round in 0..20 {
            let readers = (0..80).map(|n| reader(&format!("c{n}"), (n * 31 + round * 17) % 100));
            let forgotten = reader("gone", 3).1;
            metrics.show((readers.collect(), forgotten), Vec::new());
            let text = text(&metrics);
            let shown = disk_bytes(&text);
            for (name, bytes) in &shown {
                let was = before.get(*name).copied().unwrap_or_default();
                assert!(*bytes >= was, "{name} fell from {was} to {bytes}");
            }
            before = shown.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        }
    }

    #[test]
    fn one_that_begins_to_read_cold_takes_the_place_of_one_that_does_not() {
        let metrics = ReaderMetrics::default();
        let hot: Vec<_> = (0..NAMES_MAX).map(|n| reader(&format!("hot{n}"), 0)).collect();
        metrics.show((hot.clone(), Totals::default()), Vec::new());
        let all = hot.into_iter().chain([reader("scan", 7)]).collect();
        metrics.show((all, Totals::default()), Vec::new());
        let text = text(&metrics);
        assert_eq!(disk_bytes(&text).get("scan"), Some(&7));
    }

    #[test]
    fn a_name_that_a_client_chose_breaks_no_line() {
        let metrics = ReaderMetrics::default();
        metrics.show((vec![reader("a\"b\\c\nd", 1)], Totals::default()), Vec::new());
        assert!(text(&metrics).contains("{client_id=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }

    #[test]
    fn the_rest_of_the_lags_is_one_row() {
        let lag = |n: u64| Lag {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: n as i32,
            committed_offset: 0,
            log_end_offset: n as i64,
            lag_records: n,
            lag_seconds: Some(n as f64),
        };
        let metrics = ReaderMetrics::default();
        metrics.show((Vec::new(), Totals::default()), (0..LAGS_MAX as u64 + 4).map(lag).collect());
        let text = text(&metrics);
        let rest = "{group=\"other\",topic=\"other\",partition=\"other\"}";
        assert!(text.contains(&format!("penstock_group_lag_records{rest} 6\n")), "0 + 1 + 2 + 3");
        assert!(text.contains(&format!("penstock_group_lag_seconds{rest} 3.0\n")));
        assert_eq!(text.matches("group_lag_records{").count(), LAGS_MAX + 1);
    }
}
