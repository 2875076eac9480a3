//! A bounded pool of pipes, leased to transfers.
//!
//! ```text
//!   idle ──lease──> leased ──give_back (empty)──> idle, or closed if enough are idle
//!                      └─────drop (anything else)──> closed
//! ```
//!
//! A pipe goes back to the pool only when its transfer reports it empty. Every other end closes it,
//! because its bytes belong to one answer. A transfer whose peer does not read *parks* its pipe. At
//! most half of the pool may be parked, and the rest always comes back: leases wait for disks,
//! never for peers. Called by perform.rs. The pool must never touch a pipe with an operation in
//! flight (KERNEL.md row 12), so it reads the size of a pipe at creation only.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::Counters;
use crate::ring_config::{PAGE_BYTES, RingConfig};

/// The pool of one ring.
pub(crate) struct Pipes {
    shared: Rc<Shared>,
}

struct Shared {
    idle: RefCell<Vec<Pipe>>,
    /// One permit for each lease, first come first served. A pipe is made only when none is idle,
    /// so idle and leased pipes together never exceed the permits.
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

/// One pipe, leased to one transfer.
pub(crate) struct Lease {
    /// None once it has been given back.
    pipe: Option<Pipe>,
    parked: bool,
    shared: Rc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Pipes {
    pub(crate) fn new(config: &RingConfig, counters: Arc<Counters>) -> Pipes {
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

    /// Leases an empty pipe, and waits in line when all are leased. Dropping the future leaves the
    /// line.
    ///
    /// # Errors
    /// Those of pipe2(2), when descriptors run out.
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
    /// Makes a pipe. Beyond the user's budget of pipe pages a new pipe has two slots and does not
    /// grow (KERNEL.md, budgets). Hops are smaller then, and no transfer fails.
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
    /// Pages that the pipe can hold, counted as in KERNEL.md row 5.
    pub(crate) fn slots(&self) -> u32 {
        self.pipe().slots
    }

    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.pipe().read.as_fd()
    }

    pub(crate) fn write_end(&self) -> BorrowedFd<'_> {
        self.pipe().write.as_fd()
    }

    /// Tries to keep the pipe while its transfer waits for a peer. False: the transfer must give it
    /// up.
    pub(crate) fn park(&mut self) -> bool {
        if !self.parked && self.shared.parked.get() < self.shared.max_parked {
            self.shared.parked.set(self.shared.parked.get() + 1);
            self.parked = true;
        }
        self.parked
    }

    /// Ends the parking: the peer reads again.
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn pool(max_pipes: usize, idle_pipes: usize) -> (Pipes, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let config = RingConfig { max_pipes, idle_pipes, ..RingConfig::default() };
        (Pipes::new(&config, Arc::clone(&counters)), counters)
    }

    fn lease_now(pipes: &Pipes) -> Option<Lease> {
        match pin!(pipes.lease()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(lease) => Some(lease.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_pipe_given_back_is_leased_again_and_one_dropped_is_closed() {
        let (pipes, counters) = pool(4, 4);
        lease_now(&pipes).unwrap().give_back();
        let again = lease_now(&pipes).unwrap();
        assert_eq!((counters.pipes_open.get(), counters.pipes_leased.get()), (1, 1));
        drop(again);
        assert_eq!((counters.pipes_open.get(), counters.pipes_leased.get()), (0, 0));
    }

    #[test]
    fn no_more_are_idle_than_the_limit_says() {
        let (pipes, counters) = pool(4, 1);
        let leases: Vec<_> = (0..4).map(|_| lease_now(&pipes).unwrap()).collect();
        leases.into_iter().for_each(Lease::give_back);
        assert_eq!(counters.pipes_open.get(), 1);
        drop(pipes);
        assert_eq!(counters.pipes_open.get(), 0);
    }

    #[test]
    fn leases_beyond_the_limit_wait_in_line() {
        let (pipes, counters) = pool(2, 2);
        let (first, second) = (lease_now(&pipes).unwrap(), lease_now(&pipes).unwrap());
        let mut context = Context::from_waker(Waker::noop());
        let (mut third, mut fourth) = (pin!(pipes.lease()), pin!(pipes.lease()));
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert!(fourth.as_mut().poll(&mut context).is_pending());
        first.give_back();
        assert!(fourth.as_mut().poll(&mut context).is_pending(), "the last came first");
        assert!(third.as_mut().poll(&mut context).is_ready());
        drop(second); // even with residue it makes room
        assert!(fourth.as_mut().poll(&mut context).is_ready());
        assert_eq!(counters.pipe_waits.get(), 2);
    }

    #[test]
    fn at_most_half_of_the_pool_is_parked() {
        let (pipes, _) = pool(4, 4);
        let mut leases: Vec<_> = (0..4).map(|_| lease_now(&pipes).unwrap()).collect();
        let parked: Vec<_> = leases.iter_mut().map(Lease::park).collect();
        assert_eq!(parked, [true, true, false, false]);
        leases[0].unpark();
        assert!(leases[2].park());
        drop(leases.remove(1));
        assert!(leases.last_mut().unwrap().park(), "a lease that ended is still parked");
    }
}
