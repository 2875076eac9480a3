//! Single operations on io_uring: receive, read, write, sync, accept, poll.
//!
//! Each call has the same three parts: a record of what the kernel owns meanwhile, the request that
//! borrows from it, and the meaning of its one result. An operation that the kernel has no worker
//! for goes to a thread that may block, by the calls of the other backend (shortage.rs). Called by
//! ring.rs and shared.rs.

use std::collections::VecDeque;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use smallvec::smallvec;

use crate::epoll;
use crate::file_range::FileRange;
use crate::operations::Resources;
use crate::ring_config::Then;
use crate::shortage::{self, moved_nothing, never_ran};
use crate::socket::Socket;
use crate::sys::{Advice, Gather, Request, adopt_accepted, extend_received};
use crate::uring::{OnDrop, OnSocket, Operation, Uring};

struct Read {
    file: Arc<File>,
    buffer: BytesMut,
}

struct Write {
    file: Arc<File>,
    bytes: Gather,
}

struct Sync(Arc<File>);

struct Advised(Arc<File>);

struct Accept(Rc<TcpListener>);

impl Resources for Read {}
impl Resources for Write {}
impl Resources for Sync {}
impl Resources for Advised {}

impl Resources for Accept {
    /// Closes a connection that was accepted after its future was dropped.
    fn abandoned(self: Box<Self>, results: &[i32]) {
        if results[0] >= 0 {
            drop(adopt_accepted(results[0]));
        }
    }
}

impl Uring {
    pub(crate) async fn recv(
        self: &Rc<Self>,
        socket: Rc<Socket>,
        buffer: BytesMut,
    ) -> (io::Result<usize>, BytesMut) {
        let mut receive =
            self.on_socket(socket, buffer, |socket, buffer| Request::Receive { socket, buffer });
        let (result, mut buffer) = poll_fn(|context| receive.poll_on_socket(context)).await;
        if let Ok(len_bytes) = result {
            extend_received(&mut buffer, len_bytes);
        }
        (result, buffer)
    }

    /// Reads once, up to `len_bytes`, into the spare capacity of `buffer`.
    pub(crate) async fn read(
        self: &Rc<Self>,
        file: Arc<File>,
        position: u64,
        len_bytes: usize,
        buffer: BytesMut,
    ) -> (io::Result<usize>, BytesMut) {
        let (mut read, results) = self
            .start(Box::new(Read { file, buffer }), OnDrop::LetFinish, |read| {
                let buffer = &mut read.buffer.spare_capacity_mut()[..len_bytes];
                smallvec![Request::Read { file: read.file.as_fd(), position, buffer }]
            })
            .await;
        if moved_nothing(results[0]) {
            self.note_refused(results[0]);
            return epoll::read(read.file, position, len_bytes, read.buffer).await;
        }
        let result = count(results[0]);
        if let Ok(len_bytes) = result {
            extend_received(&mut read.buffer, len_bytes);
        }
        (result, read.buffer)
    }

    /// Writes once, `pieces` one behind the other, or the first [`Gather::PIECES_MAX`] of them, and
    /// returns them. A sync is linked to the write. A short write breaks the chain; the sync then
    /// has no outcome.
    pub(crate) async fn write(
        self: &Rc<Self>,
        file: Arc<File>,
        position: u64,
        pieces: VecDeque<Bytes>,
        then: Then,
    ) -> (io::Result<usize>, Option<io::Result<()>>, VecDeque<Bytes>) {
        if then == Then::SyncData {
            self.give_way();
        }
        let write = Box::new(Write { file, bytes: Gather::new(pieces) });
        let (write, results) = self
            .start(write, OnDrop::LetFinish, |write| {
                let (file, bytes) = (write.file.as_fd(), &write.bytes);
                let mut requests = smallvec![Request::Write { file, position, bytes }];
                if then == Then::SyncData {
                    requests.push(Request::SyncData { file });
                }
                requests
            })
            .await;
        if moved_nothing(results[0]) {
            self.note_refused(results[0]);
            return epoll::write(write.file, position, write.bytes.into_pieces(), then).await;
        }
        let synced = results.get(1).filter(|result| !never_ran(**result));
        let synced = synced.map(|result| count(*result).map(drop));
        (count(results[0]), synced, write.bytes.into_pieces())
    }

    pub(crate) async fn sync_data(self: &Rc<Self>, file: Arc<File>) -> io::Result<()> {
        self.give_way();
        let (sync, results) = self
            .start(Box::new(Sync(file)), OnDrop::LetFinish, |sync| {
                smallvec![Request::SyncData { file: sync.0.as_fd() }]
            })
            .await;
        if never_ran(results[0]) {
            self.note_refused(results[0]);
            return epoll::sync_data(sync.0).await;
        }
        count(results[0]).map(drop)
    }

    /// Advises the page cache about a range, without waiting for the result.
    pub(crate) fn advise(self: &Rc<Self>, range: &FileRange, advice: Advice) {
        let &FileRange { ref file, position, len_bytes } = range;
        drop(self.start(Box::new(Advised(Arc::clone(file))), OnDrop::Detach, |advised| {
            smallvec![Request::Advise { file: advised.0.as_fd(), position, len_bytes, advice }]
        }));
    }

    /// Waits for `events`, POLLERR or POLLHUP, and returns those that came.
    pub(crate) async fn poll(
        self: &Rc<Self>,
        socket: Rc<Socket>,
        events: i16,
    ) -> io::Result<usize> {
        let mut poll = self.begin_poll(socket, events);
        poll_fn(|context| poll.poll_on_socket(context)).await.0
    }

    /// Queues such a poll; [`poll_on_socket`](Operation::poll_on_socket) returns its outcome.
    pub(crate) fn begin_poll(
        self: &Rc<Self>,
        socket: Rc<Socket>,
        events: i16,
    ) -> Operation<OnSocket> {
        let no_buffer = BytesMut::new();
        self.on_socket(socket, no_buffer, |fd, _| Request::Poll { fd, events })
    }

    /// Counts and logs an operation for which the kernel had no worker or no memory.
    fn note_refused(&self, result: i32) {
        self.counters.refused.add(1);
        let error = io::Error::from_raw_os_error(result.wrapping_neg());
        shortage::report(&error, "a kernel worker or memory for an operation");
    }

    /// Starts a request on a socket and the spare capacity of `buffer`.
    fn on_socket(
        self: &Rc<Self>,
        socket: Rc<Socket>,
        buffer: BytesMut,
        request: impl for<'a> FnOnce(BorrowedFd<'a>, &'a mut [MaybeUninit<u8>]) -> Request<'a>,
    ) -> Operation<OnSocket> {
        let mut owned = self.spare.borrow_mut().pop().unwrap_or_default();
        *owned = OnSocket { socket: Some(socket), buffer };
        self.start(owned, OnDrop::Cancel, |OnSocket { socket, buffer }| {
            let socket = socket.as_ref().expect("put there above");
            smallvec![request(socket.as_fd(), buffer.spare_capacity_mut())]
        })
    }

    pub(crate) async fn accept(
        self: &Rc<Self>,
        listener: Rc<TcpListener>,
    ) -> io::Result<TcpStream> {
        let (_, results) = self
            .start(Box::new(Accept(listener)), OnDrop::Cancel, |accept| {
                smallvec![Request::Accept { listener: accept.0.as_fd() }]
            })
            .await;
        count(results[0])?;
        Ok(adopt_accepted(results[0]).into())
    }
}

impl Operation<OnSocket> {
    /// The result, with the buffer.
    pub(crate) fn poll_on_socket(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<(io::Result<usize>, BytesMut)> {
        let (mut owned, results) = ready!(Pin::new(&mut *self).poll(context));
        let OnSocket { buffer, .. } = std::mem::take(&mut *owned);
        self.uring.spare.borrow_mut().push(owned);
        Poll::Ready((count(results[0]), buffer))
    }
}

fn count(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()))
}
