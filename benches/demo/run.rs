//! Produces the data, then puts the same load on a server with each path, in turns.
//!
//! A counting turn comes first: each path reads everything once with verification, then perf counts
//! system calls and context switches. The timed rounds follow, without perf and without
//! verification. A round is copy, sendfile, chain, auto, so a slow spell of the machine hits every
//! path.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use penstock_tests::{Penstock, Start, binary};
use serde_json::{Value, json};

use crate::cache::{self, Residency};
use crate::conditions::{Cores, pinned};
use crate::measure::{self, GB, Reading};
use crate::report::{Counted, Report, Row, Timed};

/// The values of `--fetch-path`, in the order of a round.
pub(crate) const PATHS: [&str; 4] = ["copy", "sendfile", "chain", "auto"];

/// The fetch sizes.
pub(crate) const FETCH_BYTES: [u64; 2] = [64 << 10, 1 << 20];

const TOPIC: &str = "demo";
const PARTITIONS: u32 = 4;
const CONNECTIONS: u32 = 16;
const BATCH_BYTES: u32 = 64 << 10;
const COUNTED_SECONDS: f64 = 1.0;

/// The parameters of a run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// An empty directory.
    pub(crate) dir: PathBuf,
    pub(crate) total_bytes: u64,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) cores: Option<Cores>,
}

/// Produces, counts and measures.
///
/// # Errors
/// A server or a load fails, or a batch read is not the batch written.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Report> {
    plan.produce()?;
    let perf = measure::perf_works();
    let mut report = Report { rows: Vec::new(), residency: None };
    for path in PATHS {
        eprintln!("{path}: verifying, counting");
        let server = plan.start(path)?;
        plan.verify(&server)?;
        for fetch_bytes in FETCH_BYTES {
            let counted = plan.count(&server, fetch_bytes, perf)?;
            report.rows.push(Row { path, fetch_bytes, counted, timed: Vec::new() });
        }
        server.stop()?;
    }
    report.rows.sort_by_key(|row| row.fetch_bytes);
    for round in 1..=plan.rounds {
        for path in PATHS {
            eprintln!("{path}: round {round} of {}", plan.rounds);
            let server = plan.start(path)?;
            for row in report.rows.iter_mut().filter(|row| row.path == path) {
                row.timed.push(plan.time(&server, row.fetch_bytes)?);
            }
            server.stop()?;
            report.residency = least(report.residency, cache::residency(&plan.data_dir())?);
        }
    }
    Ok(report)
}

impl Plan {
    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "total_bytes": self.total_bytes,
            "partitions": PARTITIONS,
            "batch_bytes": BATCH_BYTES,
            "connections": CONNECTIONS,
            "workers": 1,
            "rounds": self.rounds,
            "duration_s": self.seconds,
            "counted_duration_s": COUNTED_SECONDS,
        })
    }

    fn produce(&self) -> anyhow::Result<()> {
        eprintln!("producing {} MiB", self.total_bytes >> 20);
        let server = self.start("auto")?;
        let mut produce = self.load(&server, "produce", PARTITIONS);
        produce.args(["--partitions", &PARTITIONS.to_string()]);
        produce.args(["--batch-bytes", &BATCH_BYTES.to_string()]);
        produce.args(["--total-bytes", &self.total_bytes.to_string()]);
        self.finish(&produce)?;
        server.stop()
    }

    /// Starts a server of one worker on the data, and reads the data into the page cache.
    fn start(&self, path: &str) -> anyhow::Result<Penstock> {
        fs::create_dir_all(self.data_dir())?;
        cache::warm(&self.data_dir())?;
        let start = Start::on(&self.data_dir()).with(&["--fetch-path", path]);
        let mut server = Command::new(binary("penstock"));
        server.args(start.arguments());
        Penstock::start(pinned(self.cores.map(|cores| cores.server), &server))
    }

    /// Reads everything once and checks every batch.
    fn verify(&self, server: &Penstock) -> anyhow::Result<()> {
        let mut fetch = self.load(server, "fetch", PARTITIONS);
        let read = self.finish(fetch.args(["--from", "earliest"]))?;
        let bytes = number(&read, "bytes")?;
        if bytes != self.total_bytes as f64 {
            bail!("{bytes} bytes were read and {} written", self.total_bytes);
        }
        Ok(())
    }

    fn count(&self, server: &Penstock, fetch_bytes: u64, perf: bool) -> anyhow::Result<Counted> {
        let mut fetch = self.fetch(server, fetch_bytes, COUNTED_SECONDS);
        let output = self.dir.join("perf.csv");
        if perf {
            fetch = measure::under_perf(server.pid(), &output, &fetch);
        }
        let before = Reading::of(server)?;
        self.finish(&fetch)?;
        let used = Reading::of(server)? - before;
        let counts = match perf {
            true => measure::perf_counts(&fs::read_to_string(&output)?),
            false => None,
        };
        let switches = counts.map_or(used.switches, |counts| counts.switches);
        let per_gb = |count: u64| count as f64 / used.sent.total_gb();
        Ok(Counted {
            system_calls_per_gb: counts.map(|counts| per_gb(counts.system_calls)),
            switches_per_gb: per_gb(switches),
        })
    }

    fn time(&self, server: &Penstock, fetch_bytes: u64) -> anyhow::Result<Timed> {
        let fetch = self.fetch(server, fetch_bytes, self.seconds);
        let before = Reading::of(server)?;
        let result = self.finish(&fetch)?;
        let used = Reading::of(server)? - before;
        Ok(Timed {
            gb_per_s: number(&result, "bytes_per_s")? / GB,
            fetches_per_s: number(&result, "requests_per_s")?,
            p50_ms: number(&result["latency_us"], "p50")? / 1e3,
            p99_ms: number(&result["latency_us"], "p99")? / 1e3,
            cpu_s_per_gb: used.cpu_s / used.sent.total_gb(),
            sent: used.sent,
            generator_busy: number(&result, "generator_busy")?,
        })
    }

    /// The measured load. It runs until time is over and verifies nothing, so that the generator
    /// stays cheap.
    fn fetch(&self, server: &Penstock, fetch_bytes: u64, seconds: f64) -> Command {
        let mut fetch = self.load(server, "fetch", CONNECTIONS);
        fetch.args(["--partition-max-bytes", &fetch_bytes.to_string()]);
        fetch.args(["--duration", &format!("{seconds}s")]);
        fetch.args(["--warm-up", &format!("{}s", seconds / 6.0), "--no-verify"]);
        fetch
    }

    fn load(&self, server: &Penstock, workload: &str, connections: u32) -> Command {
        let mut load = Command::new(binary("penstock-load"));
        load.args([workload, "--topic", TOPIC]);
        load.args(["--bootstrap-server", &server.address().to_string()]);
        load.args(["--connections", &connections.to_string()]);
        load.arg("--json").arg(self.result_file());
        pinned(self.cores.map(|cores| cores.load), &load)
    }

    /// Runs a load to its end and returns its `result`.
    fn finish(&self, load: &Command) -> anyhow::Result<Value> {
        let mut quiet = Command::new(load.get_program());
        quiet.args(load.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
        let ended = quiet.output().with_context(|| format!("cannot start {load:?}"))?;
        if !ended.status.success() {
            let output = String::from_utf8_lossy(&ended.stderr);
            bail!("{load:?} ended with {}: {output}", ended.status);
        }
        let mut written: Value = serde_json::from_slice(&fs::read(self.result_file())?)?;
        Ok(written["result"].take())
    }

    fn result_file(&self) -> PathBuf {
        self.dir.join("result.json")
    }
}

fn number(result: &Value, name: &str) -> anyhow::Result<f64> {
    result[name].as_f64().with_context(|| format!("no {name} in {result}"))
}

fn least(known: Option<Residency>, found: Option<Residency>) -> Option<Residency> {
    match (known, found) {
        (Some(known), Some(found)) if known.share() <= found.share() => Some(known),
        (known, found) => found.or(known),
    }
}
