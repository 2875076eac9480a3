//! The saved form of measurements in bench-out/*.json: base units, one entry for each run.
//!
//! The measuring modules write it; `page` and `figures` read it. So either can run without the
//! other.

use penstock_rig::spread::Spread;
use serde::{Deserialize, Serialize};

/// Results and their conditions.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recorded<T> {
    pub(crate) conditions: String,
    pub(crate) took_s: u64,
    pub(crate) results: T,
}

/// Results of `own` and `peers`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Closed-loop runs from the page cache, one of each server and size in a round.
    pub(crate) hot: Vec<Run>,
    /// Hot runs discarded because pages left the cache.
    pub(crate) thrown_away: u32,
    pub(crate) counts: Vec<Counts>,
    /// Hot readers beside a cold scan.
    pub(crate) beside_cold: Vec<Pair>,
    pub(crate) cold_thrown_away: Vec<ThrownAway>,
    /// Why there is no slow disk among them, if the plan wanted one.
    pub(crate) no_slow_disk: Option<String>,
    /// One reader of the whole log, from the disk.
    #[serde(default)]
    pub(crate) scans: Vec<Scan>,
    pub(crate) memory: Vec<Memory>,
}

/// One reader of the whole log, from the disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub(crate) server: String,
    pub(crate) round: u32,
    pub(crate) bytes_per_s: f64,
    pub(crate) server_cpu_s_per_gb: f64,
    /// Share of the log in the page cache afterwards.
    pub(crate) left_behind: f64,
}

/// One load of hot readers on one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) server: String,
    pub(crate) round: u32,
    pub(crate) fetch_bytes: u32,
    pub(crate) connections: u32,
    pub(crate) fetches_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) server_cpu_s_per_fetch: f64,
    pub(crate) server_cpu_s_per_gb: f64,
    /// Share of its core that the generator used. Near 1 in a closed loop means that the generator,
    /// not the server, set the pace.
    pub(crate) generator_busy: f64,
}

/// Hot readers alone, then beside cold ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) trial: Trial,
    pub(crate) quiet: HotReaders,
    pub(crate) beside: HotReaders,
    pub(crate) cold_bytes_per_s: f64,
    /// Share of the cold readers' pages that were not in memory just before their fetch.
    pub(crate) cold_uncached: f64,
}

/// The conditions of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) round: u32,
    /// The limit of the servers' reads. `None`: an unlimited disk.
    pub(crate) disk_bytes_per_s: Option<u64>,
    pub(crate) pace: Pace,
    /// Hot fetches offered a second. 0: a closed loop.
    pub(crate) rate: f64,
    /// Cold fetches offered a second. 0: a closed loop.
    pub(crate) cold_rate: f64,
}

/// Which readers have a fixed rate instead of a closed loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    Closed,
    HotPaced,
    BothPaced,
}

/// The results of the hot readers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HotReaders {
    pub(crate) fetches_per_s: f64,
    /// Share of the due requests that were done. `None` in a closed loop.
    pub(crate) rate_kept: Option<f64>,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Points of a distribution: microseconds, and the share of fetches that took no longer.
    pub(crate) latency_us_cdf: Vec<(f64, f64)>,
}

/// A discarded pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ThrownAway {
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) trial: Trial,
    pub(crate) reason: Reason,
    /// The reason in numbers.
    pub(crate) detail: String,
}

/// Why a pair is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// Pages of the hot readers came or went.
    HotPagesMoved,
    /// Too many of the cold readers' pages were in memory, or it is not known how many.
    NotCold,
}

/// The cost of one fetch in the kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) server: String,
    pub(crate) fetch_bytes: u32,
    /// `None`: perf is missing.
    pub(crate) system_calls_per_fetch: Option<f64>,
    pub(crate) switches_per_fetch: f64,
    /// `None`: there is no ring, or it had no entries.
    pub(crate) ring_entries_per_enter: Option<f64>,
}

/// Memory after all loads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) server: String,
    pub(crate) resident_bytes: u64,
    pub(crate) most_resident_bytes: u64,
}

/// Results of `produce`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Produced {
    /// Runs acknowledged from the page cache.
    pub(crate) appending: Vec<Appending>,
    /// Runs acknowledged from the disk.
    pub(crate) syncing: Vec<Syncing>,
    /// Why nothing was measured on a slower disk.
    pub(crate) no_slow_disk: Option<String>,
}

/// One load of producers on one server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Appending {
    pub(crate) server: String,
    pub(crate) partitions: u32,
    pub(crate) round: u32,
    pub(crate) records_per_s: f64,
    pub(crate) records_per_cpu_s: f64,
    /// Share of its core that the generator used.
    pub(crate) generator_busy: f64,
}

/// One load of producers on a server that syncs, then fio with writes of the same size.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Syncing {
    /// `None`: an unlimited disk.
    pub(crate) disk_bytes_per_s: Option<u64>,
    /// Partitions of the server, and files of fio.
    pub(crate) partitions: u32,
    pub(crate) round: u32,
    /// Mean bytes of one sync.
    #[serde(alias = "group_bytes")]
    pub(crate) commit_bytes: u64,
    pub(crate) penstock_bytes_per_s: f64,
    pub(crate) fio_bytes_per_s: f64,
}

/// Results of `scenarios`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scenarios {
    pub(crate) idle: Idle,
    pub(crate) slow: Slow,
    pub(crate) many: Vec<Many>,
}

/// Thousands of idle connections, half of them in a long poll.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) connections: usize,
    /// Resident memory of the server.
    pub(crate) bytes_each: f64,
    /// Share of one core.
    pub(crate) cpu_share: f64,
    /// Fetches a second of active connections alone and beside the idle ones, pair by pair.
    pub(crate) active_pairs: Vec<(f64, f64)>,
}

/// Peers that request much and read little or nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Slow {
    pub(crate) silent: usize,
    pub(crate) slow: usize,
    /// p99 of good readers in microseconds, quiet and beside them, pair by pair.
    pub(crate) p99_us_pairs: Vec<(f64, f64)>,
    pub(crate) threads_quiet: usize,
    pub(crate) threads: usize,
    pub(crate) resident_bytes_quiet: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) send_timeout_s: f64,
    /// Seconds from the last silent peer's request until all silent peers were dropped. `None`:
    /// they were not.
    pub(crate) silent_dropped_after_s: Option<f64>,
}

/// Thousands of large fetches at once, from a server of root and from one of a user with a pipe
/// budget.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Many {
    pub(crate) path: String,
    pub(crate) connections: u32,
    pub(crate) fetch_bytes: u32,
    /// Fetches a second as root and unprivileged, pair by pair.
    pub(crate) pairs: Vec<(f64, f64)>,
}

impl Comparison {
    /// The servers in the order of their turns.
    pub(crate) fn servers(&self) -> Vec<&str> {
        in_order(self.hot.iter().map(|run| run.server.as_str()))
    }

    /// The sizes of hot fetches.
    pub(crate) fn sizes(&self) -> Vec<u32> {
        in_order(self.hot.iter().map(|run| run.fetch_bytes))
    }

    /// A figure of one server's hot runs. `None`: there are no runs.
    pub(crate) fn hot(&self, server: &str, size: u32, of: fn(&Run) -> f64) -> Option<Spread> {
        let runs = self.hot.iter().filter(|run| run.server == server && run.fetch_bytes == size);
        spread(runs.map(of))
    }

    /// The ratio of the figure to another server's, round by round.
    pub(crate) fn hot_ratio(
        &self,
        servers: (&str, &str),
        size: u32,
        of: fn(&Run) -> f64,
    ) -> Option<Spread> {
        let runs = self.hot.iter().filter(|run| run.fetch_bytes == size);
        paired(runs.map(|run| (run.server.as_str(), run.round, of(run))), servers)
    }

    /// The disks on which there was a cold scan.
    pub(crate) fn disks(&self) -> Vec<Option<u64>> {
        in_order(self.beside_cold.iter().map(|pair| pair.trial.disk_bytes_per_s))
    }

    /// The pairs of one disk and pace.
    pub(crate) fn pairs(
        &self,
        disk: Option<u64>,
        pace: Pace,
    ) -> impl Iterator<Item = &Pair> + Clone {
        let pairs = self.beside_cold.iter();
        pairs.filter(move |pair| pair.trial.disk_bytes_per_s == disk && pair.trial.pace == pace)
    }
}

/// Median and range of the rounds' ratios, from (server, round, figure). `None`: no round has both
/// servers.
pub(crate) fn paired<'a>(
    figures: impl Iterator<Item = (&'a str, u32, f64)> + Clone,
    (server, other): (&str, &str),
) -> Option<Spread> {
    let ratios =
        figures.clone().filter(|figure| figure.0 == server).filter_map(|(_, round, own)| {
            let beside = figures.clone().find(|figure| figure.0 == other && figure.1 == round)?;
            Some(own / beside.2)
        });
    spread(ratios)
}

pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| Spread::of(values))
}

pub(crate) fn in_order<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn run(server: &str, round: u32, fetches_per_s: f64) -> Run {
        Run {
            server: server.to_owned(),
            round,
            fetch_bytes: 4096,
            connections: 16,
            fetches_per_s,
            p50_us: 1.0,
            p99_us: 2.0,
            server_cpu_s_per_fetch: 1.0 / fetches_per_s,
            server_cpu_s_per_gb: 0.1,
            generator_busy: 0.5,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was twice as fast in the second round; the servers were not.
        let hot = [("raw", 0, 10.0), ("auto", 0, 9.0), ("raw", 1, 20.0), ("auto", 1, 18.0)];
        let hot = hot.map(|(server, round, rate)| run(server, round, rate)).to_vec();
        let comparison = Comparison { hot, ..Comparison::default() };
        let of: fn(&Run) -> f64 = |run| run.fetches_per_s;
        let ratio = comparison.hot_ratio(("auto", "raw"), 4096, of);
        assert_eq!(ratio, Some(Spread { median: 0.9, min: 0.9, max: 0.9 }));
        assert_eq!(comparison.hot_ratio(("auto", "nginx"), 4096, of), None);
        assert_eq!(comparison.servers(), ["raw", "auto"]);
    }
}
