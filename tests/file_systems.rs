//! The same promises on every file system: cached pages are sent at once, others wait on a kernel
//! worker, and pages that others read are not evicted. They hold also where the page cache cannot
//! be seen in the usual way.
//!
//! The tests make images and mounts of their own. Without root they are skipped.

use std::fs::File;
use std::path::{Path, PathBuf};

use penstock_rig::cache::residency;
use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::rounds::say;
use penstock_tests::volume::{Mount, Volume};
use penstock_tests::{Metrics, Penstock, Start, program};

const TOPIC: &str = "t";
const BATCHES: i64 = 64;
const BATCH_BYTES: usize = 100_000;
const DISK_BYTES: u64 = 512 << 20;

/// A mounted file system. Dropping it unmounts it.
enum Mounted {
    Volume(Volume),
    Mount(Mount),
}

impl Mounted {
    /// Mounts one of the kinds of [`KINDS`] in `dir`.
    fn of(kind: &'static str, dir: &Path) -> Option<Mounted> {
        let point = dir.join("volume");
        match kind {
            "ext4" => Volume::make(dir, DISK_BYTES, "").unwrap().map(Mounted::Volume),
            "overlayfs" => Mount::overlay(&point).unwrap().map(Mounted::Mount),
            "tmpfs" => Mount::tmpfs(&point, DISK_BYTES).unwrap().map(Mounted::Mount),
            _ => Volume::make_as(dir, DISK_BYTES, kind).unwrap().map(Mounted::Volume),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Mounted::Volume(volume) => volume.path(),
            Mounted::Mount(mount) => mount.path(),
        }
    }
}

/// Each kind of file system, and how it shows which pages are in memory.
const KINDS: [(&str, &str); 5] = [
    ("ext4", "cachestat"),
    ("xfs", "cachestat"),
    ("btrfs", "cachestat"),
    ("overlayfs", "mincore"),
    ("tmpfs", "memory"),
];

/// Whether files of the tests lie on a disk and can be evicted, and neither in memory nor on an
/// overlay.
fn has_a_disk(dir: &Path) -> bool {
    const EXT4_XFS_BTRFS: [i64; 3] = [0xef53, 0x5846_5342, 0x9123_683e];
    let kind = rustix::fs::statfs(dir).map_or(0, |found| found.f_type);
    let has_a_disk = EXT4_XFS_BTRFS.contains(&kind);
    if !has_a_disk {
        say("SKIPPED: the directory for temporary files is on no disk");
    }
    has_a_disk
}

fn fill(server: &Penstock) {
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[]).unwrap();
    for _ in 0..BATCHES {
        let answer = client.produce(TOPIC, 0, 1, batch_of(BATCH_BYTES)).unwrap();
        assert!(answer.error_code.is_none(), "{:?}", answer.error_code);
    }
}

/// Reads the whole log, as a consumer does.
fn read_all(server: &Penstock) {
    let mut client = server.client().unwrap();
    let mut offset = 0;
    while offset < BATCHES {
        let fetched = client.fetch(TOPIC, 0, offset).unwrap();
        assert!(fetched.error_code.is_none(), "{:?}", fetched.error_code);
        let records = records_from(&bytes_of(&fetched), offset);
        assert!(records.iter().all(|(_, value)| value.iter().all(|byte| *byte == b'x')));
        offset = records.last().expect("a whole batch").0 + 1;
    }
}

fn sent(metrics: &Metrics, path: &str) -> u64 {
    metrics.value(&format!("penstock_sent_bytes_total{{path=\"{path}\"}}"))
}

#[test]
fn a_file_system_is_named_and_what_is_in_memory_is_sent_at_once_on_each() {
    for (kind, residency) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let Some(mounted) = Mounted::of(kind, dir.path()) else { continue };
        let lines = dir.path().join("lines");
        let server =
            Start::on(&mounted.path().join("data")).start_with_log("info", &lines).unwrap();
        fill(&server);
        read_all(&server);
        let metrics = server.metrics().unwrap();
        let series =
            format!("penstock_data_dir{{file_system=\"{kind}\",residency=\"{residency}\"}}");
        assert_eq!(metrics.value(&series), 1, "{series}");
        assert_eq!(metrics.value("penstock_splice{moves=\"pages\"}"), 1, "{kind}");
        let (inline, chained) = (sent(&metrics, "sendfile"), sent(&metrics, "chain"));
        assert!(inline >= BATCHES as u64 * BATCH_BYTES as u64 && chained == 0, "{kind}: {chained}");
        server.stop().unwrap();
        let lines = std::fs::read_to_string(lines).unwrap();
        let is_told = |line: &&str| line.contains("the data directory: ") && line.contains(kind);
        assert_eq!(lines.lines().filter(is_told).count(), 1, "{kind}: {lines}");
    }
}

/// Evicts a directory's segments from the page cache, dirty pages included.
fn evict(dir: &Path) {
    for log in segments(dir) {
        let file = File::open(&log).unwrap();
        file.sync_data().unwrap();
        // A page in use at this moment (by its disk, or on another core's list of new pages) stays
        // once.
        for _ in 0..1000 {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            if residency(dir).unwrap().unwrap().cached == 0 {
                return;
            }
        }
    }
    let left = residency(dir).unwrap().unwrap();
    assert_eq!(left.cached, 0, "of {} pages", left.pages);
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.join(format!("{TOPIC}-0")).read_dir().unwrap();
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs
}

/// The pages of an overlay lie in the files of its upper directory, whose file system shows them.
struct Overlay {
    dir: tempfile::TempDir,
    mount: Mount,
}

impl Overlay {
    fn make() -> Option<Overlay> {
        let dir = tempfile::tempdir().unwrap();
        if !has_a_disk(dir.path()) {
            return None;
        }
        let mount = Mount::overlay(&dir.path().join("volume")).unwrap()?;
        Some(Overlay { dir, mount })
    }

    fn data(&self) -> PathBuf {
        self.mount.path().join("data")
    }

    fn upper(&self) -> PathBuf {
        self.dir.path().join("volume.upper/data")
    }
}

#[test]
fn what_is_not_in_memory_waits_on_a_kernel_worker_on_an_overlay_too() {
    let Some(overlay) = Overlay::make() else { return };
    let server = Start::on(&overlay.data()).start().unwrap();
    fill(&server);
    // Read-ahead that starts with a batch's header may be done before its records are requested.
    let is_chained = (1..BATCHES).any(|offset| {
        evict(&overlay.upper());
        let fetched = server.client().unwrap().fetch(TOPIC, 0, offset).unwrap();
        assert!(!records_from(&bytes_of(&fetched), offset).is_empty());
        sent(&server.metrics().unwrap(), "chain") > 0
    });
    assert!(is_chained, "what had to come from the disk was sent by the event loop");
}

#[test]
fn neither_the_scrubber_nor_drop_behind_evicts_what_others_read_on_an_overlay() {
    let Some(overlay) = Overlay::make() else { return };
    let start = Start::on(&overlay.data()).set(&[
        ("log.segment.bytes", "1000000"),
        ("fetch.drop.behind", "true"),
        ("scrub.bytes.per.second", "1000000000"),
    ]);
    let server = start.start().unwrap();
    fill(&server);
    server.stop().unwrap();
    let server = start.start().unwrap();
    let is_scrubbed =
        |metrics: &Metrics| metrics.value("penstock_scrubbed_bytes_total") >= 5_000_000;
    server.until_metrics("the sealed segments are scrubbed", is_scrubbed).unwrap();
    read_all(&server);
    read_all(&server);
    let found = residency(&overlay.upper()).unwrap().unwrap();
    assert_eq!(found.cached, found.pages);
    assert_eq!(sent(&server.metrics().unwrap(), "chain"), 0, "nothing was cold");
}

#[test]
fn cold_hot_says_why_it_cannot_run_where_memory_cannot_be_seen() {
    for kind in ["overlayfs", "tmpfs"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(mounted) = Mounted::of(kind, dir.path()) else { continue };
        let server = Start::on(&mounted.path().join("data")).start().unwrap();
        fill(&server);
        let address = server.address().to_string();
        let log = segments(&mounted.path().join("data")).remove(0).display().to_string();
        let output = program("penstock-load")
            .args(["cold-hot", "--bootstrap-server", &address, "--topic", TOPIC])
            .args(["--cold-files", &log])
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{kind}: {words}");
        assert!(words.contains("does not show which pages are in memory"), "{kind}: {words}");
        assert_eq!(sent(&server.metrics().unwrap(), "sendfile"), 0, "nothing was measured");
    }
}
