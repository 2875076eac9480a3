//! A limit of threads for a test's server: a cgroup of its own with the pids controller.
//!
//! RLIMIT_NPROC does not bind root, as whom these tests run. The controller is found by
//! /proc/mounts, of either version; a test that cannot have one says so and is over.
//!
//! ```text
//!   sh: its id into cgroup.procs ──exec──► penstock     pids.max: max, or as many as there are
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::process::until;
use crate::rounds::say;

/// A cgroup without a limit, until one is set; removed when dropped.
#[derive(Debug)]
pub struct Pids(PathBuf);

impl Pids {
    /// Makes one. `None`: this machine cannot, which was said.
    pub fn make() -> Option<Pids> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("penstock-test-{}-{number}", std::process::id());
        let made = hierarchy().and_then(|root| {
            let group = root.join(name);
            std::fs::create_dir(&group)?;
            let group = Pids(group);
            group.set("max")?;
            Ok(group)
        });
        made.inspect_err(|why| {
            say(format_args!(
                "SKIPPED: it needs root and a cgroup with the pids controller: {why}"
            ));
        })
        .ok()
    }

    /// A command that enters the group and becomes `program`.
    pub fn enter<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        command.arg(self.0.join("cgroup.procs")).arg(program).args(arguments);
        command
    }

    /// Threads of it now, kernel workers included.
    pub fn count(&self) -> usize {
        let text = std::fs::read_to_string(self.0.join("pids.current")).unwrap();
        text.trim().parse().unwrap()
    }

    /// No more threads than these.
    pub fn limit(&self, threads: usize) {
        self.set(&threads.to_string()).unwrap();
    }

    /// No more threads than there are.
    pub fn limit_to_present(&self) {
        self.limit(self.count());
    }

    /// As many threads as anyone wants.
    pub fn lift(&self) {
        self.set("max").unwrap();
    }

    fn set(&self, limit: &str) -> std::io::Result<()> {
        std::fs::write(self.0.join("pids.max"), limit)
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // A killed process leaves its kernel workers behind for a moment.
        let removed = until("the cgroup is empty", || Ok(std::fs::remove_dir(&self.0).ok()));
        if let Err(error) = removed {
            say(format_args!("{} is left: {error:#}", self.0.display()));
        }
    }
}

/// Where groups with the pids controller are made.
fn hierarchy() -> std::io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let point = PathBuf::from(point);
        let has = |list: &str, separator: char| list.split(separator).any(|name| name == "pids");
        if kind == "cgroup" && has(options, ',') {
            return Ok(point);
        }
        let controllers = std::fs::read_to_string(point.join("cgroup.controllers"));
        if kind == "cgroup2" && controllers.is_ok_and(|list| has(list.trim(), ' ')) {
            std::fs::write(point.join("cgroup.subtree_control"), "+pids")?;
            return Ok(point);
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}
