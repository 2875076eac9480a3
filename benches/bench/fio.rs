//! fio, which shows the limit of the disk: files that grow by writes of one size, each followed by
//! fdatasync(2).
//!
//! fio makes the same system calls as a server in `fsync` mode, and nothing else. Its files are not
//! preallocated, because a log's segments are not either.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use penstock_rig::machine::pinned;
use serde_json::Value;

use crate::disk::DiskLimit;
use crate::plan::Plan;

/// The least writes of a job. With fewer it would measure its own start.
const WRITES_MIN: u64 = 16;

/// Checks that fio is installed.
///
/// # Errors
/// fio is not installed.
pub(crate) fn check() -> anyhow::Result<()> {
    let found = Command::new("fio").arg("--version").stdout(Stdio::null()).status();
    found.map(|_| ()).context("fio is not installed; `make bench-produce` would have done it")
}

/// Measures bytes a second of `jobs` files that take about `total_bytes` together, on a disk that
/// may be limited.
///
/// # Errors
/// fio fails.
pub(crate) fn write(
    plan: &Plan,
    limit: Option<&DiskLimit>,
    jobs: u32,
    block_bytes: u64,
    total_bytes: u64,
) -> anyhow::Result<f64> {
    let dir = plan.fresh("fio")?;
    let writes = (total_bytes / u64::from(jobs) / block_bytes).max(WRITES_MIN);
    let mut fio = Command::new("fio");
    fio.args(["--name=commits", "--rw=write", "--ioengine=psync", "--iodepth=1", "--fdatasync=1"]);
    fio.args(["--fallocate=none", "--group_reporting", "--output-format=json"]);
    fio.arg(format!("--directory={}", dir.display()));
    fio.arg(format!("--bs={block_bytes}")).arg(format!("--size={}", writes * block_bytes));
    fio.arg(format!("--numjobs={jobs}"));
    let mut fio = pinned(plan.machine.cores.map(|cores| cores.server), &fio);
    if let Some(limit) = limit {
        fio = limit.around(&fio);
    }
    let ended = fio.stdin(Stdio::null()).output().context("cannot start fio")?;
    let output = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{fio:?} ended with {}: {output}", ended.status);
    fs::remove_dir_all(&dir)?;
    bytes_per_s(&serde_json::from_slice(&ended.stdout)?).context("fio reported no speed")
}

/// The speed in fio's report, with all jobs as one.
fn bytes_per_s(output: &Value) -> Option<f64> {
    output["jobs"][0]["write"]["bw_bytes"].as_f64().filter(|speed| *speed > 0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_speed_is_that_of_all_jobs_and_none_is_not_zero() {
        let output = |speed: u64| json!({ "jobs": [{ "write": { "bw_bytes": speed } }] });
        assert_eq!(bytes_per_s(&output(5_000_000)), Some(5e6));
        assert_eq!(bytes_per_s(&output(0)), None);
        assert_eq!(bytes_per_s(&json!({})), None);
    }
}
