//! Threads that may block: a few that always exist, and more while there is work for them.
//!
//! ```text
//!   run(job) ──► queue ──► idle thread, of KEPT_THREADS that never end
//!                   └────► new thread, up to THREADS_MAX; ends after IDLE without work
//!                             └─ the system has none, or the caller must not make any:
//!                                the job waits for the next thread that is free
//! ```
//!
//! A thread inherits its maker's nice value and may outlive the job that it was made for. So a
//! thread of low priority makes none ([`make_none_here`]); the next caller does.
//!
//! tokio's own pool ends its last thread after some idle seconds, and panics when the system cannot
//! make another. This pool belongs to the process. It runs the file operations of the backend
//! without io_uring, the operations that the kernel has no worker for, and all that the server must
//! not do on an event loop. A job may wait for another job only while fewer than [`KEPT_THREADS`]
//! jobs do so.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::shortage;

#[cfg(test)]
mod tests;

/// Threads that always exist. Three are needed: the checkpoint, and one change of a topic's
/// configuration at a time, wait for partitions whose writes and rolls may need the third. The
/// fourth keeps a disk that is late for one job from holding up all others.
pub const KEPT_THREADS: usize = 4;

/// The most threads. A disk that does not answer holds one for each job.
const THREADS_MAX: usize = 512;

/// How long a thread beyond [`KEPT_THREADS`] waits for work.
const IDLE: Duration = Duration::from_secs(10);

thread_local! {
    static MAKES_THREADS: Cell<bool> = const { Cell::new(true) };
}

/// The pool of the process.
static POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

/// Why a job has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobLost {
    /// The job panicked. Its thread goes on.
    #[error("a blocking job panicked")]
    Panicked,
    /// There is no thread at all, because [`start`] was never called or failed.
    #[error("there is no thread for a blocking job")]
    NoThread,
}

impl From<JobLost> for io::Error {
    fn from(lost: JobLost) -> io::Error {
        io::Error::other(lost)
    }
}

/// Starts the threads that always exist. A later call starts those that are missing.
///
/// # Errors
/// The system has no thread (EAGAIN), or no memory for its stack.
pub fn start() -> io::Result<()> {
    POOL.start()
}

/// Runs `job` soon on a thread that may block. It runs even if the future is dropped.
///
/// # Errors
/// See [`JobLost`].
pub fn run<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JobLost>> {
    POOL.run(job)
}

/// The calling thread makes no thread of the pool from now on. Its jobs wait for a free one.
pub fn make_none_here() {
    MAKES_THREADS.set(false);
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone, Default)]
struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for work, and those started or woken that have not looked for it yet.
    idle: usize,
}

impl Pool {
    fn start(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        while state.threads < KEPT_THREADS {
            self.begin_thread(&mut state)?;
        }
        Ok(())
    }

    fn run<T: Send + 'static, J: FnOnce() -> T + Send + 'static>(
        &self,
        job: J,
    ) -> impl Future<Output = Result<T, JobLost>> + use<T, J> {
        let (done, outcome) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        self.submit(Box::new(move || drop(done.send(catch_unwind(AssertUnwindSafe(job))))));
        async move {
            match outcome.await {
                Ok(outcome) => outcome.map_err(|_panic| JobLost::Panicked),
                Err(_dropped) => Err(JobLost::NoThread),
            }
        }
    }

    fn submit(&self, job: Job) {
        let mut state = self.0.lock();
        state.queue.push_back(job);
        if state.queue.len() > state.idle
            && state.threads < THREADS_MAX
            && (MAKES_THREADS.get() || state.threads == 0)
            && let Err(error) = self.begin_thread(&mut state)
        {
            shortage::report(&error, "a thread for blocking work");
            if state.threads == 0 {
                // The futures of these jobs end with `NoThread`.
                state.queue.clear();
            }
        }
        drop(state);
        self.0.work.notify_one();
    }

    fn begin_thread(&self, state: &mut State) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("blocking".to_owned());
        thread.spawn(move || shared.work())?;
        state.threads += 1;
        state.idle += 1;
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run without the lock, and its state is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn work(&self) {
        let mut state = self.lock();
        state.idle -= 1;
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            let is_kept = state.threads <= KEPT_THREADS;
            state.idle += 1;
            let is_over;
            (state, is_over) = self.wait(state, is_kept);
            state.idle -= 1;
            if is_over && state.queue.is_empty() && state.threads > KEPT_THREADS {
                state.threads -= 1;
                return;
            }
        }
    }

    /// Waits for work, and returns whether the wait was too long.
    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        is_kept: bool,
    ) -> (MutexGuard<'a, State>, bool) {
        if is_kept {
            return (self.work.wait(state).unwrap_or_else(PoisonError::into_inner), false);
        }
        let waited = self.work.wait_timeout(state, IDLE);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, waited.timed_out())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.0.lock().threads).finish_non_exhaustive()
    }
}
