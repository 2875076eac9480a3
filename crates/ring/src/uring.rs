//! The io_uring backend: operations as futures, and the driver that submits and reaps for all.
//!
//! ```text
//!  task: start() ── push ──> queue ──┐                    ┌──> Operations ──> wake the future
//!  task: start() ── push ──> queue ──┤  wake   driver:    │
//!  task: drop    ── cancel ─> queue ─┘ ──────> enter once, reap, sleep on the ring's descriptor
//! ```
//!
//! A task that queues an operation wakes the driver. The run queue is first in, first out, so the
//! driver runs after every task that was already awake, and one `io_uring_enter` carries what all
//! of them queued. Called by ring.rs, shared.rs and perform.rs. It must never hold its state
//! borrowed while it wakes or drops.

mod calls;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::counters::Counters;
use crate::error::RingError;
use crate::operations::{Abandoned, Completed, Key, Operations, Resources, Results, UNAWAITED};
use crate::ring_config::RingConfig;
use crate::socket::Socket;
use crate::sys::{Queue, Requests, Watched, watch};

/// One io_uring with its operations in flight.
pub(crate) struct Uring {
    state: RefCell<State>,
    /// The waker of the driver, while it sleeps.
    driver: Cell<Option<Waker>>,
    /// Completions on their way from the queue to the slab. Kept for its allocation.
    reaped: Cell<Vec<(u64, i32)>>,
    /// The boxes of receives and polls that are over, kept for their allocations: at most as many
    /// as were ever in flight at once.
    #[expect(clippy::vec_box, reason = "it is the boxes that are kept")]
    pub(crate) spare: RefCell<Vec<Box<OnSocket>>>,
    /// A sync has been queued since the last submission.
    gives_way: Cell<bool>,
    stopping: Cell<Stopping>,
    /// Notified of every operation that is over, once stopping has begun.
    settled: Notify,
    pub(crate) counters: Arc<Counters>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    /// Operations are still in flight.
    Begun,
    /// No operation is in flight, so the driver ends.
    Done,
}

struct State {
    queue: Queue,
    operations: Operations,
}

/// What becomes of an operation in flight whose future is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDrop {
    /// The kernel is asked to end it, since it may never end by itself (receive, poll, accept).
    Cancel,
    /// It runs on. It ends soon, or when its socket is shut down (KERNEL.md rows 11 and 13).
    LetFinish,
    /// It runs on, and does not count as an orphan: no future was ever going to wait for it.
    Detach,
}

/// What a receive owns; a poll has an empty buffer.
#[derive(Default)]
pub(crate) struct OnSocket {
    pub(crate) socket: Option<Rc<Socket>>,
    pub(crate) buffer: BytesMut,
}

impl Resources for OnSocket {}

impl Uring {
    /// Makes an io_uring with all the workers that it cannot do without.
    pub(crate) fn new(config: &RingConfig, counters: Arc<Counters>) -> Result<Uring, RingError> {
        let mut queue = Queue::new(config)?;
        queue
            .make_workers()
            .map_err(|error| RingError::no_threads("the kernel's workers", &error))?;
        Ok(Uring::on(queue, counters))
    }

    pub(crate) fn on(queue: Queue, counters: Arc<Counters>) -> Uring {
        Uring {
            state: RefCell::new(State { queue, operations: Operations::default() }),
            driver: Cell::new(None),
            reaped: Cell::new(Vec::new()),
            spare: RefCell::default(),
            gives_way: Cell::new(false),
            stopping: Cell::new(Stopping::No),
            settled: Notify::new(),
            counters,
        }
    }

    /// Queues the linked requests that `describe` makes of `resources`. The future returns the
    /// resources with one result for each request.
    pub(crate) fn start<R: Resources>(
        self: &Rc<Self>,
        resources: Box<R>,
        on_drop: OnDrop,
        describe: impl for<'a> FnOnce(&'a mut R) -> Requests<'a>,
    ) -> Operation<R> {
        let State { queue, operations } = &mut *self.state.borrow_mut();
        let key = queue.push(operations, resources, describe);
        self.wake_driver();
        Operation { uring: Rc::clone(self), key: Some(key), on_drop, resources: PhantomData }
    }

    /// Lets the kernel's worker start queued work before this thread goes on. Where both share a
    /// core, the worker would otherwise start only when this thread sleeps, and the disk would
    /// stand still meanwhile.
    pub(crate) fn give_way(&self) {
        self.gives_way.set(true);
    }

    /// Submits and reaps until [`Uring::stop`] is done. No operation completes without it.
    pub(crate) async fn drive(&self) -> io::Result<()> {
        let descriptor = self.state.borrow().queue.descriptor()?;
        let readiness = watch(Rc::new(descriptor), Interest::READABLE)?;
        while self.stopping.get() != Stopping::Done {
            match self.submit() {
                Ok(()) if self.gives_way.take() => std::thread::yield_now(),
                Ok(()) => {}
                Err(error) if is_passing(&error) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
            self.reap();
            poll_fn(|context| self.poll_work(&readiness, context)).await?;
        }
        Ok(())
    }

    /// Waits until the kernel owes nothing and every future has taken its resources, then ends the
    /// driver. The caller has shut down the sockets and dropped or finished the futures.
    pub(crate) async fn stop(&self) {
        self.stopping.set(Stopping::Begun);
        loop {
            let settled = self.settled.notified();
            if self.state.borrow().operations.is_empty() {
                break;
            }
            settled.await;
        }
        self.stopping.set(Stopping::Done);
        self.wake_driver();
    }

    fn submit(&self) -> io::Result<()> {
        let queue = &mut self.state.borrow_mut().queue;
        while queue.wants_enter() {
            let taken = queue.submit()?;
            self.counters.enters.add(1);
            self.counters.submitted.add(taken as u64);
            if queue.has_completions() {
                break; // reap before more: a full completion queue is the only danger
            }
        }
        Ok(())
    }

    fn reap(&self) {
        let mut reaped = self.reaped.take();
        self.state.borrow_mut().queue.reap(&mut reaped);
        self.counters.completions.add(reaped.len() as u64);
        for (user_data, result) in reaped.drain(..) {
            self.complete(user_data, result);
        }
        self.reaped.set(reaped);
    }

    fn complete(&self, user_data: u64, result: i32) {
        if user_data == UNAWAITED {
            return;
        }
        let completed = self.state.borrow_mut().operations.complete(user_data, result);
        match completed {
            Completed::Partly => {}
            Completed::Ready(Some(waker)) => waker.wake(),
            Completed::Ready(None) => {}
            Completed::Released(resources, results) => {
                resources.abandoned(&results);
                self.notify_settled();
            }
            Completed::Stale => {
                self.counters.stale_completions.add(1);
                tracing::warn!(user_data, result, "completion of nothing in flight");
            }
        }
    }

    /// Ready when there is something to submit or reap. The descriptor is edge-triggered, so its
    /// readiness is cleared first and the queue looked at again: nothing that came in between is
    /// missed.
    fn poll_work(&self, readiness: &Watched, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let queue = &mut self.state.borrow_mut().queue;
            if queue.wants_enter()
                || queue.has_completions()
                || self.stopping.get() == Stopping::Done
            {
                return Poll::Ready(Ok(()));
            }
            self.driver.set(Some(context.waker().clone()));
            match readiness.poll_read_ready(context)? {
                Poll::Ready(mut guard) => guard.clear_ready(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn notify_settled(&self) {
        if self.stopping.get() == Stopping::Begun {
            self.settled.notify_waiters();
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let operations = std::mem::take(&mut self.state.get_mut().operations);
        if operations.is_empty() {
            return;
        }
        // The kernel closes a ring in its own time and may write to these buffers until then, so
        // they are leaked. Only a process that ends without `stop` gets here.
        tracing::warn!(operations = operations.len(), "ring dropped with operations in flight");
        std::mem::forget(operations);
    }
}

/// An operation in flight. Dropping it leaves its resources with the kernel.
pub(crate) struct Operation<R> {
    uring: Rc<Uring>,
    /// None once the resources are back.
    key: Option<Key>,
    on_drop: OnDrop,
    resources: PhantomData<fn() -> Box<R>>,
}

impl<R: Resources> Future for Operation<R> {
    type Output = (Box<R>, Results);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("an operation is not polled after it was ready");
        let taken = self.uring.state.borrow_mut().operations.poll_take(key, context.waker());
        let Poll::Ready((resources, results)) = taken else { return Poll::Pending };
        self.key = None;
        self.uring.notify_settled();
        let resources: Box<dyn Any> = resources;
        let resources = resources.downcast().expect("an entry keeps the type it was made with");
        Poll::Ready((resources, results))
    }
}

impl<R> Drop for Operation<R> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let abandoned = self.uring.state.borrow_mut().operations.abandon(key);
        match abandoned {
            Abandoned::Released(resources, results) => {
                resources.abandoned(&results);
                self.uring.notify_settled();
            }
            Abandoned::Orphaned if self.on_drop == OnDrop::Detach => {}
            Abandoned::Orphaned => {
                self.uring.counters.orphans.add(1);
                if self.on_drop == OnDrop::Cancel {
                    self.uring.state.borrow_mut().queue.push_cancel(key);
                    self.uring.wake_driver();
                }
            }
        }
    }
}

/// Whether the kernel is out of memory for now, or needs its completions reaped first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR))
}
