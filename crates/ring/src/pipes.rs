//! A bounded pool of pipes, leased to transfers.
//!
//! ```text
//!   idle ──lease──> leased ──give_back (empty)──> idle, or closed if enough are idle
//!                      └─────drop (anything else)──> closed
//! ```
//!
//! A pipe goes back only when its transfer says it is empty; every other end closes it, because the
//! bytes in it are somebody's. A transfer whose peer does not read *parks* its pipe. At most half
//! of the pool may be parked, so the rest always finds its way back: leases wait for disks, never
//! for peers. Called by perform.rs. It must never touch a pipe with an operation in flight
//! (KERNEL.md row 12): sizes are asked at creation only.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{PAGE_BYTES, RingConfig};
use crate::counters::Counters;

/// The pool of one ring.
pub(crate) struct Pipes {
    shared: Rc<Shared>,
}

struct Shared {
    idle: RefCell<Vec<Pipe>>,
    /// A permit a lease, first come first served. A pipe is made only when none is idle, so idle
    /// and leased together never exceed the permits.
    permits: Arc<Semaphore>,
    parked: Cell<usize>,
    max_parked: usize,
    max_idle: usize,
    slots_wanted: u32,
    counters: Arc<Counters>,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    slots: u32,
}

/// One pipe in the hands of one transfer.
pub(crate) struct Lease {
    /// None once it was given back.
    pipe: Option<Pipe>,
    parked: bool,
    shared: Rc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Pipes {
    pub(crate) fn new(config: &RingConfig, counters: Arc<Counters>) -> Pipes {
        assert!(
            config.max_pipes >= 2,
            "{} pipes: one may be parked, one must move",
            config.max_pipes
        );
        Pipes {
            shared: Rc::new(Shared {
                idle: RefCell::new(Vec::new()),
                permits: Arc::new(Semaphore::new(config.max_pipes)),
                parked: Cell::new(0),
                max_parked: config.max_pipes / 2,
                max_idle: config.idle_pipes,
                slots_wanted: config.pipe_slots,
                counters,
            }),
        }
    }

    /// An empty pipe; waits in line when all are leased. Dropping the future leaves the line.
    ///
    /// # Errors
    /// Those of pipe2(2): no more descriptors.
    pub(crate) async fn lease(&self) -> io::Result<Lease> {
        let shared = &self.shared;
        let permit = match Arc::clone(&shared.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                shared.counters.pipe_waits.add(1);
                let permit = Arc::clone(&shared.permits).acquire_owned().await;
                permit.expect("the pool's semaphore is never closed")
            }
        };
        let idle = shared.idle.borrow_mut().pop();
        let pipe = match idle {
            Some(pipe) => pipe,
            None => shared.open()?,
        };
        shared.counters.pipes_leased.add(1);
        Ok(Lease { pipe: Some(pipe), parked: false, shared: Rc::clone(shared), _permit: permit })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.counters.pipes_open.sub(self.idle.get_mut().len() as u64);
    }
}

impl Shared {
    /// Beyond the user's budget of pipe pages a new pipe has two slots and will not grow (KERNEL.md,
    /// budgets): hops are smaller then, nothing fails.
    fn open(&self) -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let _ = fcntl_setpipe_size(&write, self.slots_wanted as usize * PAGE_BYTES as usize);
        let slots = fcntl_getpipe_size(&write)? as u64 / PAGE_BYTES;
        self.counters.pipes_open.add(1);
        Ok(Pipe { read, write, slots: slots as u32 })
    }

    fn close(&self, pipe: Pipe) {
        self.counters.pipes_open.sub(1);
        drop(pipe);
    }
}

impl Lease {
    /// Pages the pipe can hold, counted as KERNEL.md row 5 does.
    pub(crate) fn slots(&self) -> u32 {
        self.pipe().slots
    }

    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.pipe().read.as_fd()
    }

    pub(crate) fn write_end(&self) -> BorrowedFd<'_> {
        self.pipe().write.as_fd()
    }

    /// Asks to keep the pipe while its transfer waits for a peer. False: give it up.
    pub(crate) fn park(&mut self) -> bool {
        if !self.parked && self.shared.parked.get() < self.shared.max_parked {
            self.shared.parked.set(self.shared.parked.get() + 1);
            self.parked = true;
        }
        self.parked
    }

    /// The peer reads again.
    pub(crate) fn unpark(&mut self) {
        if self.parked {
            self.shared.parked.set(self.shared.parked.get() - 1);
            self.parked = false;
        }
    }

    /// Returns an empty pipe to the pool.
    pub(crate) fn give_back(mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut idle = self.shared.idle.borrow_mut();
        if idle.len() < self.shared.max_idle {
            idle.push(pipe);
        } else {
            self.shared.close(pipe);
        }
    }

    fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("a lease has its pipe until it ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.unpark();
        self.shared.counters.pipes_leased.sub(1);
        if let Some(pipe) = self.pipe.take() {
            self.shared.close(pipe);
        }
    }
}
