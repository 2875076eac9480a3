//! Lowers the priority of this thread's kernel workers (io-wq), so that they give way to it.
//!
//! A chain that waits for a disk runs on a worker. To the scheduler that kernel thread is as
//! important as the event loop that it shares a core with, and a scan keeps several busy. The
//! kernel has no setting for their priority. But they are threads of this process, named after the
//! thread they work for, and any process may lower the priority of its own threads. perform.rs
//! calls this after a cold chain, so a server without cold fetches pays nothing. Workers that write
//! and sync for this thread have the same name and give way as well.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::gettid;

/// The directory of this process's threads.
const THREADS: &str = "/proc/self/task";

/// How much nicer workers are than the event loop. They get about a tenth of the core while it is
/// busy (sched(7)), and all of it while it sleeps.
const NICER: i32 = 10;
const NICEST: i32 = 19;

/// The least time between two looks for new workers. The kernel ends idle ones after 5 seconds.
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

    /// Lowers the priority of workers that have started since the last look.
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
            // A thread that has ended meanwhile has no name.
            let name = fs::read_to_string(format!("{THREADS}/{thread}/comm"));
            if name.is_ok_and(|name| name.trim_end() == self.name) {
                setpriority_process(Pid::from_raw(thread), nice)?;
            }
        }
        *known = threads;
        Ok(())
    }
}
