//! A memory limit for a server under test: a cgroup, of version 2 where that counts memory, else of
//! version 1.
//!
//! It needs root. A test that cannot have one logs that and ends.
//!
//! ```text
//!   v2   /sys/fs/cgroup/penstock-test-PID-N/          memory.max               memory.events: oom_kill
//!   v1   /sys/fs/cgroup/memory/penstock-test-PID-N/   memory.limit_in_bytes    memory.oom_control: oom_kill
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

use crate::process::{binary, until};
use crate::rounds::say;
use crate::{Penstock, Start};

/// A cgroup with a memory limit. Dropping it removes the group.
#[derive(Debug)]
pub struct MemoryGroup {
    directory: PathBuf,
    version: &'static Version,
}

#[derive(Debug)]
struct Version {
    /// The parent of the groups.
    root: &'static str,
    /// A file that exists only if this version counts memory.
    mark: &'static str,
    limit: &'static str,
    kills: &'static str,
    usage: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup",
        mark: "memory.max",
        limit: "memory.max",
        kills: "memory.events",
        usage: "memory.current",
    },
    Version {
        root: "/sys/fs/cgroup/memory",
        mark: "memory.limit_in_bytes",
        limit: "memory.limit_in_bytes",
        kills: "memory.oom_control",
        usage: "memory.usage_in_bytes",
    },
];

impl MemoryGroup {
    /// Makes a group. `None`: the machine cannot, which is logged.
    pub fn make(limit_bytes: u64) -> Option<MemoryGroup> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("penstock-test-{}-{number}", std::process::id());
        let made = VERSIONS.iter().find_map(|version| {
            let group = MemoryGroup { directory: Path::new(version.root).join(&name), version };
            std::fs::create_dir(&group.directory).ok()?;
            if !group.directory.join(version.mark).exists() {
                return None;
            }
            group.limit_to(limit_bytes).ok()?;
            Some(group)
        });
        if made.is_none() {
            say("SKIPPED: it needs root and a cgroup that limits memory");
        }
        made
    }

    /// Changes the limit.
    ///
    /// # Errors
    /// More memory than that is in use and cannot be reclaimed.
    pub fn limit_to(&self, limit_bytes: u64) -> std::io::Result<()> {
        std::fs::write(self.directory.join(self.version.limit), limit_bytes.to_string())
    }

    /// Starts a server in the group.
    ///
    /// # Errors
    /// As [`Start::start`].
    pub fn start(&self, start: &Start) -> anyhow::Result<Penstock> {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        command.arg(self.directory.join("cgroup.procs")).arg(binary("penstock"));
        command.args(start.arguments());
        Penstock::start(command)
    }

    /// The count of processes that the kernel has killed for want of memory.
    ///
    /// # Errors
    /// The group cannot be read.
    pub fn kills(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(self.directory.join(self.version.kills))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count.context("no oom_kill")?.trim().parse()?)
    }

    /// Bytes that count against the limit now.
    ///
    /// # Errors
    /// The group cannot be read.
    pub fn used_bytes(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(self.directory.join(self.version.usage))?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that has just ended leaves the group a moment later.
        let _ = until("the group is empty", || Ok(std::fs::remove_dir(&self.directory).ok()));
    }
}
