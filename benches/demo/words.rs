//! What the numbers say, in a paragraph. Every statement is worked out from the report.

use crate::report::{Ratio, Report, Row};
use crate::run::FETCH_BYTES;
use crate::table::{count, size};

/// From here on the generator, and not the server, may have set the pace.
const GENERATOR_BUSY_MOST: f64 = 0.9;

/// The paragraph.
pub(crate) fn tell(report: &Report) -> String {
    let mut sentences = Vec::new();
    for fetch_bytes in FETCH_BYTES {
        let of = |path| report.row(path, fetch_bytes);
        if let (Some(copy), Some(sendfile), Some(chain)) = (of("copy"), of("sendfile"), of("chain"))
        {
            let [throughput, cpu] = [throughput, cpu].map(|ratio| {
                (relation("copy", ratio(chain, copy)), relation("sendfile", ratio(chain, sendfile)))
            });
            sentences.push(format!(
                "At {} a fetch, chain's throughput is {} and {}; its CPU time a GB is {} and {}.",
                size(fetch_bytes),
                throughput.0,
                throughput.1,
                cpu.0,
                cpu.1
            ));
            sentences.push(counts(&[copy, sendfile, chain]));
        }
    }
    sentences.extend(user_space(report));
    sentences.extend(noise(report));
    sentences.push(pace(report));
    sentences.push(memory(report));
    sentences.join(" ")
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

/// Which paths brought bytes through the server's memory.
fn user_space(report: &Report) -> Option<String> {
    let share = |row: &Row| row.spread(|timed| timed.user_space_share).max;
    let mut through: Vec<&str> =
        report.rows.iter().filter(|row| share(row) > 0.0).map(|row| row.path).collect();
    through.sort_unstable();
    through.dedup();
    Some(match through[..] {
        [] => "No record byte went through the server's memory.".to_owned(),
        _ => format!(
            "Record bytes went through the server's memory with {} only, copied in by a read and out \
             by a send.",
            through.join(" and ")
        ),
    })
}

/// `auto` does what `chain` does for fetches of these sizes: their difference is the noise.
fn noise(report: &Report) -> Option<String> {
    let differences = FETCH_BYTES.iter().filter_map(|fetch_bytes| {
        let ratio =
            throughput(report.row("auto", *fetch_bytes)?, report.row("chain", *fetch_bytes)?);
        Some((ratio.0.median - 1.0).abs())
    });
    let largest = differences.max_by(f64::total_cmp)?;
    Some(format!(
        "auto chooses chain for these sizes, so their difference in throughput, up to {:.0} %, is the \
         noise of this machine.",
        largest * 100.0
    ))
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
    match report.residency {
        Some(found) if found.cached == found.pages => {
            "After every run all pages were still in the page cache.".to_owned()
        }
        Some(found) => format!(
            "Of {} pages {} had left the page cache after some run: read these numbers with care.",
            count(found.pages as f64),
            count((found.pages - found.cached) as f64)
        ),
        None => {
            "The files were read before every run; whether they stayed in the page cache cannot be \
                 seen on this file system."
                .to_owned()
        }
    }
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
            user_space_share: if path == "copy" { 1.0 } else { 0.0 },
            generator_busy: 0.4,
        };
        let counted = Counted { system_calls_per_gb: None, switches_per_gb: 10.0 };
        Row { path, fetch_bytes, counted, timed: gb_per_s.map(timed).to_vec() }
    }

    fn report(chain: [f64; 3]) -> Report {
        let rows = FETCH_BYTES.into_iter().flat_map(|fetch_bytes| {
            [
                row("copy", fetch_bytes, [1.9, 2.0, 2.1]),
                row("sendfile", fetch_bytes, [2.9, 3.0, 3.1]),
                row("chain", fetch_bytes, chain),
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
    fn what_would_spoil_the_numbers_is_told() {
        let text = tell(&report([4.0, 4.2, 4.4]));
        assert!(text.contains("Of 9 pages 1 had left the page cache"), "{text}");
        assert!(text.contains("system calls need perf"), "{text}");
    }
}
