//! Writes the measured parts of docs/BENCHMARKS.md between markers. The prose around them stays.
//!
//! ```text
//! <!-- measured: own -->
//! conditions, tables, pictures          ◀─ written again from bench-out/own.json
//! <!-- end of measured: own -->
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use penstock_rig::spread::Spread;
use penstock_rig::words::{count, size};

use crate::cells::{head, median, range, row};
use crate::plan::Plan;
use crate::results::{
    Comparison, Many, Produced, Recorded, Run, Scan, Scenarios, in_order, spread,
};
use crate::{cold_table, figures, produce_table};

pub(crate) const SECTIONS: [(&str, &str); 4] = [
    ("own", "## The fetch paths (`make bench`)"),
    ("peers", "## Beside Apache Kafka and nginx (`make peers`)"),
    ("produce", "## Producing (`make bench-produce`)"),
    ("scenarios", "## Crowds (`make bench-scenarios`)"),
];

/// Writes the `sections` that have results.
///
/// # Errors
/// Results cannot be read, a marker is missing from the page, or a file cannot be written.
pub(crate) fn write(plan: &Plan, sections: &[&str]) -> anyhow::Result<()> {
    let (file, plots) = (plan.docs.join("BENCHMARKS.md"), plan.docs.join("plots"));
    fs::create_dir_all(&plots)?;
    let mut page = if file.exists() { fs::read_to_string(&file)? } else { skeleton() };
    for name in sections {
        let text = match *name {
            "own" => compared(plan, &plots, name, ["raw", "penstock sendfile"])?,
            "peers" => compared(plan, &plots, name, ["kafka", "kafka"])?,
            "produce" => plan.recorded(name)?.as_ref().map(produced),
            "scenarios" => plan.recorded(name)?.as_ref().map(scenarios),
            other => bail!("unknown section {other}"),
        };
        if let Some(text) = text {
            page = replaced(&page, name, &text)?;
        }
    }
    fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}

/// The section of a comparison, with its pictures. `None`: nothing was measured.
fn compared(
    plan: &Plan,
    plots: &Path,
    name: &str,
    references: References,
) -> anyhow::Result<Option<String>> {
    let Some(recorded) = plan.recorded::<Comparison>(name)? else { return Ok(None) };
    figures::throughput(&recorded, &plots.join(format!("{name}-throughput.svg")))?;
    for disk in recorded.results.disks() {
        figures::latency(&recorded, disk, &plots.join(cold_table::picture(name, disk)))?;
    }
    Ok(Some(comparison(name, references, &recorded)))
}

fn skeleton() -> String {
    let mut page = "# Benchmarks\n\nNumbers between markers are written by `penstock-bench`; the \
                    rest by hand. Ratios are taken within a round, of servers that run at the same \
                    time on the same pages; ranges are the least and the most of all rounds.\n"
        .to_owned();
    for (name, title) in SECTIONS {
        let (begin, end) = markers(name);
        page += &format!("\n{title}\n\n{begin}\nNot measured yet.\n{end}\n");
    }
    page
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- measured: {name} -->"), format!("<!-- end of measured: {name} -->"))
}

fn replaced(page: &str, name: &str, with: &str) -> anyhow::Result<String> {
    let (begin, end) = markers(name);
    let parts =
        page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else { bail!("the page has no {begin} … {end}") };
    Ok(format!("{before}{begin}\n{}\n{end}{after}", with.trim_end()))
}

/// The baseline of hot servers, and that of servers beside a cold scan.
type References<'a> = [&'a str; 2];

fn comparison(name: &str, [hot, cold]: References, recorded: &Recorded<Comparison>) -> String {
    let results = &recorded.results;
    let mut text = conditions(recorded);
    text += &format!(
        "{} runs were discarded because pages left the cache.\n\n### Hot\n\n\
         16 connections, closed loop, all in the page cache before and after.\n\n",
        results.thrown_away
    );
    text += &hot_table(results, hot);
    text += &format!("\n![throughput](plots/{name}-throughput.svg)\n");
    text += "\n### What a fetch costs the kernel\n\n";
    text += &counts_table(results);
    text += &scan_table(results);
    text += &cold_table::words(name, cold, results);
    if !results.memory.is_empty() {
        text +=
            "\n### Memory after all loads\n\n| server | resident MiB | most MiB |\n|---|---|---|\n";
        for memory in &results.memory {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (now, most) = (mib(memory.resident_bytes), mib(memory.most_resident_bytes));
            text += &format!("| {} | {now:.1} | {most:.1} |\n", memory.server);
        }
    }
    text
}

fn conditions<T>(recorded: &Recorded<T>) -> String {
    format!("{}. Took {} s.\n\n", recorded.conditions, recorded.took_s)
}

fn hot_table(results: &Comparison, reference: &str) -> String {
    let mut table = format!(
        "| fetch | server | fetches/s | times {reference} | fetches a CPU-second | times {reference} \
         | CPU s/GB | p50 us | p99 us | generator busy |\n|---|---|---|---|---|---|---|---|---|---|\n"
    );
    let per_cpu_s: fn(&Run) -> f64 = |run| 1.0 / run.server_cpu_s_per_fetch;
    let rate: fn(&Run) -> f64 = |run| run.fetches_per_s;
    for fetch_bytes in results.sizes() {
        for server in results.servers() {
            let of = |of| results.hot(server, fetch_bytes, of);
            let times = |of| results.hot_ratio((server, reference), fetch_bytes, of);
            table += &format!(
                "| {} | {server} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                size(u64::from(fetch_bytes)),
                median(of(rate), count),
                range(times(rate)),
                median(of(per_cpu_s), count),
                range(times(per_cpu_s)),
                median(of(|run| run.server_cpu_s_per_gb), |value| format!("{value:.3}")),
                median(of(|run| run.p50_us), count),
                median(of(|run| run.p99_us), count),
                median(of(|run| run.generator_busy), |value| format!("{value:.2}")),
            );
        }
    }
    table
}

fn counts_table(results: &Comparison) -> String {
    let mut table =
        "| fetch | server | system calls | context switches | ring entries an enter |\n\
                     |---|---|---|---|---|\n"
            .to_owned();
    for counts in &results.counts {
        let number =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        table += &format!(
            "| {} | {} | {} | {:.2} | {} |\n",
            size(u64::from(counts.fetch_bytes)),
            counts.server,
            number(counts.system_calls_per_fetch),
            counts.switches_per_fetch,
            number(counts.ring_entries_per_enter),
        );
    }
    table
}

fn scan_table(results: &Comparison) -> String {
    if results.scans.is_empty() {
        return String::new();
    }
    let mut table = "\n### One reader of old data\n\nOne consumer reads the whole log from the disk, \
                     1 MiB an answer. The log is evicted before each run. *left*: the share of it in \
                     the page cache afterwards.\n\n"
        .to_owned();
    table += &head(&["server", "MB/s", "CPU s/GB", "left, %"]);
    for server in in_order(results.scans.iter().map(|scan| scan.server.as_str())) {
        let of = |of: fn(&Scan) -> f64, digits: usize| {
            let runs = results.scans.iter().filter(|scan| scan.server == server);
            let words = |Spread { median, min, max }| {
                format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
            };
            spread(runs.map(of)).map_or_else(String::new, words)
        };
        table += &row([
            server.to_owned(),
            of(|scan| scan.bytes_per_s / 1e6, 0),
            of(|scan| scan.server_cpu_s_per_gb, 2),
            of(|scan| scan.left_behind * 100.0, 0),
        ]);
    }
    table
}

fn produced(recorded: &Recorded<Produced>) -> String {
    conditions(recorded) + &produce_table::words(&recorded.results)
}

fn scenarios(recorded: &Recorded<Scenarios>) -> String {
    let Scenarios { idle, slow, many } = &recorded.results;
    let mut text = conditions(recorded);
    text += &format!(
        "**Idle.** {} connections, half of them in a long poll: {:.1} KiB of resident memory each, \
         {:.1} % of a core. 100 active ones beside them keep {} of their fetches/s.\n\n",
        count(idle.connections as f64),
        idle.bytes_each / 1024.0,
        idle.cpu_share * 100.0,
        range(of_pairs(&idle.active_pairs)),
    );
    let mib = |bytes: u64| bytes >> 20;
    text += &format!(
        "**Silent and slow.** {} peers that never read and {} that read 1 KiB a second: p99 of 16 \
         good ones is {} times the quiet one; {} threads (quiet {}), {} MiB resident (quiet {}). \
         With a send time-out of {} s, {}.\n\n",
        count(slow.silent as f64),
        slow.slow,
        range(of_pairs(&slow.p99_us_pairs)),
        slow.threads,
        slow.threads_quiet,
        mib(slow.resident_bytes),
        mib(slow.resident_bytes_quiet),
        slow.send_timeout_s,
        slow.silent_dropped_after_s.map_or("they were not dropped".to_owned(), |seconds| {
            format!("the silent ones were dropped after {seconds:.1} s")
        }),
    );
    for Many { path, connections, fetch_bytes, pairs } in many {
        text += &format!(
            "**Many, by {path}.** {} fetches of {} at once: as an unprivileged user {} times root's \
             fetches/s.\n\n",
            count(f64::from(*connections)),
            size(u64::from(*fetch_bytes)),
            range(of_pairs(pairs)),
        );
    }
    text
}

/// The second value of each pair as a share of the first.
fn of_pairs(pairs: &[(f64, f64)]) -> Option<Spread> {
    spread(pairs.iter().map(|(first, second)| second / first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::run;

    #[test]
    fn what_is_measured_is_replaced_and_prose_stays() -> anyhow::Result<()> {
        let page = skeleton().replace("## Crowds", "Why peers differ.\n\n## Crowds");
        let page = replaced(&page, "peers", "first\n")?;
        let page = replaced(&page, "peers", "second\n")?;
        assert!(page.contains("Why peers differ.") && !page.contains("first"));
        assert!(page.contains("<!-- measured: peers -->\nsecond\n<!-- end of measured: peers -->"));
        assert!(replaced("no markers", "peers", "second").is_err());
        Ok(())
    }

    #[test]
    fn the_hot_table_has_ratios_to_the_reference() {
        let hot = vec![run("raw", 0, 100.0), run("auto", 0, 75.0)];
        let table = hot_table(&Comparison { hot, ..Comparison::default() }, "raw");
        let auto = table.lines().find(|line| line.contains("| auto |"));
        assert!(auto.is_some_and(|line| line.contains("| 75 | 0.75 (0.75–0.75) |")), "{table}");
    }
}
