//! A paragraph that explains the numbers. Every statement is computed from the report.

use penstock_rig::words::{count, size};

use crate::measure::SentBytes;
use crate::report::{Ratio, Report, Row};
use crate::run::{FETCH_BYTES, PATHS};

/// Share of busy time from which on the generator, not the server, may have set the pace.
const GENERATOR_BUSY_MOST: f64 = 0.9;

/// Share of the data in memory below which the disk took part.
const CACHED_LEAST: f64 = 0.99;

/// The paragraph.
pub(crate) fn tell(report: &Report) -> String {
    let mut sentences: Vec<String> =
        FETCH_BYTES.into_iter().filter_map(|fetch_bytes| compare(report, fetch_bytes)).collect();
    sentences.push(user_space(report));
    sentences.extend(choices(report));
    sentences.push(pace(report));
    sentences.push(memory(report));
    sentences.join(" ")
}

/// Compares the chain with the two other paths.
fn compare(report: &Report, fetch_bytes: u64) -> Option<String> {
    let row = |path| report.row(path, fetch_bytes);
    let (copy, sendfile, chain) = (row("copy")?, row("sendfile")?, row("chain")?);
    let against = |ratio: fn(&Row, &Row) -> Ratio| {
        let to_copy = relation("copy", ratio(chain, copy));
        format!("{to_copy} and {}", relation("sendfile", ratio(chain, sendfile)))
    };
    Some(format!(
        "At {} a fetch, chain's throughput is {}; its CPU time a GB is {}. {}",
        size(fetch_bytes),
        against(throughput),
        against(cpu),
        counts(&[copy, sendfile, chain])
    ))
}

fn throughput(one: &Row, other: &Row) -> Ratio {
    one.spread(|timed| timed.gb_per_s).over(&other.spread(|timed| timed.gb_per_s))
}

fn cpu(one: &Row, other: &Row) -> Ratio {
    one.spread(|timed| timed.cpu_s_per_gb).over(&other.spread(|timed| timed.cpu_s_per_gb))
}

fn relation(other: &str, ratio: Ratio) -> String {
    let Ratio(spread) = ratio;
    let range = format!("{:.2} to {:.2}", spread.min, spread.max);
    if ratio.is_clear() {
        format!("{:.2} times {other}'s ({range})", spread.median)
    } else {
        format!("not clearly different from {other}'s ({range} times)")
    }
}

fn counts(rows: &[&Row]) -> String {
    let list = |of: &dyn Fn(&Row) -> Option<f64>| -> Option<String> {
        let parts: Option<Vec<String>> =
            rows.iter().map(|row| Some(format!("{} {}", row.path, count(of(row)?)))).collect();
        Some(parts?.join(", "))
    };
    let switches = list(&|row| Some(row.counted.switches_per_gb)).unwrap_or_default();
    match list(&|row| row.counted.system_calls_per_gb) {
        Some(calls) => format!("System calls a GB: {calls}; context switches a GB: {switches}."),
        None => format!("Context switches a GB: {switches}; system calls need perf to be counted."),
    }
}

/// The paths that brought bytes through the server's memory, with the largest share of each.
fn user_space(report: &Report) -> String {
    let most = |path: &str| {
        let rows = report.rows.iter().filter(|row| row.path == path);
        let shares = rows.map(|row| row.spread(|timed| timed.sent.user_space_share()).max);
        shares.fold(0.0, f64::max) * 100.0
    };
    let copied = PATHS.into_iter().filter(|path| most(path) > 0.0);
    let copied: Vec<String> = copied.map(|path| format!("{path} {:.2} %", most(path))).collect();
    if copied.is_empty() {
        return "No record byte went through the server's memory.".to_owned();
    }
    format!(
        "Record bytes that went through the server's memory, copied in by a read and out by a send: \
         {}; with the others none.",
        copied.join(", ")
    )
}

/// The paths that `auto` chose, as shares of the bytes that it sent.
fn choices(report: &Report) -> Option<String> {
    let mut at_sizes = Vec::new();
    for fetch_bytes in FETCH_BYTES {
        let rounds = &report.row("auto", fetch_bytes)?.timed;
        let sum = |of: fn(&SentBytes) -> u64| rounds.iter().map(|timed| of(&timed.sent)).sum();
        let by: [(&str, u64); 3] = [
            ("copy", sum(|sent| sent.copy)),
            ("sendfile", sum(|sent| sent.sendfile)),
            ("chain", sum(|sent| sent.chain)),
        ];
        let total: u64 = by.iter().map(|(_, bytes)| bytes).sum();
        let share = |bytes| bytes as f64 / total as f64 * 100.0;
        let parts = by.into_iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> =
            parts.map(|(path, bytes)| format!("{:.2} % by {path}", share(bytes))).collect();
        at_sizes.push(format!("{} at {}", parts.join(", "), size(fetch_bytes)));
    }
    Some(format!("auto sent {}.", at_sizes.join("; ")))
}

fn pace(report: &Report) -> String {
    let busy = |row: &Row| row.spread(|timed| timed.generator_busy).median;
    let busiest = report.rows.iter().max_by(|one, other| busy(one).total_cmp(&busy(other)));
    let Some(busiest) = busiest else { return String::new() };
    let at = format!(
        "{:.0} % busy at most ({} with {})",
        busy(busiest) * 100.0,
        size(busiest.fetch_bytes),
        busiest.path
    );
    if busy(busiest) > GENERATOR_BUSY_MOST {
        format!(
            "The load generator was {at}: where it is, it may have set the pace, not the server."
        )
    } else {
        format!("The load generator was {at}: the server set the pace.")
    }
}

fn memory(report: &Report) -> String {
    let Some(found) = report.residency else {
        return "Whether the data stayed in memory cannot be seen on this file system; it was read \
                before every run."
            .to_owned();
    };
    if found.cached == found.pages {
        return "All of the data stayed in memory in every run.".to_owned();
    }
    let care = if found.share() < CACHED_LEAST { ": read the numbers with care" } else { "" };
    let percent = (found.share() * 1e4).floor() / 1e2;
    format!("At least {percent:.2} % of the data stayed in memory in every run{care}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Residency;
    use crate::report::{Counted, Timed};

    fn row(path: &'static str, fetch_bytes: u64, gb_per_s: [f64; 3]) -> Row {
        let timed = |gb_per_s| Timed {
            gb_per_s,
            fetches_per_s: 1.0,
            p50_ms: 1.0,
            p99_ms: 1.0,
            cpu_s_per_gb: 1.0 / gb_per_s,
            sent: sent(path),
            generator_busy: 0.4,
        };
        let counted = Counted { system_calls_per_gb: None, switches_per_gb: 10.0 };
        Row { path, fetch_bytes, counted, timed: gb_per_s.map(timed).to_vec() }
    }

    /// A run in which `auto` takes two paths.
    fn sent(path: &str) -> SentBytes {
        let by = |this| if path == this { 1 << 30 } else { 0 };
        let auto = |quarters: u64| if path == "auto" { quarters << 28 } else { 0 };
        SentBytes {
            copy: by("copy"),
            sendfile: by("sendfile") + auto(1),
            chain: by("chain") + auto(3),
        }
    }

    fn report(chain: [f64; 3]) -> Report {
        let rows = FETCH_BYTES.into_iter().flat_map(|fetch_bytes| {
            [
                row("copy", fetch_bytes, [1.9, 2.0, 2.1]),
                row("sendfile", fetch_bytes, [2.9, 3.0, 3.1]),
                row("chain", fetch_bytes, chain),
                row("auto", fetch_bytes, chain.map(|gb_per_s| gb_per_s * 1.1)),
            ]
        });
        Report { rows: rows.collect(), residency: Some(Residency { pages: 9, cached: 8 }) }
    }

    #[test]
    fn a_clear_difference_is_told_in_its_direction_and_with_its_range() {
        let faster = tell(&report([4.0, 4.2, 4.4]));
        assert!(faster.contains("throughput is 2.10 times copy's (1.90 to 2.32)"), "{faster}");
        let slower = tell(&report([0.9, 1.0, 1.1]));
        assert!(slower.contains("throughput is 0.50 times copy's (0.43 to 0.58)"), "{slower}");
    }

    #[test]
    fn rounds_that_overlap_are_not_called_a_difference() {
        let text = tell(&report([2.8, 3.1, 3.3]));
        assert!(
            text.contains("not clearly different from sendfile's (0.90 to 1.14 times)"),
            "{text}"
        );
    }

    #[test]
    fn what_auto_chose_is_told_in_shares() {
        let text = tell(&report([4.0, 4.2, 4.4]));
        let expected = "auto sent 25.00 % by sendfile, 75.00 % by chain at 64\u{a0}KiB; ";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("copy 100.00 %; with the others none"), "{text}");
    }

    #[test]
    fn what_would_spoil_the_numbers_is_told() {
        let text = tell(&report([4.0, 4.2, 4.4]));
        assert!(text.contains("88.88 % of the data stayed in memory in every run: read"), "{text}");
        assert!(text.contains("system calls need perf"), "{text}");
    }
}
