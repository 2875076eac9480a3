//! The kernel's workers (io-wq) of this thread: they give way to it.
//!
//! A chain that waits for a disk runs on a worker, a kernel thread that is as important to the
//! scheduler as the event loop that it shares a core with; a scan keeps several busy. The kernel
//! has no setting for their priority, but they are threads of this process, named after the one
//! that they work for, and any process may lower its own. Called by perform.rs after a cold chain,
//! so that one who serves no cold data pays nothing. Workers that write and sync for this thread
//! cannot be told from them, and give way as well.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::gettid;

/// Where the threads of this process are listed.
const THREADS: &str = "/proc/self/task";

/// How much nicer workers are than the event loop. While that is busy they get about a tenth of the
/// core (sched(7)), all of it while it sleeps.
const NICER: i32 = 10;
const NICEST: i32 = 19;

/// New workers are looked for at most so often. The kernel ends them after 5 idle seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The workers of the thread that made this.
pub(crate) struct Workers {
    name: String,
    looked: Cell<Option<Instant>>,
    known: RefCell<HashSet<i32>>,
}

impl Workers {
    pub(crate) fn of_this_thread() -> Workers {
        Workers {
            name: format!("iou-wrk-{}", gettid().as_raw_nonzero()),
            looked: Cell::new(None),
            known: RefCell::default(),
        }
    }

    /// Lowers the priority of those that have come since the last look.
    pub(crate) fn give_way(&self, now: Instant) {
        let is_early = |looked| now.saturating_duration_since(looked) < LOOK_INTERVAL;
        if self.looked.get().is_some_and(is_early) {
            return;
        }
        self.looked.set(Some(now));
        if let Err(error) = self.look() {
            tracing::debug!(%error, "cannot lower the priority of the kernel's workers");
        }
    }

    fn look(&self) -> io::Result<()> {
        let mut known = self.known.borrow_mut();
        let threads = fs::read_dir(THREADS)?;
        let threads = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let threads: HashSet<i32> = threads.collect();
        let nice = (getpriority_process(Some(gettid()))? + NICER).min(NICEST);
        for &thread in threads.difference(&known) {
            // One that has ended meanwhile has no name any more.
            let name = fs::read_to_string(format!("{THREADS}/{thread}/comm"));
            if name.is_ok_and(|name| name.trim_end() == self.name) {
                setpriority_process(Pid::from_raw(thread), nice)?;
            }
        }
        *known = threads;
        Ok(())
    }
}
