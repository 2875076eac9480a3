//! The part of a comparison's section about hot readers beside a cold scan: a table and a picture
//! for each disk.
//!
//! Called by `page`. Pure: results in, text out.

use penstock_rig::spread::Spread;
use penstock_rig::words::count;

use crate::cells::{head, median, range, row};
use crate::cold::UNCACHED_MIN;
use crate::results::{Comparison, Pace, Pair, Reason, in_order, paired, spread};

const PACES: [Pace; 3] = [Pace::Closed, Pace::HotPaced, Pace::BothPaced];

/// The tables of all disks, and the discarded pairs.
pub(crate) fn words(section: &str, reference: &str, results: &Comparison) -> String {
    let mut text = format!(
        "\n### Hot beside cold\n\n8 hot readers of 64 KiB (64 MiB, all in the page cache before and after); \
         4 cold readers of 1 MiB at random places of the whole log, which is evicted every 20 ms; on the \
         core of the load they leave the hot ones the processor. \
         Quiet → beside the scan, medians. A pair of phases counts only if {:.0} % of what the cold readers \
         asked for was not in memory just before. Latency at a rate counts from when a fetch was due; \
         fetches that were due and never sent are in \"kept\" only.\n",
        UNCACHED_MIN * 100.0,
    );
    text += &thrown_away(results);
    if let Some(reason) = &results.no_slow_disk {
        text += &format!("\nNo slow disk: {reason}.\n");
    }
    for disk in results.disks() {
        text += &format!("\n#### {}\n\n{}", name(disk), table(results, disk, reference));
        text += &format!("\n![latency](plots/{})\n", picture(section, disk));
    }
    text
}

/// The file name of the latency picture of a section and disk.
pub(crate) fn picture(section: &str, disk: Option<u64>) -> String {
    format!("{section}-latency{}.svg", disk.map_or("", |_| "-slow-disk"))
}

/// The name of a disk.
pub(crate) fn name(disk: Option<u64>) -> String {
    disk.map_or("Disk as it is".to_owned(), |bytes_per_s| {
        format!("Disk limited to {} MB/s (cgroup of the servers)", bytes_per_s / 1_000_000)
    })
}

fn thrown_away(results: &Comparison) -> String {
    let pairs = &results.cold_thrown_away;
    if pairs.is_empty() {
        return "\nNo pair was discarded.\n".to_owned();
    }
    let mut text = format!("\nDiscarded pairs, {} in all:", pairs.len());
    for server in in_order(pairs.iter().map(|pair| pair.server.as_str())) {
        let of = |reason| {
            pairs.iter().filter(|pair| pair.server == server && pair.reason == reason).count()
        };
        let (moved, not_cold) = (of(Reason::HotPagesMoved), of(Reason::NotCold));
        text += &format!(" {server} {moved} (hot pages moved) and {not_cold} (not cold);");
    }
    text.trim_end_matches(';').to_owned() + ".\n"
}

fn table(results: &Comparison, disk: Option<u64>, reference: &str) -> String {
    let times = format!("times {reference}");
    let mut table = head(&[
        "load",
        "server",
        "hot fetches/s",
        &times,
        "kept",
        "p50 us",
        "times quiet",
        "p99 us",
        "times quiet",
        &times,
        "cold MB/s",
        &times,
        "uncached",
    ]);
    for pace in PACES {
        let servers = in_order(results.pairs(disk, pace).map(|pair| pair.server.as_str()));
        for server in servers {
            table += &line(results, (disk, pace), server, reference);
        }
    }
    table
}

fn line(
    results: &Comparison,
    (disk, pace): (Option<u64>, Pace),
    server: &str,
    reference: &str,
) -> String {
    let own = || results.pairs(disk, pace).filter(|pair| pair.server == server);
    let of = |of: fn(&Pair) -> f64| spread(own().map(of));
    let times = |of: fn(&Pair) -> f64| -> Option<Spread> {
        let figures = results.pairs(disk, pace);
        let figures = figures.map(|pair| (pair.server.as_str(), pair.trial.round, of(pair)));
        paired(figures, (server, reference))
    };
    let medians =
        |quiet, beside| format!("{} → {}", median(of(quiet), count), median(of(beside), count));
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    row([
        own().next().map_or(String::new(), load),
        server.to_owned(),
        medians(|pair| pair.quiet.fetches_per_s, |pair| pair.beside.fetches_per_s),
        range(times(|pair| pair.beside.fetches_per_s)),
        median(spread(own().filter_map(|pair| pair.beside.rate_kept)), percent),
        medians(|pair| pair.quiet.p50_us, |pair| pair.beside.p50_us),
        range(of(|pair| pair.beside.p50_us / pair.quiet.p50_us)),
        medians(|pair| pair.quiet.p99_us, |pair| pair.beside.p99_us),
        range(of(|pair| pair.beside.p99_us / pair.quiet.p99_us)),
        range(times(|pair| pair.beside.p99_us)),
        median(of(|pair| pair.cold_bytes_per_s / 1e6), count),
        range(times(|pair| pair.cold_bytes_per_s)),
        median(of(|pair| pair.cold_uncached), percent),
    ])
}

fn load(pair: &Pair) -> String {
    let (hot, cold) = (count(pair.trial.rate), count(pair.trial.cold_rate));
    match pair.trial.pace {
        Pace::Closed => "closed loop".to_owned(),
        Pace::HotPaced => format!("{hot}/s offered"),
        Pace::BothPaced => format!("{hot}/s offered, cold {cold}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{HotReaders, ThrownAway, Trial};

    fn trial(round: u32, disk_bytes_per_s: Option<u64>) -> Trial {
        Trial { round, disk_bytes_per_s, pace: Pace::Closed, rate: 0.0, cold_rate: 0.0 }
    }

    fn pair(server: &str, round: u32, disk: Option<u64>, fetches_per_s: f64) -> Pair {
        let readers = |fetches_per_s| HotReaders {
            fetches_per_s,
            rate_kept: None,
            p50_us: 1e6 / fetches_per_s,
            p99_us: 1e6 / fetches_per_s,
            latency_us_cdf: vec![],
        };
        Pair {
            server: server.to_owned(),
            trial: trial(round, disk),
            quiet: readers(1000.0),
            beside: readers(fetches_per_s),
            cold_bytes_per_s: 300e6,
            cold_uncached: 0.987,
        }
    }

    #[test]
    fn a_disk_has_its_own_table_with_ratios_within_rounds() {
        let slow = Some(400_000_000);
        let beside_cold = vec![
            pair("auto", 0, None, 500.0),
            pair("sendfile", 0, None, 500.0),
            pair("auto", 0, slow, 800.0),
            pair("sendfile", 0, slow, 100.0),
            pair("auto", 1, slow, 600.0),
            pair("sendfile", 1, slow, 200.0),
        ];
        let text = words("own", "sendfile", &Comparison { beside_cold, ..Comparison::default() });
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("| auto |")).collect();
        assert!(lines[0].contains("1\u{a0}000 → 500 | 1.00 (1.00–1.00)"), "{text}");
        assert!(lines[1].contains("→ 700 | 5.50 (3.00–8.00)"), "{text}");
        assert!(lines[1].contains("| 300 | 1.00 (1.00–1.00) | 98.7 % |"), "{text}");
        assert!(
            text.contains("Disk limited to 400 MB/s") && text.contains("own-latency-slow-disk.svg")
        );
        assert!(text.contains("No pair was discarded."));
    }

    #[test]
    fn what_was_thrown_away_is_counted_by_server_and_reason() {
        let away = |server: &str, reason| ThrownAway {
            server: server.to_owned(),
            trial: trial(0, None),
            reason,
            detail: String::new(),
        };
        let cold_thrown_away = vec![
            away("kafka", Reason::NotCold),
            away("auto", Reason::HotPagesMoved),
            away("kafka", Reason::NotCold),
        ];
        let text = thrown_away(&Comparison { cold_thrown_away, ..Comparison::default() });
        assert_eq!(
            text,
            "\nDiscarded pairs, 3 in all: kafka 0 (hot pages moved) and 2 (not cold); auto 1 (hot \
             pages moved) and 0 (not cold).\n"
        );
    }
}
