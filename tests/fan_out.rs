//! Many consumers at the end of a topic: each gets every batch once and in order.
//!
//! `penstock-load tail` is the witness. Its counts are checked, never its times.

use penstock_tests::{Penstock, Start, program};

/// One number of the report, which is one a line.
fn figure(report: &str, name: &str) -> u64 {
    let found = report.lines().find_map(|line| line.trim().strip_prefix(&format!("\"{name}\": ")));
    let found = found.unwrap_or_else(|| panic!("no {name} in {report}"));
    found.trim_end_matches(',').parse().unwrap()
}

/// Runs `tail` for a second. Returns the count of batches and of deliveries.
fn tail(server: &Penstock, topic: &str, more: &[&str]) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = program("penstock-load")
        .args(["tail", "--bootstrap-server", &server.address().to_string(), "--topic", topic])
        .args(["--duration=1s", "--warm-up=0", "--rate=50"])
        .args(more)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let printed = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&printed));
    let report = std::fs::read_to_string(json).unwrap();
    let batches = figure(&report, "batches");
    assert_eq!(batches + figure(&report, "unsent_batches"), 50, "{report}");
    assert!(batches > 0 && figure(&report, "answers") <= figure(&report, "deliveries"));
    (batches, figure(&report, "deliveries"))
}

#[test]
fn every_tailing_consumer_gets_every_batch_once_and_in_order_by_every_path() {
    for path in ["auto", "copy", "sendfile", "chain"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Start::on(dir.path()).with(&["--fetch-path", path]).start().unwrap();
        for consumers in [3, 20] {
            let consumers_arg = format!("--consumers={consumers}");
            let more = [&consumers_arg, "--partitions=2", "--batch-bytes=40KiB"];
            let (batches, deliveries) = tail(&server, "news", &more);
            assert_eq!(deliveries, consumers * batches, "{consumers} consumers by {path}");
        }
        server.stop().unwrap();
    }
}

#[test]
fn consumers_of_some_partitions_get_the_batches_of_those_over_rolls_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let configs = [("segment.bytes", "65536")];
    server.client().unwrap().create_topic("short", 4, &configs).unwrap();
    let more = ["--consumers=20", "--partitions-per-consumer=2", "--batch-bytes=20KiB"];
    let (batches, deliveries) = tail(&server, "short", &more);
    // Each partition has 10 of the 20 consumers.
    assert_eq!(deliveries, 10 * batches);
    server.stop().unwrap();
}

#[test]
fn acknowledged_and_synced_batches_reach_consumers_on_several_threads() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).with(&["--durability", "fsync"]).start().unwrap();
    let more = ["--consumers=20", "--threads=4", "--acks=all", "--batch-bytes=2KiB"];
    let (batches, deliveries) = tail(&server, "synced", &more);
    assert_eq!(deliveries, 20 * batches);
    server.stop().unwrap();
}
