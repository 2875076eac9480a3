//! The result of a `tail` run, as JSON in base units, as a table in human units, as a page.
//!
//! Built by `tail` once the run is over, however it ended. Printed and written by `main`.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use crate::html::{self, Page};
use crate::measure::Faults;
use crate::report::{self, Conditions, Course, Interval, Latency};
use crate::run::Outcome;
use crate::tail::arrivals::Strays;
use crate::tail::producer::Produced;
use crate::tail::tally::Tally;

/// A result with its conditions.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    version: &'static str,
    workload: &'static str,
    pub(crate) conditions: Conditions,
    /// The command line with its defaults filled in.
    parameters: Value,
    result: Figures,
    #[serde(skip)]
    latency: Histogram<u64>,
    #[serde(skip)]
    elapsed: Duration,
}

/// All numbers of a run, in base units. Batches that were due during the warm-up count only in
/// faults, in foreign batches and in processor time.
#[derive(Debug, Serialize)]
struct Figures {
    /// From the end of the warm-up to the last delivery.
    elapsed_s: f64,
    consumers: u32,
    /// Batches produced and acknowledged.
    batches: u64,
    /// Batches that were due and never went out, those of the warm-up included.
    unsent_batches: u64,
    /// Batches at consumers: each batch counts once for each consumer that got it.
    deliveries: u64,
    deliveries_per_s: f64,
    /// Records and bytes of all deliveries.
    records: u64,
    bytes: u64,
    bytes_per_s: f64,
    /// Time from the moment at which a batch was due to the last byte of the answer that carried
    /// it.
    latency_us: Latency,
    /// Fetch answers that carried deliveries.
    answers: u64,
    /// Deliveries in such an answer, on average.
    deliveries_per_answer: f64,
    deliveries_lost: u64,
    strays: Strays,
    /// Batches at consumers that carried no number of this run.
    foreign_batches: u64,
    /// Whether the run checked CRCs and offsets.
    verified: bool,
    faults: Faults,
    /// Processor time of the generator over the whole run.
    generator_cpu_s: f64,
    /// Processor time of the producer's thread or of the consumers' threads as a share of the time
    /// that they had, whichever is more.
    generator_busy: f64,
    interrupted: bool,
    /// The error that ended the run early.
    error: Option<String>,
}

impl Figures {
    fn of(tally: &Tally, outcome: &Outcome, produced: &Produced, made: &Made) -> Figures {
        let deliveries = &tally.deliveries;
        let elapsed_s = tally.elapsed().as_secs_f64();
        let per_s = |count: u64| if elapsed_s > 0.0 { count as f64 / elapsed_s } else { 0.0 };
        let wall_s = outcome.wall.as_secs_f64().max(f64::MIN_POSITIVE);
        let consumers_cpu = outcome.cpu.saturating_sub(produced.cpu).as_secs_f64();
        let consumers_busy = consumers_cpu / (wall_s * f64::from(made.threads));
        let error = outcome.error.as_ref().or(produced.error.as_ref());
        Figures {
            elapsed_s,
            consumers: made.consumers,
            batches: produced.batches,
            unsent_batches: produced.unsent,
            deliveries: deliveries.requests(),
            deliveries_per_s: per_s(deliveries.requests()),
            records: deliveries.amount.records,
            bytes: deliveries.amount.bytes,
            bytes_per_s: per_s(deliveries.amount.bytes),
            latency_us: Latency::of(&deliveries.latency),
            answers: tally.answers,
            deliveries_per_answer: tally.per_answer(),
            deliveries_lost: tally.strays.lost(),
            strays: tally.strays.clone(),
            foreign_batches: tally.foreign,
            verified: made.verified,
            faults: outcome.measurement.faults.clone(),
            generator_cpu_s: outcome.cpu.as_secs_f64(),
            generator_busy: consumers_busy.max(produced.cpu.as_secs_f64() / wall_s),
            interrupted: outcome.interrupted,
            error: error.map(|error| format!("{error:#}")),
        }
    }
}

/// How a run was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) consumers: u32,
    /// Threads of the consumers.
    pub(crate) threads: u32,
    pub(crate) verified: bool,
}

impl Report {
    pub(crate) fn new(
        parameters: Value,
        tally: &Tally,
        outcome: &Outcome,
        produced: &Produced,
        made: &Made,
    ) -> Report {
        Report {
            tool: "penstock-load",
            version: env!("CARGO_PKG_VERSION"),
            workload: "tail",
            conditions: Conditions::here(),
            parameters,
            result: Figures::of(tally, outcome, produced, made),
            latency: tally.deliveries.latency.clone(),
            elapsed: tally.elapsed(),
        }
    }

    /// A sentence on the work done, to stand above the table.
    pub(crate) fn headline(&self) -> String {
        let result = &self.result;
        format!(
            "tail: {} batches to {} consumers, {} deliveries, {:.3} GB in {:.2} s{}",
            result.batches,
            result.consumers,
            result.deliveries,
            result.bytes as f64 / 1e9,
            result.elapsed_s,
            report::ending(result.interrupted)
        )
    }

    /// A table of one line, in human units.
    pub(crate) fn table(&self) -> String {
        let result = &self.result;
        let reached = [
            ("deliveries/s", format!("{:.0}", result.deliveries_per_s)),
            ("batches/answer", format!("{:.2}", result.deliveries_per_answer)),
            ("MB/s", format!("{:.1}", result.bytes_per_s / 1e6)),
        ];
        report::table(reached, &result.latency_us)
    }

    /// Notes that a reader of the numbers needs to judge them.
    pub(crate) fn advice(&self) -> Vec<String> {
        let result = &self.result;
        let batches = Course {
            of: "batches",
            done: result.batches,
            unsent: result.unsent_batches,
            measured: (result.deliveries, "deliveries"),
            generator_busy: result.generator_busy,
        };
        let mut advice = batches.advice();
        if result.foreign_batches > 0 {
            advice.push(format!(
                "{} batches at consumers carried no number of this run: another producer's",
                result.foreign_batches
            ));
        }
        advice
    }

    /// The reason if the run failed.
    pub(crate) fn failure(&self) -> Option<String> {
        let Figures { error, faults, strays, deliveries, interrupted, .. } = &self.result;
        let stray = (!strays.is_none()).then(|| strays.words());
        report::failure(error.as_deref(), stray, faults, *deliveries == 0 && !interrupted)
    }

    /// The page for `--html`.
    pub(crate) fn page(&self) -> Page {
        Page {
            title: "penstock-load tail".into(),
            headline: self.headline(),
            failure: self.failure(),
            advice: self.advice(),
            chart: html::chart(&self.latency),
            sections: vec![
                ("Figures".into(), json!(self.result)),
                ("Parameters".into(), self.parameters.clone()),
                ("Conditions".into(), json!(self.conditions)),
            ],
        }
    }

    /// The latencies of the measured part.
    pub(crate) fn interval(&self) -> Interval<'_> {
        Interval { tag: None, latency: &self.latency, length: self.elapsed }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::measure::Measurement;
    use crate::tail::arrivals::Arrivals;
    use crate::tail::tally::Delivery;

    /// The report of 2000 answers with two batches each, 1 ms apart, changed by `change`.
    fn report(change: impl FnOnce(&mut Tally, &mut Outcome, &mut Produced)) -> Report {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        for ms in 1..=2000 {
            let delivery = || Delivery { intended: start, records: 3, bytes: 500 };
            tally.answer(start + Duration::from_millis(ms), &[delivery(), delivery()]);
        }
        let mut outcome = Outcome {
            measurement: Measurement::new(start),
            wall: Duration::from_secs(4),
            cpu: Duration::from_secs(3),
            open_loop: false,
            interrupted: false,
            error: None,
        };
        let mut produced =
            Produced { batches: 400, cpu: Duration::from_secs(1), ..Produced::default() };
        change(&mut tally, &mut outcome, &mut produced);
        let made = Made { consumers: 10, threads: 1, verified: true };
        Report::new(Value::Null, &tally, &outcome, &produced, &made)
    }

    #[test]
    fn figures_are_rates_of_deliveries_over_the_measured_part() {
        let report = report(|_, _, _| ());
        let Figures { deliveries, deliveries_per_s, records, bytes_per_s, .. } = report.result;
        assert_eq!((deliveries, deliveries_per_s), (4000, 2000.0));
        assert_eq!((records, bytes_per_s), (12_000, 1e6));
        assert_eq!((report.result.answers, report.result.deliveries_per_answer), (2000, 2.0));
        assert_eq!(report.result.generator_busy, 0.5, "2 of the 4 s of the consumers' thread");
        assert_eq!((report.failure(), report.advice()), (None, vec![]));
        assert!(report.headline().contains("400 batches to 10 consumers, 4000 deliveries"));
    }

    #[test]
    fn the_producers_thread_may_be_the_busy_one() {
        let report = report(|_, _, produced| produced.cpu = Duration::from_millis(2800));
        assert_eq!(report.result.generator_busy, 0.7);
    }

    #[test]
    fn a_stray_a_fault_an_error_or_an_empty_run_is_a_failure() {
        let lost = report(|tally, _, _| {
            tally.strays.add(Arrivals::new(0, 1).give_up(3), || "consumer 5".into());
        });
        let failure = lost.failure().unwrap();
        assert!(failure.contains("3 deliveries lost") && failure.contains("consumer 5"));
        assert_eq!(lost.result.deliveries_lost, 3);
        let fault = Faults { gaps: 3, first: Some("offset 7".into()), ..Faults::default() };
        let failure = report(|_, outcome, _| outcome.measurement.faults = fault).failure();
        assert!(failure.unwrap().contains("3 gaps"));
        let failure = report(|_, _, produced| produced.error = Some(anyhow::anyhow!("refused")));
        assert_eq!(failure.failure().as_deref(), Some("refused"));
        let empty = report(|tally, _, _| *tally = Tally::new(Instant::now()));
        assert!(empty.failure().is_some());
    }

    #[test]
    fn advice_names_a_rate_that_was_not_held_and_batches_of_others() {
        let advice = report(|tally, _, produced| {
            produced.unsent = 100;
            tally.foreign = 7;
        })
        .advice();
        assert!(
            advice[0].contains("100 of 500 batches") && advice[1].contains("7 batches"),
            "{advice:?}"
        );
    }
}
