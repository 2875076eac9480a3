//! What is kept of a measurement, as it stands in bench-out/*.json: base units, one entry a run.
//!
//! Written by the measuring side, read by `page` and `figures`, so that both can be run apart.

use penstock_rig::spread::Spread;
use serde::{Deserialize, Serialize};

/// Results and their conditions.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recorded<T> {
    pub(crate) conditions: String,
    pub(crate) took_s: u64,
    pub(crate) results: T,
}

/// Of `own` and `peers`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Closed loop, all in the page cache; one of each server and size a round.
    pub(crate) hot: Vec<Run>,
    /// Of those, runs thrown away since pages left the cache under them.
    pub(crate) thrown_away: u32,
    pub(crate) counts: Vec<Counts>,
    /// Hot readers beside a cold scan.
    pub(crate) beside_cold: Vec<Pair>,
    pub(crate) cold_thrown_away: Vec<ThrownAway>,
    /// Why there is no slow disk among them, if one was wanted.
    pub(crate) no_slow_disk: Option<String>,
    pub(crate) memory: Vec<Memory>,
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
    /// Share of its core that the generator used: near 1 in a closed loop, it and not the server
    /// set the pace.
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
    /// Of what cold readers were about to ask for.
    pub(crate) cold_uncached: f64,
}

/// What a pair was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) round: u32,
    /// The most that the servers may read; `None`: what the disk gives.
    pub(crate) disk_bytes_per_s: Option<u64>,
    pub(crate) pace: Pace,
    /// Hot fetches offered a second; 0: closed loop.
    pub(crate) rate: f64,
    /// Cold ones; 0: closed loop.
    pub(crate) cold_rate: f64,
}

/// Which of the readers have a rate of their own, instead of going as fast as they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    Closed,
    HotPaced,
    BothPaced,
}

/// What hot readers got.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HotReaders {
    pub(crate) fetches_per_s: f64,
    /// Share of what was due; `None` in a closed loop.
    pub(crate) rate_kept: Option<f64>,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Microseconds, and the share of fetches that took no longer.
    pub(crate) latency_us_cdf: Vec<(f64, f64)>,
}

/// A pair that says nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ThrownAway {
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) trial: Trial,
    pub(crate) reason: Reason,
    /// The reason in numbers.
    pub(crate) detail: String,
}

/// Why it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// Pages that hot readers read came or went.
    HotPagesMoved,
    /// Too much of what cold readers asked for was in memory, or nobody could tell.
    NotCold,
}

/// What one fetch costs the kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) server: String,
    pub(crate) fetch_bytes: u32,
    /// `None`: it takes perf.
    pub(crate) system_calls_per_fetch: Option<f64>,
    pub(crate) switches_per_fetch: f64,
    /// `None`: there is no ring, or it carried nothing.
    pub(crate) ring_entries_per_enter: Option<f64>,
}

/// After all loads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) server: String,
    pub(crate) resident_bytes: u64,
    pub(crate) most_resident_bytes: u64,
}

/// Of `produce`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Produced {
    /// Acknowledged from the page cache.
    pub(crate) appending: Vec<Appending>,
    /// Acknowledged from the disk.
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

/// One load of producers on a server that syncs, then fio with writes as large.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Syncing {
    /// `None`: the disk as it is.
    pub(crate) disk_bytes_per_s: Option<u64>,
    /// Of the server; files of fio.
    pub(crate) partitions: u32,
    pub(crate) round: u32,
    /// Mean of what one sync carried.
    pub(crate) group_bytes: u64,
    pub(crate) penstock_bytes_per_s: f64,
    pub(crate) fio_bytes_per_s: f64,
}

/// Of `scenarios`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scenarios {
    pub(crate) idle: Idle,
    pub(crate) slow: Slow,
    pub(crate) many: Vec<Many>,
}

/// Thousands of connections that do nothing, half of them in a long poll.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) connections: usize,
    /// Resident memory of the server.
    pub(crate) bytes_each: f64,
    /// Of one core.
    pub(crate) cpu_share: f64,
    /// Fetches a second of active connections alone and beside the idle ones, pair by pair.
    pub(crate) active_pairs: Vec<(f64, f64)>,
}

/// Peers that ask for much and read nothing or little.
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
    /// Seconds from the last silent peer's request until all silent ones were dropped; `None`: they
    /// were not.
    pub(crate) silent_dropped_after_s: Option<f64>,
}

/// Thousands of large fetches at once, by root and by somebody without its pipes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Many {
    pub(crate) path: String,
    pub(crate) connections: u32,
    pub(crate) fetch_bytes: u32,
    /// Fetches a second as root and unprivileged, pair by pair.
    pub(crate) pairs: Vec<(f64, f64)>,
}

impl Comparison {
    /// The servers in the order they took turns.
    pub(crate) fn servers(&self) -> Vec<&str> {
        in_order(self.hot.iter().map(|run| run.server.as_str()))
    }

    /// The sizes of hot fetches.
    pub(crate) fn sizes(&self) -> Vec<u32> {
        in_order(self.hot.iter().map(|run| run.fetch_bytes))
    }

    /// A figure of one server's hot runs; `None`: there are none.
    pub(crate) fn hot(&self, server: &str, size: u32, of: fn(&Run) -> f64) -> Option<Spread> {
        let runs = self.hot.iter().filter(|run| run.server == server && run.fetch_bytes == size);
        spread(runs.map(of))
    }

    /// The same against another server, round by round.
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

/// Median and range of the rounds' ratios, of (server, round, figure); `None`: no round has both.
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
