//! The program as a person runs it, against a broker that may lie: its output, its files and its
//! exit codes.

mod cold_hot;
mod fake_broker;
mod tail;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake_broker::{FakeBroker, Manner};
use penstock_batch::{BatchHeader, check_crc};
use penstock_wire::ErrorCode;
use serde_json::Value;

fn load(broker: &FakeBroker, workload: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-load"));
    let address = broker.address.to_string();
    command.args([workload, "--topic", "load", "--bootstrap-server", &address]).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end. Returns the exit code, the output and the JSON report.
fn run(broker: &FakeBroker, workload: &str, more: &[&str]) -> (i32, String, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = load(broker, workload, more).arg("--json").arg(&json).output().unwrap();
    (output.status.code().unwrap(), printed(&output), report(&json))
}

fn printed(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

fn report(json: &Path) -> Value {
    std::fs::read(json).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}

/// A broker with `kib` KiB of batches in three partitions.
fn filled(manner: Manner, kib: u32) -> FakeBroker {
    let broker = FakeBroker::start(manner);
    let total = format!("{kib}KiB");
    let (code, printed, _) = run(
        &broker,
        "produce",
        &[
            "--partitions=3",
            "--connections=4",
            "--batch-bytes=4KiB",
            "--record-bytes=100",
            "--total-bytes",
            &total,
        ],
    );
    assert_eq!(code, 0, "{printed}");
    broker
}

const READ_ALL: [&str; 3] = ["--from=earliest", "--connections=4", "--partition-max-bytes=10000"];

#[test]
fn produce_appends_exactly_the_bytes_asked_for_to_a_topic_it_created() {
    let broker = filled(Manner::Honest, 513);
    let partitions = broker.batches();
    assert_eq!(partitions.len(), 3);
    let bytes: usize = partitions.iter().flatten().map(Vec::len).sum();
    assert_eq!(bytes, 513 << 10);
    assert!(partitions.iter().flatten().all(|batch| check_crc(batch).is_ok()));
}

#[test]
fn everything_that_was_produced_is_fetched_and_found_sound_in_every_codec() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let broker = FakeBroker::start(Manner::Honest);
        let codec_arg = ["--codec", codec, "--total-bytes=300KiB", "--acks=all"];
        let (code, printed, produced) = run(&broker, "produce", &codec_arg);
        assert_eq!(code, 0, "{codec}: {printed}");
        let (code, printed, fetched) = run(&broker, "fetch", &["--from=earliest"]);
        assert_eq!(code, 0, "{codec}: {printed}");
        for figure in ["records", "batches", "bytes"] {
            assert_eq!(produced["result"][figure], fetched["result"][figure], "{codec} {figure}");
        }
        assert_eq!(fetched["result"]["verified"], true);
    }
}

#[test]
fn dropping_records_unseen_counts_the_same_as_verifying_them() {
    for (batch_bytes, answer_bytes) in [("4KiB", "10000"), ("100KiB", "1MiB")] {
        let broker = FakeBroker::start(Manner::Honest);
        let args = ["--batch-bytes", batch_bytes, "--total-bytes=3MiB"];
        assert_eq!(run(&broker, "produce", &args).0, 0);
        let args = ["--from=earliest", "--partition-max-bytes", answer_bytes];
        let (code, _, verified) = run(&broker, "fetch", &args);
        assert_eq!(code, 0);
        let (code, printed, dropped) =
            run(&broker, "fetch", &[&args[..], &["--no-verify"]].concat());
        assert_eq!(code, 0, "{printed}");
        for figure in ["requests", "records", "batches", "bytes"] {
            assert_eq!(verified["result"][figure], dropped["result"][figure], "{figure}");
        }
        assert_eq!(dropped["result"]["verified"], false);
    }
}

#[test]
fn a_flipped_bit_fails_the_run_and_is_named_with_its_batch() {
    let broker = filled(Manner::FlipsABit, 100);
    let (code, printed, report) = run(&broker, "fetch", &READ_ALL);
    assert_eq!(code, 1);
    assert!(printed.contains("verification failed") && printed.contains("CRC-32C"), "{printed}");
    assert!(report["result"]["faults"]["crc_mismatches"].as_u64() > Some(0), "{report}");
    assert_eq!(run(&broker, "fetch", &[&READ_ALL[..], &["--no-verify"]].concat()).0, 0);
}

#[test]
fn a_batch_left_out_fails_the_run_and_the_missing_offset_is_named() {
    let broker = filled(Manner::LeavesBatchesOut, 100);
    let (code, printed, report) = run(&broker, "fetch", &READ_ALL);
    assert_eq!(code, 1);
    let first = BatchHeader::parse(&broker.batches()[0][0]).unwrap();
    // The first gap depends on which reader is faster. Each gap is a whole batch.
    let (before, _) = printed.split_once(" expected, batch").expect("the gap is named");
    let expected = before.rsplit_once("offset ").expect("with the offset that was expected").1;
    let expected: i64 = expected.parse().unwrap();
    assert_eq!(expected % (first.last_offset() + 1), 0, "{printed}");
    assert!(report["result"]["faults"]["gaps"].as_u64() > Some(0), "{report}");
}

#[test]
fn an_error_from_the_broker_fails_the_run_under_kafkas_name_for_it() {
    let broker = filled(Manner::Refuses(ErrorCode::KAFKA_STORAGE_ERROR), 20);
    let (code, printed, report) = run(&broker, "fetch", &["--duration=5s"]);
    assert_eq!(code, 1);
    assert!(printed.contains("KAFKA_STORAGE_ERROR (56)"), "{printed}");
    assert!(report["result"]["error"].is_string());
}

#[test]
fn a_connection_that_breaks_fails_the_run_and_the_report_so_far_is_written() {
    let broker = filled(Manner::HangsUpAfter(7), 100);
    let (code, printed, report) = run(&broker, "fetch", &["--duration=5s", "--warm-up=0"]);
    assert_eq!(code, 1);
    assert!(printed.contains("closed the connection"), "{printed}");
    assert_eq!(report["result"]["requests"], 6);
}

#[test]
fn a_broker_that_holds_records_back_or_never_answers_is_not_waited_for_without_end() {
    let fetch = |manner| run(&filled(manner, 20), "fetch", &["--from=earliest", "--timeout=600ms"]);
    let (code, printed, _) = fetch(Manner::HoldsBack);
    assert!(code == 1 && printed.contains("empty answers at offset 0"), "{code} {printed}");
    let (code, printed, _) = fetch(Manner::KeepsSilent);
    assert!(code == 1 && printed.contains("no answer within 600ms"), "{code} {printed}");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up_on() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_penstock-load"))
        .args(["produce", "--topic=load", "--timeout=100ms", "--bootstrap-server", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("not ready within 100ms: no answer"), "{}", printed(&output));
}

#[test]
fn a_server_that_knows_only_old_versions_is_spoken_to_in_those() {
    let broker = filled(Manner::IsOld, 100);
    for more in [&[][..], &["--no-verify"]] {
        let (code, printed, _) = run(&broker, "fetch", &[&READ_ALL[..], more].concat());
        assert_eq!(code, 0, "{printed}");
    }
}

#[test]
fn without_acknowledgement_produce_waits_for_no_answer() {
    let broker = FakeBroker::start(Manner::Honest);
    let args = ["--acks=0", "--total-bytes=100KiB"];
    let (code, printed, report) = run(&broker, "produce", &args);
    assert_eq!((code, &report["result"]["bytes"]), (0, &Value::from(100 << 10)), "{printed}");
}

#[test]
fn an_interrupted_run_ends_at_once_and_reports_what_it_measured() {
    let broker = filled(Manner::Honest, 100);
    let dir = tempfile::tempdir().unwrap();
    let files = ["json", "html", "hdr"].map(|kind| dir.path().join(kind));
    let mut command = load(&broker, "fetch", &["--duration=10m", "--warm-up=0", "--threads=2"]);
    command.args(["--connections=3", "--from=random"]);
    for file in &files {
        command.arg(format!("--{}", file.file_name().unwrap().display())).arg(file);
    }
    let child = command.spawn().unwrap();
    broker.wait_for_requests(500);
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert!(printed(&output).contains("ended early by a signal"));

    let report = report(&files[0]);
    assert_eq!(report["result"]["interrupted"], true);
    assert!(report["result"]["requests"].as_u64() > Some(0));
    for (file, part) in [(&files[1], "<polyline"), (&files[2], "HIST")] {
        assert!(std::fs::read_to_string(file).unwrap().contains(part));
    }
}

#[test]
fn the_report_names_the_conditions_with_defaults_filled_in() {
    let broker = filled(Manner::Honest, 20);
    let (_, _, report) = run(&broker, "fetch", &["--duration=1s", "--rate=100", "--seed=9"]);
    assert!(report["conditions"]["kernel"].is_string());
    let parameters = &report["parameters"];
    assert_eq!((&parameters["seed"], &parameters["rate"]), (&9.into(), &100.0.into()));
    assert_eq!((&parameters["warm_up_s"], &parameters["duration_s"]), (&0.1.into(), &1.0.into()));
    let result = &report["result"];
    let due = result["requests"].as_u64().unwrap() + result["unsent_requests"].as_u64().unwrap();
    assert_eq!(due, 90, "100/s without the warm-up's 10: {report}");
}

#[test]
fn a_missing_topic_is_a_failure_and_a_missing_flag_misuse() {
    let broker = FakeBroker::start(Manner::Honest);
    let (code, printed, _) = run(&broker, "fetch", &[]);
    assert!(code == 1 && printed.contains("does not exist"), "{code} {printed}");
    let wait = ["--max-wait-ms=2000", "--timeout=2s"];
    for args in [&["--rate=-1"][..], &["--warm-up=9s", "--duration=1s"], &wait, &["--colour"]] {
        assert_eq!(run(&broker, "fetch", args).0, 2, "{args:?}");
    }
}
