//! A limit of threads for one thread of this process, by a cgroup that has no other in it. Tests
//! only.
//!
//! It needs root and the pids controller of cgroup version 1, which takes single threads.
//! tests/threads.rs of the workspace limits a whole server by either version.

use std::path::PathBuf;

/// The limit of the calling thread. Dropping it lifts the limit and removes the cgroup.
pub(crate) struct ThreadLimit(PathBuf);

impl ThreadLimit {
    /// Limits the calling thread to `threads`, itself included. `None`: the machine cannot do that,
    /// which is logged.
    pub(crate) fn of_this_thread(name: &str, threads: usize) -> Option<ThreadLimit> {
        let group = PathBuf::from("/sys/fs/cgroup/pids")
            .join(format!("penstock-{name}-{}", std::process::id()));
        let made = std::fs::create_dir(&group).and_then(|()| {
            let limit = ThreadLimit(group);
            let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
            std::fs::write(limit.0.join("tasks"), thread)?;
            std::fs::write(limit.0.join("pids.max"), threads.to_string())?;
            Ok(limit)
        });
        made.inspect_err(|error| eprintln!("SKIPPED: it needs root and cgroups: {error}")).ok()
    }

    pub(crate) fn lift(&self) {
        std::fs::write(self.0.join("pids.max"), "max").unwrap();
    }
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("pids.max"), "max");
        let parent = self.0.with_file_name("tasks");
        let tasks = std::fs::read_to_string(self.0.join("tasks")).unwrap_or_default();
        for task in tasks.lines() {
            let _ = std::fs::write(&parent, task);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}
