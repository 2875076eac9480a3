//! The section about producing: a table against Apache Kafka, one against fio.
//!
//! Called by `page`. Pure: results in, text out.

use penstock_rig::words::count;

use crate::cells::{head, median, range, row};
use crate::results::{Appending, Produced, Syncing, in_order, paired, spread};

/// The baseline of the servers.
const REFERENCE: &str = "kafka";

/// Both tables.
pub(crate) fn words(results: &Produced) -> String {
    format!(
        "16 producers, records of 1 KiB in batches of 16 KiB, acks=1, one request at a time each. When a \
         run begins, what came before is on the disk.\n\n\
         ### Acknowledged from the page cache\n\n`--durability os` beside Apache Kafka, by turns, \
         with all memory in use, most of it by page cache.\n\n{}\n\
         ### Acknowledged from the disk\n\n`--durability fsync` beside fio on the same file system, by \
         turns: `--rw=write --fdatasync=1 --iodepth=1`, as many bytes, in writes as large as the mean of \
         what one sync of the server carried, one file for each partition. Both begin with new files.\n\n{}{}",
        appending(&results.appending),
        syncing(&results.syncing),
        missing(results.no_slow_disk.as_deref())
    )
}

fn missing(why: Option<&str>) -> String {
    why.map_or(String::new(), |why| format!("\nNothing was measured on a slower disk: {why}.\n"))
}

fn appending(runs: &[Appending]) -> String {
    let times = format!("times {REFERENCE}");
    let names =
        ["partitions", "server", "records/s", "records a CPU-second", &times, "generator busy"];
    let mut table = head(&names);
    for partitions in in_order(runs.iter().map(|run| run.partitions)) {
        let here = || runs.iter().filter(|run| run.partitions == partitions);
        for server in in_order(here().map(|run| run.server.as_str())) {
            let own = || here().filter(|run| run.server == server);
            let figures = here().map(|run| (run.server.as_str(), run.round, run.records_per_cpu_s));
            table += &row([
                partitions.to_string(),
                server.to_owned(),
                median(spread(own().map(|run| run.records_per_s)), count),
                median(spread(own().map(|run| run.records_per_cpu_s)), count),
                range(paired(figures, (server, REFERENCE))),
                median(spread(own().map(|run| run.generator_busy)), |busy| format!("{busy:.2}")),
            ]);
        }
    }
    table
}

fn syncing(pairs: &[Syncing]) -> String {
    let mut table =
        head(&["disk", "partitions", "KiB a sync", "penstock MB/s", "fio MB/s", "times fio"]);
    for (disk, partitions) in in_order(pairs.iter().map(of_row)) {
        let here = || pairs.iter().filter(|pair| of_row(pair) == (disk, partitions));
        let of = |of: fn(&Syncing) -> f64| spread(here().map(of));
        let tenths = |value: f64| format!("{value:.1}");
        table += &row([
            disk.map_or("as it is".to_owned(), |bytes| format!("{} MB/s", bytes / 1_000_000)),
            partitions.to_string(),
            median(of(|pair| pair.commit_bytes as f64 / 1024.0), count),
            median(of(|pair| pair.penstock_bytes_per_s / 1e6), tenths),
            median(of(|pair| pair.fio_bytes_per_s / 1e6), tenths),
            range(of(|pair| pair.penstock_bytes_per_s / pair.fio_bytes_per_s)),
        ]);
    }
    table
}

fn of_row(pair: &Syncing) -> (Option<u64>, u32) {
    (pair.disk_bytes_per_s, pair.partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round_and_partitions_are_apart() {
        let run = |server: &str, partitions, round, records_per_cpu_s| Appending {
            server: server.to_owned(),
            partitions,
            round,
            records_per_s: 1000.0,
            records_per_cpu_s,
            generator_busy: 0.5,
        };
        let table = appending(&[
            run("penstock", 1, 0, 400.0),
            run("kafka", 1, 0, 100.0),
            run("penstock", 16, 0, 300.0),
            run("kafka", 16, 0, 100.0),
            run("penstock", 1, 1, 600.0),
            run("kafka", 1, 1, 300.0),
        ]);
        assert!(
            table.contains("| 1 | penstock | 1\u{a0}000 | 500 | 3.00 (2.00–4.00) |"),
            "{table}"
        );
        assert!(
            table.contains("| 16 | penstock | 1\u{a0}000 | 300 | 3.00 (3.00–3.00) |"),
            "{table}"
        );
    }

    #[test]
    fn a_sync_is_held_against_the_write_of_its_round() {
        let pair = |round, disk_bytes_per_s, penstock_bytes_per_s| Syncing {
            disk_bytes_per_s,
            partitions: 16,
            round,
            commit_bytes: 80 << 10,
            penstock_bytes_per_s,
            fio_bytes_per_s: 50e6,
        };
        let slow = Some(125_000_000);
        let pairs = [pair(0, None, 40e6), pair(1, None, 45e6), pair(0, slow, 50e6)];
        let table = syncing(&pairs);
        assert!(
            table.contains("| as it is | 16 | 80 | 42.5 | 50.0 | 0.85 (0.80–0.90) |"),
            "{table}"
        );
        assert!(
            table.contains("| 125 MB/s | 16 | 80 | 50.0 | 50.0 | 1.00 (1.00–1.00) |"),
            "{table}"
        );
    }
}
