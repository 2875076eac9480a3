//! The arguments (durations, rounds, directories), and the conditions that go with results.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use penstock_rig::machine::Machine;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::results::Recorded;

/// Bytes of a segment by the server's defaults.
const LOG_BYTES: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Keep the served data in DIR/bench during the run. An existing DIR/bench is removed first
    #[arg(long, value_name = "DIR", default_value = "target", global = true)]
    under: PathBuf,

    /// Directory of the results
    #[arg(long, value_name = "DIR", default_value = "bench-out", global = true)]
    out: PathBuf,

    /// Directory of BENCHMARKS.md and plots/
    #[arg(long, value_name = "DIR", default_value = "docs", global = true)]
    docs: PathBuf,

    /// Bytes of record batches. The first half is read hot, all of it cold
    #[arg(long, value_name = "BYTES", default_value_t = LOG_BYTES, global = true)]
    log_bytes: u64,

    /// Rounds, in which all servers take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), global = true)]
    rounds: u32,

    /// Measured seconds of one run
    #[arg(long, default_value_t = 1.0, global = true)]
    seconds: f64,

    /// Bytes a second that a slow disk reads or writes (by a cgroup, which needs root). 0: no slow
    /// disk. Default: 400 MB/s for cold scans and 125 MB/s for syncs, where the machine can do it
    #[arg(long, value_name = "N", global = true)]
    disk_bytes_per_second: Option<u64>,
}

/// The parameters of every measurement.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The working directory, empty at the start.
    pub(crate) dir: PathBuf,
    pub(crate) log_bytes: u64,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    /// The speed of a slow disk that the command line insists on.
    pub(crate) disk_bytes_per_s: Option<u64>,
    pub(crate) machine: Machine,
    pub(crate) docs: PathBuf,
    out: PathBuf,
    started: Instant,
}

impl Plan {
    pub(crate) fn new(arguments: Arguments) -> anyhow::Result<Plan> {
        let Arguments { under, out, docs, log_bytes, rounds, seconds, disk_bytes_per_second } =
            arguments;
        ensure!(log_bytes.is_multiple_of(32 << 20), "--log-bytes must be a multiple of 32 MiB");
        let dir = std::path::absolute(under.join("bench"))?;
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&out)?;
        let (machine, started) = (Machine::this(), Instant::now());
        Ok(Plan {
            dir,
            log_bytes,
            rounds,
            seconds,
            disk_bytes_per_s: disk_bytes_per_second,
            machine,
            docs,
            out,
            started,
        })
    }

    /// Saves results with their conditions under a name, which it returns. `served`: the bytes of
    /// the log that was read, if there was one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn record<T: Serialize>(
        &self,
        name: &'static str,
        served: Option<u64>,
        results: T,
    ) -> anyhow::Result<&'static str> {
        let mut conditions = self.machine.words();
        conditions.push("loopback, one server thread".to_owned());
        conditions.extend(served.map(|bytes| format!("log of {} MiB", bytes >> 20)));
        conditions.push(format!("{} rounds of {} s", self.rounds, self.seconds));
        conditions.extend(self.machine.commit().map(|commit| format!("commit {commit}")));
        conditions.extend(today());
        let took_s = self.started.elapsed().as_secs();
        let recorded = Recorded { conditions: conditions.join(" · "), took_s, results };
        let file = self.result_file(name);
        fs::write(&file, serde_json::to_string_pretty(&recorded)?)?;
        eprintln!("{} has the results, after {took_s} s", file.display());
        Ok(name)
    }

    /// The saved results of an earlier run, if there are any.
    ///
    /// # Errors
    /// The file was not written by this program.
    pub(crate) fn recorded<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> anyhow::Result<Option<Recorded<T>>> {
        let file = self.result_file(name);
        if !file.exists() {
            return Ok(None);
        }
        let context = || format!("cannot read {}", file.display());
        let recorded = serde_json::from_slice(&fs::read(&file)?).with_context(context)?;
        Ok(Some(recorded))
    }

    /// Makes a new empty directory.
    ///
    /// # Errors
    /// The directory exists or cannot be made.
    pub(crate) fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Prints the current step.
    pub(crate) fn say(&self, words: &str) {
        eprintln!("{:>4} s  {words}", self.started.elapsed().as_secs());
    }

    fn result_file(&self, name: &str) -> PathBuf {
        self.out.join(name).with_extension("json")
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn today() -> Option<String> {
    let output = Command::new("date").args(["--utc", "+%F"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
