//! The result of a run, as JSON in base units, as a table in human units, as an HdrHistogram log.
//!
//! Built by `main` from a `Measurement` once the run is over, however it ended.

use std::io;
use std::time::{Duration, SystemTime};

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;
use serde_json::Value;

use crate::measure::{Amount, Faults, Measurement};
use crate::run::Outcome;

/// Share of its threads' time above which the generator may limit a run.
const BUSY: f64 = 0.9;
/// Share of the due requests that must have gone out for the rate to count as held.
pub(crate) const HELD: f64 = 0.99;

/// A result with its conditions.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) tool: &'static str,
    pub(crate) version: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) conditions: Conditions,
    /// The command line with its defaults filled in.
    pub(crate) parameters: Value,
    pub(crate) result: Figures,
}

/// The machine that the generator ran on.
#[derive(Debug, Serialize)]
pub(crate) struct Conditions {
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) cores: usize,
    /// When the result was written, in seconds since 1970.
    pub(crate) at_s: u64,
}

/// All numbers of a run, in base units.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Duration of the measured part: from the end of the warm-up to the last answer.
    pub(crate) elapsed_s: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    #[serde(flatten)]
    pub(crate) amount: Amount,
    pub(crate) bytes_per_s: f64,
    pub(crate) records_per_s: f64,
    /// Time from the moment at which a request was due (in a closed loop: sent) to its answer.
    pub(crate) latency_us: Latency,
    /// Answers without bytes.
    pub(crate) empty_answers: u64,
    /// Requests that were due and never went out.
    pub(crate) unsent_requests: u64,
    /// Whether the run checked batches and offsets.
    pub(crate) verified: bool,
    pub(crate) faults: Faults,
    /// Processor time of the generator over the whole run.
    pub(crate) generator_cpu_s: f64,
    /// Processor time as a share of the time that its threads had.
    pub(crate) generator_busy: f64,
    /// Whether a signal ended the run.
    pub(crate) interrupted: bool,
    /// The error that ended the run early.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Conditions {
    /// Reads them from the kernel.
    pub(crate) fn here() -> Conditions {
        let system = rustix::system::uname();
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        Conditions {
            kernel: system.release().to_string_lossy().into_owned(),
            architecture: system.machine().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            at_s: since_1970.as_secs(),
        }
    }
}

impl Figures {
    pub(crate) fn of(outcome: &Outcome, threads: u32, verified: bool) -> Figures {
        let Outcome { measurement, .. } = outcome;
        let elapsed_s = measurement.elapsed().as_secs_f64();
        let per_s = |count: u64| if elapsed_s > 0.0 { count as f64 / elapsed_s } else { 0.0 };
        let could_use_s = outcome.wall.as_secs_f64() * f64::from(threads);
        Figures {
            elapsed_s,
            requests: measurement.requests(),
            requests_per_s: per_s(measurement.requests()),
            bytes_per_s: per_s(measurement.amount.bytes),
            records_per_s: per_s(measurement.amount.records),
            amount: measurement.amount.clone(),
            latency_us: Latency::of(&measurement.latency),
            empty_answers: measurement.empty,
            unsent_requests: measurement.unsent,
            verified,
            faults: measurement.faults.clone(),
            generator_cpu_s: outcome.cpu.as_secs_f64(),
            generator_busy: outcome.cpu.as_secs_f64() / could_use_s.max(f64::MIN_POSITIVE),
            interrupted: outcome.interrupted,
            error: outcome.error.as_ref().map(|error| format!("{error:#}")),
        }
    }
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latency {
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

impl Report {
    /// A table of one line, in human units.
    pub(crate) fn table(&self) -> String {
        let result = &self.result;
        let reached = [
            ("requests/s", format!("{:.0}", result.requests_per_s)),
            ("MB/s", format!("{:.1}", result.bytes_per_s / 1e6)),
            ("records/s", format!("{:.0}", result.records_per_s)),
        ];
        table(reached, &result.latency_us)
    }

    /// A sentence on the work done, to stand above the table.
    pub(crate) fn headline(&self) -> String {
        let result = &self.result;
        format!(
            "{}: {} requests, {:.3} GB in {:.2} s{}",
            self.workload,
            result.requests,
            result.amount.bytes as f64 / 1e9,
            result.elapsed_s,
            ending(result.interrupted)
        )
    }

    /// Notes that a reader of the numbers needs to judge them.
    pub(crate) fn advice(&self) -> Vec<String> {
        let result = &self.result;
        let requests = Course {
            of: "requests",
            done: result.requests,
            unsent: result.unsent_requests,
            measured: (result.requests, "requests"),
            generator_busy: result.generator_busy,
        };
        requests.advice()
    }

    /// The reason if the run failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.result.failure()
    }
}

impl Figures {
    /// The reason if the run failed.
    pub(crate) fn failure(&self) -> Option<String> {
        let Figures { error, faults, requests, interrupted, .. } = self;
        failure(error.as_deref(), None, faults, *requests == 0 && !interrupted)
    }
}

/// A table of one line, in human units: what was reached, and the latencies.
pub(crate) fn table(reached: [(&str, String); 3], latency: &Latency) -> String {
    let ms = |us: u64| format!("{:.3}", us as f64 / 1e3);
    let latencies = [
        ("p50 ms", latency.p50),
        ("p90 ms", latency.p90),
        ("p99 ms", latency.p99),
        ("p99.9 ms", latency.p999),
        ("max ms", latency.max),
    ];
    let columns = reached.into_iter().chain(latencies.map(|(name, us)| (name, ms(us))));
    let (names, values): (Vec<_>, Vec<_>) = columns.unzip();
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(names).add_row(values);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// How a headline ends.
pub(crate) fn ending(interrupted: bool) -> &'static str {
    if interrupted { ", ended early by a signal" } else { "" }
}

/// How a run went, for the notes that every run may need.
pub(crate) struct Course {
    /// What is sent at a rate.
    pub(crate) of: &'static str,
    pub(crate) done: u64,
    /// Due, and never sent.
    pub(crate) unsent: u64,
    /// What has a latency, and how many of it.
    pub(crate) measured: (u64, &'static str),
    pub(crate) generator_busy: f64,
}

impl Course {
    pub(crate) fn advice(&self) -> Vec<String> {
        let Course { of, done, unsent, measured: (count, what), generator_busy } = *self;
        let due = done + unsent;
        let rate = ((done as f64) < HELD * due as f64).then(|| {
            format!(
                "the rate was not held: {unsent} of {due} {of} never went out, and latencies grow \
                 with the length of the run"
            )
        });
        let few =
            (1..1000).contains(&count).then(|| format!("p99.9 of {count} {what} is their maximum"));
        rate.into_iter().chain(busy(generator_busy)).chain(few).collect()
    }
}

/// A note on a generator that may limit the run.
pub(crate) fn busy(share: f64) -> Option<String> {
    (share > BUSY).then(|| {
        format!(
            "the generator was busy {:.0} % of the time and may limit the run: try more --threads",
            share * 100.0
        )
    })
}

/// The reason if a run failed: an error, something else that is wrong, a fault, or nothing at all.
pub(crate) fn failure(
    error: Option<&str>,
    wrong: Option<String>,
    faults: &Faults,
    is_empty: bool,
) -> Option<String> {
    let faulty = || (faults.count() > 0).then(|| faults.words());
    let empty = || is_empty.then(|| "nothing was measured".to_owned());
    error.map(str::to_owned).or(wrong).or_else(faulty).or_else(empty)
}

/// Latencies in microseconds, and the time in which they were measured.
#[derive(Debug)]
pub(crate) struct Interval<'a> {
    pub(crate) tag: Option<&'static str>,
    pub(crate) latency: &'a Histogram<u64>,
    pub(crate) length: Duration,
}

impl Interval<'_> {
    /// A whole run.
    pub(crate) fn of(measurement: &Measurement) -> Interval<'_> {
        let length = measurement.elapsed();
        Interval { tag: None, latency: &measurement.latency, length }
    }
}

/// The latency distributions as an HdrHistogram log, as if the intervals followed one another.
///
/// # Errors
/// Only those of serialising, since the log is built in memory.
pub(crate) fn hdr_log(intervals: &[Interval<'_>], conditions: &Conditions) -> io::Result<Vec<u8>> {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let failed = |error: &dyn std::fmt::Debug| io::Error::other(format!("{error:?}"));
    let elapsed: Duration = intervals.iter().map(|interval| interval.length).sum();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(conditions.at_s);
    let mut writer = IntervalLogWriterBuilder::new()
        .with_start_time(end - elapsed.min(Duration::from_secs(conditions.at_s)))
        .with_max_value_divisor(1.0)
        .add_comment("penstock-load, latency in microseconds")
        .begin_log_with(&mut log, &mut serializer)
        .map_err(|error| failed(&error))?;
    let mut start = Duration::ZERO;
    for Interval { tag, latency, length } in intervals {
        writer
            .write_histogram(latency, start, *length, tag.and_then(Tag::new))
            .map_err(|error| failed(&error))?;
        start += *length;
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::measure::Turn;

    fn report(change: impl FnOnce(&mut Figures)) -> Report {
        let start = Instant::now();
        let mut measurement = Measurement::new(start);
        for ms in 1..=2000 {
            let amount = Amount { batches: 1, records: 10, bytes: 1000 };
            let turn = Turn { amount, faults: Faults::default() };
            measurement.record(start, start + Duration::from_millis(ms), turn);
        }
        let outcome = Outcome {
            measurement,
            wall: Duration::from_secs(2),
            cpu: Duration::from_secs(1),
            open_loop: false,
            interrupted: false,
            error: None,
        };
        let mut result = Figures::of(&outcome, 1, true);
        change(&mut result);
        Report {
            tool: "penstock-load",
            version: "0",
            workload: "fetch",
            conditions: Conditions::here(),
            parameters: Value::Null,
            result,
        }
    }

    #[test]
    fn figures_are_rates_over_the_measured_part() {
        let report = report(|_| ());
        assert_eq!((report.result.requests, report.result.requests_per_s), (2000, 1000.0));
        assert_eq!((report.result.bytes_per_s, report.result.records_per_s), (1e6, 1e4));
        assert!((995_000..=1_005_000).contains(&report.result.latency_us.p50));
        assert_eq!((report.failure(), report.advice()), (None, vec![]));
    }

    #[test]
    fn the_table_is_in_human_units() {
        let table = report(|_| ()).table();
        assert!(table.contains("MB/s") && table.contains(" 1.0 "), "{table}");
    }

    #[test]
    fn a_fault_an_error_or_an_empty_run_is_a_failure() {
        let gap = Faults { gaps: 3, first: Some("offset 7".into()), ..Faults::default() };
        let fault = report(|figures| figures.faults = gap).failure().unwrap();
        assert!(fault.contains("3 gaps") && fault.contains("offset 7"), "{fault}");
        assert!(report(|figures| figures.error = Some("reset".into())).failure().is_some());
        assert!(report(|figures| figures.requests = 0).failure().is_some());
    }

    #[test]
    fn advice_names_a_rate_that_was_not_held_and_a_busy_generator() {
        let advice = report(|figures| {
            figures.unsent_requests = 2000;
            figures.generator_busy = 0.97;
        })
        .advice();
        assert!(advice[0].contains("2000 of 4000") && advice[1].contains("97 %"), "{advice:?}");
    }

    #[test]
    fn the_hdr_log_is_one_interval_in_microseconds() {
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let now = Instant::now();
        let mut measurement = Measurement::new(now);
        measurement.record(now, now + Duration::from_millis(5), Turn::default());
        let log = hdr_log(&[Interval::of(&measurement)], &Conditions::here()).unwrap();
        let entries: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        let Some(LogEntry::Interval(interval)) = entries.last() else { panic!("{entries:?}") };
        assert_eq!(interval.duration(), Duration::from_millis(5));
        assert!((5000.0..5010.0).contains(&interval.max()));
        assert!(interval.encoded_histogram().starts_with("HIST"));
    }
}
