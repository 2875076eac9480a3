//! The last words of a bench: three lines for a stranger, with the bars that were held or missed.
//!
//! ```text
//!   Data in memory …    fetches, beside a bare server of files
//!   The same …          while others read old data
//!   Old data …          one reader of the disk
//! ```
//!
//! Called by `main` after `own`. Pure: results in, text out. docs/BENCHMARKS.md has the same bars.

use penstock_rig::words::size;

use crate::hot::SIZES;
use crate::results::{Comparison, HotReaders, Pace, Pair, Run, Scan, paired, spread};

const AUTO: &str = "penstock auto";
const RAW: &str = "raw";
const OTHERS: [&str; 2] = ["penstock chain", "penstock sendfile"];

/// Fetches a second, times the bare server's, by size.
const HOT_BARS: [f64; 3] = [0.82, 0.82, 1.05];
/// Of the quiet rate, in a closed loop.
const KEPT_BAR: f64 = 0.85;
/// Times quiet, at half of the rate that all servers can hold.
const P99_BAR: f64 = 2.0;
const P999_BAR: f64 = 4.0;
/// Bytes a second, times the better path's.
const SCAN_BAR: f64 = 0.95;
/// Share of the log that a scan may leave in memory.
const LEFT_BAR: f64 = 0.01;

/// The three lines. A figure that was not measured is left out.
pub(crate) fn lines(results: &Comparison) -> [String; 3] {
    [in_memory(results), beside(results), old(results)]
}

fn in_memory(results: &Comparison) -> String {
    let rate: fn(&Run) -> f64 = |run| run.fetches_per_s;
    let of = |(fetch_bytes, bar): (u32, f64)| {
        let ratio = results.hot_ratio((AUTO, RAW), fetch_bytes, rate)?.median;
        let held = at_least(ratio, bar);
        Some(format!("{ratio:.2} at {} (bar {bar}: {held})", size(u64::from(fetch_bytes))))
    };
    let figures = SIZES.into_iter().zip(HOT_BARS).filter_map(of);
    sentence("Data in memory: fetches a second, times those of a bare server of files", figures)
}

fn beside(results: &Comparison) -> String {
    let mut figures = Vec::new();
    for disk in results.disks() {
        let of = |pace, of: fn(&HotReaders) -> f64| {
            let pairs = results.pairs(disk, pace).filter(|pair| pair.server == AUTO);
            Some(spread(pairs.map(|Pair { quiet, beside, .. }| of(beside) / of(quiet)))?.median)
        };
        let name = disk.map_or_else(String::new, |bytes_per_s| {
            format!("with a disk of {} MB/s ", bytes_per_s / 1_000_000)
        });
        if let Some(kept) = of(Pace::Closed, |readers| readers.fetches_per_s) {
            let held = at_least(kept, KEPT_BAR);
            figures.push(format!("{name}{kept:.2} of the quiet rate (bar {KEPT_BAR}: {held})"));
        }
        for (quantile, name, bar) in [(0.99, "p99", P99_BAR), (0.999, "p99.9", P999_BAR)] {
            let of_pair = |pair: &Pair| {
                let latency = |readers: &HotReaders| at_quantile(readers, quantile);
                Some(latency(&pair.beside)? / latency(&pair.quiet)?)
            };
            let pairs = results.pairs(disk, Pace::HotPaced).filter(|pair| pair.server == AUTO);
            if let Some(times) = spread(pairs.filter_map(of_pair)) {
                let (times, held) = (times.median, at_most(times.median, bar));
                figures.push(format!("at half of it {name} {times:.1} times (bar {bar}: {held})"));
            }
        }
    }
    sentence("The same while others read old data, times quiet", figures.into_iter())
}

fn old(results: &Comparison) -> String {
    let of = |server: &str, of: fn(&Scan) -> f64| {
        spread(results.scans.iter().filter(|scan| scan.server == server).map(of))
    };
    let mut figures = Vec::new();
    if let Some(rate) = of(AUTO, |scan| scan.bytes_per_s) {
        figures.push(format!("{:.0} MB/s", rate.median / 1e6));
    }
    let runs = results.scans.iter().map(|scan| (&*scan.server, scan.round, scan.bytes_per_s));
    let beside = |other| paired(runs.clone(), (AUTO, other)).map(|ratio| ratio.median);
    if let Some(least) = OTHERS.into_iter().filter_map(beside).min_by(f64::total_cmp) {
        let held = at_least(least, SCAN_BAR);
        figures
            .push(format!("{least:.2} times the better of its two paths (bar {SCAN_BAR}: {held})"));
    }
    if let Some(left) = of(AUTO, |scan| scan.left_behind) {
        let (left, held) = (left.median * 100.0, at_most(left.median, LEFT_BAR));
        figures
            .push(format!("{left:.1} % of it left in memory (bar {} %: {held})", LEFT_BAR * 100.0));
    }
    sentence("Old data, one reader from the disk", figures.into_iter())
}

fn sentence(subject: &str, figures: impl Iterator<Item = String>) -> String {
    let figures: Vec<String> = figures.collect();
    if figures.is_empty() {
        format!("{subject}: not measured.")
    } else {
        format!("{subject}: {}.", figures.join(", "))
    }
}

/// The latency that the share of fetches does not exceed.
fn at_quantile(readers: &HotReaders, quantile: f64) -> Option<f64> {
    readers.latency_us_cdf.iter().find(|(_, share)| *share >= quantile).map(|(us, _)| *us)
}

fn at_least(value: f64, bar: f64) -> &'static str {
    verdict(value >= bar)
}

fn at_most(value: f64, bar: f64) -> &'static str {
    verdict(value <= bar)
}

fn verdict(is_held: bool) -> &'static str {
    if is_held { "held" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Trial;
    use crate::results::tests::run;

    fn readers(fetches_per_s: f64, tail_us: f64) -> HotReaders {
        let latency_us_cdf = vec![(10.0, 0.5), (tail_us, 0.995), (3.0 * tail_us, 1.0)];
        let (p50_us, p99_us) = (10.0, tail_us);
        HotReaders { fetches_per_s, rate_kept: None, p50_us, p99_us, latency_us_cdf }
    }

    #[test]
    fn each_figure_has_its_bar_and_whether_it_was_held() {
        let trial =
            |pace| Trial { round: 0, disk_bytes_per_s: None, pace, rate: 0.0, cold_rate: 0.0 };
        let pair = |pace, beside| Pair {
            server: AUTO.to_owned(),
            trial: trial(pace),
            quiet: readers(100.0, 50.0),
            beside,
            cold_bytes_per_s: 1.0,
            cold_uncached: 1.0,
        };
        let scan = |server: &str, bytes_per_s, left_behind| Scan {
            server: server.to_owned(),
            round: 0,
            bytes_per_s,
            server_cpu_s_per_gb: 0.2,
            left_behind,
        };
        let results = Comparison {
            hot: vec![run(RAW, 0, 100.0), run(AUTO, 0, 83.0)],
            beside_cold: vec![
                pair(Pace::Closed, readers(80.0, 50.0)),
                pair(Pace::HotPaced, readers(100.0, 75.0)),
            ],
            scans: vec![scan(AUTO, 9e8, 0.0), scan(OTHERS[0], 1e9, 1.0), scan(OTHERS[1], 8e8, 1.0)],
            ..Comparison::default()
        };
        let [memory, beside, old] = lines(&results);
        assert!(
            memory.contains(": 0.83 at ") && memory.ends_with(" (bar 0.82: held)."),
            "{memory}"
        );
        let expected = ": 0.80 of the quiet rate (bar 0.85: missed), at half of it p99 1.5 times \
                        (bar 2: held), at half of it p99.9 1.5 times (bar 4: held).";
        assert!(beside.ends_with(expected), "{beside}");
        let expected = ": 900 MB/s, 0.90 times the better of its two paths (bar 0.95: missed), \
                        0.0 % of it left in memory (bar 1 %: held).";
        assert!(old.ends_with(expected), "{old}");
        assert!(lines(&Comparison::default()).iter().all(|line| line.ends_with("not measured.")));
    }
}
