//! Measures hot readers beside a cold scan, on the unlimited disk and on a slower one.
//!
//! ```text
//! round   ├─ auto ──────────┤├─ chain ─────────┤├─ sendfile ──────┤   closed loop, then paced
//!          quiet ░▓ beside ░▓  quiet ░▓ beside ░▓  quiet ░▓ beside ░▓
//! ```
//!
//! Each pair is a run of `penstock-load cold-hot`. It evicts the cold readers' files every 20 ms,
//! checks that their pages are not in memory before a fetch, and that hot pages stay in memory. A
//! pair that fails either check is discarded here.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, anyhow, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::cold_table;
use crate::disk::{self, DiskLimit};
use crate::log::{HOT_TOPIC, TOPIC};
use crate::plan::Plan;
use crate::results::{Comparison, HotReaders, Pace, Pair, Reason, ThrownAway, Trial};
use crate::server::Server;
use crate::witness::{self, Testimony};

/// The slow disk's default: a fast disk of a rented machine.
const SLOW_DISK_BYTES_PER_S: u64 = 400_000_000;
const HOT_CONNECTIONS: u32 = 8;
const HOT_BYTES: u32 = 64 << 10;
const COLD_CONNECTIONS: u32 = 4;
const COLD_BYTES: u32 = 1 << 20;
const WARM_UP_S: f64 = 0.3;
/// The paced rate as a share of the slowest server's, so that all can hold it.
const RATE_SHARE: f64 = 0.5;
/// The least share of pages on the disk for readers to count as cold.
pub(crate) const UNCACHED_MIN: f64 = 0.95;
/// Tries of a pair before the round goes on without it.
const TRIES: u32 = 4;
/// Points of a distribution for each halving of the share above.
const POINTS_PER_HALVING: u32 = 8;

/// Tries a limit set on the command line, before minutes of other measurements.
///
/// # Errors
/// The limit cannot be set.
pub(crate) fn check(plan: &Plan) -> anyhow::Result<()> {
    slow_disk(plan, &mut Comparison::default()).map(drop)
}

/// Measures all servers by turns, on both disks. `both_paced`: also beside a scan of a fixed rate.
///
/// # Errors
/// A run fails, or a limit set on the command line cannot be had.
pub(crate) fn measure(
    plan: &Plan,
    servers: &[&Server],
    both_paced: &[&Server],
    into: &mut Comparison,
) -> anyhow::Result<()> {
    let slow_disk = slow_disk(plan, into)?;
    let mut bench = Bench { plan, servers, both_paced, disk_bytes_per_s: None, into };
    bench.measure()?;
    if let Some((bytes_per_s, mut limit)) = slow_disk {
        servers.iter().try_for_each(|server| limit.hold(server.pid))?;
        bench.disk_bytes_per_s = Some(bytes_per_s);
        bench.measure()?;
    }
    Ok(())
}

fn slow_disk(plan: &Plan, into: &mut Comparison) -> anyhow::Result<Option<(u64, DiskLimit)>> {
    disk::slow_disk(plan, SLOW_DISK_BYTES_PER_S, &mut into.no_slow_disk)
}

/// The measurements on one disk.
struct Bench<'a> {
    plan: &'a Plan,
    servers: &'a [&'a Server],
    both_paced: &'a [&'a Server],
    disk_bytes_per_s: Option<u64>,
    into: &'a mut Comparison,
}

impl Bench<'_> {
    /// The rates come from the first round that yields them, and hold for all servers.
    fn measure(&mut self) -> anyhow::Result<()> {
        let (mut rate, mut cold_rate) = (None, None);
        for round in 0..self.plan.rounds {
            self.say(round);
            let closed = Trial {
                round,
                disk_bytes_per_s: self.disk_bytes_per_s,
                pace: Pace::Closed,
                rate: 0.0,
                cold_rate: 0.0,
            };
            self.every(self.servers, closed)?;
            let quiet = self.least(closed, self.servers, |pair| pair.quiet.fetches_per_s);
            rate = rate.or(quiet.map(|least| share(least, 100.0)));
            let Some(rate) = rate else { continue };

            let hot_paced = Trial { pace: Pace::HotPaced, rate, ..closed };
            self.every(self.servers, hot_paced)?;
            let cold = self.least(hot_paced, self.both_paced, |pair| pair.cold_bytes_per_s);
            cold_rate = cold_rate.or(cold.map(|least| share(least / f64::from(COLD_BYTES), 1.0)));
            let Some(cold_rate) = cold_rate else { continue };

            let both_paced = Trial { pace: Pace::BothPaced, cold_rate, ..hot_paced };
            self.every(self.both_paced, both_paced)?;
        }
        Ok(())
    }

    fn say(&self, round: u32) {
        let (disk, rounds) = (cold_table::name(self.disk_bytes_per_s), self.plan.rounds);
        self.plan.say(&format!("beside a cold scan, round {} of {rounds}. {disk}", round + 1));
    }

    fn every(&mut self, servers: &[&Server], trial: Trial) -> anyhow::Result<()> {
        for server in servers {
            for _ in 0..TRIES {
                match pair(self.plan, server, trial)? {
                    Ok(pair) => {
                        self.into.beside_cold.push(pair);
                        break;
                    }
                    Err((reason, detail)) => {
                        let server = server.name.clone();
                        self.plan.say(&format!("a pair of {server} is discarded: {detail}"));
                        let away = ThrownAway { server, trial, reason, detail };
                        self.into.cold_thrown_away.push(away);
                    }
                }
            }
        }
        Ok(())
    }

    /// The rate of the slowest server in a trial. `None`: a server has no pair that counts.
    fn least(&self, trial: Trial, servers: &[&Server], of: fn(&Pair) -> f64) -> Option<f64> {
        let pairs = || self.into.beside_cold.iter().filter(|pair| pair.trial == trial);
        let figure = |server: &&Server| pairs().find(|pair| pair.server == server.name).map(of);
        let figures = servers.iter().map(figure).collect::<Option<Vec<f64>>>()?;
        figures.into_iter().min_by(f64::total_cmp)
    }
}

/// A round number that all servers can hold.
fn share(least: f64, round_to: f64) -> f64 {
    (least * RATE_SHARE / round_to).round().max(1.0) * round_to
}

type WhyNot = (Reason, String);

/// Makes one run of `penstock-load cold-hot`. Returns the pair, or why it does not count.
fn pair(plan: &Plan, server: &Server, trial: Trial) -> anyhow::Result<Result<Pair, WhyNot>> {
    let distributions = plan.dir.join("penstock-load.hdr");
    let mut arguments = arguments(plan, server, trial);
    arguments.push(("--hdr", distributions.display().to_string()));
    let Testimony { json, failure } = witness::hear(plan, "cold-hot", &arguments)?;
    if let Some(reason) = why_not(&json) {
        return Ok(Err(reason));
    }
    if let Some(failure) = failure {
        bail!("{}: {failure}", server.name);
    }
    let mut curves = curves(&fs::read(&distributions)?)?;
    let mut readers = |kind: &str| -> anyhow::Result<HotReaders> {
        let curve = curves.remove(kind).with_context(|| format!("no latencies when {kind}"))?;
        hot_readers(phase(&json, kind).with_context(|| format!("no {kind} phase"))?, curve)
    };
    let (quiet, beside) = (readers("quiet")?, readers("disturbed")?);
    let cold = &phase(&json, "disturbed").context("no disturbed phase")?["cold"];
    Ok(Ok(Pair {
        server: server.name.clone(),
        trial,
        quiet,
        beside,
        cold_bytes_per_s: number(&cold["bytes_per_s"])?,
        cold_uncached: number(&cold["uncached"])?,
    }))
}

fn arguments(plan: &Plan, server: &Server, trial: Trial) -> Vec<(&'static str, String)> {
    let log = &server.log;
    vec![
        ("--bootstrap-server", server.address.to_string()),
        ("--topic", HOT_TOPIC.to_owned()),
        ("--hot-files", log.hot_dir().display().to_string()),
        ("--hot-connections", HOT_CONNECTIONS.to_string()),
        ("--hot-bytes", HOT_BYTES.to_string()),
        ("--rate", trial.rate.to_string()),
        ("--cold-topic", TOPIC.to_owned()),
        ("--cold-files", log.segment.display().to_string()),
        ("--cold-connections", COLD_CONNECTIONS.to_string()),
        ("--cold-bytes", COLD_BYTES.to_string()),
        ("--cold-rate", trial.cold_rate.to_string()),
        ("--rounds", "1".to_owned()),
        ("--duration", plan.seconds.to_string()),
        ("--warm-up", WARM_UP_S.to_string()),
    ]
}

/// Why a run without an error does not count, with its numbers.
fn why_not(output: &Value) -> Option<WhyNot> {
    let mut phases = output["phases"].as_array()?.iter();
    if let Some(moved) = phases.find_map(|phase| phase["thrown_away"].as_str()) {
        return Some((Reason::HotPagesMoved, moved.to_owned()));
    }
    let cold = &phase(output, "disturbed")?["cold"];
    if cold["uncached"].as_f64().is_some_and(|uncached| uncached >= UNCACHED_MIN) {
        return None;
    }
    let (uncached, looks) = (&cold["uncached"], &cold["looks"]);
    Some((Reason::NotCold, format!("a share of {uncached} was cold, of {looks} looked at")))
}

fn phase<'a>(output: &'a Value, kind: &str) -> Option<&'a Value> {
    output["phases"].as_array()?.iter().find(|phase| phase["kind"] == kind)
}

fn hot_readers(phase: &Value, curve: Vec<(f64, f64)>) -> anyhow::Result<HotReaders> {
    let hot = &phase["hot"];
    Ok(HotReaders {
        fetches_per_s: number(&hot["requests_per_s"])?,
        rate_kept: phase["rate_kept"].as_f64(),
        p50_us: number(&hot["latency_us"]["p50"])?,
        p99_us: number(&hot["latency_us"]["p99"])?,
        latency_us_cdf: curve,
    })
}

fn number(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

/// The distributions in an HdrHistogram log, by tag.
fn curves(log: &[u8]) -> anyhow::Result<BTreeMap<String, Vec<(f64, f64)>>> {
    let mut curves = BTreeMap::new();
    for entry in IntervalLogIterator::new(log) {
        let Ok(LogEntry::Interval(interval)) = entry else { continue };
        let Some(tag) = interval.tag() else { continue };
        let encoded = BASE64_STANDARD.decode(interval.encoded_histogram())?;
        let latency = Deserializer::new()
            .deserialize::<u64, _>(&mut &encoded[..])
            .map_err(|error| anyhow!("not a histogram: {error}"))?;
        let points = latency.iter_quantiles(POINTS_PER_HALVING);
        let points = points.map(|point| (point.value_iterated_to() as f64, point.quantile()));
        curves.insert(tag.as_str().to_owned(), points.collect());
    }
    Ok(curves)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(thrown_away: Value, uncached: Value) -> Value {
        json!({ "phases": [
            { "kind": "quiet", "thrown_away": thrown_away, "cold": null },
            { "kind": "disturbed", "thrown_away": null, "cold": { "uncached": uncached } },
        ]})
    }

    #[test]
    fn a_pair_counts_only_when_cold_was_cold_and_hot_was_hot() {
        let reason = |output| why_not(&output).map(|(reason, _)| reason);
        assert_eq!(reason(output(Value::Null, json!(0.95))), None);
        assert_eq!(reason(output(Value::Null, json!(0.94))), Some(Reason::NotCold));
        assert_eq!(reason(output(Value::Null, Value::Null)), Some(Reason::NotCold), "not known");
        assert_eq!(reason(output(json!("pages"), json!(1.0))), Some(Reason::HotPagesMoved));
    }

    #[test]
    fn a_rate_that_all_can_hold_is_half_of_what_the_slowest_can() {
        assert_eq!(share(8_123.0, 100.0), 4_100.0);
        assert_eq!(share(87.3, 1.0), 44.0);
        assert_eq!(share(0.3, 1.0), 1.0, "0 would be a closed loop");
    }

    #[test]
    fn a_log_of_histograms_gives_a_curve_a_tag() -> anyhow::Result<()> {
        // One value, 5000 us, as penstock-load writes it.
        let log = format!(
            "#[StartTime: 0.0 (seconds since epoch)]\nTag=quiet,0.0,1.0,5.0,{}\n",
            BASE64_STANDARD.encode(one_value()?)
        );
        let curves = curves(log.as_bytes())?;
        let curve = &curves["quiet"];
        assert!(
            curve.last().is_some_and(|(us, share)| (5000.0..5010.0).contains(us) && *share == 1.0)
        );
        Ok(())
    }

    fn one_value() -> anyhow::Result<Vec<u8>> {
        use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
        let mut latency = hdrhistogram::Histogram::<u64>::new(3)?;
        latency.record(5000)?;
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&latency, &mut bytes)
            .map_err(|error| anyhow!("{error}"))?;
        Ok(bytes)
    }
}
