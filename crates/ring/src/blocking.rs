//! Threads for what blocks: a few that are always there, and more while there is work for them.
//!
//! ```text
//!   run(job) ──► queue ──► idle thread, of KEPT_THREADS that never end
//!                   └────► new thread, up to THREADS_MAX; ends after IDLE without work
//!                             └─ the system has none: the job waits for the next thread that is free
//! ```
//!
//! A runtime's own pool ends its last thread after some idle seconds, and panics when the system
//! has none to begin it again. This one belongs to the process: the backend without io_uring uses
//! it, what the kernel has no worker for goes there, and so does what the server must not do on an
//! event loop. A job may wait for another one only while fewer than [`KEPT_THREADS`] jobs do so.

use std::any::Any;
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

/// Threads that are always there. Three would do: the checkpoint, and one change of a topic's
/// configuration at a time, wait for partitions whose writes and rolls may need the third. Beyond
/// that a disk that answers late for one job does not hold all others up.
pub const KEPT_THREADS: usize = 4;

/// Threads at most. A disk that does not answer holds one a job.
const THREADS_MAX: usize = 512;

/// How long a thread beyond those that are kept waits for work.
const IDLE: Duration = Duration::from_secs(10);

/// The process's.
static POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

/// Why a job has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobLost {
    /// It panicked; its thread goes on.
    #[error("a blocking job panicked")]
    Panicked,
    /// There is no thread at all: [`start`] was never called, or refused.
    #[error("there is no thread for a blocking job")]
    NoThread,
}

impl From<JobLost> for io::Error {
    fn from(lost: JobLost) -> io::Error {
        io::Error::other(lost)
    }
}

/// Begins the threads that are always there. Called again, it begins what is missing.
///
/// # Errors
/// The system has no thread for us (EAGAIN), or no memory for its stack.
pub fn start() -> io::Result<()> {
    POOL.start()
}

/// Has `job` run by a thread that may block, soon, and whether or not its outcome is waited for.
///
/// # Errors
/// See [`JobLost`].
pub fn run<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JobLost>> {
    POOL.run(job)
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
    /// Those that wait for work, or were begun or woken and did not look yet.
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
            && let Err(error) = self.begin_thread(&mut state)
        {
            shortage::report(&error, "a thread for what blocks");
            if state.threads == 0 {
                // Whoever waits for them learns that they are gone.
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
        // Jobs run without it, and what it guards is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
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

    /// Waits for work; whether it was too long.
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
