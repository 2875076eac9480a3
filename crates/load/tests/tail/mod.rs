//! `penstock-load tail` as a person runs it, against a broker that may lose or double a batch.

use penstock_wire::ErrorCode;
use serde_json::Value;

use crate::fake_broker::{FakeBroker, Manner};
use crate::{load, printed, report, run};

const SHORT: [&str; 4] = ["--consumers=3", "--rate=100", "--duration=400ms", "--warm-up=0"];

fn count(report: &Value, figure: &str) -> u64 {
    let found = &report["result"][figure];
    found.as_u64().unwrap_or_else(|| panic!("{figure}: {found}"))
}

#[test]
fn every_consumer_gets_every_batch_of_every_partition() {
    let broker = FakeBroker::start(Manner::Honest);
    let args = [&SHORT[..], &["--partitions=2", "--batch-bytes=2000", "--threads=2"]].concat();
    let (code, printed, report) = run(&broker, "tail", &args);
    assert_eq!(code, 0, "{printed}");
    let batches = count(&report, "batches");
    assert_eq!(batches + count(&report, "unsent_batches"), 40, "100/s for 400 ms: {report}");
    assert_eq!(count(&report, "deliveries"), 3 * batches);
    assert_eq!(count(&report, "bytes"), 3 * batches * 2000);
    assert!((1..=3 * batches).contains(&count(&report, "answers")));
    assert_eq!(broker.batches().iter().map(Vec::len).sum::<usize>() as u64, batches);
    assert_eq!(report["parameters"]["duration_s"], 0.4);
    assert!(printed.contains("deliveries/s"), "{printed}");
}

#[test]
fn a_consumer_of_some_partitions_gets_the_batches_of_those() {
    let broker = FakeBroker::start(Manner::Honest);
    let args = [&SHORT[..], &["--partitions=3", "--partitions-per-consumer=1"]].concat();
    let (code, printed, report) = run(&broker, "tail", &args);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(count(&report, "deliveries"), count(&report, "batches"), "one consumer for each");

    let args = [&SHORT[..], &["--partitions-per-consumer=4"]].concat();
    let (code, printed, _) = run(&broker, "tail", &args);
    assert!(code == 1 && printed.contains("has 3 partitions"), "{code} {printed}");
}

#[test]
fn what_was_there_before_the_run_is_not_delivered() {
    let broker = FakeBroker::start(Manner::Honest);
    assert_eq!(run(&broker, "produce", &["--total-bytes=1MiB"]).0, 0);
    let (code, printed, report) = run(&broker, "tail", &SHORT);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(count(&report, "deliveries"), 3 * count(&report, "batches"));
    assert_eq!(count(&report, "foreign_batches"), 0);
}

#[test]
fn a_warm_up_is_produced_and_not_measured() {
    let broker = FakeBroker::start(Manner::Honest);
    let args = ["--consumers=2", "--rate=100", "--duration=400ms", "--warm-up=200ms"];
    let (code, printed, report) = run(&broker, "tail", &args);
    assert_eq!(code, 0, "{printed}");
    let appended = broker.batches()[0].len() as u64;
    let batches = count(&report, "batches");
    assert_eq!(appended + count(&report, "unsent_batches"), 40);
    assert_eq!((batches, count(&report, "deliveries")), (appended - 20, 2 * batches));
}

#[test]
fn a_batch_that_never_comes_or_comes_twice_fails_the_run_for_each_consumer() {
    for (manner, words) in [
        (Manner::LosesABatch, "3 deliveries lost, 0 twice, 0 out of order"),
        (Manner::RepeatsABatch, "0 deliveries lost, 3 twice, 0 out of order"),
    ] {
        for more in [&[][..], &["--no-verify"]] {
            let broker = FakeBroker::start(manner);
            let (code, printed, report) = run(&broker, "tail", &[&SHORT[..], more].concat());
            assert_eq!(code, 1, "{printed}");
            assert!(printed.contains(words) && printed.contains("batch 5 "), "{printed}");
            let gaps = report["result"]["faults"]["gaps"].as_u64();
            assert_eq!(gaps, Some(if more.is_empty() { 3 } else { 0 }), "{report}");
        }
    }
}

#[test]
fn the_last_batch_is_waited_for_no_longer_than_the_timeout() {
    let broker = FakeBroker::start(Manner::LosesABatch);
    // The sixth batch is the last one.
    let args = ["--rate=10", "--duration=600ms", "--timeout=600ms", "--consumers=2"];
    let (code, printed, report) = run(&broker, "tail", &[&args[..], &["--warm-up=0"]].concat());
    assert_eq!((code, count(&report, "deliveries_lost")), (1, 2), "{printed}");
    assert_eq!(count(&report, "deliveries"), 10);
}

#[test]
fn a_flipped_bit_fails_the_run_unless_batches_are_not_checked() {
    let broker = FakeBroker::start(Manner::FlipsABit);
    let (code, printed, _) = run(&broker, "tail", &SHORT);
    assert!(code == 1 && printed.contains("CRC mismatches"), "{code} {printed}");
    let (code, printed, _) = run(&broker, "tail", &[&SHORT[..], &["--no-verify"]].concat());
    assert_eq!(code, 0, "{printed}");
}

#[test]
fn a_broker_that_refuses_hangs_up_or_compresses_ends_the_run_at_once() {
    let long = ["--duration=10m", "--consumers=2", "--threads=2"];
    for (manner, words) in [
        (Manner::Refuses(ErrorCode::KAFKA_STORAGE_ERROR), "KAFKA_STORAGE_ERROR (56)"),
        (Manner::HangsUpAfter(7), "closed the connection"),
        (Manner::Compresses, "partition 0: the batch at offset 0 is compressed"),
    ] {
        let (code, printed, report) = run(&FakeBroker::start(manner), "tail", &long);
        assert!(code == 1 && printed.contains(words), "{code} {printed}");
        assert!(report["result"]["error"].is_string());
    }
}

#[test]
fn a_signal_ends_the_run_and_what_was_delivered_is_reported() {
    let broker = FakeBroker::start(Manner::Honest);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("json");
    let mut command = load(&broker, "tail", &["--duration=10m", "--warm-up=0", "--consumers=2"]);
    let child = command.arg("--json").arg(&json).spawn().unwrap();
    broker.wait_for_requests(2000);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let report = report(&json);
    assert_eq!(report["result"]["interrupted"], true);
    assert_eq!(count(&report, "deliveries_lost"), 0, "what is under way is not lost");
}

#[test]
fn acks_0_needs_no_answers() {
    let broker = FakeBroker::start(Manner::Honest);
    let (code, printed, report) = run(&broker, "tail", &[&SHORT[..], &["--acks=0"]].concat());
    assert_eq!(code, 0, "{printed}");
    assert_eq!(count(&report, "deliveries"), 3 * count(&report, "batches"));
}

#[test]
fn the_distribution_is_written_as_a_page_and_as_a_log() {
    let broker = FakeBroker::start(Manner::Honest);
    let dir = tempfile::tempdir().unwrap();
    let file = |kind: &str| format!("--{kind}={}", dir.path().join(kind).display());
    let (html, hdr) = (file("html"), file("hdr"));
    let args = [&SHORT[..], &[&html, &hdr]].concat();
    assert_eq!(run(&broker, "tail", &args).0, 0);
    for (kind, part) in [("html", "<polyline"), ("hdr", "HIST")] {
        assert!(std::fs::read_to_string(dir.path().join(kind)).unwrap().contains(part));
    }
    for args in [&["--rate=0"][..], &["--record-bytes=8"], &["--timeout=100ms"]] {
        assert_eq!(run(&broker, "tail", args).0, 2, "{args:?}");
    }
}
