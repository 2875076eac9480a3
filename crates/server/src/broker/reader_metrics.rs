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
//! name that had no place gets one from a quieter name when it reads more than twice as much. A
//! name whose last reader has gone gives up its place, and its counters stay for a while beside
//! those that have one: whoever scrapes gets to see how they ended.
//! Filled by http.rs before each answer, encoded by metrics.rs's registry.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::broker::lags::{Lag, Looked};
use crate::broker::readers::{ReaderView, Totals};

/// Names of each kind that have series of their own; and names whose last reader has gone.
const NAMES_MAX: usize = 50;

/// How long the counters of a name without a reader stay.
const GONE_STAYS: Duration = Duration::from_secs(10 * 60);

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
    lags_left_out: usize,
}

/// One kind of names. None is in both maps.
#[derive(Debug, Default)]
struct Names {
    named: HashMap<String, Series>,
    gone: HashMap<String, Gone>,
    other: Series,
}

/// A name whose last reader has gone.
#[derive(Debug, Clone, Copy)]
struct Gone {
    since: Instant,
    totals: Totals,
}

/// What is shown of one name.
#[derive(Debug, Clone, Copy, Default)]
struct Series {
    totals: Totals,
    /// `None` without a reader.
    behind: Option<Behind>,
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
        looked: Looked,
        now: Instant,
    ) {
        let shown = &mut *self.0.lock();
        shown.readers = readers.len();
        shown.clients.show(&readers, forgotten, now, |reader| Some(&reader.client_id));
        shown.groups.show(&readers, Totals::default(), now, |reader| reader.group.as_deref());
        shown.topics.show(&readers, forgotten, now, |reader| Some(&reader.topic));
        (shown.lags, shown.lags_left_out) = (bounded(looked.lags), looked.left_out);
    }
}

impl Names {
    fn show<'a>(
        &mut self,
        readers: &'a [(ReaderView, Totals)],
        forgotten: Totals,
        at: Instant,
        name: impl Fn(&'a ReaderView) -> Option<&'a str>,
    ) {
        let mut now: HashMap<&str, Series> = HashMap::new();
        for (reader, more) in readers {
            let Some(name) = name(reader) else { continue };
            let series = now.entry(name).or_default();
            series.totals += *more;
            series.behind.get_or_insert_default().add(Behind {
                bytes: reader.behind_bytes,
                records: reader.behind_records,
                seconds: reader.behind_seconds,
            });
        }
        self.let_go(&now, at);
        self.make_places(&now);
        self.other.totals += forgotten;
        self.other.behind = Some(Behind::default());
        self.named.values_mut().for_each(|series| series.behind = Some(Behind::default()));
        for (name, more) in now {
            let series = self.named.get_mut(name).unwrap_or(&mut self.other);
            series.totals += more.totals;
            series.behind.get_or_insert_default().add(more.behind.unwrap_or_default());
        }
    }

    /// Names without a reader give up their places. Their counters stay for a while.
    fn let_go(&mut self, now: &HashMap<&str, Series>, at: Instant) {
        let gone = self.named.extract_if(|name, _| !now.contains_key(&**name));
        self.gone
            .extend(gone.map(|(name, series)| (name, Gone { since: at, totals: series.totals })));
        self.gone.retain(|_, gone| at.saturating_duration_since(gone.since) < GONE_STAYS);
        while self.gone.len() > NAMES_MAX {
            let first = self.gone.iter().min_by_key(|(_, gone)| gone.since);
            let Some(first) = first.map(|(name, _)| name.clone()) else { return };
            self.gone.remove(&first);
        }
    }

    /// Decides which names have a place. One that comes back goes on counting; without a place it
    /// counts as `other`, and must not stand beside it.
    fn make_places(&mut self, now: &HashMap<&str, Series>) {
        let weight = |series: &Series| (series.totals.cold_bytes, series.totals.sent_bytes);
        let mut without: Vec<_> = now
            .iter()
            .filter(|(name, _)| **name != OTHER && !self.named.contains_key(**name))
            .map(|(name, series)| (weight(series), *name))
            .collect();
        without.sort_unstable_by(|a, b| b.cmp(a));
        for (wants, name) in without {
            let before = self.gone.remove(name);
            if self.named.len() >= NAMES_MAX {
                let of = |name: &String| now.get(&**name).map(weight).unwrap_or_default();
                let quietest = self.named.keys().map(|name| (of(name), name)).min();
                let Some((has, leaves)) = quietest else { continue };
                if wants.0 <= 2 * has.0 {
                    continue;
                }
                let leaves = leaves.clone();
                self.named.remove(&leaves);
            }
            let totals = before.map(|gone| gone.totals).unwrap_or_default();
            self.named.insert(name.to_owned(), Series { totals, ..Series::default() });
        }
    }

    /// Each series with its name, in the order of names; `other` last, where it counts anything.
    fn all(&self) -> Vec<(&str, Series)> {
        let named = self.named.iter().map(|(name, series)| (&**name, *series));
        let of_gone = |gone: &Gone| Series { totals: gone.totals, behind: None };
        let gone = self.gone.iter().map(|(name, gone)| (&**name, of_gone(gone)));
        let mut all: Vec<_> = named.chain(gone).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let is_behind = self.other.behind.is_some_and(|behind| behind.bytes > 0);
        if self.other.totals != Totals::default() || is_behind {
            all.push((OTHER, self.other));
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
        let help = "Committed offsets that the lags of this answer leave out; later ones have them";
        let (name, kind) = ("group_lags_left_out", MetricType::Gauge);
        let described = encoder.encode_descriptor(name, help, None, kind)?;
        ConstGauge::new(shown.lags_left_out as i64).encode(described)?;
        encode_lags(&mut encoder, &shown.lags)
    }
}

fn behind(series: &Series) -> Behind {
    series.behind.unwrap_or_default()
}

/// How a series is written; nothing where it has no value.
type Write = fn(&Series, MetricEncoder<'_>) -> fmt::Result;
type Has = fn(&Series) -> bool;

fn encode_names(
    encoder: &mut DescriptorEncoder<'_>,
    kind: &str,
    label: &'static str,
    all: &[(&str, Series)],
) -> Result<(), fmt::Error> {
    let counter = MetricType::Counter;
    let gauge = MetricType::Gauge;
    let always: Has = |_| true;
    let has_reader: Has = |series| series.behind.is_some();
    let rows: [(&str, &str, MetricType, Has, Write); 7] = [
        ("sent_bytes", "Record bytes sent", counter, always, |s, to| {
            ConstCounter::new(s.totals.sent_bytes).encode(to)
        }),
        (
            "sent_again_bytes",
            "Record bytes sent twice, since the answer before had cut their batch",
            counter,
            always,
            |s, to| ConstCounter::new(s.totals.again_bytes).encode(to),
        ),
        ("disk_bytes", "Record bytes sent that came from the disk", counter, always, |s, to| {
            ConstCounter::new(s.totals.cold_bytes).encode(to)
        }),
        ("disk_wait_seconds", "Time that answers waited for the disk", counter, always, |s, to| {
            ConstCounter::new(s.totals.disk_wait.as_secs_f64()).encode(to)
        }),
        ("behind_bytes", "Bytes between readers and the log end", gauge, has_reader, |s, to| {
            ConstGauge::new(behind(s).bytes as i64).encode(to)
        }),
        (
            "behind_records",
            "Records between readers and the log end",
            gauge,
            has_reader,
            |s, to| ConstGauge::new(behind(s).records as i64).encode(to),
        ),
        (
            "behind_seconds",
            "Age of the batch that the reader farthest behind reads next",
            gauge,
            |s| behind(s).seconds.is_some(),
            |s, to| ConstGauge::new(behind(s).seconds.unwrap_or_default()).encode(to),
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
