//! `penstock-load cold-hot` as a person runs it. The broker answers from memory. The files beside
//! it are real, and their pages come and go.

use std::path::{Path, PathBuf};

use penstock_wire::ErrorCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::fake_broker::Manner;
use crate::{filled, load, printed, report, run};

/// Partition directories of the topics `load` and `cold`, with segments that begin at 0 and 40.
struct Files {
    dir: TempDir,
}

impl Files {
    /// It is not in the directory for temporary files, which may be in memory.
    fn new() -> Files {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for partition in ["load-0", "load-1", "cold-0", "cold-1"] {
            let partition = dir.path().join(partition);
            std::fs::create_dir(&partition).unwrap();
            for base in [0, 40] {
                std::fs::write(partition.join(format!("{base:020}.log")), vec![7; 1 << 20])
                    .unwrap();
            }
        }
        Files { dir }
    }

    fn path(&self, partition: &str, base: u32) -> PathBuf {
        self.dir.path().join(partition).join(format!("{base:020}.log"))
    }

    fn arg(&self, flag: &str, path: &str) -> String {
        format!("{flag}={}", self.dir.path().join(path).display())
    }
}

const SHORT: [&str; 5] = [
    "--duration=300ms",
    "--warm-up=50ms",
    "--hot-connections=2",
    "--cold-connections=2",
    "--rounds=2",
];

fn phases(report: &Value) -> Vec<(u64, &str)> {
    let phases = report["phases"].as_array().unwrap().iter();
    phases.map(|p| (p["round"].as_u64().unwrap(), p["kind"].as_str().unwrap())).collect()
}

#[test]
fn quiet_and_disturbed_phases_take_turns_and_are_compared() {
    let (broker, files) = (filled(Manner::Honest, 200), Files::new());
    let (hot, cold) = (files.arg("--hot-files", "load-0"), files.arg("--cold-files", "cold-0"));
    let args = [&SHORT[..], &["--cold-topic=cold", "--rate=200", &hot, &cold]].concat();
    let (code, printed, report) = run(&broker, "cold-hot", &args);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(phases(&report), [(1, "quiet"), (1, "disturbed"), (2, "quiet"), (2, "disturbed")]);
    for phase in report["phases"].as_array().unwrap() {
        let due = phase["hot"]["requests"].as_u64().unwrap()
            + phase["hot"]["unsent_requests"].as_u64().unwrap();
        assert_eq!(due, 60, "200/s for 300 ms: {phase}");
        assert_eq!(phase["hot_files"]["before"], phase["hot_files"]["after"]);
        assert_eq!(phase["cold"].is_null(), phase["kind"] == "quiet");
    }
    let disturbed = &report["phases"][1]["cold"];
    assert!(disturbed["bytes_per_s"].as_f64() > Some(0.0) && disturbed["looks"].as_u64() > Some(0));
    assert!(
        disturbed["uncached"].as_f64() > Some(0.0),
        "evicted files are not in memory: {disturbed}"
    );
    assert!(report["ratios"]["p99_us"]["median"].as_f64() > Some(0.0));
    assert!(report["quiet"]["cold_bytes_per_s"].is_null());
    assert!(printed.contains("median ratio"), "{printed}");
}

#[test]
fn cold_readers_keep_to_a_rate_of_their_own() {
    let (broker, files) = (filled(Manner::Honest, 200), Files::new());
    let cold = files.arg("--cold-files", "cold-0");
    let args = [&SHORT[..], &["--cold-topic=cold", "--cold-bytes=1KiB", &cold]].concat();
    let bytes_per_s = |more: &[&str]| {
        let (code, printed, report) = run(&broker, "cold-hot", &[&args[..], more].concat());
        assert_eq!(code, 0, "{printed}");
        report["disturbed"]["cold_bytes_per_s"].as_f64().unwrap()
    };
    let (paced, free) = (bytes_per_s(&["--cold-rate=20"]), bytes_per_s(&[]));
    assert!(paced > 0.0 && paced < free / 4.0, "20 fetches a second: {paced}, closed loop: {free}");
}

#[test]
fn one_topic_is_cut_where_its_cold_files_end() {
    let (broker, files) = (filled(Manner::Honest, 300), Files::new());
    let cold = format!("--cold-files={}", files.path("load-1", 0).display());
    let (code, printed, report) =
        run(&broker, "cold-hot", &[&SHORT[..], &["--verify", &cold]].concat());
    assert_eq!(code, 0, "{printed}");
    assert_eq!(report["phases"][0]["hot"]["verified"], true);
    assert!(report["phases"][0]["rate_kept"].is_null(), "a closed loop has no rate to keep");
    // The last segments of all partitions are cold, too, so there is no hot part.
    let rest = ["load-0", "load-1", "load-2"].map(|partition| files.arg("--cold-files", partition));
    std::fs::create_dir(files.dir.path().join("load-2")).unwrap();
    std::fs::write(files.path("load-2", 0), [7; 100]).unwrap();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (code, printed, _) = run(&broker, "cold-hot", &[&SHORT[..], &rest].concat());
    assert!(code == 1 && printed.contains("no hot records"), "{code} {printed}");
}

#[test]
fn page_and_log_tell_the_two_kinds_of_phases_apart() {
    let (broker, files) = (filled(Manner::Honest, 100), Files::new());
    let cold = files.arg("--cold-files", "cold-0");
    let out = tempfile::tempdir().unwrap();
    let paths = ["html", "hdr"].map(|kind| out.path().join(kind));
    let mut command = load(&broker, "cold-hot", &SHORT);
    command.args(["--cold-topic=cold", &cold]);
    command.arg("--html").arg(&paths[0]).arg("--hdr").arg(&paths[1]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let [html, hdr] = paths.map(|path| std::fs::read_to_string(path).unwrap());
    assert_eq!(html.matches("<polyline").count(), 2);
    assert!(html.contains(">quiet</text>") && html.contains(">disturbed</text>"));
    assert!(hdr.contains("Tag=quiet,") && hdr.contains("Tag=disturbed,"), "{hdr}");
}

#[test]
fn a_broker_that_fails_fails_the_run_and_missing_files_are_named() {
    let (broker, files) = (filled(Manner::HangsUpAfter(60), 100), Files::new());
    let cold = files.arg("--cold-files", "cold-0");
    let args = [&SHORT[..], &["--cold-topic=cold", &cold]].concat();
    let (code, printed, report) = run(&broker, "cold-hot", &args);
    assert!(code == 1 && printed.contains("closed the connection"), "{code} {printed}");
    assert_eq!(
        report["phases"].as_array().map(Vec::len),
        Some(1),
        "the rest is not tried: {report}"
    );

    let broker = filled(Manner::Refuses(ErrorCode::KAFKA_STORAGE_ERROR), 20);
    let (code, printed, _) = run(&broker, "cold-hot", &args);
    assert!(code == 1 && printed.contains("warming"), "{code} {printed}");
    let of_another = files.arg("--cold-files", "load-0");
    for (wrong, expected) in [
        ("--cold-files=/nowhere.log", "cannot open /nowhere.log"),
        (&of_another, "none of the cold files is a segment of topic cold"),
    ] {
        let args = [&SHORT[..], &["--cold-topic=cold", wrong]].concat();
        let (code, printed, _) = run(&broker, "cold-hot", &args);
        assert!(code == 1 && printed.contains(expected), "{code} {printed}");
    }
    assert_eq!(run(&broker, "cold-hot", &SHORT).0, 2, "--cold-files is missing");
}

#[test]
fn a_signal_ends_all_phases_and_what_was_finished_is_reported() {
    let (broker, files) = (filled(Manner::Honest, 100), Files::new());
    let json = files.dir.path().join("json");
    let cold = files.arg("--cold-files", "cold-0");
    let mut command = load(&broker, "cold-hot", &["--cold-topic=cold", &cold, "--duration=10m"]);
    let child = command.arg("--json").arg(&json).spawn().unwrap();
    broker.wait_for_requests(2000);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let report = report(Path::new(&json));
    assert_eq!(phases(&report), [(1, "quiet")]);
    assert_eq!((&report["interrupted"], &report["ratios"]), (&true.into(), &serde_json::json!({})));
}
