//! A limit of threads for a test's server: a cgroup of its own with the pids controller.
//!
//! RLIMIT_NPROC does not bind root, and these tests run as root. /proc/mounts shows the controller,
//! of either version. A test that cannot have one logs that and ends.
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

/// A cgroup, at first without a limit. Dropping it removes the group.
#[derive(Debug)]
pub struct Pids(PathBuf);

impl Pids {
    /// Makes a group. `None`: the machine cannot, which is logged.
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

    /// Threads of the group now, kernel workers included.
    pub fn count(&self) -> usize {
        let text = std::fs::read_to_string(self.0.join("pids.current")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Limits the group to `threads`.
    pub fn limit(&self, threads: usize) {
        self.set(&threads.to_string()).unwrap();
    }

    /// Limits the group to the threads that it has.
    pub fn limit_to_present(&self) {
        self.limit(self.count());
    }

    /// Lifts the limit.
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

/// The place of groups with the pids controller.
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
