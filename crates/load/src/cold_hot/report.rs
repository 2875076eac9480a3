//! The results of the phases: one by one, as medians by kind, and as ratios of pairs.
//!
//! Built by `cold_hot`, printed and written by `main`. Discarded phases are shown, and count in no
//! median or ratio.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cold_hot::args::ColdHotArgs;
use crate::cold_hot::chart;
use crate::cold_hot::files::Residency;
use crate::html::Page;
use crate::report::{self, Conditions, Figures, HELD, Interval, Latency};
use crate::run::Outcome;

/// Share of the cold readers' pages that must have been on disk for them to count as cold.
const COLD: f64 = 0.5;

/// A figure's name in the report, and its value in a phase.
type Figure = (&'static str, fn(&Phase) -> Option<f64>);
/// The figures that are compared.
const FIGURES: [Figure; 9] = [
    ("requests_per_s", |phase| Some(phase.hot.requests_per_s)),
    ("rate_kept", |phase| phase.rate_kept),
    ("p50_us", |phase| Some(phase.hot.latency_us.p50 as f64)),
    ("p99_us", |phase| Some(phase.hot.latency_us.p99 as f64)),
    ("p999_us", |phase| Some(phase.hot.latency_us.p999 as f64)),
    ("max_us", |phase| Some(phase.hot.latency_us.max as f64)),
    ("unsent_requests", |phase| Some(phase.hot.unsent_requests as f64)),
    ("cold_bytes_per_s", |phase| phase.cold.as_ref().map(|cold| cold.bytes_per_s)),
    ("cold_uncached", |phase| phase.cold.as_ref().and_then(|cold| cold.uncached)),
];

/// Whether cold readers run beside the hot ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Quiet,
    Disturbed,
}

impl Kind {
    /// Both kinds, in the order of their phases.
    pub(crate) const BOTH: [Kind; 2] = [Kind::Quiet, Kind::Disturbed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Quiet => "quiet",
            Kind::Disturbed => "disturbed",
        }
    }
}

/// The pages of the hot files before and after a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Watched {
    pub(crate) before: Residency,
    pub(crate) after: Residency,
}

/// The results of the cold readers of a phase.
#[derive(Debug, Serialize)]
pub(crate) struct Cold {
    /// The rate while the hot readers were measured.
    bytes_per_s: f64,
    /// The share of pages that were not in memory just before their fetch.
    uncached: Option<f64>,
    looks: u64,
    /// Latencies of the cold fetches, without the warm-up.
    latency_us: Latency,
    error: Option<String>,
}

/// One phase.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    round: u32,
    kind: Kind,
    /// Why the phase does not count.
    thrown_away: Option<String>,
    /// The share of due requests that were done. `None`: a closed loop, in which none is due.
    rate_kept: Option<f64>,
    hot_files: Option<Watched>,
    /// Its processor time is that of the whole generator, cold readers and evictions included.
    hot: Figures,
    cold: Option<Cold>,
    #[serde(skip)]
    latency: Histogram<u64>,
    #[serde(skip)]
    elapsed: Duration,
}

/// Disturbed divided by quiet, over the rounds of which both phases count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    median: f64,
    min: f64,
    max: f64,
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    version: &'static str,
    workload: &'static str,
    pub(crate) conditions: Conditions,
    parameters: Value,
    phases: Vec<Phase>,
    /// Medians, by the name of the figure.
    quiet: BTreeMap<&'static str, f64>,
    disturbed: BTreeMap<&'static str, f64>,
    ratios: BTreeMap<&'static str, Ratio>,
    interrupted: bool,
}

impl Cold {
    /// `scanned`: the bytes read at the start and at the end of the measured part.
    pub(crate) fn new(outcome: Outcome, scanned: [(Instant, u64); 2], seen: Residency) -> Cold {
        let [(begun, bytes_before), (ended, bytes_after)] = scanned;
        let elapsed_s = (ended - begun).as_secs_f64().max(f64::MIN_POSITIVE);
        Cold {
            bytes_per_s: (bytes_after - bytes_before) as f64 / elapsed_s,
            uncached: seen.uncached(),
            looks: seen.looks,
            latency_us: Latency::of(&outcome.measurement.latency),
            error: outcome.error.map(|error| format!("cold readers: {error:#}")),
        }
    }
}

impl Phase {
    pub(crate) fn new(
        (round, kind): (u32, Kind),
        outcome: Outcome,
        threads: u32,
        verified: bool,
        hot_files: Option<Watched>,
        cold: Option<Cold>,
    ) -> Phase {
        let hot = Figures::of(&outcome, threads + u32::from(cold.is_some()), verified);
        let due = hot.requests + hot.unsent_requests;
        Phase {
            round,
            kind,
            thrown_away: thrown_away(hot.interrupted, hot_files),
            rate_kept: outcome.open_loop.then(|| hot.requests as f64 / due.max(1) as f64),
            hot_files,
            hot,
            cold,
            elapsed: outcome.measurement.elapsed(),
            latency: outcome.measurement.latency,
        }
    }

    /// The reason if the phase failed, and with it the run.
    pub(crate) fn failure(&self) -> Option<String> {
        let cold = || self.cold.as_ref().and_then(|cold| cold.error.clone());
        let failure = self.hot.failure().or_else(cold)?;
        Some(format!("round {}, {}: {failure}", self.round, self.kind.name()))
    }

    fn counts(&self) -> bool {
        self.thrown_away.is_none() && self.failure().is_none()
    }
}

fn thrown_away(interrupted: bool, hot_files: Option<Watched>) -> Option<String> {
    match hot_files {
        _ if interrupted => Some("ended early by a signal".into()),
        Some(Watched { before, after }) if before != after => Some(format!(
            "{} of {} pages of the hot files were in memory before it, {} of {} after it",
            before.cached, before.looks, after.cached, after.looks
        )),
        _ => None,
    }
}

impl Report {
    /// # Errors
    /// Only those of serialising the parameters.
    pub(crate) fn new(args: &ColdHotArgs, phases: Vec<Phase>, interrupted: bool) -> Result<Report> {
        Ok(Report {
            tool: "penstock-load",
            version: env!("CARGO_PKG_VERSION"),
            workload: "cold-hot",
            conditions: Conditions::here(),
            parameters: serde_json::to_value(args)?,
            quiet: medians(&phases, Kind::Quiet),
            disturbed: medians(&phases, Kind::Disturbed),
            ratios: ratios(&phases),
            phases,
            interrupted,
        })
    }

    /// The result in one sentence.
    pub(crate) fn headline(&self) -> String {
        let ms = |kind: &BTreeMap<_, f64>, name| kind.get(name).map_or(f64::NAN, |us| us / 1e3);
        let Some(p99) = self.ratios.get("p99_us") else {
            return "cold-hot: nothing to compare".into();
        };
        format!(
            "cold-hot: p50 {:.3} ms and p99 {:.3} ms when quiet, {:.3} ms and {:.3} ms beside a cold \
             scan; p99 grew {:.1} times ({:.1} to {:.1})",
            ms(&self.quiet, "p50_us"),
            ms(&self.quiet, "p99_us"),
            ms(&self.disturbed, "p50_us"),
            ms(&self.disturbed, "p99_us"),
            p99.median,
            p99.min,
            p99.max
        )
    }

    /// A table with a line for each phase, then medians and ratios, in human units.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_BORDERS_ONLY);
        table.set_header([
            "phase",
            "fetches/s",
            "kept %",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "unsent",
            "cold MB/s",
            "uncached %",
        ]);
        for phase in &self.phases {
            let star = if phase.thrown_away.is_some() { " *" } else { "" };
            let name = format!("{} {}{star}", phase.round, phase.kind.name());
            table.add_row(row(name, |nth| FIGURES[nth].1(phase)));
        }
        for (name, medians) in [("quiet", &self.quiet), ("disturbed", &self.disturbed)] {
            let value = |nth: usize| medians.get(FIGURES[nth].0).copied();
            table.add_row(row(format!("median {name}"), value));
        }
        let ratio = |(name, _): &(&str, _)| match self.ratios.get(name) {
            Some(ratio) => format!("{:.2} x", ratio.median),
            None => "-".into(),
        };
        let ratios = FIGURES.iter().map(ratio);
        table.add_row(std::iter::once("median ratio".to_owned()).chain(ratios));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// Notes that a reader of the numbers needs to judge them.
    pub(crate) fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        for Phase { round, kind, thrown_away, .. } in &self.phases {
            if let Some(reason) = thrown_away {
                advice.push(format!("* round {round}, {}: discarded: {reason}", kind.name()));
            }
        }
        if let Some(kept) = self.quiet.get("rate_kept").filter(|kept| **kept < HELD) {
            advice.push(format!(
                "only {:.1} % of the rate was kept when quiet: lower --rate",
                kept * 100.0
            ));
        }
        let partly = |phase: &&Phase| phase.hot_files.is_some_and(|hot| !hot.before.is_whole());
        if self.phases.iter().any(|phase| partly(&phase)) {
            advice.push(
                "not all of the hot files was in memory: a part was not read, or was evicted"
                    .into(),
            );
        }
        match self.disturbed.get("cold_uncached") {
            Some(uncached) if *uncached < COLD => advice.push(format!(
                "{:.0} % of the cold readers' pages was in memory: try more files, or \
                 --cold-order random",
                (1.0 - uncached) * 100.0
            )),
            None if !self.disturbed.is_empty() => {
                advice.push("it is not known whether the cold readers read uncached data".into());
            }
            _ => {}
        }
        let busy = self.phases.iter().map(|phase| phase.hot.generator_busy).fold(0.0, f64::max);
        advice.extend(report::busy(busy));
        advice
    }

    /// The reason if the run failed.
    pub(crate) fn failure(&self) -> Option<String> {
        let nothing = self.ratios.is_empty() && !self.interrupted;
        let failure = self.phases.iter().find_map(Phase::failure);
        failure.or(nothing.then(|| "there is no round of which both phases count".into()))
    }

    /// The page for `--html`.
    pub(crate) fn page(&self) -> Page {
        let mut sections = vec![
            ("Disturbed to quiet, ratios within a round".into(), json!(self.ratios)),
            ("Medians, quiet".into(), json!(self.quiet)),
            ("Medians, disturbed".into(), json!(self.disturbed)),
            ("Parameters".into(), self.parameters.clone()),
            ("Conditions".into(), json!(self.conditions)),
        ];
        for phase in &self.phases {
            let name = format!("Round {}, {}", phase.round, phase.kind.name());
            sections.push((name, json!(phase)));
        }
        Page {
            title: "penstock-load cold-hot".into(),
            headline: self.headline(),
            failure: self.failure(),
            advice: self.advice(),
            chart: chart::distributions(&Kind::BOTH.map(|kind| (kind.name(), self.latency(kind)))),
            sections,
        }
    }

    /// The intervals for `--hdr`: every phase that counts, tagged with its kind.
    pub(crate) fn intervals(&self) -> Vec<Interval<'_>> {
        counting(&self.phases)
            .map(|phase| Interval {
                tag: Some(phase.kind.name()),
                latency: &phase.latency,
                length: phase.elapsed,
            })
            .collect()
    }

    /// The latencies of all phases of a kind that count.
    fn latency(&self, kind: Kind) -> Histogram<u64> {
        let mut all = Histogram::new(3).expect("valid digits");
        for phase in counting(&self.phases).filter(|phase| phase.kind == kind) {
            all.add(&phase.latency).expect("a histogram that grows takes all values");
        }
        all
    }
}

/// The cells of a line: the name, then the value of each of `FIGURES`.
fn row(name: String, value: impl Fn(usize) -> Option<f64>) -> Vec<String> {
    /// For each of `FIGURES`: the factor from base units to the table's, and the digits.
    const UNITS: [(f64, usize); FIGURES.len()] = [
        (1.0, 0),
        (100.0, 1),
        (1e-3, 3),
        (1e-3, 3),
        (1e-3, 3),
        (1e-3, 3),
        (1.0, 0),
        (1e-6, 1),
        (100.0, 0),
    ];
    let cell = |(nth, (factor, digits)): (usize, &(f64, usize))| match value(nth) {
        Some(value) => format!("{:.digits$}", value * factor),
        None => "-".into(),
    };
    std::iter::once(name).chain(UNITS.iter().enumerate().map(cell)).collect()
}

fn counting(phases: &[Phase]) -> impl Iterator<Item = &Phase> {
    phases.iter().filter(|phase| phase.counts())
}

fn medians(phases: &[Phase], kind: Kind) -> BTreeMap<&'static str, f64> {
    let of_kind: Vec<&Phase> = counting(phases).filter(|phase| phase.kind == kind).collect();
    let figures = FIGURES.iter().filter_map(|(name, figure)| {
        let values = of_kind.iter().filter_map(|phase| figure(phase)).collect();
        Some((*name, median(values)?))
    });
    figures.collect()
}

/// Disturbed divided by quiet in each round, so that a drift from round to round cancels out.
fn ratios(phases: &[Phase]) -> BTreeMap<&'static str, Ratio> {
    let pairs: Vec<(&Phase, &Phase)> = counting(phases)
        .filter(|quiet| quiet.kind == Kind::Quiet)
        .filter_map(|quiet| {
            let same_round =
                |other: &&Phase| other.kind == Kind::Disturbed && other.round == quiet.round;
            Some((quiet, counting(phases).find(same_round)?))
        })
        .collect();
    let figures = FIGURES.iter().filter_map(|(name, figure)| {
        let ratio =
            |(quiet, disturbed): &(&Phase, &Phase)| Some(figure(disturbed)? / figure(quiet)?);
        Some((*name, Ratio::of(pairs.iter().filter_map(ratio).collect())?))
    });
    figures.collect()
}

impl Ratio {
    /// `None` without ratios. A division by zero makes no ratio.
    fn of(mut ratios: Vec<f64>) -> Option<Ratio> {
        ratios.retain(|ratio| ratio.is_finite());
        let min = ratios.iter().copied().reduce(f64::min)?;
        let max = ratios.iter().copied().reduce(f64::max)?;
        Some(Ratio { median: median(ratios)?, min, max })
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Amount, Faults, Measurement, Turn};

    /// A phase of one second in which every fetch took `latency_ms`.
    fn phase(round: u32, kind: Kind, latency_ms: u64, hot_files: Option<Watched>) -> Phase {
        let start = Instant::now();
        let mut measurement = Measurement::new(start);
        for _ in 0..100 {
            let amount = Amount { batches: 1, records: 1, bytes: 1000 };
            let turn = Turn { amount, faults: Faults::default() };
            measurement.record(start, start + Duration::from_millis(latency_ms), turn);
        }
        measurement.unsent = 25 * u64::from(kind == Kind::Disturbed);
        Phase::new((round, kind), outcome(measurement), 1, false, hot_files, None)
    }

    fn outcome(measurement: Measurement) -> Outcome {
        Outcome {
            measurement,
            wall: Duration::from_secs(1),
            cpu: Duration::ZERO,
            open_loop: true,
            interrupted: false,
            error: None,
        }
    }

    fn watched(before: u64, after: u64) -> Option<Watched> {
        let residency = |cached| Residency { looks: 10, cached };
        Some(Watched { before: residency(before), after: residency(after) })
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_the_two_around_it() {
        assert_eq!(median(vec![9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn ratios_pair_the_phases_of_a_round_and_their_median_is_not_that_of_the_medians() {
        let mut phases = Vec::new();
        for (round, quiet_ms, disturbed_ms) in [(1, 10, 100), (2, 20, 80), (3, 40, 280)] {
            phases.push(phase(round, Kind::Quiet, quiet_ms, None));
            phases.push(phase(round, Kind::Disturbed, disturbed_ms, None));
        }
        let Ratio { median, min, max } = ratios(&phases)["p50_us"];
        for (found, expected) in [(median, 7.0), (min, 4.0), (max, 10.0)] {
            assert!((found - expected).abs() < 0.02 * expected, "{found}, {expected}");
        }
        assert_eq!(medians(&phases, Kind::Disturbed)["rate_kept"], 0.8);
        assert_eq!(medians(&phases, Kind::Quiet)["unsent_requests"], 0.0);
        assert!(!ratios(&phases).contains_key("unsent_requests"), "nothing to divide by");
    }

    #[test]
    fn a_phase_in_which_hot_pages_came_or_went_is_thrown_away_with_its_round() {
        let phases = [
            phase(1, Kind::Quiet, 10, watched(10, 10)),
            phase(1, Kind::Disturbed, 900, watched(10, 9)),
            phase(2, Kind::Quiet, 10, watched(10, 10)),
            phase(2, Kind::Disturbed, 20, watched(10, 10)),
        ];
        assert!(phases[1].thrown_away.as_ref().unwrap().contains("9 of 10 after"));
        assert!((ratios(&phases)["max_us"].max - 2.0).abs() < 0.05);
        let only_bad = ratios(&phases[..2]);
        assert!(only_bad.is_empty(), "{only_bad:?}");
    }

    #[test]
    fn files_that_were_partly_cached_all_the_time_count() {
        assert_eq!(thrown_away(false, watched(7, 7)), None);
        assert!(thrown_away(true, None).is_some());
    }
}
